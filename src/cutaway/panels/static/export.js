// Below every figure: the Python that makes it, and its files. The files are those that Result.save writes.

import { h, say } from "./dom.js";

/** Text to the clipboard; where that is forbidden it is selected, ready for the keyboard. Returns what happened. */
export async function copy(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    return "Copied";
  } catch {
    const from = element ?? document.body.appendChild(h("textarea", { class: "hidden" }, text));
    if (from.select) from.select();
    else getSelection().selectAllChildren(from);
    const copied = document.execCommand?.("copy");
    if (!element) from.remove();
    return copied ? "Copied" : "Selected";
  }
}

export function copyButton(text, { label = "Copy", element = null, title = null } = {}) {
  const button = h("button", { type: "button", class: "quiet copy", title, onclick: async () => {
    const done = await copy(text(), element?.());
    button.textContent = done;
    say(done);
    setTimeout(() => (button.textContent = label), 1200);
  } }, label);
  return button;
}

export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** The call alone on one line; the model's line goes with the copy. */
const lastLine = (call) => call.trim().split("\n").at(-1);

/**
 * `ask` sends requests, as page.ask does; `what()` is the body of /api/save less its format, or null for no files; `call()` the Python.
 * `own`: files that the page makes itself: {ending: () => Blob}.
 */
export function exports({ ask, what = null, call, formats = ["png", "svg", "csv", "json"], own = {}, name = "cutaway" }) {
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const code = h("code", { class: "call" });
  const save = async (button, format) => {
    problem.hidden = true;
    button.setAttribute("aria-busy", "true");
    try {
      const found = own[format] ? { name: `${name}.${format}`, blob: own[format]() } : await ask.file(`save ${name} ${format}`, "api/save", { ...what(), format });
      download(found.blob, found.name ?? `${name}.${format}`);
      say(`${format.toUpperCase()} saved`);
    } catch (error) {
      if (ask.overtaken(error)) return;
      problem.textContent = `${format.toUpperCase()} was not saved: ${error.message}`;
      problem.hidden = false;
    } finally {
      button.removeAttribute("aria-busy");
    }
  };
  const buttons = formats.map((format) => {
    const button = h("button", { type: "button", class: "quiet", "data-format": format, onclick: () => save(button, format) }, format.toUpperCase());
    return button;
  });
  const whole = () => (call() ? `import cutaway\n\n${call()}` : "");
  const python = h("div", { class: "python" }, h("span", { class: "name" }, "Python"), code, copyButton(whole, { title: "Copy the Python that makes this" }));
  const element = h("footer", { class: "export" }, python, h("div", { class: "files", role: "group", "aria-label": "Save this figure" }, h("span", { class: "name" }, "Save"), buttons), problem);
  return {
    element,
    update() {
      const text = call();
      python.hidden = !text;
      if (text && code.title !== text) {
        code.title = text;
        code.textContent = lastLine(text);
      }
    },
  };
}
