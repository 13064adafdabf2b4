// Features ranked by one method, the others beside it, maps of them, and what was measured. Needs _common.js, relations.js,
// readings.js and ranked_methods.js.

const NAMED = 40;  // rows of a map that are named beside it
const SHOWN = 30;  // features before "show all"
const NAMES = data.features.map(visibleText);
const state = { method: data.first, map: 0, all: false, chosen: null };
const cells = [];  // unpacked maps
let destroyed = false;

root.classList.add("av-view", "av-ranked");
const verdict = make("p", { class: "av-verdict" }, data.verdict);
const list = make("ol", { class: "av-ranked-list" });
const more = make("button", { class: "av-button", type: "button", onclick: () => { state.all = !state.all; paintBars(); } });
const readout = make("p", { class: "av-readout", role: "status", "aria-live": "polite" });
const beside = make("p", { class: "av-caption" });
const frame = make("div", { class: "av-ranked-frame" });
const canvas = make("canvas", { class: "av-ranked-map", role: "img", onpointermove: point, onpointerleave: () => { readout.textContent = ""; }, onclick: pick });
frame.append(canvas);
const legend = make("div", { class: "av-legend" });
const mapTitle = make("p", { class: "av-caption" });
const correlations = make("p", { class: "av-caption" });
correlations.textContent = data.correlations.length
  ? `Rank correlation (Spearman): ${data.correlations.map(([name, rho]) => `${name} ${rho === null ? "not known" : rho.toFixed(2)}`).join("; ")}.` : "";
const methods = data.methods.length > 1 && data.verdict ? methodsSection(data.methods, data.correlations, NAMES, choose) : null;
const readings = data.input ? readingsSection(data.input, NAMES, choose) : null;
const relations = data.relations ? relationsSection(data.relations, NAMES, choose) : null;
root.append(
  verdict,
  make("div", { class: "av-columns" },
    make("section", { "aria-label": "Ranked" },
      make("div", { class: "av-bar" }, make("h3", { class: "av-title" }, "Ranked"),
        choice("by", data.methods.map((m, i) => [String(i), m.title]), String(state.method), (value) => { state.method = Number(value); paintBars(); })),
      list, more, beside, correlations),
    make("section", { "aria-label": "Map" },
      make("div", { class: "av-bar" }, make("h3", { class: "av-title" }, "Map"),
        data.maps.length > 1 ? choice("of", data.maps.map((m, i) => [String(i), m.title]), "0", (value) => { state.map = Number(value); paintMap(); }) : null),
      mapTitle, frame, readout, legend)),
  make("div", { class: "av-columns" }, relations && relations.section, readings && readings.section),
  make("div", { class: "av-methods-home" }, methods && methods.section),
  notes(data.info, data.warnings));
if (!data.verdict) verdict.hidden = true;

// ------------------------------------------------------------------------------------------------ bars

function ranked(method) {  // [value, feature] of those that have a number, the largest first
  const known = method.values.map((value, i) => [value, i]).filter(([value]) => value !== null);
  return known.sort((a, b) => b[0] - a[0] || a[1] - b[1]);
}

function paintBeside() {  // what follows the ranking and the choice
  const ranking = ranked(data.methods[state.method]).map(([, i]) => i);
  if (methods) methods.paint(state.all ? ranking : ranking.slice(0, SHOWN), state.chosen);
  if (readings) readings.paint(state.chosen, ranking);
  if (relations) relations.paint(state.chosen);
}

function paintBars() {
  const method = data.methods[state.method];
  const known = ranked(method);
  paintBeside();
  const most = Math.max(...known.map(([value]) => value), ...(method.null || []).filter((x) => x !== null), 1e-12);
  const rows = state.all ? known : known.slice(0, SHOWN);
  list.replaceChildren(...rows.map(([value, i], rank) => bar(method, value, i, rank + 1, most)));
  more.hidden = known.length <= SHOWN;
  more.textContent = state.all ? `Show the first ${SHOWN}` : `Show all ${known.length}`;
  const missing = NAMES.length - known.length;
  const lines = [`${method.title}: ${method.unit}.`];
  if (method.null) lines.push("The mark on a bar is the same number of time-shuffled input.");
  if (missing) lines.push(method.why || `${missing} without a number are not listed.`);
  beside.textContent = lines.join(" ");
}

function bar(method, value, i, rank, most) {
  const track = make("span", { class: "av-ranked-track", "aria-hidden": "true" });
  const fill = make("span", { class: method.trusted ? "av-ranked-fill av-trusted" : "av-ranked-fill" });
  fill.style.width = `${Math.max(0, 100 * value / most)}%`;
  track.append(fill);
  const shuffled = method.null ? method.null[i] : null;
  if (shuffled !== null && shuffled !== undefined) {
    const mark = make("span", { class: "av-ranked-null" });
    mark.style.left = `${100 * shuffled / most}%`;
    track.append(mark);
  }
  const others = data.methods.map((m) => `${m.title} ${m.values[i] === null ? "no value" : formatNumber(m.values[i])}`).join(", ");
  const said = `${rank}. ${NAMES[i]}: ${others}`;
  return make("li", {}, make("button", {
    class: "av-ranked-row", type: "button", title: said, "aria-pressed": String(state.chosen === i),
    onclick: () => { choose(i); readout.textContent = said; },
  }, make("span", { class: "av-ranked-name" }, shorten(NAMES[i], 40)), track, make("span", { class: "av-ranked-number" }, formatNumber(value))));
}

function choose(i) {
  state.chosen = state.chosen === i ? null : i;
  host.select({ token: i });
  paintBars();
  paintMap();
}

// ------------------------------------------------------------------------------------------------ map

function sizes(map) {
  const [rows, columns] = map.cells.shape;
  const left = rows <= NAMED ? 122 : 0;  // room for the names of rows
  const wide = Math.max(1, Math.floor((Math.min(620, frame.clientWidth || 620) - left) / columns));
  return { rows, columns, left, wide: Math.min(wide, 44), high: Math.max(1, Math.min(Math.floor(480 / rows), 26)) };
}

function paintMap() {
  const map = data.maps[state.map], values = cells[state.map];
  if (!map || !values) { mapTitle.textContent = map ? "" : "There is no map."; return; }
  const { rows, columns, left, wide, high } = sizes(map);
  canvas.width = left + columns * wide;
  canvas.height = rows * high;
  const pen = canvas.getContext("2d"), stops = SEQUENTIAL[themeName()];
  let most = 0;
  for (const x of values) if (x > most) most = x;
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const value = values[r * columns + c];
      pen.fillStyle = Number.isNaN(value) ? themeColour("--border-color-primary") : cssColour(colourAt(stops, most ? Math.sqrt(Math.max(0, value) / most) : 0));
      pen.fillRect(left + c * wide, r * high, wide, high);
    }
  }
  pen.fillStyle = themeColour("--body-text-color");
  pen.font = `12px ${themeFont("--font")}`;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  if (left) for (let r = 0; r < rows; r++) pen.fillText(shorten(visibleText(map.rows[r]), 18), left - 6, (r + 0.5) * high, left - 8);
  pen.strokeStyle = themeColour("--color-accent");
  pen.lineWidth = 2;
  if (state.chosen !== null && map.feature_rows) pen.strokeRect(left + 1, state.chosen * high + 1, columns * wide - 2, Math.max(high - 2, 1));
  if (state.chosen !== null && map.feature_columns) pen.strokeRect(left + state.chosen * wide + 1, 1, Math.max(wide - 2, 1), canvas.height - 2);
  mapTitle.textContent = `${map.title}; rows: ${map.row_word}, columns: ${map.column_word}.`;
  canvas.setAttribute("aria-label", mapTitle.textContent);
  const text = (x) => formatNumber(x, 3);
  drawLegend(legend, { map: SEQUENTIAL, ticks: [[0, "0"], [0.5, text(most / 4)], [1, text(most)]], caption: `${map.unit} (√ scale)` });
}

function cellAt(event) {
  const map = data.maps[state.map];
  if (!map) return null;
  const { rows, columns, left, wide, high } = sizes(map), box = canvas.getBoundingClientRect();
  const c = Math.floor((event.clientX - box.left - left) / wide), r = Math.floor((event.clientY - box.top) / high);
  return r >= 0 && c >= 0 && r < rows && c < columns ? { map, r, c, columns } : null;
}

function point(event) {
  const at = cellAt(event);
  if (!at || !cells[state.map]) return;
  readout.textContent = `${visibleText(at.map.rows[at.r])} → ${visibleText(at.map.columns[at.c])}: ${formatNumber(cells[state.map][at.r * at.columns + at.c])} ${at.map.unit}`;
}

function pick(event) {
  const at = cellAt(event);
  if (at && at.map.feature_rows) choose(at.r);
}

(async () => {
  for (const map of data.maps) cells.push(await unpack(map.cells));
  if (readings) await readings.load();
  if (destroyed) return;
  paintBars();
  paintMap();
  root.dataset.ready = "1";
})().catch((error) => { readout.textContent = error.message; });

return {
  show(selection) {
    if (!Number.isInteger(selection.token) || selection.token >= NAMES.length || selection.token === state.chosen) return;
    state.chosen = selection.token;
    paintBars();
    paintMap();
  },
  theme() { paintMap(); paintBeside(); },
  destroy() { destroyed = true; },
};
