/* The findings of `slimp data check`, each of which opens its cases. */

import { json } from "./api.js";
import { el, plural } from "./dom.js";
import { go, resetFilters, select, showOnlySelected } from "./state.js";

export async function mountAudit(root) {
  root.append(el("h2", {}, "Findings of the audit"), el("p", { class: "note" }, "Looking…"));
  const findings = await json("/api/findings");
  root.lastChild.textContent = findings.length ? plural(findings.length, "finding") : "The audit finds nothing.";
  root.append(...findings.map(({ level, title, text, remedy, indices, total }) => el("article", { class: "finding" },
    el("h3", {}, el("span", { class: `level ${level}` }, level), title), el("p", {}, text),
    remedy && el("p", { class: "note" }, remedy),
    indices.length > 0 && el("button", { type: "button", click: () => open(indices) },
      indices.length < total ? `Show ${indices.length} of ${plural(total, "image")}` : `Show ${plural(total, "image")}`))));
}

function open(indices) {
  resetFilters();
  select(indices);
  showOnlySelected(true);
  go({ view: "grid", sort: null });
}
