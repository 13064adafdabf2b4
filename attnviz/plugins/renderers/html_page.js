(function () {
  "use strict";
  // A page for one view, without a server: selection, theme, packed data. The view is a function (root, data, host).
  const file = JSON.parse(document.getElementById("attnviz-data").textContent);
  const root = document.getElementById("attnviz-view");
  const selection = { layer: null, head: null, token: null };
  let view = {};

  function add(parent, tag, text, name) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    parent.append(element);
    return element;
  }

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const toggle = document.getElementById("attnviz-theme");
  function setTheme(isDark) {
    document.body.classList.toggle("dark", isDark);
    toggle.textContent = isDark ? "Light" : "Dark";
    toggle.setAttribute("aria-label", isDark ? "Use the light theme" : "Use the dark theme");
    if (view.theme) view.theme();
  }
  toggle.addEventListener("click", () => setTheme(!document.body.classList.contains("dark")));
  dark.addEventListener("change", (event) => setTheme(event.matches));

  const host = {
    selection,
    offline: true,
    dark: () => document.body.classList.contains("dark"),
    select(partial) {
      Object.assign(selection, partial);
      if (view.show) view.show(selection);
    },
    point() {},
    fetch: () => Promise.reject(new Error("not in this file. It holds only what was on the screen when it was saved.")),
    part: () => Promise.reject(new Error("not in this file. It holds only what was on the screen when it was saved.")),
    async inflate(text) {
      const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      return new Uint8Array(await new Response(stream).arrayBuffer());
    },
  };

  const draw = function (root, data, host) {
/* THE VIEW */
  };

  function drawTable({ columns, rows }) {
    const scroll = add(root, "div", undefined, "page-table");
    scroll.tabIndex = 0;
    const table = add(scroll, "table");
    const head = add(add(table, "thead"), "tr");
    columns.forEach((column, j) => {
      const isNumber = rows.length > 0 && rows.every((row) => row[j] === null || typeof row[j] === "number") && rows.some((row) => row[j] !== null);
      add(head, "th", column, isNumber ? "page-number" : "").scope = "col";
    });
    const body = add(table, "tbody");
    for (const row of rows) {
      const line = add(body, "tr");
      for (const cell of row) add(line, "td", cell === null ? "–" : String(cell), typeof cell === "number" ? "page-number" : "");
    }
  }

  function describe() {
    const about = file.about;
    document.getElementById("attnviz-title").textContent = about.title;
    const facts = document.getElementById("attnviz-facts");
    const fact = (name, value) => {
      const box = add(facts, "div");
      add(box, "dt", name);
      add(box, "dd", value);
    };
    for (const line of about.warnings) add(document.getElementById("attnviz-notes"), "p", line, "page-warning");
    for (const line of about.info) add(document.getElementById("attnviz-notes"), "p", line);
    if (about.facts) {  // of several runs: there is no text of one, and no provenance
      for (const [name, value] of about.facts) fact(name, value);
      document.querySelector(".page-footer").remove();
      return;
    }
    fact("analysis", about.analysis);
    if (about.model) fact("model", about.model);
    fact("tokens", String(about.tokens));
    for (const [name, value] of Object.entries(about.params)) {
      fact(name.replace(/_/g, " "), value === null ? "not set" : typeof value === "object" ? JSON.stringify(value) : String(value));
    }
    document.getElementById("attnviz-text").textContent = about.text;
    document.getElementById("attnviz-provenance").textContent = about.provenance || "not recorded";
  }

  describe();
  setTheme(dark.matches);
  if (file.view) {
    view = draw(root, file.view, host) || {};
    if (view.show) view.show(selection);
  } else {
    drawTable(file.table);
    root.dataset.ready = "1";
  }
})();
