// What the model would say at each layer: a heatmap around the cursor, the candidates of one cell, a token's rank by layer.

import { channels, colour, h, s, say, sharp, shown, write } from "./dom.js";
import { exports } from "./export.js";
import { clamp, nats, percent, whole } from "./numbers.js";
import { setAxis, surprise } from "./next.js";

const METRICS = {
  kl: { name: "KL from the output", short: "KL", unit: "nats", about: "how far the prediction is from the model's own output, in nats" },
  entropy: { name: "Entropy", short: "Entropy", unit: "nats", about: "how undecided the prediction is, in nats" },
  rank: { name: "Rank of what came", short: "Rank", unit: "", about: "rank given to the token that came, a logarithmic scale" },
  loss: { name: "Loss of what came", short: "Loss", unit: "nats", about: "surprise at the token that came, in nats" },
};
const CELL = 62, LABEL = 34; // pixels of a column, and of the layers' names
const LEAST = 0.01; // nats at which the colour is full where no more is found: what is less is rounding

export function create(page) {
  const { cancel, json, overtaken } = page.ask;
  let scales = null, turn = 1, inView = null, cells = [], heads = [], columns = 0, hovered = null, first = 0, ranks = null, asked = null;

  const title = h("h2", {});
  const choice = h(
    "div",
    { class: "segments", role: "radiogroup", "aria-label": "Colour" },
    Object.entries(METRICS).map(([key, { name }]) => h("button", { type: "button", role: "radio", "data-metric": key, onclick: () => page.change({ metric: key }), onkeydown: (event) => step(event, key) }, name)),
  );
  const scale = h("div", { class: "scale", "aria-hidden": "true" }, h("span", { class: "number" }, "0"), h("span", { class: "ramp" }), h("span", { class: "number" }));
  const overview = h("canvas", { class: "overview", role: "img" });
  const frame = h("div", { class: "window" });
  const map = h("div", { class: "map" }, overview, frame);
  const grid = h("div", { class: "heat", role: "grid", tabindex: "0", "aria-label": "Layers by tokens" });
  const note = h("p", { class: "note" });
  const said = h("div", { class: "card" });
  const axis = h("div", { class: "axis small", "aria-hidden": "true" });
  const rankPlot = s("svg", { class: "ranks", role: "img" });
  const pinBox = h("input", { type: "text", id: "pin", placeholder: "·States", "aria-label": "A token to follow; · stands for a space", spellcheck: "false", autocomplete: "off", autocapitalize: "off" });
  const pinProblem = h("p", { class: "problem", role: "alert", hidden: true });
  const pinned = h("span", { class: "pinned" });
  const pinForm = h("form", { class: "pin", onsubmit: (event) => { event.preventDefault(); pinText(pinBox.value); } }, h("label", { for: "pin" }, "Follow a token"), pinBox, h("button", { type: "submit", class: "quiet" }, "Pin"), pinned);
  const followed = h("div", { class: "card" }, h("h3", {}, "Rank by layer"), rankPlot, pinForm, pinProblem);
  const footer = exports({ ask: page.ask, name: "lens", what: () => ({ what: "lens", text: page.view.text, bos: page.view.bos, metric: page.state.metric, position: page.at }), call });
  const element = h("div", { class: "lens" }, h("div", { class: "head" }, title, choice), h("figure", {}, map, grid, h("div", { class: "under-heat" }, note, scale)), h("div", { class: "pair" }, said, followed), footer.element);

  /** The lens; and where a token is followed, the lens that follows it. */
  function call() {
    const lines = page.view.call.lens;
    return ranks?.view === page.view && ranks.id === page.state.pin ? `${lines}\n${ranks.call.split("\n").at(-1)}` : lines;
  }
  const rows = () => page.view.lens.layers.map((_, r) => r).reverse(); // the last layer on top, as the stream flows up
  /** The token that a layer puts k-th after a token. */
  function candidate(r, i, k) {
    const { top, p, names } = page.view.lens;
    return { id: top[r][i][k], display: names[top[r][i][k]], p: p[r][i][k] };
  }
  const row = () => (hovered ? hovered.row : chosenRow());
  const column = () => (hovered ? hovered.i : page.at);
  function chosenRow() {
    const found = page.view.lens.layers.indexOf(page.state.layer);
    return found < 0 ? page.view.lens.layers.length - 1 : found;
  }

  function step(event, key) {
    const keys = Object.keys(METRICS), by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const to = keys[(keys.indexOf(key) + by + keys.length) % keys.length];
    page.change({ metric: to });
    choice.querySelector(`[data-metric=${to}]`).focus();
  }

  // --- the heatmap ---

  const raw = (r, i) => page.view.lens[page.state.metric][r]?.[i] ?? null;
  function value(r, i) {
    const x = raw(r, i), end = scales[page.state.metric];
    if (x === null || (page.state.metric === "rank" && x < 1)) return null;
    return page.state.metric === "rank" ? Math.log10(x) / Math.log10(end) : x / end;
  }
  /** From which value on a cell is so strong that its text changes colour: where the other one reads better. */
  function turning() {
    const [from, to] = [colour("--well"), colour("--heat")].map(channels);
    const linear = (c) => (c <= 10 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4);
    const light = (v) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, k) => sum + weight * linear(from[k] + v * (to[k] - from[k])), 0);
    const rising = light(1) > light(0); // a dark page: text turns dark where cells turn light
    for (let v = 0; v < 1; v += 0.01) if (rising ? light(v) > 0.18 : light(v) < 0.18) return v;
    return 1;
  }
  function measure() {
    const { lens } = page.view;
    scales = {};
    for (const metric of Object.keys(METRICS)) {
      const all = lens[metric].flat().filter((x) => x !== null);
      scales[metric] = metric === "rank" ? page.start.model.d_vocab : Math.max(LEAST, ...all);
    }
  }

  function build() {
    const order = rows();
    cells = [];
    heads = [];
    grid.style.setProperty("--columns", columns);
    grid.classList.toggle("tall", order.length > 16);
    inView = null;
    grid.style.setProperty("--high", `${order.length <= 14 ? 28 : order.length <= 26 ? 22 : 17}px`);
    const lines = order.map((r) => {
      cells[r] = Array.from({ length: columns }, (_, c) => h("div", { class: "cell", role: "gridcell", "data-r": r, "data-c": c }));
      return h("div", { class: "line", role: "row" }, h("div", { class: "layer", role: "rowheader" }, String(page.view.lens.layers[r])), cells[r]);
    });
    heads = Array.from({ length: columns }, (_, c) => h("div", { class: "read", role: "columnheader", "data-c": c }));
    grid.replaceChildren(...lines, h("div", { class: "line reads", role: "row" }, h("div", { class: "layer", role: "rowheader" }, "layer"), heads));
  }

  const at = (event) => {
    const cell = event.target.closest?.("[data-c]");
    if (!cell || cell.dataset.c === undefined) return null;
    const i = first + Number(cell.dataset.c);
    return i < page.view.tokens.length ? { row: cell.dataset.r === undefined ? chosenRow() : Number(cell.dataset.r), i } : null;
  };
  grid.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    const found = at(event);
    if (found?.row === hovered?.row && found?.i === hovered?.i) return;
    hovered = found;
    details();
  });
  grid.addEventListener("pointerleave", () => {
    hovered = null;
    details();
  });
  grid.addEventListener("click", (event) => {
    const found = at(event);
    if (!found) return;
    hovered = null;
    page.move(found.i, "push", { layer: page.view.lens.layers[found.row] });
  });
  grid.addEventListener("keydown", (event) => {
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      event.preventDefault();
      hovered = null;
      const to = clamp(chosenRow() + (event.key === "ArrowUp" ? 1 : -1), 0, page.view.lens.layers.length - 1);
      page.change({ layer: page.view.lens.layers[to] }, "replace");
    } else if (!page.stripKey(event)) return;
    requestAnimationFrame(() => requestAnimationFrame(() => say(grid.querySelector(".cell.chosen")?.getAttribute("aria-label") ?? "")));
  });

  function heat() {
    const n = page.view.tokens.length, r0 = row(), i0 = column();
    for (const r of rows()) {
      for (let c = 0; c < columns; c++) {
        const cell = cells[r][c], i = first + c;
        cell.classList.toggle("none", i >= n);
        if (i >= n) continue;
        const v = value(r, i), best = candidate(r, i, 0);
        if (cell.dataset.word !== best.display) {
          cell.dataset.word = best.display;
          cell.replaceChildren(shown(best.display));
        }
        cell.style.setProperty("--v", v === null ? 0 : v.toFixed(3));
        cell.classList.toggle("strong", v !== null && v > turn);
        cell.classList.toggle("empty", v === null);
        cell.classList.toggle("chosen", r === r0 && i === i0);
        cell.setAttribute("aria-selected", r === r0 && i === i0);
        cell.setAttribute("aria-label", `layer ${page.view.lens.layers[r]}, after ${page.view.tokens[i].display}: ${best.display} ${percent(best.p)}, ${METRICS[page.state.metric].name} ${written(raw(r, i))}`);
      }
    }
    heads.forEach((head, c) => {
      const i = first + c;
      head.classList.toggle("none", i >= n);
      if (i >= n) return;
      head.classList.toggle("chosen", i === i0);
      head.classList.toggle("unread", i > page.at);
      if (head.dataset.word === page.view.tokens[i].display) return;
      head.dataset.word = page.view.tokens[i].display;
      head.replaceChildren(shown(head.dataset.word));
    });
  }

  const written = (x) => (x === null ? "–" : page.state.metric === "rank" ? whole(x) : `${nats(x)} nats`);

  // --- all positions, where not all fit ---

  function mapAll() {
    const n = page.view.tokens.length, layers = page.view.lens.layers.length;
    map.hidden = n <= columns;
    if (map.hidden) return;
    const high = clamp(Math.round(96 / layers), 3, 10) * layers;
    const width = map.clientWidth || 600;
    const context = sharp(overview, width, high);
    overview.setAttribute("aria-label", `All ${n} tokens; click to move the cursor`);
    const image = new ImageData(n, layers), [red, green, blue] = channels(colour("--heat"));
    rows().forEach((r, y) => {
      for (let i = 0; i < n; i++) image.data.set([red, green, blue, Math.round(255 * clamp(value(r, i) ?? 0, 0, 1))], 4 * (y * n + i));
    });
    const small = h("canvas", { width: n, height: layers });
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, width, high);
  }
  let dragging = false;
  const overviewAt = (event) => {
    const box = overview.getBoundingClientRect();
    return clamp(Math.floor(((event.clientX - box.left) / box.width) * page.view.tokens.length), 0, page.view.tokens.length - 1);
  };
  overview.addEventListener("pointerdown", (event) => {
    dragging = true;
    overview.setPointerCapture(event.pointerId);
    page.move(overviewAt(event), "push");
  });
  overview.addEventListener("pointermove", (event) => dragging && page.move(overviewAt(event), "replace"));
  overview.addEventListener("pointerup", () => (dragging = false));
  overview.addEventListener("pointercancel", () => (dragging = false));

  // --- one cell ---

  function candidates() {
    const { view } = page, r = row(), i = column(), { layers, sites } = view.lens;
    const final = r === layers.length - 1, found = view.lens.top[r][i].map((_, k) => candidate(r, i, k)), end = setAxis(axis, found[0].p);
    const items = found.map((token, k) =>
      h(
        "li",
        {},
        h("button", { type: "button", class: "bar small", title: `id ${token.id} · click to follow its rank`, "aria-pressed": String(page.state.pin === token.id), onclick: () => page.change({ pin: page.state.pin === token.id ? null : token.id }) },
          h("span", { class: "rank" }, String(k + 1)), shown(token.display), h("span", { class: "track" }, h("span", { class: "fill", "--w": token.p / end })), h("span", { class: "p" }, percent(token.p))),
      ),
    );
    const metrics = Object.keys(METRICS).map((key) => {
      const x = view.lens[key][r][i];
      const text = x === null || (key === "rank" && !x) ? "–" : key === "rank" ? whole(x) : `${nats(x)}`;
      return h("div", { class: key === page.state.metric ? "current" : null }, h("dt", { title: METRICS[key].name }, METRICS[key].short), h("dd", {}, text, METRICS[key].unit && x !== null ? h("small", {}, ` ${METRICS[key].unit}`) : null));
    });
    said.replaceChildren(
      h("h3", {}, `Layer ${layers[r]}${final ? ", the output" : ""}, after `, shown(view.tokens[i].display)),
      h("ol", { class: "bars small", "aria-label": `Most likely at ${sites[r]}` }, items),
      axis,
      h("dl", { class: "facts tiny" }, metrics),
    );
  }

  // --- ranks by layer ---

  async function pinText(text) {
    const token = text.replaceAll("·", " ").replaceAll("↵", "\n");
    if (!text) return page.change({ pin: null });
    const { view } = page;
    try {
      const found = await json("pin", "api/rank", { text: view.text, bos: view.bos, token });
      ranks = { view, ...found };
      pinProblem.hidden = true;
      page.change({ pin: found.id });
      pinBox.value = "";
      details();
    } catch (error) {
      fail(error);
    }
  }
  function fail(error) {
    if (overtaken(error)) return;
    pinProblem.textContent = error.message;
    pinProblem.hidden = false;
  }
  async function follow() {
    const { pin } = page.state, view = page.view;
    if (pin === null) {
      cancel("rank");
      asked = ranks = null;
      pinProblem.hidden = true;
      return;
    }
    if (ranks?.view === view && ranks.id === pin) return;
    if (asked?.view === view && asked.pin === pin) return;
    asked = { view, pin };
    try {
      const found = await json("rank", "api/rank", { text: view.text, bos: view.bos, token: pin });
      ranks = { view, ...found };
      pinProblem.hidden = true;
      if (page.view === view) page.refresh();
    } catch (error) {
      fail(error);
    }
  }

  function plot() {
    const { view } = page, i = column(), { layers } = view.lens;
    const width = Math.max(240, Math.round(rankPlot.getBoundingClientRect().width) || 340), high = 156;
    const left = 62, right = 30, top = 16, bottom = 24, most = Math.log10(page.start.model.d_vocab);
    const x = (r) => (layers.length === 1 ? (left + width - right) / 2 : left + (r / (layers.length - 1)) * (width - left - right));
    const y = (rank) => top + (Math.log10(rank || 1) / most) * (high - top - bottom);
    const came = view.next[i].actual;
    const lines = [];
    const pin = ranks?.view === view && ranks.id === page.state.pin ? ranks : null;
    if (came && came.id !== pin?.id) lines.push({ kind: "came", values: layers.map((_, r) => view.lens.rank[r][i]) });
    if (pin) lines.push({ kind: came?.id === pin.id ? "came" : "followed", values: layers.map((_, r) => pin.rank[r][i]) });
    const below = (k, r) => (lines.length > 1 ? lines[k].values[r] > lines[1 - k].values[r] || (k === 1 && lines[0].values[r] === lines[1].values[r]) : y(lines[k].values[r]) < top + 6);
    const wide = (width - left - right) / layers.length > 50; // room for every number; else that of the layer chosen
    const ticks = [1, 10, 100, 1000, 10_000, 100_000].filter((rank) => rank <= page.start.model.d_vocab);
    const every = Math.ceil(layers.length / 12);
    rankPlot.setAttribute("viewBox", `0 0 ${width} ${high}`);
    rankPlot.setAttribute("aria-label", lines.map(({ kind, values }) => `${kind === "came" ? "what came" : "the token followed"}: rank by layer ${values.join(", ")}`).join("; ") || "Nothing came after the last token; follow a token to see its rank.");
    rankPlot.replaceChildren(
      ...ticks.flatMap((rank) => [s("line", { class: "grid", x1: left, x2: width - right, y1: y(rank), y2: y(rank) }), s("text", { class: "tick", x: left - 22, y: y(rank) + 4, "text-anchor": "end" }, whole(rank))]),
      ...layers.map((layer, r) => (r % every ? null : s("text", { class: "tick", x: x(r), y: high - 4, "text-anchor": "middle" }, String(layer)))).filter(Boolean),
      s("text", { class: "tick", x: left - 22, y: high - 4, "text-anchor": "end" }, "layer"),
      lines.length ? "" : s("text", { x: (left + width - right) / 2, y: high / 2 - 4, "text-anchor": "middle" }, "Nothing came after the last token: follow one."),
      ...lines.flatMap(({ kind, values }, k) => [
        values.length > 1 ? s("polyline", { class: `rank ${kind}`, points: values.map((v, r) => `${x(r)},${y(v)}`).join(" ") }) : null,
        ...values.map((v, r) => s("circle", { class: `rank ${kind}`, cx: x(r), cy: y(v), r: r === row() ? 5 : 3.2 })),
        values.map((v, r) => !wide && r !== row() ? null : s("text", { class: `value ${kind}`, x: x(r), y: y(v) + (below(k, r) ? 16 : -8), "text-anchor": "middle" }, whole(v))),
      ].flat().filter(Boolean)),
    );
    pinned.replaceChildren(
      ...(came ? [h("span", { class: "key came" }, "came ", shown(came.display))] : []),
      ...(pin ? [h("span", { class: came?.id === pin.id ? "same" : "key followed" }, came?.id === pin.id ? "followed" : shown(pin.display), h("button", { type: "button", class: "quiet icon", "aria-label": "Stop following", title: "Stop following", onclick: () => page.change({ pin: null }) }, "×"))] : []),
    );
  }

  /** The layer chosen, where there are too many to show at once. */
  function reveal() {
    const line = cells[chosenRow()]?.[0]?.parentElement;
    if (!grid.classList.contains("tall") || hovered || inView === line || !line) return;
    inView = line;
    const top = line.offsetTop - grid.offsetTop, foot = 34; // the words below stay in place
    if (top < grid.scrollTop) grid.scrollTop = top;
    else if (top + line.offsetHeight > grid.scrollTop + grid.clientHeight - foot) grid.scrollTop = top + line.offsetHeight - grid.clientHeight + foot;
  }

  function details() {
    heat();
    reveal();
    candidates();
    plot();
  }

  function render(fresh) {
    if (fresh || !scales) measure();
    const n = page.view.tokens.length;
    const room = Math.max(1, Math.floor(((grid.clientWidth || 640) - LABEL) / CELL));
    const wanted = Math.min(room, n);
    if (wanted !== columns || cells.length !== page.view.lens.layers.length) {
      columns = wanted;
      build();
    }
    if (page.at < first || page.at >= first + columns || !page.previewing) first = clamp(page.at - Math.floor(columns * 0.66), 0, n - columns);
    for (const button of choice.children) {
      const current = button.dataset.metric === page.state.metric;
      button.setAttribute("aria-checked", current);
      button.tabIndex = current ? 0 : -1;
    }
    write(title, `What each layer would say${n > columns ? ` after tokens ${first + 1}–${first + columns}` : ""}`);
    write(note, `Words: first choices. Shade: ${METRICS[page.state.metric].about}.`);
    scale.firstChild.textContent = page.state.metric === "rank" ? "1" : "0";
    scale.lastChild.textContent = page.state.metric === "rank" ? whole(scales.rank) : `${nats(scales[page.state.metric])} nats`;
    follow();
    const key = [page.state.metric, page.view.key, columns, map.clientWidth, document.documentElement.dataset.theme, matchMedia("(prefers-color-scheme: dark)").matches].join();
    if (map.dataset.key !== key) {
      map.dataset.key = key;
      turn = turning();
      mapAll();
    }
    frame.style.left = `${(100 * first) / n}%`;
    frame.style.width = `${(100 * columns) / n}%`;
    details();
    footer.update();
  }
  new ResizeObserver(() => page.view?.lens && element.isConnected && render()).observe(grid);

  return { element, render, shade: () => surprise(page.view) };
}
