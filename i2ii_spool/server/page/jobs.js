/* The jobs that this page knows, and what becomes of them: listed once, then told by /events. */

import * as api from "./api.js";
import { oncePerFrame } from "./dom.js";

const LISTED = 60;
const KEPT = 400;
const QUEUE_MS = 2000;
const SILENCE_MS = 40_000; // the server sends a comment each 15 s
const TRIES_MS = [500, 1000, 2000, 3000, 5000];
const TABS = "BroadcastChannel" in window ? new BroadcastChannel("i2ii.events") : null;

export const ENDED = ["completed", "failed", "cancelled"];
export const hasEnded = (job) => ENDED.includes(job.status);
export const isLive = (job) => !hasEnded(job);

/** What the page shows: `options` of the server, and whether it answers. */
export const service = { options: null, isOnline: true, heardAt: Date.now(), triesAt: 0 };

const jobs = new Map();
const told = new Map(); // how many events of each job came
const listeners = new Set();
const enders = new Set();
const tell = oncePerFrame(() => listeners.forEach((listener) => listener()));
const shown = new Set();
let lastEvent = null;
let wake = () => {};
let stream = null;

export const get = (id) => jobs.get(id);
export const all = () => [...jobs.values()].sort((a, b) => (a.request_id < b.request_id ? 1 : -1));
export const running = () => all().filter((job) => job.status === "running");
export const queued = () =>
  all()
    .filter((job) => job.status === "queued")
    .reverse();

/** Call `listener` after what this page knows has changed, at most once a frame. Returns how to
 * stop that. */
export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Call `listener` with each job that ends while the page looks. */
export function onEnd(listener) {
  enders.add(listener);
}

export function put(job) {
  const before = jobs.get(job.request_id);
  jobs.set(job.request_id, job);
  if (before && isLive(before) && hasEnded(job)) enders.forEach((listener) => listener(job));
  if (jobs.size > KEPT) forgetOldest();
  tell();
  return job;
}

export function forget(id) {
  jobs.delete(id);
  tell();
}

/** Never forget this job, and no other for that reason: it is on the stage. */
export function hold(id) {
  shown.clear();
  shown.add(id);
}

function forgetOldest() {
  const ended = all().filter((job) => hasEnded(job) && !shown.has(job.request_id));
  for (const job of ended.slice(Math.floor(KEPT / 2))) jobs.delete(job.request_id);
}

/** The job with this id, from the server if this page does not know it. */
export async function load(id) {
  return jobs.get(id) ?? refresh(id);
}

/** Ask the server for a job. */
export async function refresh(id) {
  const before = told.get(id);
  return putUnlessTold(await api.status(id), before);
}

/* An answer may be older than an event that came while it was on its way. */
function putUnlessTold(job, before) {
  const { request_id: id } = job;
  return told.get(id) === before || !jobs.has(id) ? put(job) : jobs.get(id);
}

/** Retry the connection now. */
export const tryNow = () => wake();

async function list() {
  const before = new Map(told);
  const { jobs: listed } = await api.listJobs({ limit: LISTED });
  const known = new Set(listed.map((job) => job.request_id));
  // A job that lives as far as this page knows, and is not listed, may have ended or be deleted.
  for (const { request_id: id, status } of jobs.values()) {
    const isSilent = told.get(id) === before.get(id);
    if (!ENDED.includes(status) && !known.has(id) && isSilent) jobs.delete(id);
  }
  for (const job of listed) putUnlessTold(job, before.get(job.request_id));
}

/** Follow the jobs as long as the page is open. */
export async function follow() {
  await list().catch(ignoreAway);
  pollQueue();
  TABS?.addEventListener("message", ({ data }) => receive(data));
  // A browser opens only six connections to a server: one tab reads the stream for all of them.
  if (navigator.locks && TABS) await navigator.locks.request("i2ii.events", readForever);
  else await readForever();
}

async function readForever() {
  for (let failures = 0; ;) {
    try {
      await read(() => {
        failures = 0;
      });
    } catch (error) {
      if (error instanceof api.ApiError && error.status === 401) return;
      spread({ online: false, triesAt: Date.now() + TRIES_MS[failures] });
    }
    await pause(TRIES_MS[failures]);
    failures = Math.min(failures + 1, TRIES_MS.length - 1);
  }
}

async function read(onOpen) {
  stream = new AbortController();
  let silence = setTimeout(() => stream.abort(), SILENCE_MS);
  try {
    for await (const event of api.events(lastEvent, stream.signal)) {
      clearTimeout(silence);
      silence = setTimeout(() => stream.abort(), SILENCE_MS);
      if (event.name === "open") onOpen();
      spread({ online: true, event });
    }
  } finally {
    clearTimeout(silence);
  }
}

function spread(message) {
  TABS?.postMessage(message);
  receive(message);
}

function receive({ online, triesAt, event }) {
  const came = online && !service.isOnline;
  service.isOnline = online;
  if (online) service.heardAt = Date.now();
  else service.triesAt = triesAt;
  if (event?.id) lastEvent = event.id;
  if (came || event?.name === "open" || event?.name === "reset") list().catch(ignoreAway);
  else if (event?.data?.request_id) take(event.data);
  tell();
}

function take(job) {
  told.set(job.request_id, (told.get(job.request_id) ?? 0) + 1);
  put(job);
}

function pause(milliseconds) {
  return new Promise((done) => {
    const timer = setTimeout(done, milliseconds);
    wake = () => {
      clearTimeout(timer);
      done();
    };
  });
}

/* Places in the queue change with the jobs of others, of which this page hears nothing. */
async function pollQueue() {
  for (;;) {
    await new Promise((done) => setTimeout(done, QUEUE_MS));
    const waiting = queued();
    if (document.hidden || !service.isOnline || !waiting.length) continue;
    try {
      await Promise.all(waiting.slice(0, 5).map((job) => refresh(job.request_id)));
    } catch (error) {
      ignoreAway(error);
    }
  }
}

function ignoreAway(error) {
  if (error instanceof api.Away || error instanceof api.ApiError) return;
  throw error;
}
