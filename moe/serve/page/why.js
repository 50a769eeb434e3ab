// Why a text was answered so: its words marked for and against, what they weigh, and what each expert alone would say.

import { ask, sentence } from "./asking.js";
import { fill, make, percent, table, unseen } from "./elements.js";

const SHOWN = 12, FAINT = 0.2, ROUGH = 0.05;

/** An element that fills itself as soon as the service has answered. */
export function reasonsOf(row, told, way) {
  const place = make("div", { class: "why-box", role: "status" }, make("p", { class: "said" }, "Weighing the words …"));
  const body = { text: row.text, domain: way.domain, routing: way.routing };
  const waiting = (seconds) => fill(place, make("p", { class: "said" }, `The service is busy. Asking again in ${seconds} s.`));
  ask("v1/explain", body, { waiting })
    .then((found) => (place.removeAttribute("role"), fill(place, ...parts(found))))
    .catch((error) => fill(place, make("p", { class: "trouble" }, sentence(error))));
  return place;
}

function parts(found) {
  const tables = [wordTable(found.why, `Words for ${found.why.of}`)];
  if (found.router) tables.push(wordTable(found.router, `Words for expert ${found.router.of}`));
  if (Object.keys(found.alone).length) tables.push(aloneTable(found));
  return [
    make("h3", {}, `Why ${found.why.of}?`),
    make("p", { class: "marked", dir: "auto" }, ...marked(found.text, found.why.words)),
    make("p", { class: "hint" }, make("mark", { class: "for s3" }, "bold"), ` speaks for ${found.why.of}, `, make("mark", { class: "against s3" }, "underlined"), " against it."),
    make("div", { class: "side" }, ...tables),
    ...remarks(found).map((text) => make("p", { class: "hint" }, text)),
  ];
}

/** The text with its strong words marked; places are counted in code points, as the service counts them. */
export function marked(text, words) {
  const letters = Array.from(text), most = Math.max(...words.map((one) => Math.abs(one.weight)), 0);
  const pieces = [];
  let place = 0;
  for (const { start, end, weight } of words) {
    const strength = most ? Math.abs(weight) / most : 0;
    if (strength < FAINT) continue;
    pieces.push(letters.slice(place, start).join(""));
    const said = weight > 0 ? "for" : "against";
    pieces.push(make("mark", { class: `${said} s${Math.ceil(3 * strength)}` }, letters.slice(start, end).join(""), unseen(` (${said})`)));
    place = end;
  }
  return [...pieces, letters.slice(place).join("")];
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

function wordTable(reason, title) {
  const strong = [...reason.words].sort((one, other) => Math.abs(other.weight) - Math.abs(one.weight)).slice(0, SHOWN);
  const most = Math.abs(strong[0]?.weight ?? 1) || 1;
  const rows = strong.sort((one, other) => one.start - other.start).map(({ word, weight }) => [word, signed(weight), beam(weight / most)]);
  const others = reason.words.filter((one) => !strong.includes(one));
  if (others.length) rows.push([`${others.length} others`, signed(others.reduce((sum, one) => sum + one.weight, 0)), ""]);
  rows.push(["every word blank", signed(reason.blank), ""], ["together", signed(reason.value), ""]);
  return table(title, ["word", "log-odds", unseen("as a bar")], rows);
}

/** A bar from the middle: to the right for, to the left against. */
function beam(share) {
  const inner = make("span", { class: share < 0 ? "bar against" : "bar for" });
  inner.style.setProperty("--share", Math.abs(share) / 2);
  return make("span", { class: "track beam", "aria-hidden": "true" }, inner);
}

function aloneTable({ alone, why }) {
  const rows = Object.entries(alone)
    .sort((one, other) => other[1].share - one[1].share)
    .map(([name, one]) => [name, percent(one.share), one.label === why.of ? one.label : `${one.label} ≠`, percent(one.probability)]);
  return table("Each expert alone", ["expert", "share", "would say", "probability"], rows);
}

function remarks(found) {
  const lines = [`Log-odds; blank words are ${found.blank}; ${found.steps} steps.`];
  const rough = (one) => one && Math.abs(one.delta) > Math.max(ROUGH * Math.abs(one.value - one.blank), ROUGH);
  if (rough(found.why) || rough(found.router)) lines.push("The words' sum is off by more than a twentieth: take their weights as rough.");
  if (found.unrouted) lines.push(`No words for an expert: ${found.unrouted}.`);
  if (found.answer.truncated) lines.push("The text was cut: words after the cut were not read.");
  return lines;
}
