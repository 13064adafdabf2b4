"use strict";
// Shared by every script view. Each view's script is the body of a function (root, data, host); this part comes first.
// Text reaches the page only as text nodes and attribute values, never as markup.

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// A label with its invisible characters made visible. Marks that reorder or hide text are spelt out.
const INVISIBLE = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
function visibleText(label) {
  if (label === "") return "∅";
  return String(label)
    .replace(/\n/g, "⏎").replace(/\r/g, "␍").replace(/\t/g, "⇥")
    .replace(INVISIBLE, (c) => "⟨U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩")
    .replace(/^ +| +$/g, (spaces) => "·".repeat(spaces.length));
}

function shorten(text, length) {
  const characters = Array.from(text);
  return characters.length <= length ? text : characters.slice(0, length - 1).join("") + "…";
}

function formatNumber(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "no value";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.5 * 10 ** -digits || size >= 1e6)) return value.toExponential(2);
  return value.toFixed(size >= 1000 ? 1 : digits);
}

// ------------------------------------------------------------------------------------------------ packed arrays

const ARRAY_TYPES = { uint8: Uint8Array, uint16: Uint16Array, int32: Int32Array, float32: Float32Array };

async function unpack(packed) {
  const planes = await host.inflate(packed.z);
  const ArrayType = ARRAY_TYPES[packed.dtype];
  const size = ArrayType.BYTES_PER_ELEMENT;
  const count = planes.length / size;
  const expected = packed.shape.reduce((product, length) => product * length, 1);
  if (count !== expected) throw new Error(`Packed array: expected ${expected} numbers, got ${count}.`);
  const bytes = new Uint8Array(planes.length);
  for (let plane = 0; plane < size; plane++) {
    const from = plane * count;
    for (let i = 0; i < count; i++) bytes[i * size + plane] = planes[from + i];
  }
  return new ArrayType(bytes.buffer);
}

// ------------------------------------------------------------------------------------------------ colours

// Lightness changes in one direction along each map, so that order survives every kind of colour blindness.
const SEQUENTIAL = {
  light: [[255, 255, 255], [254, 232, 178], [249, 161, 76], [203, 62, 52], [96, 14, 70]],
  dark: [[20, 22, 31], [76, 28, 100], [180, 54, 96], [249, 147, 66], [255, 246, 196]],
};
const DIVERGING = {
  light: [[8, 64, 140], [92, 160, 214], [250, 250, 250], [246, 164, 90], [158, 62, 6]],
  dark: [[170, 214, 255], [52, 120, 200], [30, 33, 43], [206, 104, 28], [255, 208, 148]],
};

function themeName() { return host.dark() ? "dark" : "light"; }

function colourAt(stops, share) {
  const place = Math.min(1, Math.max(0, share)) * (stops.length - 1);
  const below = Math.min(stops.length - 2, Math.floor(place));
  return stops[below].map((from, i) => Math.round(from + (stops[below + 1][i] - from) * (place - below)));
}

function colourTable(map) {  // 256 colours as the 32-bit pixels of ImageData
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const [red, green, blue] = colourAt(map[themeName()], i / 255);
    table[i] = 0xff000000 | (blue << 16) | (green << 8) | red;
  }
  return table;
}

function cssColour([red, green, blue]) { return `rgb(${red} ${green} ${blue})`; }

function inkOn([red, green, blue]) {  // black or white, whichever contrasts more
  const linear = [red, green, blue].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return luminance > 0.179 ? "#111111" : "#ffffff";
}

function themeColour(variable) {  // the colour a CSS variable stands for here
  const probe = make("span");
  probe.style.color = `var(${variable})`;
  root.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

function themeFont(variable) {
  const probe = make("span");
  probe.style.fontFamily = `var(${variable})`;
  root.append(probe);
  const family = getComputedStyle(probe).fontFamily;
  probe.remove();
  return family || "sans-serif";
}

// A colour bar. ticks: [[share 0..1, text], …]
function drawLegend(container, { map, ticks, caption }) {
  const bar = make("span", { class: "av-legend-bar", "aria-hidden": "true" });
  const stops = [];
  for (let i = 0; i <= 16; i++) stops.push(cssColour(colourAt(map[themeName()], i / 16)));
  bar.style.background = `linear-gradient(to right, ${stops.join(",")})`;
  const scale = make("span", { class: "av-legend-scale" });
  for (const [share, text] of ticks) {
    const tick = make("span", {}, text);
    tick.style.left = `${share * 100}%`;
    scale.append(tick);
  }
  container.replaceChildren(
    make("span", { class: "av-legend-caption" }, caption),
    make("span", { class: "av-legend-body" }, bar, scale));
}

// ------------------------------------------------------------------------------------------------ controls and notes

function choice(label, options, value, onChange) {  // options: [[value, text], …]
  const select = make("select", { onchange: () => onChange(select.value) });
  for (const [name, text] of options) select.append(make("option", { value: name }, text));
  select.value = value;
  return make("label", { class: "av-control" }, make("span", {}, label), select);
}

function notes(info, warnings) {
  const box = make("div", { class: "av-notes" });
  for (const line of warnings || []) box.append(make("p", { class: "av-warning", role: "note" }, line));
  for (const line of info || []) box.append(make("p", { class: "av-info" }, line));
  return box;
}

// Layers have names: "3", or "encoder 3" where there are several stacks; with a capital at the beginning of a line.
function layerTitle(name) {
  return /^\d+$/.test(name) ? `Layer ${name}` : visibleText(name[0].toUpperCase() + name.slice(1));
}

function plural(count, word) { return `${count} ${word}${count === 1 ? "" : "s"}`; }

// A small box beside the pointer. `within` is its positioned ancestor.
function tooltip(within) {
  const box = make("div", { class: "av-tip", "aria-hidden": "true" });
  box.hidden = true;
  within.append(box);
  return {
    show(lines, x, y) {
      box.replaceChildren(...lines.map((line) => make("div", {}, line)));
      box.hidden = false;
      const left = Math.max(0, Math.min(x + 14, within.clientWidth - box.offsetWidth - 2));
      const top = y + 18 + box.offsetHeight > within.clientHeight ? y - box.offsetHeight - 10 : y + 18;
      box.style.left = `${left}px`;
      box.style.top = `${top}px`;
    },
    hide() { box.hidden = true; },
  };
}

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
