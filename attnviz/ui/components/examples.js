// Prompts to try, by kind. Event: 'pick'.
const {element: make, button} = window.attnviz;
const slot = element.querySelector(".app-part");

function draw() {
  slot.replaceChildren();
  const list = (props.value && props.value.examples) || [];
  list.forEach(([category, prompt], index) => {
    const row = button("app-example");
    row.title = prompt;
    row.append(make("span", "app-kind", category), make("span", "app-sample", prompt));
    row.addEventListener("click", () => trigger("pick", {category, prompt, index}));
    slot.append(row);
  });
}
watch("value", draw);
draw();
