// Requests to the service: API key, error responses, and retries when the service is busy.

import { byId } from "./elements.js";
import { chosenModel } from "./models.js";

/** An error response of the service. */
export class ServiceError extends Error {
  constructor(status, detail, retryAfter) {
    super(detail?.message ?? `The service responded with status ${status}.`);
    this.status = status;
    this.found = detail?.found ?? "";
    this.retryAfter = retryAfter;
  }
}

const STORAGE_KEY = "key";
let keyEntered = null;

/** Send a request and return the response; a body names the chosen model. Prompts for an API key on status 401 and sends it again. */
async function send(path, body, signal) {
  for (;;) {
    const headers = { Accept: "application/json" };
    const key = sessionStorage.getItem(STORAGE_KEY);
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body) headers["Content-Type"] = "application/json";
    const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify({ ...body, model: chosenModel }), signal });
    if (response.status === 401) {
      await promptForKey(key, signal);
      continue;
    }
    byId("forget-key").hidden = !key;
    if (response.ok) return response;
    const content = await response.json().catch(() => null);
    throw new ServiceError(response.status, content?.error, Number(response.headers.get("Retry-After")) || null);
  }
}

/** As `send`, but waits and retries while the service is busy; `onWait` is called with the seconds. */
export async function sendWithRetry(path, body, { signal, onWait = () => {} } = {}) {
  for (;;) {
    try {
      return await send(path, body, signal);
    } catch (error) {
      if (error.status !== 503 || !error.retryAfter) throw error;
      onWait(error.retryAfter);
      await pause(1000 * error.retryAfter, signal);
    }
  }
}

/** Send a request and return the response's JSON. */
export const request = async (path, body = null, options = {}) => (await sendWithRetry(path, body, options)).json();

/** Whether the user has entered an API key. */
export const hasKey = () => Boolean(sessionStorage.getItem(STORAGE_KEY));

/** Request an HTML page of the service and return it as a document, in which no script runs. */
export function requestDocument(path) {
  return new Promise((resolve, reject) => {
    const http = new XMLHttpRequest();
    http.open("GET", path);
    http.responseType = "document";
    if (hasKey()) http.setRequestHeader("Authorization", `Bearer ${sessionStorage.getItem(STORAGE_KEY)}`);
    http.addEventListener("load", () => (http.status === 200 && http.response ? resolve(http.response) : reject(new ServiceError(http.status))));
    http.addEventListener("error", () => reject(new TypeError("no connection")));
    http.send();
  });
}

/** The message to show for an error. */
export function toMessage(error) {
  if (error instanceof ServiceError) return error.message;
  if (error.name === "TypeError") return "The service cannot be reached. Is it running?";
  return String(error.message ?? error);
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

/** Wait until the user has entered a key other than the rejected one. */
function promptForKey(rejected, signal) {
  const form = byId("key-form"), field = byId("key");
  if (rejected && sessionStorage.getItem(STORAGE_KEY) !== rejected) return Promise.resolve();
  sessionStorage.removeItem(STORAGE_KEY);
  byId("forget-key").hidden = true;
  byId("key-error").textContent = rejected ? "This service does not accept that key." : "";
  form.hidden = false;
  field.focus();
  keyEntered ??= new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(STORAGE_KEY, field.value.trim());
      field.value = "";
      form.hidden = true;
      keyEntered = null;
      resolve();
    }, { once: true });
  });
  const aborted = new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason), { once: true }));
  return signal ? Promise.race([keyEntered, aborted]) : keyEntered;
}

/** Delete the key and start over. */
export function forgetKey() {
  sessionStorage.removeItem(STORAGE_KEY);
  location.reload();
}
