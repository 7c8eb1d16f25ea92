/* Elements: made by code, so that text from jobs is only ever text. */

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: `h("a.tab", {href, onclick, "--part": 0.5}, "text", child, ...)`. */
export function h(tag, attributes, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes ?? {})) set(element, key, value);
  element.append(...children.flat(9).filter((child) => child != null && child !== false));
  return element;
}

function set(element, key, value) {
  if (value == null || value === false) return;
  if (key.startsWith("--")) element.style.setProperty(key, value);
  else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
  else if (key === "class") element.classList.add(...value.split(" ").filter(Boolean));
  else element.setAttribute(key, value === true ? "" : value);
}

/** Put the icons into the page, so that they are there when the server is not. */
export async function loadIcons() {
  const text = await (await fetch(new URL("icons.svg", import.meta.url))).text();
  const { documentElement } = new DOMParser().parseFromString(text, "image/svg+xml");
  documentElement.setAttribute("class", "sprite");
  documentElement.setAttribute("aria-hidden", "true");
  document.body.append(documentElement);
}

/** An icon of icons.svg, for the eye only. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("class", "i");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button with an icon, and with `text` beside it if that is given. */
export function tool(name, label, attributes = {}, text = null) {
  const named = text ? {} : { "aria-label": label, title: label };
  return h(
    text ? "button.tool.wide" : "button.tool",
    { type: "button", ...named, ...attributes },
    icon(name),
    text && h("span", {}, text),
  );
}

/** A thin bar for a part of 0 to 1. */
export function bar(part, label) {
  return h(
    "span.bar",
    {
      role: "progressbar",
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      "aria-valuenow": Math.round(part * 100),
      "aria-label": label,
      "--part": part,
    },
    h("i"),
  );
}

/** Replace what an element shows; keep the focus on the element with the same `data-key`. */
export function show(parent, ...children) {
  const focused = parent.contains(document.activeElement)
    ? document.activeElement.closest("[data-key]")?.dataset.key
    : null;
  parent.replaceChildren(...children.flat(9).filter((child) => child != null && child !== false));
  if (focused)
    parent.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

/** Say something to a screen reader, without interrupting it. */
export function say(text) {
  document.getElementById("say").textContent = text;
}

/** Run `work` at most once a frame. */
export function oncePerFrame(work) {
  let waits = false;
  return () => {
    if (waits) return;
    waits = true;
    const run = () => {
      waits = false;
      work();
    };
    if (document.hidden) setTimeout(run, 250);
    else requestAnimationFrame(run);
  };
}

/** A value that this browser keeps; `fallback` where it keeps none or may not. */
export function kept(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`i2ii.${name}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

export function keep(name, value) {
  try {
    localStorage.setItem(`i2ii.${name}`, JSON.stringify(value));
  } catch {
    /* private windows and full disks: it is kept until the page closes */
  }
}
