// The plots: SVG drawn for the available width, so that text keeps its size on a phone.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 236;
const MARGIN = { top: 12, right: 14, bottom: 44, left: 48 };
const TICK_LETTER_PIXELS = 6.7;
const DOTS_MAX = 48;
const BUCKETS_LEAST = 6;
const LETTER_PIXELS = 8;

export function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Tick positions at steps of 1, 2 or 5 times a power of ten, about `wanted` of them.
export function ticks(low, high, wanted, least = 0) {
  if (high <= low) return [low];
  const rough = Math.max((high - low) / wanted, least);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index += 1) found.push(Number((index * step).toPrecision(12)));
  return found;
}

function frame(host, label, left = MARGIN.left) {
  const width = Math.max(240, host.clientWidth);
  const svg = element("svg", { role: "img", "aria-label": label, viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT });
  const right = width - MARGIN.right;
  const bottom = HEIGHT - MARGIN.bottom;
  return { svg, left, right, bottom, width, plotWidth: right - left, plotHeight: bottom - MARGIN.top };
}

function horizontal(box, y, text) {
  box.svg.append(
    element("line", { class: "grid", x1: box.left, x2: box.right, y1: y, y2: y }),
    element("text", { x: box.left - 8, y: y + 4, "text-anchor": "end" }, text),
  );
}

function axisTitle(box, text) {
  box.svg.append(element("text", { x: box.left + box.plotWidth / 2, y: HEIGHT - 6, "text-anchor": "middle" }, text));
}

function baseline(box) {
  box.svg.append(element("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
}

// The curve of a metric. `points`: {x, value, each}, x increasing; `range`: limits of the value axis; `yTexts`: texts of its
// ticks.
export function drawCurve(host, points, { label, title, range, yTexts, xTicks, xText, reading, tell }) {
  const [low, high] = range;
  const yTicks = ticks(low, high, 4);
  const names = yTexts(yTicks);
  const box = frame(host, label, Math.max(MARGIN.left, 14 + TICK_LETTER_PIXELS * Math.max(...names.map((name) => name.length))));
  const [first, last] = [points[0].x, points.at(-1).x];
  const span = last - first || 1;
  const left = (x) => box.left + (last === first ? box.plotWidth / 2 : ((x - first) / span) * box.plotWidth);
  const top = (value) => box.bottom - ((value - low) / (high - low)) * box.plotHeight;
  yTicks.forEach((tick, index) => horizontal(box, top(tick), names[index]));
  for (const tick of xTicks(first, last, Math.max(2, Math.floor(box.plotWidth / 60)))) {
    const at = Math.min(Math.max(left(tick), box.left), box.right);
    box.svg.append(element("text", { x: at, y: box.bottom + 17, "text-anchor": "middle" }, xText(tick)));
  }
  baseline(box);
  axisTitle(box, title);
  const path = points.map((point, index) => `${index ? "L" : "M"}${left(point.x).toFixed(1)} ${top(point.value).toFixed(1)}`).join("");
  if (points.length > 1) {
    box.svg.append(
      element("path", { class: "area", d: `${path}L${left(last).toFixed(1)} ${box.bottom}L${left(first).toFixed(1)} ${box.bottom}Z` }),
      element("path", { class: "curve", d: path }),
    );
  }
  for (const point of points) {
    if (point.each.length > 1) for (const value of point.each) box.svg.append(element("circle", { class: "each", cx: left(point.x), cy: top(value), r: 2.5 }));
    if (points.length <= DOTS_MAX) box.svg.append(element("circle", { class: "dot", cx: left(point.x), cy: top(point.value), r: 2.6 }));
  }
  const newest = points.at(-1);
  box.svg.append(element("circle", { class: "newest", cx: left(newest.x), cy: top(newest.value), r: 5 }));
  point(box, points, { left, top, reading, tell });
  host.replaceChildren(box.svg);
}

// Shows the nearest point to the pointer as text; without a pointer, the plot's usual text.
function point(box, points, { left, top, reading, tell }) {
  const line = element("line", { class: "pointer", y1: MARGIN.top, y2: box.bottom, visibility: "hidden" });
  const mark = element("circle", { class: "newest", r: 4.5, visibility: "hidden" });
  box.svg.append(line, mark);
  const show = (isShown) => [line, mark].forEach((part) => part.setAttribute("visibility", isShown ? "visible" : "hidden"));
  box.svg.addEventListener("pointermove", (event) => {
    const x = ((event.clientX - box.svg.getBoundingClientRect().left) / box.svg.clientWidth) * box.width;
    const nearest = points.reduce((best, each) => (Math.abs(left(each.x) - x) < Math.abs(left(best.x) - x) ? each : best));
    line.setAttribute("x1", left(nearest.x));
    line.setAttribute("x2", left(nearest.x));
    mark.setAttribute("cx", left(nearest.x));
    mark.setAttribute("cy", top(nearest.value));
    show(true);
    tell(reading(nearest));
  });
  box.svg.addEventListener("pointerleave", () => {
    show(false);
    tell(null);
  });
}

// Histogram of staleness: buckets {least, updates}, increasing. The last one is open; empty ones at the end are omitted.
export function drawHistogram(host, all, { label, stale }) {
  const box = frame(host, label);
  const buckets = all.slice(0, Math.max(BUCKETS_LEAST, all.findLastIndex((bucket) => bucket.updates) + 1));
  const most = Math.max(1, ...buckets.map((bucket) => bucket.updates));
  const top = (updates) => box.bottom - (updates / most) * (box.plotHeight - 16);
  for (const tick of ticks(0, most, 3, 1)) horizontal(box, top(tick), compact(tick));
  const each = box.plotWidth / buckets.length;
  const names = buckets.map((_, index) => bucketName(all, index));
  const areShort = names.some((name) => name.length * LETTER_PIXELS > each);
  buckets.forEach((bucket, index) => {
    const x = box.left + index * each;
    const name = areShort ? String(bucket.least) : names[index];
    const height = bucket.updates ? Math.max(2, box.bottom - top(bucket.updates)) : 0;
    const kind = bucket.least >= stale ? "bar far" : "bar";
    box.svg.append(
      element("rect", { class: kind, x: x + each * 0.14, width: each * 0.72, y: box.bottom - height, height, rx: 2 }),
      element("text", { x: x + each / 2, y: box.bottom + 17, "text-anchor": "middle", class: bucket.updates ? "" : "nothing" }, name),
    );
    if (bucket.updates) box.svg.append(element("text", { class: "amount", x: x + each / 2, y: box.bottom - height - 5, "text-anchor": "middle" }, compact(bucket.updates)));
  });
  baseline(box);
  axisTitle(box, areShort ? "staleness, versions (lower end of each bar)" : "staleness, versions");
  host.replaceChildren(box.svg);
}

export function bucketName(buckets, index) {
  const { least } = buckets[index];
  const next = buckets[index + 1]?.least;
  if (next === undefined) return `${least}+`;
  return next - 1 > least ? `${least}–${next - 1}` : `${least}`;
}

export function compact(number) {
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (number >= size) {
      const unit = letter === "k" ? 1e3 : size;
      return `${Number((number / unit).toPrecision(3))}${letter}`;
    }
  }
  return String(number);
}

export function sayNothing(host, text) {
  const shown = document.createElement("p");
  shown.textContent = text;
  host.replaceChildren(shown);
}
