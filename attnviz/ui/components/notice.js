// One line about work in progress, an error, or why something is not there.
const {element: make, button} = window.attnviz;
const slot = element.querySelector(".app-part");

function draw() {
  const value = props.value;
  slot.replaceChildren();
  if (!value || !value.text) return;
  const box = make("div", `app-notice app-is-${value.kind}`);
  box.setAttribute("role", value.kind === "error" ? "alert" : "status");
  box.append(make("span", "app-notice-text", value.text));
  if (value.kind === "progress") {
    const bar = make("span", "app-progress");
    const done = make("span", "app-done");
    done.style.width = `${Math.round(100 * Math.max(0, Math.min(1, value.share)))}%`;
    bar.setAttribute("role", "progressbar");
    bar.setAttribute("aria-valuenow", Math.round(100 * value.share));
    bar.append(done);
    box.append(bar);
  }
  if (value.again) {
    const again = button("app-small", "Run again");
    again.addEventListener("click", () => document.querySelector("#app-run")?.click());
    box.append(again);
  }
  slot.append(box);
}
watch("value", draw);
draw();
