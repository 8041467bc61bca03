// Requests to the page's own server. A newer request of the same kind aborts the older one.

const CLIENT = [...crypto.getRandomValues(new Uint8Array(12))].map((b) => b.toString(16).padStart(2, "0")).join("");
const TOKEN = new URLSearchParams(location.search).get("token");
const running = new Map(); // kind -> AbortController

/** What went wrong, in one line. `gone`: nobody answered. */
export class Problem extends Error {
  constructor(message, gone = false) {
    super(message);
    this.gone = gone;
  }
}

export const overtaken = (error) => error?.name === "AbortError";
export const health = { onGone: () => {}, onBack: () => {} };

async function ask(path, body, signal) {
  const headers = { "X-Cutaway-Client": CLIENT };
  if (TOKEN) headers["X-Cutaway-Token"] = TOKEN;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: body === undefined ? undefined : JSON.stringify(body), signal });
  } catch (error) {
    if (overtaken(error)) throw error;
    health.onGone();
    throw new Problem("The server does not answer.", true);
  }
  health.onBack();
  if (response.ok) return response;
  const found = await response.json().catch(() => null);
  throw new Problem(found?.error ?? `The server answered ${response.status}.`);
}

/** Abort what runs under this name, if anything. */
export function cancel(kind) {
  running.get(kind)?.abort();
  running.delete(kind);
}

async function alone(kind, work) {
  cancel(kind);
  const controller = new AbortController();
  running.set(kind, controller);
  try {
    return await work(controller.signal);
  } catch (error) {
    if (overtaken(error) || error instanceof Problem) throw error;
    health.onGone(); // a body that broke off
    throw new Problem("The server broke off its answer.", true);
  } finally {
    if (running.get(kind) === controller) running.delete(kind);
  }
}

export const json = (kind, path, body) => alone(kind, async (signal) => (await ask(path, body, signal)).json());
export const bytes = (kind, path, body) => alone(kind, async (signal) => (await ask(path, body, signal)).arrayBuffer());

export const file = (kind, path, body) =>
  alone(kind, async (signal) => {
    const response = await ask(path, body, signal);
    const name = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "")?.[1];
    return { name, blob: await response.blob() };
  });

/** A stream of server-sent events; `on(event, data)` gets each. Resolves when it ends. */
export const stream = (kind, path, body, on) =>
  alone(kind, async (signal) => {
    const reader = (await ask(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const lines = block.split(/\r?\n/);
        const field = (name) => lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).replace(/^ /, "")).join("\n");
        const data = field("data");
        if (!data) continue; // a comment that keeps the connection alive
        const event = field("event") || "message";
        if (event === "error") throw new Problem(JSON.parse(data).error);
        on(event, JSON.parse(data));
      }
    }
  });

/** Whether anyone is there; asks nothing of the model. */
export async function answers() {
  try {
    return (await fetch("static/icon.svg", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}
