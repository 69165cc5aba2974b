/* A prediction as bars, and the nearest cases; shared by the views "case" and "upload". */

import { idsOf, thumbnail } from "./api.js";
import { el, number, percent, title } from "./dom.js";
import { metadata, openCase, state, valueOf, values } from "./state.js";

/** Warnings about one image; what weakens all predictions is told below their probabilities. */
export function warningsOf(warnings) {
  const own = warnings.filter((text) => !state.cohort.cautions?.includes(text));
  return own.length > 0 && el("ul", { class: "caution" }, own.map((text) => el("li", {}, text)));
}

/** Probabilities, the class that the rule decides on, the conformal set, and abstention. */
export function predictionOf(prediction) {
  const heading = el("h2", {}, "Prediction");
  if (!prediction) return el("section", {}, heading, el("p", { class: "note" }, "The explorer was started without a probe, so there are no probabilities."));
  const { probabilities, predicted, rule, coverage, abstains, reason } = prediction;
  const set = prediction.conformal_set ?? [];
  const rows = Object.entries(probabilities ?? {}).sort((a, b) => b[1] - a[1]).map(([name, share]) => {
    const bar = el("i", { class: "fill" });
    bar.style.width = `${100 * share}%`;
    return el("tr", { class: name === predicted && !abstains ? "best" : null },
      el("th", { scope: "row" }, name), el("td", { class: "wide" }, el("span", { class: "track" }, bar)),
      el("td", { class: "figure" }, percent(share)), el("td", {}, set.includes(name) ? "in the set" : ""));
  });
  return el("section", { class: "prediction" }, heading,
    abstains && el("p", { class: "caution" }, el("strong", {}, "The model abstains"), reason ? `: ${reason}` : "."),
    !abstains && el("p", {}, el("strong", {}, predicted), rule && el("small", {}, ` by the decision rule: ${rule}`)),
    rows.length > 0 && el("table", {}, el("caption", {}, "Probability of each class"), el("tbody", {}, rows)),
    !abstains && el("p", { class: "note" }, set.length
      ? `Conformal set: ${set.join(", ")}.${coverage ? ` Such sets hold the right class for ${percent(coverage)} of images like those of the calibration.` : ""}`
      : reason ? `${reason[0].toUpperCase()}${reason.slice(1)}.` : "No conformal set."),
    el("p", { class: "note strong" }, state.cohort.notice),
    state.cohort.cautions?.length > 0 && el("details", {}, el("summary", {}, "What weakens these probabilities"),
      el("ul", {}, state.cohort.cautions.map((text) => el("li", { class: "note" }, text)))));
}

/**
 * Nearest cases as columns beside the case in question; what differs is marked by ≠, in bold:
 * other words, or numbers that are more than a fifth apart. What is missing is no difference.
 *
 * `own`: name of a metadata column -> its value or null, as known of the case itself.
 */
export async function nearestTable(neighbours, own, ownLabel) {
  if (neighbours.length === 0) return el("p", { class: "note" }, "There are no other cases to compare with.");
  const columns = metadata().filter(({ name }) => own.has(name));
  const arrays = await Promise.all(columns.map(({ name }) => values(name)));
  const labels = state.cohort.label ? await values(state.cohort.label) : null;
  const ids = await idsOf(neighbours.map(({ index }) => index));
  const show = (value, unit) => (value === null ? "missing" : typeof value === "number" ? number(value, unit) : String(value));
  const differs = (a, b) =>
    typeof a === "number" ? Math.abs(a - b) > 0.2 * Math.max(Math.abs(a), Math.abs(b)) : a !== b;
  const cell = (value, mine, unit) => {
    if ((mine ?? null) === null || value === null || !differs(value, mine)) return el("td", { class: value === null ? "absent" : null }, show(value, unit));
    return el("td", { class: "differs" }, `≠\u00a0${show(value, unit)}`);
  };
  const head = neighbours.map(({ index, similarity }, k) => el("th", { scope: "col" },
    el("button", { type: "button", class: "picture", title: `image ${ids[k][0]}, patient ${ids[k][2]}`, click: () => openCase(index) },
      el("img", { src: thumbnail(index, 256), alt: `Open the case of image ${ids[k][0]}`, loading: "lazy" })),
    el("small", {}, `similarity ${similarity.toFixed(3)}`)));
  const line = (text, mine, theirs, unit) => el("tr", {}, el("th", { scope: "row" }, text),
    el("td", { class: mine === null ? "own absent" : "own" }, mine === undefined ? "not given" : show(mine, unit)),
    theirs.map((value) => cell(value, mine, unit)));
  const rows = columns.map(({ name, unit }, c) =>
    line(title(name), own.get(name), neighbours.map(({ index }) => valueOf(name, arrays[c], index)), unit));
  if (labels) {
    rows.unshift(line(title(state.cohort.label), ownLabel, neighbours.map(({ index }) => valueOf(state.cohort.label, labels, index))));
  }
  const table = el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Nearest cases" },
    el("table", { class: "nearest" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Metadata"), el("th", { scope: "col" }, "this case"), head)),
      el("tbody", {}, rows)));
  return el("div", {}, el("p", { class: "note" }, "≠ marks what differs from this case; numbers: by more than a fifth."), table);
}
