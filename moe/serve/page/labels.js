// The page of a model that gives labels: texts typed or dropped, how they are answered, the run and its progress.

import { sentence } from "./asking.js";
import { byId, count, fill, make } from "./elements.js";
import { showAnswers } from "./answers.js";
import { open, run } from "./run.js";
import { bytesOf, decode, encodingOf, rowsOf, sheetOf, textColumn, typedRows } from "./sheet.js";

const state = { told: null, file: null, sheet: null, rows: [], asked: null, stop: null };

export function startLabels(told) {
  state.told = told;
  byId("asking").hidden = false;
  offer(told);
  byId("ask").addEventListener("submit", (event) => (event.preventDefault(), begin()));
  byId("texts").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit();
  });
  byId("stop").addEventListener("click", () => state.stop?.abort());
  byId("file").addEventListener("change", (event) => take(event.target.files[0]));
  byId("away").addEventListener("click", putAway);
  for (const id of ["delimiter", "encoding", "names"]) byId(id).addEventListener("change", () => reread(id === "delimiter"));
  byId("column").addEventListener("change", preview);
  letDrop();
}

/** Ways of answering that this model has. */
function offer(told) {
  const domains = Object.keys(told.labels);
  byId("domain").append(...domains.map((name) => make("option", { value: name }, `the experts of ${name}`)));
  byId("domain").disabled = byId("routing").disabled = Object.keys(told.experts).length < 2;
  byId("abstain").disabled = !told.calibrated;
  byId("abstain-hint").textContent = told.calibrated
    ? "As measured on validation rows. Empty: every text gets a label."
    : "This model is not calibrated: run moe calibrate first.";
}

function letDrop() {
  const over = (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("over", event.type === "dragover");
  };
  for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, over);
  document.addEventListener("drop", (event) => event.dataTransfer?.files.length && take(event.dataTransfer.files[0]));
}

// --- a file

async function take(file) {
  if (!file) return;
  if (state.stop) return void say("Stop first, or wait until all texts are answered.");
  try {
    const bytes = await bytesOf(file);
    state.file = { name: file.name, bytes, lines: /\.txt$/i.test(file.name) };
    byId("encoding").value = encodingOf(bytes);
    byId("names").checked = true;
    byId("count").textContent = "";
    reread(false);
    byId("go").focus();
  } catch (error) {
    say(sentence(error));
  }
}

/** Read the bytes as the choices say; the separator is found out unless it was chosen. */
function reread(chosen) {
  const { name, bytes, lines } = state.file;
  try {
    const text = decode(bytes, byId("encoding").value);
    const delimiter = chosen ? byId("delimiter").value : null;
    state.sheet = sheetOf(text, { delimiter, names: byId("names").checked, lines });
    if (!state.sheet.rows.length) throw new Error(`${name} has no rows.`);
  } catch (error) {
    if (byId("sheet").hidden) state.file = state.sheet = null;
    else Object.assign(state.sheet, { columns: [], rows: [] });
    return say(sentence(error));
  }
  byId("typed").hidden = true;
  byId("sheet").hidden = false;
  for (const id of ["delimiter", "names"]) byId(id).disabled = lines;
  if (state.sheet.delimiter) byId("delimiter").value = state.sheet.delimiter;
  fill(byId("column"), ...state.sheet.columns.map((column, place) => make("option", { value: place }, column)));
  byId("column").value = textColumn(state.sheet);
  preview();
  return null;
}

function preview() {
  const rows = rowsOf(state.sheet, Number(byId("column").value));
  const broken = rows.filter((row) => row.text.includes("\uFFFD")).length;
  byId("sheet-said").textContent = `${state.file.name}: ${count(rows.length, "row", "rows")}, ${count(state.sheet.columns.length, "column", "columns")}`;
  fill(byId("preview"), ...rows.slice(0, 3).map((row) => make("li", {}, make("p", { dir: "auto" }, row.text || "(empty)"))));
  say(broken ? `${count(broken, "text has", "texts have")} letters that are no ${byId("encoding").selectedOptions[0].text}: choose another encoding.` : "");
}

function putAway() {
  state.file = state.sheet = null;
  byId("file").value = "";
  byId("typed").hidden = false;
  byId("sheet").hidden = true;
  say("");
  byId("texts").focus();
}

// --- a run

/** What is asked, so that the same asked again goes on where it stopped. */
function asked() {
  const abstain = byId("abstain").value;
  const way = { domain: byId("domain").value || null, routing: byId("routing").value };
  if (abstain) way.abstain = Number(abstain) / 100;
  const what = state.sheet
    ? [state.file, state.sheet, Number(byId("column").value)]
    : [byId("texts").value, document.querySelector("[name=split]:checked").value];
  return { way, what };
}

const same = (one, other) =>
  other && JSON.stringify(one.way) === JSON.stringify(other.way) && one.what.length === other.what.length &&
  one.what.every((value, place) => value === other.what[place]);

async function begin() {
  if (state.stop) return;
  const now = asked();
  if (!same(now, state.asked) || !state.rows.some(open)) {
    const [first, second, column] = now.what;
    state.rows = state.sheet ? rowsOf(second, column) : typedRows(first, second === "whole");
    state.asked = now;
  }
  if (!state.rows.length) return say("Type a text first, or choose a file.");
  await work(now.way);
  return null;
}

async function work(way) {
  state.stop = new AbortController();
  busy(true);
  say(`Asking about ${count(state.rows.filter(open).length, "text", "texts")} …`);
  const answers = showAnswers(state.rows, state.told, way);
  const how = {
    signal: state.stop.signal,
    moved: () => (moved(), answers.moved(), say("", true)),
    waiting: (seconds) => say(`The service is busy. Asking again in ${count(seconds, "second", "seconds")}.`, true),
  };
  try {
    await run(state.rows, way, state.told.limits, how);
  } catch (error) {
    if (!state.stop.signal.aborted) byId("trouble").textContent = sentence(error);
    byId("trouble").hidden = state.stop.signal.aborted;
  }
  state.stop = null;
  busy(false);
  answers.done();
  ended();
}

function busy(now) {
  byId("stop").hidden = byId("progress").hidden = !now;
  byId("go").disabled = now;
  if (now) byId("trouble").hidden = true;
  if (now) byId("stop").focus();
  else byId("go").focus();
}

function moved() {
  const done = state.rows.filter((row) => !open(row)).length;
  byId("progress").max = state.rows.length;
  byId("progress").value = done;
  byId("count").textContent = `${done.toLocaleString("en")} of ${state.rows.length.toLocaleString("en")}`;
}

function ended() {
  const left = state.rows.filter(open).length, wrong = state.rows.filter((row) => row.error).length;
  const models = new Set(state.rows.map((row) => row.model).filter(Boolean)).size;
  moved();
  say([
    `${count(state.rows.length - left - wrong, "text", "texts")} answered.`,
    wrong ? `${count(wrong, "row", "rows")} could not be read.` : "",
    left ? `${count(left, "is", "are")} left: Label goes on with ${left === 1 ? "it" : "them"}.` : "",
    models > 1 ? "The model was exchanged on the way: download tells which one answered." : "",
  ].filter(Boolean).join(" "));
}

let waited = false;

/** Tell in the status line; what is only `passing` gives way to nothing but itself. */
function say(text, passing = false) {
  if (passing && !text && !waited) return;
  waited = passing && Boolean(text);
  byId("status").textContent = text;
}
