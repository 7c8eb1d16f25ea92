/* The side of the editor: the jobs of this person, and the details of the one on the stage. */

import * as actions from "./actions.js";
import * as composer from "./composer.js";
import { bar, h, icon, show, tool } from "./dom.js";
import { all, hasEnded, queued, running, service } from "./jobs.js";
import { cover, picture } from "./pictures.js";
import { ago, duration, languageOf, progress, W } from "./words.js";

const RECENT = 20;

/** The side itself; `update` draws it anew. */
export const element = h("aside.rail", { "aria-label": W.jobs });
let tab = "jobs";
let shown = null;
let own = () => null;

/** What stands at the end of the jobs where the top has no room for it: on a phone. */
export function setOwn(make) {
  own = make;
}

/** Show these details, or the jobs alone. */
export function setJob(job, n = 1) {
  if (job?.request_id !== shown?.job.request_id) tab = job ? "details" : "jobs";
  shown = job && hasEnded(job) && job.status === "completed" ? { job, n } : null;
  if (!shown) tab = "jobs";
  update();
}

export function update() {
  const isDetails = tab === "details" && shown;
  element.setAttribute("aria-label", isDetails ? W.details : W.jobs);
  element.classList.toggle("details", Boolean(isDetails));
  element.classList.toggle("stale", !service.isOnline);
  const scrolled = element.querySelector(".scroll")?.scrollTop ?? 0;
  show(element, tabs(), isDetails ? details() : lists());
  const scroll = element.querySelector(".scroll");
  if (scroll) scroll.scrollTop = scrolled;
}

function tabs() {
  const one = (name, label, count) =>
    h(
      "button",
      {
        type: "button",
        "aria-pressed": String(tab === name),
        "data-key": `tab-${name}`,
        onclick: () => {
          tab = name;
          update();
        },
      },
      label,
      count > 0 && h("small", {}, count),
    );
  return h(
    "div.railtabs",
    {},
    one("jobs", W.jobs, running().length + queued().length),
    shown && one("details", W.details),
  );
}

function lists() {
  const group = (label, jobs) =>
    jobs.length > 0 && h("section", {}, h("h2", {}, label), h("ul", {}, jobs.map(row)));
  const ended = all().filter(hasEnded).slice(0, RECENT);
  const days = Map.groupBy ? [...Map.groupBy(ended, dayOf)] : [[W.done, ended]];
  return [
    h(
      "div.scroll",
      { tabindex: 0, role: "region", "aria-label": W.jobs },
      group(W.running, running()),
      group(W.waiting, queued()),
      days.map(([day, jobs]) => group(day, jobs)),
      !all().length && h("p.nothing", {}, W.emptyGallery),
      h("div.own", {}, own()),
    ),
    h("a.all", { href: "#gallery" }, W.allJobs, icon("arrow")),
  ];
}

/** The day on which a job was submitted, as a heading. */
export function dayOf(job) {
  const at = new Date(job.submitted_at ?? job.completed_at ?? 0);
  const midnight = new Date();
  midnight.setHours(0, 0, 0, 0);
  if (at >= midnight) return W.today;
  if (at >= midnight - 24 * 3600e3) return W.yesterday;
  return at.toLocaleDateString(W.code, { dateStyle: "long" });
}

function row(job) {
  const { request_id: id, status } = job;
  const text = job.prompt || job.name || id;
  const part = job.steps ? (job.step ?? 0) / job.steps : 0;
  const meta =
    status === "completed"
      ? `${ago(job.completed_at)} · ${duration(job.processing_time ?? 0)}`
      : status === "failed"
        ? [icon("warn"), W.failed]
        : progress(job, service.isOnline);
  const count = job.outputs?.length ?? job.request?.n ?? 1;
  return h(
    "li.job",
    { class: status },
    h(
      "a",
      {
        href: `#job/${id}`,
        "data-key": id,
        "aria-current": shown?.job.request_id === id ? "true" : null,
      },
      h("span.thumb", {}, picture(cover(job), ""), count > 1 && h("b.n", {}, count)),
      h(
        "span.body",
        {},
        h("span.prompt", { lang: languageOf(text) }, text),
        h("span.meta", {}, meta),
        status === "running" && bar(part, text),
      ),
    ),
    !hasEnded(job) &&
      tool("x", `${W.cancel}: ${text}`, {
        class: "quick",
        disabled: !service.isOnline,
        "data-key": `cancel-${id}`,
        onclick: () => actions.cancel(job),
      }),
    status === "failed" &&
      tool("retry", `${W.retry}: ${text}`, {
        class: "quick",
        "data-key": `retry-${id}`,
        onclick: () => actions.retry(job),
      }),
  );
}

function details() {
  const { job, n } = shown;
  const request = job.request ?? {};
  const seed = job.seed == null ? null : String(BigInt(job.seed) + BigInt(n - 1));
  const used = job.details ?? {};
  const rows = [
    [W.fields.preset, request.preset, null],
    [W.fields.negative_prompt, request.negative_prompt, null],
    ...["num_inference_steps", "true_cfg_scale"].map((name) => [
      W.fields[name],
      request[name] ?? (used[name] == null ? null : W.ownDefault),
      used[name],
    ]),
    [W.fields.seed, request.seed ?? (job.seed != null ? 0 : null), seed],
    [W.fields.size, request.size ?? W.sizeAuto, `${job.width} × ${job.height}`],
    [W.fields.output_format, (request.output_format ?? "png").toUpperCase(), null],
    [W.fields.n, request.n > 1 ? request.n : null, null],
  ].filter(([, asked, got]) => (asked != null && asked !== "") || got != null);
  const facts = [
    [W.time, duration(job.processing_time ?? 0)],
    [W.worker, job.worker],
    [W.engine, job.model === job.engine ? job.engine : `${job.engine} ${job.model}`],
    [
      W.submitted,
      new Date(job.submitted_at).toLocaleString(W.code, {
        dateStyle: "medium",
        timeStyle: "short",
      }),
    ],
  ];
  return h(
    "div.scroll",
    { tabindex: 0, role: "region", "aria-label": W.details },
    h(
      "section",
      {},
      h("h2", {}, W.fields.prompt),
      h("p.said", { lang: languageOf(job.prompt ?? "") }, job.prompt),
      h("p.jobid", {}, job.request_id),
    ),
    h(
      "section",
      {},
      h("h2", {}, W.settings),
      h(
        "table.ran",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("td"),
            h("th", { scope: "col" }, W.asked),
            h("th", { scope: "col" }, W.used),
          ),
        ),
        h(
          "tbody",
          {},
          rows.map(([label, asked, got]) => detail(label, asked, got)),
        ),
      ),
      h(
        "dl.facts",
        {},
        facts
          .filter(([, value]) => value)
          .map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value))),
      ),
    ),
    h(
      "section.acts",
      {},
      tool(
        "again",
        W.useAgain,
        { onclick: () => composer.useSettings(job), "data-key": "use" },
        W.useAgain,
      ),
      h(
        "div.copyas",
        { role: "group", "aria-label": W.copyAs },
        h("span", {}, W.copyAs),
        [
          ["curl", actions.asCurl],
          ["Python", actions.asPython],
          ["JavaScript", actions.asJavaScript],
        ].map(([name, make]) =>
          h(
            "button.chip",
            { type: "button", onclick: () => actions.copy(make(job)), "data-key": name },
            name,
          ),
        ),
      ),
      h(
        "div.pair",
        {},
        tool(
          "link",
          W.link,
          { onclick: () => actions.copy(actions.linkOf(job), W.linked), "data-key": "link" },
          W.link,
        ),
        deleteTool(job),
      ),
    ),
  );
}

function detail(label, asked, got) {
  const isOther = got != null && asked !== W.ownDefault && String(got) !== String(asked ?? "");
  return h(
    "tr",
    { class: isOther ? "diff" : "" },
    h("th", { scope: "row" }, label),
    h("td", {}, String(asked ?? "–")),
    h("td", {}, String(got ?? asked ?? "–"), isOther && h("span.vh", {}, ` (${W.differs})`)),
  );
}

/** The button that deletes a job that has ended, and leaves it. */
export function deleteTool(job) {
  const onclick = () => {
    actions.remove([job]);
    location.hash = "";
  };
  return tool("trash", W.del, { onclick, "data-key": "delete" }, W.del);
}
