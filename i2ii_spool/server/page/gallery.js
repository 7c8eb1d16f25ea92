/* All jobs, newest first: filters, search, selection. Far from the screen a page of tiles is empty,
 * so that ten thousand jobs stay smooth. */

import * as actions from "./actions.js";
import * as api from "./api.js";
import { ratioOf } from "./chain.js";
import { bar, h, icon, show, tool } from "./dom.js";
import { get, hasEnded, refresh, service, subscribe } from "./jobs.js";
import { cover, download, fileName, picture, resultOf, save, smallInput } from "./pictures.js";
import { dayOf } from "./side.js";
import { isFavourite, toggleFavourite } from "./stage.js";
import { ago, languageOf, progress, W } from "./words.js";

const PAGE = 60;
const NEAR = "1500px";
const TYPING_MS = 300;
const FILTERS = {
  all: W.all,
  running: W.running,
  done: W.done,
  failed: W.failed,
  favourites: W.favourites,
};
const STATES = { done: "done", failed: "failed" };

const list = h("div.days");
const end = h("div.end", { "aria-hidden": "true" });
const empty = h("p.empty", { role: "status" });
const bulk = h("div.bulk", { role: "toolbar", hidden: true, "aria-label": W.select });
const search = h("input", { type: "search", placeholder: W.search, "aria-label": W.search });
const filters = h("div.filters", { role: "group", "aria-label": W.gallery });

/** The gallery itself. */
export const element = h(
  "main.gallery",
  { id: "main" },
  h(
    "div.bar1",
    {},
    h("h1", {}, W.gallery),
    h("label.search", {}, icon("search"), search),
    filters,
    h("span.gap"),
    tool(
      "check",
      W.select,
      { class: "selector", onclick: () => setSelecting(!isSelecting()) },
      W.select,
    ),
  ),
  list,
  empty,
  end,
  bulk,
);

let filter = "all";
let pages = [];
let next = null;
let loading = null;
let version = 0;
let last = null; // where a Shift-click begins
const selected = new Map();
const shown = new Map(); // the jobs of this list, as they are now

/** Show the gallery from its beginning. */
export function open() {
  return reload();
}

const sees = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const page = pages.find((each) => each.element === target);
      if (page) (isIntersecting ? fill : drain)(page);
    }
  },
  { rootMargin: NEAR },
);

new IntersectionObserver(([entry]) => entry.isIntersecting && more(), { rootMargin: NEAR }).observe(
  end,
);

let typing;
search.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(reload, TYPING_MS);
});

subscribe(() => {
  if (!element.isConnected) return;
  for (const [id, before] of shown) {
    const now = get(id);
    if (now && now !== before) redraw(now);
  }
});

async function reload() {
  version += 1;
  pages.forEach((page) => sees.unobserve(page.element));
  pages = [];
  next = undefined;
  loading = null;
  shown.clear();
  list.replaceChildren();
  renderFilters();
  await more();
}

async function more() {
  if (loading || next === null || !element.isConnected) return;
  const mine = version;
  loading = fetchPage();
  try {
    const { jobs, next: following } = await loading;
    if (mine !== version) return;
    next = following;
    addPage(jobs);
    empty.replaceChildren(...(shown.size || next ? [] : emptyWords()));
  } catch (error) {
    if (!(error instanceof api.Away)) actions.tellError(error.message);
    return;
  } finally {
    if (mine === version) loading = null;
  }
  // An observer tells only of changes: what is still near asks again.
  if (mine === version && next && end.getBoundingClientRect().top < innerHeight + 1500) more();
}

async function fetchPage() {
  if (filter === "favourites") return { jobs: await favourites(), next: null };
  const text = search.value.trim();
  if (filter !== "running")
    return api.listJobs({ limit: PAGE, after: next, text, state: STATES[filter] });
  const [running, incoming] = await Promise.all(
    ["running", "incoming"].map((state) => api.listJobs({ limit: PAGE, state, text })),
  );
  return { jobs: [...incoming.jobs, ...running.jobs], next: null };
}

async function favourites() {
  const ids = JSON.parse(localStorage.getItem("i2ii.favourites") ?? "[]")
    .sort()
    .reverse();
  const found = await Promise.all(ids.map((id) => api.status(id).catch(() => null)));
  const text = search.value.trim().toLowerCase();
  return found.filter((job) => job && (job.prompt ?? "").toLowerCase().includes(text));
}

function emptyWords() {
  if (!search.value.trim() && filter === "all") return [W.emptyGallery];
  const clear = () => {
    search.value = "";
    filter = "all";
    reload();
  };
  return [
    h("span", {}, W.noMatch),
    " ",
    h("button.linkish", { type: "button", onclick: clear }, W.clearSearch),
  ];
}

function renderFilters() {
  show(
    filters,
    Object.entries(FILTERS).map(([name, label]) =>
      h(
        "button.filter",
        {
          type: "button",
          "aria-pressed": String(filter === name),
          "data-key": name,
          onclick: () => {
            filter = name;
            reload();
          },
        },
        label,
      ),
    ),
  );
}

/* ---- pages of tiles --------------------------------------------------------------------------------- */

function addPage(jobs) {
  for (const [day, some] of group(jobs)) {
    let section = list.lastElementChild;
    if (section?.dataset.day !== day) {
      section = h("section.day", { "data-day": day }, h("h2", {}, day, h("small", {}, "0")));
      list.append(section);
    }
    const page = { element: h("ul.wall"), ids: some.map((job) => job.request_id), isFull: false };
    some.forEach((job) => shown.set(job.request_id, job));
    pages.push(page);
    section.append(page.element);
    fill(page);
    sees.observe(page.element);
  }
  count();
}

function* group(jobs) {
  for (let start = 0; start < jobs.length;) {
    const day = dayOf(jobs[start]);
    let stop = start;
    while (stop < jobs.length && dayOf(jobs[stop]) === day) stop += 1;
    yield [day, jobs.slice(start, stop)];
    start = stop;
  }
}

function count() {
  for (const section of list.children) {
    const ids = pages
      .filter((page) => page.element.parentNode === section)
      .flatMap((page) => page.ids);
    section.querySelector("small").textContent =
      ids.length + (next && section === list.lastElementChild ? "+" : "");
    section.hidden = !ids.length;
  }
}

function fill(page) {
  if (page.isFull) return;
  page.isFull = true;
  page.element.style.removeProperty("height");
  show(
    page.element,
    page.ids.map((id) => tile(shown.get(id))),
  );
}

function drain(page) {
  if (!page.isFull || page.element.contains(document.activeElement)) return;
  page.isFull = false;
  page.element.style.setProperty("height", `${page.element.offsetHeight}px`);
  page.element.replaceChildren();
}

function redraw(job) {
  shown.set(job.request_id, job);
  const old = list.querySelector(`[data-id="${CSS.escape(job.request_id)}"]`);
  if (!old) return;
  const before = old.dataset.status;
  if (before === job.status && !hasEnded(job)) {
    old.querySelector(".meta").textContent = progress(job, service.isOnline);
    old
      .querySelector(".bar")
      ?.style.setProperty("--part", job.steps ? (job.step ?? 0) / job.steps : 0);
    return;
  }
  const focused = old.contains(document.activeElement);
  const made = tile(job);
  old.replaceWith(made);
  if (focused) made.querySelector("a").focus();
}

function tile(job) {
  const { request_id: id, status } = job;
  const text = job.prompt || job.name || id;
  const isDone = status === "completed";
  const ratio = ratioOf(job);
  const image = picture(cover(job), "");
  const item = h(
    "li.tile",
    { class: status, "--r": ratio, "data-id": id, "data-status": status },
    h(
      "a.shot",
      { href: `#job/${id}`, "aria-label": text, lang: languageOf(text) },
      image,
      status === "running" && bar(job.steps ? (job.step ?? 0) / job.steps : 0, text),
    ),
    h(
      "label.sel",
      {},
      h("input", {
        type: "checkbox",
        checked: selected.has(id),
        "aria-label": W.selectOne(text),
        onclick: (event) => choose(id, event.currentTarget.checked, event.shiftKey),
      }),
      h("span", {}, icon("check")),
    ),
    isDone &&
      h(
        "span.acts",
        {},
        peek(job),
        h(
          "a.tool",
          { href: `#job/${id}`, "aria-label": `${W.again}: ${text}`, title: W.again },
          icon("again"),
        ),
        tool("download", `${W.download}: ${text}`, {
          onclick: () => actions.attempt(() => download(resultOf(id), fileName(job))),
        }),
      ),
    h(
      "div.cap",
      {},
      h("p", { title: text, lang: languageOf(text) }, text),
      h("span.meta", {}, meta(job)),
    ),
    corner(job, text),
  );
  if (!job.width) {
    image.addEventListener("load", () =>
      item.style.setProperty("--r", image.naturalWidth / image.naturalHeight),
    );
  }
  item.classList.toggle("on", selected.has(id));
  return item;
}

function meta(job) {
  if (!hasEnded(job)) return progress(job, service.isOnline);
  if (job.status === "failed") return [icon("warn"), W.failed];
  if (job.status === "cancelled") return W.statuses.cancelled;
  const count = job.outputs?.length ?? 1;
  return [
    isFavourite(job.request_id) && icon("starred"),
    ago(job.completed_at),
    count > 1 && ` · ${W.results(count)}`,
  ].filter(Boolean);
}

function corner(job, text) {
  if (job.status === "failed")
    return tool("retry", `${W.retry}: ${text}`, {
      class: "dots",
      onclick: () => actions.retry(job),
    });
  if (!hasEnded(job))
    return tool("x", `${W.cancel}: ${text}`, { class: "dots", onclick: () => actions.cancel(job) });
  if (job.status !== "completed") return null;
  const isStarred = isFavourite(job.request_id);
  return tool(isStarred ? "starred" : "star", `${W.star}: ${text}`, {
    class: "dots",
    "aria-pressed": String(isStarred),
    onclick: () => {
      toggleFavourite(job.request_id);
      redraw({ ...job });
    },
  });
}

function peek(job) {
  const hold = (event, isHeld) => {
    const item = event.currentTarget.closest(".tile");
    const shot = item.querySelector(".shot");
    if (isHeld && !shot.querySelector(".was"))
      shot.append(picture(smallInput(job.request_id), "", { class: "was", loading: "eager" }));
    item.classList.toggle("peek", isHeld);
  };
  return tool("eye", W.hold, {
    onpointerdown: (event) => hold(event, true),
    onpointerup: (event) => hold(event, false),
    onpointerleave: (event) => hold(event, false),
    onkeydown: (event) => {
      if (event.key === " ") {
        event.preventDefault();
        hold(event, true);
      }
    },
    onkeyup: (event) => hold(event, false),
  });
}

/* ---- selection ---------------------------------------------------------------------------------------- */

const isSelecting = () => element.classList.contains("selecting");

function setSelecting(isOn) {
  element.classList.toggle("selecting", isOn);
  if (!isOn) {
    selected.clear();
    for (const box of list.querySelectorAll(".sel input")) mark(box, false);
  }
  renderBulk();
}

function mark(box, isOn) {
  box.checked = isOn;
  box.closest(".tile").classList.toggle("on", isOn);
}

function choose(id, isOn, isRange) {
  const ids = [...shown.keys()];
  const [from, to] = [ids.indexOf(isRange && last ? last : id), ids.indexOf(id)].sort(
    (a, b) => a - b,
  );
  for (const each of ids.slice(Math.max(0, from), to + 1)) {
    if (isOn) selected.set(each, shown.get(each));
    else selected.delete(each);
    const box = list.querySelector(`[data-id="${CSS.escape(each)}"] .sel input`);
    if (box) mark(box, isOn);
  }
  last = id;
  element.classList.toggle("selecting", selected.size > 0);
  renderBulk();
}

function renderBulk() {
  bulk.hidden = !selected.size;
  if (!selected.size) return;
  const jobs = [...selected.keys()].map((id) => shown.get(id) ?? selected.get(id));
  const done = jobs.filter((job) => job.status === "completed");
  const again = jobs.filter((job) => job.status === "failed" || job.status === "cancelled");
  const ended = jobs.filter(hasEnded);
  show(
    bulk,
    h("b", {}, W.selected(jobs.length)),
    tool(
      "zip",
      W.zip,
      { disabled: !done.length, onclick: () => saveZip(done), "data-key": "zip" },
      W.zip,
    ),
    tool(
      "retry",
      W.retry,
      { disabled: !again.length, onclick: () => retryAll(again), "data-key": "retry" },
      W.retry,
    ),
    tool(
      "trash",
      W.del,
      { disabled: !ended.length, onclick: () => removeAll(ended), "data-key": "delete" },
      W.del,
    ),
    tool("x", W.close, { onclick: () => setSelecting(false), "data-key": "close" }),
  );
}

function saveZip(done) {
  return actions.attempt(async () =>
    save(await api.zip(done.map((job) => job.request_id)), "i2ii.zip"),
  );
}

async function retryAll(jobs) {
  setSelecting(false);
  for (const job of jobs) {
    await actions.attempt(async () => {
      await api.retry(job.request_id);
      redraw(await refresh(job.request_id));
    });
  }
}

function removeAll(jobs) {
  const gone = new Set(jobs.map((job) => job.request_id));
  const before = pages.map((page) => page.ids);
  for (const page of pages) page.ids = page.ids.filter((id) => !gone.has(id));
  for (const id of gone) list.querySelector(`[data-id="${CSS.escape(id)}"]`)?.remove();
  setSelecting(false);
  count();
  actions.remove(jobs, () => {
    pages.forEach((page, index) => {
      page.ids = before[index] ?? page.ids;
      page.isFull = false;
      fill(page);
    });
    count();
  });
}

/** What the keys do here. */
export const keys = {
  search: () => search.focus(),
  selectAll: () => [...shown.keys()].forEach((id) => choose(id, true, false)),
  escape: () => setSelecting(false),
  move(key) {
    const tiles = [...list.querySelectorAll(".tile")];
    const at = document.activeElement.closest?.(".tile");
    const from = tiles.indexOf(at);
    const by = { ArrowLeft: -1, ArrowRight: 1 }[key];
    const to = by ? tiles[from + by] : vertical(tiles, at, key === "ArrowDown");
    (to ?? tiles[0])?.querySelector("a").focus();
  },
  toggle() {
    const box = document.activeElement.closest?.(".tile")?.querySelector(".sel input");
    if (box) choose(box.closest(".tile").dataset.id, !box.checked, false);
  },
};

function vertical(tiles, at, isDown) {
  if (!at) return null;
  const here = at.getBoundingClientRect();
  const rows = tiles
    .map((each) => [each, each.getBoundingClientRect()])
    .filter(([, box]) => (isDown ? box.top > here.top + 10 : box.top < here.top - 10));
  const near = ([, box]) => Math.abs(box.top - here.top) * 10 + Math.abs(box.left - here.left);
  return rows.sort((a, b) => near(a) - near(b))[0]?.[0];
}
