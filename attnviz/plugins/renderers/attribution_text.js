// Targets above, the text below: sources shaded for one target, or targets for one source, and lines to the strongest.
// Needs _common.js, _tokens.js, _heat.js.
//
// What is looked at ("focus") is a target (a row) or a source (a column): the one under the pointer or the keyboard, else
// the locked one, else the chosen target. A lock holds what is shown while the pointer goes elsewhere.

const SOURCES = data.sources.map(([index, stop, id, label]) => ({ index, stop, id, label }));
const TARGETS = data.targets.map(([index, stop, id, label]) => ({ index, stop, id, label }));
const R = TARGETS.length, C = SOURCES.length;
const LINES = { most: 60, first: 10, thinnest: 0.75, thickest: 7 };
const LINE_COLOURS = {
  light: { towards: "#c2600c", against: "#1f66b0" },
  dark: { towards: "#f39a4a", against: "#6cb0f5" },
};
const SCALES = { share: "share of the row", raw: "raw score" };

const state = { row: R - 1, locked: null, hover: null, marked: null, scale: "share", lines: LINES.first, matrix: false };
let scores = null, totals = null, most = { raw: 0, share: 0 }, destroyed = false, waiting = 0;

// ------------------------------------------------------------------------------------------------ numbers

const value = (i, j) => {
  const score = scores[i * C + j];
  if (state.scale === "raw") return score;
  return totals[i] > 0 ? score / totals[i] : score;
};
const focus = () => state.locked || state.hover || { side: "target", at: state.row };
const same = (a, b) => (a === b) || (a && b && a.side === b.side && a.at === b.at);

function measure() {
  totals = new Float64Array(R);
  for (let i = 0; i < R; i++) {
    let largest = 0;
    for (let j = 0; j < C; j++) {
      const size = Math.abs(scores[i * C + j]);
      if (Number.isNaN(size)) continue;
      totals[i] += size;
      if (size > largest) largest = size;
    }
    most.raw = Math.max(most.raw, largest);
    if (totals[i] > 0) most.share = Math.max(most.share, largest / totals[i]);
  }
}

// The pairs in focus that are drawn, strongest first, and the share they keep of all in focus.
function strongest({ side, at }) {
  const pairs = [];
  let total = 0;
  for (let k = 0, count = side === "target" ? C : R; k < count; k++) {
    const [i, j] = side === "target" ? [at, k] : [k, at];
    const size = Math.abs(value(i, j));
    if (size > 0) { pairs.push({ i, j, size }); total += size; }
  }
  pairs.sort((a, b) => b.size - a.size || a.i - b.i || a.j - b.j);
  const drawn = pairs.slice(0, state.lines);
  const kept = drawn.reduce((sum, pair) => sum + pair.size, 0);
  return { drawn, count: pairs.length, share: total > 0 ? kept / total : null };
}

const shareOf = (x) => (most[state.scale] === 0 ? (data.signed ? 0.5 : 0) : data.signed ? 0.5 + x / most[state.scale] / 2 : Math.abs(x) / most[state.scale]);
const map = () => (data.signed ? DIVERGING : SEQUENTIAL);
const colourOf = (x) => (x === 0 || Number.isNaN(x) ? null : colourAt(map()[themeName()], shareOf(x)));

// ------------------------------------------------------------------------------------------------ words

const quote = (span, length = 60) => `${span.stop - span.index > 1 ? `${span.index}–${span.stop - 1}` : span.index} “${shorten(visibleText(span.label), length)}”`;
const beyond = (span) => (span.index >= data.count ? " (would come next)" : "");

function scoreText(i, j) {
  const score = scores[i * C + j];
  if (Number.isNaN(score)) return "no value";
  const share = totals[i] > 0 ? `, ${formatNumber(100 * score / totals[i], 2)} % of the row` : "";
  return `${formatNumber(score)} ${data.unit}${share}`;
}

function deltaText(i) {
  if (!data.delta) return "";
  const delta = data.delta[i];
  if (delta === null) return "delta: no value";
  const passes = withinTolerance(i);
  const verdict = passes === null ? "" : passes ? ` ✓ within ${data.tolerance}` : ` ✗ not within ${data.tolerance}`;
  return `delta ${formatNumber(delta, 5)}${verdict}`;
}

function withinTolerance(i) {  // null where nothing was asked for
  if (!data.delta || data.tolerance === null) return null;
  return data.delta[i] !== null && Math.abs(data.delta[i]) <= data.tolerance;
}

function describeTarget(i) {
  const target = TARGETS[i], parts = [`target ${quote(target)}${beyond(target)}`];
  if (!scores) return parts[0];
  const { side, at } = focus();
  if (side === "source") parts.push(`${scoreText(i, at)} from source ${quote(SOURCES[at])}`);
  else {
    if (data.values) parts.push(`${data.target_function} ${formatNumber(data.values[i])}`);
    if (data.delta) parts.push(deltaText(i));
  }
  return parts.join(": ");
}

function describeSource(j) {
  const name = `source ${quote(SOURCES[j])}`;
  if (!scores || R === 0) return name;
  const { side, at } = focus(), i = side === "target" ? at : state.row;
  return `${name}: ${scoreText(i, j)} for target ${quote(TARGETS[i])}`;
}

// ------------------------------------------------------------------------------------------------ skeleton

root.classList.add("av-view", "av-attribution");
const title = make("h3", { class: "av-title" });
const facts = make("p", { class: "av-facts-line" });
const kept = make("p", { class: "av-caption av-kept" });
const readout = make("p", { class: "av-readout", role: "status", "aria-live": "polite" });
const legend = make("div", { class: "av-legend" });
const verdict = make("p", { class: "av-caption av-verdict" });
const released = make("button", { type: "button", class: "av-button av-release", onclick: () => { lock(null); } }, "Unlock (Esc)");

const targetStrip = tokenStrip({
  tokens: TARGETS.map((target) => target.label), segments: [{ role: "targets", start: 0, stop: R }], generatedFrom: null,
  label: plural(R, "target"),
  describe: describeTarget,
  onFocus: (i) => look("target", i),
  onLeave: () => look(null),
  onPick: (i) => pick("target", i),
});
targetStrip.element.classList.add("av-targets");
const sourceStrip = tokenStrip({
  tokens: SOURCES.map((source) => source.label), segments: data.segments, generatedFrom: data.generated_from,
  label: plural(C, "source"),
  describe: describeSource,
  onFocus: (j) => look("source", j),
  onLeave: () => look(null),
  onPick: (j) => pick("source", j),
});
sourceStrip.element.classList.add("av-sources");

const SVG = "http://www.w3.org/2000/svg";
const overlay = document.createElementNS(SVG, "svg");
overlay.setAttribute("class", "av-lines");
overlay.setAttribute("aria-hidden", "true");
const stage = make("div", { class: "av-stage" }, targetStrip.element, sourceStrip.element);
stage.append(overlay);
const matrix = make("div", { class: "av-matrix-home" });
matrix.hidden = true;

const slider = make("input", {
  type: "range", min: "0", max: String(LINES.most), step: "1", value: String(state.lines), "aria-label": "Largest number of lines",
  oninput: () => { state.lines = Number(slider.value); sliderValue.textContent = slider.value; paintLines(); },
});
const sliderValue = make("output", { class: "av-zoom-value" }, String(state.lines));
const linesControl = make("label", { class: "av-control" }, make("span", {}, "Lines"), slider, sliderValue);
const scaleControl = choice("Scale", Object.entries(SCALES), state.scale, (name) => { state.scale = name; paintAll(); });
const switcher = (text, on) => make("button", { type: "button", class: "av-button", "aria-pressed": String(on === state.matrix), onclick: () => showMatrix(on) }, text);
const asText = switcher("Text", false), asMatrix = switcher("Matrix", true);
const viewControl = make("span", { class: "av-control", role: "group", "aria-label": "Picture" }, asText, asMatrix);
const zoomHome = make("span", { class: "av-zoom-home" });

root.append(
  make("div", { class: "av-bar" }, make("div", { class: "av-heading" }, title, facts), make("div", { class: "av-controls" }, viewControl, scaleControl, linesControl, zoomHome)),
  stage, matrix,
  make("div", { class: "av-bar av-below" }, kept, released),
  readout, legend, verdict, notes(data.info, data.warnings));

// ------------------------------------------------------------------------------------------------ painting

function paint() {
  if (!scores || destroyed) return;
  const at = focus();
  paintShades(at);
  paintWords(at);
  paintLines();
  if (state.matrix) heat.select(at.side === "target" ? at.at : null, at.side === "source" ? at.at : null);
}

function paintAll() {  // the scale of the colours has changed
  if (!scores || destroyed) return;
  paintLegend();
  if (state.matrix) paintHeat();
  paint();
}

function paintShades({ side, at }) {
  const row = side === "target";
  sourceStrip.shade(SOURCES.map((_, j) => (row && R ? colourOf(value(at, j)) : null)));
  targetStrip.shade(TARGETS.map((_, i) => (row ? null : colourOf(value(i, at)))));
  targetStrip.select(row ? at : state.row);
  sourceStrip.select(row ? state.marked : at);
  root.dataset.locked = state.locked ? side : "";
}

function paintWords({ side, at }) {
  const row = side === "target", span = row ? TARGETS[at] : SOURCES[at];
  title.textContent = R === 0 ? "No targets" : row ? `Sources of target ${quote(span, 24)}${beyond(span)}` : `Targets of source ${quote(span, 24)}`;
  facts.textContent = "";
  facts.classList.remove("av-off");
  if (row && R) {
    const sum = SOURCES.reduce((total, _, j) => total + (Number.isNaN(scores[at * C + j]) ? 0 : scores[at * C + j]), 0);
    const parts = [data.values ? `${data.target_function} ${formatNumber(data.values[at])}` : data.target_function, `sum of scores ${formatNumber(sum)} ${data.unit}`];
    if (data.delta) parts.push(deltaText(at));
    facts.textContent = facts.title = parts.join(" · ");
    facts.classList.toggle("av-off", withinTolerance(at) === false);
  }
  released.hidden = !state.locked;
}

function paintLegend() {
  const largest = most[state.scale], text = (x) => formatNumber(x, 3);
  if (largest === 0) { legend.replaceChildren(make("span", { class: "av-legend-caption" }, "All scores are 0.")); return; }
  const ticks = data.signed ? [[0, text(-largest)], [0.5, "0"], [1, text(largest)]] : [[0, "0"], [0.5, text(largest / 2)], [1, text(largest)]];
  const what = state.scale === "raw" ? data.unit : "share of the row’s sum of absolute scores";
  const meaning = data.signed ? "; orange towards, blue (dashed) against" : "";
  drawLegend(legend, { map: map(), ticks, caption: `${what}, linear, one scale for all targets${meaning}` });
}

function paintLines() {
  if (!scores || state.matrix || R === 0) { kept.textContent = ""; return; }
  const { drawn, count, share } = strongest(focus());
  const whose = focus().side === "target" ? "this target’s" : "this source’s";
  kept.textContent = share === null
    ? `No line: ${whose} scores are all 0.`
    : `${plural(drawn.length, "line")} of ${count} keep ${formatNumber(100 * share, 1)} % of ${whose} total |${state.scale === "raw" ? "score" : "share"}|.`;
  draw(drawn);
}

function draw(pairs) {
  const frame = stage.getBoundingClientRect();
  const boxes = { target: targetStrip.element.getBoundingClientRect(), source: sourceStrip.element.getBoundingClientRect() };
  const within = (y, box) => Math.max(box.top, Math.min(box.bottom, y)) - frame.top;
  const tones = LINE_COLOURS[themeName()];
  overlay.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
  overlay.replaceChildren(...pairs.reverse().map(({ i, j, size }) => {  // the strongest on top
    const from = targetStrip.button(i).getBoundingClientRect(), to = sourceStrip.button(j).getBoundingClientRect();
    const x1 = from.left + from.width / 2 - frame.left, y1 = within(from.bottom, boxes.target);
    const x2 = to.left + Math.min(to.width / 2, 60) - frame.left, y2 = within(to.top, boxes.source);
    const bend = Math.max(14, (y2 - y1) / 2);
    const path = document.createElementNS(SVG, "path");
    const against = data.signed && scores[i * C + j] < 0;
    path.setAttribute("d", `M${x1.toFixed(1)} ${y1.toFixed(1)}C${x1.toFixed(1)} ${(y1 + bend).toFixed(1)} ${x2.toFixed(1)} ${(y2 - bend).toFixed(1)} ${x2.toFixed(1)} ${y2.toFixed(1)}`);
    path.setAttribute("stroke", against ? tones.against : tones.towards);
    path.setAttribute("stroke-width", Math.max(LINES.thinnest, LINES.thickest * size / most[state.scale]).toFixed(2));
    if (against) path.setAttribute("stroke-dasharray", "7 4");
    path.dataset.target = i;
    path.dataset.source = j;
    return path;
  }));
}

// ------------------------------------------------------------------------------------------------ matrix

let heat = null;

function showMatrix(on) {
  state.matrix = on;
  asText.setAttribute("aria-pressed", String(!on));
  asMatrix.setAttribute("aria-pressed", String(on));
  stage.hidden = on;
  matrix.hidden = !on;
  linesControl.hidden = on;
  zoomHome.hidden = !on;
  if (on && !heat) buildMatrix();
  paintAll();
  if (on) heat.redraw();
}

function buildMatrix() {
  heat = heatMap({
    rows: R, columns: C,
    rowLabels: TARGETS.map((target) => target.label), columnLabels: SOURCES.map((source) => source.label),
    rowNumbers: TARGETS.map((target) => target.index), columnNumbers: SOURCES.map((source) => source.index),
    label: "Scores: rows are targets, columns are sources",
    describe: (i, j) => [`target ${quote(TARGETS[i])} ← source ${quote(SOURCES[j])}`, scoreText(i, j)],
    onCursor: (lines) => { readout.textContent = lines.join(" · "); },
    onPick: (i) => pick("target", i),
    onZoom: (...zoom) => zoomer.update(...zoom),
    boundary: { column: data.generated_from > 0 && data.generated_from < C ? data.generated_from : null },
  });
  const zoomer = zoomControl(heat);
  zoomHome.append(zoomer.element);
  matrix.append(heat.element);
}

function paintHeat() {
  const middle = data.signed ? 128 : 0, cells = new Uint8Array(R * C);
  for (let i = 0, k = 0; i < R; i++) for (let j = 0; j < C; j++, k++) {
    const x = value(i, j);
    cells[k] = Number.isNaN(x) ? middle : Math.round(255 * shareOf(x));
  }
  heat.setCells(cells, colourTable(map()), middle);
}

// ------------------------------------------------------------------------------------------------ choosing

function soon() {  // one painting per frame however fast the pointer moves
  if (waiting) return;
  waiting = requestAnimationFrame(() => { waiting = 0; paint(); });
}

function look(side, at) {  // under the pointer, or under the keyboard
  const before = state.hover;
  state.hover = side ? { side, at } : null;
  if (side) readout.textContent = side === "target" ? describeTarget(at) : describeSource(at);
  if (same(before, state.hover)) return;
  host.point(pointed());
  soon();
}

function lock(next) {
  state.locked = next;
  state.hover = null;
  host.point(pointed());
  paint();
}

function pick(side, at) {
  const next = { side, at };
  if (same(next, state.locked)) { lock(null); return; }
  if (side === "target") state.row = at;
  lock(next);
  const span = side === "target" ? TARGETS[at] : SOURCES[at];
  if (span.index < data.count) host.select({ token: span.index });
}

const holds = (span, token) => span.index <= token && token < span.stop;

function setToken(token) {  // the page's selection: a target's row, else a mark on the source
  const i = TARGETS.findIndex((target) => holds(target, token)), j = SOURCES.findIndex((source) => holds(source, token));
  state.marked = j < 0 ? null : j;
  if (i >= 0) {
    state.row = i;
    if (state.locked && state.locked.side === "target") state.locked = { side: "target", at: i };
  }
  soon();
}

// Where the user points: first token of the target, or of the source, that is locked or looked at. For views beside
// each other.
function pointed() {
  const at = state.locked || state.hover;
  const token = (spans, k) => (spans[k] ? spans[k].index : null);
  return {
    target: at && at.side === "target" ? token(TARGETS, at.at) : null,
    source: at && at.side === "source" ? token(SOURCES, at.at) : null,
    row: token(TARGETS, state.row),
    locked: state.locked !== null,
  };
}

function point(where) {
  const find = (spans, token) => (token === null || token === undefined ? -1 : spans.findIndex((span) => holds(span, token)));
  const row = find(TARGETS, where.row), target = find(TARGETS, where.target), source = find(SOURCES, where.source);
  if (row >= 0) state.row = row;
  const at = source >= 0 ? { side: "source", at: source } : target >= 0 ? { side: "target", at: target } : null;
  state.locked = where.locked ? at : null;
  state.hover = where.locked ? null : at;
  soon();
}

root.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !state.locked) return;
  event.stopPropagation();
  lock(null);
});
for (const strip of [targetStrip, sourceStrip]) strip.element.addEventListener("scroll", () => paintLines(), { passive: true });
const unwatch = onWidth(stage, () => paintLines());
const unwatchMatrix = onWidth(matrix, () => { if (heat && state.matrix) heat.redraw(); });

function judge() {  // how many targets keep what the method promises
  if (!data.delta || data.tolerance === null) return;
  const failing = TARGETS.filter((_, i) => withinTolerance(i) === false).length;
  verdict.textContent = failing
    ? `Not within the tolerance of ${data.tolerance}: ${failing} of ${plural(R, "target")}, marked ✗.`
    : `All ${plural(R, "target")} are within the tolerance of ${data.tolerance}.`;
  verdict.classList.toggle("av-off", failing > 0);
  TARGETS.forEach((_, i) => targetStrip.button(i).classList.toggle("av-off", withinTolerance(i) === false));
}

zoomHome.hidden = true;
(async () => {
  scores = await unpack(data.scores);
  if (destroyed) return;
  measure();
  judge();
  paintAll();
  root.dataset.ready = "1";
})().catch((error) => { readout.textContent = error.message; });

return {
  show(selection) { if (Number.isInteger(selection.token)) setToken(selection.token); },
  theme() { paintAll(); if (state.matrix) heat.redraw(); },
  point, pointed,
  destroy() { destroyed = true; unwatch(); unwatchMatrix(); },
};
