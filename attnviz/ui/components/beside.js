// Two views of one kind beside each other, and between them how far they agree on the chosen target.
// The body of a function (root, data, host); draw(root, data, host) is the view that is shown twice.
function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}
const sides = {left: {}, right: {}};
const other = {left: "right", right: "left"};

root.className = "app-beside";
const said = make("div", "app-agreement");
said.setAttribute("role", "status");
for (const name of ["left", "right"]) {
  const section = make("section", "app-beside-view");
  section.setAttribute("aria-label", data[name].title);
  const home = make("div");
  section.append(make("h3", "app-beside-title", data[name].title), home);
  Object.assign(sides[name], {section, home});
}
const notes = make("div", "app-info", data.info.join(" "));
root.append(sides.left.section, said, sides.right.section, notes);

// ---- tokens of one side as tokens of the other; null where there is no counterpart

function carried(token, places) {
  if (token === null || token === undefined || places === null) return token ?? null;
  const found = places[token];
  return found === undefined || found < 0 ? null : found;
}
const placesFrom = (side) => (side === "left" ? data.there : data.back);
const translate = (where, side) => ({
  ...where,
  target: carried(where.target, placesFrom(side)), source: carried(where.source, placesFrom(side)), row: carried(where.row, placesFrom(side)),
});

function hostOf(side) {
  const mine = (selection) => (side === "left" ? selection : {...selection, token: carried(selection.token, data.there)});
  return {
    get selection() { return mine(host.selection); },
    select: (partial) => {
      const token = side === "left" ? partial.token : carried(partial.token, data.back);
      if (token !== null && token !== undefined) host.select({...partial, token});
    },
    fetch: () => Promise.reject(new Error("Two views beside each other show what they were made with.")),
    part: () => Promise.reject(new Error("Two views beside each other show what they were made with.")),
    point: (where) => {
      const there = sides[other[side]].view;
      if (there && there.point) there.point(translate(where, side));
      agree(side === "left" ? where : translate(where, side));
    },
    inflate: host.inflate,
    dark: host.dark,
    offline: host.offline,
  };
}

// ---- agreement

const figure = (name, value) => {
  const line = make("div", "app-figure");
  line.append(make("span", "app-key", name), make("strong", "", value === null ? "no value" : value.toFixed(3)));
  return line;
};

function middle(values) {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b), half = Math.floor(known.length / 2);
  if (!known.length) return null;
  return known.length % 2 ? known[half] : (known[half - 1] + known[half]) / 2;
}

function agree(where) {
  const all = Object.values(data.agreement), token = where.target ?? where.row, found = data.agreement[token];
  const lines = [make("strong", "app-agreement-title", "Rank agreement")];
  if (found) {
    lines.push(figure("Spearman ρ", found.spearman), figure("Kendall τ-b", found.kendall),
      make("div", "app-key", `target ${token}, ${found.ranked} sources`));
  } else lines.push(make("div", "app-key", token === null ? "no target chosen" : `target ${token} has no counterpart`));
  if (all.length > 1) {
    lines.push(make("div", "app-key", `Median of ${all.length} targets`),
      figure("ρ", middle(all.map((one) => one.spearman))), figure("τ-b", middle(all.map((one) => one.kendall))));
  }
  said.replaceChildren(...lines);
}

// ---- both

function refresh() {
  for (const side of ["left", "right"]) {
    const {view} = sides[side];
    if (view.show) view.show(hostOf(side).selection);
  }
  agree(sides.left.view.pointed ? sides.left.view.pointed() : {target: null, row: null});
}

const ready = () => ["left", "right"].every((side) => sides[side].home.dataset.ready === "1");
const waiting = new MutationObserver(() => {
  if (!ready()) return;
  waiting.disconnect();
  root.dataset.ready = "1";
});
for (const side of ["left", "right"]) {
  waiting.observe(sides[side].home, {attributes: true, attributeFilter: ["data-ready"]});
  sides[side].view = draw(sides[side].home, data[side].data, hostOf(side)) || {};
}
refresh();

return {
  show: refresh,
  theme() { for (const {view} of Object.values(sides)) if (view.theme) view.theme(); },
  destroy() { waiting.disconnect(); for (const {view} of Object.values(sides)) if (view.destroy) view.destroy(); },
};
