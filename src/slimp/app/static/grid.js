/* The grid of thumbnails: only the rows in view are built, so its length does not matter. */

import { idsOf, thumbnail } from "./api.js";
import { choice, el, number, saveCsv, title } from "./dom.js";
import { address, go, listen, openCase, passing, state, toggleSelected, valueOf, values } from "./state.js";

const GAP = 10;
const CAPTION = 40;

export class Grid {
  constructor(root) {
    this.root = root;
    this.active = 0; // place of the focused image in the order
    const columns = [["", "table order"], ...state.cohort.columns.map(({ name }) => [name, title(name)])];
    this.sort = choice("Sort by", columns, "", (sort) => go({ sort: sort || null }, { replace: true }));
    this.turn = el("button", { type: "button", click: () => go({ down: address().down ? null : 1 }, { replace: true }) });
    this.list = el("div", { class: "tiles", role: "listbox", tabindex: 0, "aria-multiselectable": "true",
      "aria-label": "Images; arrow keys move, Enter opens the case, Space selects" });
    this.space = el("div", { class: "space", role: "presentation" });
    this.list.append(this.space);
    root.append(el("div", { class: "controls" }, this.sort, this.turn,
      el("span", { class: "hint" }, "Enter opens a case, Space selects it")), this.list);
    this.list.addEventListener("scroll", () => this.build());
    this.list.addEventListener("keydown", (event) => this.press(event));
    this.list.addEventListener("click", (event) => this.click(event));
    new ResizeObserver(() => this.build()).observe(this.list);
    listen((changes) => {
      if (this.root.hidden) return;
      if (changes.has("filter")) this.arrange();
      else if (changes.has("selection")) this.build();
    });
  }

  async show() {
    const { sort, down } = address();
    const column = state.columns.has(sort) ? sort : "";
    this.sort.querySelector("select").value = column;
    this.turn.textContent = down ? "Highest first" : "Lowest first";
    this.turn.hidden = !column;
    const label = state.cohort.label ? await values(state.cohort.label) : null;
    const array = column ? await values(column) : null;
    Object.assign(this, { column, label, array, down: Boolean(down) });
    const key = [this.column, this.down, state.version].join();
    if (key === this.key) this.build();
    else this.arrange();
    const at = state.ordered.indexOf(state.seen);
    if (at >= 0) this.move(at);
    state.seen = -1;
  }

  focus() {
    this.list.focus();
  }

  arrange() {
    this.key = [this.column, this.down, state.version].join();
    const indices = passing();
    state.ordered = this.array ? sorted(indices, this.array, this.down) : indices;
    this.active = 0;
    this.list.scrollTop = 0;
    this.build();
  }

  /** Columns, side and height of a row, in CSS pixels. */
  get shape() {
    const width = this.space.clientWidth;
    const across = Math.max(2, Math.floor((width + GAP) / (138 + GAP)));
    const side = Math.floor((width - GAP * (across - 1)) / across);
    return { across, side, row: side + CAPTION + GAP };
  }

  build() {
    if (this.space.clientWidth === 0) return;
    const { across, side, row } = this.shape;
    const n = state.ordered.length;
    this.space.style.height = `${Math.ceil(n / across) * row}px`;
    const first = Math.max(0, Math.floor(this.list.scrollTop / row) - 1);
    const last = Math.min(n, (first + Math.ceil(this.list.clientHeight / row) + 3) * across);
    const old = new Map([...this.space.children].map((tile) => [tile.dataset.index, tile]));
    const tiles = [];
    for (let at = first * across; at < last; at++) {
      const index = state.ordered[at];
      const tile = old.get(String(index)) ?? this.tile(index);
      tile.id = `tile-${at}`;
      tile.dataset.at = at;
      tile.style.transform = `translate(${(at % across) * (side + GAP)}px, ${Math.floor(at / across) * row}px)`;
      tile.style.width = `${side}px`;
      tile.setAttribute("aria-setsize", n);
      tile.setAttribute("aria-posinset", at + 1);
      tile.setAttribute("aria-selected", String(state.selected[index] === 1));
      tile.classList.toggle("active", at === this.active);
      tile.lastChild.textContent = this.caption(index);
      tiles.push(tile);
    }
    this.space.replaceChildren(...tiles);
    if (n === 0) this.space.append(el("p", { class: "note" }, "No image passes all filters."));
    this.list.setAttribute("aria-activedescendant", `tile-${this.active}`);
  }

  tile(index) {
    return el("div", { role: "option", class: "tile", "data-index": index },
      el("img", { src: thumbnail(index, 256), alt: "", loading: "lazy" }), el("span", { class: "check", "aria-hidden": "true" }), el("p", {}));
  }

  caption(index) {
    const label = this.label ? valueOf(state.cohort.label, this.label, index) ?? "label missing" : `image ${index + 1}`;
    if (!this.array || this.column === state.cohort.label) return label;
    const value = valueOf(this.column, this.array, index);
    return `${label}\n${title(this.column)}: ${typeof value === "number" ? number(value, state.columns.get(this.column).unit) : value ?? "missing"}`;
  }

  click(event) {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    this.active = Number(tile.dataset.at);
    const index = Number(tile.dataset.index);
    if (event.target.closest(".check") || event.ctrlKey || event.metaKey || event.shiftKey) toggleSelected(index);
    else openCase(index);
  }

  press(event) {
    const { across, row } = this.shape;
    const n = state.ordered.length;
    const page = across * Math.max(1, Math.floor(this.list.clientHeight / row));
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, PageUp: -page, PageDown: page, Home: -n, End: n };
    if (n === 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) this.move(Math.max(0, Math.min(n - 1, this.active + steps[event.key])));
    else if (event.key === "Enter") openCase(state.ordered[this.active]);
    else if (event.key === " ") toggleSelected(state.ordered[this.active]);
    else return;
    event.preventDefault();
  }

  move(at) {
    const { across, row } = this.shape;
    this.active = at;
    const top = Math.floor(at / across) * row;
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    else if (top + row > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = top + row - this.list.clientHeight;
    this.build();
  }
}

/** Indices by their value, missing ones last; a radix sort of two passes over 16 bits each. */
function sorted(indices, array, down) {
  const bits = new Uint32Array(array.length);
  if (array instanceof Float32Array) {
    const raw = new Uint32Array(array.buffer, array.byteOffset, array.length);
    // Orders as the numbers do: negative ones are turned over. No number has all bits set.
    for (const i of indices) {
      const up = raw[i] & 0x80000000 ? ~raw[i] >>> 0 : (raw[i] | 0x80000000) >>> 0;
      bits[i] = Number.isNaN(array[i]) ? 0xffffffff : down ? 0xfffffffe - up : up;
    }
  } else {
    for (const i of indices) bits[i] = array[i] === 65535 ? 0xffffffff : down ? 65534 - array[i] : array[i];
  }
  let from = indices;
  for (const shift of [0, 16]) {
    const starts = new Uint32Array(65537);
    for (const i of from) starts[((bits[i] >>> shift) & 65535) + 1]++;
    for (let k = 0; k < 65536; k++) starts[k + 1] += starts[k];
    const to = new Int32Array(from.length);
    for (const i of from) to[starts[(bits[i] >>> shift) & 65535]++] = i;
    from = to;
  }
  return from;
}

/** Saves the ids of images as CSV, for a review list or a split file. */
export async function exportIds(indices, name) {
  saveCsv(`${name}.csv`, [["image_id", "lesion_id", "patient_id"], ...(await idsOf(indices))]);
}
