// The model card. A link opens it; where the service needs an API key, which a link cannot send, a dialog shows it.

import { hasKey, requestDocument, toMessage } from "./api.js";
import { byId, fill, make } from "./elements.js";
import { withModel } from "./models.js";

export function startCard(model) {
  byId("card-line").hidden = !model.card;
  byId("card-link").href = withModel("card");
  byId("card-link").addEventListener("click", (event) => {
    if (!hasKey()) return;
    event.preventDefault();
    showCard();
  });
  byId("close-card").addEventListener("click", () => byId("card-dialog").close());
}

async function showCard() {
  fill(byId("card-content"), make("p", { class: "muted" }, "Loading the model card …"));
  byId("card-dialog").showModal();
  try {
    const card = await requestDocument(withModel("card"));
    fill(byId("card-content"), document.importNode(card.querySelector("article"), true));
  } catch (error) {
    fill(byId("card-content"), make("p", { class: "error" }, toMessage(error)));
  }
}
