/** The list of documents. */

import { firstOf, json, pathOf } from "./api.js";
import { announce, arrange, button, byId, confirmed, fileName, make, showText } from "./dom.js";
import { counted, instant, size } from "./format.js";

const STEP = 20;
const MOST_SAID = 300; // characters of metadata

/** Ask, then delete a document; resolves to whether it was deleted. Raises `Problem`. */
export async function removeDocument(documentId, filename) {
  const title = make("span", {}, "Delete ", fileName(filename), "?");
  const text = "The document, its text and its place in the search go away for good. A job on it is stopped.";
  if (!(await confirmed(title, text))) return false;
  await json("DELETE", pathOf("documents", documentId));
  announce(`${filename} is deleted`);
  return true;
}

/** The list. `options` are `remove` and `searchIn`, called with document id and file name, and `onConnection`. */
export class DocumentList {
  #cards = new Map(); // by document id
  #count = STEP;
  #options;
  #looks = 0;

  constructor(options) {
    this.#options = options;
    byId("more-documents").addEventListener("click", () => {
      this.#count += STEP;
      void this.refresh();
    });
  }

  /** Look at the list now. */
  async refresh() {
    const look = ++this.#looks;
    try {
      const { items, more } = await firstOf("/v1/documents", "documents", this.#count);
      if (look !== this.#looks) return;
      this.#show(items);
      if (!more && document.activeElement === byId("more-documents")) byId("lists").focus({ preventScroll: true });
      byId("more-documents").hidden = !more;
      this.#options.onConnection(null);
    } catch (error) {
      this.#options.onConnection(error);
    }
  }

  #show(documents) {
    const old = this.#cards;
    this.#cards = new Map();
    for (const found of documents) {
      const card = old.get(found.document_id) ?? this.#card(found);
      card.update(found);
      this.#cards.set(found.document_id, card);
    }
    arrange(byId("documents"), [...this.#cards.values()].map((card) => card.element));
    showText(byId("no-documents"), documents.length ? "" : "No documents yet. What you add shows up here.");
  }

  #card(found) {
    const { document_id: id, filename } = found;
    const facts = make("p", { class: "facts muted" });
    const said = make("p", { class: "said muted", hidden: true });
    const failure = make("p", { class: "problem", role: "alert", hidden: true });
    const searchIn = button("Search in this", () => this.#options.searchIn(id, filename), {
      "aria-label": `Search in this: ${filename}`,
      "data-action": "searchIn",
    });
    const remove = async () => {
      showText(failure, "");
      try {
        await this.#options.remove(id, filename);
      } catch (error) {
        showText(failure, error.message);
      }
    };
    const removing = { class: "quiet-danger", "aria-label": `Delete: ${filename}`, "data-action": "remove" };
    const actions = make("div", { class: "actions" }, searchIn, button("Delete", () => void remove(), removing));
    const head = make("div", { class: "card-head" }, make("h3", {}, fileName(filename)));
    const element = make("li", { class: "card document", "data-document": id }, head, facts, actions, said, failure);
    const update = (now) => {
      searchIn.hidden = now.published_revision === null;
      showText(facts, documentFacts(now));
      showText(said, metadataOf(now));
    };
    return { element, update };
  }
}

/** What its submitter said about it, `name: value`, as far as it fits. */
function metadataOf({ metadata }) {
  const parts = Object.entries(metadata).map(([name, value]) => {
    return `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`;
  });
  const text = parts.join(" · ");
  return text.length > MOST_SAID ? `${text.slice(0, MOST_SAID)}…` : text;
}

function documentFacts(found) {
  const parts = [];
  if (found.page_count !== null) parts.push(counted(found.page_count, "page"));
  if (found.published_revision === null) parts.push("not searchable");
  else parts.push(counted(found.chunk_count, "chunk"));
  parts.push(size(found.size_bytes), `added ${instant(found.created_at)}`);
  return parts.join(" · ");
}
