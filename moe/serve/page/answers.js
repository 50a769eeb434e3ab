// Answers as a table of pages, marked where confidence is low; their tally, and the files they are downloaded as.

import { written } from "./csv.js";
import { byId, count, fill, kindsOf, make, percent, shares } from "./elements.js";
import { showRouting } from "./routing.js";
import { open } from "./run.js";
import { reasonsOf } from "./why.js";

const PAGE = 25;
const FILTERS = {
  all: ["all rows", () => true],
  low: ["low confidence", (row) => isLow(row)],
  none: ["no label", (row) => row.answer?.abstained],
  error: ["could not be read", (row) => Boolean(row.error)],
};
const state = { rows: [], told: null, way: null, page: 0, drawn: new WeakMap(), later: null };

export const threshold = () => Number(byId("threshold").value);
export const isLow = (row) => Boolean(row.answer) && row.answer.confidence < threshold();

/** Show these rows, answered or not; `moved` draws what came since, `done` all. */
export function showAnswers(rows, told, way) {
  Object.assign(state, { rows, told, way, page: 0, drawn: new WeakMap() });
  byId("answers").hidden = false;
  offerFilters();
  draw();
  return {
    moved: () => {
      draw();
      state.later ??= setTimeout(whole, 2000);
    },
    done: () => (offerFilters(), draw(), whole()),
  };
}

function whole() {
  clearTimeout(state.later);
  state.later = null;
  showRouting(state.rows, state.told, threshold());
}

function offerFilters() {
  const labels = [...new Set(state.rows.map((row) => row.answer?.label).filter(Boolean))].sort();
  const before = byId("shown").value;
  const options = Object.entries(FILTERS).map(([value, [name]]) => [value, name]);
  fill(byId("shown"), ...[...options, ...labels.map((one) => [`=${one}`, one])].map(([value, name]) => make("option", { value }, name)));
  if ([...byId("shown").options].some((one) => one.value === before)) byId("shown").value = before;
}

function shown() {
  const value = byId("shown").value;
  if (value === "all") return state.rows;
  return state.rows.filter(value.startsWith("=") ? (row) => row.answer?.label === value.slice(1) : FILTERS[value][1]);
}

function draw() {
  const rows = shown(), pages = Math.max(1, Math.ceil(rows.length / PAGE));
  state.page = Math.min(state.page, pages - 1);
  const begin = state.page * PAGE;
  const lines = rows.slice(begin, begin + PAGE).flatMap(lineOf);
  const body = byId("rows").tBodies[0];
  if (lines.length !== body.rows.length || lines.some((line, place) => line !== body.rows[place])) fill(body, ...lines);
  byId("pages").hidden = pages === 1;
  byId("earlier").disabled = state.page === 0;
  byId("later").disabled = state.page === pages - 1;
  byId("page-said").textContent = rows.length ? `${(begin + 1).toLocaleString("en")}–${Math.min(begin + PAGE, rows.length).toLocaleString("en")} of ${rows.length.toLocaleString("en")}` : "none";
  byId("threshold-said").textContent = percent(threshold());
  tally();
}

function tally() {
  const found = new Map(), add = (name) => found.set(name, (found.get(name) ?? 0) + 1);
  const marks = { low: 0, none: 0, error: 0 };
  for (const row of state.rows) {
    if (row.answer?.label) add(row.answer.label);
    for (const mark of Object.keys(marks)) marks[mark] += FILTERS[mark][1](row) ? 1 : 0;
  }
  const labels = [...found].sort((one, other) => other[1] - one[1]);
  const all = labels.reduce((sum, [, number]) => sum + number, 0) || 1;
  const items = labels.map(([name, number]) => make("li", {}, make("b", {}, name), ` ${number.toLocaleString("en")} `, make("span", { class: "said" }, percent(number / all))));
  for (const [mark, number] of Object.entries(marks)) {
    if (number) items.push(make("li", { class: mark }, make("b", {}, FILTERS[mark][0]), ` ${number.toLocaleString("en")}`));
  }
  fill(byId("tally"), ...items);
}

// --- one row

/** The table's lines of a row: the same elements as before, unless something about it is new. */
function lineOf(row) {
  const look = `${Boolean(row.answer)} ${row.error ?? ""} ${isLow(row)}`;
  const before = state.drawn.get(row);
  if (before?.look === look) return before.lines;
  const opened = before?.lines[1];
  const lines = [line(row, opened)];
  if (opened) lines.push(opened);
  state.drawn.set(row, { look, lines });
  return lines;
}

const cell = (kind, ...children) => make("td", { role: "cell", class: kind }, ...children);

function line(row, opened) {
  const head = make("th", { scope: "row", role: "rowheader", class: "number" }, String(row.line));
  const text = cell("text", make("p", { dir: "auto" }, row.text));
  const rest = row.answer ? answered(row, opened) : [unanswered(row), cell("empty"), cell("empty"), cell("empty")];
  return make("tr", { role: "row", class: isLow(row) ? "low" : null }, head, text, ...rest);
}

function unanswered(row) {
  return cell("label", row.error ? make("span", { class: "mark error" }, `✕ ${row.error}`) : make("span", { class: "said" }, "…"));
}

function answered(row, opened) {
  const { answer } = row;
  return [
    cell("label", ...labelOf(row)),
    cell("probabilities", shares(answer.probabilities, () => "plain")),
    cell("experts", shares(answer.experts, kindsOf(state.told))),
    cell("why", whyButton(row, opened)),
  ];
}

function labelOf(row) {
  const { answer } = row;
  const parts = [answer.label ? make("b", {}, answer.label) : make("b", { class: "mark none" }, "– no label")];
  if (isLow(row)) parts.push(make("span", { class: "mark low" }, "? low confidence"));
  if (answer.polarity !== null) parts.push(polarity(answer.polarity));
  if (Object.keys(state.told.labels).length > 1) parts.push(make("span", { class: "said" }, `as ${answer.task}`));
  if (answer.truncated) parts.push(make("span", { class: "said" }, "text was cut"));
  return parts;
}

function polarity(value) {
  const needle = make("span", { class: "needle" });
  needle.style.setProperty("--at", (value + 1) / 2);
  const scale = make("span", { class: "scale", "aria-hidden": "true" }, needle);
  return make("span", { class: "polarity" }, "polarity ", scale, make("span", { class: "figure" }, `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`));
}

function whyButton(row, opened) {
  const button = make("button", { type: "button", class: "quiet", "aria-expanded": String(Boolean(opened)), "aria-label": `why? line ${row.line}` }, "why?");
  button.addEventListener("click", () => {
    const kept = state.drawn.get(row);
    if (kept.lines.length > 1) kept.lines.pop().remove();
    else {
      const reasons = make("tr", { role: "row", class: "reasons" }, make("td", { role: "cell", colspan: "6" }, reasonsOf(row, state.told, state.way)));
      kept.lines.push(reasons);
      kept.lines[0].after(reasons);
    }
    button.setAttribute("aria-expanded", String(kept.lines.length > 1));
  });
  return button;
}

// --- turning pages, and taking answers home

function turn(by) {
  state.page += by;
  draw();
}

function columns(rows, flat) {
  const names = new Set(flat.flatMap((row) => Object.keys(row)));
  const file = [...names].filter((name) => name.startsWith("file."));
  return [...[...names].filter((name) => !name.startsWith("file.")), ...file];
}

/** A row as it is downloaded: the fields of the service's answer, and the file's other cells under `file`. */
function record({ line, text, answer, error, model, file }, low) {
  const head = { line, text, ...(answer ?? {}) };
  if (answer) head.low_confidence = low;
  if (error) head.error = error;
  if (model) head.model = model;
  return Object.keys(file).length ? { ...head, file } : head;
}

function flat(row, prefix = "") {
  const cells = {};
  for (const [name, value] of Object.entries(row)) {
    if (value !== null && typeof value === "object") Object.assign(cells, flat(value, `${prefix}${name}.`));
    else cells[prefix + name] = value;
  }
  return cells;
}

function save(pieces, kind, name) {
  const address = URL.createObjectURL(new Blob(pieces, { type: kind }));
  const link = make("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

const records = () => state.rows.filter((row) => !open(row)).map((row) => record(row, isLow(row)));

function saveCsv() {
  const rows = records().map((row) => flat(row));
  save(written(columns(state.rows, rows), rows), "text/csv", "answers.csv");
}

const saveLines = () => save(records().map((row) => `${JSON.stringify(row)}\n`), "application/jsonl", "answers.jsonl");

byId("earlier").addEventListener("click", () => turn(-1));
byId("later").addEventListener("click", () => turn(1));
byId("shown").addEventListener("change", () => turn(-state.page));
byId("threshold").addEventListener("input", draw);
byId("threshold").addEventListener("change", whole);
byId("as-csv").addEventListener("click", saveCsv);
byId("as-jsonl").addEventListener("click", saveLines);
