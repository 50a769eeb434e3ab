// A file of texts as rows: which letters its bytes are, which cells, which column holds the texts.

import { delimiterOf, parse } from "./csv.js";

const LIKELY = ["text", "sentence", "headline", "title", "question", "content", "body", "tweet", "post", "标题", "内容", "文本"];
const MOST_BYTES = 200 * 2 ** 20;

/** A file's bytes, refused where they are no text. */
export async function bytesOf(file) {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} is larger than 200 MiB: use moe infer --file for it.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes[0] === 0x50 && bytes[1] === 0x4b) throw new Error(`${file.name} is a workbook or an archive: save it as CSV (UTF-8) first.`);
  if (!marked(bytes) && bytes.subarray(0, 4096).includes(0)) throw new Error(`${file.name} holds no text: drop a CSV file.`);
  return bytes;
}

function marked(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return "utf-16le";
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return "utf-16be";
  return null;
}

/** The letters' likely encoding; bytes that are no UTF-8 stay UTF-8, and the user is told. */
export const encodingOf = (bytes) => marked(bytes) ?? "utf-8";

export const decode = (bytes, encoding) => new TextDecoder(encoding).decode(bytes);

/**
 * The columns and rows of a text.
 * `delimiter` null is found out; `lines` takes each line as one text; without `names` columns are numbered.
 */
export function sheetOf(text, { delimiter = null, names = true, lines = false } = {}) {
  if (lines) return linesOf(text);
  const parted = delimiter ?? delimiterOf(text);
  const found = parse(text, parted);
  const width = found.reduce((most, row) => Math.max(most, row.cells.length), 0);
  const head = names ? (found.shift()?.cells ?? []) : [];
  const columns = named(head, names ? head.length : width);
  const rows = found.map(({ line, cells }) => ({ line, cells, ragged: cells.length > columns.length }));
  return { delimiter: parted, columns, rows, names };
}

function linesOf(text) {
  const lines = text.split(/\r\n|\n|\r/);
  if (lines.at(-1) === "") lines.pop();
  return { delimiter: null, columns: ["text"], names: false, rows: lines.map((cell, place) => ({ line: place + 1, cells: [cell] })) };
}

/** Names, each once: an empty one is numbered, one that comes again too. */
function named(head, width) {
  const taken = new Set();
  return Array.from({ length: width }, (_, place) => {
    const plain = (head[place] ?? "").trim() || `column ${place + 1}`;
    let name = plain;
    for (let again = 2; taken.has(name); again += 1) name = `${plain} (${again})`;
    taken.add(name);
    return name;
  });
}

/** The column that likely holds the texts: one of that name, else the one with most letters. */
export function textColumn(sheet) {
  const lower = sheet.columns.map((name) => name.toLowerCase());
  const known = LIKELY.map((name) => lower.indexOf(name)).find((place) => place >= 0);
  if (known !== undefined) return known;
  const some = sheet.rows.slice(0, 200);
  const letters = sheet.columns.map((_, place) => some.reduce((sum, row) => sum + (row.cells[place] ?? "").length, 0));
  return Math.max(0, letters.indexOf(Math.max(...letters)));
}

/** Rows to be answered: each with its line, its text and the file's other cells by name. */
export function rowsOf(sheet, column) {
  return sheet.rows.map(({ line, cells, ragged }) => {
    const file = {};
    sheet.columns.forEach((name, place) => place !== column && (file[name] = cells[place] ?? ""));
    const row = { line, text: cells[column] ?? "", file };
    return ragged ? { ...row, error: `more cells than the ${sheet.columns.length} columns have names` } : row;
  });
}

/** Typed texts as rows. */
export function typedRows(text, whole) {
  if (whole) return text.trim() ? [{ line: 1, text: text.trim(), file: {} }] : [];
  const lines = linesOf(text).rows.map(({ line, cells }) => ({ line, text: cells[0].trim(), file: {} }));
  return lines.filter((row) => row.text);
}
