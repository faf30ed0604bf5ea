/** Small helpers around the document. Text is only ever set as text: names and contents are other people's. */

/** The element of that id. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element. `properties` are attributes, but for `on`, an object of event listeners; `true` sets an empty
 * attribute, `false` and `null` none. Children are nodes or text.
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value !== false && value !== null) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children);
  return element;
}

/** A button. */
export function button(label, onClick, properties = {}) {
  return make("button", { type: "button", on: { click: onClick }, ...properties }, label);
}

/** Somebody's name for a file, isolated so that its writing direction changes nothing around it. */
export function fileName(name) {
  return make("bdi", {}, name);
}

/** Show the text in the element, or hide the element when there is none. Writes only what changes. */
export function showText(element, text) {
  if (element.textContent !== (text ?? "")) element.textContent = text ?? "";
  element.hidden = !text;
}

/** Tell screen readers. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** Text with the ranges `marks` of it, in UTF-16 units, as `<mark>`. Ranges outside of the text are cut. */
export function marked(text, marks) {
  const fragment = document.createDocumentFragment();
  let at = 0;
  for (const { start, end } of [...marks].sort((one, other) => one.start - other.start)) {
    const from = Math.max(start, at);
    const to = Math.min(end, text.length);
    if (from >= to) continue;
    fragment.append(text.slice(at, from), make("mark", {}, text.slice(from, to)));
    at = to;
  }
  fragment.append(text.slice(at));
  return fragment;
}

/** Put `elements` into `list` in this order. What is in its place already is not moved: it keeps its focus. */
export function arrange(list, elements) {
  const wanted = new Set(elements);
  for (const child of [...list.children]) if (!wanted.has(child)) child.remove();
  elements.forEach((element, index) => {
    if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
  });
}

/** Ask before deleting. Resolves to whether the answer was yes; Escape is no. */
export function confirmed(title, text) {
  const dialog = byId("confirm");
  byId("confirm-title").replaceChildren(title);
  byId("confirm-text").textContent = text;
  return new Promise((resolve) => {
    let answer = false;
    const decide = (value) => () => {
      answer = value;
      dialog.close();
    };
    byId("confirm-yes").onclick = decide(true);
    byId("confirm-no").onclick = decide(false);
    dialog.addEventListener("close", () => resolve(answer), { once: true });
    dialog.showModal();
    byId("confirm-no").focus();
  });
}

/** Wait so many milliseconds; at once when the signal is or gets aborted. */
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal?.aborted) {
      resolve();
      return;
    }
    const done = () => {
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", done);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", done, { once: true });
  });
}
