// One number per head, coloured; layer importance; most read tokens. Needs _common.js.

const LAYERS = data.layers, HEADS = data.heads, TOP = 12;
const BY_NAME = new Map(data.metrics.map((metric) => [metric.name, metric]));
const state = { metric: data.metrics[0].name, layer: null, head: null, tokensOf: "all" };
let received = null, destroyed = false;

root.classList.add("av-view", "av-map");
const title = make("h3", { class: "av-title" });
const readout = make("p", { class: "av-readout", role: "status", "aria-live": "polite" });
const legend = make("div", { class: "av-legend" });
const frame = make("div", { class: "av-map-frame" });
const cells = [];
const grid = buildGrid();
frame.append(grid);
const tip = tooltip(frame);
const side = make("section", { class: "av-side", "aria-label": "The chosen head, layers and tokens" });
const headBox = make("div", { class: "av-block" });
const layerBox = make("div", { class: "av-block" });
const tokenBox = make("div", { class: "av-block" });
side.append(headBox, layerBox, tokenBox);
root.append(
  make("div", { class: "av-columns" },
    make("section", { "aria-label": "All heads" },
      make("div", { class: "av-bar" }, title,
        choice("Colour", data.metrics.map((m) => [m.name, m.title]), state.metric, (value) => { state.metric = value; paint(); })),
      frame, readout, legend),
    side),
  notes(data.info, data.warnings));

function buildGrid() {
  const element = make("div", { class: "av-map-grid", role: "grid", "aria-label": `${plural(LAYERS, "layer")} by ${plural(HEADS, "head")}. Arrow keys move, Enter selects the head.` });
  element.style.gridTemplateColumns = `auto repeat(${HEADS}, minmax(13px, 58px))`;
  const header = make("div", { class: "av-row", role: "row" }, make("span", { role: "columnheader", class: "av-name" }, ""));
  for (let h = 0; h < HEADS; h++) header.append(make("span", { role: "columnheader", class: "av-name", "aria-label": `Head ${h}` }, String(h)));
  element.append(header);
  for (let l = 0; l < LAYERS; l++) {
    const row = make("div", { class: "av-row", role: "row" }, make("span", { role: "rowheader", class: "av-name av-name-row", "aria-label": `Layer ${l}` }, String(l)));
    cells.push([]);
    for (let h = 0; h < HEADS; h++) {
      const cell = make("button", { type: "button", role: "gridcell", class: "av-cell", tabindex: l + h ? "-1" : "0", "aria-selected": "false" });
      cell.dataset.layer = l;
      cell.dataset.head = h;
      cells[l].push(cell);
      row.append(cell);
    }
    element.append(row);
  }
  const place = (event) => {
    const cell = event.target.closest(".av-cell");
    return cell ? [Number(cell.dataset.layer), Number(cell.dataset.head), cell] : null;
  };
  const tell = (event) => {
    const at = place(event);
    if (!at) { tip.hide(); return; }
    const [l, h, cell] = at;
    readout.textContent = describe(l, h);
    const outer = frame.getBoundingClientRect(), inner = cell.getBoundingClientRect();
    tip.show([`Layer ${l} · Head ${h}`, valueText(l, h)], inner.left - outer.left + inner.width / 2, inner.top - outer.top + inner.height / 2);
  };
  element.addEventListener("pointerover", tell);
  element.addEventListener("pointerleave", () => tip.hide());
  element.addEventListener("focusin", (event) => {
    const at = place(event);
    if (!at) return;
    for (const row of cells) for (const cell of row) cell.tabIndex = -1;
    at[2].tabIndex = 0;
    tell(event);
  });
  element.addEventListener("focusout", () => tip.hide());
  element.addEventListener("click", (event) => { const at = place(event); if (at) pick(at[0], at[1]); });
  element.addEventListener("keydown", (event) => {
    const at = place(event);
    if (!at || !(event.key in ARROWS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const [down, across] = ARROWS[event.key];
    cells[(at[0] + down + LAYERS) % LAYERS][(at[1] + across + HEADS) % HEADS].focus();
  });
  return element;
}

const value = (name, l, h) => BY_NAME.get(name).values[l][h];

function valueText(l, h) {
  const { title: name, unit } = BY_NAME.get(state.metric), number = value(state.metric, l, h);
  return number === null ? "no attention" : `${name} ${formatNumber(number)} (${unit})`;
}

function describe(l, h) { return `Layer ${l}, head ${h}: ${valueText(l, h)}`; }

function range(name) {  // [low, high, signed] of the numbers there are
  const known = BY_NAME.get(name).values.flat().filter((x) => x !== null);
  if (!known.length) return null;
  const low = known.reduce((a, b) => Math.min(a, b)), high = known.reduce((a, b) => Math.max(a, b));
  if (low < 0) { const most = Math.max(-low, high); return [-most, most, true]; }
  return [low, high, false];
}

function paint() {
  const metric = BY_NAME.get(state.metric), span = range(state.metric);
  const map = span && span[2] ? DIVERGING : SEQUENTIAL;
  title.textContent = `${metric.title[0].toUpperCase()}${metric.title.slice(1)} of every head`;
  for (let l = 0; l < LAYERS; l++) for (let h = 0; h < HEADS; h++) {
    const cell = cells[l][h], number = metric.values[l][h];
    cell.classList.toggle("av-none", number === null);
    cell.setAttribute("aria-label", describe(l, h));
    if (number === null) { cell.style.backgroundColor = cell.style.color = ""; cell.textContent = ""; continue; }
    const colour = colourAt(map[themeName()], span[1] > span[0] ? (number - span[0]) / (span[1] - span[0]) : 0.5);
    cell.style.backgroundColor = cssColour(colour);
    cell.style.color = inkOn(colour);
    cell.textContent = shortNumber(number);
  }
  if (span) {
    const ticks = span[1] > span[0] ? [0, 0.5, 1].map((t) => [t, formatNumber(span[0] + t * (span[1] - span[0]), 3)]) : [[0.5, formatNumber(span[0], 3)]];
    drawLegend(legend, { map, ticks, caption: `${metric.title}, ${metric.unit}; least to most of all heads` });
  } else legend.replaceChildren();
  if (metric.values.flat().includes(null)) legend.append(make("span", { class: "av-legend-caption av-key" }, make("span", { class: "av-none av-swatch" }), "no attention"));
  paintHead();
}

function shortNumber(number) {
  const size = Math.abs(number);
  return size >= 100 ? number.toFixed(0) : size >= 10 ? number.toFixed(1) : number.toFixed(2);
}

// A list of bars: [[name, number or null, text, onPick or null, marked], …]
function bars(label, rows, most, reference) {
  const list = make("ul", { class: "av-bars", "aria-label": label });
  for (const { name, number, text, onPick, on, badge } of rows) {
    const bar = make("span", { class: "av-bar-fill" });
    bar.style.width = number === null ? "0" : `${Math.max(0, Math.min(1, number / most)) * 100}%`;
    const track = make("span", { class: "av-bar-track", "aria-hidden": "true" }, bar);
    if (reference) {
      const mark = make("span", { class: "av-bar-mark" });
      mark.style.left = `${reference / most * 100}%`;
      track.append(mark);
    }
    const content = [make("span", { class: "av-bar-name" }, make("span", { class: "av-bar-text" }, name), badge ? make("span", { class: "av-badge" }, badge) : null), track, make("span", { class: "av-bar-value" }, text)];
    const row = onPick
      ? make("button", { type: "button", class: "av-bar-row", "aria-pressed": String(Boolean(on)), "aria-label": `${name}: ${text}${badge ? `, ${badge}` : ""}`, onclick: onPick }, ...content)
      : make("div", { class: "av-bar-row" }, ...content);
    list.append(make("li", {}, row));
  }
  return list;
}

function paintHead() {
  if (state.layer === null || state.head === null || !cells[state.layer] || !cells[state.layer][state.head]) {
    headBox.replaceChildren(make("h3", { class: "av-title" }, "No head chosen"), make("p", { class: "av-caption" }, "Click a cell, or move with the arrow keys and press Enter."));
    return;
  }
  const list = make("dl", { class: "av-facts" });
  for (const metric of data.metrics) {
    const number = metric.values[state.layer][state.head];
    list.append(make("div", {}, make("dt", {}, metric.title), make("dd", {}, number === null ? "no attention" : `${formatNumber(number)} `, number === null ? null : make("span", { class: "av-unit" }, metric.unit))));
  }
  headBox.replaceChildren(make("h3", { class: "av-title" }, `Layer ${state.layer} · Head ${state.head}`), list);
}

function paintLayers() {
  if (!data.layer_importance) { layerBox.hidden = true; return; }
  const rows = data.layer_importance.map((number, l) => ({
    name: `Layer ${l}`, number, text: number === null ? "no attention" : formatNumber(number),
    on: state.tokensOf === String(l),
    onPick: received ? () => { state.tokensOf = state.tokensOf === String(l) ? "all" : String(l); paintLayers(); paintTokens(); } : null,
  }));
  layerBox.replaceChildren(make("h3", { class: "av-title" }, "Layer importance"), make("p", { class: "av-caption" }, `Mean focus of the layer's heads, 0 to 1.${received ? " Click a layer for its most read tokens." : ""}`), bars("Layer importance", rows, 1, 0));  // the whole scale
}

function paintTokens() {
  if (!received) { tokenBox.hidden = true; return; }
  const count = data.tokens.length;
  const layers = state.tokensOf === "all" ? [...Array(LAYERS).keys()] : [Number(state.tokensOf)];
  const scores = data.tokens.map((_, k) => {
    const known = layers.map((l) => received[l * count + k]).filter((x) => !Number.isNaN(x));
    return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
  });
  const order = [...scores.keys()].filter((k) => scores[k] !== null).sort((a, b) => scores[b] - scores[a] || a - b).slice(0, TOP);
  const rows = order.map((k) => ({
    name: `${k} ${shorten(visibleText(data.tokens[k]), 22)}`, number: scores[k], text: formatNumber(scores[k], 3),
    badge: data.sinks.includes(k) ? "sink" : null, onPick: () => host.select({ token: k }), on: host.selection.token === k,
  }));
  const most = rows.length ? Math.max(1, rows[0].number) : 1;
  const where = state.tokensOf === "all" ? "mean of all layers" : `layer ${state.tokensOf}`;
  const sinks = data.sinks.length ? `Sinks: ${data.sinks.map((k) => `${k} “${shorten(visibleText(data.tokens[k]), 16)}”`).join(", ")}` : "No sink was found.";
  tokenBox.replaceChildren(
    make("h3", { class: "av-title" }, "Most read tokens"),
    make("p", { class: "av-caption" }, `Received attention, ${where}; the line at 1 = as from a uniform head. ${sinks}`),
    rows.length ? bars("Most read tokens", rows, most, 1) : make("p", { class: "av-caption" }, "This layer has no attention."));
}

function setHead(layer, head) {
  if (!Number.isInteger(layer) || !Number.isInteger(head) || !cells[layer] || !cells[layer][head]) return;
  if (state.layer !== null) cells[state.layer][state.head].setAttribute("aria-selected", "false");
  state.layer = layer;
  state.head = head;
  cells[layer][head].setAttribute("aria-selected", "true");
  paintHead();
}

function pick(layer, head) {
  setHead(layer, head);
  host.select({ layer, head });
}

const resized = new ResizeObserver(() => grid.classList.toggle("av-with-numbers", cells.length > 0 && HEADS > 0 && cells[0][0].offsetWidth >= 34));
resized.observe(frame);
(async () => {
  if (data.received) received = await unpack(data.received);
  if (destroyed) return;
  paint();
  paintLayers();
  paintTokens();
  root.dataset.ready = "1";
})().catch((error) => { readout.textContent = error.message; });

return {
  show(selection) { setHead(selection.layer, selection.head); if (received) paintTokens(); },
  theme() { paint(); },
  destroy() { destroyed = true; resized.disconnect(); },
};
