"use strict";
// Draws each chart from the page's own data, in the theme of the page, and redraws it when the theme changes.

const { specs, themes } = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const views = new Map(); // element -> vega view

function setTheme(name) {
  root.dataset.theme = name;
}

// A slider's parameter is set by a click on any mark whose datum has a field of the parameter's name.
function followClicks(view) {
  view.addEventListener("click", (event, item) => {
    for (const [name, value] of Object.entries(item?.datum ?? {})) {
      if (sliders(view).includes(name)) view.signal(name, value).run();
    }
  });
}

function sliders(view) {
  return (view._bind ?? []).map((binding) => binding.param.signal);
}

async function draw(element) {
  const previous = views.get(element);
  const kept = previous ? sliders(previous).map((name) => [name, previous.signal(name)]) : [];
  previous?.finalize();
  try {
    const { view } = await vegaEmbed(element, specs[Number(element.dataset.chart)], {
      config: themes[root.dataset.theme],
      renderer: "svg",
      actions: { export: true, source: false, compiled: false, editor: false },
      tooltip: { theme: root.dataset.theme },
    });
    for (const [name, value] of kept) view.signal(name, value);
    await view.runAsync();
    followClicks(view);
    views.set(element, view);
  } catch (error) {
    element.textContent = `This chart could not be drawn: ${error.message}`;
    element.className = "problem";
  }
}

async function drawAll() {
  for (const element of document.querySelectorAll(".chart")) await draw(element);
  document.body.dataset.drawn = root.dataset.theme;
}

drawAll();
dark.addEventListener("change", () => { setTheme(dark.matches ? "dark" : "light"); drawAll(); });
document.getElementById("theme").addEventListener("click", () => {
  setTheme(root.dataset.theme === "dark" ? "light" : "dark");
  drawAll();
});
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch { // not allowed here, as in a notebook's frame: leave the code selected, ready for Ctrl-C
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
