// The tokens of a text as buttons, bracketed by role. Needs _common.js.
//
//   tokenStrip({tokens, segments, generatedFrom, onPick(i), describe(i) -> text, onFocus(i), onLeave(), label})
//     -> {element, button(i), shade(colours), select(i), retitle()}      colours: [[r, g, b] or null, …], one per token
//
//   label  what the tokens are, for those who cannot see it
// Of a long text each token gets its description when it is looked at.

const TITLED_AT_ONCE = 500;

function tokenGroups(count, segments, generatedFrom) {
  const cuts = generatedFrom === null || generatedFrom === undefined
    ? [{ role: "", start: 0, stop: count }]
    : [{ role: "prompt", start: 0, stop: generatedFrom }, { role: "answer", start: generatedFrom, stop: count }];
  if (!segments.length) return cuts.filter((group) => group.stop > group.start);
  const groups = [];
  let next = 0;
  for (const segment of [...segments].sort((a, b) => a.start - b.start)) {
    if (segment.start > next) groups.push({ role: "", start: next, stop: segment.start });
    if (segment.stop > next) groups.push({ role: segment.role, start: Math.max(next, segment.start), stop: segment.stop });
    next = Math.max(next, segment.stop);
  }
  if (next < count) groups.push({ role: "", start: next, stop: count });
  return groups;
}

function tokenStrip({ tokens, segments, generatedFrom, onPick, describe, onFocus, onLeave, label }) {
  const element = make("div", { class: "av-tokens", role: "toolbar", "aria-label": `${label || plural(tokens.length, "token")}; arrow keys move, Enter selects` });
  const buttons = [];
  for (const group of tokenGroups(tokens.length, segments || [], generatedFrom)) {
    const box = make("div", { class: "av-turn", role: "group", "aria-label": group.role || "text" });
    box.dataset.role = group.role;
    if (group.role) box.append(make("span", { class: "av-role", "aria-hidden": "true" }, group.role));
    const line = make("span", { class: "av-turn-tokens" });
    for (let i = group.start; i < group.stop; i++) {
      const button = make("button", { type: "button", class: "av-token", tabindex: "-1", "aria-pressed": "false" }, visibleText(tokens[i]));
      button.dataset.index = i;
      if (generatedFrom !== null && generatedFrom !== undefined && i >= generatedFrom) button.classList.add("av-generated");
      buttons.push(button);
      line.append(button);
      if (String(tokens[i]).endsWith("\n")) line.append(make("span", { class: "av-break", "aria-hidden": "true" }));
    }
    box.append(line);
    element.append(box);
  }
  let focus = -1;
  const reach = (i) => {  // only one token is in the tab order
    if (focus >= 0) buttons[focus].tabIndex = -1;
    focus = i;
    if (i >= 0) buttons[i].tabIndex = 0;
  };
  if (buttons.length) reach(buttons.length - 1);
  const indexOf = (event) => {
    const button = event.target.closest(".av-token");
    return button ? Number(button.dataset.index) : -1;
  };
  const name = (i) => {
    const text = describe(i);
    buttons[i].title = text;
    buttons[i].setAttribute("aria-label", text);
  };
  const look = (i) => { if (buttons.length > TITLED_AT_ONCE) name(i); if (onFocus) onFocus(i); };
  element.addEventListener("click", (event) => { const i = indexOf(event); if (i >= 0) onPick(i); });
  element.addEventListener("focusin", (event) => { const i = indexOf(event); if (i >= 0) { reach(i); look(i); } });
  element.addEventListener("pointerover", (event) => { const i = indexOf(event); if (i >= 0) look(i); });
  if (onLeave) {
    element.addEventListener("pointerleave", () => onLeave());
    element.addEventListener("focusout", () => onLeave());
  }
  element.addEventListener("keydown", (event) => {
    const i = indexOf(event);
    if (i < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: i - 1, ArrowRight: i + 1, ArrowUp: i - 1, ArrowDown: i + 1, Home: 0, End: buttons.length - 1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    buttons[Math.max(0, Math.min(buttons.length - 1, steps[event.key]))].focus();
  });
  const retitle = () => { if (buttons.length <= TITLED_AT_ONCE) buttons.forEach((_, i) => name(i)); };
  const shades = buttons.map(() => "");
  retitle();
  return {
    element,
    retitle,
    button: (i) => buttons[i],
    shade(colours) {
      buttons.forEach((button, i) => {
        const colour = colours[i], shade = colour ? cssColour(colour) : "";
        if (shade === shades[i]) return;
        shades[i] = shade;
        button.style.backgroundColor = shade;
        button.style.color = colour ? inkOn(colour) : "";
      });
      retitle();
    },
    select(i) {
      buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(k === i)));
      if (i === null || i === undefined || !buttons[i]) return;
      reach(i);
      const box = element.getBoundingClientRect(), place = buttons[i].getBoundingClientRect();
      if (place.top < box.top || place.bottom > box.bottom) element.scrollTop += place.top - box.top - box.height / 3;
    },
  };
}
