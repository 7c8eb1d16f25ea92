/* The instructions that were sent from this browser, and those that are favourites. */

import { h, keep, kept, show, tool } from "./dom.js";
import { languageOf, W } from "./words.js";

const KEPT = 100;

/** `{text, isFavourite}`, favourites first, then the latest. */
export function all() {
  const entries = kept("instructions", []);
  return [
    ...entries.filter((each) => each.isFavourite),
    ...entries.filter((each) => !each.isFavourite),
  ];
}

export function add(text) {
  const before = kept("instructions", []);
  const isFavourite = before.find((each) => each.text === text)?.isFavourite ?? false;
  const entries = [{ text, isFavourite }, ...before.filter((each) => each.text !== text)];
  const oldest = entries.filter((each) => !each.isFavourite)[KEPT];
  keep("instructions", oldest ? entries.filter((each) => each !== oldest) : entries);
}

function toggle(text) {
  keep(
    "instructions",
    kept("instructions", []).map((each) =>
      each.text === text ? { ...each, isFavourite: !each.isFavourite } : each,
    ),
  );
}

/** A button that shows the list; `use` is called with the instruction that is chosen. */
export function button(use) {
  const list = h("ul.history", { hidden: true, id: "history", "aria-label": W.history });
  const open = tool("history", W.history, {
    class: "hist",
    "aria-expanded": "false",
    "aria-controls": "history",
  });
  const close = () => {
    list.hidden = true;
    open.setAttribute("aria-expanded", "false");
  };
  const fill = () => {
    const entries = all();
    show(
      list,
      entries.map(({ text, isFavourite }) =>
        h(
          "li",
          {},
          h(
            "button.entry",
            {
              type: "button",
              lang: languageOf(text),
              onclick: () => {
                close();
                use(text);
              },
            },
            text,
          ),
          tool(isFavourite ? "starred" : "star", isFavourite ? W.unfavourite : W.favourite, {
            "data-key": text,
            "aria-pressed": String(isFavourite),
            onclick: () => {
              toggle(text);
              fill();
            },
          }),
        ),
      ),
      !entries.length && h("li.nothing", {}, W.noHistory),
    );
  };
  open.addEventListener("click", () => {
    if (!list.hidden) return close();
    fill();
    list.hidden = false;
    open.setAttribute("aria-expanded", "true");
    list.querySelector("button")?.focus();
  });
  const shell = h("div.histories", {}, open, list);
  shell.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || list.hidden) return;
    event.stopPropagation();
    close();
    open.focus();
  });
  shell.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !shell.contains(event.relatedTarget)) close();
  });
  return shell;
}
