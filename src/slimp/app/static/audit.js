/* The findings of `slimp data check`, each of which opens its cases, or the map by its columns. */

import { json } from "./api.js";
import { el, plural, title as columnTitle } from "./dom.js";
import { go, resetFilters, select, showOnlySelected, state } from "./state.js";

export async function mountAudit(root) {
  root.append(el("h2", {}, "Findings of the audit"), el("p", { class: "note" }, "Looking…"));
  const findings = await json("/api/findings");
  root.lastChild.textContent = findings.length ? plural(findings.length, "finding") : "The audit finds nothing.";
  root.append(...findings.map(({ level, title, text, remedy, indices, total }) => el("article", { class: "finding" },
    el("h3", {}, el("span", { class: `level ${level}` }, level), title), el("p", {}, text),
    remedy && el("p", { class: "note" }, remedy),
    indices.length === 0 && el("span", { class: "buttons" }, columnsOf(text).map((name) =>
      el("button", { type: "button", click: () => go({ view: "map", colour: name }) }, `Colour the map by ${columnTitle(name)}`))),
    indices.length > 0 && el("button", { type: "button", click: () => open(indices) },
      indices.length < total ? `Show ${indices.length} of ${plural(total, "image")}` : `Show ${plural(total, "image")}`))));
}

/** Columns of the cohort that a finding names, at most 4. */
function columnsOf(text) {
  const names = [...text.matchAll(/'([^']+)'/g)].map(([, name]) => name);
  return [...new Set(names)].filter((name) => state.columns.has(name)).slice(0, 4);
}

function open(indices) {
  resetFilters();
  select(indices);
  showOnlySelected(true);
  go({ view: "grid", sort: null });
}
