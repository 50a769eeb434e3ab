// Elements of the page. What a user or the service sends comes in as text alone, and never becomes HTML.

export const byId = (id) => document.getElementById(id);

/** An element; of its properties, `on…` are listeners, `class` and all others attributes; children are text or nodes. */
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

export const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/** Words that only a screen reader says. */
export const unseen = (text) => make("span", { class: "unseen" }, text);

/** A bar as wide as its share of 1. */
export function bar(share, kind = "") {
  const inner = make("span", { class: `bar ${kind}` });
  inner.style.setProperty("--share", share);
  return make("span", { class: "track", "aria-hidden": "true" }, inner);
}

/** A table with its caption, in a box that it may be scrolled in; columns of figures stand to the right. */
export function table(caption, head, rows) {
  const figures = head.map((_, place) => place > 0 && rows.every((row) => /^[+−\d]/.test(row[place])));
  const kind = (place) => (figures[place] ? "figure" : null);
  const line = (row) => make("tr", {}, ...row.map((value, place) =>
    place ? make("td", { class: kind(place) }, value) : make("th", { scope: "row" }, value)));
  const names = head.map((name, place) => make("th", { scope: "col", class: kind(place) }, name));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, ...names)), make("tbody", {}, ...rows.map(line))));
}

/** Lines of name, bar and percentage, the largest first and strong; of many the rest is summed. */
export function shares(figures, kindOf, most = 4) {
  const sorted = Object.entries(figures).sort((one, other) => other[1] - one[1]);
  const kept = sorted.length > most ? sorted.slice(0, most - 1) : sorted;
  const rest = sorted.slice(kept.length);
  const lines = kept.map(([name, share]) => [name, share, kindOf(name)]);
  if (rest.length) lines.push([`${rest.length} others`, rest.reduce((sum, [, share]) => sum + share, 0), "other"]);
  return make("ul", { class: "shares" }, ...lines.map(([name, share, kind]) =>
    make("li", {}, make("span", { class: "name" }, name), bar(share, kind), make("span", { class: "figure" }, percent(share)))));
}

/** Each expert's place among all, which is its colour. */
export const kindsOf = (told) => {
  const places = new Map(Object.keys(told.experts).map((name, place) => [name, `e${place % 8}`]));
  return (name) => places.get(name) ?? "other";
};
