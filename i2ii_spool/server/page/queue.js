/* For operators: the queue in order, each GPU, the spool, and what /health says. */

import * as actions from "./actions.js";
import * as api from "./api.js";
import { bar, h, icon, show, tool } from "./dom.js";
import { get, load } from "./jobs.js";
import { cover, picture, smallInput } from "./pictures.js";
import { gigabytes, languageOf, progress, W } from "./words.js";

const EVERY_MS = 2000;
const MOST = 1000;
const DRAWN = 300;

const verdict = h("p.verdict", { role: "status" });
const figures = h("dl.figures");
const gpus = h("section.gpus", { "aria-label": W.gpus });
const search = h("input", {
  type: "search",
  placeholder: W.filterQueue,
  "aria-label": W.filterQueue,
});
const cancelButton = h("button.second.danger", {
  type: "button",
  hidden: true,
  onclick: cancelChosen,
});
const everything = h("input", {
  type: "checkbox",
  "aria-label": W.selectAll,
  onchange: (event) => chooseAll(event.currentTarget.checked),
});
const rows = h("tbody");
const table = h(
  "div.tablewrap",
  { tabindex: 0, role: "region", "aria-label": W.queue },
  h(
    "table",
    {},
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th.c", {}, everything),
        [
          ["nr", W.position_],
          ["", W.fields.prompt],
          ["", W.whose],
          ["set", W.stepsAndSize],
          ["nr", W.since],
          ["nr", W.ends],
        ].map(([kind, label]) => h("th", { scope: "col", class: kind }, label)),
        h("td.c"),
      ),
    ),
    rows,
  ),
);

/** The page itself. */
export const element = h(
  "main.ops",
  { id: "main" },
  h("div.bar1", {}, h("h1", {}, W.queue), verdict),
  figures,
  gpus,
  h(
    "section.q",
    { "aria-label": W.waiting },
    h("div.qbar", {}, h("label.search", {}, icon("search"), search), h("span.gap"), cancelButton),
    table,
  ),
);

let waiting = [];
const chosen = new Set();

search.addEventListener("input", renderRows);

/** Keep the page up to date while it is open. */
export async function open() {
  while (element.isConnected) {
    if (!document.hidden) {
      try {
        await read();
      } catch (error) {
        if (!(error instanceof api.Away) && !(error instanceof api.ApiError)) throw error;
      }
    }
    await new Promise((done) => setTimeout(done, EVERY_MS));
  }
}

async function read() {
  const [system, health, incoming] = await Promise.all([
    api.system(),
    api.health(),
    api.listJobs({ state: "incoming", limit: MOST }),
  ]);
  waiting = incoming.jobs
    .filter((job) => job.status === "queued")
    .sort((a, b) => a.position - b.position);
  for (const id of chosen) if (!waiting.some((job) => job.request_id === id)) chosen.delete(id);
  await Promise.all(
    system.workers
      .filter((worker) => worker.job && !get(worker.job))
      .map((worker) => load(worker.job).catch(() => null)),
  );
  show(
    verdict,
    h("b", { class: health.status }, W[health.status]),
    health.reason && [h("i"), h("span", { lang: "en" }, health.reason)],
  );
  renderFigures(system);
  show(gpus, system.workers.length ? system.workers.map(card) : h("p.nothing", {}, W.noGpus));
  renderRows();
}

function renderFigures({ spool, ...system }) {
  const oldest = spool.oldest_waiting_seconds;
  const [free, unit] = gigabytes(spool.free_bytes);
  const facts = [
    [W.waitingN, system.queued_requests],
    [W.runningN, system.running_requests],
    [W.doneAll, system.completed_requests],
    [W.failedAll, system.failed_requests],
    [W.oldest, oldest == null ? "–" : clock(oldest)],
    [W.free, free, unit],
  ];
  show(
    figures,
    facts.map(([label, value, small]) =>
      h("div", {}, h("dt", {}, label), h("dd", {}, String(value), small && h("small", {}, small))),
    ),
  );
}

function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [
    Math.floor(whole / 3600),
    Math.floor(whole / 60) % 60,
    String(whole % 60).padStart(2, "0"),
  ];
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

function card(worker) {
  const state = worker.alive ? worker.state : "dead";
  const job = worker.job && get(worker.job);
  const memory = worker.memory_total_mib && [
    h("span.mem", { "--part": worker.memory_used_mib / worker.memory_total_mib }, h("i")),
    `${(worker.memory_used_mib / 1024).toFixed(1)} / ${(worker.memory_total_mib / 1024).toFixed(1)} GB`,
  ];
  const fact = (label, value, kind = "") =>
    h("div", {}, h("dt", {}, label), h("dd", { class: kind }, value));
  const errors = worker.recent_failures ?? [];
  return h(
    "article.gpu",
    { class: state },
    h(
      "header",
      {},
      h("h2", {}, worker.worker),
      h("span.card", {}, worker.model),
      h("span.gap"),
      h("span.st", {}, h("i"), W.states[state] ?? state),
    ),
    job && state === "running"
      ? doing({
          ...job,
          ...(worker.steps && { phase: "editing", step: worker.step, steps: worker.steps }),
        })
      : h("p.doing.idle", {}, worker.note || (state === "ready" ? W.idle : "")),
    job && state === "running"
      ? bar(worker.steps ? worker.step / worker.steps : 0, job.prompt ?? "")
      : h("span.bar.none"),
    h(
      "dl",
      {},
      memory && fact(W.memory, memory),
      worker.use_percent != null && fact(W.use, `${worker.use_percent} %`),
      worker.temperature_celsius != null && fact(W.temperature, `${worker.temperature_celsius} °C`),
      fact(
        W.lastErrors,
        errors.length
          ? errors.map((each) =>
              h("a", { href: `#job/${each.job}`, title: each.job }, h("code", {}, each.code)),
            )
          : W.none,
        errors.length ? "bad" : "",
      ),
    ),
    h(
      "footer",
      {},
      h("span", {}, W.jobsDone(worker.jobs_done)),
      worker.jobs_failed > 0 && h("span", {}, ` · ${W.jobsFailed(worker.jobs_failed)}`),
      h("span.gap"),
      h(
        "span.lasts",
        { role: "group", "aria-label": W.lastJobs },
        (worker.recent_jobs ?? [])
          .slice(0, 5)
          .map((id) =>
            h(
              "a",
              { href: `#job/${id}`, "aria-label": id },
              picture(`/thumbnails/${id}?of=result&n=1&side=480`),
            ),
          ),
      ),
    ),
  );
}

function doing(job) {
  const text = job.prompt ?? job.request_id;
  return h(
    "a.doing",
    { href: `#job/${job.request_id}`, "data-key": `doing-${job.request_id}` },
    h("span.thumb", {}, picture(cover(job))),
    h(
      "span.body",
      {},
      h("span.prompt", { lang: languageOf(text) }, text),
      h("span.meta", {}, progress(job)),
    ),
  );
}

/* ---- the queue ------------------------------------------------------------------------------------------ */

function matching() {
  const wanted = search.value.trim().toLowerCase();
  return waiting.filter((job) =>
    `${job.prompt ?? ""} ${job.owner ?? ""} ${job.name ?? ""} ${job.request_id}`
      .toLowerCase()
      .includes(wanted),
  );
}

function renderRows() {
  const jobs = matching();
  const scrolled = table.scrollTop;
  show(
    rows,
    jobs.slice(0, DRAWN).map(row),
    !jobs.length &&
      h("tr", {}, h("td.nothing", { colspan: 8 }, waiting.length ? W.noMatch : W.nothingWaits)),
  );
  table.scrollTop = scrolled;
  everything.checked = jobs.length > 0 && jobs.every((job) => chosen.has(job.request_id));
  cancelButton.hidden = !chosen.size;
  show(cancelButton, icon("x"), W.cancelN(chosen.size));
}

function row(job) {
  const { request_id: id, request = {} } = job;
  const text = job.prompt || job.name || id;
  const settings = [request.preset, request.num_inference_steps, request.size]
    .filter(Boolean)
    .join(" · ");
  return h(
    "tr",
    { class: chosen.has(id) ? "on" : "" },
    h(
      "td.c",
      {},
      h("input", {
        type: "checkbox",
        checked: chosen.has(id),
        "aria-label": W.selectOne(text),
        "data-key": `choose-${id}`,
        onchange: (event) => choose(id, event.currentTarget.checked),
      }),
    ),
    h("td.nr.pl", {}, job.position),
    h(
      "td.ins",
      {},
      h(
        "span",
        {},
        picture(smallInput(id)),
        h(
          "a.prompt",
          { href: `#job/${id}`, lang: languageOf(text), "data-key": `row-${id}` },
          text,
        ),
        request.n > 1 && h("b.n", {}, `× ${request.n}`),
      ),
    ),
    h("td.owner", {}, job.owner ?? ""),
    h("td.set", {}, settings),
    h("td.nr.wait", {}, clock((Date.now() - new Date(job.submitted_at)) / 1000)),
    h("td.nr.starts", {}, job.eta_seconds == null ? "–" : clock(job.eta_seconds)),
    h(
      "td.c.kill",
      {},
      tool("x", `${W.cancel}: ${text}`, {
        "data-key": `kill-${id}`,
        onclick: async () => {
          await actions.cancel(job);
          await read();
        },
      }),
    ),
  );
}

function choose(id, isOn) {
  if (isOn) chosen.add(id);
  else chosen.delete(id);
  renderRows();
}

function chooseAll(isOn) {
  for (const job of matching())
    if (isOn) chosen.add(job.request_id);
    else chosen.delete(job.request_id);
  renderRows();
}

async function cancelChosen() {
  const jobs = waiting.filter((job) => chosen.has(job.request_id));
  chosen.clear();
  renderRows();
  for (const job of jobs) await actions.attempt(() => api.cancel(job.request_id));
  await read();
}

export const keys = { search: () => search.focus() };
