/* The brush: what is painted is edited, all else stays as it is. */

import { h, tool } from "./dom.js";
import { W } from "./words.js";

const PAINT = "#0e9a7c";

/** Strokes over one picture of `width` x `height` pixels. */
export class Mask {
  constructor(width, height) {
    Object.assign(this, { width, height, strokes: [] });
  }

  get isEmpty() {
    return !this.strokes.length;
  }

  /** Paint the strokes, in one colour, onto a canvas of the picture's size. */
  draw(context, colour = PAINT) {
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = colour;
    for (const { size, points } of this.strokes) {
      context.lineWidth = size;
      context.beginPath();
      points.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.stroke();
    }
  }

  /** The mask as the API takes it: a PNG, transparent where the picture is to be edited. */
  toBlob() {
    const canvas = h("canvas", { width: this.width, height: this.height });
    const context = canvas.getContext("2d");
    context.fillRect(0, 0, this.width, this.height);
    context.globalCompositeOperation = "destination-out";
    this.draw(context, "#000");
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }
}

/** A canvas over a figure that paints into `mask`, and its tools. */
export function brush(mask, onChange) {
  const canvas = h("canvas", { width: mask.width, height: mask.height, "aria-label": W.brush });
  const context = canvas.getContext("2d");
  const longer = Math.max(mask.width, mask.height);
  const size = h("input", {
    type: "range",
    min: 1,
    max: 20,
    value: 6,
    "aria-label": W.brushSize,
    "data-key": "brush-size",
  });
  const draw = () => {
    context.clearRect(0, 0, canvas.width, canvas.height);
    mask.draw(context);
    onChange();
  };
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * canvas.width,
      ((event.clientY - box.top) / box.height) * canvas.height,
    ];
  };
  canvas.addEventListener("pointerdown", (event) => {
    event.stopPropagation();
    canvas.setPointerCapture(event.pointerId);
    const first = point(event);
    mask.strokes.push({ size: (Number(size.value) / 100) * longer, points: [first, first] });
    draw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!event.buttons || !canvas.hasPointerCapture(event.pointerId)) return;
    mask.strokes.at(-1)?.points.push(point(event));
    draw();
  });
  const undo = () => {
    mask.strokes.pop();
    draw();
  };
  const clear = () => {
    mask.strokes.length = 0;
    draw();
  };
  draw();
  const bar = h(
    "div.brushbar",
    { role: "toolbar", "aria-label": W.brush },
    size,
    tool("undo", W.undo, { onclick: undo, "data-key": "undo" }, W.undo),
    tool("x", W.clear, { onclick: clear, "data-key": "clear" }, W.clear),
  );
  return { canvas, bar, undo };
}
