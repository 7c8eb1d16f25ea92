/* The editor: the picture on the stage, and what is known of it. */

import * as actions from "./actions.js";
import * as api from "./api.js";
import { framesOf, ratioOf, siblingsOf } from "./chain.js";
import * as composer from "./composer.js";
import { bar, h, icon, keep, kept, show, tool } from "./dom.js";
import { get, hasEnded, hold, load, service } from "./jobs.js";
import { brush, Mask } from "./mask.js";
import { download, fileName, Given, picture, resultOf, shownInput } from "./pictures.js";
import * as side from "./side.js";
import { ago, fileSize, languageOf, megabytes, progress, W } from "./words.js";
import * as viewer from "./viewer.js";

const stage = h("section.stage", { "aria-label": W.edit });
const top = h("div.stagetop");

/** The editor itself. */
export const element = h("main.edit", { id: "main" }, stage, side.element);
stage.append(top, composer.form);

let at = { id: null, n: 1, mode: kept("mode", "slider"), a: null };
let drawn = null; // what is drawn, so that a step moves a line and builds nothing
let frames = [];
let painting = null;

composer.connect({
  added() {
    if (location.hash.startsWith("#job/") && !composer.draft.pictures[0].isOnStage)
      location.hash = "";
    else if (!at.id) draw();
  },
  removed(given) {
    const job = get(at.id);
    if (!at.id) draw();
    else if (!composer.draft.pictures.length && job?.status === "completed" && !given.isOnStage)
      stageOf(job);
  },
  sent([first]) {
    location.hash = `job/${first.request_id}`;
  },
});

/** Show a job, or what is about to be sent. */
export async function open(id = null, n = null) {
  at = { ...at, id, n: n ?? 1, isChosen: n != null, a: null };
  drawn = null;
  hold(id);
  if (!id) {
    if (composer.draft.pictures[0]?.isOnStage) composer.setStage(null);
    side.setJob(null);
    return draw();
  }
  try {
    await load(id);
  } catch (error) {
    if (at.id === id) drawMissing(error);
    return;
  }
  if (at.id === id) await update();
}

/** Draw what has changed. */
export async function update() {
  side.update();
  const job = at.id && get(at.id);
  if (!at.id) return drawn ? null : draw();
  if (!job) return drawn === "missing" ? null : drawMissing(null);
  const key = [job.request_id, job.status, at.n, at.isChosen, at.mode, at.a].join();
  if (drawn === key) return follow(job);
  drawn = key;
  frames = await framesOf(job);
  if (drawn !== key) return;
  side.setJob(job, at.n);
  stageOf(job);
  drawJob(job);
  follow(job);
}

/* The sentence edits the result on the stage, unless a person has brought other pictures: those stay
 * until they are sent. */
function stageOf(job) {
  const [first] = composer.draft.pictures;
  if (first && !first.isOnStage) return;
  if (job.status === "completed") composer.setStage(job, at.n);
  else composer.setStage(null);
}

function draw() {
  const [first] = composer.draft.pictures;
  drawn = "draft";
  painting = null;
  show(top, first ? composing(first) : welcome());
  composer.render();
}

function drawMissing(error) {
  drawn = "missing";
  side.setJob(null);
  const words = error instanceof api.Away ? W.offTitle : error?.status === 404 ? W.unknown : W.gone;
  show(
    top,
    h(
      "div.board.welcome",
      {},
      h(
        "div.invite",
        { role: "alert" },
        h("h1", {}, words),
        h("div.pair", {}, h("a.second", { href: "#gallery" }, W.allJobs)),
      ),
    ),
  );
}

function drawJob(job) {
  const draws = { queued: underway, running: underway, completed, failed, cancelled: failed };
  show(top, draws[job.status](job));
}

/** Move the line, and say how far the job is. */
function follow(job) {
  if (hasEnded(job)) return;
  const figure = top.querySelector(".work");
  if (figure) viewer.progress(figure, job, service.isOnline);
  const told = top.querySelector(".title p");
  if (told)
    show(
      told,
      h(
        job.status === "running" && service.isOnline ? "b.live" : "b",
        {},
        progress(job, service.isOnline),
      ),
      job.worker && ` · ${job.worker}`,
    );
  const busy = top.querySelector(".busy .bar");
  busy?.style.setProperty("--part", job.steps ? (job.step ?? 0) / job.steps : 0);
  for (const button of top.querySelectorAll(".stagebar .danger"))
    button.disabled = !service.isOnline;
}

/* ---- the views ------------------------------------------------------------------------------------ */

function stagebar(title, subtitle, ...tools) {
  return h(
    "div.stagebar",
    {},
    h("div.title", {}, h("h1", { title, lang: languageOf(title) }, title), h("p", {}, subtitle)),
    h("div.tools", {}, tools),
  );
}

const info = () =>
  tool("info", W.details, { class: "infoer", onclick: (event) => openDrawer(event.currentTarget) });

function welcome() {
  const { limits } = service.options ?? {};
  const instructions = composer.instructions();
  const samples = [
    ["coffee", "coffee-watercolour", 46],
    ["astronaut", "astronaut-pencil", 50],
    ["cat", "cat-pop", 47],
  ];
  const path = (kind, name) => new URL(`${kind}-${name}.webp`, import.meta.url).pathname;
  const start = async (name, text) => {
    const blob = await (await fetch(path("original", name))).blob();
    composer.setPictures([await new Given(blob, `${name}.webp`).look()]);
    composer.write(text);
    draw();
  };
  return [
    h(
      "div.board.welcome",
      {},
      h(
        "div.invite",
        {},
        h(
          "h1",
          {},
          W.emptyTitle.map((line) => h("span", {}, line)),
        ),
        h(
          "p",
          {},
          W.emptyText(limits?.max_images ?? 3, megabytes(limits?.max_bytes ?? 50 * 2 ** 20)),
        ),
        h(
          "div.pair",
          {},
          h(
            "button.primary",
            { type: "button", onclick: composer.choose },
            icon("image"),
            h("span", {}, W.choose),
          ),
          navigator.clipboard?.read &&
            h("button.second", { type: "button", onclick: composer.paste }, icon("paste"), W.paste),
          h(
            "button.second.cam",
            { type: "button", onclick: composer.photograph },
            icon("camera"),
            W.camera,
          ),
        ),
      ),
      h(
        "section.tries",
        { "aria-label": W.tryOne },
        h("h2", {}, W.tryOne),
        h(
          "ul",
          {},
          samples.map(([before, after, line], index) => {
            const text = instructions.find((each) => isIn(each, W.tries[index])) ?? W.tries[index];
            return h(
              "li",
              {},
              h(
                "button",
                { type: "button", onclick: () => start(before, text) },
                h(
                  "span.try",
                  { "--x0": `${line}%` },
                  picture(path("sample", before)),
                  picture(path("sample", after), "", { class: "after" }),
                  h("i"),
                ),
                h("span", {}, W.tries[index]),
              ),
            );
          }),
        ),
      ),
    ),
  ];
}

const isIn = (a, b) => a.toLowerCase().includes(b.toLowerCase()) || b.includes(a);

function composing(first) {
  const facts = [
    first.name,
    first.width && `${first.width} × ${first.height}`,
    first.blob && fileSize(first.blob.size),
  ];
  const canBrush = first.width > 0;
  const button = h(
    "button.tool.wide.brusher",
    {
      type: "button",
      title: `${W.brush} (B)`,
      "aria-pressed": String(Boolean(painting)),
      onclick: () => paint(first),
    },
    icon("brush"),
    h("span.long", {}, W.brush),
    h("span.short", {}, W.brushShort),
  );
  const shown = first.url
    ? picture(first.url, W.picture(1), { loading: "eager" })
    : first.from
      ? picture(resultOf(first.from.id, first.from.n), W.picture(1), { loading: "eager" })
      : h("span.unshown", {}, first.name);
  return [
    stagebar(W.picture(1), facts.filter(Boolean).join(" · "), canBrush && button),
    h(
      "div.board",
      {},
      h(
        "figure.pic",
        { id: "paint", "--r": first.width ? first.width / first.height : 1.5 },
        h("div.lens", {}, shown),
      ),
    ),
  ];
}

/** Take the brush, or lay it down; the strokes stay. */
function paint(given) {
  const figure = top.querySelector("#paint, .pic");
  const button = top.querySelector(".brusher");
  if (painting) {
    painting.canvas.remove();
    painting.bar.remove();
    painting = null;
  } else {
    composer.draft.mask ??= new Mask(given.width, given.height);
    painting = brush(composer.draft.mask, () =>
      button?.classList.toggle("painted", !composer.draft.mask.isEmpty),
    );
    figure.append(painting.canvas);
    figure.parentNode.append(painting.bar);
  }
  button?.setAttribute("aria-pressed", String(Boolean(painting)));
}

function underway(job) {
  painting = null;
  const before = frames[frames.findIndex((frame) => frame.job?.request_id === job.request_id) - 1];
  return [
    stagebar(
      job.prompt ?? job.request_id,
      "",
      tool(
        "x",
        W.cancel,
        { class: "danger", onclick: () => actions.cancel(job), "data-key": "cancel" },
        W.cancel,
      ),
    ),
    h(
      "div.board",
      {},
      viewer.working(before?.path ?? shownInput(job), ratioOf(before?.job ?? job)),
    ),
    strip(job),
    h("p.mayclose", {}, W.mayClose),
  ];
}

function failed(job) {
  const { code, message } = job.error ?? {};
  const isCancelled = job.status === "cancelled";
  const [what, why] = W.failures[isCancelled ? "cancelled" : code] ?? [W.failures.other[0], null];
  const small = code === "out_of_memory" && job.request?.size !== "1024x1024";
  const again = () => editAgain(job);
  return [
    stagebar(
      job.prompt ?? job.request_id,
      [
        icon(isCancelled ? "x" : "warn"),
        `${W.statuses[job.status]} · ${ago(job.completed_at ?? job.submitted_at)}`,
      ],
      side.deleteTool(job),
    ),
    h(
      "div.board.split",
      {},
      h(
        "figure.pic.small",
        { "--r": ratioOf(job) },
        h("div.lens", {}, picture(shownInput(job), W.original, { loading: "eager" })),
      ),
      h(
        "div.why",
        { role: "alert" },
        h("h2", {}, what),
        why && h("p", {}, why),
        !isCancelled && h("p.message", { lang: "en" }, message),
        code === "unknown_instruction" &&
          h(
            "div.chips.wrap",
            {},
            composer.instructions().map((text) =>
              h(
                "button.chip",
                {
                  type: "button",
                  onclick: async () => {
                    await again();
                    composer.write(text);
                  },
                },
                text,
              ),
            ),
          ),
        h(
          "div.pair",
          {},
          small &&
            h(
              "button.primary",
              { type: "button", onclick: () => editAgain(job, { size: "1024x1024", n: 1 }) },
              icon("retry"),
              h("span", {}, `${W.retry} 1024 px`),
            ),
          h(
            small || code === "unknown_instruction" ? "button.second" : "button.primary",
            { type: "button", onclick: () => actions.retry(job), "data-key": "retry" },
            icon("retry"),
            h("span", {}, W.retry),
          ),
          h("button.second", { type: "button", onclick: again, "data-key": "change" }, W.change),
        ),
        h(
          "p.where",
          {},
          code && h("code", {}, code),
          job.attempts && h("span", {}, W.where(job.attempts, job.worker)),
          h(
            "button.linkish",
            { type: "button", onclick: () => actions.copy(actions.reportOf(job)) },
            icon("copy"),
            W.report,
          ),
        ),
      ),
    ),
  ];
}

/** Put the inputs, the instruction and the settings of a job into the sentence. */
async function editAgain(job, changes = {}) {
  await actions.attempt(async () => {
    const pictures = [];
    for (let n = 1; n <= (job.inputs?.length ?? 1); n += 1) {
      const blob = await (await api.request(`/inputs/${job.request_id}?n=${n}`)).blob();
      pictures.push(await new Given(blob, job.inputs?.[n - 1] ?? "input.png").look());
    }
    composer.useSettings({ ...job, request: { ...job.request, ...changes } });
    location.hash = "";
    await open();
    composer.setPictures(pictures);
    draw();
  });
}

function completed(job) {
  painting = null;
  const count = job.outputs?.length ?? 1;
  if (count > 1 && !at.isChosen) return several(job, count);
  const b = frames.find((frame) => frame.job?.request_id === job.request_id);
  b.n = at.n;
  Object.assign(b, { path: resultOf(job.request_id, at.n) });
  const a = frames[at.a ?? b.index - 1] ?? frames[0];
  const ratio = ratioOf(job);
  const mode = at.mode;
  const views = {
    slider: () => viewer.compare(a, b, ratio),
    side: () => viewer.sideBySide(a, b, ratio),
    single: () => viewer.alone(b, ratio),
  };
  return [
    stagebar(
      job.prompt ?? job.request_id,
      `${a.label} – ${b.label}${count > 1 ? ` (${at.n}/${count})` : ""}`,
      ...viewTools(mode),
      brushTool(job),
      star(job),
      info(),
      get_(job),
    ),
    h("div.board", {}, views[mode]()),
    strip(job, a),
  ];
}

const get_ = (job) =>
  h(
    "button.primary.get",
    {
      type: "button",
      "data-key": "download",
      onclick: () =>
        actions.attempt(() => download(resultOf(job.request_id, at.n), fileName(job, at.n))),
    },
    icon("download"),
    h("span", {}, W.download),
  );

function brushTool(job) {
  const given = composer.draft.pictures[0];
  const button = tool("brush", W.brush, {
    class: "brusher solo",
    title: `${W.brush} (B)`,
    "data-key": "brush",
    "aria-pressed": "false",
  });
  button.addEventListener("click", () => {
    if (at.mode !== "single")
      setMode("single").then(() => paint({ width: job.width, height: job.height }));
    else paint(given ?? { width: job.width, height: job.height });
  });
  return button;
}

export const isFavourite = (id) => kept("favourites", []).includes(id);

export function toggleFavourite(id) {
  const before = kept("favourites", []);
  keep("favourites", before.includes(id) ? before.filter((each) => each !== id) : [...before, id]);
}

function star(job) {
  const isStarred = isFavourite(job.request_id);
  return tool(isStarred ? "starred" : "star", W.star, {
    class: "solo",
    "aria-pressed": String(isStarred),
    "data-key": "star",
    onclick: (event) => {
      toggleFavourite(job.request_id);
      const button = event.currentTarget;
      button.replaceWith(star(job));
      top.querySelector('[data-key="star"]').focus();
    },
  });
}

function viewTools(mode) {
  const hold = (isHeld) => {
    const figure = top.querySelector(".cmp");
    if (figure) viewer.hold(figure, isHeld);
  };
  const segment = (name) =>
    h(
      "button.seg",
      {
        type: "button",
        "aria-label": W[name],
        title: W[name],
        "aria-pressed": String(mode === name),
        "data-key": `mode-${name}`,
        onclick: () => setMode(name),
      },
      icon(name),
    );
  return [
    mode === "slider" &&
      h(
        "button.tool.wide.holder",
        {
          type: "button",
          title: "O",
          "data-key": "hold",
          onpointerdown: () => hold(true),
          onpointerup: () => hold(false),
          onpointerleave: () => hold(false),
          onkeydown: (event) => {
            if (event.key === " " || event.key === "Enter") {
              event.preventDefault();
              hold(true);
            }
          },
          onkeyup: () => hold(false),
        },
        icon("eye"),
        h("span.long", {}, W.hold),
        h("span.short", {}, W.original),
      ),
    h(
      "div.segs",
      { role: "group", "aria-label": W.compare },
      ["slider", "side", "single"].map(segment),
    ),
    h(
      "div.segs.zooms",
      { role: "group", "aria-label": W.zoom },
      h(
        "button.seg",
        {
          type: "button",
          "aria-label": W.zoomOut,
          title: `${W.zoomOut} −`,
          onclick: () => viewer.zoomBy(1 / 1.4),
        },
        icon("minus"),
      ),
      h(
        "button.seg.num.zoom",
        { type: "button", title: `${W.fit} 0`, onclick: () => viewer.zoomBy(0) },
        W.fit,
      ),
      h(
        "button.seg",
        {
          type: "button",
          "aria-label": W.zoomIn,
          title: `${W.zoomIn} +`,
          onclick: () => viewer.zoomBy(1.4),
        },
        icon("plus"),
      ),
    ),
  ];
}

function setMode(mode) {
  at.mode = mode;
  keep("mode", mode);
  return update();
}

function several(job, count) {
  const id = job.request_id;
  const seed = BigInt(job.seed ?? 0);
  const one = (n) =>
    h(
      "figure.pick",
      { class: n === at.n ? "on" : "" },
      h(
        "a",
        { href: `#job/${id}/${n}`, "aria-label": W.result(n) },
        picture(resultOf(id, n), W.result(n), { loading: "eager" }),
      ),
      h(
        "figcaption",
        {},
        h("b", {}, W.result(n)),
        h("span", {}, `${W.fields.seed} ${seed + BigInt(n - 1)}`),
        h("span.gap"),
        h(
          "a.tool",
          {
            href: `#job/${id}/${n}`,
            "aria-label": `${W.compare}: ${W.result(n)}`,
            title: W.compare,
          },
          icon("slider"),
        ),
        tool("download", `${W.download}: ${W.result(n)}`, {
          onclick: () => actions.attempt(() => download(resultOf(id, n), fileName(job, n))),
        }),
      ),
    );
  const all = Array.from({ length: count }, (_, index) => index + 1);
  return [
    stagebar(
      job.prompt ?? id,
      `${W.threeDone(count, seed, seed + BigInt(count - 1))} · ${W.pick}`,
      tool("again", W.useAgain, { onclick: () => composer.useSettings(job) }, W.useAgain),
      star(job),
      info(),
    ),
    h("div.board.three", { class: `of${count}` }, all.map(one)),
    strip(job),
  ];
}

/* ---- the history strip ---------------------------------------------------------------------------- */

function strip(job, a = null) {
  const item = (frame) => {
    const isB = frame.job?.request_id === job.request_id;
    const isBusy = frame.job && !frame.isDone;
    const siblings = isB ? siblingsOf(job) : [];
    const content = [
      h(
        "span.thumb",
        {},
        picture(frame.small),
        frame === a && h("b.side", {}, W.a),
        isB && a && h("b.side", {}, W.b),
        isBusy && !hasEnded(frame.job) && bar(0, W.running),
      ),
      h(
        "span.cap",
        {},
        h("b", {}, frame.index || W.original),
        siblings.length > 1 &&
          h(
            "span",
            {},
            W.fork(
              siblings.findIndex((each) => each.request_id === job.request_id) + 1,
              siblings.length,
            ),
          ),
        frame.index > 0 && h("span", { lang: languageOf(frame.text) }, frame.text),
      ),
    ];
    return h(
      "li",
      {},
      h(
        "button.frame",
        {
          type: "button",
          title: W.chainHelp,
          "aria-pressed": String(isB),
          "data-key": `frame-${frame.index}`,
          class: [frame === a && "a", isB && "b", isBusy && "busy"].filter(Boolean).join(" "),
          onclick: (event) => choose(frame, event.shiftKey),
          oncontextmenu: (event) => {
            event.preventDefault(); // a long press on a touch screen
            choose(frame, true);
          },
        },
        content,
      ),
    );
  };
  if (frames.length < 2) return null;
  return h("nav.strip", { "aria-label": W.chain, tabindex: 0 }, h("ol", {}, frames.map(item)));
}

/** Look at a frame, or set the side that it is compared with. */
function choose(frame, isOther) {
  if (isOther || !frame.job) {
    at.a = frame.index;
    at.mode = at.mode === "single" ? "slider" : at.mode;
    return update();
  }
  location.hash = `job/${frame.job.request_id}${frame.n > 1 ? `/${frame.n}` : ""}`;
}

/* ---- keys, and the side as a sheet ------------------------------------------------------------------ */

/** What the keys do here: see `keys.js`. */
export const keys = {
  hold: (isHeld) => {
    const figure = top.querySelector(".cmp");
    if (figure) viewer.hold(figure, isHeld);
  },
  brush: () => top.querySelector(".brusher")?.click(),
  undo: () => painting?.undo(),
  layDown: () => painting && top.querySelector(".brusher")?.click(),
  side: () => top.querySelector('[data-key="mode-side"]')?.click(),
  download: () => top.querySelector(".get")?.click(),
  star: () => top.querySelector('[data-key="star"]')?.click(),
  cancel: () => top.querySelector('[data-key="cancel"]')?.click(),
  remove: () =>
    (
      top.querySelector('[data-key="delete"]') ?? side.element.querySelector('[data-key="delete"]')
    )?.click(),
  setA: () => {
    const job = get(at.id);
    const frame = frames.find((each) => each.job?.request_id === job?.request_id);
    if (frame) choose(frames[frame.index - 1], true);
  },
  step: (by) => {
    const index = frames.findIndex((each) => each.job?.request_id === at.id) + by;
    if (index > 0 && frames[index]?.job) choose(frames[index], false);
  },
};

/** Under 1100 px the side is a sheet, or a drawer. */
export function openDrawer(opener) {
  const app = document.getElementById("app");
  const veil = h("div.veil0", { onclick: close });
  function close() {
    app.classList.remove("drawer");
    veil.remove();
    removeEventListener("keydown", escape);
    removeEventListener("hashchange", close);
    opener.focus();
  }
  const escape = (event) => event.key === "Escape" && close();
  if (app.classList.contains("drawer")) return;
  app.classList.add("drawer");
  app.append(veil);
  addEventListener("keydown", escape);
  addEventListener("hashchange", close);
  side.element.querySelector("a, button")?.focus();
}
