// What was measured: a map of sensors over time in their own units, and the course of some of them. Needs relations.js.

const STRIPS = 3;  // sensors whose course is drawn where none is chosen

// input: {cells [sensor, step], units, usual}; choose(i): a sensor was clicked.
function readingsSection(input, names, choose) {
  const canvas = make("canvas", { class: "av-ranked-map", role: "img", "aria-label": "Measured values; rows: sensors, columns: time steps",
    onpointermove: point, onpointerleave: () => { readout.textContent = ""; }, onclick: (event) => { const at = cellAt(event); if (at) choose(at[0]); } });
  const frame = make("div", { class: "av-ranked-frame" }, canvas), readout = make("p", { class: "av-readout", "aria-live": "polite" });
  const strips = make("div", { class: "av-relations" }), legend = make("div", { class: "av-legend" }), caption = make("p", { class: "av-caption" });
  const section = make("section", { "aria-label": "Measured values" },
    make("div", { class: "av-bar" }, make("h3", { class: "av-title" }, "Measured values")), caption, frame, readout, legend, strips);
  const [rows, steps] = input.cells.shape, low = [], high = [];
  let values = null;
  const unit = (i) => (input.units[i] ? ` ${input.units[i]}` : "");
  const value = (row, step) => values[row * steps + step];
  const short = (x) => Number(x.toPrecision(5)).toString();

  function sizes() {
    const left = rows <= 40 ? 122 : 0, room = Math.min(620, frame.clientWidth || 620) - left;
    return { left, wide: Math.max(1, Math.min(44, Math.floor(room / steps))), high: Math.max(1, Math.min(Math.floor(480 / rows), 20)) };
  }

  function cellAt(event) {
    const { left, wide, high: tall } = sizes(), box = canvas.getBoundingClientRect();
    const step = Math.floor((event.clientX - box.left - left) / wide), row = Math.floor((event.clientY - box.top) / tall);
    return values && row >= 0 && step >= 0 && row < rows && step < steps ? [row, step] : null;
  }

  function point(event) {
    const at = cellAt(event);
    if (!at) return;
    const usual = input.usual ? `, usual ${short(input.usual[at[0]])}` : "";
    readout.textContent = `${names[at[0]]}, step ${at[1]}: ${short(value(...at))}${unit(at[0])}${usual}`;
  }

  function paintMap(chosen) {
    const { left, wide, high: tall } = sizes();
    canvas.width = left + steps * wide;
    canvas.height = rows * tall;
    const pen = canvas.getContext("2d"), stops = SEQUENTIAL[themeName()];
    for (let row = 0; row < rows; row++) {
      for (let step = 0; step < steps; step++) {
        const share = high[row] > low[row] ? (value(row, step) - low[row]) / (high[row] - low[row]) : 0.5;
        pen.fillStyle = cssColour(colourAt(stops, share));
        pen.fillRect(left + step * wide, row * tall, wide, tall);
      }
    }
    pen.fillStyle = themeColour("--body-text-color");
    pen.font = `12px ${themeFont("--font")}`;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    if (left) names.forEach((name, row) => pen.fillText(shorten(name, 18), left - 6, (row + 0.5) * tall, left - 8));
    if (chosen === null || chosen >= rows) return;
    pen.strokeStyle = themeColour("--color-accent");
    pen.lineWidth = 2;
    pen.strokeRect(left + 1, chosen * tall + 1, steps * wide - 2, Math.max(tall - 2, 1));
  }

  function strip(row) {
    const { svg, add, text } = drawing(440, 96, `${names[row]} over time`);
    const usual = input.usual ? input.usual[row] : null;
    const bottom = Math.min(low[row], usual ?? Infinity), top = Math.max(high[row], usual ?? -Infinity), span = top - bottom || 1;
    const x = (step) => 68 + 364 * step / Math.max(1, steps - 1), y = (number) => 80 - 58 * (number - bottom) / span;
    text(68, 12, `${shorten(names[row], 40)}${input.units[row] ? `, ${input.units[row]}` : ""}`, { class: "av-strong" });
    if (usual !== null) {
      add("line", { x1: 68, x2: 432, y1: y(usual), y2: y(usual), class: "av-uniform" }, `usual: ${short(usual)}${unit(row)}`);
    }
    const line = Array.from({ length: steps }, (_, step) => `${x(step).toFixed(1)},${y(value(row, step)).toFixed(1)}`);
    add("polyline", { points: line.join(" "), class: "av-course" });
    text(62, y(top) + 4, short(top), { "text-anchor": "end" });
    text(62, y(bottom) + 4, short(bottom), { "text-anchor": "end" });
    text(68, 94, "step 0", {});
    text(432, 94, `step ${steps - 1}`, { "text-anchor": "end" });
    return svg;
  }

  return {
    section,
    async load() {
      values = await unpack(input.cells);
      for (let row = 0; row < rows; row++) {
        const own = values.subarray(row * steps, (row + 1) * steps);
        low.push(Math.min(...own));
        high.push(Math.max(...own));
      }
    },
    paint(chosen, ranking) {
      if (!values) return;
      paintMap(chosen);
      const drawn = chosen !== null && chosen < rows ? [chosen] : ranking.filter((i) => i < rows).slice(0, STRIPS);
      strips.replaceChildren(...drawn.map(strip));
      caption.textContent = "Each row from its lowest to its highest value; point at a cell for the value in its own unit.";
      drawLegend(legend, { map: SEQUENTIAL, ticks: [[0, "lowest"], [1, "highest"]], caption: input.usual ? "of the sensor here; dotted below = usual" : "of the sensor here" });
    },
  };
}
