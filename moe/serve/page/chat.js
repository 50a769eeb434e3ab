// Chat view of a language model: streamed messages and the routing weights of each.

import { sendWithRetry, toMessage } from "./api.js";
import { barList, byId, expertKinds, make } from "./elements.js";

const state = { model: null, messages: [], controller: null };

export function startChat(model) {
  state.model = model;
  byId("chat").hidden = false;
  const domains = [...new Set(Object.values(model.experts).map((expert) => expert.domain).filter(Boolean))];
  byId("chat-domain").append(...domains.map((name) => make("option", { value: name }, `Only ${name}`)));
  byId("chat-form").addEventListener("submit", (event) => (event.preventDefault(), sendMessage()));
  byId("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("chat-form").requestSubmit();
  });
  byId("stop-chat").addEventListener("click", () => state.controller?.abort());
  byId("new-chat").addEventListener("click", startNewChat);
}

function startNewChat() {
  state.controller?.abort();
  state.messages = [];
  byId("messages").replaceChildren();
  byId("chat-status").textContent = "";
  byId("message").focus();
}

async function sendMessage() {
  const text = byId("message").value.trim();
  if (!text || state.controller) return;
  const messages = state.messages;
  messages.push({ role: "user", content: text });
  const [userItem] = appendMessage("You", "user", text);
  byId("message").value = "";
  const [modelItem, reply] = appendMessage(state.model.name, "assistant", "");
  setBusy(true);
  try {
    await generate(messages, modelItem, reply);
    byId("chat-status").textContent = reply.textContent ? "" : "The model returned an empty message.";
  } catch (error) {
    byId("chat-status").textContent = state.controller.signal.aborted ? "Stopped." : toMessage(error);
  }
  if (reply.textContent) messages.push({ role: "assistant", content: reply.textContent });
  else undoMessage(text, messages, userItem, modelItem);
  setBusy(false);
}

/** Put a message without a reply back into the text field. */
function undoMessage(text, messages, ...items) {
  for (const item of items) item.remove();
  messages.pop();
  byId("message").value ||= text;
}

/** Append a message; returns its list item and the element of its text. */
function appendMessage(author, role, text) {
  const paragraph = make("p", { dir: "auto" }, text);
  const item = make("li", { class: role }, make("b", {}, author), paragraph);
  byId("messages").append(item);
  return [item, paragraph];
}

function setBusy(busy) {
  state.controller = busy ? new AbortController() : null;
  byId("stop-chat").hidden = !busy;
  byId("send").disabled = busy;
  if (busy) byId("chat-status").textContent = "Generating …";
  byId(busy ? "stop-chat" : "message").focus();
}

async function generate(messages, item, reply) {
  const body = { messages, stream: true, domain: byId("chat-domain").value || null };
  const onWait = (seconds) => (byId("chat-status").textContent = `The service is busy. Retrying in ${seconds} s.`);
  const response = await sendWithRetry("v1/chat/completions", body, { signal: state.controller.signal, onWait });
  for await (const event of readEvents(response.body)) {
    if (event.error) throw new Error(event.error.message);
    reply.textContent += event.choices[0]?.delta.content ?? "";
    if (event.experts) item.append(barList(event.experts, expertKinds(state.model)));
  }
}

/** The server-sent events of a stream, parsed as JSON. */
async function* readEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (let incomplete = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (incomplete + value).split("\n");
    incomplete = lines.pop();
    for (const line of lines) if (line.startsWith("data: {")) yield JSON.parse(line.slice(6));
  }
}
