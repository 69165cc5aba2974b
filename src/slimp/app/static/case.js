/* One case: image and explanation, prediction, metadata, the patient's other lesions, nearest cases. */

import { ask, json, thumbnail } from "./api.js";
import { choice, el, number, plural, title } from "./dom.js";
import { nearestTable, predictionOf, warningsOf } from "./prediction.js";
import { address, go, openCase, state, toggleSelected } from "./state.js";

const NEAREST = 6;
let latest = 0; // number of the case asked for last: answers to earlier ones are dropped
let opacity = 0.6;
let methods = null; // promise of the names; the server loads the model for it

export async function showCase(root) {
  const index = Number(address().case);
  if (!(index >= 0 && index < state.cohort.images)) throw new Error("The cohort has no such image.");
  state.seen = index;
  if (root.dataset.index === String(index)) {
    root.firstChild.replaceWith(bar(index));
    return showNearest(root);
  }
  const mine = ++latest;
  const found = await json(`/api/case/${index}`);
  if (mine !== latest) return null;
  root.dataset.index = index;
  root.replaceChildren(bar(index),
    el("div", { class: "columns" },
      el("div", {}, picture(index), ids(found)),
      el("div", {}, warningsOf(found.warnings), predictionOf(found.prediction), others(found)),
      el("div", {}, metadataTable(found.metadata, index))),
    el("section", { class: "nearby" }, el("h2", {}, "Nearest cases"), el("div", { class: "controls" }), el("div", { class: "table" })));
  root.own = new Map(found.metadata.map(({ name, value }) => [name, value]));
  root.label = found.label ?? null;
  return showNearest(root);
}

function bar(index) {
  const at = state.ordered.indexOf(index);
  const to = (step) => openCase(state.ordered[at + step], { replace: true });
  const step = (text, way) => el("button", { type: "button", disabled: at < 0 || !(at + way in state.ordered), click: () => to(way) }, text);
  const chosen = el("button", { type: "button", click: () => { toggleSelected(index); mark(); } });
  const mark = () => {
    chosen.textContent = state.selected[index] ? "Selected" : "Select";
    chosen.setAttribute("aria-pressed", String(state.selected[index] === 1));
  };
  mark();
  return el("div", { class: "controls" },
    el("button", { type: "button", id: "close-case", title: "Escape", click: closeCase }, "Back"),
    el("span", { class: "buttons" }, step("← Previous", -1), step("Next →", 1)), chosen,
    at >= 0 && el("span", { class: "hint" }, `${(at + 1).toLocaleString("en-GB")} of ${plural(state.ordered.length, "image")}`));
}

/** The view from which cases were opened; kept here, since the address holds one view only. */
export const origin = { view: "map" };

export const closeCase = () => go({ view: origin.view, case: null });

/** Left and right: the previous and the next case of the grid's order. */
export function stepCase(way) {
  const at = state.ordered.indexOf(Number(address().case));
  if (at >= 0 && at + way in state.ordered) openCase(state.ordered[at + way], { replace: true });
}

/** The image under an explanation of the chosen method. */
function picture(index) {
  const overlay = el("img", { class: "overlay", alt: "", hidden: true });
  overlay.style.opacity = opacity;
  const slider = el("input", { type: "range", min: 0, max: 1, step: 0.05, "aria-label": "Opacity of the explanation", input: () => {
    opacity = Number(slider.value);
    overlay.style.opacity = opacity;
  } });
  slider.value = opacity;
  const note = el("p", { class: "note" });
  const controls = el("div", { class: "explain" });
  async function show(method) {
    overlay.hidden = true;
    slider.disabled = true;
    note.textContent = method ? "Computing…" : "";
    if (!method) return;
    try {
      const answer = await ask(`/api/explanation/${index}?method=${encodeURIComponent(method)}`);
      const address = URL.createObjectURL(await answer.blob());
      overlay.src = address;
      await overlay.decode();
      URL.revokeObjectURL(address);
      [overlay.hidden, slider.disabled] = [false, false];
      const target = answer.headers.get("X-Explains") ?? "prediction";
      note.textContent = `The brighter, the more it matters for the ${target}.`;
    } catch (error) {
      note.textContent = `No explanation: ${error.message}`;
    }
  }
  note.textContent = methods ? "" : "Loading the model…";
  methods ??= json("/api/methods");
  methods.then((names) => {
    controls.append(choice("Explanation", [...names.map((name) => [name, title(name)]), ["", "none"]], names[0], show), slider);
    return show(names[0]);
  }, (error) => {
    methods = null; // so that it is tried again
    note.textContent = `No explanation: ${error.message}`;
  });
  return el("figure", { class: "picture" },
    el("div", { class: "stack" }, el("img", { src: thumbnail(index, 768), alt: `Image ${index + 1} of the cohort` }), overlay),
    controls, note);
}

function ids({ ids: { image, lesion, patient }, label }) {
  const facts = [["Image", image], ["Lesion", lesion], ["Patient", patient], ["Label", label ?? "missing"]];
  return el("dl", { class: "facts" }, facts.map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, text))));
}

/** Metadata; what can be imputed comes later, since the server loads the model for it. */
function metadataTable(cells, index) {
  const levels = [...new Set(cells.map(({ level }) => level))];
  const text = (value, unit) => (typeof value === "number" ? number(value, unit) : value);
  const absent = new Map();
  const cell = ({ name, value, unit, missing }) => {
    if (!missing) return el("td", {}, text(value, unit));
    const node = el("td", {}, el("span", { class: "absent" }, "missing"));
    absent.set(name, { node, unit });
    return node;
  };
  const row = (of) => el("tr", {}, el("th", { scope: "row" }, title(of.name)), cell(of));
  const table = el("section", {}, el("h2", {}, "Metadata"), levels.map((level) => el("table", { class: "metadata" },
    el("caption", {}, `of the ${level}`), el("tbody", {}, cells.filter((one) => one.level === level).map(row)))),
  cells.length === 0 && el("p", { class: "note" }, "The cohort has no metadata."));
  if (absent.size) {
    json(`/api/imputed/${index}`).then((imputed) => {
      for (const [name, { node, unit }] of absent) {
        const value = imputed[name] ?? null;
        if (value !== null) node.append(el("small", { class: "imputed" }, `imputed, not observed: ${text(value, unit)}`));
      }
    }, () => {}); // what is missing stays missing
  }
  return table;
}

/** The patient's other lesions, the most unlike the rest first. */
function others({ others: rows, others_total: total, outlier }) {
  const score = (value) => (value === null ? "no score" : number(value));
  return el("section", { class: "others" }, el("h2", {}, "The patient's other images"),
    el("p", { class: "note" }, `Outlier score of this lesion: ${score(outlier)}. The higher, the less it is like the patient's others.`),
    total > rows.length && el("p", { class: "note" }, `${rows.length} of ${total} are shown.`),
    rows.length === 0 ? el("p", { class: "note" }, "There are none.") : el("ul", {}, rows.map((other) => el("li", {},
      el("button", { type: "button", class: "picture", click: () => openCase(other.index) },
        el("img", { src: thumbnail(other.index, 256), alt: "Open this case", loading: "lazy" })),
      el("strong", {}, other.label ?? "label missing"),
      el("small", {}, other.same_lesion ? "same lesion" : `outlier ${score(other.outlier)}`)))));
}

async function showNearest(root) {
  const { spaces } = state.cohort;
  const wanted = address();
  const space = spaces.includes(wanted.space) ? wanted.space : spaces[0];
  const tabs = el("div", { role: "tablist", class: "buttons", "aria-label": "Nearest by" }, spaces.map((name) =>
    el("button", { type: "button", role: "tab", "aria-selected": String(name === space), "data-space": name,
      click: () => go({ space: name }, { replace: true }) }, `by ${name}`)));
  const box = el("input", { type: "checkbox", change: () => go({ own: box.checked ? null : 1 }, { replace: true }) });
  box.checked = !wanted.own;
  const focus = document.activeElement?.dataset?.space;
  root.querySelector(".nearby .controls").replaceChildren(tabs, el("label", {}, box, " of other patients only"));
  if (focus) root.querySelector(`[data-space="${space}"]`).focus();
  const table = root.querySelector(".nearby .table");
  const mine = ++latest;
  const query = `space=${space}&k=${NEAREST}&other_patients=${wanted.own ? 0 : 1}`;
  const { neighbours } = await json(`/api/neighbours/${root.dataset.index}?${query}`);
  const content = await nearestTable(neighbours, root.own, root.label);
  if (mine === latest) table.replaceChildren(content);
}
