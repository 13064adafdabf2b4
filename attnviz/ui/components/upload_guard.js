// Keeps a file that is too large to be read from being uploaded at all, and says so in place.
const {element: make} = window.attnviz;
const slot = element.querySelector(".app-part");

function tooLarge(files) {
  const file = [...(files || [])].find((each) => each.size > constants.most);
  slot.replaceChildren();
  if (!file) return false;
  const box = make("div", "app-notice app-is-error");
  const most = constants.most / 2 ** 20, size = Math.ceil(file.size / 2 ** 20);
  box.setAttribute("role", "alert");
  box.append(make("span", "app-notice-text", `${file.name}: expected at most ${most} MiB, got ${size}: cut it. It was not uploaded.`));
  slot.append(box);
  return true;
}

const guarded = (event) => {
  if (!slot.isConnected) { for (const kind of ["change", "drop"]) document.removeEventListener(kind, guarded, true); return; }
  if (!event.target.closest || !event.target.closest(`#${constants.within}`)) return;
  const files = event.type === "drop" ? event.dataTransfer && event.dataTransfer.files : event.target.files;
  if (!tooLarge(files)) return;
  event.stopImmediatePropagation();
  event.preventDefault();
  if (event.type === "change") event.target.value = "";
};
for (const kind of ["change", "drop"]) document.addEventListener(kind, guarded, true);
