// Classification view: texts from the text field, an example or a file; options; the run and its progress.

import { toMessage } from "./api.js";
import { byId, count, fill, make } from "./elements.js";
import { parseEntities, rowsOfEntities } from "./entities.js";
import { showPredictions } from "./predictions.js";
import { isPending, run } from "./run.js";
import { decode, detectEncoding, guessTextColumn, parseTable, readBytes, rowsOfInput, rowsOfTable } from "./textfile.js";

const state = { model: null, file: null, table: null, rows: [], request: null, controller: null };

export function startClassify(model) {
  state.model = model;
  byId("input").hidden = false;
  fillOptions(model);
  byId("classify-form").addEventListener("submit", (event) => (event.preventDefault(), startRun()));
  byId("texts").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("classify-form").requestSubmit();
  });
  for (const button of document.querySelectorAll(".example")) button.addEventListener("click", () => classifyExample(button));
  byId("entities").addEventListener("input", () => showEntities());
  byId("stop").addEventListener("click", () => state.controller?.abort());
  byId("file").addEventListener("change", (event) => openFile(event.target.files[0]));
  byId("remove-file").addEventListener("click", removeFile);
  for (const id of ["delimiter", "encoding", "header-row"]) byId(id).addEventListener("change", () => parseFile(id === "delimiter"));
  byId("column").addEventListener("change", showPreview);
  acceptDrops();
}

/** Offer the examples, fields and options that this model supports. */
function fillOptions(model) {
  const tasks = Object.values(model.labels).flatMap(Object.keys), hasTargets = model.targets.length > 0;
  byId("entities-field").hidden = byId("entities-example").hidden = !hasTargets;
  byId("plain-example").hidden = hasTargets;
  for (const id of ["news-example", "forum-example"]) byId(id).hidden = tasks.every((task) => model.targets.includes(task));
  const domains = Object.keys(model.labels);
  byId("domain").append(...domains.map((name) => make("option", { value: name }, `Only ${name}`)));
  byId("domain").disabled = byId("routing").disabled = Object.keys(model.experts).length < 2;
  byId("abstain").disabled = !model.calibrated;
  byId("abstain-hint").textContent = model.calibrated
    ? "Texts whose confidence is too low for this accuracy get no label; the accuracy holds for texts like those of the calibration. Leave empty to label all texts."
    : "Needs a calibrated model: run moe calibrate first.";
}

function classifyExample(button) {
  if (state.controller) return;
  if (state.table) removeFile();
  byId("texts").value = button.querySelector(".example-text").textContent;
  byId("entities").value = button.querySelector(".example-entities")?.textContent ?? "";
  byId("classify-form").requestSubmit();
}

function acceptDrops() {
  const onDrag = (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("drop-target", event.type === "dragover");
  };
  for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, onDrag);
  document.addEventListener("drop", (event) => event.dataTransfer?.files.length && openFile(event.dataTransfer.files[0]));
}

// --- files

async function openFile(file) {
  if (!file) return;
  if (state.controller) return void showStatus("Stop the current run first, or wait until it has finished.");
  try {
    const bytes = await readBytes(file);
    state.file = { name: file.name, bytes, lines: /\.txt$/i.test(file.name) };
    byId("encoding").value = detectEncoding(bytes);
    byId("header-row").checked = true;
    byId("count").textContent = "";
    parseFile(false);
    byId("classify").focus();
  } catch (error) {
    showStatus(toMessage(error));
  }
}

/** Parse the file with the current settings; the delimiter is detected unless the user has chosen it. */
function parseFile(delimiterChosen) {
  const { name, bytes, lines } = state.file;
  try {
    const text = decode(bytes, byId("encoding").value);
    const delimiter = delimiterChosen ? byId("delimiter").value : null;
    state.table = parseTable(text, { delimiter, header: byId("header-row").checked, lines });
    if (!state.table.rows.length) throw new Error(`${name} has no rows.`);
  } catch (error) {
    if (byId("file-options").hidden) state.file = state.table = null;
    else Object.assign(state.table, { columns: [], rows: [] });
    return showStatus(toMessage(error));
  }
  byId("typed").hidden = byId("drop").hidden = true;
  byId("file-options").hidden = false;
  for (const id of ["delimiter", "header-row"]) byId(id).disabled = lines;
  if (state.table.delimiter) byId("delimiter").value = state.table.delimiter;
  fill(byId("column"), ...state.table.columns.map((column, index) => make("option", { value: index }, column)));
  byId("column").value = guessTextColumn(state.table);
  showPreview();
  return null;
}

function showPreview() {
  const rows = rowsOfTable(state.table, Number(byId("column").value));
  const broken = rows.filter((row) => row.text.includes("\uFFFD")).length;
  byId("file-summary").textContent = `${state.file.name}: ${count(rows.length, "row", "rows")}, ${count(state.table.columns.length, "column", "columns")}`;
  fill(byId("preview"), ...rows.slice(0, 3).map((row) => make("li", {}, make("p", { dir: "auto" }, row.text || "(empty)"))));
  const encoding = byId("encoding").selectedOptions[0].text;
  showStatus(broken ? `${count(broken, "text is", "texts are")} not valid ${encoding}: choose another encoding.` : "");
}

function removeFile() {
  state.file = state.table = null;
  byId("file").value = "";
  byId("typed").hidden = byId("drop").hidden = false;
  byId("file-options").hidden = true;
  showStatus("");
  byId("texts").focus();
}

// --- runs

/** Options and input as they are now; a run with the same ones as before continues where that one stopped. */
function currentRequest() {
  const abstain = byId("abstain").value;
  const options = { domain: byId("domain").value || null, routing: byId("routing").value };
  if (abstain) options.abstain = Number(abstain) / 100;
  const entities = state.model.targets.length ? parseEntities(byId("entities").value) : [];
  if (entities.length) options.targets = entities;
  const input = state.table
    ? [state.file, state.table, Number(byId("column").value)]
    : [byId("texts").value, document.querySelector("[name=split]:checked").value];
  return { options, input };
}

const isSame = (request, other) =>
  other && JSON.stringify(request.options) === JSON.stringify(other.options) && request.input.length === other.input.length &&
  request.input.every((value, index) => value === other.input[index]);

/** Show how many entities the field holds, or that these are too many; return whether they can be sent. */
function showEntities() {
  const most = state.model.limits.targets, number = parseEntities(byId("entities").value).length;
  const valid = number <= most;
  byId("entities").setAttribute("aria-invalid", String(!valid));
  byId("entities-error").textContent = valid ? "" : `Enter at most ${most} entities; these are ${number}.`;
  return valid;
}

async function startRun() {
  if (state.controller) return;
  if (!showEntities()) return void byId("entities").focus();
  const request = currentRequest();
  if (!isSame(request, state.request) || !state.rows.some(isPending)) {
    const [first, second, column] = request.input;
    const rows = state.table ? rowsOfTable(second, column) : rowsOfInput(first, second === "single");
    state.rows = rowsOfEntities(rows, request.options.targets ?? []);
    state.request = request;
  }
  if (!state.rows.length) {
    if (!state.table) byId("texts").focus();
    return showStatus("Enter a text or choose a file first.");
  }
  await classify(request.options);
  return null;
}

async function classify(options) {
  state.controller = new AbortController();
  setBusy(true);
  showStatus(`Classifying ${count(countTexts(isPending), "text", "texts")} …`);
  const predictions = showPredictions(state.rows, state.model, options);
  const callbacks = {
    signal: state.controller.signal,
    onProgress: () => (showProgress(), predictions.update(), clearWaiting()),
    onWait: (seconds) => showWaiting(`The service is busy. Retrying in ${count(seconds, "second", "seconds")}.`),
  };
  try {
    await run(state.rows, options, state.model.limits, callbacks);
  } catch (error) {
    if (!state.controller.signal.aborted) byId("error").textContent = toMessage(error);
    byId("error").hidden = state.controller.signal.aborted;
  }
  state.controller = null;
  setBusy(false);
  predictions.finish();
  showSummary();
  byId("predictions").scrollIntoView({ block: "nearest" });
}

function setBusy(busy) {
  byId("stop").hidden = byId("progress").hidden = !busy;
  byId("classify").disabled = busy;
  if (busy) byId("error").hidden = true;
  if (!document.activeElement.classList.contains("example")) byId(busy ? "stop" : "classify").focus({ preventScroll: true });
}

/** The number of texts whose rows pass a check; the rows of a text for its entities pass or fail together. */
const countTexts = (check) => state.rows.filter(check).length / (state.request.options.targets?.length ?? 1);

function showProgress() {
  const done = countTexts((row) => !isPending(row)), all = countTexts(() => true);
  byId("progress").max = all;
  byId("progress").value = done;
  byId("count").textContent = all > 1 ? `${done.toLocaleString("en")} of ${all.toLocaleString("en")}` : "";
}

function showSummary() {
  const pending = countTexts(isPending), failed = countTexts((row) => row.error), all = countTexts(() => true);
  const entities = state.request.options.targets?.length ?? 0;
  const models = new Set(state.rows.map((row) => row.model).filter(Boolean)).size;
  showProgress();
  showStatus([
    `${count(all - pending - failed, "text", "texts")} classified${entities ? ` for ${count(entities, "entity", "entities")}` : ""}.`,
    failed ? `${count(failed, "row", "rows")} could not be classified.` : "",
    pending ? `${count(pending, "text remains", "texts remain")}: choose Classify to continue.` : "",
    models > 1 ? "The model was reloaded during the run: downloads name the model of each row." : "",
  ].filter(Boolean).join(" "));
}

let waiting = false;

function showStatus(text) {
  waiting = false;
  byId("status").textContent = text;
}

/** Show a status that `clearWaiting` removes. */
function showWaiting(text) {
  showStatus(text);
  waiting = true;
}

function clearWaiting() {
  if (waiting) showStatus("");
}
