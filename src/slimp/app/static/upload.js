/* An image of one's own, with metadata if they are known; the result is shown and not kept. */

import { json } from "./api.js";
import { el, title } from "./dom.js";
import { nearestTable, predictionOf, warningsOf } from "./prediction.js";
import { metadata } from "./state.js";

export function mountUpload(root) {
  const file = el("input", { type: "file", id: "upload-file", accept: "image/*,.dcm", required: true });
  const fields = metadata().map((column) => [column, field(column)]);
  const levels = [...new Set(fields.map(([{ level }]) => level))];
  const send = el("button", { type: "submit", class: "primary" }, "Predict");
  const result = el("div", { id: "result", "aria-live": "polite" });
  const form = el("form", { submit: (event) => { event.preventDefault(); submit(); } },
    el("label", { class: "drop", for: "upload-file" }, el("strong", {}, "Choose an image, or drop it here"), file),
    el("details", {}, el("summary", {}, "Metadata, if known"), levels.map((level) => el("fieldset", {},
      el("legend", {}, `of the ${level}`),
      el("div", { class: "fields" }, fields.filter(([column]) => column.level === level).map(([column, input]) =>
        el("label", {}, el("span", {}, title(column.name), column.unit && `, ${column.unit}`), input)))))),
    send);
  for (const event of ["dragover", "drop"]) form.addEventListener(event, (e) => e.preventDefault());
  form.addEventListener("drop", (event) => { if (event.dataTransfer.files.length) file.files = event.dataTransfer.files; });
  root.append(el("h2", {}, "An image of your own"),
    el("p", {}, "It is sent to the explorer's own server only. Nothing is stored: the image, its metadata and the result are gone with this page."),
    form, result);

  async function submit() {
    send.disabled = true;
    result.replaceChildren(el("p", { class: "note" }, "Working…"));
    const given = new Map(fields.map(([column, input]) => [column.name, typed(column, input.value)]).filter(([, value]) => value !== null));
    const body = new FormData();
    body.append("image", file.files[0]);
    body.append("metadata", JSON.stringify(Object.fromEntries(given)));
    try {
      await show(await json("/api/predict", { method: "POST", body }), given);
    } catch (error) {
      result.replaceChildren(el("p", { class: "caution" }, error.message));
      if (error.told?.neighbours) result.append(await nearest(error.told.neighbours, given));
    } finally {
      send.disabled = false;
    }
  }

  async function show({ prediction, warnings, neighbours }, given) {
    result.replaceChildren(el("div", { class: "columns" },
      el("div", {}, await preview(file.files[0])),
      el("div", {}, warningsOf(warnings), predictionOf(prediction))), await nearest(neighbours, given));
  }
}

async function nearest(neighbours, given) {
  const own = new Map(metadata().map(({ name }) => [name, given.get(name)]));
  return el("section", { class: "nearby" }, el("h2", {}, "Nearest cases by image"), await nearestTable(neighbours.slice(0, 6), own));
}

function field({ kind, categories, min, max }) {
  if (kind === "number") return el("input", { type: "number", step: "any", placeholder: `${Math.floor(min)} to ${Math.ceil(max)}` });
  return el("select", {}, ["", ...categories].map((name) => el("option", { value: name }, name || "not known")));
}

function typed({ kind }, value) {
  if (value === "") return null;
  return kind === "number" ? Number(value) : value;
}

/** The chosen image, where the browser can show it. */
async function preview(file) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (bitmap === null) return el("p", { class: "note" }, `${file.name} cannot be shown by the browser.`);
  const canvas = el("canvas", { width: bitmap.width, height: bitmap.height, class: "preview", role: "img", "aria-label": "The image sent" });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas;
}
