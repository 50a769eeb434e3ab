// DOM helpers. Texts of the user or the service are only ever inserted as text nodes, never as HTML.

export const byId = (id) => document.getElementById(id);

/** Create an element. Properties that start with `on` are listeners, all others attributes; children are strings or nodes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const fill = (element, ...children) => element.replaceChildren(...children);

export const percent = (value, digits = 0) => `${(100 * value).toFixed(digits)}%`;

/** A probability or weight in whole percent; 0% and 100% are only shown if they are exact. */
export function share(value) {
  if (value > 0 && value < 0.005) return "<1%";
  return value < 1 && value >= 0.995 ? ">99%" : percent(value);
}

export const count = (number, singular, plural) => `${number.toLocaleString("en")} ${number === 1 ? singular : plural}`;

/** Text for screen readers only. */
export const visuallyHidden = (text) => make("span", { class: "visually-hidden" }, text);

/** A horizontal bar for a fraction of 1. */
export function bar(fraction, kind = "") {
  const inner = make("span", { class: `bar ${kind}` });
  inner.style.setProperty("--fraction", fraction);
  return make("span", { class: "track", "aria-hidden": "true" }, inner);
}

/** A table with a caption in a scrollable box; numeric columns are right-aligned. */
export function table(caption, head, rows) {
  const numeric = head.map((_, index) => index > 0 && rows.every((row) => /^[+−\d]/.test(row[index])));
  const kind = (index) => (numeric[index] ? "number" : null);
  const line = (row) => make("tr", {}, ...row.map((value, index) =>
    index ? make("td", { class: kind(index) }, value) : make("th", { scope: "row" }, value)));
  const names = head.map((name, index) => make("th", { scope: "col", class: kind(index) }, name));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, ...names)), make("tbody", {}, ...rows.map(line))));
}

/** A list of name, bar and percentage, sorted by value; beyond `most` lines, the smallest values are summed up. */
export function barList(values, kindOf, most = 4) {
  const sorted = Object.entries(values).sort((a, b) => b[1] - a[1]);
  const shown = sorted.length > most ? sorted.slice(0, most - 1) : sorted;
  const rest = sorted.slice(shown.length);
  const lines = shown.map(([name, value]) => [name, value, kindOf(name)]);
  if (rest.length) lines.push([`${rest.length} others`, rest.reduce((sum, [, value]) => sum + value, 0), "other"]);
  return make("ul", { class: "bars" }, ...lines.map(([name, value, kind]) =>
    make("li", {}, make("span", { class: "name" }, name), bar(value, kind), make("span", { class: "number" }, share(value)))));
}

/** Return a function from an expert's name to the class of its colour. */
export const expertKinds = (model) => {
  const kinds = new Map(Object.keys(model.experts).map((name, index) => [name, `e${index % 8}`]));
  return (name) => kinds.get(name) ?? "other";
};
