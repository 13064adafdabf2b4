// Who attends to whom: flow, network and distribution of the weights of one map. Needs _common.js.

function drawing(width, height, label) {  // an SVG, and what adds shapes to it
  const space = "http://www.w3.org/2000/svg";
  const shape = (tag, attributes, title) => {
    const made = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (title) {
      const words = document.createElementNS(space, "title");
      words.textContent = title;
      made.append(words);
    }
    return made;
  };
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "av-drawing" });
  return {
    svg,
    add(tag, attributes, title) { const made = shape(tag, attributes, title); svg.append(made); return made; },
    text(x, y, words, attributes) { const made = shape("text", { x, y, ...attributes }); made.textContent = words; svg.append(made); return made; },
  };
}

const MOST_NAMED = 64;

// names: of rows and columns; choose(i): one was clicked. paint(chosen) draws again.
function relationsSection(found, names, choose) {
  const shown = { picture: "flow", edges: Math.min(20, found.edges.length) };
  const frame = make("div", { class: "av-relations" }), caption = make("p", { class: "av-caption" });
  let chosen = null;
  const counts = [10, 20, 40, 80, 200].filter((count, i, all) => !i || all[i - 1] < found.edges.length);
  const many = choice("strongest", counts.map((count) => [String(count), String(Math.min(count, found.edges.length))]), String(counts[Math.min(1, counts.length - 1)]),
    (value) => { shown.edges = Math.min(Number(value), found.edges.length); paint(chosen); });
  const section = make("section", { "aria-label": "Who attends to whom" },
    make("div", { class: "av-bar" }, make("h3", { class: "av-title" }, "Who attends to whom"),
      make("div", { class: "av-controls" }, choice("as", [["flow", "flow"], ["network", "network"], ["distribution", "distribution"]], "flow",
        (value) => { shown.picture = value; many.hidden = value === "distribution"; paint(chosen); }), many)),
    frame, caption);
  const most = found.edges.length ? found.edges[0][2] : 1;
  const kept = () => found.edges.slice(0, shown.edges);
  const touches = ([row, column]) => row === chosen || column === chosen;
  const faded = (edge) => !touches(edge) && kept().some(touches);  // where the chosen one has none, all are alike
  const said = ([row, column, weight]) => `${names[row]} attends to ${names[column]}: ${formatNumber(weight)}`;
  const clickable = (element, i) => { element.addEventListener("click", () => choose(i)); element.classList.add("av-named"); if (i === chosen) element.classList.add("av-chosen"); };

  function flow() {
    const named = names.length <= MOST_NAMED, step = named ? 17 : Math.max(1.5, 700 / names.length);
    const height = 30 + step * names.length, y = (i) => 30 + step * (i + 0.5);
    const { svg, add, text } = drawing(440, height, "Flow: left attends, right is attended, thicker is stronger");
    text(138, 14, "attends", { "text-anchor": "end" });
    text(302, 14, "is attended", {});
    for (const edge of kept().slice().reverse()) {
      const [row, column, weight] = edge;
      add("path", { d: `M144 ${y(row)} C 215 ${y(row)}, 225 ${y(column)}, 296 ${y(column)}`, class: faded(edge) ? "av-edge av-faded" : "av-edge", "stroke-width": Math.max(0.6, 9 * weight / most) }, said(edge));
    }
    names.forEach((name, i) => {
      if (!named) return;
      clickable(text(138, y(i) + 4, shorten(name, 22), { "text-anchor": "end" }), i);
      clickable(text(302, y(i) + 4, shorten(name, 22), {}), i);
    });
    return svg;
  }

  function network() {
    const { svg, add, text } = drawing(440, 330, "Network: arrows from what attends to what is attended, larger dots receive more");
    const at = (i, far) => { const angle = 2 * Math.PI * i / names.length - Math.PI / 2; return [220 + far * Math.cos(angle), 165 + far * Math.sin(angle)]; };
    const top = Math.max(...found.received, 1e-12), size = (i) => 3 + 9 * Math.sqrt(found.received[i] / top);
    for (const edge of kept().slice().reverse()) {
      const [row, column, weight] = edge, name = faded(edge) ? "av-edge av-faded" : "av-edge", width = Math.max(0.6, 5 * weight / most);
      if (row === column) {
        const [x, y] = at(row, 112 + size(row) + 6);
        add("circle", { cx: x, cy: y, r: 6, class: name, "stroke-width": width }, said(edge));
        continue;
      }
      const [x0, y0] = at(row, 112), [x1, y1] = at(column, 112), length = Math.hypot(x1 - x0, y1 - y0) || 1;
      const along = [(x1 - x0) / length, (y1 - y0) / length], back = size(column) + 3;
      const tip = [x1 - back * along[0], y1 - back * along[1]], bend = [(x0 + x1) / 2 - 0.12 * (y1 - y0), (y0 + y1) / 2 + 0.12 * (x1 - x0)];
      add("path", { d: `M${x0} ${y0} Q ${bend[0]} ${bend[1]} ${tip[0]} ${tip[1]}`, class: name, "stroke-width": width }, said(edge));
      const turn = Math.atan2(tip[1] - bend[1], tip[0] - bend[0]), wing = 5 + width;
      const corner = (by) => `${tip[0] - wing * Math.cos(turn + by)},${tip[1] - wing * Math.sin(turn + by)}`;
      add("polygon", { points: `${tip[0]},${tip[1]} ${corner(0.45)} ${corner(-0.45)}`, class: faded(edge) ? "av-arrow av-faded" : "av-arrow" });
    }
    names.forEach((name, i) => {
      const [x, y] = at(i, 112), [far, high] = at(i, 136);
      clickable(add("circle", { cx: x, cy: y, r: size(i), class: "av-node" }, `${name} receives ${formatNumber(found.received[i])}`), i);
      if (names.length <= MOST_NAMED) clickable(text(far, high + 4, shorten(name, 18), { "text-anchor": Math.abs(far - 220) < 20 ? "middle" : far > 220 ? "start" : "end" }), i);
    });
    return svg;
  }

  function distribution() {
    const { svg, add, text } = drawing(440, 250, "Distribution of the weights on a logarithmic axis");
    const top = Math.max(...found.counts, 1), low = Math.min(found.from, found.uniform), high = Math.max(found.to, found.uniform), span = high - low || 1;
    const x = (value) => 36 + 396 * (value - low) / span, bin = (found.to - found.from) / Math.max(1, found.counts.length);
    found.counts.forEach((count, i) => {
      const left = x(found.from + i * bin), right = x(found.from + (i + 1) * bin), tall = 180 * count / top;
      add("rect", { x: left, y: 200 - tall, width: Math.max(1, right - left - 1), height: tall, class: "av-column" },
        `${count} weights from ${formatNumber(10 ** (found.from + i * bin))} to ${formatNumber(10 ** (found.from + (i + 1) * bin))}`);
    });
    add("line", { x1: 36, x2: 432, y1: 200, y2: 200, class: "av-axis" });
    add("line", { x1: x(found.uniform), x2: x(found.uniform), y1: 14, y2: 200, class: "av-uniform" });
    text(x(found.uniform) + 4, 22, `uniform: 1 / ${names.length}`, {});
    for (const [value, anchor] of [[low, "start"], [(low + high) / 2, "middle"], [high, "end"]]) text(x(value), 218, formatNumber(10 ** value), { "text-anchor": anchor });
    text(30, 24, String(top), { "text-anchor": "end" });
    text(234, 240, "weight, logarithmic; columns: how many weights", { "text-anchor": "middle" });
    return svg;
  }

  function paint(now) {
    chosen = now;
    if (!found.edges.length) { frame.replaceChildren(); caption.textContent = "No weight is above 0."; return; }
    frame.replaceChildren({ flow, network, distribution }[shown.picture]());
    const share = kept().reduce((sum, edge) => sum + edge[2], 0) / found.total;
    caption.textContent = shown.picture === "distribution"
      ? `All ${found.pairs} weights, mean over layers and heads; ${found.zeros} of them are 0 and not drawn.`
      : `The ${kept().length} strongest of ${found.pairs} weights, mean over layers and heads: ${Math.round(100 * share)} % of all attention.`;
  }
  return { section, paint };
}
