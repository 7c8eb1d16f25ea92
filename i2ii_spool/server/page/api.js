/* The server's API. A token stays in this browser session, and is never part of an address. */

const TOKEN = "i2ii.token";
const TABS = "BroadcastChannel" in window ? new BroadcastChannel("i2ii.token") : null;
const ASK_MS = 150;

export class ApiError extends Error {
  /** An error of the server: its code, its words, and the field that is at fault. */
  constructor(status, { code, message, field }, retryAfter = null) {
    super(message);
    Object.assign(this, { status, code, field, retryAfter });
  }
}

/** The server did not answer. */
export class Away extends Error {}

const listeners = new Set();

/** Call `listener` when the server refuses the token, or asks for one. */
export function onUnauthorized(listener) {
  listeners.add(listener);
}

export function token() {
  return sessionStorage.getItem(TOKEN);
}

/** Use a token in this tab, until it is known to be one. */
export function tryToken(value) {
  if (value) sessionStorage.setItem(TOKEN, value);
  else sessionStorage.removeItem(TOKEN);
}

/** Use the token of this tab in all of them: a session has one. */
export function signIn() {
  TABS?.postMessage({ token: token(), isNew: true });
}

export function signOut() {
  tryToken(null);
  TABS?.postMessage({ isOut: true });
}

/** Take over the token of another tab of this browser session. */
export function askTabs() {
  if (!TABS || token()) return Promise.resolve();
  TABS.postMessage({ isAsking: true });
  return new Promise((done) => {
    setTimeout(done, ASK_MS);
    TABS.addEventListener("message", (event) => event.data.token && done());
  });
}

TABS?.addEventListener("message", ({ data }) => {
  if (data.isAsking && token()) TABS.postMessage({ token: token() });
  const isOther = data.isNew && data.token !== token();
  if (data.token && (isOther || !token())) tryToken(data.token);
  if (data.isOut && token()) tryToken(null);
  else if (!isOther) return;
  location.reload();
});

function headers(more = {}) {
  return token() ? { Authorization: `Bearer ${token()}`, ...more } : more;
}

/** Request a path. Raises `ApiError` for any error of the server, `Away` where none answers. */
export async function request(path, { headers: more, ...options } = {}) {
  let response;
  try {
    response = await fetch(path, { cache: "no-cache", ...options, headers: headers(more) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away(error.message);
  }
  if (!response.ok && response.status !== 304) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  let told = {};
  try {
    told = (await response.json()).error ?? {};
  } catch {
    /* a proxy's own page */
  }
  return refusal(response.status, told, response.headers.get("Retry-After"));
}

function refusal(status, told, retryAfter) {
  if (status === 401) listeners.forEach((listener) => listener());
  // A proxy without a server behind it
  if (!told.code && [502, 503, 504].includes(status)) return new Away(`HTTP ${status}`);
  return new ApiError(
    status,
    { code: `http_${status}`, message: `HTTP ${status}`, ...told },
    Number(retryAfter) || null,
  );
}

export async function getJson(path, options) {
  return parseJson(await (await request(path, options)).text());
}

/* Seeds have 64 bits, more than a number of JavaScript: large ones stay text. */
const parseJson = (text) => JSON.parse(text.replace(/"seed":\s*(\d{16,})/g, '"seed":"$1"'));

export const options = () => getJson("/options");
export const status = (id) => getJson(`/status/${id}`);
export const system = () => getJson("/system/status");
export const cancel = (id) => request(`/jobs/${id}/cancel`, { method: "POST" });
export const remove = (id, state) =>
  request(`/jobs/${id}?state=${state}`, { method: "DELETE", keepalive: true });
export const retry = (id) => request(`/jobs/${id}/retry`, { method: "POST" });

export function listJobs(query) {
  const given = Object.entries(query).filter(([, value]) => value != null && value !== "");
  return getJson(`/jobs?${new URLSearchParams(given)}`);
}

/** Whether jobs will be done: the answer of /health, which is 503 where they will not. */
export async function health() {
  const response = await fetch("/health", { cache: "no-store" });
  return response.json();
}

export async function zip(ids) {
  const response = await request("/results.zip", {
    method: "POST",
    body: JSON.stringify({ ids }),
    headers: { "Content-Type": "application/json" },
  });
  return response.blob();
}

/** Submit a form; `onSent` is called with the part that was sent, 0 to 1. A repeated key submits
 * once. */
export function submit(form, key, onSent) {
  return new Promise((resolve, reject) => {
    const upload = new XMLHttpRequest();
    upload.open("POST", "/edit");
    for (const [name, value] of Object.entries(headers({ "Idempotency-Key": key }))) {
      upload.setRequestHeader(name, value);
    }
    upload.upload.onprogress = (event) =>
      event.lengthComputable && onSent(event.loaded / event.total);
    upload.onerror = () => reject(new Away("no answer"));
    upload.onload = () => {
      let body = {};
      try {
        body = JSON.parse(upload.responseText);
      } catch {
        /* a proxy's own page */
      }
      if (upload.status === 202) return resolve(body);
      reject(refusal(upload.status, body.error ?? {}, upload.getResponseHeader("Retry-After")));
    };
    upload.send(form);
  });
}

/** Yield the events of all jobs until the server ends the stream; `open` and `alive` are told
 * besides. `last` is the id of the last event that is known. */
export async function* events(last, signal) {
  const response = await request("/events", {
    headers: last ? { "Last-Event-ID": last } : {},
    signal,
    cache: "no-store",
  });
  yield { name: "open" };
  let text = "";
  for await (const part of parts(response.body.pipeThrough(new TextDecoderStream()))) {
    text += part;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const event = parse(block);
      yield event.data ? event : { name: "alive" };
    }
  }
}

/* Safari has no async iteration of streams. */
async function* parts(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  const fields = {};
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
  }
  return { name: fields.event, id: fields.id, data: fields.data && parseJson(fields.data) };
}
