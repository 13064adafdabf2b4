// A heat map on a canvas of the size of its window: only what is visible is drawn, so zoom costs nothing.
// Needs _common.js.
//
//   heatMap({rows, columns, rowLabels, columnLabels, label, describe(i, j) -> [line, …], onPick(i, j), onCursor(lines),
//            boundary, rowTitle, columnTitle, describeRow(i), describeColumn(j), cellSize(room), cellText(i, j),
//            footers, rowNumbers, columnNumbers, beside, onWindow(rows, columns)})
//     -> {element, setCells(shade, table, centre, block), setPatches(patches), setBars(rowBars, columnBars),
//         setBeside(shade), select(row, column), zoom(percent), enlarge(), redraw(), percent()}
//
//   shade   Uint8Array [rows · columns], an index into table;  centre: 128 for a signed map, else 0
//   block   1, or the edge of the blocks of cells that one shade stands for
//   patches [{row, column, rows, columns, shade}, …]: where the shade of every cell is known, drawn over the blocks
//   onZoom    called with the zoom in percent, and whether the cells are tiny when all of the map is in sight
//   onWindow  called with [first, stop] of the rows and columns in sight when the cells are large enough to tell apart
//   bars    {values, reference} or null; NaN = no bar; column bars are drawn on a √ scale
//   boundary  {row, column}: where the answer begins, each a number or null
//   beside    {name, short, describe(i)}: one more column at the right, apart from the others, that is no column of the
//             matrix; setBeside gives its shades [rows], an index into table. The cursor reaches it as column `columns`.
//   cellSize  {width, height} of a cell at 100 %, given the room for all; without it cells are square and all fit
//   rowNumbers, columnNumbers  what stands at the axes where texts do not fit; without them 0, 1, 2 …
//   footers   a further name under each column

const HEAT = { tallest: 600, largestCell: 30, labelCell: 9, wideCell: 44, zooms: [20, 1000], readable: 12, apart: 2, tiny: 4, besideGap: 8, besideWidth: 18 };

function heatMap(options) {
  const { rows, columns, beside } = options;
  const besideRoom = beside ? HEAT.besideGap + HEAT.besideWidth : 0;
  const canvas = make("canvas", { "aria-hidden": "true" });
  const size = make("div", { class: "av-heat-size" }, canvas);
  const window_ = make("div", {
    class: "av-heat", tabindex: "0", role: "application", "aria-roledescription": "heat map",
    "aria-label": `${options.label}. Arrow keys move the cursor, Enter selects, plus and minus zoom.`,
  }, size);
  const element = make("div", { class: "av-heat-frame" }, window_);
  const tip = tooltip(element);
  const picture = document.createElement("canvas"), besidePicture = document.createElement("canvas");
  let besideShade = null, block = 1, patches = [], asking = null;
  let shade = null, table = null, centre = 0, percent = 100, cursor = null, chosen = { row: null, column: null };
  let rowBars = null, columnBars = null, box = null, pooled = null, colours = null, fonts = null;

  const rowNames = options.rowLabels.map((text) => shorten(visibleText(text), 14));
  const columnNames = options.columnLabels.map((text) => shorten(visibleText(text), 14));
  const footNames = (options.footers || []).map((text) => shorten(visibleText(text), 14));

  function widest(names, font) {
    const pen = canvas.getContext("2d");
    pen.font = font;
    return names.reduce((most, name) => Math.max(most, pen.measureText(name).width), 0);
  }

  function layout() {
    colours = { ink: themeColour("--body-text-color"), faint: themeColour("--body-text-color-subdued"), accent: themeColour("--color-accent"), line: themeColour("--border-color-primary"), paper: themeColour("--background-fill-primary") };
    fonts = { mono: themeFont("--font-mono"), text: themeFont("--font") };
    const width = window_.clientWidth || element.clientWidth || 480;
    const right = (rowBars ? 46 : 10) + besideRoom, bottom = columnBars ? 44 : footNames.length ? 26 : 10;
    const labelFont = `12px ${fonts.mono}`;
    const fit = (left, top) => {
      const room = { width: width - left - right, height: HEAT.tallest - top - bottom };
      const square = Math.min(HEAT.largestCell, room.width / columns, room.height / rows);
      const base = options.cellSize ? options.cellSize(room) : { width: square, height: square };
      return { width: base.width * percent / 100, height: base.height * percent / 100 };
    };
    const least = columnBars || footNames.length ? 54 : 30;
    const above = beside ? [...columnNames, beside.name] : columnNames;
    const named = { left: Math.max(least, widest(rowNames, labelFont) + 14), top: Math.max(22, widest(above, labelFont) + 12) };
    const plain = { left: columnBars ? 54 : 40, top: 22 };
    let gutters = named, cell = fit(named.left, named.top);
    let rowsNamed = cell.height >= HEAT.labelCell, columnsNamed = cell.width >= HEAT.labelCell;
    if (!rowsNamed || !columnsNamed || cell.width >= HEAT.wideCell) {
      gutters = { left: rowsNamed ? named.left : plain.left, top: columnsNamed && cell.width < HEAT.wideCell ? named.top : plain.top };
      cell = fit(gutters.left, gutters.top);
      const below = HEAT.labelCell - 0.01;  // the narrower margin must not bring the names back
      if (!rowsNamed) cell.height = Math.min(cell.height, below);
      if (!columnsNamed) cell.width = Math.min(cell.width, below);
      if (!options.cellSize) cell.width = cell.height = Math.min(cell.width, cell.height);
    }
    const total = { width: gutters.left + columns * cell.width + right, height: gutters.top + rows * cell.height + bottom };
    const wide = total.width > width + 1;
    const height = Math.min(total.height, HEAT.tallest) + (wide ? 16 : 0);
    window_.style.height = `${Math.ceil(height)}px`;
    size.style.width = wide ? `${total.width}px` : "100%";
    size.style.height = `${Math.floor(total.height)}px`;
    box = { ...gutters, right, bottom, cell, rowsNamed, columnsNamed, width: window_.clientWidth, height: Math.min(window_.clientHeight, Math.ceil(total.height)), total };
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(box.width * ratio);
    canvas.height = Math.round(box.height * ratio);
    canvas.style.width = `${box.width}px`;
    canvas.style.height = `${box.height}px`;
    if (options.onZoom) options.onZoom(percent, Math.min(cell.width, cell.height) * 100 / percent < HEAT.tiny);
  }

  function paintPicture() {  // one pixel per shade, or per block of shades where they are smaller than pixels
    const ratio = window.devicePixelRatio || 1;
    const down = Math.max(1, Math.ceil(1 / (box.cell.height * block * ratio) - 0.01));
    const across = Math.max(1, Math.ceil(1 / (box.cell.width * block * ratio) - 0.01));
    if (pooled && pooled.down === down && pooled.across === across) return;
    pooled = { down, across };
    paintPixels(picture, shade, Math.ceil(rows / block), Math.ceil(columns / block), down, across);
    if (besideShade) paintPixels(besidePicture, besideShade, rows, 1, down * block, 1);
  }

  function paintPixels(onto, shades, height, width, down, across) {  // shades [height, width]
    onto.width = Math.ceil(width / across);
    onto.height = Math.ceil(height / down);
    const image = new ImageData(onto.width, onto.height);
    const pixels = new Uint32Array(image.data.buffer);
    if (down === 1 && across === 1) {
      for (let i = 0; i < pixels.length; i++) pixels[i] = table[shades[i]];
    } else {  // the strongest cell of a block stands for it, so that thin lines survive
      const strongest = new Uint8Array(pixels.length).fill(centre);
      for (let i = 0; i < height; i++) {
        const line = Math.floor(i / down) * onto.width;
        for (let j = 0; j < width; j++) {
          const at = line + Math.floor(j / across), value = shades[i * width + j];
          if (Math.abs(value - centre) > Math.abs(strongest[at] - centre)) strongest[at] = value;
        }
      }
      for (let i = 0; i < pixels.length; i++) pixels[i] = table[strongest[i]];
    }
    onto.getContext("2d").putImageData(image, 0, 0);
  }

  const xOf = (j) => box.left + j * box.cell.width - window_.scrollLeft;
  const yOf = (i) => box.top + i * box.cell.height - window_.scrollTop;
  const areaRight = () => Math.min(box.width - box.right, xOf(columns));
  const besideLeft = () => areaRight() + HEAT.besideGap;
  const areaBottom = () => Math.min(box.height - box.bottom, yOf(rows));

  function draw() {
    if (!shade || !box) return;
    paintPicture();
    const ratio = window.devicePixelRatio || 1;
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, box.width, box.height);
    pen.save();
    pen.beginPath();
    pen.rect(box.left, box.top, areaRight() - box.left, areaBottom() - box.top);
    pen.clip();
    pen.imageSmoothingEnabled = false;
    pen.drawImage(picture, xOf(0), yOf(0), picture.width * pooled.across * block * box.cell.width, picture.height * pooled.down * block * box.cell.height);
    drawPatches(pen, ratio);
    if (options.cellText && box.cell.width >= 28 && box.cell.height >= 13) drawTexts(pen);
    drawMarks(pen);
    pen.restore();
    pen.strokeStyle = colours.line;
    pen.lineWidth = 1;
    pen.strokeRect(box.left - 0.5, box.top - 0.5, areaRight() - box.left + 1, areaBottom() - box.top + 1);
    drawNames(pen);
    if (besideShade) drawBeside(pen);
    if (rowBars) drawRowBars(pen);
    if (columnBars) drawColumnBars(pen);
    askForWindow();
  }

  function drawPatches(pen, ratio) {  // where a cell has a pixel of its own
    const { cell } = box;
    if (Math.min(cell.width, cell.height) * ratio < 1) return;
    for (const patch of patches) {
      if (!patch.picture) {
        patch.picture = document.createElement("canvas");
        paintPixels(patch.picture, patch.shade, patch.rows, patch.columns, 1, 1);
      }
      pen.drawImage(patch.picture, xOf(patch.column), yOf(patch.row), patch.columns * cell.width, patch.rows * cell.height);
    }
  }

  function askForWindow() {  // once nothing has moved for a moment
    if (!options.onWindow || Math.min(box.cell.width, box.cell.height) < HEAT.apart) return;
    clearTimeout(asking);
    asking = setTimeout(() => { if (element.isConnected) options.onWindow(visibleRows(), visibleColumns()); }, 120);
  }

  function edge(pen, x, y, width, height, colour, thickness) {
    pen.strokeStyle = colour;
    pen.lineWidth = thickness;
    pen.strokeRect(x, y, width, height);
  }

  const cursorColour = () => (host.dark() ? "#ffffff" : "#000000");

  function drawBeside(pen) {
    const left = besideLeft(), wide = HEAT.besideWidth, { cell } = box;
    pen.save();
    pen.beginPath();
    pen.rect(left, box.top, wide, areaBottom() - box.top);
    pen.clip();
    pen.imageSmoothingEnabled = false;
    pen.drawImage(besidePicture, left, yOf(0), wide, besidePicture.height * pooled.down * block * cell.height);
    if (chosen.row !== null) edge(pen, left + 1, yOf(chosen.row), wide - 2, Math.max(cell.height, 2), colours.accent, 2);
    if (cursor && cursor.j === columns) edge(pen, left + 1, yOf(cursor.i) - 1, wide - 2, Math.max(cell.height, 3) + 2, cursorColour(), 1.5);
    pen.restore();
    edge(pen, left - 0.5, box.top - 0.5, wide + 1, areaBottom() - box.top + 1, colours.line, 1);
    pen.fillStyle = cursor && cursor.j === columns ? colours.accent : colours.ink;
    pen.save();
    pen.textBaseline = "middle";
    if (box.columnsNamed && cell.width < HEAT.wideCell) {
      pen.font = fontFor(cell.width);
      pen.textAlign = "left";
      pen.translate(left + wide / 2, box.top - 7);
      pen.rotate(-Math.PI / 2);
      pen.fillText(beside.name, 0, 0);
    } else {
      pen.font = `10px ${fonts.text}`;
      pen.textAlign = "center";
      pen.fillText(beside.short, left + wide / 2, box.top - 11);
    }
    pen.restore();
  }

  function drawMarks(pen) {
    const { cell } = box, { row = null, column = null } = options.boundary || {};
    pen.save();
    pen.setLineDash([5, 4]);
    pen.strokeStyle = colours.accent;
    pen.lineWidth = 1.5;
    pen.beginPath();
    if (column !== null) { pen.moveTo(xOf(column), yOf(0)); pen.lineTo(xOf(column), yOf(rows)); }
    if (row !== null) { pen.moveTo(xOf(0), yOf(row)); pen.lineTo(xOf(columns), yOf(row)); }
    pen.stroke();
    pen.restore();
    if (chosen.row !== null) edge(pen, xOf(0) + 1, yOf(chosen.row), columns * cell.width - 2, Math.max(cell.height, 2), colours.accent, 2);
    if (chosen.column !== null) edge(pen, xOf(chosen.column), yOf(0) + 1, Math.max(cell.width, 2), rows * cell.height - 2, colours.accent, 2);
    if (cursor && cursor.j < columns) {
      edge(pen, xOf(cursor.j) - 1, yOf(cursor.i) - 1, Math.max(cell.width, 3) + 2, Math.max(cell.height, 3) + 2, cursorColour(), 1.5);
    }
  }

  function drawTexts(pen) {
    const { cell } = box, inks = new Map();
    const ink = (index) => {
      if (!inks.has(index)) inks.set(index, inkOn([table[index] & 255, (table[index] >> 8) & 255, (table[index] >> 16) & 255]));
      return inks.get(index);
    };
    pen.font = `${Math.min(12.5, cell.height * 0.52)}px ${fonts.mono}`;
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    const fits = Math.max(1, Math.floor((cell.width - 7) / pen.measureText("0").width));
    const [firstRow, lastRow] = visibleRows(), [firstColumn, lastColumn] = visibleColumns();
    for (let i = firstRow; i < lastRow; i++) for (let j = firstColumn; j < lastColumn; j++) {
      pen.fillStyle = ink(shade[i * columns + j]);
      pen.fillText(shorten(visibleText(options.cellText(i, j)), fits), xOf(j) + 4, yOf(i) + cell.height / 2 + 0.5, cell.width - 6);
    }
    pen.strokeStyle = colours.paper;
    pen.lineWidth = 1;
    pen.beginPath();
    for (let i = firstRow; i <= lastRow; i++) { pen.moveTo(xOf(0), yOf(i)); pen.lineTo(xOf(columns), yOf(i)); }
    for (let j = firstColumn; j <= lastColumn; j++) { pen.moveTo(xOf(j), yOf(0)); pen.lineTo(xOf(j), yOf(rows)); }
    pen.stroke();
  }

  function tickStep(length) {
    for (const step of [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000]) if (step * length >= 34) return step;
    return 10000;
  }

  function visibleRange(scroll, length, count, cell) {
    const first = Math.max(0, Math.floor(scroll / cell));
    return [first, Math.min(count, Math.ceil((scroll + length) / cell) + 1)];
  }

  const visibleRows = () => visibleRange(window_.scrollTop, box.height - box.top - box.bottom, rows, box.cell.height);
  const visibleColumns = () => visibleRange(window_.scrollLeft, box.width - box.left - box.right, columns, box.cell.width);

  const fontFor = (length) => `${Math.min(12, Math.max(9, length * 0.85))}px ${fonts.mono}`;
  const marked = (index, selected, at) => (index === selected || (cursor && index === at) ? colours.accent : colours.ink);

  function drawNames(pen) {
    pen.textBaseline = "middle";
    drawRowNames(pen);
    drawColumnNames(pen);
    if (footNames.length && box.cell.width >= HEAT.wideCell) drawFooters(pen);
  }

  function drawRowNames(pen) {
    const [first, last] = visibleRows();
    const { rowsNamed, cell } = box, step = rowsNamed ? 1 : tickStep(cell.height);
    pen.font = rowsNamed ? fontFor(cell.height) : `10px ${fonts.mono}`;
    pen.textAlign = "right";
    for (let i = Math.ceil(first / step) * step; i < last; i += step) {
      const y = yOf(i) + cell.height / 2;
      if (y < box.top - 1 || y > areaBottom() + 1) continue;
      pen.fillStyle = marked(i, chosen.row, cursor && cursor.i);
      pen.fillText(rowsNamed ? rowNames[i] : String(options.rowNumbers ? options.rowNumbers[i] : i), box.left - 7, y);
      if (!rowsNamed) pen.fillRect(box.left - 4, y - 0.5, 3, 1);
    }
  }

  function drawColumnNames(pen) {
    const [first, last] = visibleColumns();
    const { columnsNamed, cell } = box, step = columnsNamed ? 1 : tickStep(cell.width), wide = cell.width >= HEAT.wideCell;
    pen.font = columnsNamed ? fontFor(cell.width) : `10px ${fonts.mono}`;
    for (let j = Math.ceil(first / step) * step; j < last; j += step) {
      const x = xOf(j) + cell.width / 2;
      if (!wide && (x < box.left - 1 || x > areaRight() + 1)) continue;
      pen.fillStyle = marked(j, chosen.column, cursor && cursor.j);
      if (wide) {
        drawWideName(pen, columnNames[j], j, box.top - 11);
      } else if (columnsNamed) {
        pen.save();
        pen.translate(x, box.top - 7);
        pen.rotate(-Math.PI / 2);
        pen.textAlign = "left";
        pen.fillText(columnNames[j], 0, 0);
        pen.restore();
      } else {
        pen.textAlign = "center";
        pen.fillText(String(options.columnNumbers ? options.columnNumbers[j] : j), x, box.top - 11);
        pen.fillRect(x - 0.5, box.top - 4, 1, 3);
      }
    }
  }

  function drawWideName(pen, name, j, y) {
    const fits = Math.max(1, Math.floor((box.cell.width - 6) / pen.measureText("0").width));
    pen.save();
    pen.beginPath();
    pen.rect(box.left, y - 9, areaRight() - box.left, 18);
    pen.clip();
    pen.textAlign = "left";
    pen.fillText(shorten(name, fits), xOf(j) + 4, y);
    pen.restore();
  }

  function drawFooters(pen) {
    const [first, last] = visibleColumns(), y = areaBottom() + 13;
    pen.font = `10px ${fonts.text}`;
    pen.textAlign = "right";
    pen.fillStyle = colours.faint;
    pen.fillText(options.columnTitle, box.left - 7, y);
    pen.font = fontFor(box.cell.width);
    for (let j = first; j < last; j++) {
      pen.fillStyle = j === chosen.column ? colours.accent : colours.faint;
      drawWideName(pen, footNames[j], j, y);
    }
  }

  function largest(bars) {
    let most = bars.reference || 0;
    for (const value of bars.values) if (value > most) most = value;
    return most || 1;
  }

  function drawRowBars(pen) {
    const room = box.right - 10 - besideRoom, most = largest(rowBars), from = areaRight() + besideRoom + 4;
    pen.save();
    pen.fillStyle = colours.faint;
    pen.font = `10px ${fonts.text}`;
    pen.textAlign = "left";
    pen.fillText(options.rowTitle, from, box.top - 11);
    pen.beginPath();
    pen.rect(from, box.top, room, areaBottom() - box.top);
    pen.clip();
    const [first, last] = visibleRows(), high = box.cell.height, gap = high > 4 ? 1 : 0;
    for (let i = first; i < last; i++) {
      const value = rowBars.values[i];
      if (!(value > 0)) continue;
      pen.fillStyle = i === chosen.row ? colours.accent : colours.faint;
      pen.fillRect(from, yOf(i) + gap, room * value / most, Math.max(high - 2 * gap, 0.75));
    }
    pen.restore();
  }

  function drawColumnBars(pen) {
    const room = box.bottom - 10, most = largest(columnBars), from = areaBottom() + 4;
    const length = (value) => room * Math.sqrt(value / most);
    pen.save();
    pen.fillStyle = colours.faint;
    pen.font = `10px ${fonts.text}`;
    pen.textAlign = "right";
    pen.fillText(options.columnTitle, box.left - 6, from + 7);
    pen.beginPath();
    pen.rect(box.left, from, areaRight() - box.left, room);
    pen.clip();
    const [first, last] = visibleColumns(), wide = box.cell.width, gap = wide > 4 ? 1 : 0;
    for (let j = first; j < last; j++) {
      const value = columnBars.values[j];
      if (!(value > 0)) continue;
      pen.fillStyle = j === chosen.column ? colours.accent : colours.faint;
      pen.fillRect(xOf(j) + gap, from, Math.max(wide - 2 * gap, 0.75), length(value));
    }
    if (columnBars.reference) {
      pen.strokeStyle = colours.ink;
      pen.setLineDash([3, 3]);
      pen.beginPath();
      const y = from + length(columnBars.reference);
      pen.moveTo(box.left, y);
      pen.lineTo(areaRight(), y);
      pen.stroke();
    }
    pen.restore();
  }

  function place(event) {  // what lies under the pointer
    const frame = canvas.getBoundingClientRect();
    const x = event.clientX - frame.left, y = event.clientY - frame.top;
    const j = Math.floor((x - box.left + window_.scrollLeft) / box.cell.width);
    const i = Math.floor((y - box.top + window_.scrollTop) / box.cell.height);
    const inside = { x: x >= box.left && x < areaRight() && j < columns, y: y >= box.top && y < areaBottom() && i < rows };
    const onBeside = besideShade && x >= besideLeft() && x < besideLeft() + HEAT.besideWidth;
    return { i: inside.y ? i : null, j: onBeside ? columns : inside.x ? j : null, x, y, beside: x >= areaRight() + besideRoom, below: y >= areaBottom() };
  }

  const describe = (i, j) => (j === columns ? beside.describe(i) : options.describe(i, j));

  function say(lines) { if (options.onCursor) options.onCursor(lines); }

  window_.addEventListener("pointermove", (event) => {
    if (!shade) return;
    const at = place(event);
    let lines = null;
    if (at.i !== null && at.j !== null) {
      cursor = { i: at.i, j: at.j };
      lines = describe(at.i, at.j);
    } else {
      cursor = null;
      if (at.i !== null && at.beside && rowBars) lines = options.describeRow(at.i);
      if (at.j !== null && at.j < columns && at.below && columnBars) lines = options.describeColumn(at.j);
    }
    if (lines) { tip.show(lines, at.x, at.y); say(lines); } else tip.hide();
    draw();
  });
  window_.addEventListener("pointerleave", () => { cursor = null; tip.hide(); draw(); });
  window_.addEventListener("click", (event) => {
    if (!shade) return;
    const at = place(event);
    if (at.i !== null && at.j !== null && options.onPick) options.onPick(at.i, at.j);
  });
  window_.addEventListener("scroll", () => { tip.hide(); draw(); }, { passive: true });
  window_.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(percent * (event.deltaY < 0 ? 1.2 : 1 / 1.2));
  }, { passive: false });
  window_.addEventListener("focus", () => {
    if (!shade || cursor || !window_.matches(":focus-visible")) return;
    const i = chosen.row === null ? 0 : chosen.row;
    let j = chosen.column === null ? 0 : chosen.column;
    const strength = (k) => Math.abs(shade[Math.floor(i / block) * Math.ceil(columns / block) + Math.floor(k / block)] - centre);
    if (chosen.column === null) for (let k = block; k < columns; k += block) if (strength(k) > strength(j)) j = k;
    moveTo(i, j);
  });
  window_.addEventListener("blur", () => { cursor = null; tip.hide(); draw(); });
  window_.addEventListener("keydown", (event) => {
    if (!shade || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = cursor || { i: chosen.row ?? 0, j: chosen.column ?? 0 };
    if (event.key in ARROWS) {
      const [down, across] = ARROWS[event.key], stride = event.shiftKey ? 10 : 1;
      moveTo(at.i + down * stride, at.j + across * stride);
    } else if (event.key === "Home") moveTo(at.i, 0);
    else if (event.key === "End") moveTo(at.i, columns - 1);
    else if (event.key === "Enter" || event.key === " ") { if (options.onPick) options.onPick(at.i, at.j); }
    else if (event.key === "+" || event.key === "=") zoom(percent * 1.25);
    else if (event.key === "-") zoom(percent / 1.25);
    else if (event.key === "0") zoom(100);
    else if (event.key === "Escape") { cursor = null; tip.hide(); draw(); }
    else return;
    event.preventDefault();
  });

  function moveTo(i, j) {
    const last = besideShade ? columns : columns - 1;
    cursor = { i: Math.max(0, Math.min(rows - 1, i)), j: Math.max(0, Math.min(last, j)) };
    reveal(cursor.i, Math.min(cursor.j, columns - 1));
    const lines = describe(cursor.i, cursor.j), right = cursor.j === columns ? besideLeft() + HEAT.besideWidth : xOf(cursor.j) + box.cell.width;
    tip.show(lines, right, yOf(cursor.i) + box.cell.height);
    say(lines);
    draw();
  }

  function reveal(i, j) {
    const x = xOf(j), y = yOf(i), { cell } = box;
    if (x < box.left) window_.scrollLeft += x - box.left;
    else if (x + cell.width > box.width - box.right) window_.scrollLeft += x + cell.width - (box.width - box.right);
    if (y < box.top) window_.scrollTop += y - box.top;
    else if (y + cell.height > box.height - box.bottom) window_.scrollTop += y + cell.height - (box.height - box.bottom);
  }

  function zoom(next) {  // what is in the middle stays there
    const room = () => [(box.width - box.left - box.right) / 2, (box.height - box.top - box.bottom) / 2];
    if (!box) layout();
    const [x, y] = room();
    const middle = [(window_.scrollLeft + x) / box.cell.width, (window_.scrollTop + y) / box.cell.height];
    percent = Math.round(Math.max(HEAT.zooms[0], Math.min(Math.max(HEAT.zooms[1], readable()), next)));
    redraw();
    const [toX, toY] = room();
    window_.scrollLeft = middle[0] * box.cell.width - toX;
    window_.scrollTop = middle[1] * box.cell.height - toY;
    draw();
  }

  // The zoom at which a cell can be read, of a map whose cells are tiny when all of it is in sight.
  const readable = () => percent * HEAT.readable / Math.min(box.cell.width, box.cell.height);

  function redraw() {
    pooled = null;
    layout();
    draw();
  }

  return {
    element,
    percent: () => percent,
    zoom,
    redraw,
    enlarge() {  // to cells that can be read, at the chosen row or column
      if (!box) layout();
      zoom(readable());
      const i = chosen.row ?? Math.floor((chosen.column ?? 0) * rows / columns), j = chosen.column ?? Math.floor((chosen.row ?? 0) * columns / rows);
      window_.scrollTop = (i + 0.5) * box.cell.height - (box.height - box.top - box.bottom) / 2;
      window_.scrollLeft = (j + 0.5) * box.cell.width - (box.width - box.left - box.right) / 2;
      draw();
    },
    setPatches(patches_) {
      patches = patches_;
    },
    setCells(cells, colourTable_, centre_ = 0, block_ = 1) {
      shade = cells;
      table = colourTable_;
      centre = centre_;
      block = block_;
      pooled = null;
      if (!box) layout();
      draw();
    },
    setBeside(shades) {
      besideShade = shades;
      pooled = null;
    },
    setBars(forRows, forColumns) {
      rowBars = forRows;
      columnBars = forColumns;
      box = null;
    },
    select(row, column) {
      chosen = { row: row ?? null, column: column ?? null };
      draw();
    },
    reveal(row, column) {
      if (box) reveal(row, column);
      draw();
    },
  };
}

// Calls back when the width of an element changes, not when its height does; returns a function that stops it.
function onWidth(element, callback) {
  let width = element.clientWidth;
  const observer = new ResizeObserver(() => {
    if (element.clientWidth === width || element.clientWidth === 0) return;
    width = element.clientWidth;
    callback();
  });
  observer.observe(element);
  return () => observer.disconnect();
}

function zoomControl(heat) {
  const output = make("output", { class: "av-zoom-value", "aria-live": "off" }, "100 %");
  const button = (text, label, action) => make("button", { type: "button", class: "av-button", "aria-label": label, title: label, onclick: action }, text);
  const cells = button("Cells", "Zoom in at the selected token until cells can be read", () => heat.enlarge());
  cells.hidden = true;
  const element = make("span", { class: "av-control av-zoom", role: "group", "aria-label": "Zoom, 20 to 1000 percent" },
    make("span", {}, "Zoom"),
    button("−", "Zoom out", () => heat.zoom(heat.percent() / 1.25)),
    output,
    button("+", "Zoom in", () => heat.zoom(heat.percent() * 1.25)),
    button("Fit", "Fit to the window", () => heat.zoom(100)), cells);
  return { element, update(percent, tiny) { output.textContent = `${percent} %`; cells.hidden = !tiny; } };
}
