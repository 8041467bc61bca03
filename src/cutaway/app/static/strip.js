// The text as tokens, with a cursor that is the prefix: everything up to it has been read.

import { $, h, tokenNodes } from "./panels/dom.js";
import { clamp, nats, whole } from "./panels/numbers.js";

const BURST = 900; // milliseconds in which arrow keys count as one move, for Back

/** `onMove(i, how, byKey)` places the cursor, `onPreview(i or null)` looks ahead without moving it. */
export function createStrip(element, { onMove, onPreview }) {
  let view = null, spans = [], at = 0, locked = false, dragging = false, lastKey = 0, fresh = true;

  const under = (event) => {
    const found = document.elementFromPoint(event.clientX, event.clientY)?.closest?.("[data-i]");
    return found && element.contains(found) ? Number(found.dataset.i) : null;
  };

  element.addEventListener("mousedown", (event) => {
    if (event.shiftKey || event.altKey || event.button) return; // a selection, to copy from
    event.preventDefault();
    element.focus({ preventScroll: true });
    getSelection().removeAllRanges();
  });
  element.addEventListener("pointerdown", (event) => {
    if (event.shiftKey || event.altKey || event.button) return;
    dragging = true;
    element.setPointerCapture(event.pointerId);
    const i = under(event);
    if (i !== null && event.pointerType !== "touch") onMove(i, "push");
  });
  element.addEventListener("pointermove", (event) => {
    if (!dragging && event.pointerType === "touch") return;
    const i = under(event);
    if (dragging) i !== null && i !== at && onMove(i, "replace");
    else if (locked) describe(i ?? at);
    else onPreview(i);
  });
  element.addEventListener("pointerup", (event) => {
    const i = under(event);
    if (dragging && event.pointerType === "touch" && i !== null) onMove(i, "push");
    dragging = false;
  });
  element.addEventListener("pointercancel", () => (dragging = false));
  element.addEventListener("pointerleave", () => {
    if (dragging) return;
    onPreview(null);
    if (locked) describe(at);
  });

  /** Keys that move the cursor; true where one did. */
  function key(event) {
    if (!view || event.ctrlKey || event.metaKey || event.altKey) return false;
    const last = spans.length - 1;
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -last, End: last };
    let to = at;
    if (event.key in steps) to = clamp(at + steps[event.key], 0, last);
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") to = line(event.key === "ArrowUp" ? -1 : 1);
    else return false;
    event.preventDefault();
    const now = performance.now();
    at = to; // the next key may come before the next frame
    onMove(to, now - lastKey < BURST ? "replace" : "push", true);
    lastKey = now;
    return true;
  }
  element.addEventListener("keydown", key);

  /** The token nearest to this one, a line up or down. */
  function line(direction) {
    const here = spans[at];
    const rest = direction < 0 ? spans.slice(0, at).reverse() : spans.slice(at + 1);
    const next = rest.find((span) => Math.abs(span.offsetTop - here.offsetTop) > 4);
    if (!next) return direction < 0 ? 0 : spans.length - 1;
    const middle = (span) => span.offsetLeft + span.offsetWidth / 2;
    const row = rest.filter((span) => Math.abs(span.offsetTop - next.offsetTop) <= 4);
    return Number(row.reduce((a, b) => (Math.abs(middle(b) - middle(here)) < Math.abs(middle(a) - middle(here)) ? b : a)).dataset.i);
  }

  // What is copied is the real text: of the tokens selected, or of what has been read.
  document.addEventListener("copy", (event) => {
    if (!view) return;
    const selection = getSelection();
    const inside = !selection.isCollapsed && element.contains(selection.anchorNode);
    if (!inside && (document.activeElement !== element || !selection.isCollapsed)) return;
    const chosen = view.tokens.filter((token, i) => token.start !== null && (inside ? selection.containsNode(spans[i], true) : i <= at));
    if (!chosen.length) return;
    event.clipboardData.setData("text/plain", view.slice(chosen[0].start, chosen.at(-1).end));
    event.preventDefault();
  });

  function show(next) {
    view = next;
    fresh = true;
    spans = view.tokens.map((token, i) => h("span", { class: token.start === null ? "t special" : "t", "data-i": i }, tokenNodes(token)));
    const parts = spans.flatMap((span, i) => (view.tokens[i].display.endsWith("↵") ? [span, h("br")] : [span]));
    element.replaceChildren(...parts);
    element.setAttribute("aria-valuemin", 1);
    element.setAttribute("aria-valuemax", spans.length);
    element.scrollTop = 0;
  }

  function place({ cursor, shown, isLocked, follow }) {
    const previous = at;
    at = cursor;
    locked = isLocked;
    spans.forEach((span, i) => {
      span.classList.toggle("unread", i > shown);
    });
    for (const name of ["here", "next", "kept"]) element.querySelector(`.${name}`)?.classList.remove(name);
    spans[shown]?.classList.add("here");
    spans[shown + 1]?.classList.add("next");
    if (shown !== cursor) spans[cursor]?.classList.add("kept");
    element.classList.toggle("locked", locked);
    const came = view.next[cursor].actual;
    element.setAttribute("aria-valuenow", cursor + 1);
    element.setAttribute(
      "aria-valuetext",
      `token ${cursor + 1} of ${spans.length}: ${view.tokens[cursor].display}${came ? `; next comes ${came.display}, rank ${came.rank}` : ""}`,
    );
    describe(shown);
    if (follow && (previous !== at || fresh)) reveal(spans[at]);
    fresh = false;
  }

  function reveal(span) {
    if (!span) return;
    const top = span.offsetTop, room = 36; // the strip is what offsets count from
    if (top < element.scrollTop + room) element.scrollTop = top - room;
    else if (top + span.offsetHeight > element.scrollTop + element.clientHeight - room) element.scrollTop = top + span.offsetHeight - element.clientHeight + room;
  }

  function describe(i) {
    const token = view.tokens[i], met = i ? view.next[i - 1].actual : null;
    const where = token.start === null ? "put in front" : `characters ${whole(token.start)}–${whole(token.end)}`;
    const surprise = met ? `surprise ${nats(met.loss)} nats, rank ${whole(met.rank)}` : "nothing came before it";
    $("readout").replaceChildren(h("b", { class: "token" }, token.display), h("span", {}, `token ${whole(i + 1)} of ${whole(spans.length)}`), h("span", {}, `id ${token.id}`), h("span", {}, where), h("span", {}, surprise));
  }

  /** Light the tokens: a value from 0 to 1 for each, or null for none, in a hue of the style sheet. */
  function shade({ values, hue, legend }) {
    element.dataset.hue = hue;
    spans.forEach((span, i) => {
      const value = values[i] ?? null;
      const text = value === null ? "" : String(Math.round(clamp(value, 0, 1) * 250) / 250);
      if (span.dataset.v === text) return;
      span.dataset.v = text;
      span.style.setProperty("--v", text || "0");
    });
    const scale = $("legend");
    scale.dataset.hue = hue;
    if (scale.dataset.text === legend.join("|")) return;
    scale.dataset.text = legend.join("|");
    scale.replaceChildren(h("span", {}, legend[0]), h("span", { class: "number" }, legend[1]), h("span", { class: "ramp" }), h("span", { class: "number" }, legend[2]));
  }

  /** Point out one token, or none. */
  function mark(i) {
    element.querySelector(".marked")?.classList.remove("marked");
    if (i !== null) spans[i]?.classList.add("marked");
  }

  return { show, place, shade, key, mark };
}
