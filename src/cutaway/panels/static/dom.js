// Elements from plain values. Text becomes text nodes, never markup: a token may read `</script>` or `<img onerror=...>`.

const SVG = "http://www.w3.org/2000/svg";

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);
export const $ = (id) => document.getElementById(id);

/** Text into an element, only where it changed. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Say something to those who listen to the page. */
export function say(text) {
  write($("said"), text);
}

// What stands for white space. The marks are drawn by the style sheet: the text in the page stays what it is.
const MARKS = { " ": "space", "\n": "newline", "\t": "tab" };
const GLYPHS = { " ": "·", "\n": "↵", "\t": "⇥" };

/** A token as nodes: its real text where eyes can read it, its display string where they cannot (control characters, bytes). */
export function tokenNodes(token) {
  const { text, display } = token;
  const plain = text !== undefined && [...text].map((c) => GLYPHS[c] ?? c).join("") === display;
  if (!plain) return [h("span", { class: "raw" }, display)];
  return text.split(/([ \n\t])/u).filter(Boolean).map((part) => (MARKS[part] ? h("span", { class: `mark ${MARKS[part]}` }, part) : part));
}

/** A display string in a line of its own, its white-space marks pale. */
export function shown(display, attributes = {}) {
  const parts = String(display).split(/([·↵⇥])/u).filter(Boolean);
  if (parts.every((part) => "·↵⇥".includes(part))) return h("span", { ...attributes, class: `token ${attributes.class ?? ""}` }, display);
  return h("span", { ...attributes, class: `token ${attributes.class ?? ""}` }, parts.map((part) => ("·↵⇥".includes(part) ? h("i", {}, part) : part)));
}

/** The resolved colour of a variable of the style sheet, for canvas. */
export function colour(name) {
  const probe = $("probe") ?? document.body.appendChild(h("span", { id: "probe", hidden: true }));
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

export const channels = (text) => text.match(/[\d.]+/g).slice(0, 3).map(Number);

/** A canvas that is sharp on this screen: its context, in CSS pixels. */
export function sharp(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}
