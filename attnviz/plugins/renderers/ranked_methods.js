// Every method beside the others, sensor by sensor, each column on a scale of its own. Needs _common.js.

// choose(i): a feature was clicked. paint(ranking, chosen) draws again.
function methodsSection(methods, correlations, names, choose) {
  const table = make("table", { class: "av-methods" });
  const section = make("section", { "aria-label": "Methods beside each other" },
    make("div", { class: "av-bar" }, make("h3", { class: "av-title" }, "Methods beside each other")), make("div", { class: "av-ranked-frame", tabindex: "0" }, table));
  const with_occlusion = (title) => correlations.find(([pair]) => pair === `${title} occlusion`);

  function head(method) {
    const rho = with_occlusion(method.title);
    const beside = method.trusted ? "to be believed" : rho ? `ρ with occlusion ${rho[1] === null ? "not known" : rho[1].toFixed(2)}` : "";
    return make("th", { scope: "col" }, make("span", {}, method.title), make("span", { class: method.trusted ? "av-methods-note av-strong" : "av-methods-note" }, beside));
  }

  function cell(method, i, most) {
    const number = method.values[i];
    if (number === null) return make("td", { title: method.why || null }, "no value");
    const track = make("span", { class: "av-ranked-track", "aria-hidden": "true" }), fill = make("span", { class: method.trusted ? "av-ranked-fill av-trusted" : "av-ranked-fill" });
    fill.style.width = `${Math.max(0, 100 * number / most)}%`;
    track.append(fill);
    const shuffled = method.null ? method.null[i] : null;
    if (shuffled !== null) {
      const mark = make("span", { class: "av-ranked-null" });
      mark.style.left = `${100 * shuffled / most}%`;
      track.append(mark);
    }
    const words = shuffled === null ? formatNumber(number) : `${formatNumber(number)} (null ${formatNumber(shuffled, 2)})`;
    return make("td", {}, track, make("span", { class: "av-methods-number" }, words));
  }

  return {
    section,
    paint(ranking, chosen) {
      const most = methods.map((m) => Math.max(...m.values.filter((x) => x !== null), ...(m.null || []).filter((x) => x !== null), 1e-12));
      const body = ranking.map((i) => make("tr", { class: i === chosen ? "av-chosen" : null },
        make("th", { scope: "row" }, make("button", { type: "button", class: "av-methods-name", onclick: () => choose(i) }, shorten(names[i], 30))), ...methods.map((m, at) => cell(m, i, most[at]))));
      table.replaceChildren(make("thead", {}, make("tr", {}, make("th", { scope: "col" }, ""), ...methods.map(head))), make("tbody", {}, ...body));
    },
  };
}
