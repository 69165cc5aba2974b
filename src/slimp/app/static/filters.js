/* The filters: a card per column, which counts what the other filters leave. */

import { choice, count, el, number, plural, title } from "./dom.js";
import { BINS, MISSING, counts, filter, listen, resetFilters, state, toggle, values } from "./state.js";

const FEW = 7; // categories shown before "show all"
const FIRST = [/^part$/, /^age/i, /^(sex|gender)/i, /site|region|body|location|anatom/i];

/** The label, the part of the run, age, sex and the site of the body, as far as they are known. */
function first() {
  const names = state.cohort.columns.map(({ name }) => name);
  const found = FIRST.map((pattern) => names.find((name) => pattern.test(name)));
  return [...new Set([state.cohort.label, ...found])].filter((name) => name && state.columns.has(name));
}

export async function mountFilters(root) {
  const cards = new Map();
  const place = el("div", {});
  const add = choice("Add a filter", [], "", (name) => name && show(name).catch(() => {}));
  const reset = el("button", { type: "button", click: () => { resetFilters(); } }, "Reset filters");
  root.append(reset, place, add);

  async function show(name) {
    await values(name);
    const card = state.columns.get(name).kind === "category" ? categories(name) : range(name);
    const remove = el("button", { type: "button", class: "remove", "aria-label": `Remove the filter ${title(name)}`,
      click: () => {
        cards.delete(name);
        card.root.remove();
        offer();
        if (state.filters.has(name)) filter(name, null);
      } }, "×");
    card.root.firstChild.append(remove);
    cards.set(name, card);
    place.append(card.root);
    card.update();
    offer();
  }

  function offer() {
    const select = add.querySelector("select");
    const rest = state.cohort.columns.filter(({ name }) => !cards.has(name));
    select.replaceChildren(el("option", { value: "" }, "choose a column…"),
      ...rest.map(({ name }) => el("option", { value: name }, title(name))));
    add.hidden = rest.length === 0;
  }

  listen((changes) => {
    if (changes.has("filter") || changes.has("selection")) for (const card of cards.values()) card.update();
    reset.disabled = state.filters.size === 0 && !state.onlySelected;
  });
  for (const name of first()) await show(name);
  offer();
}

function frame(name, ...content) {
  return el("section", { class: "card", "data-column": name, "aria-label": `Filter by ${title(name)}` },
    el("h3", {}, title(name)), ...content);
}

/** Bars; a press keeps that category only, another one adds to it. */
function categories(name) {
  const { categories: names, missing } = state.columns.get(name);
  let all = false;
  const rows = [...names.entries(), ...(missing ? [[MISSING, "missing"]] : [])].map(([code, text]) => {
    const [bar, part, left] = [el("i", { class: "left" }), el("i", { class: "part" }), el("small", {})];
    const button = el("button", { type: "button", class: "bar", "data-code": code, "aria-pressed": "false",
      click: () => toggle(name, code, { hide: false }) }, el("span", { class: "name" }, text), left, bar, part);
    return { code, button, bar, part, left };
  });
  const list = el("div", {});
  const more = el("button", { type: "button", class: "quiet", click: () => { all = !all; order(); } });
  const order = () => {
    const shown = all ? sorted : sorted.slice(0, FEW);
    const kept = state.filters.get(name)?.kept;
    list.replaceChildren(...shown.map(({ button }) => button),
      ...sorted.filter((row) => !shown.includes(row) && kept?.has(row.code)).map(({ button }) => button));
    more.hidden = rows.length <= FEW;
    more.textContent = all ? "Show fewer" : `Show all ${rows.length}`;
  };
  const start = counts(name).left;
  const sizeOf = (row, left) => left[row.code === MISSING ? left.length - 1 : row.code];
  const sorted = [...rows].sort((a, b) => (a.code === MISSING) - (b.code === MISSING) || sizeOf(b, start) - sizeOf(a, start));
  order();
  const root = frame(name, list, more);
  return { root, update };

  function update() {
    const { left, selected } = counts(name);
    const kept = state.filters.get(name)?.kept;
    const most = Math.max(1, ...left);
    for (const row of rows) {
      const [images, chosen] = [sizeOf(row, left), sizeOf(row, selected)];
      row.left.textContent = chosen ? `${count(chosen)} of ${count(images)}` : count(images);
      row.bar.style.width = `${(100 * images) / most}%`;
      row.part.style.width = `${(100 * chosen) / most}%`;
      row.button.setAttribute("aria-pressed", String(Boolean(kept?.has(row.code))));
      row.button.classList.toggle("out", Boolean(kept) && !kept.has(row.code));
    }
  }
}

/** A histogram with two sliders; a drag over it sets both. */
function range(name) {
  const { min, max, unit, missing } = state.columns.get(name);
  const bars = Array.from({ length: BINS }, () => el("i", {}, el("b", {})));
  const step = (max - min) / 200 || 1;
  const slider = (label, value) => {
    const input = el("input", { type: "range", min, max, step: "any", "aria-label": `${label} ${title(name)}`, input: () => set() });
    input.value = value;
    input.addEventListener("keydown", (event) => { // with step "any", keys would move by a tenth
      const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (!way) return;
      event.preventDefault();
      const size = max - min > 20 && Number.isInteger(min) ? 1 : step;
      input.value = Number(input.value) + way * size;
      set();
    });
    return input;
  };
  const [low, high] = [slider("Lowest", min), slider("Highest", max)];
  const text = el("output", {});
  const box = el("input", { type: "checkbox", change: () => set() });
  box.checked = true;
  const bare = el("label", { class: "missing" }, box, el("span", {}));
  const plot = el("div", { class: "histogram" }, bars);
  let anchor = null;
  const at = (event) => {
    const { left, width } = plot.getBoundingClientRect();
    return min + (max - min) * Math.max(0, Math.min(1, (event.clientX - left) / width));
  };
  plot.addEventListener("pointerdown", (event) => { anchor = at(event); plot.setPointerCapture(event.pointerId); });
  plot.addEventListener("pointermove", (event) => {
    if (anchor === null) return;
    [low.value, high.value] = [Math.min(anchor, at(event)), Math.max(anchor, at(event))];
    set();
  });
  for (const event of ["pointerup", "pointercancel"]) plot.addEventListener(event, () => { anchor = null; });
  const root = frame(name, plot, el("div", { class: "sliders" }, low, high), text, missing > 0 && bare);
  return { root, update };

  function set() {
    const [a, b] = [Number(low.value), Number(high.value)].sort((x, y) => x - y);
    // Sliders hold decimals, columns 32-bit numbers: the ends are the column's own.
    const wanted = { low: a <= min ? -Infinity : a, high: b >= max ? Infinity : b, missing: box.checked };
    const everything = wanted.low === -Infinity && wanted.high === Infinity && wanted.missing;
    filter(name, everything ? null : wanted);
  }

  function update() {
    const wanted = state.filters.get(name);
    if (!wanted) [low.value, high.value, box.checked] = [min, max, true];
    const [a, b] = [Number(low.value), Number(high.value)].sort((x, y) => x - y);
    const { left, selected } = counts(name);
    const most = Math.max(1, ...left.subarray(0, BINS));
    bars.forEach((bar, k) => {
      const middle = min + ((k + 0.5) / BINS) * (max - min);
      bar.style.height = `${(100 * left[k]) / most}%`;
      bar.firstChild.style.height = left[k] ? `${(100 * selected[k]) / left[k]}%` : "0";
      bar.classList.toggle("out", middle < a || middle > b);
    });
    text.textContent = a <= min && b >= max ? `${number(min)} to ${number(max, unit)}` : `from ${number(a)} to ${number(b, unit)}`;
    bare.lastChild.textContent = `and ${plural(left[BINS], "image")} without a value`;
  }
}
