// The page: one selection (layer, head, token), the address, and the views that follow both.
// Loaded once, in the head. Everything that draws builds its DOM with textContent: all data is untrusted.
(() => {
  "use strict";
  if (window.attnviz) return;

  const KEYS = ["layer", "head", "token"];
  const selection = {layer: null, head: null, token: null};
  const words = {};            // analysis -> {parameter: word}, such as {head: "mean"}
  const views = {};            // analysis -> name of the renderer the user chose
  const bars = new Map();      // analysis -> {value, element, recompute}
  const listeners = new Set();
  let run = null;              // {id, address, heads: heads per layer, layers: names, tokens: labels}
  let tab = null;

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const button = (className, text) => {
    const made = element("button", className, text);
    made.type = "button";
    return made;
  };
  const visible = (node) => node.isConnected && node.offsetParent !== null;
  const whole = (value, below) => Number.isInteger(value) && value >= 0 && value < below;
  const readable = (label) => label.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ +$/, (s) => "·".repeat(s.length))
    .replace(/[\u0000-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)));  // pictures of control characters

  const inflate = async (text) => {
    const raw = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  // ---- selection

  const allowed = () => ({
    layer: run ? run.heads.length : 0,
    head: run ? (run.heads[selection.layer] || Math.max(0, ...run.heads)) : 0,
    token: run ? run.tokens.length : 0,
  });

  function settle() {  // the selection names things this run has
    if (!run) { KEYS.forEach((key) => { selection[key] = null; }); return; }
    const first = Math.max(0, run.heads.findIndex((heads) => heads > 0));
    if (!whole(selection.layer, run.heads.length)) selection.layer = run.heads.length ? first : null;
    if (!whole(selection.head, allowed().head)) selection.head = allowed().head ? 0 : null;
    if (!whole(selection.token, run.tokens.length)) selection.token = run.tokens.length ? run.tokens.length - 1 : null;
  }

  function announce(changed) {
    for (const listener of [...listeners]) listener({...selection}, changed);
    writeAddress();
  }

  function select(partial, analysis) {
    const before = {...selection};
    for (const key of KEYS) {
      const value = partial[key];
      if (value === undefined) continue;
      const bound = key === "head" && whole(partial.layer, run ? run.heads.length : 0)
        ? (run.heads[partial.layer] || allowed().head) : allowed()[key];
      if (whole(value, bound)) selection[key] = value;
    }
    settle();
    const changed = KEYS.filter((key) => selection[key] !== before[key]);
    const freed = analysis ? forgetWords(analysis, Object.keys(partial)) : false;
    if (changed.length) announce(changed);
    for (const [name, bar] of bars) {
      if (!bar.value || !visible(bar.element)) continue;
      const linked = Object.values(bar.value.linked);
      const follows = bar.value.follows && !(freed && name === analysis);
      if (!follows && (freed || linked.some((type) => changed.includes(type)))) later(bar);
    }
  }

  function forgetWords(analysis, keys) {  // an index was chosen: "mean" no longer holds
    const bar = bars.get(analysis), mine = words[analysis];
    if (!bar || !bar.value || !mine) return false;
    const freed = Object.keys(mine).filter((name) => keys.includes(bar.value.linked[name]));
    freed.forEach((name) => { delete mine[name]; });
    if (freed.length) announce([]);
    return freed.length > 0;
  }

  function later(bar) {
    clearTimeout(bar.timer);
    bar.timer = setTimeout(() => bar.recompute(), 120);
  }

  function setWord(analysis, parameter, word) {
    const mine = words[analysis] = words[analysis] || {};
    if (word === null) delete mine[parameter]; else mine[parameter] = word;
    announce([]);
    const bar = bars.get(analysis);
    if (bar) bar.recompute();
  }

  // What the server gets for an analysis: the values of its controls, and the selection for the linked ones.
  function params(analysis) {
    const bar = bars.get(analysis);
    if (!bar || !bar.value) return {};
    const linked = {};
    for (const [name, type] of Object.entries(bar.value.linked)) {
      linked[name] = (words[analysis] || {})[name] ?? selection[type];
    }
    return {...bar.value.given, ...linked};
  }

  // ---- address

  let writing = null, known = false;
  // Not before the first run: until then the address is what was asked for. Delayed, because browsers refuse more than
  // about 200 changes in 30 seconds.
  function writeAddress() {
    clearTimeout(writing);
    if (!known) return;
    writing = setTimeout(() => {
      const url = new URL(location.href);
      const put = (key, value) => value === null || value === undefined || value === ""
        ? url.searchParams.delete(key) : url.searchParams.set(key, value);
      const address = run ? run.address : {};
      for (const key of ["run", "model", "prompt", "long", "answer", "temperature", "top_p", "repetition_penalty", "seed",
        "stop", "then", "turns", "agent", "tools", "category", "format", "backend", "device", "data", "file", "window", "item",
        "constant"]) {
        put(key, address[key]);
      }
      put("tab", tab);
      const open = [...bars.values()].find((bar) => visible(bar.element));
      put("analysis", open && open.element.dataset.alone !== "1" ? open.element.dataset.analysis : null);
      for (const key of KEYS) put(key, run ? selection[key] : null);
      if (url.href !== location.href) history.replaceState(history.state, "", url);
    }, 150);
  }

  function place(opened) {
    if (opened) tab = opened;
    const shown = {};
    for (const [name, bar] of bars) if (bar.value) shown[name] = bar.value.signature;
    setTimeout(() => { refreshStatus(); writeAddress(); }, 60);
    return {tab, selection: {...selection}, words, views, shown};
  }

  const firstPlace = () => ({...place(null), url: Object.fromEntries(new URLSearchParams(location.search))});

  function setRun(value) {
    const before = run && run.id;
    run = value && value.id ? value : null;
    known = known || run !== null;
    if (run && run.id !== before) {
      for (const key of abouts.keys()) if (JSON.parse(key)[0] !== run.id) abouts.delete(key);
      selection.token = null;
      if (run.selection) Object.assign(selection, run.selection);
    }
    settle();
    announce(KEYS);
  }

  // ---- views

  const renderers = new Map();  // name -> {style, draw}; draw(root, data, host) is the body the renderer brings
  const define = (name, style, draw) => { renderers.set(name, {style, draw}); };

  const styled = new Set();
  function addStyle(name, text) {
    if (!text || styled.has(name)) return;
    styled.add(name);
    const sheet = document.createElement("style");
    sheet.dataset.renderer = name;
    sheet.textContent = text;
    document.head.append(sheet);
  }

  // Mounts a renderer in a gr.HTML component: its view, or two of them beside each other.
  function mount({element: home, props, watch, server, name, beside}) {
    const slot = home.querySelector(".app-part");
    if (!renderers.has(name)) {
      slot.replaceChildren(element("div", "app-broken", `The script of the renderer ${name} cannot be read by this browser.`));
      return;
    }
    const {style, draw: drawOne} = renderers.get(name), draw = beside ? window.attnviz.beside(drawOne) : drawOne;
    addStyle(name, style);
    let view = null, value = null, stale = false, answers = new Map();

    const ask = async (request) => {  // a second asker of the same thing gets the same answer
      const key = JSON.stringify(request);
      if (!answers.has(key)) {
        const asked = server.fetch_detail(request);
        answers.set(key, asked);
        asked.catch(() => answers.delete(key));
        if (answers.size > 64) answers.delete(answers.keys().next().value);
      }
      const answer = await answers.get(key);
      if (answer && answer.error) { answers.delete(key); throw new Error(answer.error); }
      return answer;
    };

    const host = {
      get selection() { return {...selection}; },
      select: (partial) => select(partial || {}, value && value.analysis),
      fetch: async (partial) => {
        const request = {run: value.run, analysis: value.analysis, renderer: name,
                         params: {...params(value.analysis), ...partial}};
        const answer = await ask(request);
        if (run && value && request.run === run.id) {
          abouts.set(aboutKey(request.run, request.analysis, request.params), answer.about);
          refreshStatus();
        }
        return answer.detail;
      },
      part: async (what, partial) => {
        const request = {run: value.run, analysis: value.analysis, renderer: name,
                         params: {...value.params, ...partial}, part: what};
        return (await ask(request)).detail;
      },
      point: () => {},
      inflate,
      dark: () => document.body.classList.contains("dark"),
      offline: false,
    };
    const guarded = (work) => {
      try { work(); } catch (error) {
        slot.replaceChildren(element("div", "app-broken", `The view ${name} failed: ${error}`));
        console.error(error);
      }
    };
    const show = () => {
      if (!view || !view.show) return;
      if (!visible(slot)) { stale = true; return; }
      stale = false;
      guarded(() => view.show({...selection}));
    };
    const destroy = () => {
      if (view && view.destroy) guarded(() => view.destroy());
      view = null;
    };
    let wanted = null;         // the value whose data is on its way
    const clear = () => { destroy(); value = null; slot.replaceChildren(); };
    const build = async () => {
      const fresh = wanted = props.value;
      if (!fresh || !fresh.run) { clear(); return; }
      const other = !value || value.run !== fresh.run || value.analysis !== fresh.analysis;
      if (other) { clear(); answers = new Map(); }
      else if (view && fresh.data === undefined && JSON.stringify(fresh) === JSON.stringify(value)) return;
      let data = fresh.data, problem = null;
      if (data === undefined) {
        try {
          data = (await ask({run: fresh.run, analysis: fresh.analysis, renderer: name, params: fresh.params, whole: true})).detail;
        } catch (error) { problem = error; }
        if (wanted !== fresh || !slot.isConnected) return;
      }
      destroy();
      value = fresh;
      const root = element("div");
      slot.replaceChildren(root);
      if (problem) { root.append(element("div", "app-notice app-is-error", problem.message || String(problem))); root.dataset.ready = "1"; return; }
      guarded(() => { view = draw(root, data, host) || {}; });
      show();
    };
    const listener = (_, changed) => { if (changed.length) show(); };
    const onTheme = new MutationObserver(() => { if (view && view.theme) guarded(() => view.theme()); });
    const onSize = new ResizeObserver(() => {
      if (!slot.isConnected) { listeners.delete(listener); onTheme.disconnect(); onSize.disconnect(); destroy(); }
      else if (stale) show();
    });
    listeners.add(listener);
    onTheme.observe(document.body, {attributes: true, attributeFilter: ["class"]});
    onSize.observe(slot);
    watch("value", build);
    build();
  }

  // ---- what is open

  const statusListeners = new Set();
  const abouts = new Map();  // what was asked for -> seconds, cached and provenance of it, for the run in the strip
  const aboutKey = (id, analysis, given) => JSON.stringify([id, analysis, Object.entries(given).sort()]);
  function refreshStatus() {
    const open = [...bars.entries()].find(([, bar]) => visible(bar.element) && bar.value);
    let about = null;  // a view of another run, or a head that is not here yet, has none
    if (open && run && open[1].value.run === run.id) {
      const [analysis, {value}] = open;
      about = value.follows ? abouts.get(aboutKey(run.id, analysis, params(analysis))) || null : value;
    }
    for (const listener of statusListeners) listener(run, about);
  }

  const signature = (analysis) => bars.get(analysis)?.value?.signature ?? null;  // of what its panel shows

  function setBar(analysis, bar) {
    bars.set(analysis, bar);
    if (bar.value) abouts.set(aboutKey(bar.value.run, analysis, bar.value.made), bar.value);
    refreshStatus();
    writeAddress();
  }

  function askAgain() {  // once what came with the run is in its place
    setTimeout(() => { for (const bar of bars.values()) if (visible(bar.element)) bar.recompute(); }, 0);
  }

  const copy = async (text) => { try { await navigator.clipboard.writeText(text); return true; } catch { return false; } };

  // Of this browser: where saved runs are each browser's own, it tells whose they are.
  function browserKey() {
    try {
      let mine = localStorage.getItem("attnviz.key");
      if (!/^[0-9a-f]{32}$/.test(mine || "")) {
        mine = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
        localStorage.setItem("attnviz.key", mine);
      }
      return mine;
    } catch { return ""; }
  }

  // What is left in the prompt once Continue is done: nothing if its text is the last turn of the conversation now.
  const leftToSay = (typed) => (run && run.said === typed ? "" : typed);

  window.attnviz = {opening: "", browserKey, leftToSay, element, button, readable, copy, visible, select, setWord, params, place, firstPlace, setRun, setBar, signature, define, mount, askAgain,
    refreshStatus, opened: (title) => { tab = title; }, listen: (f) => listeners.add(f), onStatus: (f) => statusListeners.add(f),
    word: (analysis, parameter) => (words[analysis] || {})[parameter] ?? null,
    choose: (analysis, renderer) => { views[analysis] = renderer; },
    get selection() { return {...selection}; }, get run() { return run; }};
})();
