/* What all views share: the columns, the filters, the selection, and the address. */

import { json, numbers } from "./api.js";

export const MISSING = 65535;
export const BINS = 32;
const ONLY_SELECTED = 1 << 30; // the bit of `failed` that no column has

export const state = {
  cohort: null,
  columns: new Map(), // name -> description
  filters: new Map(), // name -> {bit, kept: Set of codes} or {bit, low, high, missing}
  failed: null, // Uint32Array: which filters exclude the image, a bit each
  selected: null, // Uint8Array
  selectedCount: 0,
  passingCount: 0,
  patientCount: 0,
  onlySelected: false,
  hover: -1,
  seen: -1, // the case shown last
  ordered: new Int32Array(0), // the images that the filters leave, in the order of the grid
  version: 0, // of the filters
};

const listeners = new Set();
let pending = null;

/** Calls `listener(changes)` once a frame after changes: filter, selection, colour, hover. */
export const listen = (listener) => listeners.add(listener);

export function changed(what) {
  if (pending === null) {
    pending = new Set();
    requestAnimationFrame(() => {
      const changes = pending;
      pending = null;
      for (const listener of listeners) listener(changes);
    });
  }
  pending.add(what);
}

let patients = null; // code of each image's patient

export async function open() {
  const cohort = await json("/api/cohort");
  const known = (column) => (column.kind === "category" ? column.categories.length > 0 : column.min !== null);
  cohort.columns = cohort.columns.filter(known);
  state.cohort = cohort;
  for (const column of cohort.columns) state.columns.set(column.name, column);
  state.failed = new Uint32Array(cohort.images);
  state.selected = new Uint8Array(cohort.images);
  patients = (await numbers("/api/groups", Uint32Array)).subarray(0, cohort.images);
  recount();
}

/* Columns */

const arrays = new Map();
const binned = new Map();

/** A column's values: codes of a category, or numbers; asked for once. */
export function values(name) {
  if (!arrays.has(name)) {
    const Type = state.columns.get(name).kind === "category" ? Uint16Array : Float32Array;
    const promise = numbers(`/api/column/${encodeURIComponent(name)}`, Type);
    arrays.set(name, promise);
    promise.then((array) => binned.set(name, bins(name, array)), () => arrays.delete(name));
  }
  return arrays.get(name);
}

/** Columns of metadata: neither computed, nor the label or the split. */
export const metadata = () =>
  state.cohort.columns.filter(({ name, level }) => level !== "computed" && !["label", "split"].includes(name));

/** A column's value of one image; null: missing. */
export function valueOf(name, array, index) {
  const column = state.columns.get(name);
  const value = array[index];
  if (column.kind === "category") return value === MISSING ? null : column.categories[value];
  return Number.isNaN(value) ? null : value;
}

/** The bin of each image; the last one is for missing values. */
function bins(name, array) {
  const { kind, categories, min, max } = state.columns.get(name);
  const last = kind === "category" ? categories.length : BINS;
  const found = new Uint16Array(array.length);
  const scale = max > min ? BINS / (max - min) : 0;
  for (let i = 0; i < array.length; i++) {
    const value = array[i];
    if (kind === "category") found[i] = value === MISSING ? last : value;
    else found[i] = Number.isNaN(value) ? last : Math.min(BINS - 1, Math.floor((value - min) * scale));
  }
  return { found, last };
}

/** Images per bin that the other filters leave, and those of them that are selected. */
export function counts(name) {
  const { found, last } = binned.get(name);
  const own = state.filters.get(name)?.bit ?? 0;
  const left = new Uint32Array(last + 1);
  const selected = new Uint32Array(last + 1);
  for (let i = 0; i < found.length; i++) {
    if ((state.failed[i] & ~own) !== 0) continue;
    left[found[i]]++;
    selected[found[i]] += state.selected[i];
  }
  return { left, selected };
}

/* Filters */

/** Sets a column's filter; null removes it. */
export async function filter(name, wanted) {
  const array = await values(name);
  const old = state.filters.get(name);
  const bit = old?.bit ?? freeBit();
  if (bit === 0) throw new Error("That are 30 filters; remove one first.");
  const keeps = wanted === null ? () => true : wanted.kept ? keepsCodes(wanted) : keepsNumbers(wanted);
  for (let i = 0; i < array.length; i++) {
    if (keeps(array[i])) state.failed[i] &= ~bit;
    else state.failed[i] |= bit;
  }
  if (wanted === null) state.filters.delete(name);
  else state.filters.set(name, { ...wanted, bit });
  recount();
}

function keepsCodes({ kept }) {
  const table = new Uint8Array(MISSING + 1);
  for (const code of kept) table[code] = 1;
  return (code) => table[code] === 1;
}

const keepsNumbers = ({ low, high, missing }) =>
  (value) => (Number.isNaN(value) ? missing : value >= low && value <= high);

function freeBit() {
  const taken = [...state.filters.values()].reduce((bits, { bit }) => bits | bit, 0);
  for (let bit = 1; bit < ONLY_SELECTED; bit <<= 1) if ((taken & bit) === 0) return bit;
  return 0;
}

/** Keeps or drops one category; to keep none or all is to have no filter. */
export function toggle(name, code, { hide }) {
  const { categories, missing } = state.columns.get(name);
  const all = [...categories.keys(), ...(missing ? [MISSING] : [])];
  const kept = new Set(state.filters.get(name)?.kept ?? (hide ? all : []));
  if (!kept.delete(code)) kept.add(code);
  const none = kept.size === 0 || kept.size === all.length;
  return filter(name, none ? null : { kept });
}

export function resetFilters() {
  state.filters.clear();
  state.failed.fill(0);
  showOnlySelected(false);
}

export function showOnlySelected(only) {
  state.onlySelected = only && state.selectedCount > 0;
  for (let i = 0; i < state.failed.length; i++) {
    if (state.onlySelected && !state.selected[i]) state.failed[i] |= ONLY_SELECTED;
    else state.failed[i] &= ~ONLY_SELECTED;
  }
  recount();
}

function recount() {
  const seen = new Uint8Array(state.cohort.images);
  let [images, people] = [0, 0];
  for (let i = 0; i < state.failed.length; i++) {
    if (state.failed[i] !== 0) continue;
    images++;
    people += 1 - seen[patients[i]];
    seen[patients[i]] = 1;
  }
  state.passingCount = images;
  state.patientCount = people;
  state.ordered = passing();
  state.version++;
  changed("filter");
}

/** The images that all filters leave. */
export function passing() {
  const indices = new Int32Array(state.passingCount);
  for (let i = 0, k = 0; i < state.failed.length; i++) if (state.failed[i] === 0) indices[k++] = i;
  return indices;
}

/* Selection */

/** Selects these images and no others. */
export function select(indices) {
  state.selected.fill(0);
  for (const index of indices) state.selected[index] = 1;
  selectionChanged();
}

export function toggleSelected(index) {
  state.selected[index] ^= 1;
  selectionChanged();
}

function selectionChanged() {
  state.selectedCount = state.selected.reduce((sum, one) => sum + one, 0);
  if (state.onlySelected) showOnlySelected(true);
  changed("selection");
}

export function selection() {
  const indices = new Int32Array(state.selectedCount);
  for (let i = 0, k = 0; i < state.selected.length; i++) if (state.selected[i]) indices[k++] = i;
  return indices;
}

/* The address: #view=map&colour=label&case=12 */

export const address = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

/** Changes the address; `replace`: without a step for the browser's back button. */
export function go(changes, { replace = false } = {}) {
  const kept = Object.entries({ ...address(), ...changes }).filter(([, value]) => value !== null);
  const hash = `#${new URLSearchParams(kept)}`;
  if (hash === location.hash) return;
  history[replace ? "replaceState" : "pushState"](null, "", hash);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

export const openCase = (index, options) => go({ view: "case", case: index }, options);

export function hover(index) {
  if (index === state.hover) return;
  state.hover = index;
  changed("hover");
}
