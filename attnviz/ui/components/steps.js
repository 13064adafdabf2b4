// The steps of an agent as a list: what it thought, called, was told and answered. Shared by the strip and by an answer
// in the making. Tool names, arguments and observations are untrusted: text only.
window.attnviz.steps = (agent, pick) => {
  const {element: make, button} = window.attnviz;
  const ENDED = {
    answer: "it answered",
    steps: "as many turns as were allowed, without an answer",
    length: "a turn was longer than allowed",
    room: "the model has no more positions",
    errors: "what it wrote could not be used, twice",
    cancelled: "cancelled; this is what there is",
  };

  function summary() {
    const count = `${agent.steps.length} step${agent.steps.length === 1 ? "" : "s"}`;
    if (!agent.ended) return `Agent at work: ${count} so far.`;
    return `Agent: ${count} in ${agent.calls} turn${agent.calls === 1 ? "" : "s"}, ${agent.seconds}. `
      + `Ended: ${ENDED[agent.ended] || agent.ended}. Tools: ${agent.tools.join(", ")}.`;
  }

  function row(step) {
    const made = button("app-step");
    made.dataset.kind = step.kind;
    made.dataset.start = step.start;
    made.dataset.stop = step.stop;
    if (step.failed || step.kind === "error") made.classList.add("app-step-failed");
    const words = make("span", "app-step-words");
    if (step.tool && !step.text.startsWith(step.tool)) words.append(make("span", "app-step-tool", step.tool));
    words.append(make("span", "app-step-text", step.text));
    if (step.arguments) words.append(make("span", "app-step-more", `arguments ${step.arguments}`));
    if (step.failed) words.append(make("span", "app-step-more", "the call failed"));
    if (step.note) words.append(make("span", "app-step-more", step.note));
    made.append(make("span", "app-step-kind", step.kind), words, make("span", "app-step-time", step.seconds));
    const there = step.start < step.stop;
    made.title = there ? `tokens ${step.start} to ${step.stop - 1}` : "has no tokens: the model was not told";
    if (pick && there) made.addEventListener("click", () => pick(step)); else made.disabled = true;
    return made;
  }

  const home = make("details", "app-steps");
  home.open = true;
  const list = make("div", "app-step-list");
  list.setAttribute("role", "group");
  list.setAttribute("aria-label", "Steps of the agent");
  list.append(...agent.steps.map(row));
  home.append(make("summary", "app-steps-summary", summary()), list);
  return home;
};
