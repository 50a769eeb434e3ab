// Reads a text file as rows: encoding, delimiter, header and text column.

import { detectDelimiter, parse } from "./csv.js";

const TEXT_COLUMNS = ["text", "sentence", "headline", "title", "question", "content", "body", "tweet", "post", "标题", "内容", "文本"];
const MAX_BYTES = 200 * 2 ** 20;

/** Read a file's bytes; throws an error if it is not a text file. */
export async function readBytes(file) {
  if (file.size > MAX_BYTES) throw new Error(`${file.name} is larger than 200 MiB: use moe infer --file instead.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes[0] === 0x50 && bytes[1] === 0x4b) throw new Error(`${file.name} is a workbook or an archive: save it as CSV (UTF-8) first.`);
  if (!byteOrderMark(bytes) && bytes.subarray(0, 4096).includes(0)) throw new Error(`${file.name} is not a text file: choose a CSV file.`);
  return bytes;
}

function byteOrderMark(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return "utf-16le";
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return "utf-16be";
  return null;
}

/** The encoding by the byte order mark, UTF-8 by default; the page warns if the bytes are not valid UTF-8. */
export const detectEncoding = (bytes) => byteOrderMark(bytes) ?? "utf-8";

export const decode = (bytes, encoding) => new TextDecoder(encoding).decode(bytes);

/**
 * Parse a text into columns and rows.
 * `delimiter` null detects it; `lines` makes each line one text; without `header`, columns are numbered.
 */
export function parseTable(text, { delimiter = null, header = true, lines = false } = {}) {
  if (lines) return parseLines(text);
  const used = delimiter ?? detectDelimiter(text);
  const parsed = parse(text, used);
  const width = parsed.reduce((most, row) => Math.max(most, row.cells.length), 0);
  const head = header ? (parsed.shift()?.cells ?? []) : [];
  const columns = uniqueNames(head, header ? head.length : width);
  const rows = parsed.map(({ line, cells }) => ({ line, cells, ragged: cells.length > columns.length }));
  return { delimiter: used, columns, rows };
}

function parseLines(text) {
  const lines = text.split(/\r\n|\n|\r/);
  if (lines.at(-1) === "") lines.pop();
  return { delimiter: null, columns: ["text"], rows: lines.map((cell, index) => ({ line: index + 1, cells: [cell] })) };
}

/** Column names; empty and repeated ones get a number. */
function uniqueNames(head, width) {
  const used = new Set();
  return Array.from({ length: width }, (_, index) => {
    const base = (head[index] ?? "").trim() || `column ${index + 1}`;
    let name = base;
    for (let number = 2; used.has(name); number += 1) name = `${base} (${number})`;
    used.add(name);
    return name;
  });
}

/** The index of the likely text column: by its name, else the one with the most characters. */
export function guessTextColumn(table) {
  const lower = table.columns.map((name) => name.toLowerCase());
  const known = TEXT_COLUMNS.map((name) => lower.indexOf(name)).find((index) => index >= 0);
  if (known !== undefined) return known;
  const sample = table.rows.slice(0, 200);
  const lengths = table.columns.map((_, index) => sample.reduce((sum, row) => sum + (row.cells[index] ?? "").length, 0));
  return Math.max(0, lengths.indexOf(Math.max(...lengths)));
}

/** Rows to classify: each with its line, its text and the file's other cells by column name. */
export function rowsOfTable(table, column) {
  return table.rows.map(({ line, cells, ragged }) => {
    const file = {};
    table.columns.forEach((name, index) => index !== column && (file[name] = cells[index] ?? ""));
    const row = { line, text: cells[column] ?? "", file };
    return ragged ? { ...row, error: `more cells than the ${table.columns.length} columns` } : row;
  });
}

/** Rows to classify from the text field: one per line that is not empty, or a single one. */
export function rowsOfInput(text, single) {
  if (single) return text.trim() ? [{ line: 1, text: text.trim(), file: {} }] : [];
  const rows = parseLines(text).rows.map(({ line, cells }) => ({ line, text: cells[0].trim(), file: {} }));
  return rows.filter((row) => row.text);
}
