// The text goes on from the cursor, token by token, each with the probability that the model gave it.

import { h, say, shown, tokenNodes, write } from "./dom.js";
import { copyButton, exports } from "./export.js";
import { exactly, percent, some } from "./numbers.js";
import { surprise } from "./next.js";

const BEFORE = 24; // tokens of the prefix that are shown

export function create(page) {
  const { cancel, overtaken, stream } = page.ask;
  const { limits } = page.start;
  let made = null; // {text, tokens, call, finished}: the last continuation
  let running = false;

  const title = h("h2", {});
  const fields = {
    n: field("n", "New tokens", { min: 1, max: limits.new_tokens, step: 1 }),
    temperature: field("temperature", "Temperature", { min: 0, max: 2, step: 0.05 }),
    top_k: field("top_k", "Top k", { min: 1, max: limits.top ?? 100, step: 1 }, "all"),
    top_p: field("top_p", "Top p", { min: 0.05, max: 1, step: 0.05 }, "all"),
    seed: field("seed", "Seed", { min: 0, step: 1 }),
  };
  const go = h("button", { type: "submit", class: "primary" }, "Generate");
  const stop = h("button", { type: "button", class: "primary stop", hidden: true, onclick: () => cancel("generate") }, "Stop");
  const status = h("span", { class: "status", role: "status" });
  const form = h("form", { class: "sampling", onsubmit: (event) => { event.preventDefault(); run(); } }, Object.values(fields).map(({ element }) => element), h("div", { class: "go" }, go, stop, status));
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const output = h("div", { class: "made", role: "group", "aria-label": "Continuation" });
  const use = h("button", { type: "button", class: "quiet", onclick: () => page.readText(whole(), made.cursor) }, "Use as text");
  const again = h("button", { type: "button", class: "quiet", onclick: () => { page.change({ seed: page.state.seed + 1 }); run(); } }, "Another");
  const copyText = copyButton(() => whole(), { label: "Copy text" });
  const after = h("div", { class: "after", hidden: true }, use, again, copyText);
  const hint = h("p", { class: "note" });
  const footer = exports({
    ask: page.ask,
    name: "continuation",
    call: () => made?.call ?? "",
    formats: ["json", "csv"],
    own: { json: () => new Blob([JSON.stringify({ prompt: made?.text ?? "", tokens: made?.tokens ?? [] }, null, 1)], { type: "application/json" }), csv: () => new Blob([csv()], { type: "text/csv" }) },
  });
  const element = h("div", { class: "generate" }, h("div", { class: "head" }, title), form, problem, output, after, hint, footer.element);

  const whole = () => made.finishedText ?? made.text + made.tokens.map(({ text }) => text).join("");
  const csv = () => ["id,token,probability", ...(made?.tokens ?? []).map(({ id, text, p }) => `${id},"${text.replaceAll('"', '""')}",${p}`)].join("\r\n");

  function field(key, name, range, none = null) {
    const input = h("input", { type: "number", id: `g-${key}`, ...range, placeholder: none, inputmode: "decimal" });
    const slider = range.max === undefined ? null : h("input", { type: "range", ...range, "aria-label": `${name}, slider`, tabindex: "-1" });
    const put = (text, how) => {
      const value = text === "" ? null : Number(text);
      if (value === null && !none) return;
      if (value !== null && (!Number.isFinite(value) || value < range.min || (range.step === 1 && !Number.isInteger(value)))) return;
      page.change({ [key]: value }, how);
    };
    input.addEventListener("input", () => put(input.value, "replace"));
    slider?.addEventListener("input", () => put(slider.value === slider.max && none ? "" : slider.value, "replace"));
    const show = () => {
      const value = page.state[key];
      if (document.activeElement !== input || (value !== null && Number(input.value) !== value)) input.value = value ?? "";
      if (slider) slider.value = value ?? slider.max;
    };
    return { element: h("div", { class: "field" }, h("label", { for: `g-${key}` }, name), input, slider), show };
  }

  async function run() {
    const { view, state } = page, at = page.cursor;
    const text = view.slice(0, view.tokens[at].end ?? 0);
    made = { text, cursor: at, view: view.key, before: view.tokens.slice(Math.max(0, at + 1 - BEFORE), at + 1), cut: at + 1 > BEFORE, tokens: [], call: "", finishedText: null };
    running = true;
    problem.hidden = true;
    write(status, "starting");
    draw();
    page.refresh();
    const mine = made;
    try {
      await stream("generate", "api/generate", { text, bos: view.bos, max_new_tokens: state.n, temperature: state.temperature, top_k: state.top_k, top_p: state.top_p, seed: state.seed }, (event, data) => {
        if (mine !== made) return;
        if (event === "queued") write(status, `waiting, ${data.ahead} ahead`);
        else if (event === "token") {
          made.tokens.push(data);
          output.append(chip(data));
          write(status, `${made.tokens.length} of ${state.n}`);
        } else if (event === "done") {
          made.call = data.call;
          made.finishedText = made.text + data.text;
        }
      });
      if (mine === made) write(status, some(made.tokens.length, "token"));
      say(`Done: ${some(mine.tokens.length, "token")}`);
    } catch (error) {
      if (mine !== made) return;
      if (overtaken(error)) write(status, `stopped after ${some(made.tokens.length, "token")}`);
      else {
        write(status, "");
        problem.textContent = error.message;
        problem.hidden = false;
      }
    } finally {
      if (mine === made) {
        running = false;
        page.refresh();
      }
    }
  }

  const prefix = (tokens, cut) => h("span", { class: "prefix" }, cut ? "… " : "", tokens.map((token) => (token.start === null ? h("span", { class: "raw" }, token.display) : tokenNodes(token))));
  const chip = (token) => h("span", { class: "chip", title: `${exactly(token.p)} · id ${token.id}`, "--v": Math.sqrt(token.p) }, shown(token.display), h("small", {}, percent(token.p).replace("under ", "<")));

  /** Before anything was generated: the end of what has been read. */
  function preview() {
    const { tokens } = page.view, at = page.at;
    output.replaceChildren(prefix(tokens.slice(Math.max(0, at + 1 - BEFORE), at + 1), at + 1 > BEFORE), h("span", { class: "caret" }));
  }

  function draw() {
    output.replaceChildren(
      prefix(made.before, made.cut),
      ...made.tokens.map(chip),
    );
  }

  function render() {
    const { view } = page, at = page.at;
    title.replaceChildren("Continue after ", shown(view.tokens[at].display));
    for (const each of Object.values(fields)) each.show();
    go.hidden = running;
    stop.hidden = !running;
    after.hidden = running || !made?.tokens.length;
    if (!made) preview();
    const room = page.start.model.n_ctx - (at + 1);
    write(hint, made ? "Under each token: the probability that the model gave it, before temperature, top k and top p." : `The text goes on from the cursor; ${some(room, "token")} fit. Temperature 0 always takes the most likely token.`);
    footer.element.hidden = !made?.tokens.length || running;
    footer.update();
  }

  return { element, render, shade: () => surprise(page.view) };
}
