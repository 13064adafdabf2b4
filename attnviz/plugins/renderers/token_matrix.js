// Numbers between tokens: rows are targets, columns sources. Needs _common.js, _tokens.js, _heat.js.

const ROWS = data.rows, COLUMNS = data.columns, R = ROWS.length, C = COLUMNS.length;
root.classList.add("av-view", "av-matrix");
const { block, most, signed } = data, BLOCKS = Math.ceil(C / block);
let scores = null, destroyed = false, row = R - 1;
const LINES = 24;         // so many are kept
const lines = new Map();  // row -> its exact scores, where the page has only the strongest of each block

const name = (t) => `${t} “${visibleText(data.tokens[t])}”`;
const readout = make("p", { class: "av-readout", role: "status", "aria-live": "polite" });
const legend = make("div", { class: "av-legend" });
const caption = make("p", { class: "av-caption" });
const boundary = data.generated_from === null ? -1 : COLUMNS.findIndex((t) => t >= data.generated_from);

const heat = heatMap({
  rows: R, columns: C,
  rowLabels: ROWS.map((t) => data.tokens[t]), columnLabels: COLUMNS.map((t) => data.tokens[t]),
  rowNumbers: ROWS, columnNumbers: COLUMNS,
  label: "Scores: rows are targets, columns are sources",
  describe: describeCell,
  onCursor: (lines) => { readout.textContent = lines.join(" · "); },
  onPick: (i) => pick(ROWS[i]),
  onZoom: (...zoom) => zoomer.update(...zoom),
  boundary: { column: boundary > 0 ? boundary : null },
});
const zoomer = zoomControl(heat);
const strip = tokenStrip({
  tokens: data.tokens, segments: data.segments, generatedFrom: data.generated_from,
  describe: describeToken,
  onFocus: (t) => { readout.textContent = describeToken(t); },
  onPick: pick,
});
strip.element.classList.add("av-short");
root.append(
  make("div", { class: "av-bar" }, make("h3", { class: "av-title" }, "Targets (rows) and their sources (columns)"), zoomer.element),
  heat.element, readout, legend, make("div", { class: "av-bar" }, caption), strip.element, notes([...data.info, ...ofBlocks()], data.warnings));

function ofBlocks() {
  if (block === 1) return [];
  const exact = host.offline ? "The file does not hold the exact ones: save a CSV." : "The exact ones of the chosen target are fetched.";
  return [`${R} × ${C} scores: drawn is the strongest of each block of ${block} × ${block} tokens. ${exact}`];
}

function scoreAt(i, j) {  // null where only the strongest of its block is known
  if (block === 1) return scores[i * C + j];
  return lines.has(i) ? lines.get(i)[j] : null;
}

const withUnit = (x) => `${formatNumber(x)}${Number.isNaN(x) ? "" : ` ${data.unit}`}`;

function describeCell(i, j) {
  const exact = scoreAt(i, j);
  if (exact !== null) return [`target ${name(ROWS[i])} ← source ${name(COLUMNS[j])}`, withUnit(exact)];
  const span = (positions, at) => `${positions[at * block]}–${positions[Math.min(positions.length, (at + 1) * block) - 1]}`;
  const [down, across] = [Math.floor(i / block), Math.floor(j / block)];
  return [`targets ${span(ROWS, down)} ← sources ${span(COLUMNS, across)}`, `strongest ${withUnit(scores[down * BLOCKS + across])}`];
}

function describeToken(t) {
  const column = COLUMNS.indexOf(t);
  const exact = scores && column >= 0 && R > 0 ? scoreAt(row, column) : null;
  return exact === null ? `token ${name(t)}` : `token ${name(t)}: ${formatNumber(exact)} for target ${ROWS[row]}`;
}

const share = (x) => (most === 0 ? (signed ? 0.5 : 0) : signed ? 0.5 + x / most / 2 : x / most);

function paint() {
  if (!scores) return;
  const map = signed ? DIVERGING : SEQUENTIAL, middle = signed ? 128 : 0;
  const shades = (numbers) => Uint8Array.from(numbers, (x) => (Number.isNaN(x) ? middle : Math.round(255 * share(x))));
  heat.setPatches([...lines].map(([i, line]) => ({ row: i, column: 0, rows: 1, columns: C, shade: shades(line) })));
  heat.setCells(shades(scores), colourTable(map), middle, block);
  const text = (x) => formatNumber(x, 3);
  drawLegend(legend, { map, caption: data.unit, ticks: most === 0 ? [[0.5, "all 0"]] : signed ? [[0, text(-most)], [0.5, "0"], [1, text(most)]] : [[0, "0"], [0.5, text(most / 2)], [1, text(most)]] });
  paintRow();
}

function paintRow() {
  if (!scores || R === 0) return;
  const stops = (signed ? DIVERGING : SEQUENTIAL)[themeName()];
  const colours = data.tokens.map(() => null);
  COLUMNS.forEach((t, j) => {
    const x = scoreAt(row, j);
    if (x !== null && x !== 0 && !Number.isNaN(x)) colours[t] = colourAt(stops, share(x));
  });
  strip.shade(colours);
  strip.select(ROWS[row]);
  heat.select(row, null);
  const known = block === 1 || lines.has(row);
  caption.textContent = `Sources of target ${name(ROWS[row])}${known ? "" : host.offline ? "; the file holds no single scores" : "; fetching its scores"}`;
  if (!known && !host.offline) fetchLine(row);
}

const asked = new Set();
async function fetchLine(i) {
  if (asked.has(i)) return;
  asked.add(i);
  try {
    lines.set(i, await unpack((await host.part({ rows: [i, i + 1] })).scores));
    if (lines.size > LINES) lines.delete(lines.keys().next().value);
    if (!destroyed) paint();
  } catch (error) {
    if (!destroyed) readout.textContent = error.message;
  } finally { asked.delete(i); }
}

function setTarget(t) {
  const i = ROWS.indexOf(t);
  if (i < 0) return false;
  row = i;
  paintRow();
  return true;
}

function pick(t) {
  if (!setTarget(t)) readout.textContent = `Token ${name(t)} is no target here.`;
  host.select({ token: t });
}

const unwatch = onWidth(heat.element, () => { if (scores) heat.redraw(); });
(async () => {
  scores = await unpack(data.scores);
  if (destroyed) return;
  paint();
  root.dataset.ready = "1";
})().catch((error) => { readout.textContent = error.message; });

return {
  show(selection) { if (Number.isInteger(selection.token)) setTarget(selection.token); },
  theme() { paint(); heat.redraw(); },
  destroy() { destroyed = true; unwatch(); },
};
