// Text as it is.
const slot = element.querySelector(".app-part");

function draw() {
  slot.replaceChildren();
  if (!props.value || props.value.text === undefined) return;
  const block = window.attnviz.element("pre", "app-text", props.value.text);
  block.tabIndex = 0;
  slot.append(block);
}
watch("value", draw);
draw();
