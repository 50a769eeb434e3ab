// Entry point: loads the model's description and shows the view for its output, labels or generated text.

import { forgetKey, request, toMessage } from "./api.js";
import { startCard } from "./card.js";
import { startChat } from "./chat.js";
import { startClassify } from "./classify.js";
import { byId } from "./elements.js";

byId("forget-key").addEventListener("click", forgetKey);
try {
  const model = await request("v1/model");
  byId("model").textContent = describe(model);
  if (model.answers !== "labels") byId("title").textContent = "FinMoE: chat with a mixture of domain experts";
  startCard(model);
  document.title = `${model.name} · ${byId("title").textContent}`;
  (model.answers === "labels" ? startClassify : startChat)(model);
} catch (error) {
  byId("model").textContent = "";
  byId("error").textContent = toMessage(error);
  byId("error").hidden = false;
}

function describe(model) {
  const names = Object.keys(model.experts);
  const experts = names.length === 1 ? "one expert" : `${names.length} experts (${names.join(", ")})`;
  const calibration = model.answers === "labels" ? `, ${model.calibrated ? "calibrated" : "not calibrated"}` : "";
  return `Model ${model.name}: ${experts}, backbone ${model.backbone.name}${calibration}`;
}
