// An answer in the making: its tokens so far, shaded by what the newest was chosen from, and a line that says so.
const {element: make, readable} = window.attnviz;
const slot = element.querySelector(".app-part");
const percent = (hundredths) => `${(hundredths / 100).toFixed(hundredths < 1000 ? 1 : 0)} %`;
let key = null, strip = null, line = null, list = null, told = 0, group = null, role = null, tokens = [];

function start(value) {
  key = value.key;
  tokens = [];
  group = role = null;
  strip = make("div", "app-strip app-live");
  strip.setAttribute("role", "group");
  strip.setAttribute("aria-label", "Answer in the making");
  line = make("div", "app-info app-live-line");
  slot.replaceChildren(strip, line);
  list = null;
  told = 0;
}

function showSteps(agent) {
  if (!agent || (list && told === agent.steps.length)) return;
  const made = window.attnviz.steps(agent, null);
  if (list) list.replaceWith(made); else slot.append(made);
  list = made;
  told = agent.steps.length;
  const rows = list.querySelector(".app-step-list");
  rows.scrollTop = rows.scrollHeight;
}

function place(value, index) {  // the bracket a token belongs in
  const found = value.segments.find(([, from, to]) => from <= index && index < to);
  const name = found ? `${found[0]} ${found[1]}` : null;
  if (name !== role || !group) {
    role = name;
    group = found ? make("span", "app-turn") : strip;
    if (found) {
      group.dataset.role = found[0];
      group.append(make("span", "app-role", found[0]));
      strip.append(group);
    }
  }
  return group;
}

function grow(value) {
  const special = new Set(value.special);
  for (let index = tokens.length; index < value.labels.length; index++) {
    const label = value.labels[index];
    const token = make("span", "app-token", readable(label) || "∅");
    if (special.has(index)) token.classList.add("app-special");
    const home = place(value, index);
    home.append(token);
    if (label.endsWith("\n")) home.append(make("span", "app-break"));
    tokens.push(token);
  }
}

function shade(value) {
  const weights = value.weights || [], others = weights.filter((_, index) => index && index !== value.target);
  const top = Math.max(...(others.length ? others : weights), 1);
  tokens.forEach((token, index) => {
    const weight = weights[index] || 0;
    token.style.setProperty("--shade", Math.min(1, Math.sqrt(weight / top)).toFixed(3));
    token.title = typeof weights[index] === "number" ? `token ${index} · ${percent(weight)}` : `token ${index}`;
    token.classList.toggle("app-newest", index === value.newest);
  });
  return top;
}

function words(value, top) {
  const before = window.attnviz.run ? " Below: the run before, until this answer is complete." : "";
  if (!value.weights) {
    const why = value.missing ? `What it was chosen from is not shown. ${value.missing}` : "The prompt is being read.";
    return `Answer in the making. ${why}${before}`;
  }
  const at = value.newest - 1, both = typeof value.target === "number";
  const named = (index) => `“${readable(value.labels[index])}”`;
  const without = value.without ? ` (${value.without} more ${value.without === 1 ? "has" : "have"} none)` : "";
  const parts = both ? ", over the source and over the target 100 % each" : "";
  const firsts = [0, ...(both ? [value.target] : [])].filter((index) => typeof value.weights[index] === "number");
  const sinks = firsts.map((index) => `${index ? "that of the target" : `the first token${both ? " of the source" : ""}`} has `
    + `${percent(value.weights[index])}${value.weights[index] > top ? " and is drawn no darker" : ""}`);
  if (value.sinks > 0) sinks.push(`learned sinks beside the tokens have ${percent(value.sinks)}`);
  return `Answer in the making: token ${value.newest}, ${named(value.newest)}, was chosen at token ${at}, ${named(at)}. `
    + `Shade: weight of that row on each token, mean over all ${value.heads} heads of the ${value.layers} layers `
    + `that have one${without}${parts}; square root, darkest = ${percent(top)}. Sinks are in: ${sinks.join(", ")}.${before}`;
}

function draw() {
  const value = props.value;
  if (!value || !value.key) {
    key = strip = line = null;
    slot.replaceChildren();
    return;
  }
  if (value.key !== key) start(value);
  const atEnd = strip.scrollTop + strip.clientHeight > strip.scrollHeight - 24;
  grow(value);
  line.textContent = words(value, shade(value));
  showSteps(value.agent);
  if (atEnd) strip.scrollTop = strip.scrollHeight;
}
watch("value", draw);
draw();
