// The beginning: which model answers, and what the page can be for it.

import { ask, forget, sentence } from "./asking.js";
import { startChat } from "./chat.js";
import { byId } from "./elements.js";
import { startLabels } from "./labels.js";

byId("forget").addEventListener("click", forget);
try {
  const told = await ask("v1/model");
  byId("model").textContent = facts(told);
  document.title = `${told.name} · FinMoE`;
  (told.answers === "labels" ? startLabels : startChat)(told);
} catch (error) {
  byId("model").textContent = "";
  byId("trouble").textContent = sentence(error);
  byId("trouble").hidden = false;
}

function facts(told) {
  const experts = Object.keys(told.experts);
  const what = told.kind === "expert" ? "one expert" : `a mixture of ${experts.join(", ")}`;
  const sure = told.answers === "labels" ? `; ${told.calibrated ? "calibrated" : "not calibrated"}` : "";
  return `${told.name}: ${what}; backbone ${told.backbone.name}${sure}`;
}
