/* One map: points as pixels of a canvas, with zoom, pan, lasso and hover. */

import { numbers } from "./api.js";
import { pixel, theme } from "./colour.js";
import { el } from "./dom.js";
import { changed, hover, openCase, select, state } from "./state.js";

const NEAR = 9; // CSS pixels within which a point is meant
const FAINT = { light: "#e3e6e9", dark: "#2a2f34" }; // what the filters exclude
const FAR = 60; // largest zoom

export class Scatter {
  constructor(run, name) {
    this.run = run;
    this.lassoing = false; // whether a drag draws a lasso without the shift key
    this.canvas = el("canvas", {});
    this.overlay = el("canvas", {});
    const keys = "arrow keys move, plus and minus zoom, 0 shows all, Enter opens the case in the middle";
    this.root = el("div", { class: "scatter", tabindex: 0, role: "application", "aria-label": `Map of ${name}: ${keys}` },
      this.canvas, this.overlay);
    this.zoom = 1;
    this.home = { centre: [0, 0], spans: [2, 2] }; // of all points
    this.centre = this.home.centre;
    this.pointers = new Map();
    this.points = new Float32Array(0);
    const events = { pointerdown: "down", pointermove: "move", pointerup: "up", pointercancel: "up", keydown: "key" };
    for (const [event, method] of Object.entries(events)) this.root.addEventListener(event, (e) => this[method](e));
    this.root.addEventListener("pointerleave", () => this.pointers.size || hover(-1));
    this.root.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomAt(2 ** (-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), this.position(event));
    }, { passive: false });
    new ResizeObserver(() => this.fit()).observe(this.root);
  }

  async load(projection) {
    this.points = await numbers(`/api/points?projection=${projection}&run=${this.run}`, Float32Array);
    const range = (at) => {
      let [low, high] = [Infinity, -Infinity];
      for (let i = at; i < this.points.length; i += 2) [low, high] = [Math.min(low, this.points[i]), Math.max(high, this.points[i])];
      return [low, high];
    };
    // In the order of drawing too, so that memory is read in sequence.
    this.order = shuffledOrder(this.points.length / 2);
    this.shuffled = new Float32Array(this.points.length);
    this.order.forEach((i, k) => this.shuffled.set(this.points.subarray(2 * i, 2 * i + 2), 2 * k));
    const ranges = [range(0), range(1)];
    this.home = {
      centre: ranges.map(([low, high]) => (low + high) / 2),
      spans: ranges.map(([low, high]) => Math.max(high - low, 1e-6)),
    };
    this.reset();
  }

  paint(colours) {
    this.colours = colours;
    this.draw();
  }

  /* Geometry, in device pixels */

  fit() {
    const ratio = devicePixelRatio;
    const { width, height } = this.root.getBoundingClientRect();
    if (width === 0 || height === 0) return;
    for (const canvas of [this.canvas, this.overlay]) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    this.image = this.canvas.getContext("2d").createImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.draw();
  }

  get scale() {
    const { spans } = this.home;
    return 0.9 * Math.min(this.canvas.width / spans[0], this.canvas.height / spans[1]) * this.zoom;
  }

  place(index) {
    const { scale, centre, points, canvas } = this;
    return [
      canvas.width / 2 + (points[2 * index] - centre[0]) * scale,
      canvas.height / 2 - (points[2 * index + 1] - centre[1]) * scale,
    ];
  }

  position(event) {
    const box = this.root.getBoundingClientRect();
    return [(event.clientX - box.left) * devicePixelRatio, (event.clientY - box.top) * devicePixelRatio];
  }

  moveBy(dx, dy) {
    this.centre = [this.centre[0] - dx / this.scale, this.centre[1] + dy / this.scale];
    this.soon();
  }

  zoomAt(factor, [x, y]) {
    const zoom = Math.max(0.5, Math.min(FAR, this.zoom * factor));
    const [dx, dy] = [x - this.canvas.width / 2, y - this.canvas.height / 2];
    const change = 1 / this.scale - this.zoom / zoom / this.scale;
    this.centre = [this.centre[0] + dx * change, this.centre[1] - dy * change];
    this.zoom = zoom;
    this.soon();
  }

  reset() {
    [this.zoom, this.centre] = [1, this.home.centre];
    this.soon();
  }

  /** Draws once a frame, however often it is asked to. */
  soon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  /* Drawing */

  /** Pixels of a point: offsets from its middle, and how much of each it covers (0 to 255). */
  stamp() {
    const n = this.points.length / 2;
    const usual = n > 100_000 ? 0.6 : n > 20_000 ? 1.1 : n > 4000 ? 1.8 : n > 1000 ? 2.8 : 4;
    const radius = Math.min(6, usual * this.zoom ** 0.35) * devicePixelRatio;
    const reach = Math.ceil(radius);
    const [offsets, cover] = [[], []];
    for (let y = -reach; y <= reach; y++) {
      for (let x = -reach; x <= reach; x++) {
        const part = Math.round(255 * Math.min(1, radius + 0.5 - Math.hypot(x, y)));
        if (part < 64) continue;
        offsets.push(y * this.canvas.width + x);
        cover.push(part > 240 || radius < 1 ? 255 : part);
      }
    }
    return { reach, offsets: Int32Array.from(offsets), cover: Uint8Array.from(cover) };
  }

  /** Excluded points first, then those outside a selection, then the others. */
  draw() {
    if (!this.pixels || !this.colours || this.points.length === 0) return;
    const start = performance.now();
    const { slots, table } = this.colours;
    const full = Uint32Array.from(table, (hex) => pixel(hex));
    const dim = Uint32Array.from(table, (hex) => pixel(hex, 70));
    const faint = new Uint32Array(table.length).fill(pixel(FAINT[theme.matches ? "dark" : "light"]));
    const tiers = this.tiers();
    const stamp = this.stamp();
    this.pixels.fill(0);
    const there = [state.passingCount < tiers.length, state.selectedCount > 0, true];
    [faint, dim, full].forEach((colours, tier) => there[tier] && this.layer(stamp, slots, colours, tiers, tier));
    this.canvas.getContext("2d").putImageData(this.image, 0, 0);
    this.root.dataset.milliseconds = (performance.now() - start).toFixed(1); // read by the tests
    this.drawOver();
  }

  /** Per image: 0 excluded by a filter, 1 outside the selection, 2 neither. */
  tiers() {
    const found = new Uint8Array(state.failed.length);
    const all = state.selectedCount === 0;
    for (let i = 0; i < found.length; i++) if (state.failed[i] === 0) found[i] = all ? 2 : 1 + state.selected[i];
    return found;
  }

  layer({ reach, offsets, cover }, slots, table, tiers, tier) {
    const { shuffled, order, pixels, scale } = this;
    const { width, height } = this.canvas;
    const [x0, y0] = [width / 2 - this.centre[0] * scale + 0.5, height / 2 + this.centre[1] * scale + 0.5];
    for (let k = 0; k < order.length; k++) {
      const i = order[k];
      if (tiers[i] !== tier) continue;
      const x = (x0 + shuffled[2 * k] * scale) | 0;
      const y = (y0 - shuffled[2 * k + 1] * scale) | 0;
      if (x < reach || y < reach || x >= width - reach || y >= height - reach) continue;
      const at = y * width + x;
      const colour = table[slots[i]];
      for (let s = 0; s < offsets.length; s++) {
        const p = at + offsets[s];
        pixels[p] = cover[s] === 255 ? colour : blend(colour, pixels[p], cover[s]);
      }
    }
  }

  /** The lasso, and a ring around the point under the pointer, in any of the maps. */
  drawOver() {
    const context = this.overlay.getContext("2d");
    const style = getComputedStyle(this.root);
    context.clearRect(0, 0, this.overlay.width, this.overlay.height);
    context.lineWidth = 2 * devicePixelRatio;
    if (state.hover >= 0 && this.points.length > 2 * state.hover) {
      context.strokeStyle = style.color;
      context.beginPath();
      context.arc(...this.place(state.hover), 8 * devicePixelRatio, 0, 7);
      context.stroke();
    }
    if (this.lasso) {
      context.strokeStyle = style.getPropertyValue("--accent");
      context.setLineDash([6, 4]);
      context.beginPath();
      for (const point of this.lasso) context.lineTo(...point);
      context.closePath();
      context.stroke();
      context.setLineDash([]);
    }
  }

  /* Pointer and keys */

  nearest([x, y], within) {
    let [best, found] = [(within * devicePixelRatio) ** 2, -1];
    const { points, scale } = this;
    const [x0, y0] = [this.canvas.width / 2 - this.centre[0] * scale, this.canvas.height / 2 + this.centre[1] * scale];
    for (let i = 0; 2 * i < points.length; i++) {
      if (state.failed[i] !== 0) continue;
      const distance = (x0 + points[2 * i] * scale - x) ** 2 + (y0 - points[2 * i + 1] * scale - y) ** 2;
      if (distance < best) [best, found] = [distance, i];
    }
    return found;
  }

  down(event) {
    if (event.button !== 0) return;
    this.root.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.position(event));
    this.moved = this.pointers.size > 1;
    if (this.pointers.size === 1 && (this.lassoing || event.shiftKey)) this.lasso = [this.position(event)];
    else this.lasso = null;
  }

  move(event) {
    const position = this.position(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      hover(this.nearest(position, NEAR));
      return;
    }
    const [dx, dy] = [position[0] - before[0], position[1] - before[1]];
    if (!this.moved && Math.hypot(dx, dy) < 4 * devicePixelRatio) return;
    this.moved = true;
    if (this.lasso) {
      this.lasso.push(position);
      this.drawOver();
    } else if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const spread = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
      this.zoomAt(spread(position) / Math.max(1, spread(before)), other);
    } else {
      this.moveBy(dx, dy);
    }
    this.pointers.set(event.pointerId, position);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.lasso && this.moved) select(this.inside(this.lasso));
    else if (!this.moved && event.type === "pointerup") {
      const index = this.nearest(this.position(event), NEAR);
      if (index >= 0) openCase(index);
    }
    this.lasso = null;
    this.drawOver();
  }

  /** Images within a polygon of device pixels that the filters leave (even-odd rule). */
  inside(polygon) {
    const found = [];
    const [xs, ys] = [polygon.map((point) => point[0]), polygon.map((point) => point[1])];
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    for (let i = 0; i < state.failed.length; i++) {
      if (state.failed[i] !== 0) continue;
      const [x, y] = this.place(i);
      if (x < left || x > right || y < top || y > bottom) continue;
      let odd = false;
      for (let a = 0, b = xs.length - 1; a < xs.length; b = a++) {
        const crosses = ys[a] > y !== ys[b] > y && x < ((xs[b] - xs[a]) * (y - ys[a])) / (ys[b] - ys[a]) + xs[a];
        if (crosses) odd = !odd;
      }
      if (odd) found.push(i);
    }
    return found;
  }

  /** Selects what is in view: the lasso of those who use no pointer. */
  selectView() {
    const { width, height } = this.canvas;
    select(this.inside([[0, 0], [width, 0], [width, height], [0, height]]));
  }

  key(event) {
    const middle = [this.canvas.width / 2, this.canvas.height / 2];
    const step = 0.1 * Math.min(...middle);
    const actions = {
      ArrowLeft: () => this.moveBy(step, 0),
      ArrowRight: () => this.moveBy(-step, 0),
      ArrowUp: () => this.moveBy(0, step),
      ArrowDown: () => this.moveBy(0, -step),
      "+": () => this.zoomAt(1.4, middle),
      "=": () => this.zoomAt(1.4, middle),
      "-": () => this.zoomAt(1 / 1.4, middle),
      0: () => this.reset(),
      Enter: () => state.hover >= 0 && openCase(state.hover),
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    actions[event.key]();
    if (event.key !== "Enter") hover(this.nearest(middle, Infinity));
    changed("hover");
  }
}

/**
 * Points are drawn in steps of the golden ratio through the table: in its own order, classes that
 * come last would cover the others.
 */
function shuffledOrder(n) {
  const divisor = (a, b) => (b === 0 ? a : divisor(b, a % b));
  let stride = Math.max(1, Math.round(0.618 * n));
  while (divisor(stride, n) !== 1) stride++;
  return Int32Array.from({ length: n }, (_, k) => (k * stride) % n);
}

/** A pixel over another; where there is none, a translucent one. */
function blend(colour, under, cover) {
  if (under === 0) return (((colour >>> 24) * cover) / 255 << 24) | (colour & 0xffffff);
  let mixed = Math.max(under >>> 24, ((colour >>> 24) * cover) / 255) << 24;
  for (const shift of [0, 8, 16]) {
    const [a, b] = [(under >>> shift) & 255, (colour >>> shift) & 255];
    mixed |= (a + ((b - a) * cover) / 255) << shift;
  }
  return mixed >>> 0;
}
