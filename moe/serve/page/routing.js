// Who answered a whole file: mean shares of the experts by task, label or a column, and how sure router and model were.

import { byId, count, fill, kindsOf, make, percent, table } from "./elements.js";

const BINS = 20, MOST_GROUPS = 12, MOST_MONTHS = 36, MOST_VALUES = 60;
const DAY = /^\s*(\d{4})[-/.]?(0[1-9]|1[0-2])(?:[-/.]?\d{2}(?!\d)|$|[^\d])/;
const state = { rows: [], told: null, threshold: 0, chosen: null };

export function showRouting(rows, told, threshold) {
  Object.assign(state, { rows: rows.filter((row) => row.answer), told, threshold });
  byId("routing-view").hidden = state.rows.length < 2;
  if (state.rows.length < 2) return;
  offer();
  draw();
}

/** What rows can be grouped by: each a name, and a group of a row. */
function groupings() {
  const found = new Map([["=task", ["the answered task", (row) => row.answer.task]], ["=label", ["label", (row) => row.answer.label ?? "no label"]]]);
  for (const name of Object.keys(state.rows[0].file)) {
    const values = state.rows.map((row) => row.file[name]).filter(Boolean);
    const dated = values.length && values.slice(0, 1000).every((value) => DAY.test(value));
    if (dated) found.set(`m${name}`, [`month of ${name}`, (row) => DAY.exec(row.file[name] ?? "")?.slice(1, 3).join("-") ?? "no date"]);
    else if (values.length && new Set(values).size <= MOST_VALUES) found.set(`c${name}`, [`column ${name}`, (row) => row.file[name] || "(empty)"]);
  }
  return found;
}

function offer() {
  const found = groupings();
  fill(byId("group"), ...[...found].map(([value, [name]]) => make("option", { value }, name)));
  byId("group").value = [state.chosen, "cdomain", "=task"].find((one) => found.has(one));
}

function draw() {
  const experts = Object.keys(state.told.experts).filter((name) => name in state.rows[0].answer.experts);
  const charts = [];
  if (experts.length > 1) charts.push(shareChart(experts), histogram("Routing entropy", "0: one expert was asked; 1: all alike", "routing_entropy", null));
  charts.push(histogram("Confidence", "of the label; striped where low", "confidence", state.threshold));
  fill(byId("charts"), ...charts);
}

// --- shares

function groups() {
  const [, groupOf] = groupings().get(byId("group").value);
  const months = byId("group").value.startsWith("m");
  const found = new Map();
  for (const row of state.rows) {
    const name = groupOf(row);
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(row);
  }
  const sorted = [...found].sort(months ? (one, other) => one[0].localeCompare(other[0]) : (one, other) => other[1].length - one[1].length);
  const most = months ? MOST_MONTHS : MOST_GROUPS;
  if (sorted.length <= most) return sorted;
  const rest = months ? sorted.splice(0, sorted.length - most + 1) : sorted.splice(most - 1);
  const other = [months ? "earlier" : `${rest.length} others`, rest.flatMap(([, rows]) => rows)];
  return months ? [other, ...sorted] : [...sorted, other];
}

const mean = (rows, figure) => rows.reduce((sum, row) => sum + figure(row.answer), 0) / rows.length;

function shareChart(experts) {
  const kindOf = kindsOf(state.told);
  const found = groups().map(([name, rows]) => ({
    name,
    rows: rows.length,
    shares: experts.map((one) => mean(rows, (answer) => answer.experts[one] ?? 0)),
    entropy: mean(rows, (answer) => answer.routing_entropy),
  }));
  const legend = make("ul", { class: "legend", "aria-hidden": "true" }, ...experts.map((one) => make("li", {}, make("span", { class: `bar ${kindOf(one)}` }), one)));
  const lines = found.map((one) => make("li", {},
    make("span", { class: "name" }, one.name, make("span", { class: "said" }, ` ${count(one.rows, "text", "texts")}`)),
    stack(one, experts, kindOf)));
  const title = byId("group").selectedOptions[0].text;
  const rows = found.map((one) => [one.name, one.rows.toLocaleString("en"), ...one.shares.map((share) => percent(share, 1)), one.entropy.toFixed(3)]);
  return figure(`Mean share of each expert, by ${title}`, "", [legend, make("ul", { class: "stacks" }, ...lines)],
    table(`Mean shares by ${title}`, [title, "texts", ...experts, "mean entropy"], rows));
}

function stack({ name, shares }, experts, kindOf) {
  const said = experts.map((one, place) => `${one} ${percent(shares[place])}`).join(", ");
  const parts = experts.map((one, place) => {
    const part = make("span", { class: `bar ${kindOf(one)}`, title: `${one} ${percent(shares[place], 1)}` });
    part.style.setProperty("--share", shares[place]);
    return part;
  });
  return make("span", { class: "track stack", role: "img", "aria-label": `${name}: ${said}` }, ...parts);
}

// --- histograms

function histogram(title, remark, field, threshold) {
  const bins = Array.from({ length: BINS }, () => 0), values = state.rows.map((row) => row.answer[field]).sort((one, other) => one - other);
  for (const value of values) bins[Math.min(BINS - 1, Math.max(0, Math.floor(value * BINS)))] += 1;
  const most = Math.max(...bins), at = (share) => values[Math.min(values.length - 1, Math.floor(share * values.length))];
  const columns = bins.map((number, place) => {
    const low = threshold !== null && (place + 1) / BINS <= threshold + 1e-9;
    const column = make("span", { class: `column ${low ? "low" : ""} ${number ? "" : "empty"}`, title: `${edges(place)}: ${count(number, "text", "texts")}` });
    column.style.setProperty("--share", number / most);
    return column;
  });
  const said = `${title}: half of the texts lie below ${at(0.5).toFixed(3)}, nine in ten below ${at(0.9).toFixed(3)}`;
  const chart = make("div", { class: "histogram", role: "img", "aria-label": said }, ...columns);
  const axis = make("div", { class: "axis", "aria-hidden": "true" }, ...["0", "0.5", "1"].map((one) => make("span", {}, one)));
  const rows = bins.map((number, place) => [edges(place), number.toLocaleString("en"), percent(number / values.length, 1)]);
  return figure(title, remark, [chart, axis, make("p", { class: "hint" }, `${said.slice(title.length + 2)}; the highest column is ${count(most, "text", "texts")}.`)],
    table(title, ["from–to", "texts", "share"], rows));
}

const edges = (place) => `${(place / BINS).toFixed(2)}–${((place + 1) / BINS).toFixed(2)}`;

function figure(title, remark, chart, behind) {
  const caption = make("figcaption", {}, make("b", {}, title), remark ? make("span", { class: "said" }, ` ${remark}`) : null);
  return make("figure", {}, caption, ...chart, make("details", {}, make("summary", {}, "Figures as a table"), behind));
}

byId("group").addEventListener("change", () => {
  state.chosen = byId("group").value;
  draw();
});
