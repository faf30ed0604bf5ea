/** The service's HTTP interface. Every call raises `Problem`, waits for a key where one is needed, and sends it. */

import { anotherKey, apiKey, authorization } from "./key.js";

const MOST = 500; // items that one answer may hold
const UNREACHABLE = "The service does not answer. Your connection or the service may be down.";

/** An error as the service words it (RFC 9457). `status` is 0 where there was no answer at all. */
export class Problem extends Error {
  constructor(status, body = {}, retryAfter = null) {
    super(body.detail || body.title || (status === 0 ? UNREACHABLE : `The service answered with status ${status}.`));
    this.status = status;
    this.type = body.type ?? "about:blank";
    this.retryAfter = retryAfter; // seconds, or null
  }
}

/** The answer to a request, if it is a good one. An abort of `options.signal` raises its `AbortError`. */
export async function request(path, options = {}) {
  for (;;) {
    const used = apiKey();
    let answer;
    try {
      answer = await fetch(path, { ...options, headers: { ...options.headers, ...authorization() } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0);
    }
    if (answer.ok) return answer;
    if (answer.status !== 401) {
      throw problem(answer.status, await answer.text(), answer.headers.get("Retry-After"));
    }
    await anotherKey(used);
  }
}

/** The JSON of an answer; `parameters` go into the query where they are not empty, `body` is sent as JSON. */
export async function json(method, path, { parameters = {}, body, signal } = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value != null));
  const options = { method, signal, headers: { Accept: "application/json" } };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await request(query.size ? `${path}?${query}` : path, options);
  return answer.json();
}

/** The first `count` items of a list, page after page: `{items, more, answers}`. */
export async function firstOf(path, name, count, parameters = {}) {
  const items = [];
  const answers = [];
  let cursor = null;
  do {
    const limit = Math.min(MOST, count - items.length);
    const page = await json("GET", path, { parameters: { ...parameters, limit, cursor } });
    items.push(...page[name]);
    answers.push(page);
    cursor = page.next_cursor;
  } while (cursor && items.length < count);
  return { items, more: Boolean(cursor), answers };
}

/** Send a file. `onProgress` gets the part that is sent, 0 to 1; an abort of `signal` breaks it off. */
export async function upload(file, onProgress, signal) {
  for (;;) {
    const used = apiKey();
    const answer = await send(file, onProgress, signal);
    if (answer.status === 200 || answer.status === 202) return JSON.parse(answer.responseText);
    if (answer.status !== 401) {
      throw problem(answer.status, answer.responseText, answer.getResponseHeader("Retry-After"));
    }
    await Promise.race([anotherKey(used), stopped(signal)]);
  }
}

/** The path of something that has an id. */
export const pathOf = (collection, id) => `/v1/${collection}/${encodeURIComponent(id)}`;

/** Rejects once the signal is aborted. */
function stopped(signal) {
  return new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(new Problem(0)), { once: true });
  });
}

function send(file, onProgress, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(new Problem(0)); // stopped before it began: an abort that was is not told again
      return;
    }
    const call = new XMLHttpRequest(); // fetch does not tell how much is sent
    signal.addEventListener("abort", () => call.abort(), { once: true });
    call.open("POST", "/v1/documents");
    for (const [name, value] of Object.entries(authorization())) call.setRequestHeader(name, value);
    call.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    });
    call.addEventListener("load", () => resolve(call));
    call.addEventListener("error", () => reject(new Problem(0)));
    call.addEventListener("abort", () => reject(new Problem(0)));
    const form = new FormData();
    form.append("file", file);
    call.send(form);
  });
}

function problem(status, text, retryAfter) {
  const seconds = Number(retryAfter);
  let body = {};
  try {
    body = JSON.parse(text) ?? {};
  } catch {
    // not a problem body, such as a proxy's page: the status says what can be said
  }
  return new Problem(status, body, retryAfter !== null && seconds > 0 ? seconds : null);
}
