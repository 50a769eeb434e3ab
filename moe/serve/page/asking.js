// Questions to the service: the key, what it refuses, and how long it wants to be left alone.

import { byId } from "./elements.js";

/** An answer that is none: `message` is the service's own sentence. */
export class Refused extends Error {
  constructor(status, told, later) {
    super(told?.message ?? `The service answered with ${status}.`);
    this.status = status;
    this.found = told?.found ?? "";
    this.later = later;
  }
}

const KEPT = "key";
let asked = null;

/** The whole answer as it comes; asks for a key where one is wanted, and then again. */
async function send(path, body, signal) {
  for (;;) {
    const headers = { Accept: "application/json" };
    const key = sessionStorage.getItem(KEPT);
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body) headers["Content-Type"] = "application/json";
    const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
    if (response.status === 401) {
      await keyShown(key, signal);
      continue;
    }
    byId("forget").hidden = !key;
    if (response.ok) return response;
    const told = await response.json().catch(() => null);
    throw new Refused(response.status, told?.error, Number(response.headers.get("Retry-After")) || null);
  }
}

/** As `send`; a service that is busy is asked again when it said so, and `waiting` is told the seconds. */
export async function patient(path, body, { signal, waiting = () => {} } = {}) {
  for (;;) {
    try {
      return await send(path, body, signal);
    } catch (error) {
      if (error.status !== 503 || !error.later) throw error;
      waiting(error.later);
      await pause(1000 * error.later, signal);
    }
  }
}

/** The answer to it, as JSON. */
export const ask = async (path, body = null, how = {}) => (await patient(path, body, how)).json();

/** What went wrong, in a sentence. */
export function sentence(error) {
  if (error instanceof Refused) return error.message;
  if (error.name === "TypeError") return "The service cannot be reached. Is it running?";
  return String(error.message ?? error);
}

function pause(milliseconds, signal) {
  return new Promise((done, fail) => {
    signal?.throwIfAborted();
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), fail(signal.reason)), { once: true });
  });
}

/** Wait until a key was typed that is another than the one that was refused. */
function keyShown(refused, signal) {
  const form = byId("key-form"), field = byId("key");
  if (refused && sessionStorage.getItem(KEPT) !== refused) return Promise.resolve();
  sessionStorage.removeItem(KEPT);
  byId("forget").hidden = true;
  byId("key-said").textContent = refused ? "That key is not known here." : "";
  form.hidden = false;
  field.focus();
  asked ??= new Promise((done) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEPT, field.value.trim());
      field.value = "";
      form.hidden = true;
      asked = null;
      done();
    }, { once: true });
  });
  const stopped = new Promise((_, fail) => signal?.addEventListener("abort", () => fail(signal.reason), { once: true }));
  return signal ? Promise.race([asked, stopped]) : asked;
}

/** Let the key go, and ask for one at the next question. */
export function forget() {
  sessionStorage.removeItem(KEPT);
  location.reload();
}
