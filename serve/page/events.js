/** A job's events. `EventSource` cannot send a key, so the stream is read by hand (WHATWG HTML, section 9.2.6). */

import { pathOf, Problem, request } from "./api.js";
import { pause } from "./dom.js";

const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 15_000;

/** States that never change. */
export const ENDED = new Set(["succeeded", "partially_succeeded", "failed", "cancelled"]);

/**
 * Call `onJob` with the job at each change until it has ended, is gone, or `signal` is aborted. A stream that breaks
 * is taken up again after the last event; a service that does not answer is asked ever more rarely.
 */
export async function follow(jobId, onJob, signal) {
  let lastId = "";
  let wait = FIRST_PAUSE_MS;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) };
      const answer = await request(`${pathOf("jobs", jobId)}/events`, { headers, signal });
      if (answer.status === 204) return;
      for await (const event of eventsOf(answer.body)) {
        lastId = event.id || lastId;
        wait = FIRST_PAUSE_MS;
        const job = JSON.parse(event.data);
        onJob(job);
        if (ENDED.has(job.state)) return;
      }
    } catch (error) {
      if (error instanceof Problem && error.status === 404) return;
      // anything else is a broken stream, or an abort that ends the loop
    }
    await pause(wait, signal);
    wait = Math.min(2 * wait, LONGEST_PAUSE_MS);
  }
}

/** The events of a byte stream: `{id, event, data}`. Comments and events without data are left out. */
export async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).replace(/\r\n/g, "\n").split("\n\n");
      rest = lines.pop();
      for (const block of lines) {
        const event = parsed(block);
        if (event.data) yield event;
      }
    }
  } finally {
    await reader.cancel().catch(() => {}); // it may be broken already, which is why we are here
  }
}

function parsed(block) {
  const event = { id: "", event: "message", data: "" };
  const data = [];
  for (const line of block.split("\n")) {
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (name === "data") data.push(value);
    else if (name === "id" || name === "event") event[name] = value;
  }
  event.data = data.join("\n");
  return event;
}
