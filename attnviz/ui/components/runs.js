// Saved runs. Event: 'open'. Looks for new ones only while the list is seen.
const {element: make, button} = window.attnviz;
const slot = element.querySelector(".app-part");
let search = "", category = "", every = false, version = null, listed = null, asked = 0;

const finder = make("input", "app-runs-search"), chooser = make("select", "app-runs-category");
const bar = make("div", "app-runs-bar"), said = make("div", "app-runs-said"), list = make("div", "app-runs-list");
const file = make("input"), more = button("app-small", "Show older runs");
finder.type = "search";
finder.placeholder = "Search prompts and answers";
finder.setAttribute("aria-label", "Search saved runs");
chooser.setAttribute("aria-label", "Category");
chooser.append(new Option("All categories", ""), ...Object.keys(constants.categories).map((name) => new Option(name, name)));
file.type = "file";
file.accept = ".safetensors,.json";
file.hidden = true;
const taker = button("app-small app-runs-import", "Import…");
taker.addEventListener("click", () => file.click());
said.setAttribute("role", "status");
list.setAttribute("role", "list");
bar.append(finder, chooser, taker, file);
const frame = make("div", "app-runs");
frame.append(bar, said, list, more);
if (constants.said) frame.append(make("div", "app-info", constants.said));
if (constants.folder) frame.append(make("div", "app-info", `In ${constants.folder}`));
slot.append(frame);

function tell(text, wrong) {
  said.textContent = text || "";
  said.classList.toggle("app-is-wrong", Boolean(wrong));
}

async function ask(name, request) {
  const answer = await server[name]({...request, key: window.attnviz.browserKey()});
  if (answer.error) throw new Error(answer.error);
  return answer;
}

async function refresh() {
  const mine = ++asked;
  try {
    const answer = await ask("runs_listed", {search, category, all: every});
    if (mine !== asked) return;  // something else was asked for meanwhile
    version = answer.version;
    listed = answer;
    if (answer.notice) tell(answer.notice);
    draw();
  } catch (error) {
    if (mine === asked) tell(error.message, true);
  }
}

async function act(work, done) {
  try {
    tell("");
    await work();
    if (done) tell(done);
    await refresh();
  } catch (error) { tell(error.message, true); }
}

function badge(name) {
  const made = make("span", "app-badge", name);
  made.style.background = constants.categories[name] || constants.categories.Custom;
  return made;
}

function when(text) {
  const moment = new Date(text);
  return Number.isNaN(moment.getTime()) ? text : moment.toLocaleString([], {dateStyle: "medium", timeStyle: "short"});
}

function download(found) {
  const link = make("a");
  const raw = Uint8Array.from(atob(found.base64), (c) => c.charCodeAt(0));
  link.href = URL.createObjectURL(new Blob([raw], {type: found.type}));
  link.download = found.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function small(row, name, text, work) {
  const made = button(`app-small app-run-${name}`, text);
  made.addEventListener("click", work);
  row.append(made);
  return made;
}

function rename(run, head) {
  const field = make("input", "app-runs-title");
  field.value = run.title;
  field.maxLength = 200;
  field.setAttribute("aria-label", "Title");
  let over = false;
  const end = (keep) => {
    if (over) return;
    over = true;
    field.replaceWith(head);
    if (keep && field.value.trim() && field.value !== run.title) act(() => ask("runs_rename", {id: run.id, title: field.value}));
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") end(false);
  });
  field.addEventListener("blur", () => end(true));
  head.replaceWith(field);
  field.focus();
  field.select();
}

function remove(run, row) {
  const before = [...row.childNodes];
  row.replaceChildren(make("span", "app-runs-sure", "Delete this run for good?"));
  small(row, "yes", "Delete", () => act(() => ask("runs_delete", {id: run.id}), "Deleted."));
  small(row, "no", "Keep", () => row.replaceChildren(...before)).focus();
}

function open(run) {
  window.attnviz.opening = run.id;
  trigger("open", {id: run.id});
}

function card(run) {
  const made = make("article", "app-run");
  made.setAttribute("role", "listitem");
  made.dataset.run = run.id;
  const head = make("div", "app-run-head"), title = button("app-run-title", run.title), row = make("div", "app-run-acts");
  title.addEventListener("click", () => open(run));
  title.title = "Open";
  const about = `${run.model} · ${run.tokens} tokens · ${when(run.created)}${run.kind === "run" ? "" : ` · ${run.kind}`}`;
  head.append(badge(run.category), title);
  small(row, "open", "Open", () => open(run));
  small(row, "rename", "Rename", () => rename(run, title));
  small(row, "export", "Export", () => act(async () => download(await ask("runs_export", {id: run.id, format: "run"}))));
  const json = small(row, "trajectory", "JSON", () => act(async () => download(await ask("runs_export", {id: run.id, format: "trajectory"}))));
  json.title = "Trajectory: a row of attention for each token of the answer";
  small(row, "delete", "Delete", () => remove(run, row));
  made.append(head, make("div", "app-run-about", about));
  if (run.prompt && run.prompt.trim() !== run.title) made.append(make("div", "app-run-text", run.prompt));
  if (run.response) made.append(make("div", "app-run-text app-run-answer", run.response));
  made.append(row);
  return made;
}

function draw() {
  list.replaceChildren(...listed.runs.map(card));
  const filtered = Boolean(search || category);
  if (!listed.runs.length) {
    const none = filtered ? "No saved run fits." : "Nothing is saved yet. Press “Save this run” in the left column, or import a file.";
    list.append(make("div", "app-info app-runs-none", none));
  }
  const hidden = filtered ? 0 : listed.count - listed.runs.length;
  more.hidden = !(hidden > 0 || (filtered && !every && listed.runs.length === listed.keep));
  more.textContent = hidden > 0 ? `Show ${hidden} older runs` : "Show older runs";
}

let typing = null;
finder.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => { search = finder.value; refresh(); }, 150);
});
chooser.addEventListener("change", () => { category = chooser.value; refresh(); });
more.addEventListener("click", () => { every = true; refresh(); });
file.addEventListener("change", () => {
  const given = file.files[0];
  file.value = "";
  if (!given) return;
  if (given.size > constants.largest) { tell(`${given.name}: expected at most ${constants.largest / 1048576} MiB.`, true); return; }
  act(async () => {
    const text = await new Promise((done, fail) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
      reader.onerror = () => fail(new Error(`${given.name} cannot be read.`));
      reader.readAsDataURL(given);
    });
    const answer = await ask("runs_take", {name: given.name, base64: text});
    tell(`Imported ${answer.count === 1 ? "one run" : `${answer.count} runs`}.`);
  });
});

// A list that nobody sees asks nothing.
let busy = false;
async function look() {
  if (busy || document.hidden || !window.attnviz.visible(frame)) return;
  busy = true;
  try {
    if (version === null) await refresh();
    else if ((await ask("runs_version", {})).version !== version) await refresh();
  } catch { /* the server is away; the next look may find it */ } finally { busy = false; }
}
const looking = setInterval(() => { if (frame.isConnected) look(); else clearInterval(looking); }, constants.poll * 1000);
new IntersectionObserver(() => look()).observe(frame);
