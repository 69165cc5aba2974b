/* The views "map" and "compare": one or two maps with their controls, legend and hover card. */

import { idsOf, json, thumbnail } from "./api.js";
import { colouring, ramp } from "./colour.js";
import { choice, count, el, number, percent, plural, title } from "./dom.js";
import { Scatter } from "./scatter.js";
import { address, counts, go, listen, state, toggle, valueOf, values } from "./state.js";

export class Maps {
  constructor(root, runs) {
    this.root = root;
    this.maps = runs.map(([run, name]) => new Scatter(run, name));
    this.legend = el("div", { class: "legend" });
    this.card = el("div", { class: "hovercard", hidden: true });
    this.frames = el("div", { class: runs.length > 1 ? "maps two" : "maps" },
      this.maps.map((map, k) => el("figure", {}, runs.length > 1 && el("figcaption", {}, runs[k][1]), map.root)),
      this.card);
    this.note = el("p", { class: "note" });
    root.append(this.controls(), this.note, this.frames, this.legend);
    listen((changes) => this.update(changes));
  }

  controls() {
    const groups = Map.groupBy(state.cohort.columns, (column) => column.level);
    this.colour = el("select", { id: `colour-${this.root.id}`, change: () => go({ colour: this.colour.value }, { replace: true }) },
      [...groups].map(([level, columns]) => el("optgroup", { label: level },
        columns.map((column) => el("option", { value: column.name }, title(column.name))))));
    const { projections } = state.cohort;
    this.projection = choice("Projection", projections.map((name) => [name, name.toUpperCase()]), projections[0],
      (projection) => go({ projection }, { replace: true }));
    const press = (text, hint, click) => el("button", { type: "button", title: hint, click }, text);
    this.lasso = press("Lasso", "Draw around points to select them; with Shift this works at any time", () => this.setLasso(!this.maps[0].lassoing));
    this.lasso.setAttribute("aria-pressed", "false");
    const both = (action) => () => this.maps.forEach(action);
    const middle = (map) => [map.canvas.width / 2, map.canvas.height / 2];
    const zoom = (text, label, action) => el("button", { type: "button", "aria-label": label, title: label, click: both(action) }, text);
    return el("div", { class: "controls" },
      el("label", { class: "choice" }, el("span", {}, "Colour"), this.colour),
      projections.length > 1 && this.projection,
      el("span", { class: "buttons" }, this.lasso,
        press("Select what is in view", "Selects the points in view that the filters leave", () => this.maps[0].selectView())),
      el("span", { class: "buttons" },
        zoom("+", "Zoom in", (map) => map.zoomAt(1.4, middle(map))),
        zoom("−", "Zoom out", (map) => map.zoomAt(1 / 1.4, middle(map))),
        zoom("All", "Show all points", (map) => map.reset())));
  }

  setLasso(on) {
    this.lasso.setAttribute("aria-pressed", String(on));
    for (const map of this.maps) {
      map.lassoing = on;
      map.root.classList.toggle("lassoing", on);
    }
  }

  async show() {
    const wanted = address();
    const projection = state.cohort.projections.includes(wanted.projection) ? wanted.projection : state.cohort.projections[0];
    const colour = state.columns.has(wanted.colour) ? wanted.colour : state.cohort.label ?? state.cohort.columns[0].name;
    this.projection.querySelector("select").value = projection;
    this.colour.value = colour;
    if (projection !== this.projected) await Promise.all(this.maps.map((map) => map.load(projection)));
    this.projected = projection;
    await this.paint(colour);
  }

  focus() {
    this.maps[0].root.focus();
  }

  async paint(name) {
    this.colours = await colouring(name);
    for (const map of this.maps) map.paint(this.colours);
    this.showLegend();
  }

  update(changes) {
    if (this.root.hidden || !this.colours) return;
    if (changes.has("colour")) this.paint(this.colours.column.name);
    else if (changes.has("filter") || changes.has("selection")) {
      this.maps.forEach((map) => map.draw());
      this.showLegend();
    }
    if (changes.has("hover")) this.showHover();
  }

  /* Legend */

  showLegend() {
    const { column } = this.colours;
    const focus = document.activeElement?.dataset?.code;
    const inside = this.legend.contains(document.activeElement);
    this.legend.replaceChildren(el("h2", {}, title(column.name)),
      ...(column.kind === "category" ? this.categories() : this.scale()));
    if (inside && focus) this.legend.querySelector(`[data-code="${focus}"]`)?.focus();
  }

  categories() {
    const { column, legend } = this.colours;
    const kept = state.filters.get(column.name)?.kept;
    const { left } = counts(column.name);
    return [el("ul", {}, legend.map(({ code, text, colour }) => {
      const swatch = el("i", { class: "swatch" });
      swatch.style.background = colour;
      const box = el("input", { type: "checkbox", "data-code": code, change: () => toggle(column.name, code, { hide: true }) });
      box.checked = !kept || kept.has(code);
      const images = left[Math.min(code, left.length - 1)];
      return el("li", {}, el("label", {}, box, swatch, el("span", { class: "name" }, text), el("small", {}, count(images))));
    }))];
  }

  scale() {
    const { column, low, high, missing } = this.colours;
    const bar = el("canvas", { width: 256, height: 1, class: "ramp", "aria-hidden": "true" });
    const context = bar.getContext("2d");
    for (let x = 0; x < 256; x++) {
      context.fillStyle = ramp(x / 255);
      context.fillRect(x, 0, 1, 1);
    }
    const swatch = el("i", { class: "swatch" });
    swatch.style.background = missing;
    const end = (value, limit, mark) => `${value === limit ? "" : `${mark} `}${number(value, column.unit)}`;
    return [bar,
      el("p", { class: "ends" }, el("span", {}, end(low, column.min, "≤")), el("span", {}, end(high, column.max, "≥"))),
      column.missing > 0 && el("p", {}, swatch, ` missing, in grey: ${plural(column.missing, "image")}`)].filter(Boolean);
  }

  /* Hover */

  async showHover() {
    this.maps.forEach((map) => map.drawOver());
    const index = state.hover;
    this.card.hidden = true;
    if (index < 0) return;
    const map = this.maps.find(({ root }) => root.matches(":hover, :focus")) ?? this.maps[0];
    const name = this.colours.column.name;
    const array = await values(name);
    const label = state.cohort.label ? await values(state.cohort.label) : null;
    const [[image, lesion, patient]] = await idsOf([index]);
    if (index !== state.hover) return;
    const text = (column, data) => {
      const value = valueOf(column, data, index);
      return typeof value === "number" ? number(value, state.columns.get(column).unit) : value ?? "missing";
    };
    this.card.replaceChildren(
      el("img", { src: thumbnail(index, 256), alt: "", width: 128, height: 128 }),
      el("p", {}, label && el("strong", {}, text(state.cohort.label, label)), el("br"),
        `image ${image}`, el("br"), `lesion ${lesion}`, el("br"), `patient ${patient}`,
        name !== state.cohort.label && [el("br"), `${title(name)}: ${text(name, array)}`]));
    const [box, own] = [this.frames.getBoundingClientRect(), map.root.getBoundingClientRect()];
    const [x, y] = map.place(index).map((value) => value / devicePixelRatio);
    this.card.hidden = false;
    const left = own.left - box.left + x + 16;
    const top = own.top - box.top + y + 16;
    const { offsetWidth, offsetHeight } = this.card;
    this.card.style.left = `${left + offsetWidth > box.width ? Math.max(0, left - offsetWidth - 32) : left}px`;
    this.card.style.top = `${Math.max(0, Math.min(top, box.height - offsetHeight - 4))}px`;
  }
}

/** The view "compare", or how to get it. */
export async function mountCompare(root) {
  const { compare, run } = state.cohort;
  if (!compare) {
    root.append(el("h2", {}, "Compare two runs"), el("p", {},
      "Start the explorer with a second run of the same cohort to see both side by side: ",
      el("code", {}, "slimp app RUN --cohort COHORT --compare OTHER")));
    return null;
  }
  const maps = new Maps(root, [["a", run], ["b", compare.run]]);
  const { overlap, k, by_chance: chance } = await json("/api/compare");
  maps.note.append(
    `Of the ${k} nearest images of an image in one run, ${percent(overlap)} are among the ${k} nearest in the other, on average${chance === undefined ? "" : `; by chance ${percent(chance)}`}. `,
    state.columns.has("agreement") && el("button", { type: "button", click: () => go({ colour: "agreement" }, { replace: true }) },
      "Colour by agreement"));
  return maps;
}
