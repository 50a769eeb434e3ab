// The page of a language model: a chat, whose answers come piece by piece, and who gave them.

import { patient, sentence } from "./asking.js";
import { byId, kindsOf, make, shares } from "./elements.js";

const state = { told: null, turns: [], stop: null };

export function startChat(told) {
  state.told = told;
  byId("chat").hidden = false;
  const domains = [...new Set(Object.values(told.experts).map((one) => one.domain).filter(Boolean))];
  byId("chat-domain").append(...domains.map((name) => make("option", { value: name }, `the experts of ${name}`)));
  byId("chat-form").addEventListener("submit", (event) => (event.preventDefault(), say()));
  byId("say").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("chat-form").requestSubmit();
  });
  byId("hush").addEventListener("click", () => state.stop?.abort());
  byId("anew").addEventListener("click", anew);
}

function anew() {
  state.stop?.abort();
  state.turns = [];
  byId("turns").replaceChildren();
  byId("chat-status").textContent = "";
  byId("say").focus();
}

async function say() {
  const text = byId("say").value.trim();
  if (!text || state.stop) return;
  const turns = state.turns;
  turns.push({ role: "user", content: text });
  const [own] = turn("you", text);
  byId("say").value = "";
  const [line, spoken] = turn(state.told.name, "");
  busy(true);
  try {
    await answer(turns, line, spoken);
    byId("chat-status").textContent = spoken.textContent ? "" : "The model said nothing to that.";
  } catch (error) {
    byId("chat-status").textContent = state.stop.signal.aborted ? "Stopped." : sentence(error);
  }
  if (spoken.textContent) turns.push({ role: "assistant", content: spoken.textContent });
  else takeBack(text, turns, own, line);
  busy(false);
}

/** A turn that was not answered goes back to where it was typed. */
function takeBack(text, turns, ...lines) {
  for (const line of lines) line.remove();
  turns.pop();
  byId("say").value ||= text;
}

/** A turn's line, and where its words stand. */
function turn(who, text) {
  const spoken = make("p", { dir: "auto" }, text);
  const line = make("li", { class: who === "you" ? "you" : "answer" }, make("b", {}, who), spoken);
  byId("turns").append(line);
  return [line, spoken];
}

function busy(now) {
  state.stop = now ? new AbortController() : null;
  byId("hush").hidden = !now;
  byId("send").disabled = now;
  if (now) byId("chat-status").textContent = "Answering …";
  byId(now ? "hush" : "say").focus();
}

async function answer(turns, line, spoken) {
  const body = { messages: turns, stream: true, domain: byId("chat-domain").value || null };
  const waiting = (seconds) => (byId("chat-status").textContent = `The service is busy. Asking again in ${seconds} s.`);
  const response = await patient("v1/chat/completions", body, { signal: state.stop.signal, waiting });
  for await (const event of events(response.body)) {
    if (event.error) throw new Error(event.error.message);
    spoken.textContent += event.choices[0]?.delta.content ?? "";
    if (event.experts) line.append(shares(event.experts, kindsOf(state.told)));
  }
}

/** The events of a stream, as JSON, up to its end. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (let kept = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (kept + value).split("\n");
    kept = lines.pop();
    for (const line of lines) if (line.startsWith("data: {")) yield JSON.parse(line.slice(6));
  }
}
