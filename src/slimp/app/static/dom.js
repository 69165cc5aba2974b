/* Elements and texts. Data reach the page as text nodes and attributes only. */

/** An element; a function among `properties` listens to the event of its name. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const count = (n) => n.toLocaleString("en-GB");

/** "1 image", "2 images". */
export const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

/** A number with 2 significant digits, never fewer than its whole part, and its unit. */
export function number(value, unit) {
  if (value === null || value === undefined || Number.isNaN(value)) return "missing";
  const whole = Number.isInteger(value) || Math.abs(value) >= 10;
  const text = whole ? Math.round(value).toLocaleString("en-GB") : String(Number(value.toPrecision(2)));
  return unit ? `${text} ${unit}` : text;
}

export const percent = (share) =>
  share > 0 && share < 0.01 ? "<\u00a01\u00a0%" : share > 0.99 && share < 1 ? ">\u00a099\u00a0%" : `${Math.round(100 * share)}\u00a0%`;

/** A column's name for people: `p_nevus` is "probability of nevus". */
export function title(name) {
  if (name === "outlier") return "outlier score";
  return name.startsWith("p_") ? `probability of ${name.slice(2)}` : name.replaceAll("_", " ");
}

/** A labelled <select>; `options` are [value, text]. */
export function choice(label, options, value, change) {
  const select = el("select", { change: () => change(select.value) });
  for (const [key, text] of options) select.append(el("option", { value: key }, text));
  select.value = value;
  return el("label", { class: "choice" }, el("span", {}, label), select);
}

/** Saves a table as a CSV file; RFC 4180, so a cell with a quote, comma or line end is quoted. */
export function saveCsv(name, rows) {
  const cell = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = rows.map((row) => row.map((value) => cell(String(value ?? ""))).join(","));
  const address = URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
