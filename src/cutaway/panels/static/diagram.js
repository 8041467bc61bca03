// One block drawn: the residual stream, and what reads from it and writes to it. Each part picks its sites in the table.

import { h, s } from "./dom.js";

const STREAM = 50, LOW = 122, HALF = 19; // heights: the stream, the branches, half a box

/** `onPick(words)` filters the sites by what a part is called. */
export function diagram(layers, onPick) {
  const part = (words, x, y, width, name, about = null, high = HALF) => {
    const pick = () => onPick(words);
    const key = (event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), pick());
    return s("g", { class: "part", "data-words": words, role: "button", tabindex: "0", "aria-label": `${[name, about].filter(Boolean).join(" ")}${name === "out" ? ` of ${words.split("_")[0]}` : ""}; show its sites`, onclick: pick, onkeydown: key },
      s("rect", { x, y: y - high, width, height: 2 * high, rx: 5 }),
      s("text", { class: "name", x: x + width / 2, y: about ? y - 3 : y + 4, "text-anchor": "middle" }, name), " ",
      about ? s("text", { class: "about", x: x + width / 2, y: y + 12, "text-anchor": "middle" }, about) : "");
  };
  const state = (name, x) => {
    const pick = () => onPick(name);
    const key = (event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), pick());
    return s("g", { class: "part state", "data-words": name, role: "button", tabindex: "0", "aria-label": `${name}, a state of the stream; show its site`, onclick: pick, onkeydown: key },
      s("rect", { x: x - 38, y: STREAM - 36, width: 76, height: 46, rx: 5 }), s("circle", { cx: x, cy: STREAM, r: 4.5 }), s("text", { class: "name", x, y: STREAM - 17, "text-anchor": "middle" }, name));
  };
  const line = (points) => s("polyline", { class: "flow", points });
  const arrow = (points) => s("polyline", { class: "flow", points, "marker-end": "url(#tip)" });
  const plus = (x) => s("g", { class: "plus" }, s("circle", { cx: x, cy: STREAM, r: 8 }), s("path", { d: `M${x - 4} ${STREAM}h8M${x} ${STREAM - 4}v8` }));
  const picture = s("svg", { class: "diagram", viewBox: "0 0 896 166", role: "group", "aria-label": "The forward pass, one block drawn" },
    s("defs", {}, s("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, s("path", { d: "M0 0L8 4L0 8z" }))),
    s("rect", { class: "block", x: 132, y: 4, width: 604, height: 158, rx: 10 }),
    s("text", { class: "times", x: 726, y: 152, "text-anchor": "end" }, `× ${layers} ${layers === 1 ? "layer" : "layers"}`),
    arrow(`60,${STREAM} 758,${STREAM}`), arrow(`824,${STREAM} 838,${STREAM}`), arrow(`94,${LOW - HALF} 94,${STREAM + 10}`),
    arrow(`206,${STREAM} 206,${LOW} 220,${LOW}`), arrow(`258,${LOW} 274,${LOW}`), arrow(`382,${LOW} 406,${LOW} 406,${STREAM + 10}`),
    arrow(`488,${STREAM} 488,${LOW} 502,${LOW}`), arrow(`540,${LOW} 556,${LOW}`), arrow(`622,${LOW} 642,${LOW} 642,${STREAM + 10}`),
    part("embed", 4, STREAM, 56, "embed"), part("pos_embed", 60, LOW, 68, "position"), plus(94),
    state("resid_pre", 174), part("ln1", 220, LOW, 38, "ln1"), part("attn.", 274, LOW, 108, "attention", "q k v → pattern → z"), part("attn_out", 360, 84, 40, "out", null, 11), plus(406),
    state("resid_mid", 450), part("ln2", 502, LOW, 38, "ln2"), part("mlp.", 556, LOW, 66, "MLP", "pre → post"), part("mlp_out", 596, 84, 40, "out", null, 11), plus(642),
    state("resid_post", 690), part("ln_final", 758, STREAM, 66, "ln_final"), part("logits", 840, STREAM, 52, "logits"));
  return {
    element: h("div", { class: "scroll drawing" }, picture),
    /** Show which part the table is filtered by. */
    pick: (words) => picture.querySelectorAll(".part").forEach((each) => each.setAttribute("aria-pressed", String(each.dataset.words === words))),
  };
}
