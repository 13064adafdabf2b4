// Numbers between tokens: rows are targets, columns sources. Needs _common.js, _tokens.js, _heat.js.

const ROWS = data.rows, COLUMNS = data.columns, R = ROWS.length, C = COLUMNS.length;
root.classList.add("av-view", "av-matrix");
let scores = null, most = 0, signed = false, destroyed = false, row = R - 1;

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
  describe: (i, j) => [`target ${name(ROWS[i])} ← source ${name(COLUMNS[j])}`, `${formatNumber(scores[i * C + j])}${Number.isNaN(scores[i * C + j]) ? "" : ` ${data.unit}`}`],
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
  heat.element, readout, legend, make("div", { class: "av-bar" }, caption), strip.element, notes(data.info, data.warnings));

function describeToken(t) {
  const column = COLUMNS.indexOf(t);
  if (!scores || column < 0 || R === 0) return `token ${name(t)}`;
  return `token ${name(t)}: ${formatNumber(scores[row * C + column])} for target ${ROWS[row]}`;
}

const share = (x) => (most === 0 ? (signed ? 0.5 : 0) : signed ? 0.5 + x / most / 2 : x / most);

function paint() {
  if (!scores) return;
  const map = signed ? DIVERGING : SEQUENTIAL, middle = signed ? 128 : 0;
  heat.setCells(Uint8Array.from(scores, (x) => (Number.isNaN(x) ? middle : Math.round(255 * share(x)))), colourTable(map), middle);
  const text = (x) => formatNumber(x, 3);
  drawLegend(legend, { map, caption: data.unit, ticks: most === 0 ? [[0.5, "all 0"]] : signed ? [[0, text(-most)], [0.5, "0"], [1, text(most)]] : [[0, "0"], [0.5, text(most / 2)], [1, text(most)]] });
  paintRow();
}

function paintRow() {
  if (!scores || R === 0) return;
  const stops = (signed ? DIVERGING : SEQUENTIAL)[themeName()];
  const colours = data.tokens.map(() => null);
  COLUMNS.forEach((t, j) => {
    const x = scores[row * C + j];
    if (x !== 0 && !Number.isNaN(x)) colours[t] = colourAt(stops, share(x));
  });
  strip.shade(colours);
  strip.select(ROWS[row]);
  heat.select(row, null);
  caption.textContent = `Sources of target ${name(ROWS[row])}`;
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
  for (const x of scores) { if (Math.abs(x) > most) most = Math.abs(x); if (x < 0) signed = true; }
  paint();
  root.dataset.ready = "1";
})().catch((error) => { readout.textContent = error.message; });

return {
  show(selection) { if (Number.isInteger(selection.token)) setTarget(selection.token); },
  theme() { paint(); heat.redraw(); },
  destroy() { destroyed = true; unwatch(); },
};
