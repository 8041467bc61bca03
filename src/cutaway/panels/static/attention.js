// Where each head looks: all heads small, one large, and from the cursor the tokens lit on the strip.

import { channels, colour, h, sharp, shown, write } from "./dom.js";
import { exports } from "./export.js";
import { clamp, percent, some } from "./numbers.js";
import { setAxis } from "./next.js";

const MOST = 8; // tokens listed that the cursor attends to
const KEPT = 64; // exact patterns kept
const DEEP = 16; // layers above which the list stands beside the heads, not below them
const LABELLED = 13; // pixels of a cell from which tokens are written beside it

export function create(page) {
  const { bytes, overtaken } = page.ask;
  let exact = null, asked = null, hovered = null, small = null;
  const kept = new Map(); // pattern by text, layer and head

  const title = h("h2", {});
  const grid = h("div", { class: "heads", role: "radiogroup", "aria-label": "Heads, layer by layer" });
  const about = h("p", { class: "note" });
  const canvas = h("canvas", { class: "large", role: "img" });
  const readout = h("p", { class: "readout" });
  const box = h("div", { class: "pattern" }, canvas, readout);
  const list = h("ol", { class: "bars small", "aria-label": "Most attention from the cursor" });
  const axis = h("div", { class: "axis small", "aria-hidden": "true" });
  const from = h("h3", {});
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const footer = exports({
    ask: page.ask,
    name: "attention",
    what: () => ({ what: "attention", text: page.view.text, bos: page.view.bos, ...chosen() }),
    call: () => `${page.view.call.attention}.patterns[${chosen().layer}, ${chosen().head}]`,
  });
  const most = h("div", { class: "most" }, from, list, axis), deep = page.start.model.n_layers > DEEP;
  const all = h("div", { class: "all" }, h("div", { class: "with-axes" }, h("span", { class: "axis-name up" }, "layer"), grid, h("span", { class: "axis-name" }, "head")), about, deep ? null : most);
  const element = h(
    "div",
    { class: "attention" },
    h("div", { class: "head" }, title),
    h("div", { class: "pair uneven" }, all, h("figure", {}, box, h("p", { class: "note" }, "Each row is a token that looks, each column one that is looked at; the shade is the square root of the weight. Framed: the cursor's row. Click a row to move there."), problem, deep ? most : null)),
    footer.element,
  );

  function chosen() {
    const { n_layers, n_heads } = page.start.model;
    if (page.state.layer !== null && page.state.head !== null) return { layer: clamp(page.state.layer, 0, n_layers - 1), head: clamp(page.state.head, 0, n_heads - 1) };
    small ??= firstHead();
    return { layer: page.state.layer === null ? small.layer : clamp(page.state.layer, 0, n_layers - 1), head: page.state.head === null ? small.head : clamp(page.state.head, 0, n_heads - 1) };
  }

  /** Where nobody chose yet: the head that looks most at the token before. */
  function firstHead() {
    const { n_layers, n_heads } = page.start.model, { size } = page.view.heads;
    let best = { layer: 0, head: 0, score: -1 };
    for (let layer = 0; layer < n_layers; layer++)
      for (let head = 0; head < n_heads; head++) {
        const pattern = thumb(layer, head);
        let score = 0;
        for (let q = 1; q < size; q++) score += pattern[q * size + q - 1] ** 2;
        if (score > best.score) best = { layer, head, score };
      }
    return best;
  }

  const thumb = (layer, head) => {
    const { size, pixels } = page.view.heads;
    return pixels.subarray((layer * page.start.model.n_heads + head) * size * size, (layer * page.start.model.n_heads + head + 1) * size * size);
  };

  // --- all heads ---

  /** As large as the column has room for. */
  function size() {
    const { n_heads } = page.start.model;
    const room = all.clientWidth - 16 - 22 - 4; // less the axis' name and the layers' numbers
    const cell = clamp(Math.floor(room / n_heads) - 2, 10, 44);
    grid.classList.toggle("sharp", page.view.heads.size <= cell);
    grid.style.setProperty("--cell", `${cell}px`);
  }

  function build() {
    const { n_layers, n_heads } = page.start.model;
    grid.style.setProperty("--heads", n_heads);
    size();
    const buttons = [];
    for (let layer = n_layers - 1; layer >= 0; layer--) {
      buttons.push(h("span", { class: "number", "aria-hidden": "true" }, n_layers <= 16 || layer % 4 === 0 ? String(layer) : ""));
      for (let head = 0; head < n_heads; head++)
        buttons.push(h("button", { type: "button", role: "radio", "aria-checked": "false", "data-layer": layer, "data-head": head, tabindex: "-1", "aria-label": `Layer ${layer}, head ${head}`, title: `Layer ${layer}, head ${head}` }, h("canvas", { "aria-hidden": "true" })));
    }
    buttons.push(h("span", {}), ...Array.from({ length: n_heads }, (_, head) => h("span", { class: "number foot", "aria-hidden": "true" }, n_heads <= 16 || head % 4 === 0 ? String(head) : "")));
    grid.replaceChildren(...buttons);
  }

  function paintAll() {
    const { size } = page.view.heads, [red, green, blue] = channels(colour("--expect"));
    for (const button of grid.querySelectorAll("button")) {
      const image = new ImageData(size, size), pattern = thumb(Number(button.dataset.layer), Number(button.dataset.head));
      for (let p = 0; p < size * size; p++) {
        image.data[4 * p] = red;
        image.data[4 * p + 1] = green;
        image.data[4 * p + 2] = blue;
        image.data[4 * p + 3] = pattern[p];
      }
      const small = button.firstChild;
      small.width = small.height = size;
      small.getContext("2d").putImageData(image, 0, 0);
    }
  }

  const pick = (layer, head, how = "push") => page.change({ layer, head }, how);
  grid.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) pick(Number(button.dataset.layer), Number(button.dataset.head));
  });
  grid.addEventListener("keydown", (event) => {
    const by = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [1, 0], ArrowDown: [-1, 0] }[event.key];
    const { n_layers, n_heads } = page.start.model, { layer, head } = chosen();
    const to = by ? [clamp(layer + by[0], 0, n_layers - 1), clamp(head + by[1], 0, n_heads - 1)] : event.key === "Home" ? [layer, 0] : event.key === "End" ? [layer, n_heads - 1] : null;
    if (!to) return;
    event.preventDefault();
    event.stopPropagation();
    pick(...to, "replace");
    current()?.focus();
  });
  const current = () => grid.querySelector(`[data-layer="${chosen().layer}"][data-head="${chosen().head}"]`);

  // --- one head ---

  /** The weights of the head chosen: exact once they are here; till then those of its small picture. */
  function weight(query, key) {
    const n = page.view.tokens.length;
    if (exact) return exact[query * n + key]; // NaN where the model is broken
    const { size } = page.view.heads, { layer, head } = chosen();
    const scale = size / n, pattern = thumb(layer, head);
    return (pattern[Math.floor(query * scale) * size + Math.floor(key * scale)] / 255) ** 2;
  }

  async function load() {
    const view = page.view, { layer, head } = chosen(), key = JSON.stringify([view.key, layer, head]);
    if (kept.has(key)) {
      exact = kept.get(key);
      asked = key;
      problem.hidden = true;
      return;
    }
    exact = null;
    if (asked === key) return;
    asked = key;
    try {
      const body = await bytes("attention", "api/attention", { text: view.text, bos: view.bos, layer, head });
      const found = new Float32Array(body);
      if (kept.size >= KEPT) kept.delete(kept.keys().next().value);
      kept.set(key, found);
      problem.hidden = true;
      if (asked === key) page.refresh();
    } catch (error) {
      if (overtaken(error)) return;
      asked = null;
      problem.textContent = `The exact weights are missing: ${error.message}`;
      problem.hidden = false;
    }
  }

  let place = { left: 0, top: 0, cell: 1 }, made = {};

  /** The pattern as a picture, a pixel a weight; kept until the pattern or the theme is another. */
  function picture(n, [red, green, blue]) {
    const key = [asked, exact !== null, red].join();
    if (made.key === key) return made.pixels;
    const image = new ImageData(n, n);
    for (let q = 0; q < n; q++)
      for (let k = 0; k <= q; k++) image.data.set([red, green, blue, Math.round(255 * Math.sqrt(clamp(weight(q, k) || 0, 0, 1)))], 4 * (q * n + k));
    const pixels = h("canvas", { width: n, height: n });
    pixels.getContext("2d").putImageData(image, 0, 0);
    made = { key, pixels };
    return pixels;
  }

  function paint() {
    const n = page.view.tokens.length, { layer, head } = chosen();
    const width = clamp(box.clientWidth, 200, 520);
    let cell = (width - 8) / n;
    const labelled = (width - 92) / n >= LABELLED;
    if (labelled) cell = Math.min(34, (width - 92) / n);
    const left = labelled ? 84 : 4, top = 2, side = cell * n;
    place = { left, top, cell };
    const tall = top + side + (labelled ? 78 : 6);
    const context = sharp(canvas, labelled ? Math.ceil(left + side + 8) : width, tall);
    const [red, green, blue] = channels(colour("--expect")), quiet = colour("--quiet"), ink = colour("--ink"), line = colour("--line"), accent = colour("--came"), paper = colour("--well");
    context.fillStyle = paper;
    context.beginPath();
    context.moveTo(left, top);
    for (let q = 0; q < n; q++) {
      context.lineTo(left + (q + 1) * cell, top + q * cell);
      context.lineTo(left + (q + 1) * cell, top + (q + 1) * cell);
    }
    context.lineTo(left, top + side);
    context.closePath();
    context.fill();
    const pixels = picture(n, [red, green, blue]);
    context.imageSmoothingEnabled = cell < 1;
    context.drawImage(pixels, left, top, side, side);
    if (cell >= 9) {
      context.strokeStyle = line;
      context.lineWidth = 0.5;
      for (let q = 0; q < n; q++) for (let k = 0; k <= q; k++) context.strokeRect(left + k * cell, top + q * cell, cell, cell);
    }
    const query = hovered?.query ?? page.at;
    if (labelled) {
      context.font = `${Math.min(12, cell - 2)}px ${getComputedStyle(canvas).fontFamily}`;
      context.textBaseline = "middle";
      page.view.tokens.forEach(({ display }, i) => {
        const text = display.length > 10 ? `${display.slice(0, 9)}…` : display;
        context.fillStyle = i === query ? ink : quiet;
        context.textAlign = "right";
        context.fillText(text, left - 7, top + (i + 0.5) * cell, 76);
        context.fillStyle = i === hovered?.key ? ink : quiet;
        context.save();
        context.translate(left + (i + 0.5) * cell, top + side + 7);
        context.rotate(-Math.PI / 2);
        context.fillText(text, 0, 0, 68);
        context.restore();
      });
    }
    context.lineWidth = 1.6;
    context.strokeStyle = accent;
    context.strokeRect(left - 0.5, top + query * cell - (cell < 3 ? 1 : 0), (query + 1) * cell + 1, Math.max(cell, 3));
    if (hovered && hovered.key <= hovered.query) {
      context.strokeStyle = ink;
      context.strokeRect(left + hovered.key * cell, top + hovered.query * cell, Math.max(cell, 2), Math.max(cell, 2));
    }
    canvas.setAttribute("aria-label", `Attention of layer ${layer}, head ${head}: queries from top to bottom, keys from left to right`);
  }

  const under = (event) => {
    const frame = canvas.getBoundingClientRect(), n = page.view.tokens.length;
    const key = Math.floor((event.clientX - frame.left - place.left) / place.cell), query = Math.floor((event.clientY - frame.top - place.top) / place.cell);
    return query >= 0 && query < n && key < n ? { query, key: Math.max(0, key) } : null;
  };
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    const found = under(event);
    if (found?.query === hovered?.query && found?.key === hovered?.key) return;
    hovered = found;
    page.mark(found && found.key <= found.query ? found.key : null);
    paint();
    tell();
  });
  canvas.addEventListener("pointerleave", () => {
    hovered = null;
    page.mark(null);
    paint();
    tell();
  });
  canvas.addEventListener("click", (event) => {
    const found = under(event);
    if (found) page.move(found.query, "push");
  });

  const about1 = (p) => (exact ? percent(p) : `about ${Math.round(100 * p)}%`);

  function tell() {
    const { tokens } = page.view;
    if (hovered && hovered.key <= hovered.query) {
      readout.replaceChildren(shown(tokens[hovered.query].display), h("span", {}, "→"), shown(tokens[hovered.key].display), h("b", {}, about1(weight(hovered.query, hovered.key))));
    } else readout.replaceChildren();
  }

  function listMost() {
    const { tokens } = page.view, at = page.at;
    const order = Array.from({ length: at + 1 }, (_, key) => key).sort((a, b) => (weight(at, b) || 0) - (weight(at, a) || 0)).slice(0, MOST);
    const end = setAxis(axis, weight(at, order[0]));
    from.replaceChildren(shown(tokens[at].display), " looks at");
    list.replaceChildren(
      ...order.map((key) =>
        h("li", {}, h("button", { type: "button", class: "bar small", title: "Click to move the cursor there", onclick: () => page.move(key, "push"), onpointerenter: () => page.mark(key), onpointerleave: () => page.mark(null) }, h("span", { class: "rank" }, String(key + 1)), shown(tokens[key].display), h("span", { class: "track" }, h("span", { class: "fill", "--w": weight(at, key) / end || 0 })), h("span", { class: "p" }, about1(weight(at, key))))),
      ),
    );
  }

  function render(fresh) {
    if (fresh) small = null;
    const { layer, head } = chosen(), { n_layers, n_heads } = page.start.model;
    if (!grid.children.length) build();
    const key = [page.view.key, colour("--expect")].join();
    if (grid.dataset.key !== key) {
      grid.dataset.key = key;
      paintAll();
    }
    load();
    for (const button of grid.querySelectorAll("[aria-checked=true]")) {
      button.setAttribute("aria-checked", "false");
      button.tabIndex = -1;
    }
    const button = current();
    button?.setAttribute("aria-checked", "true");
    if (button) button.tabIndex = 0;
    grid.style.setProperty("--row", (page.at + 0.5) / page.view.tokens.length);
    write(title, `Layer ${layer}, head ${head}`);
    write(about, `${some(n_layers, "layer")} × ${some(n_heads, "head")}. Click one, or use the arrow keys.`);
    paint();
    tell();
    listMost();
    page.mark(null);
    footer.update();
  }
  new ResizeObserver(() => page.view?.heads && element.isConnected && (size(), paint(), tell())).observe(box);

  function shade() {
    const { layer, head } = chosen();
    const values = page.view.tokens.map((_, key) => (key <= page.at ? Math.sqrt(weight(page.at, key) || 0) : null));
    return { values, hue: "attention", legend: [`Shade: attention of ${layer}.${head}`, "0", "100%"] };
  }

  return { element, render, shade };
}
