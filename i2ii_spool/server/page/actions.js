/* What a person does to jobs: cancel, retry, delete (which can be undone for a moment), copy. */

import * as api from "./api.js";
import { h, icon, say } from "./dom.js";
import { forget, hasEnded, put, refresh } from "./jobs.js";
import { fileName } from "./pictures.js";
import { W } from "./words.js";

const UNDO_MS = 8000;

let pending = null;

/** Cancel a job; it stops at its next step. */
export async function cancel(job) {
  await attempt(async () => {
    const told = await (await api.cancel(job.request_id)).json();
    say(told.status === "running" ? W.cancelling : W.statuses.cancelled);
    await refresh(job.request_id);
  });
}

export async function retry(job) {
  await attempt(async () => {
    await api.retry(job.request_id);
    await refresh(job.request_id);
    location.hash = `job/${job.request_id}`;
  });
}

/** Delete jobs that have ended, a moment later. `restore` undoes what the page has done already. */
export function remove(jobs, restore = () => {}) {
  commit();
  const ended = jobs.filter(hasEnded);
  const line = h(
    "div.undo",
    { role: "status" },
    W.deleted(ended.length),
    h("button.linkish", { type: "button", onclick: undo }, W.undo),
  );
  pending = { ended, restore, line, timer: setTimeout(commit, UNDO_MS) };
  ended.forEach((job) => forget(job.request_id));
  document.getElementById("app").append(line);
}

function undo() {
  clearTimeout(pending.timer);
  pending.ended.forEach(put);
  pending.restore();
  pending.line.remove();
  pending = null;
}

function commit() {
  if (!pending) return;
  const { ended, line, timer } = pending;
  clearTimeout(timer);
  pending = null;
  line.remove();
  for (const job of ended) {
    attempt(() => api.remove(job.request_id, job.status === "completed" ? "done" : "failed"));
  }
}

addEventListener("pagehide", commit);

/** Do something, and say what the server says against it. */
export async function attempt(work) {
  try {
    await work();
  } catch (error) {
    if (error instanceof api.Away) tellError(W.offTitle);
    else if (!(error instanceof api.ApiError)) throw error;
    else if (error.status !== 410 && error.status !== 404) tellError(error.message);
  }
}

/** Show an error at the foot of the page until it is closed. */
export function tellError(text) {
  document.querySelector(".undo.bad")?.remove();
  const line = h(
    "div.undo.bad",
    { role: "alert" },
    icon("warn"),
    h("span", {}, text),
    h(
      "button.tool",
      { type: "button", "aria-label": W.close, onclick: () => line.remove() },
      icon("x"),
    ),
  );
  document.getElementById("app").append(line);
}

export async function copy(text, told = W.copied) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // plain HTTP: browsers keep the clipboard to themselves
    const area = h("textarea", { class: "vh" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say(told);
}

export const linkOf = (job) => `${location.origin}${location.pathname}#job/${job.request_id}`;

/** What helps an operator with a job that failed. */
export function reportOf(job) {
  const { code, message } = job.error ?? {};
  return [
    `job: ${job.request_id}`,
    `status: ${job.status}`,
    `code: ${code}`,
    `message: ${message}`,
    `attempts: ${job.attempts}`,
    `worker: ${job.worker}`,
    `prompt: ${job.prompt}`,
    `request: ${JSON.stringify(job.request ?? {})}`,
  ].join("\n");
}

/* ---- the same edit from a program ---------------------------------------------------------------- */

function fieldsOf(job) {
  const { parent, parent_n: _, ...fields } = job.request ?? {};
  return { prompt: job.prompt, ...fields, ...(job.seed != null && { seed: job.seed }) };
}

const quoted = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
const names = (job) =>
  (job.inputs ?? ["input.png"]).map((name) => name.replace(/^input/, "picture"));

export function asCurl(job) {
  const auth = api.token() ? ` -H "Authorization: Bearer $I2II_TOKEN"` : "";
  const given = [
    ...names(job).map((name) => `-F image=@${name}`),
    ...Object.entries(fieldsOf(job)).map(
      ([name, value]) => `--form-string ${name}=${quoted(value)}`,
    ),
  ];
  return [`curl${auth} ${location.origin}/edit`, ...given].join(" \\\n  ");
}

export function asPython(job) {
  const fields = Object.entries(fieldsOf(job)).map(
    ([name, value]) => `${name}=${JSON.stringify(value)}`,
  );
  const token = api.token() ? `, os.environ["I2II_TOKEN"]` : "";
  return `${api.token() ? "import os\n" : ""}from pathlib import Path

from i2ii_spool import Client, EditRequest

with Client(${JSON.stringify(location.origin)}${token}) as client:
    request = EditRequest(${fields.join(", ")})
    picture = client.edit([${names(job)
      .map((name) => `Path("${name}")`)
      .join(", ")}], request)
    picture.save(${JSON.stringify(fileName(job))})
`;
}

export function asJavaScript(job) {
  const set = Object.entries(fieldsOf(job)).map(
    ([name, value]) => `form.set(${JSON.stringify(name)}, ${JSON.stringify(String(value))});`,
  );
  const headers = api.token()
    ? `\nconst headers = { Authorization: \`Bearer \${process.env.I2II_TOKEN}\` };`
    : "\nconst headers = {};";
  return `import { openAsBlob } from "node:fs";
import { writeFile } from "node:fs/promises";

const server = ${JSON.stringify(location.origin)};${headers}
const form = new FormData();
${names(job)
  .map((name) => `form.append("image", await openAsBlob("${name}"), "${name}");`)
  .join("\n")}
${set.join("\n")}
const submitted = await fetch(\`\${server}/edit\`, { method: "POST", body: form, headers });
if (!submitted.ok) throw new Error(await submitted.text());
const { status_url, result_url } = await submitted.json();
let job;
do job = await (await fetch(\`\${server}\${status_url}?wait=60\`, { headers })).json();
while (["queued", "running"].includes(job.status));
const result = await fetch(\`\${server}\${result_url}\`, { headers });
if (!result.ok) throw new Error(await result.text());
await writeFile(${JSON.stringify(fileName(job))}, Buffer.from(await result.arrayBuffer()));
`;
}
