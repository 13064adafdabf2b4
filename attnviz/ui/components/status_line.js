// The bottom line: the model, the run, and where the picture that is open came from.
const {element: make, button, copy} = window.attnviz;
const slot = element.querySelector(".app-part");

const ENDED = {
  "end token": "The model ended its answer.",
  "length": "The answer is as long as was asked for; the model may have had more to say.",
  "stop text": "The answer contains one of the stop texts.",
  "cancelled": "Generation was cancelled; this is the answer so far.",
  "answer": "The agent answered.",
  "steps": "The agent took as many turns as were allowed.",
  "room": "The model has no more positions.",
  "errors": "What the agent wrote could not be used, twice in a row.",
};

function item(name, text, title) {
  const made = make("span", "app-item");
  made.append(make("span", "app-key", name), make("span", "app-value", text));
  if (title) made.title = title;
  return made;
}

function draw(run, view) {
  slot.replaceChildren();
  if (!run) return;
  const line = make("div", "app-status");
  line.setAttribute("role", "status");
  line.append(item("Model", run.card.summary, run.card.details));
  line.append(item("Tokens", run.generated_from === null ? String(run.tokens.length)
    : `${run.generated_from} + ${run.tokens.length - run.generated_from}`,
    run.generated_from === null ? "tokens of the prompt" : "tokens of the prompt + of the answer"));
  if (run.ended) line.append(item("Ended by", run.ended, ENDED[run.ended]));
  line.append(item("Route", run.card.route, run.card.route_reason));
  if (view) {
    line.append(item("Time", `${view.seconds}${view.cached ? " · cached" : ""}`, view.cached ? "Taken from memory" : "Computed now"));
    const mark = button("app-provenance", view.provenance.slice(0, 10));
    mark.title = `${view.provenance}\nSHA-256 of model, input, parameters, versions and numbers. Click to copy.`;
    mark.addEventListener("click", async () => { if (await copy(view.provenance)) mark.textContent = "copied"; });
    const held = make("span", "app-item");
    held.append(make("span", "app-key", "Provenance"), mark);
    line.append(held);
  }
  slot.append(line);
}
window.attnviz.onStatus(draw);
window.attnviz.listen(() => window.attnviz.refreshStatus());
window.attnviz.refreshStatus();
