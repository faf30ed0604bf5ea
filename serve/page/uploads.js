/** Adding files: choosing, dropping anywhere, sending a few at a time, and saying how it went. */

import { Problem, upload } from "./api.js";
import { announce, button, byId, fileName, make, pause, showText } from "./dom.js";
import { size } from "./format.js";

const AT_ONCE = 2;
const FULL_PAUSE_S = 10; // where the service does not say when to come back
const DONE_MS = 1_000; // how long "accepted" is shown

/** The uploads. `options.onAccepted()` hears of each file that the service has taken. */
export class Uploads {
  #options;
  #waiting = [];
  #sending = 0;
  #most = Infinity;

  constructor(options) {
    this.#options = options;
    const input = byId("files");
    byId("choose").addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      this.add(input.files);
      input.value = "";
    });
    this.#acceptDrops();
  }

  /** The largest file that the service takes, in bytes. */
  limit(bytes) {
    this.#most = bytes;
  }

  /** Send these files, in their order. */
  add(files) {
    for (const file of files) {
      const row = new Row(file);
      byId("uploads").append(row.element);
      byId("uploads").hidden = false;
      if (file.size > this.#most) {
        row.fail(`This file is ${size(file.size)} large; the service takes up to ${size(this.#most)}.`);
      } else {
        this.#waiting.push(row);
      }
    }
    this.#start();
  }

  #start() {
    this.#waiting = this.#waiting.filter((row) => !row.dismissed);
    while (this.#sending < AT_ONCE && this.#waiting.length) void this.#send(this.#waiting.shift());
  }

  async #send(row) {
    this.#sending += 1;
    try {
      await row.check();
      const answer = await this.#patiently(row);
      row.succeed(answer.created);
      this.#options.onAccepted();
    } catch (error) {
      if (!row.dismissed) row.fail(error.message);
    } finally {
      this.#sending -= 1;
      this.#start();
    }
  }

  async #patiently(row) {
    for (;;) {
      try {
        row.progress(0);
        return await upload(row.file, (part) => row.progress(part), row.signal);
      } catch (error) {
        if (!(error instanceof Problem) || error.status !== 503) throw error;
        for (let left = Math.ceil(error.retryAfter ?? FULL_PAUSE_S); left > 0; left -= 1) {
          row.say(`${error.message} Trying again in ${left} s.`);
          await pause(1_000);
          if (row.dismissed) throw error;
        }
      }
    }
  }

  #acceptDrops() {
    const veil = byId("drop-here");
    let depth = 0; // of the elements that a drag has entered
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files") && !document.querySelector("dialog[open]");
    const show = (by) => {
      depth = Math.max(0, depth + by);
      veil.hidden = depth === 0;
    };
    addEventListener("dragenter", (event) => hasFiles(event) && show(1));
    addEventListener("dragleave", (event) => hasFiles(event) && show(-1));
    addEventListener("dragover", (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault());
    addEventListener("drop", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault(); // or the browser would leave the page and open the file
      show(-depth);
      if (hasFiles(event)) this.add(event.dataTransfer.files);
    });
  }
}

class Row {
  #controller = new AbortController();

  constructor(file) {
    this.file = file;
    this.words = make("p", { class: "upload-words muted" }, "waiting");
    this.fill = make("div", { class: "fill" });
    this.bar = make("div", { class: "bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" });
    this.bar.setAttribute("aria-label", `Upload of ${file.name}`);
    this.bar.append(this.fill);
    this.dismiss = button("Stop", () => this.remove(), { class: "quiet" });
    this.dismiss.setAttribute("aria-label", `Stop: ${file.name}`);
    const name = make("p", { class: "upload-name" }, fileName(file.name));
    this.element = make("li", { class: "upload" }, name, this.words, this.dismiss, this.bar);
  }

  /** Whether somebody has stopped or dismissed it. */
  get dismissed() {
    return this.signal.aborted;
  }

  /** Aborted when it is stopped. */
  get signal() {
    return this.#controller.signal;
  }

  /** Raise what keeps the file from being sent: browsers tell it apart from a broken connection only here. */
  async check() {
    try {
      await this.file.slice(0, 1).arrayBuffer();
    } catch {
      throw new Error("This cannot be read as a file. Is it a folder, or was it moved or changed?");
    }
  }

  progress(part) {
    const percent = Math.floor(100 * part);
    this.bar.hidden = false;
    this.bar.setAttribute("aria-valuenow", percent);
    this.fill.style.width = `${percent}%`;
    this.say(part < 1 ? `sending, ${percent}% of ${size(this.file.size)}` : "sent; waiting for the service");
  }

  say(words) {
    showText(this.words, words);
  }

  succeed(created) {
    this.bar.hidden = true;
    this.say(created ? "accepted" : "These bytes are here already; nothing new was started.");
    this.#end();
    announce(`${this.file.name}: ${this.words.textContent}`);
    if (created) setTimeout(() => this.remove(), DONE_MS);
  }

  fail(words) {
    this.bar.hidden = true;
    this.element.classList.add("failed");
    this.say(words);
    this.#end();
    announce(`${this.file.name} was not added. ${words}`);
  }

  #end() {
    this.dismiss.textContent = "Dismiss";
    this.dismiss.setAttribute("aria-label", `Dismiss: ${this.file.name}`);
  }

  remove() {
    this.#controller.abort();
    const list = byId("uploads");
    const focused = this.element.contains(document.activeElement);
    this.element.remove();
    list.hidden = list.children.length === 0;
    if (focused) byId("choose").focus();
  }
}
