/** The list of jobs: filter, paging, and what keeps it live. One stream, the rest by looking at the list. */

import { firstOf, json, pathOf } from "./api.js";
import { announce, arrange, byId, pause, showText } from "./dom.js";
import { ENDED, follow } from "./events.js";
import { STATES } from "./format.js";
import { JobCard } from "./jobcard.js";

const STEP = 20; // jobs that "show more" adds
const MOST_STREAMS = 1; // of the six connections to a host that all tabs of a browser share over HTTP/1.1
const BUSY_MS = 3_000; // between two looks while something is running
const IDLE_MS = 12_000;

/**
 * The list. `options.remove(documentId, filename)` and `options.searchIn(documentId, filename)` act on a document;
 * `options.onEnd()` hears of each end, `options.onConnection(problem or null)` of each look at the service.
 */
export class JobList {
  #cards = new Map(); // by job id, in the list's order
  #streams = new Map(); // job id -> AbortController
  #states = new Map(); // job id -> the state last announced
  #count = STEP;
  #options;
  #wake = new AbortController();
  #looks = 0;

  constructor(options) {
    this.#options = options;
    byId("state-filter").addEventListener("change", () => {
      this.#count = STEP;
      void this.refresh();
    });
    byId("more-jobs").addEventListener("click", () => {
      this.#count += STEP;
      void this.refresh();
    });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) for (const controller of this.#streams.values()) controller.abort();
      this.#wake.abort();
    });
  }

  /** Whether no job is listed though every state is shown. */
  get empty() {
    return this.#cards.size === 0 && byId("state-filter").value === "";
  }

  /** Look at the list again and again, for ever. */
  async run() {
    for (;;) {
      if (!document.hidden) await this.refresh();
      const busy = [...this.#cards.values()].some((card) => !ENDED.has(card.job.state));
      this.#wake = new AbortController();
      await pause(busy ? BUSY_MS : IDLE_MS, this.#wake.signal);
    }
  }

  /** Look at the list now. */
  async refresh() {
    const look = ++this.#looks;
    const state = byId("state-filter").value;
    try {
      const { items, more, answers } = await firstOf("/v1/jobs", "jobs", this.#count, { state });
      if (look !== this.#looks) return; // a later look knows better
      this.#show(items, new Set(answers.flatMap((answer) => answer.deleted_documents)));
      if (!more && document.activeElement === byId("more-jobs")) byId("lists").focus({ preventScroll: true });
      byId("more-jobs").hidden = !more;
      this.#options.onConnection(null);
    } catch (error) {
      this.#options.onConnection(error);
    }
  }

  #show(jobs, deleted) {
    const old = this.#cards;
    this.#cards = new Map();
    for (const job of jobs) {
      const card = old.get(job.job_id) ?? new JobCard(job, this.#actions());
      card.update(job);
      card.documentDeleted(deleted.has(job.document_id));
      this.#cards.set(job.job_id, card);
      this.#tell(card.job);
    }
    arrange(byId("jobs"), [...this.#cards.values()].map((card) => card.element));
    const filter = byId("state-filter").value;
    const none = filter ? `No job is ${STATES[filter]}.` : "No jobs yet. Add a PDF and watch it being read.";
    showText(byId("no-jobs"), jobs.length ? "" : none);
    for (const jobId of this.#states.keys()) if (!this.#cards.has(jobId)) this.#states.delete(jobId);
    if (!document.hidden) this.#followSome();
  }

  #followSome() {
    for (const [jobId, controller] of this.#streams) if (!this.#cards.has(jobId)) controller.abort();
    const active = [...this.#cards.values()].filter((card) => !ENDED.has(card.job.state));
    const running = active.filter((card) => card.job.state !== "queued");
    for (const card of [...running, ...active]) {
      if (this.#streams.size >= MOST_STREAMS) return;
      if (!this.#streams.has(card.job.job_id)) void this.#follow(card);
    }
  }

  async #follow(card) {
    const jobId = card.job.job_id;
    const controller = new AbortController();
    this.#streams.set(jobId, controller);
    const update = (job) => {
      card.update(job);
      this.#tell(card.job);
    };
    await follow(jobId, update, controller.signal);
    this.#streams.delete(jobId);
    if (!controller.signal.aborted) this.#wake.abort();
  }

  #tell(job) {
    const before = this.#states.get(job.job_id);
    this.#states.set(job.job_id, job.state);
    if (before === undefined || before === job.state) return;
    announce(`${job.filename}: ${STATES[job.state]}`);
    if (ENDED.has(job.state)) this.#options.onEnd();
  }

  #actions() {
    return {
      cancel: async (job) => {
        const answer = await json("POST", `${pathOf("jobs", job.job_id)}/cancel`);
        this.#cards.get(job.job_id)?.update(answer);
        this.#tell(answer);
      },
      retry: async (job) => {
        await json("POST", `${pathOf("jobs", job.job_id)}/retry`);
        announce(`${job.filename}: a new job goes on where this one ended`);
        await this.refresh();
      },
      remove: (job) => this.#options.remove(job.document_id, job.filename),
      searchIn: (job) => this.#options.searchIn(job.document_id, job.filename),
    };
  }
}
