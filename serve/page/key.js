/** The API key: asked for when the service wants one, kept in this tab's session storage, forgotten on request. */

import { byId, showText } from "./dom.js";

const NAME = "fanfold.api-key";
const SENDABLE = /^[\x21-\x7e]+$/; // what an HTTP header may carry (RFC 9110, section 5.5), without spaces

let current = sessionStorage.getItem(NAME);
let answered = null; // resolves what waits for a key
let waiting = null;

/** The key in use, or null. */
export const apiKey = () => current;

/** The request headers that carry it. */
export const authorization = () => (current === null ? {} : { Authorization: `Bearer ${current}` });

/** Resolves once there is another key than `used`, which the service has refused (null: there was none). */
export function anotherKey(used) {
  if (used !== current) return Promise.resolve();
  waiting ??= new Promise((resolve) => {
    answered = resolve;
  });
  showText(byId("key-problem"), used === null ? "" : "The service did not accept that key.");
  open();
  return waiting;
}

/** Make the form and the buttons work. */
export function setUpKey() {
  byId("key-form").addEventListener("submit", accept);
  byId("key-no").addEventListener("click", () => byId("key").close());
  byId("key").addEventListener("close", () => {
    const focused = document.activeElement === byId("enter-key");
    byId("enter-key").hidden = waiting === null;
    if (focused && waiting === null) byId("forget-key").focus(); // the keyboard's place, when its button goes
  });
  byId("enter-key").addEventListener("click", open);
  byId("forget-key").addEventListener("click", () => {
    sessionStorage.removeItem(NAME);
    location.reload();
  });
  byId("forget-key").hidden = current === null;
}

function open() {
  if (!byId("key").open) byId("key").showModal();
  byId("key-value").focus();
}

function accept(event) {
  event.preventDefault();
  const value = byId("key-value").value.trim();
  if (!SENDABLE.test(value)) {
    showText(byId("key-problem"), "A key has letters, digits and signs, and no spaces.");
    return;
  }
  current = value;
  sessionStorage.setItem(NAME, value);
  byId("key-value").value = "";
  byId("forget-key").hidden = false;
  waiting = null;
  byId("key").close();
  answered?.();
}
