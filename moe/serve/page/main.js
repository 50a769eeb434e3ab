// Entry point: loads the model's description and shows the view for its output, labels or generated text.

import { forgetKey, request, toMessage } from "./api.js";
import { startCard } from "./card.js";
import { startChat } from "./chat.js";
import { startClassify } from "./classify.js";
import { byId } from "./elements.js";
import { chosenModel, offerModels, withModel } from "./models.js";

byId("forget-key").addEventListener("click", forgetKey);
try {
  const models = (await request("v1/models")).data;
  offerModels(models);
  const model = await request(withModel("v1/model"));
  byId("model").textContent = models.length > 1 ? describe(model) : `Model ${model.name}: ${describe(model)}`;
  if (model.answers !== "labels") byId("title").textContent = "FinMoE: chat with a mixture of domain experts";
  startCard(model);
  document.title = `${chosenModel ?? model.name} · ${byId("title").textContent}`;
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
  return `${experts}, backbone ${model.backbone.name}${calibration}`;
}
