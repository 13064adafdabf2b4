// Attention of every head as a small picture, and of one head at full size. Needs _common.js, _tokens.js, _heat.js.

const TRANSFORMS = {
  log10: { text: "log₁₀", share: (w) => (w <= 1e-4 ? 0 : 1 + Math.log10(w) / 4), ticks: [[1e-4, "≤ 10⁻⁴"], [1e-3, "10⁻³"], [1e-2, "0.01"], [0.1, "0.1"], [1, "1"]] },
  sqrt: { text: "√ (square root)", share: Math.sqrt, ticks: [[0, "0"], [0.01, "0.01"], [0.1, "0.1"], [0.4, "0.4"], [1, "1"]] },
  power: { text: "power 0.3", share: (w) => w ** 0.3, ticks: [[0, "0"], [0.001, "0.001"], [0.03, "0.03"], [0.25, "0.25"], [1, "1"]] },
  linear: { text: "linear", share: (w) => w, ticks: [[0, "0"], [0.25, "0.25"], [0.5, "0.5"], [0.75, "0.75"], [1, "1"]] },
};
const TOKENS = data.tokens, COUNT = TOKENS.length, LAYERS = data.layers, HEADS = data.heads;

// Weights come as codes with a fixed number of decimals: 6 below 0.0001, 5 below 0.001, 4 above (see attention_grid.py).
const WEIGHTS = new Float64Array(10200);
for (let code = 0; code < WEIGHTS.length; code++) {
  WEIGHTS[code] = code <= 100 ? code / 1e6 : code <= 190 ? (code - 90) / 1e5 : (code - 180) / 1e4;
}
function weightText(code) {
  if (code === 0) return "less than 0.000001";
  return WEIGHTS[code].toFixed(code >= 190 ? 4 : code > 100 ? 5 : 6);
}

const state = { layer: data.head.layer, head: data.head.head, token: COUNT - 1, transform: data.transform, withoutFirst: false, strip: "reads" };
const seen = new Map();    // "layer.head" -> decoded head; a second visit asks nobody
let shown = null;          // the head on the canvas
let newest = 0;            // the latest request; answers to older ones are dropped
let destroyed = false;

const keyOf = (layer, head) => `${layer}.${head}`;
const layerName = (layer) => layerTitle(data.layer_names[layer]);
const nameOf = (layer, head) => `${layer === "mean" ? "Mean of all layers" : layerName(layer)} · ${head === "mean" ? "mean of heads" : `Head ${head}`}`;
const quote = (i) => `${i} “${visibleText(TOKENS[i])}”`;

// A head as it is drawn. Everything outside its arrays goes by the position of a token in the run: queries lie in
// rows [start, stop), keys in columns [start, stop). Of a large map the codes are the largest weight of each block of
// tokens, and patches hold the exact ones of the windows that were looked at.
async function decode(packed) {
  const [codes, sink, focus, received, rest, window_] = await Promise.all(
    [packed.codes, packed.sink, packed.focus, packed.received, packed.rest, packed.window].map((array) => (array ? unpack(array) : null)));
  const { layer, head, rows, columns, causal, block } = packed;
  return {
    layer, head, rows, columns, causal, block, patches: [], codes, sink, focus, received, rest, window: window_,
    first: new Set(packed.first_tokens), info: [...packed.info, packed.precision], warnings: packed.warnings,
    height: rows[1] - rows[0], width: columns[1] - columns[0],
    at: (q, k) => (q - rows[0]) * (columns[1] - columns[0]) + k - columns[0],
    isQuery: (t) => t >= rows[0] && t < rows[1],
    isKey: (t) => t >= columns[0] && t < columns[1],
  };
}

// ------------------------------------------------------------------------------------------------ skeleton

root.classList.add("av-view", "av-attention");
const title = make("h3", { class: "av-title" });
const problem = make("p", { class: "av-problem", role: "alert" });
problem.hidden = true;
const readout = make("p", { class: "av-readout", role: "status", "aria-live": "polite" });
const legend = make("div", { class: "av-legend" });
const stripCaption = make("p", { class: "av-caption" });
const noteBox = make("div");

const heatHome = make("div");
let heat = null;           // the heat map of the shapes and tokens in heat.spans
function heatOf(shown) {
  const { rows, columns, sink } = shown, spans = JSON.stringify([rows, columns, sink !== null, shown.block]);
  if (heat && heat.spans === spans) return;
  const [firstQuery, firstKey] = [rows[0], columns[0]];
  const boundary = ([start, stop]) => (data.generated_from > start && data.generated_from < stop ? data.generated_from - start : null);
  const numbers = ([start, stop]) => Array.from({ length: stop - start }, (_, i) => start + i);
  heat = heatMap({
    rows: shown.height, columns: shown.width, rowLabels: TOKENS.slice(...rows), columnLabels: TOKENS.slice(...columns),
    rowNumbers: numbers(rows), columnNumbers: numbers(columns),
    label: `Attention of one head: rows are queries, columns are keys${sink ? "; the last column is a learned sink" : ""}`,
    rowTitle: "focus", columnTitle: "received",
    boundary: { row: boundary(rows), column: boundary(columns) },
    beside: sink ? { name: "learned sink", short: "sink", describe: (i) => describeSink(firstQuery + i) } : null,
    describe: (i, j) => describeCell(firstQuery + i, firstKey + j),
    describeRow: (i) => describeQuery(firstQuery + i),
    describeColumn: (j) => describeKey(firstKey + j),
    onCursor: (lines) => { readout.textContent = lines.join(" · "); },
    onPick: (i) => pickToken(firstQuery + i),
    onZoom: (...zoom) => zoomer.update(...zoom),
    onWindow: shown.block > 1 && !host.offline ? (rowsSeen, columnsSeen) => wantWindow(rowsSeen.map((i) => firstQuery + i), columnsSeen.map((j) => firstKey + j)) : null,
  });
  heat.spans = spans;
  heatHome.replaceChildren(heat.element);
}
const zoomer = zoomControl({ percent: () => heat.percent(), zoom: (percent) => heat.zoom(percent), enlarge: () => heat.enlarge() });
const strip = tokenStrip({
  tokens: TOKENS, segments: data.segments, generatedFrom: data.generated_from,
  onPick: pickToken,
  describe: describeToken,
  onFocus: (i) => { readout.textContent = describeToken(i); },
});
strip.element.classList.add("av-short");

const firstBox = make("input", { type: "checkbox", onchange: () => { state.withoutFirst = firstBox.checked; paint(); } });
const firstControl = make("label", { class: "av-control av-check", title: "Leaves out the first token and divides each row by what remains" }, firstBox, make("span", {}, "without first token"));

const thumbnailCells = new Map();   // "layer.head" -> {button, canvas, offset}
const picker = buildPicker();
const detail = make("section", { class: "av-detail", "aria-label": "One head at full size" },
  make("div", { class: "av-bar" }, title,
    make("div", { class: "av-controls" },
      choice("Colour", Object.entries(TRANSFORMS).map(([name, t]) => [name, t.text]), state.transform, (value) => { state.transform = value; paint(); }),
      firstControl, zoomer.element)),
  problem, heatHome, readout, legend,
  make("div", { class: "av-bar av-strip-bar" }, stripCaption,
    choice("Shade", [["reads", "what the token reads"], ["read_by", "who reads the token"]], state.strip, (value) => { state.strip = value; paintStrip(); paintSelection(); })),
  strip.element);
root.append(make("div", { class: "av-columns" }, picker, detail), noteBox);

function buildPicker() {
  const grid = make("div", { class: "av-heads", role: "grid", "aria-label": `Heads: ${plural(LAYERS, "layer")} by ${plural(HEADS, "head")}. Arrow keys move, Enter opens.` });
  grid.style.gridTemplateColumns = `auto repeat(${HEADS}, minmax(14px, 38px))`;
  const header = make("div", { class: "av-row", role: "row" }, make("span", { class: "av-corner", role: "columnheader" }, ""));
  for (let h = 0; h < HEADS; h++) header.append(make("span", { class: "av-column-name", role: "columnheader", "aria-label": `Head ${h}` }, String(h)));
  grid.append(header);
  for (let l = 0; l < LAYERS; l++) {
    const row = make("div", { class: "av-row", role: "row" }, make("span", { class: "av-row-name", role: "rowheader", "aria-label": layerName(l) }, visibleText(data.layer_names[l])));
    const reason = data.missing[l];
    if (reason !== undefined) {
      const gap = make("span", { class: "av-missing", role: "gridcell", title: reason }, `no attention: ${reason}`);
      gap.style.gridColumn = `2 / span ${HEADS}`;
      row.append(gap);
    } else {
      for (let h = 0; h < HEADS; h++) {
        const canvas = make("canvas", { "aria-hidden": "true" });
        const button = make("button", { type: "button", role: "gridcell", class: "av-head", tabindex: "-1", "aria-selected": "false", "aria-label": `${layerName(l)}, head ${h}`, title: nameOf(l, h) }, canvas);
        button.dataset.layer = l;
        button.dataset.head = h;
        thumbnailCells.set(keyOf(l, h), { button, canvas, layer: l, head: h });
        row.append(button);
      }
    }
    grid.append(row);
  }
  const place = (event) => {
    const button = event.target.closest(".av-head");
    return button && !button.disabled ? [Number(button.dataset.layer), Number(button.dataset.head)] : null;
  };
  grid.addEventListener("click", (event) => { const at = place(event); if (at) pickHead(...at); });
  grid.addEventListener("keydown", (event) => {
    const at = place(event);
    if (!at || !(event.key in ARROWS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const [down, across] = ARROWS[event.key];
    let [l, h] = at;
    for (let tries = 0; tries < LAYERS * HEADS; tries++) {  // past layers without attention
      l = (l + down + LAYERS) % LAYERS;
      h = (h + across + HEADS) % HEADS;
      const next = thumbnailCells.get(keyOf(l, h));
      if (next && !next.button.disabled) { next.button.focus(); pickHead(l, h); return; }
    }
  });
  return make("section", { class: "av-picker", "aria-label": "All heads" },
    make("div", { class: "av-bar" }, make("h3", { class: "av-title" }, "All heads"), make("span", { class: "av-caption" }, "layer ↓  head →")),
    make("div", { class: "av-heads-scroll" }, grid),
    make("p", { class: "av-caption" }, `Small pictures: √ of the largest weight in each block; queries downwards, keys to the right${data.thumbnail_sizes ? "; longer sides are more tokens" : ""}.`));
}

// ------------------------------------------------------------------------------------------------ painting

let thumbnails = null;

function paintThumbnails() {
  const [, , height, width] = data.thumbnails.shape, table = colourTable(SEQUENTIAL);
  for (const { button, canvas, layer, head } of thumbnailCells.values()) {
    const [rows, columns] = data.thumbnail_sizes ? data.thumbnail_sizes[layer] : [height, width];
    const image = new ImageData(columns, rows), pixels = new Uint32Array(image.data.buffer);
    const from = (layer * HEADS + head) * height * width;
    let any = 0;
    for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) {
      const value = thumbnails[from + i * width + j];
      any |= value;
      pixels[i * columns + j] = table[value];
    }
    canvas.width = columns;
    canvas.height = rows;
    canvas.getContext("2d").putImageData(image, 0, 0);
    if (!any) {  // rows sum to 1, so an empty picture means that the layer has fewer heads
      button.disabled = true;
      button.title = `${layerName(layer)} has no head ${head}`;
      button.setAttribute("aria-label", button.title);
    }
  }
}

function whyHidden(q, k) {  // null where the query sees the key
  if (!shown.isQuery(q)) return `token ${q} is no query of this layer`;
  if (!shown.isKey(k)) return `token ${k} is no key of this layer`;
  if (shown.causal && k > q) return "not visible: the key comes after the query";
  const seen = windowAt(q, k);
  if (seen === 0) return "not visible: the key lies outside the window of this layer";
  return data.sinks.includes(k) ? "left out as a sink" : null;
}

function patchAt(q, k) {
  return shown.patches.find(({ rows, columns }) => q >= rows[0] && q < rows[1] && k >= columns[0] && k < columns[1]) || null;
}

const inPatch = ({ rows, columns }, q, k) => (q - rows[0]) * (columns[1] - columns[0]) + k - columns[0];

function codeAt(q, k) {  // null where only the largest of its block is known
  if (shown.block === 1) return shown.codes[shown.at(q, k)];
  const patch = patchAt(q, k);
  return patch && patch.codes[inPatch(patch, q, k)];
}

function windowAt(q, k) {  // 1 = seen, 0 = outside, null = not known or no window
  if (shown.block === 1) return shown.window && shown.window[shown.at(q, k)];
  const patch = patchAt(q, k);
  return patch && patch.window && patch.window[inPatch(patch, q, k)];
}

function blockAt(q, k) {  // the block a weight lies in: its tokens, and the code of its largest weight
  const { block, rows, columns, width } = shown;
  const [i, j] = [Math.floor((q - rows[0]) / block), Math.floor((k - columns[0]) / block)];
  const span = (first, at, stop) => `${first + at * block}–${Math.min(stop, first + (at + 1) * block) - 1}`;
  return { queries: span(rows[0], i, rows[1]), keys: span(columns[0], j, columns[1]), code: shown.codes[i * Math.ceil(width / block) + j] };
}

const withoutFirst = () => state.withoutFirst && shown.first.size > 0;

function ofRest(value, q) {  // the share of what remains of the row without its first tokens
  const rest = shown.rest[q - shown.rows[0]];
  return rest > 0 ? Math.min(1, value / rest) : 0;
}

function weight(q, k) {  // null where it is not known
  const code = codeAt(q, k);
  if (code === null) return null;
  const value = WEIGHTS[code];
  if (!withoutFirst()) return value;
  return shown.first.has(k) ? 0 : ofRest(value, q);
}

function sinkWeight(q) {
  const value = WEIGHTS[shown.sink[q - shown.rows[0]]];
  return withoutFirst() ? ofRest(value, q) : value;
}

function paint() {
  if (!shown) return;
  heatOf(shown);
  const { share, ticks } = TRANSFORMS[state.transform], [top, left] = [shown.rows[0], shown.columns[0]];
  const level = (w) => Math.round(255 * share(Math.min(1, w)));
  const cells = new Uint8Array(shown.codes.length), shades = Uint8Array.from(WEIGHTS, level);
  if (withoutFirst()) {
    for (let i = 0, at = 0; i < shown.height; i++) for (let j = 0; j < shown.width; j++, at++) cells[at] = level(weight(top + i, left + j));
  } else {
    for (let at = 0; at < cells.length; at++) cells[at] = shades[shown.codes[at]];
  }
  heat.setBars({ values: shown.focus }, { values: shown.received, reference: 1 });
  heat.setBeside(shown.sink && Uint8Array.from(shown.sink, (_, i) => level(sinkWeight(top + i))));
  heat.setPatches(shown.patches.map(({ rows, columns, codes }) => ({
    row: rows[0] - top, column: columns[0] - left, rows: rows[1] - rows[0], columns: columns[1] - columns[0],
    shade: Uint8Array.from(codes, (code) => shades[code]),
  })));
  heat.setCells(cells, colourTable(SEQUENTIAL), 0, shown.block);
  const first = [...shown.first].join(", ");
  const removed = withoutFirst() ? `, without token ${first}, rows renormalised` : "";
  drawLegend(legend, { map: SEQUENTIAL, ticks: ticks.map(([w, text]) => [share(w), text]), caption: `attention weight, ${TRANSFORMS[state.transform].text} scale${removed}` });
  firstControl.hidden = shown.first.size === 0;
  paintStrip();
  paintSelection();
  title.textContent = nameOf(shown.layer, shown.head);
  const remarks = shown.block > 1 ? [ofBlocks()] : withoutFirst() ? [`Token ${first} is left out and each row divided by what remains; computed in the page from rounded weights.`] : [];
  noteBox.replaceChildren(notes([...shown.info, ...remarks], shown.warnings));
}

function ofBlocks() {
  const { block, height, width } = shown, exact = host.offline
    ? "The file does not hold the exact ones: save fewer rows, or a CSV."
    : "Zoom in for the exact ones, which are fetched for what is in sight; those of the selected token are fetched at once.";
  return `${height} × ${width} weights: drawn is the largest of each block of ${block} × ${block} tokens. ${exact}`;
}

function paintStrip() {
  if (!shown) return;
  wantLine();
  const { share } = TRANSFORMS[state.transform], t = state.token;
  const reads = state.strip === "reads";
  strip.shade(TOKENS.map((_, i) => {
    const [q, k] = reads ? [t, i] : [i, t];
    const w = whyHidden(q, k) ? 0 : weight(q, k);
    return w > 0 ? colourAt(SEQUENTIAL[themeName()], share(w)) : null;
  }));
  const role = reads ? "query" : "key", isOne = reads ? shown.isQuery(t) : shown.isKey(t);
  const lacking = !isOne ? `; it is no ${role} of this layer` : lineKnown() ? "" : host.offline ? "; the file holds no single weights" : "; fetching its weights";
  stripCaption.textContent = `${reads ? "What token" : "Who reads token"} ${quote(t)}${reads ? " reads" : ""}${lacking}`;
}

function paintSelection() {
  strip.select(state.token);
  if (!heat) return;
  const t = state.token;
  if (state.strip === "reads") heat.select(shown.isQuery(t) ? t - shown.rows[0] : null, null);
  else heat.select(null, shown.isKey(t) ? t - shown.columns[0] : null);
}

function paintPicker() {
  for (const [key, { button }] of thumbnailCells) {
    const on = key === keyOf(state.layer, state.head);
    button.setAttribute("aria-selected", String(on));
    button.tabIndex = on ? 0 : -1;
  }
  if (!thumbnailCells.has(keyOf(state.layer, state.head))) {
    const first = [...thumbnailCells.values()].find(({ button }) => !button.disabled);
    if (first) first.button.tabIndex = 0;
  }
}

function describeCell(q, k) {
  const lines = [`query ${quote(q)} → key ${quote(k)}`];
  const hidden = whyHidden(q, k);
  if (hidden) return [...lines, hidden];
  const code = codeAt(q, k);
  if (code === null) {
    const around = blockAt(q, k);
    return [`queries ${around.queries} → keys ${around.keys}`, `largest weight ${weightText(around.code)}`];
  }
  if (withoutFirst()) {
    if (shown.first.has(k)) return [...lines, `left out (weight ${weightText(code)})`];
    return [...lines, `weight ≈ ${formatNumber(weight(q, k), 3)} of the rest (${weightText(code)} with the first token)`];
  }
  return [...lines, `weight ${weightText(code)}`];
}

function describeSink(q) {
  const code = shown.sink[q - shown.rows[0]];
  const share = withoutFirst() ? `≈ ${formatNumber(sinkWeight(q), 3)} of the rest (${weightText(code)} with the first token)` : weightText(code);
  return [`query ${quote(q)} → learned sink, no token`, `share ${share}`];
}

function describeQuery(q) {
  const i = q - shown.rows[0];
  const lines = [`query ${quote(q)}`, `focus ${formatNumber(shown.focus[i])}  (1 = one key, 0 = all keys alike)`];
  if (!shown.sink) return lines;
  const taken = WEIGHTS[shown.sink[i]];
  return [...lines, `tokens ${(1 - taken).toFixed(4)} + learned sink ${taken.toFixed(4)} = 1`];
}

function describeKey(k) {
  return [`key ${quote(k)}`, `received ${formatNumber(shown.received[k - shown.columns[0]])}  (1 = as from a uniform head)`];
}

function describeToken(i) {
  const name = `token ${quote(i)}`;
  if (!shown) return name;
  const [q, k] = state.strip === "reads" ? [state.token, i] : [i, state.token];
  const hidden = whyHidden(q, k);
  const known = hidden || codeAt(q, k) !== null ? hidden || describeCell(q, k)[1] : "weight not known";
  return `${name}: ${known}${state.strip === "reads" ? " from" : " on"} token ${state.token}`;
}

// ------------------------------------------------------------------------------------------------ parts of large maps

const PATCHES = 24;  // windows and lines that are kept of one head
const GRID = 64;     // windows begin and end at multiples of this, so that a small step needs nothing new

async function fetchPart(rows, columns) {
  const of = shown, key = JSON.stringify([rows, columns]);
  of.asked = of.asked || new Set();
  if (of.asked.has(key)) return;
  of.asked.add(key);
  try {
    const packed = await host.part({ rows, columns }, { layer: of.layer, head: of.head });
    const [codes, window_] = await Promise.all([packed.codes, packed.window].map((array) => (array ? unpack(array) : null)));
    of.patches.unshift({ rows, columns, codes, window: window_ });
    of.patches.length = Math.min(of.patches.length, PATCHES);
    if (shown === of && !destroyed) paint();
  } catch (error) {
    if (shown === of && !destroyed) { problem.textContent = `${nameOf(of.layer, of.head)}: ${error.message}`; problem.hidden = false; }
  } finally {
    of.asked.delete(key);
  }
}

function wantWindow(rows, columns) {
  if (isKnown(rows, columns)) return;
  const around = ([first, stop], [least, most]) => [
    Math.max(least, Math.floor(first / GRID) * GRID), Math.min(most, Math.ceil(stop / GRID) * GRID)];
  fetchPart(around(rows, shown.rows), around(columns, shown.columns));
}

function line() {  // of the map: what the selected token reads, or who reads it; null where it has none here
  const t = state.token;
  if (state.strip === "reads") return shown.isQuery(t) ? [[t, t + 1], shown.columns] : null;
  return shown.isKey(t) ? [shown.rows, [t, t + 1]] : null;
}

const isKnown = (rows, columns) => shown.patches.some((patch) =>
  patch.rows[0] <= rows[0] && patch.rows[1] >= rows[1] && patch.columns[0] <= columns[0] && patch.columns[1] >= columns[1]);
const lineKnown = () => shown.block === 1 || isKnown(...line());

function wantLine() {
  if (line() !== null && !lineKnown() && !host.offline) fetchPart(...line());
}

// ------------------------------------------------------------------------------------------------ choosing

async function open(layer, head) {
  const key = keyOf(layer, head), request = ++newest;
  state.layer = layer;
  state.head = head;
  paintPicker();
  problem.hidden = true;
  try {
    if (!seen.has(key)) {
      detail.setAttribute("aria-busy", "true");
      const inFile = data.every && data.every[layer] && data.every[layer][head];
      seen.set(key, await decode(inFile || await host.fetch({ layer, head })));
    }
    if (request !== newest || destroyed) return;
    shown = seen.get(key);
    paint();
    root.dataset.shown = key;
  } catch (error) {
    if (request !== newest || destroyed) return;
    problem.textContent = `${nameOf(layer, head)}: ${error.message}`;
    problem.hidden = false;
    if (shown) { state.layer = shown.layer; state.head = shown.head; paintPicker(); }
  } finally {
    if (request === newest) detail.removeAttribute("aria-busy");
  }
}

function pickHead(layer, head) {
  open(layer, head);
  host.select({ layer, head });
}

function setToken(t) {
  if (t === state.token || !(t >= 0 && t < COUNT)) return;
  state.token = t;
  paintStrip();
  paintSelection();
}

function pickToken(t) {
  setToken(t);
  host.select({ token: t });
}

// ------------------------------------------------------------------------------------------------ start

const unwatch = onWidth(heatHome, () => { if (shown) heat.redraw(); });
(async () => {
  thumbnails = await unpack(data.thumbnails);
  const first = await decode(data.head);
  if (destroyed) return;
  seen.set(keyOf(first.layer, first.head), first);
  paintThumbnails();
  if (newest === 0) await open(first.layer, first.head);
  root.dataset.ready = "1";
})().catch((error) => { problem.textContent = error.message; problem.hidden = false; });

let followed = null;  // the layer and head of the page that were last heard of
return {
  show(selection) {
    if (Number.isInteger(selection.token)) setToken(selection.token);
    const wanted = keyOf(selection.layer, selection.head);
    const news = wanted !== followed && (followed !== null || ![state.layer, state.head].includes("mean"));
    followed = wanted;
    if (news && wanted !== keyOf(state.layer, state.head) && thumbnailCells.has(wanted)) open(selection.layer, selection.head);
  },
  theme() {
    if (!thumbnails) return;
    paintThumbnails();
    paint();
    if (heat) heat.redraw();
  },
  destroy() { destroyed = true; unwatch(); },
};
