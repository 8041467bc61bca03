// What the model expects after the cursor, beside what came; and how surprised it was all along the text.

import { h, s, shown, write } from "./dom.js";
import { exports } from "./export.js";
import { exactly, nats, percent, roundUp, whole } from "./numbers.js";

const ENDS = [0.1, 0.25, 0.5, 1]; // where an axis of probabilities may end
const SURPRISED = 10; // nats at which the strip's shade is full

/** How surprising each token was: the strip's shade, where a panel has no better. */
export function surprise(view) {
  const values = view.tokens.map((_, i) => (i && view.next[i - 1].actual ? view.next[i - 1].actual.loss / SURPRISED : null));
  return { values, hue: "surprise", legend: ["Shade: surprise", "0", `${SURPRISED} nats`] };
}

/** Below bars: an axis that ends at a round number not below the largest probability. Returns its end. */
export function setAxis(axis, most) {
  const end = ENDS.find((limit) => most <= limit) ?? 1;
  if (axis.dataset.end !== String(end)) {
    axis.dataset.end = end;
    axis.replaceChildren(...[0, 0.5, 1].map((part) => h("span", { "--x": part }, `${Number((100 * end * part).toFixed(1))}%`)));
  }
  return end;
}

export function create(page) {
  const title = h("h2", {});
  const facts = h("dl", { class: "facts" });
  const bars = h("ol", { class: "bars", "aria-label": "Most likely next tokens" });
  const axis = h("div", { class: "axis", "aria-hidden": "true" });
  const hint = h("p", { class: "note" });
  const along = createAlong(page);
  const footer = exports({
    ask: page.ask,
    name: "next-tokens",
    what: () => ({ what: "next", text: page.view.text, bos: page.view.bos, position: page.at }),
    call: () => page.view.call.next,
  });
  const element = h("div", { class: "next" }, h("div", { class: "head" }, title, facts), h("figure", {}, bars, axis, hint), along.element, footer.element);

  function row(token, rank, end, came) {
    const text = token.text, usable = text && !text.includes("\ufffd");
    const button = h(
      "button",
      {
        type: "button",
        class: came ? "bar came" : "bar",
        disabled: !usable || page.at + 1 >= page.start.limits.tokens,
        "data-id": token.id,
        title: `${exactly(token.p)} · id ${token.id}${usable ? " · click to continue the text with it" : ""}`,
        onclick: () => page.continueWith(text),
      },
      h("span", { class: "rank" }, whole(rank)),
      shown(token.display),
      h("span", { class: "track" }, h("span", { class: "fill", "--w": Math.min(1, token.p / end) })),
      h("span", { class: "p" }, percent(token.p)),
      h("span", { class: "mark-came" }, came ? "came" : ""),
    );
    return h("li", { class: rank > 10 ? "far" : null }, button);
  }

  function render() {
    const { view, at } = page;
    const { top, actual, entropy } = view.next[at];
    title.replaceChildren("Expected after ", shown(view.tokens[at].display));
    const end = setAxis(axis, top[0].p);
    const items = top.map((token, k) => row(token, k + 1, end, token.id === actual?.id));
    if (actual && !top.some((token) => token.id === actual.id)) items.push(row(actual, actual.rank, end, true));
    const focused = bars.contains(document.activeElement) ? [...bars.querySelectorAll("button")].indexOf(document.activeElement) : -1;
    bars.replaceChildren(...items);
    if (focused >= 0) bars.querySelectorAll("button")[Math.min(focused, items.length - 1)].focus();
    facts.replaceChildren(
      fact("Read", `${whole(at + 1)} of ${whole(view.tokens.length)}`),
      fact("Entropy", `${nats(entropy)} nats`),
      ...(actual
        ? [fact("Came", shown(actual.display), "came"), fact("Rank", whole(actual.rank)), fact("Surprise", `${nats(actual.loss)} nats`)]
        : [fact("Came", "the text ends here")]),
    );
    write(hint, `Probability over all ${whole(page.start.model.d_vocab)} tokens of the vocabulary. Click a token to continue the text with it.`);
    along.render();
    footer.update();
  }

  return { element, render, shade: () => surprise(page.view) };
}

export const fact = (name, value, kind = null) => h("div", { class: kind }, h("dt", {}, name), h("dd", {}, value));

// --- along the text ---

const WIDE = 1000, HIGH = 118, LEFT = 34, BOTTOM = 16, TOP = 6;

/** Surprise at what came (bars) and entropy (line) after each token; the pointer moves the cursor as on the strip. */
function createAlong(page) {
  const picture = s("svg", { class: "along", role: "img", preserveAspectRatio: "none" });
  const marker = s("rect", { class: "cursor", y: TOP, height: HIGH - TOP - BOTTOM });
  const element = h(
    "figure",
    { class: "plot" },
    h("figcaption", {}, h("h3", {}, "Along the text", h("small", {}, ", nats")), h("span", { class: "keys" }, h("span", { class: "key surprise" }, "surprise at what came"), h("span", { class: "key entropy" }, "entropy of what was expected"))),
    picture,
  );
  let drawn = null, width = 0;

  const under = (event) => {
    const box = picture.getBoundingClientRect(), n = page.view.tokens.length;
    const x = ((event.clientX - box.left) / box.width) * width - LEFT;
    return Math.max(0, Math.min(n - 1, Math.floor((x / (width - LEFT)) * n)));
  };
  let dragging = false;
  picture.addEventListener("pointerdown", (event) => {
    dragging = true;
    picture.setPointerCapture(event.pointerId);
    page.move(under(event), "push");
  });
  picture.addEventListener("pointermove", (event) => (dragging ? page.move(under(event), "replace") : event.pointerType !== "touch" && page.preview(under(event))));
  picture.addEventListener("pointerup", () => (dragging = false));
  picture.addEventListener("pointercancel", () => (dragging = false));
  picture.addEventListener("pointerleave", () => !dragging && page.preview(null));
  new ResizeObserver(() => page.view && render()).observe(picture);

  function draw(view) {
    const n = view.tokens.length, step = (width - LEFT) / n, floor = HIGH - BOTTOM;
    const losses = view.next.map(({ actual }) => actual?.loss ?? null);
    const end = roundUp(Math.max(1, ...losses.filter((x) => x !== null), ...view.next.map(({ entropy }) => entropy)));
    const y = (value) => floor - (value / end) * (floor - TOP);
    const gap = step > 4 ? 1 : 0, wide = Math.min(step - gap, 40), side = (step - wide) / 2; // few tokens: no broad blocks
    const grid = [0, 0.5, 1].flatMap((part) => [
      s("line", { class: "grid", x1: LEFT, x2: width, y1: y(end * part), y2: y(end * part) }),
      s("text", { class: "tick", x: LEFT - 6, y: y(end * part) + 4, "text-anchor": "end" }, String(Number((end * part).toFixed(2)))),
    ]);
    const bars = losses.map((loss, i) => loss !== null && s("rect", { class: "loss", x: LEFT + i * step + side, width: Math.max(0.5, wide), y: y(loss), height: Math.max(0.5, floor - y(loss)) }));
    const line = view.next.map(({ entropy }, i) => `${(LEFT + (i + 0.5) * step).toFixed(1)},${y(entropy).toFixed(1)}`).join(" ");
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((each) => (each / n) * (width - LEFT) > 44) ?? 1000;
    const places = Array.from({ length: Math.floor(n / every) + 1 }, (_, k) => Math.max(1, k * every)).filter((place, k, all) => place <= n && place !== all[k - 1]);
    const ticks = places.map((place) => s("text", { class: "tick", x: LEFT + (place - 0.5) * step, y: HIGH - 3, "text-anchor": "middle" }, String(place)));
    marker.setAttribute("width", Math.max(2, Math.min(step, 44)));
    picture.classList.toggle("dense", step < 4);
    picture.setAttribute("viewBox", `0 0 ${width} ${HIGH}`);
    picture.replaceChildren(marker, ...grid, ...bars.filter(Boolean), n > 1 ? s("polyline", { class: "entropy", points: line }) : s("circle", { class: "dot", cx: LEFT + step / 2, cy: y(view.next[0].entropy), r: 3 }), ...ticks);
    const known = losses.filter((x) => x !== null);
    picture.setAttribute("aria-label", `Surprise and entropy after each of ${n} tokens; surprise is largest after token ${known.length ? losses.indexOf(Math.max(...known)) + 1 : 0}.`);
  }

  function render() {
    const now = Math.round(picture.getBoundingClientRect().width) || WIDE;
    if (drawn !== page.view || width !== now) {
      width = now;
      drawn = page.view;
      draw(page.view);
    }
    const step = (width - LEFT) / page.view.tokens.length;
    marker.setAttribute("x", LEFT + page.at * step + Math.max(0, (step - 44) / 2));
  }
  return { element, render };
}
