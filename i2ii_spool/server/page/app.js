/* The page: what is open, the frame around it, and what comes from outside: files, keys, the server. */

import * as api from "./api.js";
import * as composer from "./composer.js";
import { h, icon, keep, kept, loadIcons, say, show, tool } from "./dom.js";
import * as gallery from "./gallery.js";
import * as jobs from "./jobs.js";
import "./keys.js";
import * as queue from "./queue.js";
import * as side from "./side.js";
import * as signin from "./signin.js";
import * as stage from "./stage.js";
import * as tell from "./tell.js";
import { switchLanguage, W, wholeSeconds } from "./words.js";

const HEALTH_MS = 10_000;

const root = document.documentElement;
const app = document.getElementById("app");
const top = h("header.top");
const banner = h("div.banner", { role: "alert", hidden: true });
const skip = document.querySelector(".skip");

let view = null;
let ready = null; // workers that take jobs

root.lang = W.code;
if (kept("theme", null)) root.dataset.theme = kept("theme", null);
app.append(top, banner);
api.onUnauthorized(() => view !== "signin" && jobs.service.options && askToken(true));

async function start() {
  loadIcons();
  renderTop();
  try {
    await enter().catch(enterWithTokenOfAnotherTab);
  } catch (error) {
    if (error.status === 401) askToken(Boolean(api.token()));
    else if (error instanceof api.Away) waitForServer();
    else throw error;
  }
}

async function enterWithTokenOfAnotherTab(error) {
  if (error.status !== 401 || api.token()) throw error;
  await api.askTabs();
  if (!api.token()) throw error;
  await enter();
}

/** Begin to work, once the server has told what it offers. Raises its errors. */
async function enter() {
  jobs.service.options = await api.options();
  composer.begin();
  addEventListener("hashchange", route);
  jobs.subscribe(update);
  jobs.onEnd((job) => say(W.statuses[job.status]));
  route();
  jobs.follow();
  watchHealth();
  setInterval(renderBanner, 1000);
}

function waitForServer() {
  jobs.service.isOnline = false;
  jobs.service.triesAt = Date.now() + 2000;
  renderBanner();
  setTimeout(() => location.reload(), 2000);
}

function askToken(isRefused) {
  jobs.service.options = null;
  if (isRefused) api.signOut();
  open(
    "signin",
    signin.view(isRefused, async () => {
      await api.options();
      api.signIn();
      location.reload();
    }),
  );
}

/* ---- what is open ------------------------------------------------------------------------------------ */

function route() {
  const [name, id, n] = decodeURIComponent(location.hash.slice(1)).split("/");
  if (!jobs.service.options) return;
  if (name === "gallery") {
    open("gallery", gallery.element);
    gallery.open();
  } else if (name === "queue" && maySeeAll()) {
    if (view !== "queue") {
      open("queue", queue.element);
      queue.open();
    }
  } else {
    open("edit", stage.element);
    stage.open(name === "job" && id ? id : null, n ? Number(n) : null);
  }
}

function open(name, element) {
  view = name;
  app.dataset.view = name;
  // What is there stays there: a person may be typing in it.
  if (!element.isConnected) {
    app.querySelector("main")?.remove();
    app.append(element);
  }
  skip.textContent = name === "edit" ? W.skip : W.skipMain;
  skip.setAttribute("href", name === "edit" ? "#prompt" : "#main");
  tell.setName({ gallery: W.gallery, queue: W.queue, signin: W.signTitle }[name] ?? "");
  renderTop();
}

skip.addEventListener("click", (event) => {
  event.preventDefault();
  const target = document.querySelector(skip.getAttribute("href"));
  if (target.id === "main") target.tabIndex = -1;
  target.focus();
});

const maySeeAll = () => jobs.service.options?.caller.is_operator ?? false;

function update() {
  if (view === "edit") stage.update();
  renderTop();
  renderBanner();
}

/* ---- the frame ---------------------------------------------------------------------------------------- */

function renderTop() {
  const isIn = view !== "signin";
  const live = jobs.running().length;
  const tab = (name, hash, label) =>
    h(
      "a.tab",
      {
        href: `#${hash}`,
        "aria-current": view === name ? "page" : null,
        "data-key": `tab-${name}`,
      },
      label,
    );
  show(
    top,
    h(
      "a.logo",
      { href: "#", "aria-label": "i2ii", "data-key": "logo" },
      icon("mark"),
      h("b", {}, "i2ii"),
    ),
    isIn &&
      h(
        "nav.tabs",
        { "aria-label": "i2ii" },
        tab("edit", "", W.edit),
        tab("gallery", "gallery", W.gallery),
        maySeeAll() && tab("queue", "queue", W.queue),
      ),
    h(
      "div.right",
      {},
      isIn && state(),
      isIn &&
        h(
          "button.pill",
          {
            type: "button",
            title: W.jobs,
            "aria-label": `${W.jobs}: ${W.active(live)}`,
            "data-key": "pill",
            onclick: (event) => openJobs(event.currentTarget),
          },
          h("i.ring", { class: live ? "" : "still" }),
          h("span", {}, W.active(live)),
        ),
      h(
        "button.text",
        {
          type: "button",
          lang: W.otherCode,
          title: W.otherTitle,
          "data-key": "language",
          onclick: switchLanguage,
        },
        W.other,
      ),
      theme(),
      isIn && bell(),
      isIn && account(),
    ),
  );
}

const theme = (text) =>
  tool(
    isDark() ? "sun" : "moon",
    isDark() ? W.light : W.dark,
    { class: "themer", onclick: switchTheme, "data-key": "theme" },
    text,
  );

function bell(text) {
  const isWished = tell.isWished();
  const toggle = async () => {
    await tell.toggle();
    update();
  };
  return tool(
    "bell",
    isWished ? W.tellOn : W.tell,
    { class: "beller", "aria-pressed": String(isWished), "data-key": "bell", onclick: toggle },
    text,
  );
}

side.setOwn(() => {
  const leave =
    jobs.service.options?.caller.has_token &&
    tool("out", W.signOut, { onclick: signOut }, W.signOut);
  return [theme(isDark() ? W.light : W.dark), bell(W.tell), leave];
});

function signOut() {
  api.signOut();
  location.reload();
}

function openJobs(opener) {
  if (view !== "edit") location.hash = "";
  stage.openDrawer(opener);
}

function state() {
  const { isOnline } = jobs.service;
  const kind = !isOnline ? "bad" : ready === 0 ? "warn" : "";
  const words = !isOnline
    ? W.offShort
    : ready === 0
      ? W.noneReady
      : ready == null
        ? ""
        : W.ready(ready);
  const where = maySeeAll() ? "a.health" : "span.health";
  return h(
    where,
    { href: maySeeAll() ? "#queue" : null, class: kind, "data-key": "health", title: words },
    h("i"),
    h("span", {}, words),
  );
}

function account() {
  const { caller } = jobs.service.options ?? {};
  if (!caller?.has_token) return null;
  return h(
    "button.who",
    {
      type: "button",
      title: `${caller.name}: ${W.signOut}`,
      "aria-label": `${caller.name}: ${W.signOut}`,
      "data-key": "who",
      onclick: signOut,
    },
    caller.name.slice(0, 1).toUpperCase(),
  );
}

const isDark = () =>
  root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;

function switchTheme() {
  root.dataset.theme = isDark() ? "light" : "dark";
  keep("theme", root.dataset.theme);
  update();
}

function renderBanner() {
  const { isOnline, heardAt, triesAt } = jobs.service;
  if (banner.hidden === isOnline && isOnline) return;
  const appears = banner.hidden && !isOnline;
  banner.hidden = isOnline;
  app.dataset.state = isOnline ? "" : "offline";
  if (isOnline) return banner.replaceChildren();
  const wait = Math.max(0, Math.round((triesAt - Date.now()) / 1000));
  if (appears) {
    show(
      banner,
      icon("offline"),
      h("p", {}, h("b", {}, W.offTitle), " ", h("span.age")),
      h("span.next"),
      h("button.second", { type: "button", onclick: jobs.tryNow }, icon("retry"), W.tryNow),
    );
  }
  banner.querySelector(".age").textContent = W.offText(wholeSeconds((Date.now() - heardAt) / 1000));
  banner.querySelector(".next").textContent = W.offIn(wholeSeconds(wait));
}

async function watchHealth() {
  for (;;) {
    if (!document.hidden) {
      try {
        ready = (await api.health()).ready_workers ?? 0;
        renderTop();
      } catch {
        /* the banner tells of it */
      }
    }
    await new Promise((done) => setTimeout(done, HEALTH_MS));
  }
}

/* ---- pictures may be dropped anywhere, and pasted ------------------------------------------------------- */

const drop = h("div.drop", { "aria-hidden": "true" }, h("p", {}, icon("image"), W.drop));
let depth = 0;

addEventListener("dragenter", (event) => {
  event.preventDefault();
  depth += 1;
  if (depth === 1 && jobs.service.options) app.append(drop);
});
addEventListener("dragleave", () => {
  depth = Math.max(0, depth - 1);
  if (!depth) drop.remove();
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  drop.remove();
  take(event.dataTransfer, composer.form.contains(event.target));
});
addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData);
});

async function take(transfer, isBeside = false) {
  if (
    !jobs.service.options ||
    !(transfer.files.length || transfer.types.includes("text/x-i2ii-path"))
  )
    return;
  if (view !== "edit") {
    open("edit", stage.element);
    history.replaceState(null, "", "#");
    await stage.open();
  }
  composer.take(transfer, isBeside);
}

start();
