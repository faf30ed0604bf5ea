/** The page: puts the parts together. */

import { json } from "./api.js";
import { byId, pause, showText } from "./dom.js";
import { DocumentList, removeDocument } from "./documents.js";
import { grouped, size } from "./format.js";
import { JobList } from "./jobs.js";
import { setUpKey } from "./key.js";
import { Search } from "./search.js";
import { Uploads } from "./uploads.js";
import { Viewer } from "./viewer.js";

const AGAIN_MS = 5_000;
const TABS = ["jobs", "documents"];
const TYPED_IN = "input:not([type=radio], [type=checkbox]), select";

const viewer = new Viewer();
const search = new Search((hit) => void viewer.open(hit));
const shared = { remove, searchIn: (id, filename) => search.within(id, filename), onConnection };
const documents = new DocumentList(shared);
const jobs = new JobList({ ...shared, onEnd: () => void documents.refresh() });
const uploads = new Uploads({ onAccepted: () => void refresh() });

async function remove(id, filename) {
  if (!(await removeDocument(id, filename))) return;
  search.forget(id);
  await refresh();
  if (document.activeElement === document.body) byId("lists").focus({ preventScroll: true });
}

async function refresh() {
  await Promise.all([jobs.refresh(), documents.refresh()]);
}

function onConnection(problem) {
  showText(byId("connection"), problem === null ? "" : `${problem.message} Trying again.`);
  if (problem === null) document.body.classList.toggle("bare", jobs.empty && !byId("no-documents").hidden);
}

function show(tab, { focus = false } = {}) {
  for (const name of TABS) {
    const selected = name === tab;
    byId(`tab-${name}`).setAttribute("aria-selected", String(selected));
    byId(`tab-${name}`).tabIndex = selected ? 0 : -1;
    byId(`panel-${name}`).hidden = !selected;
    if (selected && focus) byId(`tab-${name}`).focus();
  }
  byId("filter-label").hidden = tab !== "jobs";
  void (tab === "jobs" ? jobs : documents).refresh();
}

function setUpTabs() {
  for (const [index, name] of TABS.entries()) {
    byId(`tab-${name}`).addEventListener("click", () => show(name));
    byId(`tab-${name}`).addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      event.preventDefault();
      show(TABS[1 - index], { focus: true });
    });
  }
}

function setUpKeys() {
  addEventListener("keydown", (event) => {
    const typing = event.target instanceof Element && event.target.closest(TYPED_IN);
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || typing) return;
    if (document.querySelector("dialog[open]")) return;
    event.preventDefault();
    byId("query").focus();
    byId("query").select();
  });
}

async function greet() {
  for (;;) {
    try {
      const service = await json("GET", "/v1/service");
      const tenant = service.tenant && service.tenant !== "default" ? `${service.tenant} · ` : "";
      byId("service").textContent = `${tenant}version ${service.version}`;
      const most = `${size(service.max_upload_bytes)} and ${grouped(service.max_pages)} pages`;
      byId("limits").textContent = ` Up to ${most} each.`;
      uploads.limit(service.max_upload_bytes);
      return;
    } catch (error) {
      onConnection(error);
      await pause(AGAIN_MS);
    }
  }
}

setUpKey();
setUpTabs();
setUpKeys();
await greet();
void documents.refresh();
await jobs.run();
