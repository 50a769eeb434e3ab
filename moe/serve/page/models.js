// The choice of a model, if the service has several. The address of the page names it: `?model=NAME`; without, the first answers.

import { byId, fill, make } from "./elements.js";

const DRAFT = "draft", FIELDS = ["texts", "entities", "message"];

/** Name of the chosen model; undefined for the first one. */
export const chosenModel = new URLSearchParams(location.search).get("model") || undefined;

/** A path of the service with the chosen model in its query string. */
export const withModel = (path) => (chosenModel ? `${path}?${new URLSearchParams({ model: chosenModel })}` : path);

/** Show the choice if there are several models. Another model loads the page again, which keeps what was typed. */
export function offerModels(models) {
  const select = byId("model-select"), current = chosenModel ?? models[0].id;
  byId("model-choice").hidden = models.length < 2;
  fill(select, ...models.map(({ id }) => make("option", { value: id }, id)));
  select.value = current;
  select.addEventListener("change", () => {
    const model = select.value;
    select.value = current; // what the browser shows if the user goes back
    sessionStorage.setItem(DRAFT, JSON.stringify(FIELDS.map((id) => byId(id).value)));
    location.search = new URLSearchParams({ model });
  });
  restoreDraft();
}

/** After a choice, put back what was typed, and the focus on the list, so that the keyboard goes on from there. */
function restoreDraft() {
  const draft = sessionStorage.getItem(DRAFT);
  if (draft === null) return;
  sessionStorage.removeItem(DRAFT);
  JSON.parse(draft).forEach((value, index) => (byId(FIELDS[index]).value = value));
  byId("model-select").focus();
}
