// How numbers are written, everywhere alike.

// A broken model gives NaN, which comes as null: a dash, and never a number.
const none = (x) => x === null || x === undefined || Number.isNaN(x);

export const percent = (p) => (none(p) ? "–" : p < 0.0005 ? "under 0.1%" : `${(100 * p).toFixed(1)}%`);
export const exactly = (p) => (none(p) ? "no number" : `${(100 * p).toPrecision(3)}%`);
export const nats = (x) => (none(x) ? "–" : x.toFixed(2));
export const whole = (n) => (none(n) ? "–" : n.toLocaleString("en-US"));
export const some = (n, one, many = `${one}s`) => `${whole(n)} ${n === 1 ? one : many}`;
export const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

/** 1.2345e-7 and 0.12 as Python's `.2g` would write them. */
export function short(x) {
  if (none(x)) return "–";
  if (x === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(x)));
  return size < -4 || size >= 4 ? x.toExponential(1).replace("e-", " × 10⁻").replace("e+", " × 10").replace(/⁻(\d+)/, (_, d) => "⁻" + [...d].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]).join("")) : String(Number(x.toPrecision(2)));
}

/** A round number not below x, for the end of an axis. */
export function roundUp(x) {
  const unit = 10 ** Math.floor(Math.log10(x || 1));
  return [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10].map((step) => step * unit).find((end) => end >= x - 1e-12) ?? 10 * unit;
}
