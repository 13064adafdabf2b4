"""A model of rules, and one analysis of every kind the page has to cope with."""

import os
import time

import numpy as np

from attnviz.hooks import (
    Analysis,
    Attribution,
    BadInput,
    HeadScores,
    ModelEntry,
    ModelError,
    Param,
    Renderer,
    Segment,
    Span,
    Table,
    TokenScores,
    View,
    hookimpl,
)
from attnviz.testing import FakeModel, fake_backend

LOG = os.environ.get("ATTNVIZ_TEST_LOG")


def note(what):
    """One line for each call, so that a test can see what was computed."""
    if LOG:
        with open(LOG, "a", encoding="utf-8") as file:
            file.write(what + "\n")


class Talker(FakeModel):
    """Takes a fifth of a second for each token of an answer and each changed run, and breaks off where told to fail."""

    def states(self, embeddings, tokens, positions):
        time.sleep(0.2 * len(embeddings))
        return super().states(embeddings, tokens, positions)

    def generate(self, tokens, sampling, on_token=None, cancelled=None, on_row=None):
        said = []

        def slowly(token):
            time.sleep(0.2)
            if on_token is not None:
                on_token(token)
            said.append(token)
            if "fail" in tokens.text and len(said) == 6:
                raise ModelError("The device went away. Press Run again.")

        return super().generate(tokens, sampling, slowly, cancelled, on_row)


def counted(request):
    note(f"counted {request.params['factor']}")
    scores = np.stack([c.entropy.mean(axis=1) if c is not None else np.full(4, np.nan) for c in request.trace.layers])
    return HeadScores(metrics={"m": scores * request.params["factor"]}, units={"m": "bits"}, info=("counted",))


def follow(request):
    layer, head, token = (request.params[n] for n in ("layer", "head", "token"))
    note(f"follow {layer} {head} {token}")
    return Table(columns=("layer", "head", "token"), rows=((layer, head, token),), info=(f"row of {layer}.{head}",))


def broken(request):
    if request.params["divide"]:
        raise ZeroDivisionError("no number <b>here</b>")
    return TokenScores(scores=np.zeros(len(request.tokens), np.float32), unit="none")


def refuses(request):
    raise BadInput("This analysis wants another text. Type one.")


def slow(request):
    for step in range(30):
        request.progress(step / 30, f"step {step} of 30")
        time.sleep(0.1)
    return Table(columns=("done",), rows=((1,),))


def labels_table(request):
    return Table(columns=("token <i>",), rows=tuple((label,) for label in request.tokens.labels))


def pulls(request, way=None):
    """What head 3 of layer 0, or the mean of layer 1, gives to each token; the last three tokens are targets."""
    tokens, count, way = request.tokens, len(request.tokens), way or request.params["way"]
    note(f"pulls {way} {request.params['factor']} {count}")
    copies, soft = request.trace.layers[:2]
    weights = copies.pattern(3) if way == "copies" else np.mean([soft.pattern(h) for h in range(4)], axis=0)
    scores = weights[count - 4 : count - 1] * np.where(np.arange(count) % 2, -1, 1) * request.params["factor"]
    spans = tuple(Span(i, i + 1, int(tokens.ids[i]), label) for i, label in enumerate(tokens.labels))
    return Attribution(
        method="pulls",
        target_function="logit",
        targets=spans[count - 3 :],
        sources=spans,
        scores=scores,
        normalized=scores / np.abs(scores).sum(axis=1, keepdims=True),
        unit="logits",
        signed=True,
        delta=np.zeros(3, np.float32),
        info=("Pulls.",),
    )


def tugs(request):
    return pulls(request, "mean")


class TwoStarts(FakeModel):
    """Begins every text with two <bos>, the second under another name: its tokens are not those of the fake model."""

    def tokenize(self, prompt):
        found = super().tokenize(prompt)
        ids = [int(found.ids[0]), *found.ids.tolist()]
        offsets = [(-1, -1), *(tuple(pair) for pair in found.offsets.tolist())]
        segments = [Segment(s.role, s.start + 1, s.stop + 1) for s in found.segments]
        return self._build(ids, offsets, found.text, segments)

    def label(self, token_id):
        return "<start>" if token_id == 256 else super().label(token_id)


TOY = """
root.className = "toy";
const title = document.createElement("p"), grid = document.createElement("div");
root.append(title, grid);
for (let l = 0; l < data.layers; l++) for (let h = 0; h < data.heads; h++) {
  const b = document.createElement("button");
  b.type = "button"; b.textContent = `${l}.${h}`; b.dataset.at = `${l}.${h}`;
  b.addEventListener("click", () => host.select({layer: l, head: h}));
  grid.append(b);
}
let seen = 0;
return {
  async show(selection) {
    const mine = ++seen;
    try {
      const answer = await host.fetch({layer: selection.layer, head: selection.head});
      const {layer, head, token} = selection;
      if (mine === seen) title.textContent = `L${layer}H${head}T${token} = ${answer.value}`;
    } catch (error) { title.textContent = error.message; }
    root.dataset.ready = "1";
  },
  theme() { root.dataset.dark = String(host.dark()); },
};
"""


def toy(request):
    note(f"toy {request.params['layer']} {request.params['head']}")
    pattern = request.attention(request.params["layer"], request.params["head"])
    return TokenScores(scores=pattern[-1], unit="weight")


def toy_view(finding):
    return View(kind="script", payload={"layers": 2, "heads": 4, "labels": list(finding.tokens.labels)})


def as_text(finding):
    return View(kind="text", payload="".join(finding.tokens.labels))


@hookimpl
def attnviz_backends():
    models = {
        "fake": FakeModel(),
        "blind": FakeModel(without=("attention",), name="blind"),
        "two": TwoStarts(name="two"),
        "talker": Talker(name="talker"),
        "blind-talker": Talker(without=("attention",), name="blind-talker"),
    }
    base = fake_backend()
    return [
        base.__class__(
            name="rules",
            summary="Models of rules.",
            handles=lambda spec: None if spec.source in models else "not a model of rules.",
            load=lambda spec: models[spec.source],
        )
    ]


@hookimpl
def attnviz_models():
    examples = (("Math", "one two one two"), ("Knowledge", "abcabc"), ("Code", "x=1;x=1"))
    return [
        ModelEntry("fake", "Fake model", "fake", "nothing", "none", backend="rules", default=True, examples=examples),
        ModelEntry("blind", "Blind model", "blind", "nothing", "none", backend="rules"),
        ModelEntry("two", "Two starts", "two", "nothing", "none", backend="rules"),
        ModelEntry("talker", "Slow talker", "talker", "nothing", "none", backend="rules"),
        ModelEntry("blind-talker", "Blind talker", "blind-talker", "nothing", "none", backend="rules"),
    ]


@hookimpl
def attnviz_analyses():
    return [
        Analysis("counted", "Counted", "Own tab", "Counts its calls.", counted, HeadScores,
                 params=(Param("factor", "int", default=1, minimum=1, maximum=9, help="Multiplies."),)),
        Analysis("toy", "Toy", "Toy", "A script view.", toy, TokenScores,
                 params=(Param("layer", "layer"), Param("head", "head"))),
        Analysis("follow", "Follow", "Tables", "Follows the selection.", follow, Table,
                 params=(Param("layer", "layer", choices=("mean",)), Param("head", "head"), Param("token", "token"))),
        Analysis("label_table", "Labels", "Tables", "Every label.", labels_table, Table),
        Analysis("broken", "Broken", "Errors", "Divides by zero.", broken, TokenScores,
                 params=(Param("divide", "bool", default=False),)),
        Analysis("refuses", "Refuses", "Errors", "Refuses.", refuses, TokenScores),
        Analysis("pulls", "Pulls", "Pulls", "What pulls.", pulls, Attribution,
                 params=(Param("way", "choice", "copies", choices=("copies", "mean")),
                         Param("factor", "int", default=1, minimum=1, maximum=9))),
        Analysis("tugs", "Tugs <b>", "Pulls", "What tugs.", tugs, Attribution,
                 params=(Param("factor", "int", default=1, minimum=1, maximum=9),)),
        *(Analysis(f"many_{i}", f"Number {i}", "Many", "One of many.", labels_table, Table) for i in range(9)),
        Analysis("slow", "Slow", "Slow", "Takes three seconds.", slow, Table),
    ]  # fmt: skip


@hookimpl
def attnviz_renderers():
    return [
        Renderer("toy_view", "Toy view", (TokenScores,), "script", toy_view, script=TOY,
                 style=".toy p {font-weight: 700}", order=1,
                 detail=lambda f: {"value": round(float(f.result.scores.sum()), 4)}),
        Renderer("toy_text", "Text", (TokenScores,), "text", as_text, order=60),
    ]  # fmt: skip
