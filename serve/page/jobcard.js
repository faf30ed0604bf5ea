/** One job as a card that is updated in place, so that focus and open parts stay as they are. */

import { button, fileName, make, showText } from "./dom.js";
import { ENDED } from "./events.js";
import { counted, duration, grouped, instant, STATES } from "./format.js";
import { PageStrip } from "./pages.js";

const STAGES = { extract: "Read", embed: "Embed", store: "Store", publish: "Publish" };
const RETRYABLE = new Set(["failed", "cancelled", "partially_succeeded"]);
const SEARCHABLE = new Set(["succeeded", "partially_succeeded"]);
const MOST_NAMED = 12;

/**
 * The card of a job. `actions` are `cancel`, `retry`, `remove` and `searchIn`, each called with the job; what they
 * raise is shown on the card.
 */
export class JobCard {
  #actions;
  #strip;
  #gone = false; // its document was deleted

  constructor(job, actions) {
    this.#actions = actions;
    this.#strip = new PageStrip(job.job_id);
    this.#build(job);
    this.update(job);
  }

  /** Show the job; one that is older than what is shown changes nothing. */
  update(job) {
    const before = this.job;
    if (before && Date.parse(job.updated_at) < Date.parse(before.updated_at)) return;
    this.job = job;
    const { progress } = job;
    this.element.dataset.state = job.state;
    showText(this.badge, STATES[job.state] ?? job.state);
    const percent = Math.floor(progress.percent);
    this.bar.setAttribute("aria-valuenow", percent);
    this.bar.setAttribute("aria-valuetext", `${percent} percent, ${STATES[job.state]}`);
    this.fill.style.width = `${progress.percent}%`;
    showText(this.facts, facts(job, this.#gone));
    showText(this.problem, trouble(job));
    for (const [name, item] of Object.entries(this.stages)) {
      const status = job.stages[name]?.status ?? "pending";
      item.dataset.status = status;
      item.title = `${STAGES[name]}: ${status}`;
      item.lastChild.textContent = `: ${status}`;
    }
    this.#offer();
    this.pages.hidden = !progress.pages_total; // not inspected yet, or not to be opened: there are none
    this.#followPages(before);
  }

  /** Whether the job's document is not there any more: then nothing can be done with it. */
  documentDeleted(gone) {
    if (this.#gone === gone) return;
    this.#gone = gone;
    showText(this.facts, facts(this.job, this.#gone));
    this.#offer();
  }

  /** Look at the pages if they are shown. */
  async refreshPages(options) {
    if (!this.pages.open || !this.job.progress.pages_total) return;
    try {
      await this.#strip.refresh(options);
    } catch (error) {
      showText(this.failure, error.message);
    }
  }

  /** The buttons for what can be done now. The keyboard's place stays on the card when its button goes. */
  #offer() {
    const { state, error } = this.job;
    const ended = ENDED.has(state);
    const focused = this.element.contains(document.activeElement) ? document.activeElement : null;
    this.cancel.hidden = ended || state === "cancelling";
    this.retry.hidden = this.#gone || !RETRYABLE.has(state) || error?.retryable === false;
    this.searchIn.hidden = this.#gone || !SEARCHABLE.has(state);
    this.remove.hidden = this.#gone || !ended;
    if (!focused?.hidden) return;
    const next = [this.searchIn, this.cancel, this.retry, this.remove].find((one) => !one.hidden);
    (next ?? this.element).focus({ preventScroll: true });
  }

  #followPages(before) {
    const running = this.job.state === "running";
    if (running && before?.state !== "running" && this.job.progress.pages_total !== 1) this.pages.open = true;
    const ending = ENDED.has(this.job.state) && before !== undefined && !ENDED.has(before.state);
    if (running || ending) void this.refreshPages({ now: ending });
  }

  #build(job) {
    this.badge = make("span", { class: "badge" });
    this.fill = make("div", { class: "fill" });
    this.bar = make("div", { class: "bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" });
    this.bar.setAttribute("aria-label", `Progress of ${job.filename}`);
    this.bar.append(this.fill);
    this.facts = make("p", { class: "facts muted" });
    this.problem = make("p", { class: "problem" });
    this.failure = make("p", { class: "problem", role: "alert", hidden: true });
    this.stages = Object.fromEntries(
      Object.entries(STAGES).map(([name, label]) => [name, make("li", {}, label, make("span", { class: "unseen" }))]),
    );
    this.pages = make("details", { class: "pages" }, make("summary", {}, "Pages"), this.#strip.element);
    this.pages.addEventListener("toggle", () => void this.refreshPages({ now: true }));
    const title = make("h3", {}, fileName(job.filename));
    this.element = make(
      "li",
      { class: "card job", "data-job": job.job_id, tabindex: "-1" },
      make("div", { class: "card-head" }, title, this.badge),
      this.bar,
      make("ol", { class: "stages", "aria-label": "Stages" }, ...Object.values(this.stages)),
      this.facts,
      this.#buttons(job),
      this.failure,
      this.problem,
      this.pages,
    );
  }

  #buttons(job) {
    const act = (name, label, properties = {}) => {
      const told = { "aria-label": `${label}: ${job.filename}`, "data-action": name, ...properties };
      return button(label, () => void this.#act(name), told);
    };
    this.searchIn = act("searchIn", "Search in this");
    this.cancel = act("cancel", "Cancel");
    this.retry = act("retry", "Retry");
    this.remove = act("remove", "Delete", { class: "quiet-danger" });
    return make("div", { class: "actions" }, this.searchIn, this.cancel, this.retry, this.remove);
  }

  async #act(name) {
    showText(this.failure, "");
    try {
      await this.#actions[name](this.job);
    } catch (error) {
      showText(this.failure, error.message);
    }
  }
}

function facts(job, gone) {
  const { pages_total, pages_done, chunks_total, chunks_embedded, pages_per_minute, seconds_left } = job.progress;
  const ended = ENDED.has(job.state);
  const parts = [];
  if (pages_total) {
    parts.push(pages_done < pages_total
      ? `${grouped(pages_done)} of ${counted(pages_total, "page")}`
      : counted(pages_total, "page"));
  }
  if (chunks_total) {
    parts.push(!ended && chunks_embedded && chunks_embedded < chunks_total
      ? `${grouped(chunks_embedded)} of ${counted(chunks_total, "chunk")} embedded`
      : counted(chunks_total, "chunk"));
  }
  if (!ended && pages_per_minute != null) parts.push(`${grouped(Math.round(pages_per_minute))} pages a minute`);
  if (!ended && seconds_left != null) parts.push(`${duration(seconds_left)} left`);
  if (!ended && job.attempts.length > 1) parts.push(`attempt ${job.attempts.length}`);
  if (gone) parts.push("its document was deleted");
  const endedAt = job.attempts.at(-1)?.ended_at ?? job.updated_at; // the record changes when what is left is swept
  parts.push(ended ? `ended ${instant(endedAt)}` : `added ${instant(job.created_at)}`);
  return parts.join(" · ");
}

function trouble(job) {
  const lines = [];
  if (job.error) lines.push(job.error.page_number
    ? `${job.error.message} (page ${job.error.page_number})`
    : job.error.message);
  const failed = job.failed_pages;
  if (failed.length === 1) lines.push(`Page ${failed[0].page_number} could not be read: ${failed[0].message}`);
  if (failed.length > 1) {
    const named = failed.slice(0, MOST_NAMED).map((page) => page.page_number).join(", ");
    const others = failed.length > MOST_NAMED ? ` and ${grouped(failed.length - MOST_NAMED)} more` : "";
    lines.push(`${counted(failed.length, "page")} could not be read: ${named}${others}. Open “Pages” to see why.`);
  }
  return lines.join("\n");
}
