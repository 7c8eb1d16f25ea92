/* Pictures on the stage: the line between two of them, the line of progress, and one zoom for all. */

import { h, icon, say } from "./dom.js";
import { picture } from "./pictures.js";
import { W } from "./words.js";

const FADE = 14; // percent at each end, within which a label would lie under the line
const NEAR = 28; // pixels from the line that still drag it
const MOST = 8;

const view = { zoom: 1, x: 0, y: 0 };

/** The shape of a figure follows its first picture as soon as that is known. */
function fit(figure) {
  const image = figure.querySelector("img");
  image.addEventListener("load", () => {
    figure.style.setProperty("--r", image.naturalWidth / image.naturalHeight || 1.5);
  });
}

const shown = (path, alt) => picture(path, alt, { loading: "eager" });

/** Let a picture be dragged to the sentence. */
function draggable(image) {
  image.draggable = true;
  image.addEventListener("dragstart", (event) => {
    event.dataTransfer.setData("text/x-i2ii-path", image.dataset.path);
    event.dataTransfer.effectAllowed = "copy";
  });
  return image;
}

/** Two pictures with a line between them: drag it, or use the keys of a slider. */
export function compare(a, b, ratio, at = 50) {
  const range = h("input.vh", {
    type: "range",
    min: 0,
    max: 100,
    step: 1,
    value: at,
    "aria-label": W.compare,
    "data-key": "slider",
  });
  const figure = h(
    "figure.pic.cmp",
    { "--r": ratio, "--x": `${at}%` },
    h("div.lens", {}, shown(b.path, b.label), h("div.clip", {}, shown(a.path, a.label))),
    range,
    h("div.line", { "aria-hidden": "true" }, h("span.grip", {}, icon("left"), icon("right"))),
    h("figcaption.tag.l", {}, a.label),
    h("figcaption.tag.r", {}, b.label),
  );
  fit(figure);
  const put = (value) => {
    const x = Math.min(100, Math.max(0, value));
    range.value = x;
    range.setAttribute("aria-valuetext", W.position(Math.round(x)));
    figure.style.setProperty("--x", `${x}%`);
    figure.classList.toggle("atl", x < FADE);
    figure.classList.toggle("atr", x > 100 - FADE);
  };
  range.addEventListener("input", () => put(Number(range.value)));
  range.addEventListener("keydown", (event) => {
    const by = { PageUp: 10, PageDown: -10 }[event.key];
    if (!by) return;
    event.preventDefault();
    put(Number(range.value) + by);
  });
  figure.addEventListener("pointerdown", (event) => drag(event, figure, range, put));
  put(at);
  return zoomable(figure);
}

function drag(event, figure, range, put) {
  if (event.button) return;
  const box = figure.getBoundingClientRect();
  const line = box.left + (box.width * Number(range.value)) / 100;
  if (view.zoom > 1 && Math.abs(event.clientX - line) > NEAR) return;
  figure.setPointerCapture(event.pointerId);
  figure.classList.add("drag");
  range.focus({ preventScroll: true });
  const move = (each) => put(((each.clientX - box.left) / box.width) * 100);
  const end = () => {
    figure.classList.remove("drag");
    figure.removeEventListener("pointermove", move);
  };
  move(event);
  figure.addEventListener("pointermove", move);
  figure.addEventListener("pointerup", end, { once: true });
  figure.addEventListener("pointercancel", end, { once: true });
}

/** Show the first of two pictures alone, while a key or a button is held. */
export function hold(figure, isHeld) {
  const [a, b] = figure.querySelectorAll(".tag");
  figure.classList.toggle("held", isHeld);
  say((isHeld ? a : b).textContent);
}

/** Two pictures side by side, with the same zoom and place. */
export function sideBySide(a, b, ratio) {
  const half = (one, side) =>
    h(
      "figure.pic.half",
      { "--r": ratio },
      h("div.lens", {}, draggable(shown(one.path, one.label))),
      h("figcaption.tag.l", {}, h("b", {}, side), one.label),
    );
  const pair = h("div.twoup", { "--r": ratio }, half(a, W.a), half(b, W.b));
  return zoomable(pair);
}

/** One picture alone. */
export function alone(one, ratio) {
  const figure = h(
    "figure.pic.alone",
    { "--r": ratio },
    h("div.lens", {}, draggable(shown(one.path, one.label))),
    h("figcaption.tag.l", {}, one.label),
  );
  fit(figure);
  return zoomable(figure);
}

/** A picture that is being edited: the line is how far it is. */
export function working(path, ratio) {
  const figure = h(
    "figure.pic.work",
    { "--r": ratio, "--x": "0%" },
    h("div.lens", {}, shown(path, W.original), h("div.veil", {}, shown(path))),
    h("div.line", { "aria-hidden": "true" }, h("span.grip.num", {}, h("b"), h("span"))),
  );
  fit(figure);
  return figure;
}

/** Move the line of a picture that is being edited. */
export function progress(figure, job, isOnline) {
  const part = job.steps ? (job.step ?? 0) / job.steps : 0;
  figure.classList.toggle("queued", job.status === "queued");
  figure.classList.toggle("stale", !isOnline);
  figure.style.setProperty("--x", `${part * 100}%`);
  const tag = figure.querySelector(".num");
  tag.hidden = !job.steps;
  tag.firstChild.textContent = job.step ?? 0;
  tag.lastChild.textContent = ` / ${job.steps ?? 0}`;
}

/* One zoom and one place for all pictures on the stage. */

function look() {
  const far = ((view.zoom - 1) / 2) * 100;
  view.x = Math.min(far, Math.max(-far, view.x));
  view.y = Math.min(far, Math.max(-far, view.y));
  for (const lens of document.querySelectorAll(".board .lens")) {
    lens.style.setProperty("--z", view.zoom);
    lens.style.setProperty("--px", `${view.x}%`);
    lens.style.setProperty("--py", `${view.y}%`);
  }
  document.querySelector(".board")?.classList.toggle("zoomed", view.zoom > 1);
  const told = document.querySelector(".zoom");
  if (told) told.textContent = view.zoom > 1 ? `${Math.round(view.zoom * 100)} %` : W.fit;
}

/** Zoom about a point, in percent from the middle of the picture; a factor of 0 fits it again. */
export function zoomBy(factor, at = [0, 0]) {
  const old = view.zoom;
  view.zoom = factor ? Math.min(MOST, Math.max(1, old * factor)) : 1;
  view.x = at[0] - ((at[0] - view.x) * view.zoom) / old;
  view.y = at[1] - ((at[1] - view.y) * view.zoom) / old;
  look();
}

function zoomable(element) {
  const fingers = new Map();
  element.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const box = (event.target.closest(".pic") ?? element).getBoundingClientRect();
      const part = (position, start, size) => ((position - start) / size - 0.5) * 100;
      zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15, [
        part(event.clientX, box.left, box.width),
        part(event.clientY, box.top, box.height),
      ]);
    },
    { passive: false },
  );
  element.addEventListener("pointerdown", (event) => fingers.set(event.pointerId, event));
  element.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const other = [...fingers.values()].find((each) => each.pointerId !== event.pointerId);
    if (other) pinch(before, event, other);
    else if (view.zoom > 1 && !element.classList.contains("drag")) pan(before, event, element);
    fingers.set(event.pointerId, event);
  });
  for (const end of ["pointerup", "pointercancel", "pointerleave"]) {
    element.addEventListener(end, (event) => fingers.delete(event.pointerId));
  }
  requestAnimationFrame(look);
  return element;
}

function pinch(before, now, other) {
  const apart = (finger) =>
    Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
  zoomBy(apart(now) / Math.max(20, apart(before)));
}

function pan(before, now, element) {
  const box = element.querySelector(".lens").getBoundingClientRect();
  view.x += ((now.clientX - before.clientX) / box.width) * 100;
  view.y += ((now.clientY - before.clientY) / box.height) * 100;
  look();
}
