// Table of predictions with pages and filters, counts by label, and downloads.

import { toCsv } from "./csv.js";
import { barList, byId, expertKinds, fill, make, percent, share } from "./elements.js";
import { groupByText } from "./entities.js";
import { makeExplanation } from "./explanation.js";
import { showRouting } from "./routing.js";
import { isPending } from "./run.js";

const PAGE_SIZE = 25, SHORT = 10; // rows; counts and filter are hidden for a single text of up to `SHORT` rows
const ROUTING_DELAY = 2000; // milliseconds between two updates of the charts during a run
const FILTERS = {
  all: ["All rows", () => true],
  low: ["Low confidence", (row) => isLow(row)],
  none: ["No label", (row) => Boolean(row.prediction) && !isScore(row) && !labelsOf(row).length],
  error: ["Not classified", (row) => Boolean(row.error)],
};
const state = { rows: [], model: null, options: null, page: 0, drawn: new WeakMap(), textLines: new WeakMap(), timer: null };

/** The predicted labels of a row: several of a multi-label task, none of a pending row or where the model abstained. */
const labelsOf = ({ prediction }) => prediction?.labels ?? (prediction?.label ? [prediction.label] : []);
/** Whether a row has a score alone, without labels: then its polarity is the score. */
const isScore = ({ prediction }) => prediction?.confidence === null;
export const threshold = () => Number(byId("threshold").value);
export const isLow = (row) => Boolean(row.prediction) && !isScore(row) && row.prediction.confidence < threshold();

/** Show these rows; call `update` when some got a result, `finish` at the end of the run. */
export function showPredictions(rows, model, options) {
  Object.assign(state, { rows, model, options, page: 0, drawn: new WeakMap(), textLines: new WeakMap() });
  byId("predictions").hidden = false;
  byId("tools").hidden = byId("label-counts").hidden = groupByText(rows).length === 1 && rows.length <= SHORT;
  byId("filter").value = "all";
  byId("text-heading").textContent = options.targets ? "Text and entity" : "Text";
  byId("calibration-hint").textContent = calibrationHint(model);
  byId("weights-hint").hidden = Object.keys(model.experts).length < 2;
  fillFilter();
  draw();
  return {
    update: () => {
      draw();
      state.timer ??= setTimeout(drawRouting, ROUTING_DELAY);
    },
    finish: () => (fillFilter(), draw(), drawRouting()),
  };
}

/** What the probabilities mean: which tasks are calibrated. */
function calibrationHint(model) {
  const tasks = Object.values(model.labels).flatMap((own) => Object.keys(own).filter((task) => own[task].length));
  if (!tasks.length) return "The model predicts scores, without probabilities.";
  const calibrated = tasks.filter((task) => model.calibrated_tasks.includes(task));
  if (!calibrated.length) return "Probabilities are not calibrated: the model may be right more or less often than they state.";
  const meaning = "on texts like those of the calibration, about 8 in 10 labels with 80% are right.";
  if (calibrated.length === tasks.length) return `Probabilities are calibrated: ${meaning}`;
  return `Probabilities of ${calibrated.length === 1 ? "task" : "tasks"} ${calibrated.join(", ")} are calibrated: ${meaning} Those of other tasks are not.`;
}

function drawRouting() {
  clearTimeout(state.timer);
  state.timer = null;
  showRouting(state.rows, state.model, threshold());
}

function fillFilter() {
  const labels = [...new Set(state.rows.flatMap(labelsOf))].sort();
  const before = byId("filter").value;
  const options = Object.entries(FILTERS).map(([value, [name]]) => [value, name]);
  fill(byId("filter"), ...[...options, ...labels.map((label) => [`=${label}`, label])].map(([value, name]) => make("option", { value }, name)));
  if ([...byId("filter").options].some((option) => option.value === before)) byId("filter").value = before;
}

function filteredRows() {
  const value = byId("filter").value;
  if (value === "all") return state.rows;
  return state.rows.filter(value.startsWith("=") ? (row) => labelsOf(row).includes(value.slice(1)) : FILTERS[value][1]);
}

function draw() {
  const rows = filteredRows(), pages = Math.max(1, Math.ceil(rows.length / PAGE_SIZE));
  state.page = Math.min(state.page, pages - 1);
  const start = state.page * PAGE_SIZE;
  const lines = groupByText(rows.slice(start, start + PAGE_SIZE)).flatMap(linesOfText);
  const body = byId("rows").tBodies[0];
  if (lines.length !== body.rows.length || lines.some((line, index) => line !== body.rows[index])) fill(body, ...lines);
  byId("pages").hidden = pages === 1;
  byId("previous-page").disabled = state.page === 0;
  byId("next-page").disabled = state.page === pages - 1;
  byId("page-range").textContent = rows.length ? `${(start + 1).toLocaleString("en")}–${Math.min(start + PAGE_SIZE, rows.length).toLocaleString("en")} of ${rows.length.toLocaleString("en")}` : "none";
  byId("threshold-value").textContent = percent(threshold());
  drawCounts();
}

function drawCounts() {
  const counts = new Map(), marks = { low: 0, none: 0, error: 0 };
  for (const row of state.rows) {
    for (const label of labelsOf(row)) counts.set(label, (counts.get(label) ?? 0) + 1);
    for (const mark of Object.keys(marks)) marks[mark] += FILTERS[mark][1](row) ? 1 : 0;
  }
  const labels = [...counts].sort((a, b) => b[1] - a[1]);
  const total = labels.reduce((sum, [, number]) => sum + number, 0) || 1;
  const items = labels.map(([name, number]) => make("li", {}, make("b", {}, name), ` ${number.toLocaleString("en")} `, make("span", { class: "muted" }, percent(number / total))));
  for (const [mark, number] of Object.entries(marks)) {
    if (number) items.push(make("li", { class: mark }, make("b", {}, FILTERS[mark][0]), ` ${number.toLocaleString("en")}`));
  }
  fill(byId("label-counts"), ...items);
}

// --- table rows

/** The table rows of a text: with entities, the text once, then a row for each. */
function linesOfText(rows) {
  const lines = rows.flatMap(linesOf), [first] = rows;
  if (!first.target) return lines;
  if (!state.textLines.has(first)) state.textLines.set(first, makeTextLine(first));
  return [state.textLines.get(first), ...lines];
}

/** The table rows of a result and its open explanation; the same elements as before unless the result has changed. */
function linesOf(row) {
  const version = `${Boolean(row.prediction)} ${row.error ?? ""} ${isLow(row)}`;
  const before = state.drawn.get(row);
  if (before?.version === version) return before.lines;
  const explanation = before?.lines[1];
  const lines = [makeLine(row, explanation)];
  if (explanation) lines.push(explanation);
  state.drawn.set(row, { version, lines });
  return lines;
}

const cell = (kind, ...children) => make("td", { role: "cell", class: kind }, ...children);

const rowHead = (kind, ...children) => make("th", { scope: "row", role: "rowheader", class: kind }, ...children);

const textOf = (row) => make("p", { dir: "auto" }, row.text);

function makeTextLine(row) {
  const text = make("td", { role: "cell", class: "text", colspan: "5" }, textOf(row));
  return make("tr", { role: "row", class: "shared-text" }, rowHead("line", String(row.line)), text);
}

function makeLine(row, explanation) {
  const head = row.target
    ? [cell("empty"), rowHead("entity", make("p", { dir: "auto" }, row.target))]
    : [rowHead("line", String(row.line)), cell("text", textOf(row))];
  const rest = row.prediction ? predictionCells(row, explanation) : [statusCell(row), cell("empty"), cell("empty"), cell("empty")];
  const kinds = [isLow(row) ? "low" : "", row.target ? "for-entity" : ""].filter(Boolean).join(" ");
  return make("tr", { role: "row", class: kinds || null }, ...head, ...rest);
}

function statusCell(row) {
  return cell("label", row.error ? make("span", { class: "mark error" }, `✕ ${row.error}`) : make("span", { class: "muted" }, "…"));
}

function predictionCells(row, explanation) {
  const { prediction } = row;
  return [
    cell("label", ...labelParts(row)),
    cell("probabilities", barList(prediction.probabilities, () => "plain")),
    cell("experts", barList(prediction.experts, expertKinds(state.model))),
    cell("explain", explainButton(row, explanation)),
  ];
}

function labelParts(row) {
  const { prediction } = row, labels = labelsOf(row);
  const parts = isScore(row) ? [] : [labels.length
    ? make("span", { class: "answer" }, make("b", {}, labels.join(", ")), " ", make("span", { class: "number" }, share(prediction.confidence)))
    : make("b", { class: "mark none" }, "no label")];
  if (isLow(row)) parts.push(make("span", { class: "mark low" }, "low confidence"));
  if (prediction.polarity !== null) parts.push(polarity(prediction.polarity, isScore(row) ? "score" : "polarity"));
  if (Object.keys(state.model.labels).length > 1) parts.push(make("span", { class: "muted" }, `task ${prediction.task}`));
  if (prediction.target_missing) parts.push(warning("not in the text"));
  if (prediction.target_truncated) parts.push(warning("only the start of the entity was read"));
  if (prediction.truncated) parts.push(warning(`only the first ${state.model.max_length} tokens were read`));
  if (prediction.unfamiliar) parts.push(warning("unlike the texts of every domain"));
  return parts;
}

const warning = (text) => make("span", { class: "mark warning" }, make("span", { "aria-hidden": "true" }, "⚠ "), text);

function polarity(value, name) {
  const needle = make("span", { class: "needle" });
  needle.style.setProperty("--position", (value + 1) / 2);
  const scale = make("span", { class: "scale", "aria-hidden": "true" }, needle);
  return make("span", { class: "polarity" }, `${name} `, scale, make("span", { class: "number" }, `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`));
}

function explainButton(row, explanation) {
  const button = make("button", { type: "button", class: "quiet", "aria-expanded": String(Boolean(explanation)), "aria-label": `Explain line ${row.line}${row.target ? `, ${row.target}` : ""}` }, "Explain");
  button.addEventListener("click", () => {
    const { lines } = state.drawn.get(row);
    if (lines.length > 1) lines.pop().remove();
    else {
      const line = make("tr", { role: "row", class: "explanation" }, make("td", { role: "cell", colspan: "6" }, makeExplanation(row, state.options)));
      lines.push(line);
      lines[0].after(line);
    }
    button.setAttribute("aria-expanded", String(lines.length > 1));
  });
  return button;
}

// --- pages and downloads

function turnPage(by) {
  state.page += by;
  draw();
}

/** Column names of the CSV; cells of the user's file come last. */
function columnsOf(flatRows) {
  const names = [...new Set(flatRows.flatMap((row) => Object.keys(row)))];
  return [...names.filter((name) => !name.startsWith("file.")), ...names.filter((name) => name.startsWith("file."))];
}

/** A row as it is downloaded: the fields of the service's response, and the other cells of the user's file in `file`. */
function toRecord(row) {
  const { line, text, target, prediction, error, model, file } = row;
  const record = { line, text, ...(target ? { target } : {}), ...(prediction ?? {}) };
  if (prediction) record.low_confidence = isLow(row);
  if (error) record.error = error;
  if (model) record.model = model;
  return Object.keys(file).length ? { ...record, file } : record;
}

function flatten(record, prefix = "") {
  const cells = {};
  for (const [name, value] of Object.entries(record)) {
    if (Array.isArray(value)) cells[prefix + name] = JSON.stringify(value);
    else if (value !== null && typeof value === "object") Object.assign(cells, flatten(value, `${prefix}${name}.`));
    else cells[prefix + name] = value;
  }
  return cells;
}

function save(pieces, type, name) {
  const url = URL.createObjectURL(new Blob(pieces, { type }));
  const link = make("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

const finishedRecords = () => state.rows.filter((row) => !isPending(row)).map(toRecord);

function saveCsv() {
  const rows = finishedRecords().map((record) => flatten(record));
  save(toCsv(columnsOf(rows), rows), "text/csv", "predictions.csv");
}

const saveJsonl = () => save(finishedRecords().map((record) => `${JSON.stringify(record)}\n`), "application/jsonl", "predictions.jsonl");

byId("previous-page").addEventListener("click", () => turnPage(-1));
byId("next-page").addEventListener("click", () => turnPage(1));
byId("filter").addEventListener("change", () => turnPage(-state.page));
byId("threshold").addEventListener("input", draw);
byId("threshold").addEventListener("change", drawRouting);
byId("download-csv").addEventListener("click", saveCsv);
byId("download-jsonl").addEventListener("click", saveJsonl);
