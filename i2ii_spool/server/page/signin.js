/* Where a token is asked for. It is kept for this browser session, and never part of an address. */

import * as api from "./api.js";
import { h, icon, show } from "./dom.js";
import { compare } from "./viewer.js";
import { W } from "./words.js";

const sample = (name) => new URL(`sample-${name}.webp`, import.meta.url).pathname;

/** The sign-in; `enter` is called once the server takes the token. */
export function view(isRefused, enter) {
  const input = h("input", {
    id: "token",
    name: "token",
    type: "password",
    autocomplete: "current-password",
    placeholder: "i2ii_…",
    required: true,
    "aria-describedby": "keep bad-token",
  });
  const problem = h("span.error", { id: "bad-token", role: "alert" });
  const field = h("div.field", {}, h("label.label", { for: "token" }, W.token), input, problem);
  const refuse = (words) => {
    field.classList.add("bad");
    show(problem, icon("warn"), words);
  };
  const submit = async (event) => {
    event.preventDefault();
    api.tryToken(input.value.trim());
    try {
      await enter();
    } catch (error) {
      api.tryToken(null);
      refuse(
        error instanceof api.Away ? W.offTitle : error.status === 401 ? W.signBad : error.message,
      );
    }
  };
  if (isRefused) refuse(W.signBad);
  const picture = (name) => ({
    path: sample(name),
    label: name === "coffee" ? W.original : W.result(1),
  });
  return h(
    "main.signin",
    { id: "main" },
    h("div.beside.board", {}, compare(picture("coffee"), picture("coffee-watercolour"), 1.5, 52)),
    h(
      "form.card",
      { onsubmit: submit, novalidate: true },
      h("h1", {}, W.signTitle),
      h("p", {}, W.signText),
      field,
      h("button.primary", { type: "submit" }, icon("key"), h("span", {}, W.signIn)),
      h("p.keep", { id: "keep" }, W.signKept),
    ),
  );
}
