// Logit lens: positions across, sites upwards; the top predictions of one position; trajectories of pinned ones.
// Needs _common.js, _heat.js.

const SITES = data.sites, POSITIONS = data.positions, N = SITES.length, P = POSITIONS.length, TOP = data.top, LAST = N - 1;
const TRACE_COLOURS = {   // after Okabe & Ito: told apart by colour-blind people too; dashes differ as well
  light: ["#0072b2", "#d55e00", "#00805c", "#a8497f", "#a06c00", "#3f8fc4"],
  dark: ["#56b4e9", "#ff8a4a", "#2fc79a", "#e39ac4", "#f0b63c", "#8fd0ff"],
};
const TRACE_DASHES = ["", "6 3", "2 3", "8 3 2 3", "12 3", "4 2"];
const lastKnown = data.target_ids.reduce((last, id, p) => (id >= 0 ? p : last), P - 1);
const state = { column: lastKnown, colour: "probability", words: true, pinned: [] };
const numbers = {};
let destroyed = false;

root.classList.add("av-view", "av-lens");

const at = (s, p) => s * P + p;
const label = (id) => data.labels[String(id)];
const probability = (s, p, k = 0) => Math.exp(numbers.top_logprobs[at(s, p) * TOP + k]);
const topId = (s, p, k = 0) => numbers.top_ids[at(s, p) * TOP + k];
const targetProbability = (s, p) => (data.target_ids[p] < 0 ? null : Math.exp(numbers.target_logprob[at(s, p)]));
const rank = (s, p) => (data.target_ids[p] < 0 ? null : numbers.target_rank[at(s, p)]);
const percentText = (share) => (share === null || Number.isNaN(share) ? "no value" : share > 0 && share < 0.0001 ? `${(share * 100).toExponential(1)} %` : `${(share * 100).toFixed(2)} %`);
const quoted = (text) => `“${visibleText(text)}”`;
const rankText = (r) => (r === null ? "no target" : r === 0 ? "rank 0 (top)" : `rank ${r}`);

// Each colour: the share of the colour range, the ticks of the legend, the caption
const COLOURS = {
  probability: { text: "probability of the top token", share: (s, p) => probability(s, p), ticks: () => [[0, "0"], [0.25, "25 %"], [0.5, "50 %"], [0.75, "75 %"], [1, "100 %"]] },
  target: { text: "probability of the target", share: (s, p) => targetProbability(s, p), ticks: () => [[0, "0"], [0.25, "25 %"], [0.5, "50 %"], [0.75, "75 %"], [1, "100 %"]] },
  entropy: { text: "entropy (bits)", share: (s, p) => numbers.entropy[at(s, p)] / (most.entropy || 1), ticks: () => [0, 0.5, 1].map((t) => [t, (t * most.entropy).toFixed(1)]) },
  kl: { text: "KL(model‖lens) (bits)", share: (s, p) => numbers.kl_model_lens[at(s, p)] / (most.kl || 1), ticks: () => [0, 0.5, 1].map((t) => [t, (t * most.kl).toFixed(1)]) },
  rank: { text: "rank of the target (strong = near the top)", share: (s, p) => (rank(s, p) === null ? null : 1 - Math.log10(rank(s, p) + 1) / (Math.log10(most.rank + 1) || 1)), ticks: () => (most.rank === 0 ? [[1, "0"]] : [[1, "0"], [0.5, String(Math.round(10 ** (Math.log10(most.rank + 1) / 2) - 1))], [0, String(most.rank)]]) },
};
const most = { entropy: 0, kl: 0, rank: 0 };

// ------------------------------------------------------------------------------------------------ skeleton

const columnNames = POSITIONS.map((p) => data.tokens[p]);
const nextNames = data.target_ids.map((id) => (id < 0 ? "–" : label(id)));
const rowSite = (i) => LAST - i;   // the model on top
const readout = make("p", { class: "av-readout", role: "status", "aria-live": "polite" });
const legend = make("div", { class: "av-legend" });
const boundary = data.generated_from === null ? -1 : POSITIONS.findIndex((p) => p + 1 >= data.generated_from);

const heat = heatMap({
  rows: N, columns: P,
  rowLabels: SITES.map((_, i) => SITES[rowSite(i)]),
  columnLabels: columnNames, columnNumbers: POSITIONS,
  footers: nextNames, columnTitle: "target",
  label: "Logit lens: rows are sites from the model down to the first, columns are positions",
  cellSize: (room) => (state.words ? { width: 78, height: 25 } : { width: Math.max(2, Math.min(HEAT.largestCell, room.width / P)), height: Math.max(6, Math.min(20, room.height / N)) }),
  cellText: (i, p) => label(topId(rowSite(i), p)),
  describe: (i, p) => describeCell(rowSite(i), p),
  onCursor: (lines) => { readout.textContent = lines.join(" · "); },
  onPick: (_, p) => pick(p),
  onZoom: (...zoom) => zoomer.update(...zoom),
  boundary: { column: boundary > 0 ? boundary : null },
});
const zoomer = zoomControl(heat);
const modes = ["words", "heat map"].map((name, i) => make("button", { type: "button", class: "av-button", "aria-pressed": String(i === 0), onclick: () => setMode(i === 0) }, name));
function setMode(words) {
  state.words = words;
  modes.forEach((button, i) => button.setAttribute("aria-pressed", String((i === 0) === words)));
  heat.zoom(100);
  heat.reveal(0, state.column);
}

const list = make("section", { class: "av-predictions", "aria-label": "Predictions of the chosen position", "aria-live": "off" });
const traces = make("section", { class: "av-traces", "aria-label": "Trajectories of the target" });
root.append(
  make("div", { class: "av-columns av-lens-columns" },
    make("section", { "aria-label": "Grid" },
      make("div", { class: "av-bar" }, make("h3", { class: "av-title" }, "Top prediction of each site"), selfCheck()),
      make("div", { class: "av-controls av-lens-controls" },
        choice("Colour", Object.entries(COLOURS).map(([name, c]) => [name, c.text]), state.colour, (value) => { state.colour = value; paint(); }),
        make("span", { class: "av-control", role: "group", "aria-label": "Cells show" }, make("span", {}, "Cells"), ...modes),
        zoomer.element),
      heat.element, readout, legend, traces),
    list),
  notes(data.info, data.warnings));

function selfCheck() {
  const { ok, max_abs_diff: difference, kl } = data.self_check;
  const text = `${ok ? "✓ self-check" : "✗ self-check failed"}: max |difference| ${difference === null ? "not known" : difference.toExponential(1)}`;
  return make("span", { class: `av-check ${ok ? "av-check-ok" : "av-check-bad"}`, role: ok ? "note" : "alert", title: `Last row against the model's own logits; KL ${kl === null ? "not known" : kl.toExponential(1)} bits` }, text);
}

// ------------------------------------------------------------------------------------------------ the grid

function paint() {
  const colour = COLOURS[state.colour], cells = new Uint8Array(N * P);
  for (let i = 0; i < N; i++) for (let p = 0; p < P; p++) {
    const share = colour.share(rowSite(i), p);
    cells[i * P + p] = share === null || Number.isNaN(share) ? 0 : Math.round(255 * Math.max(0, Math.min(1, share)));
  }
  heat.setCells(cells, colourTable(SEQUENTIAL));
  drawLegend(legend, { map: SEQUENTIAL, ticks: colour.ticks(), caption: colour.text });
}

function describeCell(s, p) {
  const position = POSITIONS[p];
  const lines = [`${SITES[s]}, position ${position} ${quoted(data.tokens[position])}`, `${quoted(label(topId(s, p)))} ${percentText(probability(s, p))}`];
  if (data.target_ids[p] >= 0) lines.push(`target ${quoted(label(data.target_ids[p]))} ${percentText(targetProbability(s, p))}, ${rankText(rank(s, p))}`);
  lines.push(`entropy ${formatNumber(numbers.entropy[at(s, p)], 3)} bits, KL ${formatNumber(numbers.kl_model_lens[at(s, p)], 3)} bits`);
  return lines;
}

function headline(p) {
  const next = POSITIONS[p] + 1;
  return next < data.tokens.length ? `Before token ${next} ${quoted(data.tokens[next])} was read` : "After the last token";
}

// ------------------------------------------------------------------------------------------------ one position

function paintList() {
  const p = state.column, position = POSITIONS[p], target = data.target_ids[p];
  const pinned = state.pinned.includes(p);
  const head = make("div", { class: "av-predictions-head" },
    make("div", { class: "av-bar" }, make("h3", { class: "av-title" }, headline(p)),
      make("button", { type: "button", class: "av-button", "aria-pressed": String(pinned), onclick: () => pin(p) }, pinned ? "Pinned" : "Pin")),
    make("p", { class: "av-caption" }, `Position ${position}, having read ${quoted(data.tokens[position])}. ${settles(p)}`),
    target < 0 ? make("p", { class: "av-caption" }, "No target: no token follows.")
      : make("p", { class: "av-caption" }, `Target ${quoted(label(target))}: ${percentText(targetProbability(LAST, p))}, log-probability ${formatNumber(numbers.target_logprob[at(LAST, p)], 3)} nats, ${rankText(rank(LAST, p))} in the model.`));
  const sites = make("ol", { class: "av-sites", tabindex: "0", "aria-label": "Sites from the model down to the first" });
  for (let s = LAST; s >= 0; s--) sites.append(siteBlock(s, p, target));
  list.replaceChildren(head, sites);
}

function settles(p) {
  const site = data.settles_at[p], five = data.settles_in_top5[p];
  const name = (s) => (s >= 0 && s < N ? SITES[s] : null);
  const first = name(site), near = name(five);
  if (first === null) return "";
  return `Its top token settles at ${first}${near !== null && five < site ? ` (among the top 5 from ${near})` : ""}.`;
}

function siteBlock(s, p, target) {
  const rows = make("ul", { class: "av-guesses" });
  for (let k = 0; k < TOP; k++) {
    const id = topId(s, p, k), share = probability(s, p, k), hit = id === target;
    const fill = make("span", { class: "av-guess-fill" });
    fill.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
    rows.append(make("li", { class: hit ? "av-guess av-hit" : "av-guess", title: `id ${id}, ${percentText(share)}${hit ? ", the target" : ""}` },
      make("span", { class: "av-guess-name" }, visibleText(label(id))),
      make("span", { class: "av-guess-track", "aria-hidden": "true" }, fill),
      make("span", { class: "av-guess-share" }, percentText(share)),
      hit ? make("span", { class: "av-sr" }, "the target") : null));
  }
  const about = target < 0 ? null : `target ${percentText(targetProbability(s, p))} · ${rankText(rank(s, p))}`;
  const settled = data.settles_at[p] === s;
  return make("li", { class: settled ? "av-site av-settled" : "av-site" },
    make("div", { class: "av-site-head" }, make("strong", {}, SITES[s]), settled ? make("span", { class: "av-badge" }, "settles here") : null, make("span", { class: "av-site-about" }, about)),
    rows);
}

// ------------------------------------------------------------------------------------------------ trajectories

const SVG = "http://www.w3.org/2000/svg";
function svg(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function pin(p) {
  state.pinned = state.pinned.includes(p) ? state.pinned.filter((q) => q !== p) : [...state.pinned, p].slice(-TRACE_DASHES.length);
  paintList();
  paintTraces();
}

function drawnTraces() {  // pinned positions, else the chosen one
  return (state.pinned.length ? state.pinned : [state.column]).filter((p) => data.target_ids[p] >= 0);
}

function paintTraces() {
  const drawn = drawnTraces();
  const title = make("h3", { class: "av-title" }, "Probability of the target, site by site");
  if (!drawn.length) { traces.replaceChildren(title, make("p", { class: "av-caption" }, "No token follows this position.")); return; }
  const width = Math.max(280, traces.clientWidth || 560), height = 168, left = 44, right = 12, top = 10, bottom = 28;
  const x = (s) => left + (N > 1 ? s / LAST : 0.5) * (width - left - right);
  const y = (share) => top + (1 - share) * (height - top - bottom);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", tabindex: "0", class: "av-trace", "aria-label": `Probability of the target at ${N} sites. Arrow keys read the values.` });
  for (const share of [0, 0.5, 1]) {
    picture.append(svg("line", { x1: left, x2: width - right, y1: y(share), y2: y(share), class: "av-grid-line" }));
    picture.append(svg("text", { x: left - 6, y: y(share) + 4, class: "av-axis", "text-anchor": "end" }, `${share * 100} %`));
  }
  const step = Math.max(1, Math.ceil(N / Math.max(2, Math.floor((width - left - right) / 78))));
  for (let s = LAST; s >= 0; s -= step) picture.append(svg("text", { x: x(s), y: height - 8, class: "av-axis", "text-anchor": s === LAST && N > 1 ? "end" : s === 0 ? "start" : "middle" }, shorten(SITES[s], 12)));
  const marker = svg("line", { y1: top, y2: height - bottom, class: "av-marker", visibility: "hidden" });
  picture.append(marker);
  drawn.forEach((p) => {
    const i = traceIndex(p);
    const points = SITES.map((_, s) => `${x(s).toFixed(1)},${y(targetProbability(s, p)).toFixed(1)}`).join(" ");
    picture.append(svg("polyline", { points, fill: "none", stroke: TRACE_COLOURS[themeName()][i], "stroke-width": "2", "stroke-dasharray": TRACE_DASHES[i], "stroke-linejoin": "round" }));
  });
  const values = make("p", { class: "av-readout av-trace-values", role: "status", "aria-live": "polite" });
  let site = LAST;
  const tell = (s) => {
    site = Math.max(0, Math.min(LAST, s));
    marker.setAttribute("x1", x(site));
    marker.setAttribute("x2", x(site));
    marker.setAttribute("visibility", "visible");
    values.textContent = `${SITES[site]}: ${drawn.map((p) => `${quoted(label(data.target_ids[p]))} ${percentText(targetProbability(site, p))}`).join(" · ")}`;
  };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    tell(Math.round(((event.clientX - box.left) * width / box.width - left) / (width - left - right) * LAST));
  });
  picture.addEventListener("focus", () => tell(site));
  picture.addEventListener("keydown", (event) => {
    if (!(event.key in ARROWS)) return;
    event.preventDefault();
    const [down, across] = ARROWS[event.key];
    tell(site + across - down);
  });
  const legendBox = make("div", { class: "av-trace-legend" });
  for (const p of drawn) {
    const line = svg("svg", { width: 26, height: 10, "aria-hidden": "true" });
    line.append(svg("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: TRACE_COLOURS[themeName()][traceIndex(p)], "stroke-width": "2.5", "stroke-dasharray": TRACE_DASHES[traceIndex(p)] }));
    const name = `${POSITIONS[p] + 1} ${quoted(label(data.target_ids[p]))}`;
    legendBox.append(make("span", { class: "av-trace-name" }, line, make("span", {}, name),
      state.pinned.includes(p) ? make("button", { type: "button", class: "av-unpin", "aria-label": `Unpin ${name}`, title: "Unpin", onclick: () => pin(p) }, "×") : null));
  }
  const hint = state.pinned.length ? null : make("p", { class: "av-caption" }, "Pin positions to compare them.");
  traces.replaceChildren(title, legendBox, picture, values, ...(hint ? [hint] : []));
}

const traceIndex = (p) => Math.max(0, state.pinned.indexOf(p));

// ------------------------------------------------------------------------------------------------ choosing

function setColumn(p) {
  state.column = p;
  heat.select(null, p);
  heat.reveal(0, p);
  paintList();
  paintTraces();
  root.dataset.column = String(POSITIONS[p]);
}

function pick(p) {
  setColumn(p);
  if (POSITIONS[p] + 1 < data.tokens.length) host.select({ token: POSITIONS[p] + 1 });
}

const unwatch = onWidth(heat.element, () => {
  if (!numbers.top_ids) return;
  heat.redraw();
  paintTraces();
});
let wanted = null;   // a selection that came before the numbers were unpacked
(async () => {
  const names = ["top_logprobs", "entropy", "kl_model_lens", "target_logprob", "top_ids", "target_rank"];
  const arrays = await Promise.all(names.map((name) => unpack(data[name])));
  if (destroyed) return;
  names.forEach((name, i) => { numbers[name] = arrays[i]; });
  for (const value of numbers.entropy) if (value > most.entropy) most.entropy = value;
  for (const value of numbers.kl_model_lens) if (value > most.kl) most.kl = value;
  for (const value of numbers.target_rank) if (value > most.rank) most.rank = value;
  paint();
  setColumn(state.column);
  if (wanted) follow(wanted);
  root.dataset.ready = "1";
})().catch((error) => { readout.textContent = error.message; });

function follow(selection) {
  if (!Number.isInteger(selection.token)) return;
  const p = POSITIONS.indexOf(selection.token - 1);
  if (p >= 0) { if (p !== state.column) setColumn(p); return; }
  readout.textContent = selection.token === 0
    ? "Nothing is read before token 0, so nothing predicts it."
    : `The prediction of token ${selection.token} is not in this view: position ${selection.token - 1} was not asked for.`;
}

return {
  show(selection) {
    if (numbers.top_ids) follow(selection); else wanted = { ...selection };
  },
  theme() { if (numbers.top_ids) { paint(); heat.redraw(); paintTraces(); } },
  destroy() { destroyed = true; unwatch(); },
};
