// A text whose tokens are shaded by a score, or a plain one where data.scores is null. Needs _common.js, _tokens.js.

root.classList.add("av-view", "av-strip");
const readout = make("p", { class: "av-readout", role: "status", "aria-live": "polite" });
const legend = make("div", { class: "av-legend" });
let scores = null, most = 0, signed = false, destroyed = false;

function describe(i) {
  const name = `token ${i} “${visibleText(data.tokens[i])}”${data.ids ? `, id ${data.ids[i]}` : ""}`;
  return scores ? `${name}: ${formatNumber(scores[i])}${Number.isNaN(scores[i]) ? "" : ` ${data.unit}`}` : name;
}

const strip = tokenStrip({
  tokens: data.tokens, segments: data.segments, generatedFrom: data.generated_from,
  describe,
  onFocus: (i) => { readout.textContent = describe(i); },
  onPick: (i) => { strip.select(i); host.select({ token: i }); },
});
root.append(strip.element, readout, legend, notes(data.info, data.warnings));

function paint() {
  if (!scores) return;
  const map = signed ? DIVERGING : SEQUENTIAL, stops = map[themeName()];
  const share = (x) => (signed ? 0.5 + x / most / 2 : x / most);
  strip.shade(data.tokens.map((_, i) => (Number.isNaN(scores[i]) || most === 0 || scores[i] === 0 ? null : colourAt(stops, share(scores[i])))));
  const text = (x) => formatNumber(x, 3);
  const ticks = signed ? [[0, text(-most)], [0.5, "0"], [1, text(most)]] : [[0, "0"], [0.5, text(most / 2)], [1, text(most)]];
  if (most > 0) drawLegend(legend, { map, ticks, caption: data.unit });
  else legend.replaceChildren(make("span", { class: "av-legend-caption" }, "All scores are 0."));
}

(async () => {
  if (data.scores) {
    scores = await unpack(data.scores);
    if (destroyed) return;
    for (const x of scores) { if (Math.abs(x) > most) most = Math.abs(x); if (x < 0) signed = true; }
    paint();
  }
  strip.retitle();
  root.dataset.ready = "1";
})().catch((error) => { readout.textContent = error.message; });

return {
  show(selection) { if (Number.isInteger(selection.token)) strip.select(selection.token); },
  theme() { paint(); },
  destroy() { destroyed = true; },
};
