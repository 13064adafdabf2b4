// Prompt and answer, token by token, bracketed by role; one token is selected. Arrows move, Home and End jump.
const {element: make, button, readable} = window.attnviz;
const slot = element.querySelector(".app-part");
let tokens = [], steps = [];

function bracket(role) {
  const group = make("span", "app-turn");
  group.dataset.role = role;
  group.append(make("span", "app-role", role));
  return group;
}

function draw() {
  const value = props.value;
  slot.replaceChildren();
  tokens = [];
  steps = [];
  if (!value || !value.id) { window.attnviz.setRun(null); return; }
  const strip = make("div", "app-strip");
  strip.setAttribute("role", "listbox");
  strip.setAttribute("aria-label", "Tokens of the prompt and the answer");
  strip.setAttribute("aria-orientation", "horizontal");
  const starts = new Map(value.segments.map(([role, start, stop]) => [start, [role, stop]]));
  let group = strip, end = -1;
  value.tokens.forEach((label, index) => {
    if (index === end) group = strip;
    if (starts.has(index)) {
      const [role, stop] = starts.get(index);
      group = bracket(role);
      strip.append(group);
      end = stop;
    }
    const token = button("app-token", readable(label) || "∅");
    token.setAttribute("role", "option");
    token.tabIndex = -1;
    token.title = `token ${index} · id ${value.ids[index]}${value.special.includes(index) ? " · control token" : ""}`;
    if (value.special.includes(index)) token.classList.add("app-special");
    if (value.generated_from !== null && index >= value.generated_from) token.classList.add("app-generated");
    token.dataset.index = index;
    group.append(token);
    if (label.endsWith("\n")) group.append(make("span", "app-break"));
    tokens.push(token);
  });
  slot.append(strip);
  if (value.agent) {
    const list = window.attnviz.steps(value.agent, (step) => window.attnviz.select({token: step.start}));
    steps = [...list.querySelectorAll(".app-step")];
    slot.append(list);
  }
  window.attnviz.setRun(value);
  if (value.ask) window.attnviz.askAgain();
}

function within(step, index) {
  return Number(step.dataset.start) <= index && index < Number(step.dataset.stop);
}

function showStep(index) {  // the step that the token is of, and its tokens
  const current = steps.find((step) => within(step, index));
  for (const step of steps) {
    if (step === current) step.setAttribute("aria-current", "step"); else step.removeAttribute("aria-current");
  }
  if (steps.length) tokens.forEach((token, at) => token.classList.toggle("app-in-step", Boolean(current) && within(current, at)));
}

function show(selection) {
  showStep(selection.token);
  const before = slot.querySelector('[aria-selected="true"]');
  if (before) { before.setAttribute("aria-selected", "false"); before.tabIndex = -1; }
  const token = tokens[selection.token];
  if (!token) return;
  token.setAttribute("aria-selected", "true");
  token.tabIndex = 0;
  const strip = token.closest(".app-strip");
  const above = token.offsetTop - strip.scrollTop, below = above + token.offsetHeight - strip.clientHeight;
  if (above < 0) strip.scrollTop += above; else if (below > 0) strip.scrollTop += below;
}

slot.addEventListener("click", (event) => {
  const token = event.target.closest(".app-token");
  if (token) window.attnviz.select({token: Number(token.dataset.index)});
});
slot.addEventListener("keydown", (event) => {
  const at = tokens.indexOf(event.target);
  const steps = {ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: tokens.length - 1};
  if (at < 0 || !(event.key in steps)) return;
  event.preventDefault();
  const next = Math.max(0, Math.min(tokens.length - 1, steps[event.key]));
  window.attnviz.select({token: next});
  tokens[next].focus();
});

window.attnviz.listen(show);
watch("value", draw);
draw();
