/** A hit on its page: the page's image with boxes over the matched text, and the text. */

import { json, pathOf, request } from "./api.js";
import { byId, fileName, make, marked } from "./dom.js";

const NOT_KEPT = "urn:fanfold:source-not-kept";
const ELLIPSES = /^[\s…]+|[\s…]+$/g;

/** The dialog that shows hits. */
export class Viewer {
  #hit = null;
  #page = 1;
  #image = null; // the blob URL on show
  #loading = new AbortController();

  constructor() {
    const dialog = byId("viewer");
    byId("viewer-previous").addEventListener("click", () => void this.#turn(-1));
    byId("viewer-next").addEventListener("click", () => void this.#turn(1));
    byId("viewer-close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") void this.#turn(-1);
      if (event.key === "ArrowRight") void this.#turn(1);
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // the backdrop
    });
    dialog.addEventListener("close", () => this.#forget());
  }

  /** Show the hit's first page. */
  async open(hit) {
    this.#hit = hit;
    this.#page = hit.first_page;
    byId("viewer-title").replaceChildren(fileName(hit.filename));
    byId("viewer-text").replaceChildren(wholeText(hit));
    byId("viewer").showModal();
    byId("viewer-close").focus();
    byId("viewer").scrollTop = 0;
    await this.#show();
  }

  async #turn(by) {
    const page = this.#page + by;
    if (!this.#hit || page < this.#hit.first_page || page > this.#hit.last_page) return;
    this.#page = page;
    await this.#show();
  }

  async #show() {
    const { document_id: id, chunk_id, filename, first_page, last_page } = this.#hit;
    this.#release();
    const { signal } = this.#loading;
    this.#showPlace(first_page, last_page);
    const sheet = byId("viewer-sheet");
    sheet.replaceChildren(make("p", { class: "sheet-note muted", role: "status" }, "Loading the page…"));
    const path = `${pathOf("documents", id)}/pages/${this.#page}`;
    const finding = json("GET", `${path}/marks`, { parameters: { chunk_id }, signal }).catch(withoutMarks);
    try {
      const blob = await request(`${path}/image`, { signal }).then((answer) => answer.blob());
      if (signal.aborted) return;
      this.#image = URL.createObjectURL(blob);
      const image = make("img", { alt: `Page ${this.#page} of ${filename}` });
      image.src = this.#image;
      await image.decode().catch(() => {}); // a broken image shows its alternative text
      if (signal.aborted) return;
      const paper = make("div", { class: "paper", "aria-busy": "true" }, image);
      const note = make("p", { class: "sheet-note muted", role: "status" }, "Finding the text on this page…");
      sheet.replaceChildren(note, paper);
      const boxes = (await finding).marks.map(boxOf);
      if (signal.aborted) return;
      note.remove();
      paper.append(...boxes);
      paper.removeAttribute("aria-busy");
      boxes[0]?.scrollIntoView({ block: "center" });
    } catch (error) {
      if (signal.aborted) return;
      sheet.replaceChildren(make("p", { class: "sheet-note", role: "status" }, ...whyNoImage(error)));
    }
  }

  #showPlace(first, last) {
    const within = last > first ? `, one of pages ${first}–${last} that this hit spans` : "";
    byId("viewer-place").textContent = `Page ${this.#page}${within}`;
    const focused = document.activeElement;
    byId("viewer-previous").disabled = this.#page <= first;
    byId("viewer-next").disabled = this.#page >= last;
    if (focused?.disabled) byId(focused.id === "viewer-next" ? "viewer-previous" : "viewer-next").focus();
    byId("viewer-previous").hidden = byId("viewer-next").hidden = first === last;
  }

  #release() {
    this.#loading.abort();
    this.#loading = new AbortController();
    if (this.#image) URL.revokeObjectURL(this.#image);
    this.#image = null;
  }

  #forget() {
    this.#release();
    this.#hit = null;
    byId("viewer-sheet").replaceChildren();
    byId("viewer-text").replaceChildren();
  }
}

function withoutMarks() {
  return { marks: [] }; // the image is worth showing without them
}

function boxOf({ x, y, width, height }) {
  const box = make("div", { class: "box", "aria-hidden": "true" });
  box.style.left = `${100 * x}%`;
  box.style.top = `${100 * y}%`;
  box.style.width = `${100 * width}%`;
  box.style.height = `${100 * height}%`;
  return box;
}

function whyNoImage(error) {
  if (error.type !== NOT_KEPT) return [error.message];
  return [
    "There is no image of this page: this service does not keep files after their ingestion. Started with ",
    make("code", {}, "FANFOLD_KEEP_SOURCE=true"),
    ", it does.",
  ];
}

/** The chunk's text with the snippet's marks, where the snippet is found in it. */
function wholeText(hit) {
  const { text, marks } = hit.snippet ?? { text: "", marks: [] };
  const core = text.replace(ELLIPSES, "");
  const place = core ? placesOf(core, hit.text) : null;
  if (!place) return marked(hit.text, []);
  const first = text.indexOf(core);
  return marked(hit.text, marks.map(({ start, end }) => ({ start: place(start - first), end: place(end - first) })));
}

/** Where in `text` each place of `core` lies, whose every space stands for any white space; null if it is not there. */
function placesOf(core, text) {
  const words = core.split(" ").map((word) => word.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"));
  const found = new RegExp(words.join("\\s+")).exec(text);
  if (!found) return null;
  const places = [];
  let at = found.index;
  for (const character of core.split("")) {
    places.push(at);
    at += 1;
    while (character === " " && /\s/.test(text[at])) at += 1;
  }
  places.push(at);
  return (place) => places[Math.max(0, Math.min(place, core.length))];
}
