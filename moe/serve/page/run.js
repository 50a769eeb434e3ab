// Sends texts to the service in batches, whose size adapts so that a response takes about a second.

import { request } from "./api.js";
import { groupByText } from "./entities.js";

const FIRST_SIZE = 16, FAST = 1000, SLOW = 4000; // texts; milliseconds
const BODY_OVERHEAD = 1000; // bytes of a body besides its texts
const encoder = new TextEncoder();

/** Why a text cannot be sent, or null. */
export function checkText(text, limits) {
  if (!/[^\s\p{C}]/u.test(text)) return "missing text";
  if (/\p{Surrogate}/u.test(text)) return "broken encoding: unpaired surrogate";
  if (text.includes("\uFFFD")) return "broken encoding: undecodable characters";
  if (text.length > limits.text_chars && [...text].length > limits.text_chars) return `longer than ${limits.text_chars.toLocaleString("en")} characters`;
  return byteSize(text) > limits.body_bytes - BODY_OVERHEAD ? "larger than the limit of a request" : null;
}

const byteSize = (text) => encoder.encode(JSON.stringify(text)).length + 1;

export const isPending = (row) => !row.prediction && !row.error;

/**
 * Classify all pending rows, the rows of a text for its entities together; each gets a `prediction` or an `error`.
 * Stops when `signal` is aborted or at an error that concerns all rows; finished rows keep their results.
 */
export async function run(rows, options, limits, { signal, onProgress = () => {}, onWait = () => {} }) {
  for (const row of rows) if (isPending(row)) row.error = checkText(row.text, limits) ?? undefined;
  const pending = groupByText(rows.filter(isPending));
  const most = Math.max(1, Math.floor(limits.texts / (options.targets?.length ?? 1)));
  let size = Math.min(FIRST_SIZE, most), index = 0;
  onProgress();
  while (index < pending.length) {
    const batch = nextBatch(pending, index, size, limits);
    const start = performance.now();
    try {
      const response = await request("v1/predict", { texts: batch.map(([row]) => row.text), ...options }, { signal, onWait });
      const sent = batch.flat();
      if (response.answers.length !== sent.length) throw new Error("The service returned another number of predictions than requested.");
      sent.forEach((row, i) => store(row, response.answers[i], response.model));
      index += batch.length;
      const elapsed = performance.now() - start;
      if (elapsed < FAST) size = Math.min(most, 2 * size);
      if (elapsed > SLOW) size = Math.max(1, size >> 1);
    } catch (error) {
      size = Math.max(1, batch.length >> 1);
      index += handleError(error, batch, pending, index);
    }
    onProgress();
  }
}

function store(row, { text: _, ...prediction }, model) {
  row.prediction = prediction;
  row.model = model;
}

/** As many of the next texts as fit into a request. */
function nextBatch(pending, index, size, limits) {
  let room = limits.body_bytes - BODY_OVERHEAD, end = index;
  while (end < pending.length && end - index < size && (room -= byteSize(pending[end][0].text)) >= 0) end += 1;
  return pending.slice(index, Math.max(end, index + 1));
}

/** Handle an error response and return how many texts it finished: an invalid text gets the error, a slow batch is split. */
function handleError(error, batch, pending, index) {
  const invalid = error.status === 422 && /^texts(?:\.(\d+))?: (.*)/.exec(error.found);
  if (invalid && batch[Number(invalid[1] ?? 0)]) {
    const offset = Number(invalid[1] ?? 0);
    for (const row of batch[offset]) row.error = invalid[2];
    pending.splice(index + offset, 1);
    return 0;
  }
  if (![408, 413, 504].includes(error.status)) throw error;
  if (batch.length > 1) return 0;
  for (const row of batch[0]) row.error = error.message;
  return 1;
}
