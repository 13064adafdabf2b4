// Blocks of text and tables to read: {"blocks": [{heading, text, label, columns, rows, every}]} or null. `label` names
// the table for a screen reader where the heading does not.
// Without columns the first cell of a row is its heading; "unfolded" = {columns, rows} is the same table with no row folded.
const {element: make, button} = window.attnviz;
const slot = element.querySelector(".app-part");

function row(cells) {
  const line = make("tr");
  cells.forEach((cell, at) => {
    const made = make(at === 0 ? "th" : "td", "", cell);
    if (at === 0) made.setAttribute("scope", "row");
    line.append(made);
  });
  return line;
}

function tableOf(columns, rows, label) {
  const table = make("table", "app-table app-facts"), body = make("tbody");
  table.setAttribute("aria-label", label);
  if (columns.length) {
    const top = make("thead"), head = make("tr");
    for (const name of columns) {
      const cell = make("th", "", name);
      cell.setAttribute("scope", "col");
      head.append(cell);
    }
    top.append(head);
    table.append(top);
  }
  body.append(...rows.map(row));
  table.append(body);
  return table;
}

function frameOf(block) {
  const label = block.label || block.heading;
  const frame = make("div", "app-table-frame");
  const fill = (part) => frame.replaceChildren(tableOf(part.columns, part.rows, label));
  frame.tabIndex = 0;
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", label);
  fill(block);
  if (!block.unfolded) return [frame];
  const more = button("app-small app-unfold", "");
  const show = (all) => {
    fill(all ? block.unfolded : block);
    more.textContent = all ? "Fold equal layers" : `Show all ${block.unfolded.rows.length}`;
    more.setAttribute("aria-expanded", String(all));
  };
  more.addEventListener("click", () => show(more.getAttribute("aria-expanded") !== "true"));
  show(false);
  return [frame, more];
}

function draw() {
  slot.replaceChildren();
  if (!props.value) {
    if (constants.empty) slot.append(make("p", "app-info", constants.empty));
    return;
  }
  for (const block of props.value.blocks) {
    if (block.heading) slot.append(make("h3", "app-sheet-heading", block.heading));
    if (block.text) slot.append(make("p", "app-info", block.text));
    if (block.rows.length) slot.append(...frameOf(block));
  }
}
watch("value", draw);
draw();
