// Under an attribution: the offer to judge it, how far that is, and the figures. Event: 'judge'.
const {element: make, button} = window.attnviz;
const slot = element.querySelector(".app-part");
const {analysis} = constants;
let chosen = 0;
let waiting = false;  // for an answer that was asked for here and not given up

const number = (value) => value === null ? "–" : String(Number(value.toPrecision(3)));

function asker(text) {
  const made = button("app-small app-judge", text);
  made.title = "Takes the best ranked sources away, beside random orders of the same sources.";
  made.addEventListener("click", () => { waiting = true; trigger("judge", {analysis}); });
  return made;
}

function picker(targets) {
  const label = make("label", "app-judged-target", "Target "), list = make("select");
  targets.forEach(({name}, index) => {
    const one = make("option", "", name);
    one.value = String(index);
    list.append(one);
  });
  list.value = String(chosen);
  list.addEventListener("change", () => { chosen = Number(list.value); draw(); slot.querySelector("select")?.focus(); });
  label.append(list);
  return label;
}

function tableOf(rows) {
  const table = make("table", "app-table"), head = make("tr"), top = make("thead"), body = make("tbody");
  for (const name of ["figure", "better", "value", "random orders: mean ± sd", "of them beaten", "unit"]) {
    const cell = make("th", "", name);
    cell.setAttribute("scope", "col");
    head.append(cell);
  }
  for (const [figure, better, value, mean, deviation, beaten, unit] of rows) {
    const line = make("tr");
    const random = mean === null ? "–" : `${number(mean)} ± ${number(deviation)}`;
    const share = beaten === null ? "–" : `${Math.round(100 * beaten)} %`;
    line.append(make("td", "", figure), make("td", "", better), make("td", "app-number", number(value)),
      make("td", "app-number", random), make("td", "app-number", share), make("td", "", unit));
    body.append(line);
  }
  top.append(head);
  table.append(top, body);
  const frame = make("div", "app-table-frame");
  frame.tabIndex = 0;
  frame.append(table);
  return frame;
}

function ready(value) {
  if (value.signature !== (window.attnviz.signature(analysis))) return [asker("Faithfulness")];  // of an earlier picture
  if (chosen >= value.targets.length) chosen = 0;
  const head = make("div", "app-judged-head");
  head.append(make("strong", "", "Faithfulness"), picker(value.targets));
  const more = "Every share and the curves: Faithfulness in the menu of this tab.";
  return [head, tableOf(value.targets[chosen].rows), make("div", "app-info", [...value.info, more].join(" ")),
    ...value.warnings.map((warning) => make("div", "app-notice app-is-warning", warning))];
}

function progress(value) {
  const box = make("div", "app-notice app-is-progress"), bar = make("span", "app-progress"), done = make("span", "app-done");
  box.setAttribute("role", "status");
  done.style.width = `${Math.round(100 * Math.max(0, Math.min(1, value.share)))}%`;
  bar.setAttribute("role", "progressbar");
  bar.setAttribute("aria-valuenow", Math.round(100 * value.share));
  bar.append(done);
  box.append(make("span", "app-notice-text", value.text), bar);
  return [box];
}

function problem(value) {
  const box = make("div", "app-notice app-is-error", value.text);
  box.setAttribute("role", "alert");
  return [box, asker("Try again")];
}

function draw() {
  const value = props.value && props.value.state === "progress" && !waiting ? {state: "offer"} : props.value;
  slot.dataset.state = (value && value.state) || "";
  if (!value) { slot.replaceChildren(); return; }
  const drawn = {
    offer: () => [asker("Faithfulness")], reason: () => [make("div", "app-info", value.text)],
    progress: () => progress(value), error: () => problem(value), ready: () => ready(value),
  };
  slot.replaceChildren(...drawn[value.state]());
}
document.addEventListener("click", (event) => {  // Cancel ends the work: nothing comes any more
  if (!waiting || !event.target.closest("#app-cancel")) return;
  waiting = false;
  draw();
});
watch("value", draw);
draw();
