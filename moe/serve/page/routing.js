// Routing of all texts: mean routing weights by task, label or column, and histograms of entropy and confidence.

import { byId, count, expertKinds, fill, make, percent, table } from "./elements.js";
import { groupByText } from "./entities.js";

const BINS = 20, MOST_GROUPS = 12, MOST_MONTHS = 36, MOST_VALUES = 60;
const DATE = /^\s*(\d{4})[-/.]?(0[1-9]|1[0-2])(?:[-/.]?\d{2}(?!\d)|$|[^\d])/;
const state = { rows: [], model: null, threshold: 0, chosen: null, nouns: ["text", "texts"] };

export function showRouting(rows, model, threshold) {
  Object.assign(state, { rows: rows.filter((row) => row.prediction), model, threshold });
  const texts = groupByText(state.rows).length;
  state.nouns = texts < state.rows.length ? ["prediction", "predictions"] : ["text", "texts"];
  byId("routing-section").hidden = texts < 2;
  if (texts < 2) return;
  fillGroupings();
  draw();
}

/** Possible groupings: by key, a name and a function from a row to its group. */
function groupings() {
  const available = new Map([["=task", ["task", (row) => row.prediction.task]], ["=label", ["label", (row) => row.prediction.label || (row.prediction.confidence === null ? "score" : "no label")]]]);
  for (const name of Object.keys(state.rows[0].file)) {
    const values = state.rows.map((row) => row.file[name]).filter(Boolean);
    const dated = values.length && values.slice(0, 1000).every((value) => DATE.test(value));
    if (dated) available.set(`m${name}`, [`month of ${name}`, (row) => DATE.exec(row.file[name] ?? "")?.slice(1, 3).join("-") ?? "no date"]);
    else if (values.length && new Set(values).size <= MOST_VALUES) available.set(`c${name}`, [`column ${name}`, (row) => row.file[name] || "(empty)"]);
  }
  return available;
}

function fillGroupings() {
  const available = groupings();
  fill(byId("group"), ...[...available].map(([value, [name]]) => make("option", { value }, name)));
  byId("group").value = [state.chosen, "cdomain", "=task"].find((key) => available.has(key));
}

function draw() {
  const experts = Object.keys(state.model.experts).filter((name) => name in state.rows[0].prediction.experts);
  const charts = [];
  if (experts.length > 1) charts.push(weightChart(experts), histogram("Routing entropy", "0: a single expert; 1: equal weights", "routing_entropy", null));
  if (state.rows.some((row) => row.prediction.confidence !== null)) charts.push(histogram("Confidence", "of the label; striped below the threshold", "confidence", state.threshold));
  fill(byId("charts"), ...charts);
}

// --- mean routing weights

/** Name and rows of each group; beyond the limit, the smallest groups or the earliest months are merged. */
function groups() {
  const [, groupOf] = groupings().get(byId("group").value);
  const months = byId("group").value.startsWith("m");
  const byName = new Map();
  for (const row of state.rows) {
    const name = groupOf(row);
    if (!byName.has(name)) byName.set(name, []);
    byName.get(name).push(row);
  }
  const sorted = [...byName].sort(months ? (a, b) => a[0].localeCompare(b[0]) : (a, b) => b[1].length - a[1].length);
  const most = months ? MOST_MONTHS : MOST_GROUPS;
  if (sorted.length <= most) return sorted;
  const rest = months ? sorted.splice(0, sorted.length - most + 1) : sorted.splice(most - 1);
  const merged = [months ? "earlier" : `${rest.length} others`, rest.flatMap(([, rows]) => rows)];
  return months ? [merged, ...sorted] : [...sorted, merged];
}

const mean = (rows, value) => rows.reduce((sum, row) => sum + value(row.prediction), 0) / rows.length;

function weightChart(experts) {
  const kindOf = expertKinds(state.model);
  const means = groups().map(([name, rows]) => ({
    name,
    texts: rows.length,
    weights: experts.map((expert) => mean(rows, (prediction) => prediction.experts[expert] ?? 0)),
    entropy: mean(rows, (prediction) => prediction.routing_entropy),
  }));
  const legend = make("ul", { class: "legend", "aria-hidden": "true" }, ...experts.map((expert) => make("li", {}, make("span", { class: `bar ${kindOf(expert)}` }), expert)));
  const lines = means.map((group) => make("li", {},
    make("span", { class: "name" }, group.name, make("span", { class: "muted" }, ` ${count(group.texts, ...state.nouns)}`)),
    stackedBar(group, experts, kindOf)));
  const title = byId("group").selectedOptions[0].text;
  const rows = means.map(({ name, texts, weights, entropy }) => [name, texts.toLocaleString("en"), ...weights.map((weight) => percent(weight, 1)), entropy.toFixed(3)]);
  return figure(`Mean routing weight of each expert, by ${title}`, "", [legend, make("ul", { class: "stacks" }, ...lines)],
    table(`Mean routing weights by ${title}`, [title, state.nouns[1], ...experts, "mean entropy"], rows));
}

function stackedBar({ name, weights }, experts, kindOf) {
  const values = experts.map((expert, index) => `${expert} ${percent(weights[index])}`).join(", ");
  const parts = experts.map((expert, index) => {
    const part = make("span", { class: `bar ${kindOf(expert)}`, title: `${expert} ${percent(weights[index], 1)}` });
    part.style.setProperty("--fraction", weights[index]);
    return part;
  });
  return make("span", { class: "track stack", role: "img", "aria-label": `${name}: ${values}` }, ...parts);
}

// --- histograms

function histogram(title, remark, field, threshold) {
  const bins = Array.from({ length: BINS }, () => 0);
  const values = state.rows.map((row) => row.prediction[field]).filter((value) => value !== null).sort((a, b) => a - b);
  for (const value of values) bins[Math.min(BINS - 1, Math.max(0, Math.floor(value * BINS)))] += 1;
  const highest = Math.max(...bins), quantile = (q) => values[Math.min(values.length - 1, Math.floor(q * values.length))];
  const columns = bins.map((number, index) => {
    const low = threshold !== null && (index + 1) / BINS <= threshold + 1e-9;
    const column = make("span", { class: `column ${low ? "low" : ""} ${number ? "" : "empty"}`, title: `${binRange(index)}: ${count(number, ...state.nouns)}` });
    column.style.setProperty("--fraction", number / highest);
    return column;
  });
  const summary = `median ${quantile(0.5).toFixed(3)}, 90th percentile ${quantile(0.9).toFixed(3)}`;
  const chart = make("div", { class: "histogram", role: "img", "aria-label": `${title}: ${summary}` }, ...columns);
  const axis = make("div", { class: "axis", "aria-hidden": "true" }, ...["0", "0.5", "1"].map((tick) => make("span", {}, tick)));
  const rows = bins.map((number, index) => [binRange(index), number.toLocaleString("en"), percent(number / values.length, 1)]);
  const caption = make("p", { class: "hint" }, `M${summary.slice(1)}; highest bin: ${count(highest, ...state.nouns)}`);
  return figure(title, remark, [chart, axis, caption], table(title, ["range", state.nouns[1], "fraction"], rows));
}

const binRange = (index) => `${(index / BINS).toFixed(2)}–${((index + 1) / BINS).toFixed(2)}`;

function figure(title, remark, chart, dataTable) {
  const caption = make("figcaption", {}, make("b", {}, title), remark ? make("span", { class: "muted" }, ` ${remark}`) : null);
  return make("figure", {}, caption, ...chart, make("details", {}, make("summary", {}, "Show as table"), dataTable));
}

byId("group").addEventListener("change", () => {
  state.chosen = byId("group").value;
  draw();
});
