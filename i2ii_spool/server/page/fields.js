/* The fields of an edit besides pictures and instruction: their inputs, limits and errors. */

import { h, icon, keep, kept, tool } from "./dom.js";
import { service } from "./jobs.js";
import { W } from "./words.js";

const SIZE = /^(auto|input|\d{1,5}x\d{1,5})$/;
const SIDES = [16, 4096];
const FORMATS = ["png", "jpeg", "webp"];
export const NAMES = [
  "preset",
  "negative_prompt",
  "num_inference_steps",
  "true_cfg_scale",
  "seed",
  "n",
  "size",
  "output_format",
  "output_compression",
  "name",
];

/** The values as they were typed; a field that is left blank is not sent. */
export const values = kept("fields", {});

/** What a field may be, as the server describes it. */
export function schemaOf(name) {
  const field = service.options?.fields?.[name] ?? {};
  return { ...field, ...field.anyOf?.find((each) => each.type !== "null") };
}

/** Why the server would refuse this value, in its words; null if it would not. */
export function refusalOf(name, value, all = values) {
  const text = String(value ?? "").trim();
  if (!text) return null;
  const limits = limitsOf(name, all);
  const say = (what) => W.limits.refusal(name, what, `'${text}'`);
  if (name === "size") return isSize(text.toLowerCase()) ? null : say(W.limits.size(...SIDES));
  if (limits.type === "string") return lengthRefusal(name, value, limits.maxLength);
  if (limits.type === "integer" && !/^[+-]?\d+$/.test(text)) return say(W.limits.integer);
  if (limits.type === "number" && !Number.isFinite(Number(text))) return say(W.limits.number);
  const [least, most] = [limits.minimum, limits.maximum];
  if (least != null && (compare(text, least) < 0 || compare(text, most) > 0)) {
    return say(W.limits.range(shown(least, limits), shown(most, limits), limits.hint));
  }
  const isLossless = !["jpeg", "webp"].includes(all.output_format);
  if (name === "output_compression" && isLossless && Number(text) !== 100)
    return say(W.limits.lossless);
  return null;
}

/** Why a text is too long; null if it is not. */
export function lengthRefusal(name, text, most) {
  const length = [...text].length;
  return length > most ? W.limits.refusal(name, W.limits.length(most), length) : null;
}

function limitsOf(name, all) {
  const schema = schemaOf(name);
  if (name !== "num_inference_steps" || all.preset) return schema;
  return { ...schema, minimum: 10, hint: true };
}

/* Seeds have 64 bits, more than a number of JavaScript. */
function compare(text, limit) {
  if (/^[+-]?\d+$/.test(text) && Number.isInteger(limit)) {
    const [a, b] = [BigInt(text), limit > Number.MAX_SAFE_INTEGER ? 2n ** 64n - 1n : BigInt(limit)];
    return a < b ? -1 : Number(a > b);
  }
  return Number(text) - limit;
}

function shown(limit, { type }) {
  if (limit > Number.MAX_SAFE_INTEGER) return String(2n ** 64n - 1n);
  return type === "number" ? limit.toFixed(1) : String(limit);
}

function isSize(text) {
  if (!SIZE.test(text)) return false;
  return (
    !text.includes("x") || text.split("x").every((side) => side >= SIDES[0] && side <= SIDES[1])
  );
}

/** The refusals of all fields, by name. */
export function refusals() {
  const found = NAMES.map((name) => [name, refusalOf(name, values[name])]);
  return Object.fromEntries(found.filter(([, why]) => why));
}

/** The fieldset of all of them. `onChange` is called after each change of one. */
export function settings(onChange) {
  const set = (name, value) => {
    if (value === "" || value == null) delete values[name];
    else values[name] = value;
    keep("fields", values);
    onChange(name);
  };
  const presets = [
    ...new Set((service.options?.engines ?? []).flatMap((engine) => engine.presets ?? [])),
  ];
  const number = (name, attributes = {}) => {
    const { minimum, maximum } = limitsOf(name, values);
    return field(
      name,
      h("input", { type: "text", inputmode: "decimal", ...attributes }),
      set,
      maximum <= 1000 ? `${minimum}–${maximum}` : null,
    );
  };
  return h(
    "fieldset.settings",
    { id: "settings", hidden: true },
    h("legend.vh", {}, W.settings),
    presets.length > 0 && presetChoice(presets, set),
    field("negative_prompt", h("input", { type: "text" }), set),
    number("num_inference_steps", { placeholder: W.ownDefault }),
    number("true_cfg_scale", { placeholder: W.ownDefault }),
    seed(set),
    number("n", { placeholder: "1" }),
    field(
      "size",
      h("input", { type: "text", list: "sizes", placeholder: W.sizeAuto, spellcheck: "false" }),
      set,
      null,
      h(
        "datalist",
        { id: "sizes" },
        ["auto", "input", "1024x1024", "1024x768", "768x1024"].map((value) =>
          h("option", { value }, { auto: W.sizeAuto, input: W.sizeInput }[value] ?? value),
        ),
      ),
    ),
    formats(set),
    number("output_compression", { placeholder: "95" }),
    field("name", h("input", { type: "text" }), set),
  );
}

function field(name, input, set, hint = null, ...more) {
  input.id = `field-${name}`;
  input.name = name;
  input.value = values[name] ?? "";
  input.autocomplete = "off";
  input.setAttribute("aria-describedby", `error-${name}`);
  input.addEventListener("input", () => set(name, input.value));
  return h(
    "div.field",
    { "data-field": name, class: name },
    h("label.label", { for: input.id }, W.fields[name], hint && h("small", {}, hint)),
    h("span.with", {}, input, ...more),
    h("span.error", { id: `error-${name}`, role: "alert" }),
  );
}

function seed(set) {
  const input = h("input", { type: "text", inputmode: "numeric", placeholder: "0" });
  const draw = () => {
    input.value = crypto.getRandomValues(new Uint32Array(1))[0];
    set("seed", input.value);
  };
  return field("seed", input, set, null, tool("dice", W.newSeed, { onclick: draw }));
}

function formats(set) {
  const select = h(
    "select",
    {},
    FORMATS.map((value) => h("option", { value }, value.toUpperCase())),
  );
  const shell = field("output_format", select, set);
  select.value = values.output_format ?? "png";
  shell.querySelector(".with").classList.add("select");
  select.after(icon("down"));
  return shell;
}

function presetChoice(presets, set) {
  return h(
    "div.field.presets",
    { "data-field": "preset" },
    h("span.label", { id: "presets" }, W.preset),
    h(
      "div.radios",
      { role: "radiogroup", "aria-labelledby": "presets" },
      ["", ...presets].map((preset) =>
        h(
          "label",
          {},
          h("input", {
            type: "radio",
            name: "preset",
            value: preset,
            checked: (values.preset ?? "") === preset,
            onchange: () => set("preset", preset),
          }),
          h("span", {}, h("b", {}, preset || W.noPreset)),
        ),
      ),
    ),
    h("span.error", { id: "error-preset", role: "alert" }),
  );
}

/** Fill the inputs from `values`. */
export function fill(fieldset) {
  for (const shell of fieldset.querySelectorAll("[data-field]")) {
    const name = shell.dataset.field;
    if (name === "preset") {
      for (const radio of shell.querySelectorAll("input"))
        radio.checked = radio.value === (values.preset ?? "");
    } else {
      shell.querySelector("input, select").value =
        values[name] ?? (name === "output_format" ? "png" : "");
    }
  }
}

/** Take over the settings of a job. */
export function use(request) {
  for (const name of NAMES) {
    if (request[name] == null || request[name] === "") delete values[name];
    else values[name] = String(request[name]);
  }
  keep("fields", values);
}

/** Show the errors at their fields; return the names of those that have no field here. */
export function showErrors(fieldset, errors) {
  for (const shell of fieldset.querySelectorAll("[data-field]")) {
    const why = errors[shell.dataset.field];
    shell.classList.toggle("bad", Boolean(why));
    shell.querySelector("input, select").setAttribute("aria-invalid", String(Boolean(why)));
    shell.querySelector(".error").replaceChildren(...(why ? [icon("warn"), why] : []));
  }
  return Object.keys(errors).filter((name) => !fieldset.querySelector(`[data-field="${name}"]`));
}
