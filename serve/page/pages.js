/** The pages of a job: one cell a page, or counts where there are too many; failed ones say why. */

import { firstOf, pathOf } from "./api.js";
import { make, showText } from "./dom.js";
import { counted, grouped } from "./format.js";

const MOST_CELLS = 600;
const MOST_PAGES = 100_000;
const PAUSE_MS = 1_000; // between two looks at a running job
const LONG_PAUSE_MS = 30_000; // at one with too many pages for cells: each look reads the state of all
const ROUTES = {
  text: "read from its text layer",
  ocr: "read by OCR",
  blank: "blank, nothing to read",
};

/** What happened to a page, in words. */
export function pageWords(page) {
  if (page.state === "waiting") return `Page ${page.page_number}: waiting`;
  if (page.state === "failed") return `Page ${page.page_number} failed: ${page.message || page.reason || "unknown"}`;
  return `Page ${page.page_number}: ${ROUTES[page.route] ?? "read"}`;
}

/** The strip of a job's pages. `element` goes into the page, `refresh` asks the service. */
export class PageStrip {
  #jobId;
  #cells = new Map(); // by page number
  #askedAt = 0;
  #asking = false;
  #large = false;
  #later = null; // the timer of a look that came too early

  constructor(jobId) {
    this.#jobId = jobId;
    this.counts = make("p", { class: "page-counts muted" });
    this.list = make("ul", { class: "page-cells", "aria-label": "Pages" });
    this.note = make("p", { class: "page-note", "aria-hidden": "true" });
    this.element = make("div", { class: "page-strip" }, this.counts, this.list, this.note);
    for (const event of ["mouseover", "focusin", "click"]) {
      this.list.addEventListener(event, (happened) => this.#explain(happened.target));
    }
  }

  /** Look at the pages again, but not more often than is useful. Raises `Problem`. */
  async refresh({ now = false } = {}) {
    if (document.hidden && !now) return;
    const early = (this.#large ? LONG_PAUSE_MS : PAUSE_MS) - (Date.now() - this.#askedAt);
    clearTimeout(this.#later);
    if (this.#asking || (early > 0 && !now)) {
      const again = () => this.refresh({ now }).catch(() => {}); // the next look says what is wrong
      this.#later = setTimeout(again, this.#asking ? PAUSE_MS : early);
      return;
    }
    this.#asking = true;
    try {
      const { items } = await firstOf(`${pathOf("jobs", this.#jobId)}/pages`, "pages", MOST_PAGES);
      this.#show(items);
    } finally {
      this.#asking = false;
      this.#askedAt = Date.now();
    }
  }

  #show(pages) {
    const failed = pages.filter((page) => page.state === "failed");
    const read = pages.filter((page) => page.state === "read").length;
    const counts = { read, waiting: pages.length - read - failed.length, failed: failed.length };
    const there = Object.entries(counts).filter(([, count]) => count);
    const parts = there.map(([word, count]) => `${grouped(count)} ${word}`);
    this.counts.textContent = pages.length
      ? `${counted(pages.length, "page")}: ${parts.join(", ")}`
      : "Nothing is known about the pages yet.";
    this.#large = pages.length > MOST_CELLS;
    const shown = (this.#large ? failed : pages).slice(0, MOST_CELLS);
    this.list.classList.toggle("numbered", this.#large);
    const numbers = new Set(shown.map((page) => page.page_number));
    for (const [number, cell] of this.#cells) {
      if (!numbers.has(number)) {
        cell.remove();
        this.#cells.delete(number);
      }
    }
    for (const page of shown) this.#showCell(page);
  }

  #showCell(page) {
    const words = pageWords(page);
    const old = this.#cells.get(page.page_number);
    if (old?.dataset.words === words) return;
    const cell = make("li", { class: "cell", "data-page": page.page_number, "data-state": page.state });
    cell.dataset.words = words;
    if (page.route) cell.dataset.route = page.route;
    if (page.state === "failed") {
      const sign = this.#large ? String(page.page_number) : "×";
      cell.append(make("button", { type: "button", "aria-label": words, title: words }, sign));
    } else {
      cell.title = words;
      cell.append(make("span", { class: "unseen" }, words));
    }
    if (old) old.replaceWith(cell);
    else this.list.append(cell);
    this.#cells.set(page.page_number, cell);
  }

  #explain(target) {
    const cell = target.closest("li");
    if (cell) showText(this.note, cell.dataset.words);
  }
}
