// Texts on their way through the service: in pieces that it takes, as many at a time as it answers in about a second.

import { ask } from "./asking.js";

const FIRST = 16, QUICK = 1000, SLOW = 4000; // texts; milliseconds
const SPARE = 1000; // bytes of a body besides its texts
const bytes = new TextEncoder();

/** Why a text cannot be asked, or null. */
export function fault(text, limits) {
  if (!/[^\s\p{C}]/u.test(text)) return "missing text";
  if (/\p{Surrogate}/u.test(text)) return "broken encoding: half a surrogate pair";
  if (text.includes("\uFFFD")) return "broken encoding: letters that could not be read";
  if (text.length > limits.text_chars && [...text].length > limits.text_chars) return `longer than ${limits.text_chars.toLocaleString("en")} characters`;
  return weight(text) > limits.body_bytes - SPARE ? "larger than a request may be" : null;
}

const weight = (text) => bytes.encode(JSON.stringify(text)).length + 1;

export const open = (row) => !row.answer && !row.error;

/**
 * Answer every row that is open; each gets its `answer` or its `error`.
 * Stops where it is told to by `signal`, or at what concerns all rows; what is answered stays.
 */
export async function run(rows, way, limits, { signal, moved = () => {}, waiting = () => {} }) {
  for (const row of rows) if (open(row)) row.error = fault(row.text, limits) ?? undefined;
  const left = rows.filter(open);
  let size = Math.min(FIRST, limits.texts), place = 0;
  moved();
  while (place < left.length) {
    const some = piece(left, place, size, limits);
    const start = performance.now();
    try {
      const told = await ask("v1/predict", { texts: some.map((row) => row.text), ...way }, { signal, waiting });
      some.forEach((row, i) => take(row, told.answers[i], told.model));
      place += some.length;
      const spent = performance.now() - start;
      if (spent < QUICK) size = Math.min(limits.texts, 2 * size);
      if (spent > SLOW) size = Math.max(1, size >> 1);
    } catch (error) {
      size = Math.max(1, some.length >> 1);
      place += refused(error, some, left, place);
    }
    moved();
  }
}

function take(row, { text: _, ...answer }, model) {
  row.answer = answer;
  row.model = model;
}

/** As many of the rows as fit into a request. */
function piece(left, place, size, limits) {
  let room = limits.body_bytes - SPARE, end = place;
  while (end < left.length && end - place < size && (room -= weight(left[end].text)) >= 0) end += 1;
  return left.slice(place, Math.max(end, place + 1));
}

/** How many rows are done with after a refusal: one text's fault is noted at it, what took too long comes in less. */
function refused(error, some, left, place) {
  const told = error.status === 422 && /^texts(?:\.(\d+))?: (.*)/.exec(error.found);
  if (told && some[Number(told[1] ?? 0)]) {
    const at = Number(told[1] ?? 0);
    some[at].error = told[2];
    left.splice(place + at, 1);
    return 0;
  }
  if (![408, 413, 504].includes(error.status)) throw error;
  if (some.length > 1) return 0;
  some[0].error = error.message;
  return 1;
}
