// The whole state of the page, and its form in the URL's fragment (which no server ever sees).

const DEFAULTS = {
  text: null, // null: the first example
  bos: false,
  cursor: null, // the last token that the model has read; null: where the page finds it best
  panel: "next",
  metric: "kl",
  layer: null,
  head: null,
  pin: null, // id of the token whose rank is followed
  n: 40,
  temperature: 0.8,
  top_k: null,
  top_p: null,
  seed: 0,
};
const CHOICES = { panel: ["next", "lens", "attention", "generate", "anatomy"], metric: ["kl", "entropy", "rank", "loss"] };
const NUMBERS = { cursor: [0, 1e6], layer: [0, 1e4], head: [0, 1e4], pin: [0, 1e7], n: [1, 4096], temperature: [0, 100], top_k: [1, 1e7], top_p: [1e-9, 1], seed: [0, Number.MAX_SAFE_INTEGER] };
const REAL = ["temperature", "top_p"];

export const state = { ...DEFAULTS };
const listeners = [];
let waiting = null; // the timer of a replaced URL: browsers limit how often it may change

export const onChange = (listener) => listeners.push(listener);

/** Change the state. `how`: "push" for a choice (Back undoes it), "replace" while something moves. */
export function change(changes, how = "push") {
  const changed = Object.keys(changes).filter((key) => state[key] !== changes[key]);
  if (!changed.length) return;
  if (how === "push") flush(); // what was reached before belongs to the entry that is left
  Object.assign(state, changes);
  if (how === "push") history.pushState(null, "", address());
  else waiting ??= setTimeout(flush, 300);
  for (const listener of listeners) listener(changed);
}

function flush() {
  if (waiting === null) return;
  clearTimeout(waiting);
  waiting = null;
  history.replaceState(null, "", address());
}

export function address() {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(state)) {
    if (value !== DEFAULTS[key]) query.set(key, value === true ? "1" : value);
  }
  return `${location.pathname}${location.search}#${query}`;
}

/** A fragment as state; what it does not say, or says wrongly, is the default. */
export function parse(fragment) {
  const query = new URLSearchParams(fragment.replace(/^#/, ""));
  const found = { ...DEFAULTS };
  if (query.has("text")) found.text = query.get("text");
  found.bos = query.get("bos") === "1";
  for (const [key, allowed] of Object.entries(CHOICES)) if (allowed.includes(query.get(key))) found[key] = query.get(key);
  for (const [key, [low, high]] of Object.entries(NUMBERS)) {
    const value = query.get(key)?.trim() ? Number(query.get(key)) : NaN;
    if (value >= low && value <= high && (REAL.includes(key) || Number.isInteger(value))) found[key] = value;
  }
  return found;
}

export function restore() {
  Object.assign(state, parse(location.hash));
}

window.addEventListener("popstate", () => {
  clearTimeout(waiting);
  waiting = null;
  const before = { ...state };
  restore();
  const changed = Object.keys(state).filter((key) => state[key] !== before[key]);
  if (changed.length) for (const listener of listeners) listener(changed);
});
window.addEventListener("pagehide", flush);
