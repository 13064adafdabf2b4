// One number per head, coloured; roles of heads; layer importance; most read tokens. Needs _common.js.

const LAYERS = data.layers, HEADS = data.heads, TOP = 12;
const LAYER_NAMES = data.layer_names.map(visibleText), TITLES = data.layer_names.map(layerTitle);
const chipName = (l, h) => (/^\d+$/.test(LAYER_NAMES[l]) ? `L${l} H${h}` : `${LAYER_NAMES[l]} H${h}`);
const BY_NAME = new Map(data.metrics.map((metric) => [metric.name, metric]));
const GROUPS = ["effect", "null"];  // metrics that say more about another one
const PARTNERS = new Map();  // name -> {effect, null}: what is said more about this metric
for (const metric of data.metrics) if (metric.group) PARTNERS.set(metric.base, { ...PARTNERS.get(metric.base), [metric.group]: metric });
const ROLES = data.roles.map((role) => ({ ...role, title: visibleText(role.title) }));
const ROLES_AT = new Map();  // "layer.head" -> its roles
for (const role of ROLES) for (const [l, h] of role.heads) ROLES_AT.set(`${l}.${h}`, [...rolesAt(l, h), role]);
const BADGES = 2;  // initials in one cell; of more roles the number is shown
const state = { metric: data.metrics[0].name, layer: null, head: null, tokensOf: "all" };
let received = null, destroyed = false;

root.classList.add("av-view", "av-map");
const title = make("h3", { class: "av-title" });
const readout = make("p", { class: "av-readout", role: "status", "aria-live": "polite" });
const legend = make("div", { class: "av-legend" });
const roleKey = buildRoleKey();
const frame = make("div", { class: "av-map-frame" });
const cells = [];
const grid = buildGrid();
frame.append(grid);
const tip = tooltip(frame);
const side = make("section", { class: "av-side", "aria-label": "The chosen head, layers and tokens" });
const headBox = make("div", { class: "av-block" });
const chips = [];
const roleBox = buildRoles();
const layerBox = make("div", { class: "av-block" });
const tokenBox = make("div", { class: "av-block" });
side.append(...[headBox, roleBox, layerBox, tokenBox].filter(Boolean));
root.append(
  make("div", { class: "av-columns" },
    make("section", { "aria-label": "All heads" },
      make("div", { class: "av-bar" }, title, metricChoice()),
      ...[frame, readout, legend, roleKey].filter(Boolean)),
    side),
  notes(data.info, data.warnings));

function metricChoice() {
  const own = data.metrics.filter((metric) => !metric.group);
  const control = choice("Colour", own.map((m) => [m.name, m.title]), state.metric, (value) => { state.metric = value; paint(); });
  const select = control.querySelector("select");
  for (const group of GROUPS) {
    const members = data.metrics.filter((metric) => metric.group === group);
    if (!members.length) continue;
    select.append(make("optgroup", { label: group[0].toUpperCase() + group.slice(1) }, ...members.map((m) => make("option", { value: m.name }, BY_NAME.get(m.base).title))));
  }
  select.value = state.metric;
  return control;
}

// ------------------------------------------------------------------------------------------------ roles

function rolesAt(l, h) { return ROLES_AT.get(`${l}.${h}`) || []; }

function rolesText(l, h) { return rolesAt(l, h).map((role) => role.title).join(", "); }

function cellBadge(l, h) {  // initials, or null for a head without a role
  const roles = rolesAt(l, h);
  if (!roles.length) return null;
  const shown = roles.length > BADGES ? [roles[0].short, `+${roles.length - 1}`] : roles.map((role) => role.short);
  return make("span", { class: "av-initials" }, shown.join(" "));
}

function buildRoleKey() {
  if (!ROLES.length) return null;
  const key = make("ul", { class: "av-role-key", "aria-label": "Initials of roles" });
  const entry = (short, text) => key.append(make("li", {}, make("span", { class: "av-initials" }, short), make("span", { class: "av-role-name" }, text)));
  for (const role of ROLES) entry(role.short, role.title);
  if ([...ROLES_AT.values()].some((roles) => roles.length > BADGES)) entry("+2", "and so many more roles");
  return key;
}

function buildRoles() {
  if (!ROLES.length) return null;
  const list = make("ul", { class: "av-roles", "aria-label": "Labelled heads" });
  for (const role of ROLES) {
    const measured = BY_NAME.get(role.name);
    const row = make("ul", { class: "av-chips", "aria-label": role.title });
    for (const [l, h] of role.heads) {
      const number = measured ? measured.values[l][h] : null;
      const chip = make("button", { type: "button", class: "av-chip", "aria-pressed": "false", "aria-label": `${TITLES[l]}, head ${h}${number === null ? "" : `: ${formatNumber(number)} ${measured.unit}`}`, onclick: () => pick(l, h) },
        chipName(l, h), number === null ? null : make("span", { class: "av-unit" }, shortNumber(number)));
      chip.dataset.at = `${l}.${h}`;
      chips.push(chip);
      row.append(make("li", {}, chip));
    }
    list.append(make("li", {}, make("div", { class: "av-role-head" }, make("span", { class: "av-initials" }, role.short), make("span", { class: "av-role-name" }, role.title), make("span", { class: "av-unit" }, String(role.heads.length))), row));
  }
  const measured = ROLES.some((role) => BY_NAME.has(role.name));
  return make("div", { class: "av-block" }, make("h3", { class: "av-title" }, "Labelled heads"),
    make("p", { class: "av-caption" }, `${plural(ROLES_AT.size, "head")} of ${LAYERS * HEADS}${measured ? ", strongest first, with the score of the role" : ""}. Click one to select it.`), list);
}

// ------------------------------------------------------------------------------------------------ the map

function buildGrid() {
  const element = make("div", { class: "av-map-grid", role: "grid", "aria-label": `${plural(LAYERS, "layer")} by ${plural(HEADS, "head")}. Arrow keys move, Enter selects the head.` });
  element.style.gridTemplateColumns = `auto repeat(${HEADS}, minmax(${ROLES.length ? 22 : 13}px, 58px))`;  // room for initials
  const header = make("div", { class: "av-row", role: "row" }, make("span", { role: "columnheader", class: "av-name" }, ""));
  for (let h = 0; h < HEADS; h++) header.append(make("span", { role: "columnheader", class: "av-name", "aria-label": `Head ${h}` }, String(h)));
  element.append(header);
  for (let l = 0; l < LAYERS; l++) {
    const row = make("div", { class: "av-row", role: "row" }, make("span", { role: "rowheader", class: "av-name av-name-row", "aria-label": TITLES[l] }, LAYER_NAMES[l]));
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
    tip.show([`${TITLES[l]} · Head ${h}`, valueText(l, h), ...rolesAt(l, h).map((role) => `Role: ${role.title}`)], inner.left - outer.left + inner.width / 2, inner.top - outer.top + inner.height / 2);
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

function missingText(l, h) {  // a head that any metric measures has attention; this metric has just nothing to say of it
  return data.metrics.every((metric) => metric.values[l][h] === null) ? "no attention" : "no value";
}

function valueText(l, h) {
  const { title: name, unit } = BY_NAME.get(state.metric), number = value(state.metric, l, h);
  if (number !== null) return `${name} ${formatNumber(number)} (${unit})`;
  const why = missingText(l, h);
  return why === "no attention" ? why : `${name}: ${why}`;
}

function describe(l, h) {
  const roles = rolesAt(l, h);
  return `${TITLES[l]}, head ${h}: ${valueText(l, h)}${roles.length ? `; ${roles.length > 1 ? "roles" : "role"}: ${rolesText(l, h)}` : ""}`;
}

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
    const content = [number === null ? "" : shortNumber(number), cellBadge(l, h)].filter(Boolean);
    cell.classList.toggle("av-labelled", rolesAt(l, h).length > 0);
    cell.replaceChildren(...content);
    if (number === null) { cell.style.backgroundColor = cell.style.color = ""; continue; }
    const colour = colourAt(map[themeName()], span[1] > span[0] ? (number - span[0]) / (span[1] - span[0]) : 0.5);
    cell.style.backgroundColor = cssColour(colour);
    cell.style.color = inkOn(colour);
  }
  if (span) {
    const ticks = span[1] > span[0] ? [0, 0.5, 1].map((t) => [t, formatNumber(span[0] + t * (span[1] - span[0]), 3)]) : [[0.5, formatNumber(span[0], 3)]];
    drawLegend(legend, { map, ticks, caption: `${metric.title}, ${metric.unit}; ${span[2] ? "both ways from zero to the largest size of all heads" : "least to most of all heads"}` });
  } else legend.replaceChildren();
  const missing = new Set();
  for (let l = 0; l < LAYERS; l++) for (let h = 0; h < HEADS; h++) if (metric.values[l][h] === null) missing.add(missingText(l, h));
  if (missing.size) legend.append(make("span", { class: "av-legend-caption av-key" }, make("span", { class: "av-none av-swatch" }), [...missing].sort().join(" or ")));
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
  const { layer, head } = state, list = make("dl", { class: "av-facts" });
  if (ROLES.length) list.append(make("div", { class: "av-wide" }, make("dt", {}, "roles"), make("dd", {}, rolesText(layer, head) || "none")));
  for (const metric of data.metrics) {
    if (metric.group || PARTNERS.has(metric.name)) continue;
    const number = metric.values[layer][head];
    list.append(make("div", {}, make("dt", {}, metric.title), make("dd", {}, number === null ? missingText(layer, head) : `${formatNumber(number)} `, number === null ? null : make("span", { class: "av-unit" }, metric.unit))));
  }
  headBox.replaceChildren(...[make("h3", { class: "av-title" }, `${TITLES[layer]} · Head ${head}`), list, partnerTable(layer, head)].filter(Boolean));
}

function partnerTable(layer, head) {  // metrics with an effect or a null, or null where there are none
  if (!PARTNERS.size) return null;
  const used = GROUPS.filter((group) => data.metrics.some((metric) => metric.group === group));
  const rows = [...PARTNERS].map(([name, more]) => [BY_NAME.get(name), ...used.map((group) => more[group] || null)]);
  const columns = ["score", ...used].map((name, j) => {
    const units = new Set(rows.map((row) => row[j]).filter(Boolean).map((metric) => metric.unit));
    return { name, unit: units.size === 1 ? [...units][0] : null };  // said once where it is the same in all rows
  });
  const top = make("tr", {}, make("td", {}), ...columns.map(({ name, unit }) => make("th", { scope: "col" }, name, unit === null ? null : make("span", { class: "av-unit" }, unit))));
  const body = rows.map((row) => make("tr", {}, make("th", { scope: "row" }, row[0].title), ...row.map((metric, j) => {
    if (!metric) return make("td", {});
    const number = metric.values[layer][head];
    if (number === null) return make("td", { class: "av-unit" }, missingText(layer, head));
    return make("td", {}, formatNumber(number), columns[j].unit === null ? make("span", { class: "av-unit" }, ` ${metric.unit}`) : null);
  })));
  return make("table", { class: "av-partners" }, make("thead", {}, top), make("tbody", {}, ...body));
}

function paintLayers() {
  if (!data.layer_importance) { layerBox.hidden = true; return; }
  const rows = data.layer_importance.map((number, l) => ({
    name: TITLES[l], number, text: number === null ? "no attention" : formatNumber(number),
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
  const one = state.tokensOf === "all" ? null : Number(state.tokensOf);
  const unread = one === null ? 0 : scores.filter((score) => score === null).length;  // of another stack, or left out
  const where = one === null ? "mean of the layers that have the token as a key" : `${TITLES[one]}${unread ? ` (${plural(unread, "token")} of the run ${unread === 1 ? "is no key" : "are no keys"} of it)` : ""}`;
  const sinks = data.sinks.length ? `Sinks: ${data.sinks.map((k) => `${k} “${shorten(visibleText(data.tokens[k]), 16)}”`).join(", ")}` : "No sink was found.";
  tokenBox.replaceChildren(
    make("h3", { class: "av-title" }, "Most read tokens"),
    make("p", { class: "av-caption" }, `Received attention, ${where}; the line at 1 = as from a uniform head. ${sinks}`),
    rows.length ? bars("Most read tokens", rows, most, 1) : make("p", { class: "av-caption" }, "This layer has no attention, or reads no token."));
}

function setHead(layer, head) {
  if (!Number.isInteger(layer) || !Number.isInteger(head) || !cells[layer] || !cells[layer][head]) return;
  if (state.layer !== null) cells[state.layer][state.head].setAttribute("aria-selected", "false");
  state.layer = layer;
  state.head = head;
  cells[layer][head].setAttribute("aria-selected", "true");
  for (const chip of chips) chip.setAttribute("aria-pressed", String(chip.dataset.at === `${layer}.${head}`));
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
