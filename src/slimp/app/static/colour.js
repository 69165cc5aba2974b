/* Colours of the points by a column. */

import { MISSING, state, values, changed } from "./state.js";

/* Okabe and Ito's palette (jfly.uni-koeln.de/color), its yellow and black fitted to the paper. */
const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f8200", "#3d4650"];
const DARK = ["#4da9e6", "#f08a45", "#2fc79c", "#e09cc4", "#f2b53c", "#8fd0f7", "#e8dc4f", "#d3d9de"];
const GREY = { light: { other: "#7f6a8f", missing: "#b4bac0" }, dark: { other: "#a993ba", missing: "#5c646c" } };
/* Viridis at ninths. */
const RAMP = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];

export const theme = matchMedia("(prefers-color-scheme: dark)");
theme.addEventListener("change", () => changed("colour"));

const bytes = (hex) => [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));

/** A colour as a little-endian pixel. */
export const pixel = (hex, alpha = 255) => {
  const [r, g, b] = bytes(hex);
  return ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
};

/** The ramp's colour at a share of it; the dark theme leaves out its darkest tenth. */
export function ramp(share) {
  const at = (theme.matches ? 0.1 + 0.9 * share : share) * (RAMP.length - 1);
  const low = Math.min(RAMP.length - 2, Math.floor(at));
  const [a, b] = [bytes(RAMP[low]), bytes(RAMP[low + 1])];
  const mixed = a.map((value, k) => Math.round(value + (b[k] - value) * (at - low)));
  return `#${mixed.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}

const STEPS = 64;

/** {slots: place of each image, table: colour of each place, legend}; the last place: missing. */
export async function colouring(name) {
  const array = await values(name);
  const column = state.columns.get(name);
  return column.kind === "category" ? ofCategories(column, array) : ofNumbers(column, array);
}

function ofCategories(column, codes) {
  const palette = theme.matches ? DARK : LIGHT;
  const grey = GREY[theme.matches ? "dark" : "light"];
  const sizes = new Uint32Array(column.categories.length);
  for (const code of codes) if (code !== MISSING) sizes[code]++;
  const order = [...sizes.keys()].sort((a, b) => sizes[b] - sizes[a] || a - b);
  const own = order.slice(0, order.length > palette.length ? palette.length - 1 : palette.length).sort((a, b) => a - b);
  const table = [...own.map((_, k) => palette[k]), grey.other, grey.missing];
  const place = new Uint8Array(MISSING + 1).fill(table.length - 2);
  own.forEach((code, k) => (place[code] = k));
  place[MISSING] = table.length - 1;
  const slots = new Uint8Array(codes.length);
  for (let i = 0; i < codes.length; i++) slots[i] = place[codes[i]];
  const legend = own.map((code, k) => ({ code, text: column.categories[code], colour: table[k] }));
  for (const code of order.slice(own.length)) legend.push({ code, text: column.categories[code], colour: grey.other });
  if (column.missing) legend.push({ code: MISSING, text: "missing", colour: grey.missing });
  return { column, slots, table, legend };
}

/** The ramp spans the middle 96 % of the values, so that a few extreme ones do not use it up. */
function ofNumbers(column, array) {
  const step = Math.max(1, Math.floor(array.length / 20_000));
  const sample = array.filter((value, i) => i % step === 0 && !Number.isNaN(value)).sort();
  const at = (share) => sample[Math.round(share * (sample.length - 1))] ?? 0;
  const [low, high] = [at(0.02), at(0.98)];
  const scale = high > low ? (STEPS - 1) / (high - low) : 0;
  const slots = new Uint8Array(array.length);
  for (let i = 0; i < array.length; i++) {
    const place = Math.round((array[i] - low) * scale);
    slots[i] = Number.isNaN(array[i]) ? STEPS : Math.max(0, Math.min(STEPS - 1, place));
  }
  const missing = GREY[theme.matches ? "dark" : "light"].missing;
  const table = [...Array.from({ length: STEPS }, (_, k) => ramp(k / (STEPS - 1))), missing];
  return { column, slots, table, low, high, missing };
}
