// A benchmark: cards, time per method, prompt tokens per second, memory, faithfulness against time, sentences, errors.
const SVG = "http://www.w3.org/2000/svg";
const SHORT = 44;
const FIGURES = [["comprehensiveness", "Comprehensiveness"], ["sufficiency", "Sufficiency"], ["deletion_auc", "Deletion AUC"], ["insertion_auc", "Insertion AUC"], ["kendall_tau", "Kendall tau-b"]];
const PALETTE = { light: ["#b4530a", "#1f6feb", "#0e7490", "#7c3aed", "#be185d", "#4d7c0f"], dark: ["#f59e4c", "#6aa8ff", "#3fc1d6", "#b79bff", "#f472b6", "#a3d65c"] };
const state = { models: new Set(data.models), methods: new Set(data.methods), by: data.models.length > 1 ? "method" : "model", sort: "value", scale: "linear" };

const seconds = (value) => `${significant(value)} s`;
const megabytes = (value) => `${Math.round(value).toLocaleString("en")} MB`;
function significant(value) {
  if (value === null) return "–";
  return value !== 0 && (Math.abs(value) < 0.001 || Math.abs(value) >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}
const named = (text) => shorten(visibleText(text), SHORT);
const pair = (row) => `${named(row.method)} on ${named(row.model)}`;
const rows = () => data.rows.filter((row) => state.models.has(row.model) && state.methods.has(row.method));

// ------------------------------------------------------------------------------------------------ cards

function card(title, value, note) {
  return make("div", { class: "bm-card" }, make("div", { class: "bm-card-title" }, title), make("div", { class: "bm-card-value" }, value),
    make("div", { class: "av-caption" }, note));
}

function extreme(found, key, largest) {
  const known = found.filter((row) => row[key] !== null);
  if (!known.length) return null;
  return known.reduce((best, row) => (largest ? row[key] > best[key] : row[key] < best[key]) ? row : best);
}

function cards(found) {
  const tried = found.reduce((sum, row) => sum + row.tried, 0), succeeded = found.reduce((sum, row) => sum + row.succeeded, 0);
  const fastest = extreme(found, "time", false), slowest = extreme(found, "time", true), widest = extreme(found, "throughput", true);
  return make("div", { class: "bm-cards" },
    card("Success rate", tried ? `${(100 * succeeded / tried).toFixed(1)} %` : "–", `${succeeded} of ${tried} attributions`),
    card("Fastest", fastest ? seconds(fastest.time) : "–", fastest ? `${pair(fastest)}, mean of a prompt` : "nothing succeeded"),
    card("Slowest", slowest ? seconds(slowest.time) : "–", slowest ? `${pair(slowest)}, mean of a prompt` : "nothing succeeded"),
    card("Best throughput", widest ? `${significant(widest.throughput)} tokens/s` : "–", widest ? `${pair(widest)}, prompt tokens` : "nothing succeeded"));
}

// ------------------------------------------------------------------------------------------------ bars

function ordered(found, key) {
  const groups = new Map(), other = state.by === "method" ? "model" : "method";
  for (const row of found) groups.set(row[state.by], [...(groups.get(row[state.by]) || []), row]);
  const value = (row) => row[key] === null ? Infinity : row[key];
  const least = (group) => Math.min(...group.map(value));
  const alphabetical = (a, b) => a < b ? -1 : a > b ? 1 : 0;
  const sorted = [...groups].map(([name, group]) => [name, [...group].sort((a, b) => state.sort === "value" ? value(a) - value(b) : alphabetical(a[other], b[other]))]);
  return sorted.sort((a, b) => state.sort === "value" ? least(a[1]) - least(b[1]) || 0 : alphabetical(a[0], b[0]));
}

function share(value, known) {  // of the width of a bar
  const most = Math.max(...known), least = Math.min(...known.filter((x) => x > 0));
  if (!(value > 0) || !(most > 0)) return 0;
  if (state.scale === "linear") return value / most;
  const low = Math.log10(least) - 0.3;
  return (Math.log10(value) - low) / (Math.log10(most) - low);
}

function bars(found, key, write, more) {
  const other = state.by === "method" ? "model" : "method";
  const known = found.map((row) => row[key]).filter((value) => value !== null);
  const box = make("div", { class: "bm-bars" });
  for (const [name, group] of ordered(found, key)) {
    box.append(make("div", { class: "bm-group", title: name }, named(name)));
    for (const row of group) {
      const fill = make("div", { class: "bm-fill" });
      fill.style.width = row[key] === null ? "0" : `${100 * share(row[key], known)}%`;
      box.append(make("div", { class: "bm-bar" }, make("span", { class: "bm-label", title: row[other] }, named(row[other])),
        make("span", { class: "bm-track", "aria-hidden": "true" }, fill),
        make("span", { class: "bm-value" }, row[key] === null ? (row.tried ? "failed" : "not tried") : write(row[key])),
        make("span", { class: "bm-more" }, row[key] === null ? "" : more(row))));
    }
  }
  return box;
}

// ------------------------------------------------------------------------------------------------ heat map

function heat(found) {
  const known = found.map((row) => row.throughput).filter((value) => value !== null);
  const table = make("table", { class: "bm-heat" });
  const models = data.models.filter((name) => state.models.has(name)), methods = data.methods.filter((name) => state.methods.has(name));
  table.append(make("thead", {}, make("tr", {}, make("td", {}), ...models.map((name) => make("th", { scope: "col", title: name }, named(name))))));
  const body = make("tbody", {});
  for (const method of methods) {
    const line = make("tr", {}, make("th", { scope: "row", title: method }, named(method)));
    for (const model of models) {
      const value = found.find((row) => row.model === model && row.method === method).throughput;
      const cell = make("td", {}, value === null ? "–" : significant(value));
      if (value !== null) {
        const colour = colourAt(SEQUENTIAL[themeName()], 0.08 + 0.82 * share(value, known));
        cell.style.background = cssColour(colour);
        cell.style.color = inkOn(colour);
      }
      line.append(cell);
    }
    body.append(line);
  }
  table.append(body);
  return make("div", { class: "bm-scroll", tabindex: "0", role: "region", "aria-label": "Prompt tokens per second" }, table);
}

// ------------------------------------------------------------------------------------------------ faithfulness against time

function drawn(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function ticks(low, high) {
  const found = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) for (const step of [1, 2, 5]) {
    const place = power + Math.log10(step);
    if (place >= low && place <= high) found.push([place, 10 ** power * step]);
  }
  return found.length > 6 ? found.filter((_, i) => i % Math.ceil(found.length / 6) === 0) : found;
}

function even(low, high) {  // round numbers between two others
  const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found;
}

function scatter(found) {
  const known = found.filter((row) => row.time > 0 && row.comprehensiveness !== null);
  const width = 640, height = 300, left = 64, bottom = 44, top = 14, right = 18;
  const xs = known.map((row) => Math.log10(row.time));
  const ys = known.flatMap((row) => [row.comprehensiveness, row.comprehensiveness_random]).filter((y) => y !== null);
  const [x0, x1] = [Math.min(...xs) - 0.15, Math.max(...xs) + 0.15], span = Math.max(...ys, 0) - Math.min(...ys, 0) || 1;
  const [y0, y1] = [Math.min(...ys, 0) - 0.06 * span, Math.max(...ys, 0) + 0.06 * span];
  const x = (value) => left + (Math.log10(value) - x0) / (x1 - x0) * (width - left - right);
  const y = (value) => top + (y1 - value) / (y1 - y0) * (height - top - bottom);
  const picture = drawn("svg", { viewBox: `0 0 ${width} ${height}`, class: "bm-scatter", role: "img", "aria-label": "Comprehensiveness against seconds of a prompt; the table below has the numbers." });
  for (const [place, value] of ticks(x0, x1)) {
    const at = left + (place - x0) / (x1 - x0) * (width - left - right);
    picture.append(drawn("line", { x1: at, x2: at, y1: top, y2: height - bottom, class: "bm-grid" }), drawn("text", { x: at, y: height - bottom + 16, "text-anchor": "middle" }, significant(value)));
  }
  for (const value of even(y0, y1)) {
    picture.append(drawn("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "bm-grid" }), drawn("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, significant(value)));
  }
  picture.append(drawn("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, "seconds of a prompt (logarithmic)"),
    drawn("text", { x: 14, y: (height - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(height - bottom) / 2})` }, "comprehensiveness"));
  known.forEach((row) => {
    const colour = colourOf(row);
    if (row.comprehensiveness_random !== null) {
      const random = y(row.comprehensiveness_random);
      picture.append(drawn("line", { x1: x(row.time), x2: x(row.time), y1: y(row.comprehensiveness), y2: random, stroke: colour, "stroke-dasharray": "2 3" }),
        drawn("line", { x1: x(row.time) - 6, x2: x(row.time) + 6, y1: random, y2: random, stroke: colour, "stroke-width": 2 }));
    }
    picture.append(drawn("circle", { cx: x(row.time), cy: y(row.comprehensiveness), r: 6, fill: colour }, drawn("title", {}, `${pair(row)}: ${significant(row.comprehensiveness)} in ${seconds(row.time)}`)));
  });
  return picture;
}

function colourOf(row) {
  const colours = PALETTE[themeName()];
  return colours[data.methods.indexOf(row.method) % colours.length];
}

function tableOf(columns, lines) {
  const table = make("table", { class: "bm-table" }, make("thead", {}, make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name)))));
  table.append(make("tbody", {}, ...lines.map((line) => make("tr", {}, ...line.map((cell) => make("td", {}, cell))))));
  return make("div", { class: "bm-scroll", tabindex: "0" }, table);
}

function faithfulness(found) {
  const known = found.filter((row) => row.comprehensiveness !== null);
  if (!known.length) return [make("p", { class: "av-info" }, data.faithfulness ? "Nothing measured yet." : "Not measured. Run the benchmark with --faithfulness.")];
  const lines = known.map((row) => {
    const dot = make("span", { class: "bm-dot", "aria-hidden": "true" });
    dot.style.background = colourOf(row);
    const figures = FIGURES.map(([name]) => `${significant(row[name])} (${significant(row[`${name}_random`])})`);
    return [make("span", {}, dot, named(row.method)), named(row.model), seconds(row.time), ...figures];
  });
  const columns = ["Method", "Model", "Time", ...FIGURES.map(([, title]) => title)];
  return [make("div", { class: "bm-scroll" }, scatter(known)), make("p", { class: "av-caption" }, "A dot is a method, the dash below or above it the mean of random orders of the same sources: a method that points at what matters stands well above its dash. In the table the random mean is in brackets; of sufficiency and deletion less is better."), tableOf(columns, lines)];
}

// ------------------------------------------------------------------------------------------------ sentences and errors

function sentences() {
  if (!data.insights.length) return [make("p", { class: "av-info" }, "Nothing to compare yet.")];
  return [make("dl", { class: "bm-insights" }, ...data.insights.flatMap((item) => [make("dt", {}, item.title),
    make("dd", {}, visibleText(item.text), make("span", { class: "av-caption" }, ` From: ${item.figure}.`))]))];
}

function errors() {
  const found = data.errors.filter((item) => state.models.has(item.model) && state.methods.has(item.method));
  if (!found.length) return [make("p", { class: "av-info" }, "None.")];
  const lines = found.map((item) => [item.stage, named(item.model), named(item.method), numbers(item), visibleText(item.error)]);
  return [tableOf(["Stage", "Model", "Method", "Prompts", "Error"], lines)];
}

function numbers({ prompts, count }) {
  const shown = prompts.slice(0, 8).join(", ");
  return count > 8 ? `${shown} … (${count})` : shown;
}

// ------------------------------------------------------------------------------------------------ all of it

function badges(title, names, chosen) {
  if (names.length < 2) return null;
  return make("div", { class: "bm-badges", role: "group", "aria-label": title }, make("span", { class: "av-caption" }, title), ...names.map((name) => {
    const pressed = chosen.has(name);
    return make("button", { class: "av-button", type: "button", title: name, "aria-pressed": String(pressed), onclick: () => {
      if (pressed && chosen.size > 1) chosen.delete(name); else chosen.add(name);
      draw();
    } }, named(name));
  }));
}

function controls(...names) {
  const known = {
    by: ["Group by", [["method", "method"], ["model", "model"]]],
    sort: ["Sort", [["value", "performance"], ["name", "alphabetical"]]],
    scale: ["Scale", [["linear", "linear"], ["log", "logarithmic"]]],
  };
  return make("div", { class: "av-controls" }, ...names.map((name) => choice(known[name][0], known[name][1], state[name], (value) => { state[name] = value; draw(); })));
}

function figure(title, caption, controlling, ...content) {
  return make("section", { class: "bm-figure", "aria-label": title }, make("div", { class: "av-bar" }, make("h3", { class: "av-title" }, title), controlling),
    caption ? make("p", { class: "av-caption" }, caption) : null, ...content);
}

function draw() {
  const focused = root.contains(document.activeElement) ? document.activeElement : null;
  const label = focused && (focused.title || (focused.closest("label") && focused.closest("label").textContent)), place = focused && [...root.querySelectorAll("select, button")].indexOf(focused);
  const found = rows();
  const delta = (row) => row.delta === null ? `${significant(row.cpu)} CPU s` : `${significant(row.cpu)} CPU s, gap at most ${significant(row.delta)}`;
  const parts = [
    data.cells < data.planned ? make("p", { class: "av-warning" }, `${data.cells} of ${data.planned} attributions are there so far.`) : null,
    data.facts ? make("dl", { class: "bm-facts av-caption" }, ...data.facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, visibleText(value))))) : null,
    badges("Models", data.models, state.models), badges("Methods", data.methods, state.methods),
    cards(found),
    figure("Insights", "Over all models and methods.", null, ...sentences()),
    figure("Time per method", "Mean wall seconds of a prompt that succeeded; beside it CPU seconds of all threads, and the largest completeness gap where the method promises one.", controls("by", "sort", "scale"), bars(found, "time", seconds, delta)),
    figure("Prompt tokens per second", "Mean over the prompts that succeeded of prompt tokens by seconds of attribution.", controls("scale"), heat(found)),
    figure("Memory", "Most memory of the process during a prompt, model included; on a GPU of its tensors.", null, bars(found, "memory", megabytes, () => "")),
    figure("Faithfulness against time", null, null, ...faithfulness(found)),
    figure("Errors by stage", null, null, ...errors()),
  ];
  root.className = "av-view bm-view";
  root.replaceChildren(...parts.filter(Boolean));
  root.dataset.ready = "1";
  const again = place !== null && place >= 0 ? root.querySelectorAll("select, button")[place] : null;
  if (again && label !== null) again.focus();
}

draw();
return { theme: draw };
