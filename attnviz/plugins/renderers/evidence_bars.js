// Steps in order, each with a bar split by source, and the text of the run. Needs _common.js, _tokens.js.

const { entries, sources, steps, share, uniform, effect } = data;
const C = sources.length;
const known = effect ? effect.flat().filter((x) => x !== null).map(Math.abs) : [];
const LARGEST = known.length ? Math.max(...known) : 0;  // one scale for all effects
const state = { entry: null, source: null };
const sourceOf = [];  // of each token the source it belongs to
sources.forEach((source, c) => source.spans.forEach(([start, stop]) => { for (let i = start; i < stop; i++) sourceOf[i] = c; }));
const ROOM = { name: 76, number: 42 };  // pixels that a part of a bar needs for its words

// ------------------------------------------------------------------------------------------------ words

const percent = (x) => (x === null ? "no value" : `${(100 * x).toFixed(1)} %`);
const fixed = (x, digits) => (Number(x.toFixed(digits)) || 0).toFixed(digits);  // no "-0.0"
const away = (s, c) => uniform[s][c] === 0 && share[s][c] === 0;  // no row of the step can see it
const capital = (text) => visibleText(text.charAt(0).toUpperCase() + text.slice(1));

function effectWords(s, c) {
  const nats = effect[s][c];
  if (nats === null) return "no effect: nothing of it that could be taken away comes before the step";
  const much = `${fixed(Math.abs(nats), 2)} nats ${nats < 0 ? "more" : "less"} likely`;
  return `without it ${much} (${fixed(nats / steps[s].tokens, 2)} a token)`;
}

function evidenceWords(s, c) {
  if (away(s, c)) return `${visibleText(steps[s].label)} ← ${visibleText(sources[c].label)}: it cannot be seen from here`;
  const looked = `${percent(share[s][c])} of its attention, a uniform head ${percent(uniform[s][c])}`;
  return `${visibleText(steps[s].label)} ← ${visibleText(sources[c].label)}: ${looked}${effect ? `; ${effectWords(s, c)}` : ""}`;
}

function entryWords(entry) {
  const place = entry.stop - entry.start > 1 ? `tokens ${entry.start}–${entry.stop - 1}` : `token ${entry.start}`;
  const log = data.logprob && entry.step !== null ? `, log-probability ${fixed(data.logprob[entry.step], 2)} nats` : "";
  return `${visibleText(entry.label)}, ${place}${log}`;
}

// ------------------------------------------------------------------------------------------------ skeleton

root.classList.add("av-view", "av-ledger");
const readout = make("p", { class: "av-readout", role: "status", "aria-live": "polite" });
const list = make("ol", { class: "av-steps" });
const heads = [], rows = new Map();  // rows: "step.source" -> the line of its numbers

function swatch(c) {
  const box = make("span", { class: "av-swatch", "aria-hidden": "true" });
  paintPart(box, c);
  return box;
}

function paintPart(box, c) {
  box.style.backgroundColor = cssColour(sources[c].colour);
  box.style.color = inkOn(sources[c].colour);
  box.classList.toggle("av-hatched", sources[c].hatched);
}

function stack(s, shares, kind) {
  const bar = make("div", { class: `av-stack ${kind}`, "aria-hidden": "true" });
  bar.dataset.step = s;
  for (let c = 0; c < C; c++) {
    if (!shares[c]) continue;
    const part = make("span", { class: "av-part" });
    part.style.flexGrow = String(shares[c]);
    part.dataset.source = c;
    paintPart(part, c);
    part.addEventListener("pointerenter", () => point(s, c));
    bar.append(part);
  }
  bar.addEventListener("pointerleave", () => point(s, null));
  return bar;
}

function effectCell(s, c) {
  const nats = effect[s][c], cell = make("td", { class: "av-effect" });
  if (nats === null) { cell.append(make("span", { class: "av-quiet" }, "–")); return cell; }
  const track = make("span", { class: "av-effect-track", "aria-hidden": "true" }), fill = make("span", { class: "av-effect-fill" });
  fill.style.width = LARGEST > 0 ? `${100 * Math.abs(nats) / LARGEST}%` : "0";
  fill.classList.toggle("av-more", nats < 0);
  paintPart(fill, c);
  track.append(fill);
  cell.append(track, make("span", { class: "av-effect-number" }, fixed(nats, 1)));
  return cell;
}

function numbers(s) {
  const columns = ["source", "attention", "uniform head", ...(effect ? ["effect (nats)", "a token"] : [])];
  const top = make("tr", {}, ...columns.map((name, k) => make("th", { scope: "col", class: k === 4 ? "av-each" : null }, name)));
  const looked = (s, c, shares) => (away(s, c) ? "–" : percent(shares[s][c]));
  const body = sources.map((source, c) => {
    const cells = [
      make("th", { scope: "row" }, swatch(c), make("span", { class: "av-source-name" }, visibleText(source.label))),
      make("td", {}, looked(s, c, share)), make("td", { class: "av-quiet" }, looked(s, c, uniform))];
    if (effect) cells.push(effectCell(s, c), make("td", { class: "av-quiet av-each" }, effect[s][c] === null ? "–" : fixed(effect[s][c] / steps[s].tokens, 2)));
    const row = make("tr", {}, ...cells);
    row.addEventListener("pointerenter", () => point(s, c));
    row.addEventListener("pointerleave", () => point(s, null));
    rows.set(`${s}.${c}`, row);
    return row;
  });
  return make("table", { class: "av-evidence" }, make("caption", {}, `Evidence of ${visibleText(steps[s].label)}`), make("thead", {}, top), make("tbody", {}, ...body));
}

entries.forEach((entry, n) => {
  const head = make("button", { type: "button", class: "av-step-head", "aria-pressed": "false", tabindex: n === 0 ? "0" : "-1", onclick: () => choose(n, true) },
    make("span", { class: "av-step-kind" }, entry.source === null ? null : swatch(entry.source), capital(entry.label)),
    make("span", { class: "av-step-text" }, entry.text === "" ? "" : visibleText(entry.text)));
  head.addEventListener("focus", () => { reach(n); readout.textContent = entryWords(entry); });
  heads.push(head);
  const item = make("li", { class: "av-step" }, head);
  item.dataset.kind = entry.kind;
  if (entry.step !== null) item.append(stack(entry.step, share[entry.step], "av-looked"), stack(entry.step, uniform[entry.step], "av-alike"), numbers(entry.step));
  list.append(item);
});

function flags() {
  const box = make("div", { class: "av-flags" });
  for (const flag of data.flags) box.append(make("p", { class: "av-flag", role: "note" }, visibleText(flag)));
  if (data.flags.length) return box;
  const observed = sources.some((source) => source.kind === "observation");
  box.append(make("p", { class: "av-caption" }, observed ? "No flag is raised: no observation is left unused, and no answer rests on none." : "There is no observation in this run, so nothing can be flagged."));
  return box;
}

const strip = tokenStrip({
  tokens: data.tokens, segments: data.segments, generatedFrom: data.generated_from,
  label: plural(data.tokens.length, "token"),
  describe: (i) => `token ${i} “${visibleText(data.tokens[i])}”${sourceOf[i] === undefined ? "" : `: ${visibleText(sources[sourceOf[i]].label)}`}`,
  onFocus: (i) => { readout.textContent = strip.button(i).title; },
  onPick: (i) => { setToken(i); host.select({ token: i }); },
});
strip.element.classList.add("av-run");

const reading = `Bar: where the rows that write a step look. Thin bar: a head that looks everywhere alike.${effect ? ` Effect: how much less likely the step is with the source ${visibleText(data.removal)}; bars below 0 (more likely) are striped.` : ""}`;
root.append(
  flags(),
  make("div", { class: "av-ledger-columns" },
    make("section", { class: "av-block" }, make("h3", { class: "av-title" }, "Steps"), make("p", { class: "av-caption" }, reading), list),
    make("section", { class: "av-block av-text-block" }, make("h3", { class: "av-title" }, "The run, coloured by source"), readout, strip.element)),
  notes(data.info, data.warnings));

// ------------------------------------------------------------------------------------------------ painting

function paint() {
  const paper = host.dark() ? [20, 22, 31] : [255, 255, 255];
  const soft = (colour) => colour.map((x, i) => Math.round(0.4 * x + 0.6 * paper[i]));
  strip.shade(data.tokens.map((_, i) => (sourceOf[i] === undefined ? null : soft(sources[sourceOf[i]].colour))));
}

function label() {  // words in the parts of a bar that have room for them
  for (const part of list.querySelectorAll(".av-looked .av-part")) {
    const c = Number(part.dataset.source), width = part.getBoundingClientRect().width;
    const text = percent(share[Number(part.parentElement.dataset.step)][c]);
    part.textContent = width >= ROOM.name + ROOM.number ? `${sources[c].short} ${text}` : width >= ROOM.number ? text : "";
  }
}

// ------------------------------------------------------------------------------------------------ choosing

function reach(n) { heads.forEach((head, k) => { head.tabIndex = k === n ? 0 : -1; }); }

function point(s, c) {  // one source of one step
  for (const row of rows.values()) row.classList.remove("av-on");
  state.source = c;
  if (c === null) return;
  rows.get(`${s}.${c}`).classList.add("av-on");
  readout.textContent = evidenceWords(s, c);
}

function choose(n, tell) {
  state.entry = n;
  heads.forEach((head, k) => head.setAttribute("aria-pressed", String(k === n)));
  reach(n);
  const entry = entries[n];
  data.tokens.forEach((_, i) => strip.button(i).classList.toggle("av-of-step", i >= entry.start && i < entry.stop));
  readout.textContent = entryWords(entry);
  if (!tell || entry.start >= data.tokens.length) return;  // the token that would come next is none of the run
  strip.select(entry.start);
  host.select({ token: entry.start });
}

function setToken(token) {
  strip.select(token);
  const n = entries.findIndex((entry) => entry.start <= token && token < entry.stop);
  if (n >= 0 && n !== state.entry) choose(n, false);
}

list.addEventListener("keydown", (event) => {
  const n = heads.indexOf(event.target.closest(".av-step-head"));
  if (n < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  const to = { ArrowUp: n - 1, ArrowDown: n + 1, Home: 0, End: heads.length - 1 };
  if (event.key in to) { heads[Math.max(0, Math.min(heads.length - 1, to[event.key]))].focus(); event.preventDefault(); }
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by === undefined || entries[n].step === null || C === 0) return;
  event.preventDefault();
  point(entries[n].step, state.source === null ? (by > 0 ? 0 : C - 1) : (state.source + by + C) % C);
});

const resized = new ResizeObserver(() => label());
resized.observe(list);
paint();
label();
root.dataset.ready = "1";

return {
  show(selection) { if (Number.isInteger(selection.token) && selection.token < data.tokens.length) setToken(selection.token); },
  theme() { paint(); },
  destroy() { resized.disconnect(); },
};
