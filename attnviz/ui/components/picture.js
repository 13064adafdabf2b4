// A PNG, as data in the page: nothing is written to a folder for it.
const slot = element.querySelector(".app-part");

function draw() {
  slot.replaceChildren();
  if (!props.value || !props.value.png) return;
  const image = window.attnviz.element("img", "app-picture");
  image.src = `data:image/png;base64,${props.value.png}`;
  image.alt = props.value.title;
  slot.append(image);
}
watch("value", draw);
draw();
