// Explanation of a prediction: highlighted words, their attributions, and the prediction of each expert alone.

import { request, toMessage } from "./api.js";
import { fill, make, share, table, visuallyHidden } from "./elements.js";

const MOST_WORDS = 12, MIN_STRENGTH = 0.2, TOLERANCE = 0.05;

/** An element that shows the explanation of a row's prediction as soon as the service has computed it. */
export function makeExplanation(row, options) {
  const box = make("div", { class: "explanation-box", role: "status" }, make("p", { class: "muted" }, "Computing word attributions …"));
  const body = { text: row.text, domain: options.domain, routing: options.routing };
  if (row.target) body.target = row.target;
  const onWait = (seconds) => fill(box, make("p", { class: "muted" }, `The service is busy. Retrying in ${seconds} s.`));
  request("v1/explain", body, { onWait })
    .then((explanation) => (box.removeAttribute("role"), fill(box, ...content(explanation))))
    .catch((error) => fill(box, make("p", { class: "error" }, toMessage(error))));
  return box;
}

/** Whether a score is explained, not a label. */
const isScore = ({ answer }) => answer.confidence === null;

function content(explanation) {
  const label = explanation.why.of, scored = isScore(explanation);
  const tables = [attributionTable(explanation.why, scored ? "Attributions for the score" : `Attributions for label ${label}`, scored ? "Score" : "Log-odds")];
  if (explanation.router) tables.push(attributionTable(explanation.router, `Attributions for expert ${explanation.router.of}`));
  if (Object.keys(explanation.alone).length) tables.push(expertTable(explanation));
  return [
    make("h3", {}, scored ? "Why this score?" : `Why ${label}?`),
    make("p", { class: "highlighted", dir: "auto" }, ...highlight(explanation.text, explanation.why.words)),
    hint(scored ? "words raise the score" : `words support ${label}`, scored ? "lower it" : "oppose it"),
    make("div", { class: "side-by-side" }, ...tables),
    ...remarks(explanation).map((text) => make("p", { class: "hint" }, text)),
  ];
}

/** What bold and underlined words do. */
const hint = (bold, underlined) => make("p", { class: "hint" }, make("mark", { class: "for s3" }, "Bold"), ` ${bold}, `, make("mark", { class: "against s3" }, "underlined"), ` words ${underlined}.`);

/** The text with its strongest words marked; the service counts offsets in code points. */
export function highlight(text, words) {
  const characters = Array.from(text), largest = Math.max(...words.map((word) => Math.abs(word.weight)), 0);
  const pieces = [];
  let offset = 0;
  for (const { start, end, weight } of words) {
    const strength = largest ? Math.abs(weight) / largest : 0;
    if (strength < MIN_STRENGTH) continue;
    pieces.push(characters.slice(offset, start).join(""));
    const side = weight > 0 ? "for" : "against";
    pieces.push(make("mark", { class: `${side} s${Math.ceil(3 * strength)}` }, characters.slice(start, end).join(""), visuallyHidden(` (${side})`)));
    offset = end;
  }
  return [...pieces, characters.slice(offset).join("")];
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

function attributionTable(attribution, title, unit = "Log-odds") {
  const strongest = [...attribution.words].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)).slice(0, MOST_WORDS);
  const largest = Math.abs(strongest[0]?.weight ?? 1) || 1;
  const rows = strongest.sort((a, b) => a.start - b.start).map(({ word, weight }) => [word, signed(weight), signedBar(weight / largest)]);
  const others = attribution.words.filter((word) => !strongest.includes(word));
  if (others.length) rows.push([`${others.length} others`, signed(others.reduce((sum, word) => sum + word.weight, 0)), ""]);
  rows.push(["baseline", signed(attribution.blank), ""], ["total", signed(attribution.value), ""]);
  return table(title, ["Word", unit, visuallyHidden("Bar")], rows);
}

/** A bar from the centre, to the right for positive and to the left for negative values. */
function signedBar(fraction) {
  const inner = make("span", { class: fraction < 0 ? "bar against" : "bar for" });
  inner.style.setProperty("--fraction", Math.abs(fraction) / 2);
  return make("span", { class: "track signed", "aria-hidden": "true" }, inner);
}

function expertTable({ alone, why, answer }) {
  const predicted = answer.labels ? answer.label : why.of;
  const rows = Object.entries(alone)
    .sort((a, b) => b[1].share - a[1].share)
    .map(([name, { share: weight, label, probability, score }]) => isScore({ answer }) ? [name, share(weight), signed(score), ""] : [name, share(weight), `${label || "no label"}${label === predicted ? "" : " ≠"}`, share(probability)]);
  const answers = isScore({ answer }) ? ["Score", ""] : ["Label", "Probability"];
  return table("Each expert alone", ["Expert", "Weight", ...answers], rows);
}

function remarks(explanation) {
  const lines = [`Integrated gradients${isScore(explanation) ? " of the score" : " in log-odds"}, ${explanation.steps} steps; the baseline replaces every word by ${explanation.blank}.`];
  const isRough = (target) => target && Math.abs(target.delta) > Math.max(TOLERANCE * Math.abs(target.value - target.blank), TOLERANCE);
  if (isRough(explanation.why) || isRough(explanation.router)) lines.push("The attributions miss the total by more than 5%: they are approximate.");
  if (explanation.unrouted) lines.push(`No attributions for the routing: ${explanation.unrouted}.`);
  if (explanation.answer.truncated) lines.push("The text was truncated: words beyond the limit were not read.");
  return lines;
}
