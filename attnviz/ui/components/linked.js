// Controls of the parameters that follow the selection of the page: layer, head, token.
const {element: make} = window.attnviz;
const slot = element.querySelector(".app-part");
const {analysis, params} = constants;
const selects = new Map();

function option(value, text) {
  const made = make("option", "", text);
  made.value = value;
  return made;
}

function choices(type) {
  const {run, selection, readable} = window.attnviz;
  if (!run) return [];
  if (type === "token") return run.tokens.map((label, index) => [index, `${index} ${readable(label)}`]);
  if (type === "layer") return run.layers.map((name, index) => [index, name]);
  const count = run.heads[selection.layer] || Math.max(0, ...run.heads);
  return Array.from({length: count}, (_, index) => [index, String(index)]);
}

function choose(param, raw) {
  if (param.words.includes(raw)) { window.attnviz.setWord(analysis, param.name, raw); return; }
  const index = Number(raw), type = param.type;
  if (window.attnviz.word(analysis, param.name) === null) { window.attnviz.select({[type]: index}, analysis); return; }
  if (window.attnviz.selection[type] === index) window.attnviz.setWord(analysis, param.name, null);
  else window.attnviz.select({[type]: index}, analysis);
}

for (const param of params) {
  const label = make("label", "app-linked", param.title);
  label.title = param.help;
  const select = make("select");
  select.setAttribute("aria-label", param.title);
  select.addEventListener("change", () => choose(param, select.value));
  label.append(select);
  slot.append(label);
  selects.set(param, select);
}

function show(selection) {
  for (const [param, select] of selects) {
    const wanted = choices(param.type);
    const key = JSON.stringify(wanted);
    if (select.dataset.key !== key) {
      select.dataset.key = key;
      select.replaceChildren(...wanted.map(([value, text]) => option(value, text)), ...param.words.map((w) => option(w, w)));
    }
    const value = window.attnviz.word(analysis, param.name) ?? selection[param.type];
    select.value = value === null ? "" : String(value);
    select.disabled = value === null;
  }
}
window.attnviz.listen(show);
show(window.attnviz.selection);
