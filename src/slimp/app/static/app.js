/* The page: views, the bar with the count and the selection, search by id, keys. */

import { json } from "./api.js";
import { mountAudit } from "./audit.js";
import { closeCase, origin, showCase, stepCase } from "./case.js";
import { count, el, plural } from "./dom.js";
import { mountFilters } from "./filters.js";
import { Grid, exportIds } from "./grid.js";
import { Maps, mountCompare } from "./maps.js";
import { address, go, listen, open, openCase, passing, select, selection, showOnlySelected, state } from "./state.js";
import { mountUpload } from "./upload.js";

const $ = (id) => document.getElementById(id);
const FILTERED = ["map", "grid", "compare"]; // views that the filters hold for
const mounted = new Map(); // view -> promise of what shows it

const views = {
  map: (root) => new Maps(root, [["a", state.cohort.run]]),
  grid: (root) => new Grid(root),
  compare: mountCompare,
  audit: mountAudit,
  upload: mountUpload,
  case: (root) => ({ show: () => showCase(root) }),
};

function say(error) {
  $("message").textContent = error?.message ?? "";
  $("message").hidden = !error;
}

let latest = 0; // number of the address shown last: what an earlier one was waiting for is too late

async function route() {
  const mine = ++latest;
  const view = address().view in views ? address().view : "map";
  if (FILTERED.includes(view) || view === "audit") origin.view = view;
  for (const name of Object.keys(views)) $(name).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.dataset.view === (view === "case" ? origin.view : view);
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("side").hidden = !FILTERED.includes(view);
  $("bar").hidden = !FILTERED.includes(view);
  const before = document.body.dataset.view;
  document.body.dataset.view = view;
  say(null);
  try {
    if (!mounted.has(view)) {
      $(view).replaceChildren();
      mounted.set(view, Promise.resolve(views[view]($(view))));
      mounted.get(view).catch(() => mounted.delete(view)); // so that it is tried again
    }
    const shown = await mounted.get(view);
    await shown?.show?.();
    if (mine !== latest) return;
    if (view === "case" && before !== "case") $("main").focus();
    else if (before === "case" && view !== "case") shown?.focus?.();
    document.body.dataset.ready = location.hash; // read by the tests
  } catch (error) {
    if (mine === latest) say(error);
  }
}

/* The bar */

function mountBar() {
  const button = (text, click, hint) => el("button", { type: "button", click, title: hint }, text);
  const save = () => {
    const some = state.selectedCount > 0;
    exportIds(some ? selection() : passing(), some ? "selected" : "filtered").catch(say);
  };
  const chosen = el("span", {});
  const only = button("Only these", () => showOnlySelected(!state.onlySelected), "Makes the selection a filter");
  const clear = button("Clear selection", () => select([]));
  $("selection").append(chosen, only, clear, button("Save ids as CSV", save, "Of the selected images, or of all that the filters leave"));
  const show = () => {
    const { cohort, passingCount, patientCount, selectedCount, onlySelected } = state;
    $("count").replaceChildren(el("strong", {}, count(passingCount)), ` of ${plural(cohort.images, "image")}, `,
      el("strong", {}, count(patientCount)), ` of ${plural(cohort.patients, "patient")}`);
    chosen.textContent = `${count(selectedCount)} selected`;
    only.setAttribute("aria-pressed", String(onlySelected));
    for (const node of [chosen, only, clear]) node.hidden = selectedCount === 0;
  };
  listen((changes) => (changes.has("filter") || changes.has("selection")) && show());
  show();
}

/* Search by id */

function mountFind() {
  const [input, list] = [$("find-id"), $("found")];
  const close = () => { list.hidden = true; };
  let asked = 0;
  const look = async () => {
    const mine = ++asked;
    const text = input.value.trim();
    if (!text) return close();
    const { indices, rows } = await json(`/api/find?id=${encodeURIComponent(text)}`);
    if (mine !== asked) return null;
    list.replaceChildren(...indices.map((index, k) => el("li", {}, el("button", { type: "button", click: () => { close(); openCase(index); } },
      el("strong", {}, rows[k][0]), el("small", {}, ` lesion ${rows[k][1]}, patient ${rows[k][2]}`)))));
    if (indices.length === 0) list.append(el("li", { class: "note" }, "No id begins like this."));
    list.hidden = false;
    return indices[0];
  };
  let timer = 0;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => look().catch(say), 150);
  });
  $("find").addEventListener("submit", async (event) => {
    event.preventDefault();
    const index = await look().catch(say);
    if (index === undefined || index === null) return;
    close();
    input.value = "";
    input.blur(); // or Escape would be the search's, and not the case's
    openCase(index);
  });
  addEventListener("click", (event) => $("find").contains(event.target) || close());
  $("find").addEventListener("keydown", (event) => {
    const rows = [input, ...list.querySelectorAll("button")];
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") {
      close();
      input.blur();
    } else if (way && !list.hidden) rows[(rows.indexOf(document.activeElement) + way + rows.length) % rows.length].focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

/* Keys that hold everywhere */

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("find-id").focus();
  }
  if (document.body.dataset.view !== "case") return;
  if (event.key === "Escape") closeCase();
  else if (typing) return;
  else if (event.key === "ArrowLeft" && !event.target.closest(".scroll")) stepCase(-1);
  else if (event.key === "ArrowRight" && !event.target.closest(".scroll")) stepCase(1);
});

async function start() {
  if (location.search) history.replaceState(null, "", location.pathname + location.hash);
  await open();
  const { name, run, images, lesions, patients, notice, compare } = state.cohort;
  document.title = `${name} – slimp explorer`;
  $("cohort").textContent = name;
  $("about").textContent = `${plural(images, "image")} of ${plural(lesions, "lesion")}, ${plural(patients, "patient")} · run ${run}${compare ? ` and ${compare.run}` : ""}`;
  $("notice").textContent = notice;
  if (matchMedia("(max-width: 820px)").matches) $("filters").open = false;
  for (const link of document.querySelectorAll("nav a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      go({ view: link.dataset.view, case: null });
    });
  }
  mountBar();
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address is the state of the page
    $("main").focus();
  });
  mountFind();
  addEventListener("hashchange", route);
  await Promise.all([mountFilters($("cards")), route()]);
}

start().catch(say);
