/* The keys of the page; none while a person types. */

import * as composer from "./composer.js";
import { h, tool } from "./dom.js";
import * as gallery from "./gallery.js";
import * as queue from "./queue.js";
import * as stage from "./stage.js";
import { zoomBy } from "./viewer.js";
import { W } from "./words.js";

const TWICE_MS = 1500;
const GO = { e: "", g: "gallery", q: "queue" };

let afterG = false;
let lastX = 0;

const editor = {
  e: composer.focus,
  "/": composer.focus,
  "+": () => zoomBy(1.4),
  "=": () => zoomBy(1.4),
  "-": () => zoomBy(1 / 1.4),
  0: () => zoomBy(0),
  "[": () => stage.keys.step(-1),
  "]": () => stage.keys.step(1),
  a: stage.keys.setA,
  s: stage.keys.side,
  b: stage.keys.brush,
  d: stage.keys.download,
  f: stage.keys.star,
  x: cancelOrDelete,
  Escape: stage.keys.layDown,
};
const wall = {
  "/": gallery.keys.search,
  Escape: gallery.keys.escape,
  ...Object.fromEntries(
    ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].map((key) => [
      key,
      () => gallery.keys.move(key),
    ]),
  ),
  " ": gallery.keys.toggle,
};
const views = { edit: editor, gallery: wall, queue: { "/": queue.keys.search } };

function cancelOrDelete() {
  const now = Date.now();
  if (now - lastX < TWICE_MS) stage.keys.remove();
  else stage.keys.cancel();
  lastX = now;
}

function isTyping({ target, key }) {
  if (/^(TEXTAREA|SELECT)$/.test(target.tagName)) return true;
  if (target.tagName !== "INPUT")
    return /^(BUTTON|A)$/.test(target.tagName) && key === " " && !target.closest(".tile");
  return (
    !["range", "checkbox", "radio"].includes(target.type) ||
    (target.type !== "range" && key === " ")
  );
}

addEventListener("keydown", (event) => {
  const view = document.getElementById("app").dataset.view;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && view === "edit") {
    event.preventDefault();
    composer.form.requestSubmit();
    return;
  }
  if (isTyping(event)) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return withControl(event, view);
  if (afterG && event.key in GO) {
    afterG = false;
    location.hash = GO[event.key];
    return;
  }
  if (event.key === "g") {
    afterG = true;
    setTimeout(() => {
      afterG = false;
    }, TWICE_MS);
    return;
  }
  if (event.key === "?") return showKeys();
  if (event.key === "o" && !event.repeat && view === "edit") return stage.keys.hold(true);
  const slides = event.target.type === "range" && event.key.startsWith("Arrow");
  const act = slides ? null : views[view]?.[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

addEventListener(
  "keyup",
  (event) => event.key === "o" && !isTyping(event) && stage.keys.hold(false),
);

function withControl(event, view) {
  if (event.key === "z" && view === "edit") stage.keys.undo();
  else if (event.key === "a" && view === "gallery") gallery.keys.selectAll();
  else return;
  event.preventDefault();
}

function showKeys() {
  const dialog = h(
    "dialog.keys",
    { "aria-label": W.keys },
    h("header", {}, h("h2", {}, W.keys), tool("x", W.close, { onclick: () => dialog.close() })),
    h(
      "dl",
      {},
      W.keyList.map(([key, does]) =>
        h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, does)),
      ),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
