/* The sentence: pictures, an instruction, and how to send them. */

import * as api from "./api.js";
import * as fields from "./fields.js";
import { h, icon, keep, kept, say, show, tool } from "./dom.js";
import * as history from "./history.js";
import { refresh, service, subscribe } from "./jobs.js";
import { ACCEPT, Given, isPicture, paste as fromClipboard, picturesOf } from "./pictures.js";
import { duration, languageOf, megabytes, W } from "./words.js";

const MAX_HEIGHT = 168; // pixels: seven lines
const MAX_PROMPT = 4000;
const SENDS_ITSELF = ["queue_full", "too_many_requests", "too_many_connections"];

/** What is about to be sent. */
export const draft = {
  pictures: [],
  how: "one",
  mask: null,
  errors: {},
  sending: null,
  waits: null,
};

let told = {};

/** Call `added` and `removed(given)` after a person has changed the pictures, `sent(jobs)` after
 * they were submitted. */
export function connect(listeners) {
  told = listeners;
}

const box = h("textarea", {
  id: "prompt",
  name: "prompt",
  rows: 1,
  enterkeyhint: "send",
  "aria-label": W.fields.prompt,
  "aria-describedby": "error-form",
});
const tray = h("ul.tray");
const how = h("fieldset.ask", { hidden: true });
const chips = h("div.chips", { role: "group", "aria-label": W.chips, tabindex: 0 });
const send = h("button.send", { type: "submit", title: W.sendKey });
const problems = h("div.problems", { id: "error-form", role: "alert" });
const picker = h("input", { type: "file", accept: ACCEPT, multiple: true, hidden: true });
const camera = h("input", {
  type: "file",
  accept: "image/*",
  capture: "environment",
  hidden: true,
});
const settingsButton = tool(
  "tune",
  W.settings,
  { "aria-expanded": "false", "aria-controls": "settings", onclick: () => toggleSettings() },
  W.settings,
);
let settings = h("fieldset.settings", { id: "settings", hidden: true });

/** The form itself: there is one, which every view of the editor shows. */
export const form = h(
  "form.composer",
  { novalidate: true, onsubmit: submit },
  how,
  h("div.row", {}, tray, box, send),
  problems,
  settings,
  h(
    "div.row.low",
    {},
    chips,
    history.button((text) => write(text)),
    settingsButton,
  ),
  picker,
  camera,
);

box.value = kept("draft", "");
box.addEventListener("input", () => {
  keep("draft", box.value);
  draft.errors = {};
  render();
});
box.addEventListener("keydown", (event) => {
  if (event.key !== "ArrowUp" || box.value) return;
  const last = history.all()[0];
  if (!last) return;
  event.preventDefault();
  write(last.text);
});
for (const input of [picker, camera]) {
  input.addEventListener("change", () => {
    addFiles([...input.files], true);
    input.value = "";
  });
}
subscribe(() => {
  if (draft.waits && service.isOnline && !draft.waits.timer) resume();
  renderSend();
});

/** Build what depends on the server's options. */
export function begin() {
  const built = fields.settings((name) => {
    delete draft.errors[name];
    draft.errors = { ...draft.errors, ...fields.refusals() };
    render();
  });
  settings.replaceWith(built);
  settings = built;
  show(
    chips,
    instructions().map((text) =>
      h("button.chip", { type: "button", onclick: () => append(text) }, text),
    ),
  );
  render();
}

/** The instructions that the engines know, in the page's language; ideas where they take any. */
export function instructions() {
  const language = W.code === "en" ? "en" : "zh";
  const known = (service.options?.engines ?? [])
    .flatMap((engine) => engine.instructions ?? [])
    .map((each) => each[language][0].toUpperCase() + each[language].slice(1));
  return known.length ? [...new Set(known)] : W.ideas;
}

export const choose = () => picker.click();
export const photograph = () => camera.click();

export async function paste() {
  try {
    const pictures = await fromClipboard();
    if (!pictures.length) return fail({ image: W.noClipboard });
    await add(pictures);
  } catch {
    fail({ image: W.error.unreadable });
  }
}

/** Write an instruction into the sentence. */
export function write(text) {
  box.value = text;
  keep("draft", text);
  draft.errors = {};
  render();
  box.focus();
}

function append(text) {
  const comma = W.code === "en" ? ", " : "，";
  const before = box.value.replace(/[,，\s]*$/, "");
  write(before ? before + comma + (W.code === "en" ? text.toLowerCase() : text) : text);
}

export const focus = () => box.focus();

/** Edit this result next; `null` for nothing. */
export function setStage(job, n = 1) {
  draft.mask = null;
  draft.errors = {};
  draft.pictures = job ? [Object.assign(Given.ofResult(job, n), { isOnStage: true })] : [];
  render();
}

/** Take these pictures instead of those of before: a job's inputs. */
export function setPictures(pictures) {
  draft.mask = null;
  draft.pictures = pictures;
  render();
}

/** Take what was dropped or pasted. The result on the stage stays only if it was dropped beside it. */
export async function take(transfer, isBeside = false) {
  const wrong = [...transfer.files].find((file) => !isPicture(file));
  if (wrong) return fail({ image: W.error.notAPicture(wrong.name) });
  await add(await picturesOf(transfer), isBeside);
}

async function addFiles(files, isBeside) {
  const wrong = files.find((file) => !isPicture(file));
  if (wrong) return fail({ image: W.error.notAPicture(wrong.name) });
  await add(
    files.map((file) => new Given(file, file.name)),
    isBeside,
  );
}

async function add(pictures, isBeside = false) {
  if (!pictures.length) return;
  await Promise.all(pictures.filter((each) => each.blob).map((each) => each.look()));
  const stay = isBeside ? draft.pictures : draft.pictures.filter((each) => !each.isOnStage);
  draft.pictures = [...stay, ...pictures];
  draft.mask = null;
  draft.errors = pictureErrors();
  render();
  told.added();
  box.focus();
}

/** What the server would refuse about the pictures, as far as the browser can know it. */
function pictureErrors() {
  const limits = service.options?.limits;
  if (!limits) return {};
  const large = draft.pictures.find((each) => each.width * each.height > limits.max_pixels);
  if (large) {
    const megapixels = (pixels) => Number((pixels / 1e6).toPrecision(3));
    const has = megapixels(large.width * large.height);
    return { image: W.error.tooManyPixels(large.name, has, megapixels(limits.max_pixels)), large };
  }
  const groups = isEachOwn() ? draft.pictures.map((each) => [each]) : [draft.pictures];
  const most = Math.max(
    ...groups.map((group) => group.reduce((sum, each) => sum + (each.blob?.size ?? 0), 0)),
  );
  if (most > limits.max_bytes)
    return { image: W.error.tooLarge(megabytes(most), megabytes(limits.max_bytes)) };
  return {};
}

const maxImages = () => service.options?.limits.max_images ?? 3;
const isEachOwn = () =>
  draft.pictures.length > 1 && (draft.how === "each" || draft.pictures.length > maxImages());

function fail(errors) {
  draft.errors = errors;
  render();
}

async function shrink(large) {
  const smaller = await large.shrink(service.options.limits.max_pixels);
  draft.pictures = draft.pictures.map((each) => (each === large ? smaller : each));
  draft.errors = pictureErrors();
  render();
  told.added();
}

function remove(given) {
  draft.pictures = draft.pictures.filter((each) => each !== given);
  draft.mask = null;
  draft.errors = pictureErrors();
  render();
  told.removed(given);
}

export function toggleSettings(isOpen = settings.hidden) {
  settings.hidden = !isOpen;
  settingsButton.setAttribute("aria-expanded", String(isOpen));
}

/** Fill the settings from a job. */
export function useSettings(job) {
  fields.use({ ...job.request, ...(job.seed != null && { seed: job.seed }) });
  fields.fill(settings);
  toggleSettings(true);
  write(job.prompt ?? "");
}

/* ---- how it looks ------------------------------------------------------------------------------ */

export function render() {
  renderTray();
  renderAsk();
  renderSend();
  renderErrors();
  box.placeholder = !draft.pictures.length
    ? W.placeFirst
    : draft.pictures[0].from
      ? W.placeNext
      : W.place;
  box.lang = languageOf(box.value || W.place);
  box.style.height = "auto";
  if (box.value) box.style.height = `${Math.min(box.scrollHeight, MAX_HEIGHT)}px`;
}

function renderTray() {
  show(
    tray,
    draft.pictures.map((given, index) =>
      h(
        "li",
        {},
        given.toSmall(W.picture(index + 1)),
        draft.pictures.length > 1 && h("b.nr", {}, index + 1),
        h(
          "button.rm",
          {
            type: "button",
            "aria-label": W.remove(index + 1),
            title: W.remove(index + 1),
            onclick: () => remove(given),
            "data-key": `remove-${index}`,
          },
          icon("x"),
        ),
      ),
    ),
    h(
      "li.addli",
      {},
      h(
        "button.add",
        {
          type: "button",
          "aria-label": W.add,
          title: W.add,
          onclick: choose,
          "data-key": "add",
        },
        icon(draft.pictures.length ? "plus" : "image"),
      ),
    ),
  );
}

function renderAsk() {
  const count = draft.pictures.length;
  how.hidden = count < 2;
  if (count < 2) return;
  const option = (value, label) =>
    h(
      "label",
      {},
      h("input", {
        type: "radio",
        name: "how",
        value,
        checked: (value === "each") === isEachOwn(),
        "data-key": `how-${value}`,
        disabled: value === "one" && count > maxImages(),
        onchange: () => {
          draft.how = value;
          draft.errors = pictureErrors();
          render();
        },
      }),
      h("span", {}, label),
    );
  show(
    how,
    h("legend", {}, W.pictures(count)),
    h(
      "div.radios",
      { role: "radiogroup", "aria-label": W.howMany },
      option("one", W.oneFrom(count)),
      option("each", W.eachOwn),
    ),
    count > maxImages() && h("span.hint", {}, W.error.tooMany(maxImages())),
  );
}

function renderSend() {
  const count = isEachOwn() ? draft.pictures.length : 1;
  const missing = !draft.pictures.length ? W.needsPicture : box.value.trim() ? null : W.needsText;
  const label =
    draft.sending != null
      ? W.sending(Math.round(draft.sending * 100))
      : !service.isOnline || draft.waits
        ? W.sendLater
        : count > 1
          ? W.sendN(count)
          : W.send;
  send.classList.toggle("later", !service.isOnline || Boolean(draft.waits));
  if (missing || draft.sending != null || draft.waits) send.setAttribute("aria-disabled", "true");
  else send.removeAttribute("aria-disabled");
  send.title = missing ?? W.sendKey;
  show(send, h("span", {}, label), icon(send.classList.contains("later") ? "clock" : "send"));
}

function renderErrors() {
  const { large, ...errors } = draft.errors;
  const elsewhere = fields.showErrors(settings, errors);
  if (Object.keys(errors).length > elsewhere.length) toggleSettings(true);
  const lines = elsewhere.map((name) =>
    h(
      "p.error",
      {},
      icon("warn"),
      errors[name],
      name === "image" &&
        large &&
        h("button.linkish", { type: "button", onclick: () => shrink(large) }, W.error.shrink),
    ),
  );
  if (draft.waits?.why) lines.push(h("p.error", {}, icon("clock"), draft.waits.why));
  show(problems, lines);
  box.setAttribute("aria-invalid", String(elsewhere.includes("prompt")));
}

/* ---- sending ------------------------------------------------------------------------------------- */

async function submit(event) {
  event?.preventDefault();
  if (draft.sending != null || draft.waits) return;
  const text = box.value;
  const tooLong = fields.lengthRefusal("prompt", text, MAX_PROMPT);
  const errors = { ...pictureErrors(), ...fields.refusals(), ...(tooLong && { prompt: tooLong }) };
  if (!draft.pictures.length) errors.image = W.needsPicture;
  else if (!text.trim()) errors.prompt = W.needsText;
  if (Object.keys(errors).length) {
    fail(errors);
    (form.querySelector(".field.bad input") ?? box).focus();
    return;
  }
  draft.sending = 0;
  draft.errors = {};
  render();
  const groups = isEachOwn() ? draft.pictures.map((each) => [each]) : [draft.pictures];
  try {
    const edits = [];
    for (const pictures of groups)
      edits.push({ form: await formOf(pictures, text), key: newKey() });
    await sendAll({ edits, jobs: [], text });
  } catch (error) {
    stopSending(error);
  }
}

/* `crypto.randomUUID` is missing where the page comes over plain HTTP. */
const newKey = () =>
  `page-${[...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;

async function formOf(pictures, text) {
  const data = new FormData();
  data.set("prompt", text);
  for (const [name, value] of Object.entries(fields.values)) {
    if (String(value).trim() !== "") data.set(name, value);
  }
  for (const given of pictures) data.append("image", await given.bytes(), given.name);
  if (draft.mask && !draft.mask.isEmpty) data.set("mask", await draft.mask.toBlob(), "mask.png");
  const from = pictures[0].from;
  if (from) {
    data.set("parent", from.id);
    if (from.n > 1) data.set("parent_n", from.n);
  }
  return data;
}

/** Send what is left of a batch. Each edit has a key, so that none is sent twice. */
async function sendAll(batch) {
  draft.sending ??= 0;
  const total = batch.edits.length + batch.jobs.length;
  try {
    while (batch.edits.length) {
      const [{ form: data, key }] = batch.edits;
      const answer = await api.submit(data, key, (part) => {
        draft.sending = (batch.jobs.length + part) / total;
        renderSend();
      });
      batch.edits.shift();
      batch.jobs.push(await refresh(answer.request_id));
    }
  } catch (error) {
    return waitOrStop(error, batch);
  }
  draft.sending = null;
  draft.mask = null;
  draft.pictures = [];
  history.add(batch.text);
  if (box.value === batch.text) {
    box.value = "";
    keep("draft", "");
  }
  render();
  say(W.statuses.queued);
  told.sent(batch.jobs);
}

function waitOrStop(error, batch) {
  draft.sending = null;
  if (error instanceof api.Away) {
    draft.waits = { batch };
  } else if (SENDS_ITSELF.includes(error.code)) {
    const seconds = error.retryAfter ?? 10;
    draft.waits = { batch, why: W.refusals[error.code]?.(duration(seconds)) ?? error.message };
    draft.waits.timer = setTimeout(resume, seconds * 1000);
  } else {
    return stopSending(error);
  }
  render();
}

function resume() {
  const { batch, timer } = draft.waits;
  clearTimeout(timer);
  draft.waits = null;
  sendAll(batch);
}

function stopSending(error) {
  draft.sending = null;
  if (!(error instanceof api.ApiError) && !(error instanceof api.Away)) throw error;
  const words =
    W.refusals[error.code]?.() ?? (error instanceof api.Away ? W.offTitle : error.message);
  fail({ [error.field ?? "form"]: words });
}
