// A table; a click on a heading sorts by it.
const {element: make, button} = window.attnviz;
const slot = element.querySelector(".app-part");
let order = {column: null, up: true};

const text = (cell) => cell === null ? "–" : typeof cell === "number" ? String(Number.isInteger(cell) ? cell : Number(cell.toPrecision(6))) : String(cell);

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
}

function draw() {
  slot.replaceChildren();
  const value = props.value;
  if (!value || !value.columns) return;
  const rows = [...value.rows];
  if (order.column !== null && order.column < value.columns.length) {
    rows.sort((a, b) => compare(a[order.column], b[order.column]) * (order.up ? 1 : -1));
  }
  const table = make("table", "app-table"), head = make("tr"), body = make("tbody");
  value.columns.forEach((name, column) => {
    const cell = make("th"), sorter = button("app-sort", name);
    const mine = order.column === column;
    cell.setAttribute("scope", "col");
    cell.setAttribute("aria-sort", mine ? (order.up ? "ascending" : "descending") : "none");
    sorter.addEventListener("click", () => { order = {column, up: mine ? !order.up : true}; draw(); });
    cell.append(sorter);
    head.append(cell);
  });
  for (const row of rows) {
    const line = make("tr");
    for (const cell of row) line.append(make("td", typeof cell === "number" ? "app-number" : "", text(cell)));
    body.append(line);
  }
  const top = make("thead");
  top.append(head);
  table.append(top, body);
  const frame = make("div", "app-table-frame");
  frame.tabIndex = 0;
  frame.append(table);
  if (value.count > value.rows.length) {
    const said = `The first ${value.rows.length} of ${value.count} rows. Export gives all of them.`;
    slot.append(make("div", "app-info app-rows-left", said));
  }
  slot.append(frame);
}
watch("value", draw);
draw();
