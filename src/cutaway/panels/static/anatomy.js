// What the model is made of: sizes, parameters by part, the sites with their other names, and facts that are measured.

import { h, say, write } from "./dom.js";
import { exports } from "./export.js";
import { short, whole } from "./numbers.js";
import { diagram } from "./diagram.js";
import { surprise } from "./next.js";

const SIZES = { n_layers: "Layers", n_heads: "Heads", d_model: "Width (d_model)", d_head: "Head width", d_mlp: "MLP width", d_vocab: "Vocabulary", n_ctx: "Context" };

export function create(page) {
  const { cancel, json, overtaken, stream } = page.ask;
  let found = null, loading = false, checking = false;
  const sizes = h("dl", { class: "facts" });
  const parts = h("ol", { class: "bars parts", "aria-label": "Parameters by part" });
  const filter = h("input", { type: "search", id: "filter", placeholder: "attn, resid, mlp …", oninput: list, spellcheck: "false", autocomplete: "off" });
  const body = h("tbody", {});
  const count = h("span", { class: "status", role: "status" });
  const drawing = diagram(page.start.model.n_layers, (words) => {
    filter.value = filter.value === words ? "" : words;
    list();
  });
  const table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Sites" }, h("table", { class: "sites" }, h("thead", {}, h("tr", {}, ["Site", "Shape", "Meaning", "TransformerLens", "Hugging Face"].map((name) => h("th", { scope: "col" }, name)))), body));
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const check = h("button", { type: "button", class: "primary", onclick: verify }, "Check now");
  const stop = h("button", { type: "button", class: "primary stop", hidden: true, onclick: () => cancel("verify") }, "Stop");
  const status = h("span", { class: "status", role: "status" });
  const checkProblem = h("p", { class: "problem", role: "alert", hidden: true });
  const facts = h("ul", { class: "checks" });
  const progress = h("progress", { hidden: true, "aria-label": "Checking" });
  const footer = exports({ ask: page.ask, name: "anatomy", what: () => ({ what: "anatomy" }), call: () => found?.call ?? "" });
  const element = h(
    "div",
    { class: "anatomy" },
    h("div", { class: "head" }, h("h2", {}, "What it is made of")),
    problem,
    sizes,
    h("h3", {}, "Parameters"),
    parts,
    footer.element,
    h("div", { class: "head again" }, h("h2", {}, "What is certain about it"), h("div", { class: "go" }, check, stop, status)),
    h("p", { class: "note" }, "Measured on this very model: later tokens never change earlier outputs, padding changes nothing, and whether the head is the embedding."),
    progress,
    checkProblem,
    facts,
    h("div", { class: "head again" }, h("h2", {}, "Sites"), h("div", { class: "filter" }, h("label", { for: "filter" }, "Filter"), filter, count)),
    h("p", { class: "note" }, "Every named tensor of the forward pass: each can be captured, and replaced while the model runs. Pick a part of the drawing for its sites."),
    drawing.element,
    table,
  );

  async function load() {
    if (found || loading) return;
    loading = true;
    problem.hidden = true;
    try {
      found = await json("anatomy", "api/anatomy");
      draw();
    } catch (error) {
      if (!overtaken(error)) {
        problem.textContent = error.message;
        problem.hidden = false;
      }
    }
    loading = false;
  }

  function draw() {
    const total = found.parts.reduce((sum, part) => sum + part.parameters, 0);
    const named = Object.entries(SIZES).filter(([key]) => found.config[key] !== undefined && found.config[key] !== null);
    sizes.replaceChildren(...[["Parameters", whole(total)], ...named.map(([key, name]) => [name, whole(found.config[key])])].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    const most = Math.max(...found.parts.map((part) => part.parameters), 1);
    parts.replaceChildren(
      ...found.parts.map((part) =>
        h("li", { class: "bar", title: part.of }, h("span", { class: "part" }, h("b", {}, part.name), h("small", {}, part.of)), h("span", { class: "track" }, h("span", { class: "fill", "--w": part.parameters / most })), h("span", { class: "p" }, whole(part.parameters)), h("span", { class: "share" }, total ? `${((100 * part.parameters) / total).toFixed(1)}%` : "")),
      ),
    );
    list();
    footer.update();
  }

  function list() {
    if (!found) return;
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = found.sites.filter((site) => words.every((word) => Object.values(site).join(" ").toLowerCase().includes(word)));
    body.replaceChildren(
      ...fits.map((site) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, site.name)), h("td", { class: "shape" }, shape(site.shape)), h("td", {}, site.meaning), h("td", {}, dotted(site.transformer_lens)), h("td", {}, dotted(site.hugging_face)))),
    );
    drawing.pick(filter.value);
    write(count, fits.length === found.sites.length ? `${whole(fits.length)} sites` : `${whole(fits.length)} of ${whole(found.sites.length)}`);
  }
  const dotted = (name) => h("code", {}, (name ?? "").split(/(?<=[._])/).flatMap((part) => [part, h("wbr")])); // long names may break after a dot
  const shape = (value) => (Array.isArray(value) ? `[${value.join(", ")}]` : String(value ?? ""));

  async function verify() {
    checking = true;
    checkProblem.hidden = true;
    facts.replaceChildren();
    progress.hidden = false;
    progress.removeAttribute("value");
    write(status, "starting");
    buttons();
    try {
      await stream("verify", "api/verify", {}, (event, data) => {
        if (event === "queued") write(status, `waiting, ${data.ahead} ahead`);
        else if (event === "progress") {
          progress.max = data.of;
          progress.value = data.done;
          write(status, `${data.done} of ${data.of}`);
        } else if (event === "check") facts.append(line(data));
        else if (event === "done") {
          const all = [...facts.children].every((item) => item.classList.contains("holds"));
          write(status, all ? "all hold" : "not all hold");
        }
      });
      say(status.textContent);
    } catch (error) {
      if (overtaken(error)) write(status, "stopped");
      else {
        write(status, "");
        checkProblem.textContent = error.message;
        checkProblem.hidden = false;
      }
    } finally {
      checking = false;
      progress.hidden = true;
      buttons();
    }
  }
  const line = (item) => h("li", { class: item.holds ? "holds" : "fails" }, h("span", { class: "sign", role: "img", "aria-label": item.holds ? "holds" : "does not hold" }, item.holds ? "✓" : "✗"), h("span", { class: "claim" }, item.claim), h("span", { class: "number" }, `${short(item.measured)} ${item.unit}`), h("span", { class: "number allowed" }, `${item.holds && item.measured > item.allowed ? "more than" : "allowed"} ${short(item.allowed)}`));
  function buttons() {
    check.hidden = checking;
    stop.hidden = !checking;
    check.textContent = facts.childElementCount ? "Check again" : "Check now";
  }

  return { element, render: load, shade: () => surprise(page.view) };
}
