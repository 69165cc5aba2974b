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
    indices.length === 0 && columnsOf(text).length > 0 && el("span", { class: "buttons" }, columnsOf(text).map((name) =>
      el("button", { type: "button", click: () => go({ view: "map", colour: name }) }, `Colour the map by ${columnTitle(name)}`))),
    indices.length > 0 && el("button", { type: "button", click: () => open(indices) },
      indices.length < total ? `Show ${indices.length} of ${plural(total, "image")}` : `Show ${plural(total, "image")}`))));
}

/** Columns that a finding names, at most 4, in the order of its text; neither computed ones nor the label. */
function columnsOf(text) {
  const words = text.split(/[^\p{L}\p{N}_]+/u);
  const named = (name) => name.split(" ").every((word) => words.includes(word)) && text.includes(name);
  const found = state.cohort.columns.filter(({ name, level }) => level !== "computed" && name !== state.cohort.label && named(name));
  return found.map(({ name }) => name).sort((x, y) => text.indexOf(x) - text.indexOf(y)).slice(0, 4);
}

function open(indices) {
  resetFilters();
  select(indices);
  showOnlySelected(true);
  go({ view: "grid", sort: null });
}
