/** The search: what to look for, in what, and what was found. */

import { json } from "./api.js";
import { announce, button, byId, fileName, make, marked, showText } from "./dom.js";
import { counted } from "./format.js";

const STEP = 10;
const MOST_HITS = 100;

/** "page 3", "pages 3–4". */
export function pagesOf(hit) {
  return hit.first_page === hit.last_page ? `page ${hit.first_page}` : `pages ${hit.first_page}–${hit.last_page}`;
}

/** The search form and its results. `openHit(hit)` shows a hit. */
export class Search {
  #openHit;
  #scope = null; // {id, filename} of the one document to search in
  #limit = STEP;
  #asked = 0;

  constructor(openHit) {
    this.#openHit = openHit;
    byId("search-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#limit = STEP;
      void this.#search({ focus: true });
    });
    byId("search-form").addEventListener("change", (event) => {
      const shown = !byId("results").hidden;
      if (shown && event.target !== byId("query")) void this.#search();
    });
    byId("more-hits").addEventListener("click", () => {
      this.#limit = Math.min(this.#limit + STEP, MOST_HITS);
      void this.#search();
    });
    byId("close-results").addEventListener("click", () => {
      this.close();
      byId("query").focus();
    });
  }

  /** Search in this document only. */
  within(id, filename) {
    this.#scope = { id, filename };
    const drop = button("×", () => this.#everywhere(), { "aria-label": "Search in all documents", class: "drop" });
    byId("scope").replaceChildren("in ", fileName(filename), drop);
    byId("scope").hidden = false;
    byId("query").focus();
    byId("query").select();
    byId("search-form").scrollIntoView({ block: "center" });
    if (!byId("results").hidden) void this.#search();
  }

  /** A document is gone: nothing of it stays on show. */
  forget(id) {
    if (this.#scope?.id === id) this.#everywhere();
    else if (!byId("results").hidden) void this.#search();
  }

  /** Hide the results. */
  close() {
    this.#asked += 1;
    byId("results").hidden = true;
    byId("search-form").removeAttribute("aria-busy");
    showText(byId("search-problem"), "");
  }

  #everywhere() {
    this.#scope = null;
    byId("scope").hidden = true;
    byId("scope").replaceChildren();
    byId("query").focus();
    if (!byId("results").hidden) void this.#search();
  }

  async #search({ focus = false } = {}) {
    const form = new FormData(byId("search-form"));
    const query = form.get("query").trim();
    if (!query) {
      this.close();
      byId("query").focus();
      return;
    }
    const body = { query, limit: this.#limit, mode: form.get("mode"), group_by_document: form.has("grouped") };
    if (this.#scope) body.document_ids = [this.#scope.id];
    const asked = ++this.#asked;
    byId("search-form").setAttribute("aria-busy", "true");
    try {
      const found = await json("POST", "/v1/search", { body });
      if (asked === this.#asked) this.#show(found, query, focus);
    } catch (error) {
      if (asked === this.#asked) showText(byId("search-problem"), error.message);
    } finally {
      if (asked === this.#asked) byId("search-form").removeAttribute("aria-busy");
    }
  }

  #show(found, query, focus) {
    showText(byId("search-problem"), "");
    const count = found.groups ? found.groups.reduce((sum, group) => sum + group.hits.length, 0) : found.hits.length;
    const title = byId("results-title");
    title.replaceChildren(count ? `${counted(count, "hit")} for “` : "Nothing found for “", fileName(query), "”");
    const list = (hits, named) => make("ol", { class: "hits" }, ...hits.map((hit) => this.#hit(hit, named)));
    const hits = byId("hits");
    if (!count) hits.replaceChildren(make("p", { class: "empty" }, "Try other words, or another way to search."));
    else if (found.groups) hits.replaceChildren(...found.groups.map((group) => groupOf(group, list)));
    else hits.replaceChildren(list(found.hits, true));
    const asMany = (found.groups ?? found.hits).length;
    const more = byId("more-hits");
    const lost = document.activeElement === more;
    more.hidden = asMany < this.#limit || this.#limit >= MOST_HITS;
    byId("results").hidden = false;
    if (lost && more.hidden) title.focus({ preventScroll: true });
    announce(title.textContent);
    if (focus) title.focus({ preventScroll: true });
  }

  #hit(hit, named) {
    const open = button("", () => this.#openHit(hit), { class: "hit-open" });
    if (named) open.append(fileName(hit.filename), ", ");
    open.append(make("span", { class: "hit-pages" }, pagesOf(hit)));
    const head = make(named ? "h4" : "h5", {}, open);
    const score = make("span", { class: "score muted" }, `score ${hit.score.toFixed(3)}`);
    const snippet = hit.snippet ?? { text: hit.text, marks: [] };
    const text = make("p", { class: "snippet", dir: "auto" }, marked(snippet.text, snippet.marks));
    return make("li", { class: "hit" }, make("div", { class: "hit-head" }, head, score), text);
  }
}

function groupOf(group, list) {
  const head = make("h4", {}, fileName(group.filename));
  const score = make("span", { class: "score muted" }, `score ${group.score.toFixed(3)}`);
  const label = { class: "group", role: "group", "aria-label": group.filename };
  return make("div", label, make("div", { class: "hit-head" }, head, score), list(group.hits, false));
}
