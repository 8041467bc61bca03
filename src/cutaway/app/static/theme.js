// Before the first paint: the theme that the reader chose the last time, if any. Without one the system's is followed.
try {
  const chosen = localStorage.getItem("cutaway-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be forbidden; the system's theme it is.
}
