// CSV parsing and writing: quoted cells, line breaks in cells, three delimiters.

/** First characters by which spreadsheets recognise a formula, as in the Python writer of `--spreadsheet`. */
const FORMULA = /^[=+\-@\t\r\n＝＋－＠]/;

export const DELIMITERS = [",", ";", "\t"];

/** The delimiter that is most frequent in the first row, outside of quotes. */
export function detectDelimiter(text) {
  const counts = new Map(DELIMITERS.map((delimiter) => [delimiter, 0]));
  let quoted = false;
  for (const character of text.slice(0, 100_000)) {
    if (character === '"') quoted = !quoted;
    else if (!quoted && (character === "\n" || character === "\r")) break;
    else if (!quoted && counts.has(character)) counts.set(character, counts.get(character) + 1);
  }
  return DELIMITERS.reduce((best, delimiter) => (counts.get(delimiter) > counts.get(best) ? delimiter : best));
}

/**
 * Parse all rows, each with the number of its first line; empty lines are skipped.
 * Only a quote at the start of a cell opens a quoted cell; text after the closing quote is appended as is.
 */
export function parse(text, delimiter) {
  const rows = [];
  let cells = [], line = 1, firstLine = 1, index = 0;
  const end = text.length;
  while (index < end) {
    let cell = "";
    if (text[index] === '"') {
      const opened = line;
      [cell, index, line] = parseQuoted(text, index, line);
      if (index < 0) throw new Error(`The quote that opens in line ${opened} is never closed: close it, or double quotes inside a cell.`);
    }
    const start = index;
    while (index < end && text[index] !== delimiter && text[index] !== "\n" && text[index] !== "\r") index += 1;
    cells.push(cell + text.slice(start, index));
    if (text[index] === delimiter) {
      index += 1;
      if (index < end) continue;
      cells.push("");
    } else if (index < end) {
      index += text[index] === "\r" && text[index + 1] === "\n" ? 2 : 1;
      line += 1;
    }
    if (cells.length > 1 || cells[0] !== "") rows.push({ line: firstLine, cells });
    cells = [];
    firstLine = line;
  }
  return rows;
}

/** The content of a quoted cell, the index after its closing quote (−1 if there is none), and the line number there. */
function parseQuoted(text, index, line) {
  let cell = "", start = index + 1;
  for (;;) {
    const close = text.indexOf('"', start);
    if (close < 0) return ["", -1, line];
    const piece = text.slice(start, close);
    line += (piece.match(/\r\n|\r|\n/g) ?? []).length;
    cell += piece;
    if (text[close + 1] !== '"') return [cell, close + 1, line];
    cell += '"';
    start = close + 2;
  }
}

/** Escape a cell that a spreadsheet would run as a formula; numbers are unchanged. */
export const escapeFormula = (value) => (typeof value === "string" && FORMULA.test(value) ? `'${value}` : value);

/** Flat rows as CSV with a byte order mark, by which spreadsheets recognise UTF-8; an array of pieces for `Blob`. */
export function toCsv(columns, rows) {
  const cell = (value) => {
    const text = String(escapeFormula(value ?? ""));
    return /[",\r\n]/.test(text) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const line = (values) => `${values.map(cell).join(",")}\n`;
  return ["\uFEFF", line(columns), ...rows.map((row) => line(columns.map((name) => row[name])))];
}
