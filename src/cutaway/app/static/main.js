// The page: one text, one cursor, and the panels that follow it.

import { answers, bytes, cancel, file, health, json, overtaken, stream } from "./api.js";
import { $, h, say, write } from "./panels/dom.js";
import { copyButton } from "./panels/export.js";
import { clamp, some, whole } from "./panels/numbers.js";
import { address, change, onChange, restore, state } from "./state.js";
import { createStrip } from "./strip.js";
import * as anatomy from "./panels/anatomy.js";
import * as attention from "./panels/attention.js";
import * as generate from "./panels/generate.js";
import * as lens from "./panels/lens.js";
import * as next from "./panels/next.js";

const PANELS = { next: ["Next token", next], lens: ["Lens", lens], attention: ["Attention", attention], generate: ["Generate", generate], anatomy: ["Anatomy", anatomy] };
const NEEDS = { lens: "lens", attention: "heads" }; // the part of a text's results that is asked for with its panel
const PAUSE = 250; // milliseconds without a key after which a typed text is read
const VIEWS = 24; // texts whose results are kept, so that Back needs no request
const AGAIN = 3000; // milliseconds between looks for a server that is gone

const start = JSON.parse($("start").textContent || "null");
const views = new Map();
const panels = {};
let preview = null, locked = false, scheduled = false, strip = null;

// What the panels see of the page. `at` is the token they speak of: under the pointer, or else at the cursor.
const page = {
  ask: { bytes, cancel, file, json, overtaken, stream },
  start,
  state,
  view: null,
  change,
  refresh,
  get cursor() {
    const last = page.view.tokens.length - 1;
    return clamp(state.cursor ?? (isExample(page.view.text) ? Math.max(0, last - 1) : last), 0, last);
  },
  get at() {
    return preview ?? page.cursor;
  },
  get previewing() {
    return preview !== null;
  },
  move(i, how, more = {}) {
    preview = null;
    locked = true;
    change({ cursor: i, ...more }, how);
    refresh();
  },
  preview(i) {
    if (locked || preview === i) return;
    preview = i;
    refresh();
  },
  stripKey: (event) => strip.key(event),
  mark: (i) => strip.mark(i),
  continueWith(text) {
    page.readText(page.view.slice(0, page.view.tokens[page.at].end ?? 0) + text);
  },
  readText(text, cursor = null) {
    preview = null;
    locked = false;
    change({ text, cursor });
  },
};

const wanted = () => state.text ?? start.examples[0].text;
const isExample = (text) => start.examples.some((example) => example.text === text);
const keyOf = (text, bos) => JSON.stringify([text, bos]);

// --- the text ---

/** A view as the panels use it. Offsets count characters as Python does, so slices go by code points. */
function prepare(found, bos) {
  const points = [...found.text];
  return { ...found, bos, key: keyOf(found.text, bos), slice: (a, b) => points.slice(a, b).join(""), heads: unpack(found.heads) };
}

const unpack = (heads) => heads && { size: heads.size, pixels: Uint8Array.from(atob(heads.patterns), (c) => c.charCodeAt(0)) };
const asked = (part) => ({ lens: part === "lens", heads: part === "heads" });

/** Ask for the part of the view that the open panel draws, and draw it when it is here. */
async function fetchPart(view, part) {
  if (view.wants === part) return;
  view.wants = part;
  $("panel-problem").hidden = true;
  busy(true);
  try {
    const found = await json("part", "api/view", { text: view.text, bos: view.bos, next: false, ...asked(part) });
    if (part === "heads") view.heads = unpack(found.heads);
    else view.lens = found.lens;
    view.call[part === "heads" ? "attention" : "lens"] = found.call[part === "heads" ? "attention" : "lens"];
    refresh();
  } catch (error) {
    if (overtaken(error)) return;
    $("panel-problem").hidden = false;
    write($("panel-problem"), error.message);
  } finally {
    view.wants = null;
    busy(false);
  }
}

function keep(view) {
  views.delete(view.key);
  views.set(view.key, view);
  if (views.size > VIEWS) views.delete(views.keys().next().value);
}

async function read() {
  const text = wanted(), bos = state.bos, key = keyOf(text, bos);
  if ($("text").value !== text) $("text").value = text;
  $("bos").checked = bos;
  for (const button of $("examples").children) button.setAttribute("aria-pressed", String(start.examples[Number(button.dataset.i)].text === text));
  if (views.has(key)) {
    cancel("view");
    busy(false);
    return look(views.get(key));
  }
  if (!text && !bos) {
    cancel("view");
    busy(false);
    return complain("The text is empty: type one, or take an example.");
  }
  busy(true);
  if (!page.view) write($("count"), "reading…"); // a large model's first text
  try {
    look(prepare(await json("view", "api/view", { text, bos, ...asked(NEEDS[state.panel]) }), bos));
    say(`Read ${some(page.view.tokens.length, "token")}`);
  } catch (error) {
    if (overtaken(error)) return;
    complain(error.message);
  }
  busy(false);
}

function look(view) {
  keep(view);
  complain(null);
  if (page.view !== view) {
    page.view = view;
    preview = null;
    strip.show(view);
    write($("count"), `${whole(view.tokens.length)} of ${some(start.limits.tokens, "token")}`);
  }
  refresh();
}

function complain(message) {
  $("text-problem").hidden = !message;
  write($("text-problem"), message ?? "");
  $("text").setAttribute("aria-invalid", String(Boolean(message)));
}

let busyTimer = null;
function busy(on) {
  clearTimeout(busyTimer);
  if (on) busyTimer = setTimeout(() => document.body.classList.add("busy"), 120);
  else document.body.classList.remove("busy");
}

function typing() {
  let timer = null, session = false;
  const box = $("text");
  const take = () => {
    clearTimeout(timer);
    timer = null;
    if (box.value === wanted()) return;
    const last = page.view && state.cursor !== null && state.cursor < page.view.tokens.length - 1;
    preview = null;
    locked = false;
    change({ text: box.value, cursor: last ? state.cursor : null }, session ? "replace" : "push");
    session = true;
  };
  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(take, PAUSE);
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) take();
  });
  box.addEventListener("blur", () => {
    if (timer !== null) take();
    session = false;
  });
}

// --- drawing ---

function refresh() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    draw();
  });
}

function draw() {
  for (const tab of $("tabs").children) {
    const current = tab.dataset.panel === state.panel;
    tab.setAttribute("aria-selected", current);
    tab.tabIndex = current ? 0 : -1;
  }
  if (!page.view) return;
  const panel = panels[state.panel];
  strip.place({ cursor: page.cursor, shown: page.at, isLocked: locked, follow: preview === null });
  $("lock").hidden = !locked;
  if (!panel.element.isConnected) {
    $("panel").replaceChildren(panel.element);
    $("panel").setAttribute("aria-labelledby", `tab-${state.panel}`);
  }
  const part = NEEDS[state.panel], waiting = part && !page.view[part];
  document.body.classList.toggle("waiting", Boolean(waiting));
  if (waiting) {
    delete document.body.dataset.drawn;
    fetchPart(page.view, part);
    return strip.shade(next.surprise(page.view));
  }
  $("panel-problem").hidden = true;
  const fresh = panel.seen !== page.view;
  panel.seen = page.view;
  panel.render(fresh);
  strip.shade(panel.shade());
  document.body.dataset.drawn = state.panel;
}

function tabs() {
  const names = Object.keys(PANELS);
  const buttons = names.map((name, k) =>
    h("button", { type: "button", role: "tab", id: `tab-${name}`, "data-panel": name, "aria-controls": "panel", "aria-selected": "false", title: `Key ${k + 1}`, onclick: () => change({ panel: name }), onkeydown: (event) => {
      const to = { ArrowRight: (k + 1) % names.length, ArrowLeft: (k + names.length - 1) % names.length, Home: 0, End: names.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      change({ panel: names[to] });
      buttons[to].focus();
    } }, PANELS[name][0]));
  $("tabs").replaceChildren(...buttons);
}

// --- around it ---

function release() {
  locked = false;
  preview = null;
  refresh();
}

function keys() {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && (locked || preview !== null)) return release();
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    const name = Object.keys(PANELS)[Number(event.key) - 1];
    if (name) change({ panel: name });
    else if (event.target === document.body) strip.key(event);
  });
  $("lock").addEventListener("click", release);
  $("skip").addEventListener("click", (event) => { // a fragment is the page's state, not a place in it
    event.preventDefault();
    $("panel").focus();
  });
}

function theme() {
  const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  $("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("cutaway-theme", root.dataset.theme);
    } catch {
      // Storage may be forbidden: the choice lasts as long as the page.
    }
    refresh();
  });
  system.addEventListener("change", refresh);
}

function watchServer() {
  let timer = null;
  const banner = $("gone");
  health.onGone = () => {
    if (timer !== null) return;
    banner.hidden = false;
    banner.replaceChildren("The server does not answer. If it was stopped, start ", h("code", {}, "cutaway app"), " again: this page looks for it every few seconds. What was read stays in view.");
    timer = setInterval(async () => {
      if (!(await answers())) return;
      health.onBack();
      const again = await json("start", "api/start").catch(() => null);
      if (again && again.model?.fingerprint !== start.model.fingerprint) return location.reload();
      read();
    }, AGAIN);
  };
  health.onBack = () => {
    if (timer === null) return;
    clearInterval(timer);
    timer = null;
    banner.hidden = true;
    say("The server is back");
  };
}

function frame() {
  const { model, examples, version } = start;
  document.title = `Cutaway: ${model.name}`;
  $("about").replaceChildren(h("b", {}, model.name), h("span", {}, `${some(model.n_layers, "layer")} × ${some(model.n_heads, "head")}`), h("span", {}, `vocabulary ${whole(model.d_vocab)}`), h("span", {}, `context ${whole(model.n_ctx)}`));
  $("about").title = `fingerprint ${model.fingerprint}, Cutaway ${version}`;
  $("examples").replaceChildren(...examples.map((example, i) => h("button", { type: "button", class: "chip", "data-i": i, title: example.text.length > 300 ? `${example.text.slice(0, 300)}…` : example.text, onclick: () => page.readText(example.text) }, example.name)));
  $("bos").addEventListener("change", () => change({ bos: $("bos").checked, cursor: null }));
  const share = copyButton(() => location.origin + address(), { label: "Copy link" });
  share.id = "share";
  $("share").replaceWith(share);
}

function begin() {
  if (!start?.model) {
    $("gone").hidden = false;
    write($("gone"), "This workbench asks for its token: open the whole address that was printed when it started. It ends in ?token=…");
    document.body.classList.add("shut");
    return;
  }
  restore();
  strip = createStrip($("strip"), {
    onMove: (i, how, byKey) => {
      if (!byKey) return page.move(i, how);
      preview = null;
      change({ cursor: i }, how);
      refresh();
    },
    onPreview: (i) => page.preview(i),
  });
  frame();
  tabs();
  typing();
  keys();
  theme();
  watchServer();
  for (const [name, [, module]] of Object.entries(PANELS)) panels[name] = module.create(page);
  if (start.view) keep(prepare(start.view, false));
  onChange((changed) => {
    if (changed.includes("panel")) preview = null;
    if (changed.includes("text") || changed.includes("bos")) read();
    refresh();
  });
  read();
  refresh();
}

begin();
