// Rows of cells as text, read and written: quotes, newlines in cells, three kinds of separators.

/** What spreadsheets take for the beginning of a formula, as the download's escape knows it. */
const FORMULA = /^[=+\-@\t\r\n＝＋－＠]/;

export const DELIMITERS = [",", ";", "\t"];

/** The separator that the first row has most of, outside of quotes. */
export function delimiterOf(text) {
  const found = new Map(DELIMITERS.map((one) => [one, 0]));
  let quoted = false;
  for (const letter of text.slice(0, 100_000)) {
    if (letter === '"') quoted = !quoted;
    else if (!quoted && (letter === "\n" || letter === "\r")) break;
    else if (!quoted && found.has(letter)) found.set(letter, found.get(letter) + 1);
  }
  return DELIMITERS.reduce((best, one) => (found.get(one) > found.get(best) ? one : best));
}

/**
 * Every row, with the line in which it begins; lines without anything are left out.
 * A quote opens a cell only at its beginning; what stands behind the closing one is kept as it is.
 */
export function parse(text, delimiter) {
  const rows = [];
  let cells = [], line = 1, began = 1, place = 0;
  const end = text.length;
  while (place < end) {
    let cell = "";
    if (text[place] === '"') {
      const opened = line;
      [cell, place, line] = quoted(text, place, line);
      if (place < 0) throw new Error(`The quote that opens in line ${opened} is never closed: close it, or double it inside a cell.`);
    }
    const from = place;
    while (place < end && text[place] !== delimiter && text[place] !== "\n" && text[place] !== "\r") place += 1;
    cells.push(cell + text.slice(from, place));
    if (text[place] === delimiter) {
      place += 1;
      if (place < end) continue;
      cells.push("");
    } else if (place < end) {
      place += text[place] === "\r" && text[place + 1] === "\n" ? 2 : 1;
      line += 1;
    }
    if (cells.length > 1 || cells[0] !== "") rows.push({ line: began, cells });
    cells = [];
    began = line;
  }
  return rows;
}

/** The cell behind an opening quote, the place behind the closing one (−1: there is none), and the line there. */
function quoted(text, place, line) {
  let cell = "", from = place + 1;
  for (;;) {
    const close = text.indexOf('"', from);
    if (close < 0) return ["", -1, line];
    const piece = text.slice(from, close);
    line += (piece.match(/\r\n|\r|\n/g) ?? []).length;
    cell += piece;
    if (text[close + 1] !== '"') return [cell, close + 1, line];
    cell += '"';
    from = close + 2;
  }
}

/** A cell that no spreadsheet runs; numbers stay. */
export const harmless = (value) => (typeof value === "string" && FORMULA.test(value) ? `'${value}` : value);

/** Flat rows as CSV, with a mark by which spreadsheets know UTF-8; pieces, so that no string grows too long. */
export function written(columns, rows) {
  const cell = (value) => {
    const text = String(harmless(value ?? ""));
    return /[",\r\n]/.test(text) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const line = (values) => `${values.map(cell).join(",")}\n`;
  return ["\uFEFF", line(columns), ...rows.map((row) => line(columns.map((name) => row[name])))];
}
