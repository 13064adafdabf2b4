// Above each view: what it shows, the switch between its pictures, its files, and the Python that makes it.
// Event: 'recompute' (the panel came into sight, another picture was chosen, or the server has to follow the selection).
const {element: make, button, copy} = window.attnviz;
const slot = element.querySelector(".app-part");
const {analysis, alone, summary, tab} = constants;
let open = null;   // "files" | "python" | null
slot.dataset.analysis = analysis;
slot.dataset.alone = alone ? "1" : "0";
const bar = {value: null, element: slot, recompute: () => trigger("recompute", {analysis})};

function viewSwitch(value) {
  const group = make("span", "app-switch");
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", "Picture");
  for (const view of value.views) {
    const choice = button("app-choice", view.title);
    choice.setAttribute("aria-pressed", String(view.name === value.renderer));
    choice.addEventListener("click", () => { window.attnviz.choose(analysis, view.name); bar.recompute(); });
    group.append(choice);
  }
  return group;
}

const request = () => ({run: bar.value.run, analysis, params: window.attnviz.params(analysis), against: bar.value.against});

function problem(text) {
  const said = make("div", "app-notice app-error", text);
  said.setAttribute("role", "alert");
  slot.querySelector(".app-drawer")?.replaceChildren(said);
}

async function save(suffix) {
  try {
    const file = await server.export_file({...request(), suffix});
    if (file.error) { problem(file.error); return; }
    const bytes = Uint8Array.from(atob(file.base64), (c) => c.charCodeAt(0));
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([bytes], {type: file.type}));
    link.download = file.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    toggle(null);
  } catch (error) { problem(`The file could not be made: ${error.message || error}`); }
}

function files(value) {
  const list = make("span", "app-files");
  for (const suffix of value.suffixes) {
    const choice = button("app-small", suffix.slice(1).toUpperCase());
    choice.title = `Save as ${suffix}`;
    choice.dataset.suffix = suffix;
    choice.addEventListener("click", () => save(suffix));
    list.append(choice);
  }
  return list;
}

async function python(drawer) {
  const block = make("pre", "app-python");
  block.tabIndex = 0;
  try {
    const answer = await server.python_code(request());
    if (answer.error) { problem(answer.error); return; }
    block.textContent = answer.text;
    const taken = button("app-small", "Copy");
    taken.addEventListener("click", async () => { taken.textContent = await copy(answer.text) ? "Copied" : "Select and copy"; });
    drawer.replaceChildren(block, taken);
  } catch (error) { problem(`The code could not be made: ${error.message || error}`); }
}

function toggle(what) {
  const pressed = what || open;
  open = open === what ? null : what;
  draw();
  slot.querySelector(`[data-opens="${pressed}"]`)?.focus();
}

function opener(what, text) {
  const made = button("app-small", text);
  made.dataset.opens = what;
  made.setAttribute("aria-expanded", String(open === what));
  made.addEventListener("click", () => toggle(what));
  return made;
}

function draw() {
  const value = props.value;
  bar.value = value && value.run ? value : null;
  slot.replaceChildren();
  const row = make("div", "app-bar");
  row.append(make("span", "app-summary", summary));
  slot.append(row);
  if (!bar.value) { open = null; window.attnviz.setBar(analysis, bar); return; }
  if (value.views.length > 1) row.append(viewSwitch(value));
  row.append(opener("files", "Export"), opener("python", "Show Python"));
  if (open) {
    const drawer = make("div", "app-drawer");
    slot.append(drawer);
    if (open === "files") drawer.append(files(value)); else python(drawer);
  }
  if (value.info.length) slot.append(make("div", "app-info", value.info.join(" ")));
  for (const warning of value.warnings) slot.append(make("div", "app-notice app-is-warning", warning));
  window.attnviz.setBar(analysis, bar);
  if (late()) setTimeout(() => { if (late()) bar.recompute(); }, 200);
}

// An answer that was under way when another run came.
const late = () => bar.value && window.attnviz.run && bar.value.run !== window.attnviz.run.id && window.attnviz.visible(slot);

slot.addEventListener("keydown", (event) => { if (event.key === "Escape" && open) { event.stopPropagation(); toggle(open); } });
let inSight = false;
new ResizeObserver(() => {
  const now = window.attnviz.visible(slot);
  if (now && !inSight) {
    window.attnviz.opened(tab);
    window.attnviz.setBar(analysis, bar);
    if (window.attnviz.run) bar.recompute();
  }
  inSight = now;
}).observe(slot);
window.attnviz.listen(() => { if (open === "python" && bar.value) { const d = slot.querySelector(".app-drawer"); if (d) python(d); } });
watch("value", draw);
draw();
