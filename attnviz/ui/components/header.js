// Name of the app, and the switch between light and dark.
const {element: make, button} = window.attnviz;
const slot = element.querySelector(".app-part");
const head = make("div", "app-header");
head.append(make("span", "app-name", "attnviz"));
const theme = button("app-small", "◐");
theme.setAttribute("aria-label", "Light or dark");
theme.title = "Light or dark";
theme.addEventListener("click", () => document.body.classList.toggle("dark"));
head.append(theme);
slot.append(head);
