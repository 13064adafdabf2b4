"""Models and methods for the tests of the benchmark: some work, some fail at a stage of their own."""

import os
import time

import numpy as np

from attnviz.hooks import Analysis, Attribution, Backend, BadInput, ModelError, Span, Unavailable, hookimpl
from attnviz.testing.fake import FakeModel


class Mute(FakeModel):
    """Answers nothing."""

    def generate(self, tokens, sampling, on_token=None, cancelled=None, on_row=None):
        return tokens


class Fickle(FakeModel):
    """Answers otherwise when it is told to."""

    def generate(self, tokens, sampling, *rest, **more):
        answer = super().generate(tokens, sampling, *rest, **more)
        if os.environ.get("BENCH_TEST_OTHER_ANSWER"):
            return super()._continued(tokens, [*answer.ids.tolist()[:-1], 33])
        return answer


class Strict(FakeModel):
    """Takes plain text only, and none with a question mark."""

    def tokenize(self, prompt):
        if not isinstance(prompt, str):
            raise BadInput("There is no chat template.")
        if "?" in prompt:
            raise BadInput("No questions, please.")
        return super().tokenize(prompt)


KINDS = {"good": FakeModel, "mute": Mute, "fickle": Fickle, "strict": Strict}


def load(spec):
    with open(os.environ["BENCH_TEST_LOG"], "a") as log:
        log.write(f"load {spec.source}\n")
    if spec.source == "broken":
        raise ModelError("The weights of broken are gone. Download them again.")
    return KINDS[spec.source](name=spec.source)


def result(request, scale):
    """Score of source s for target t: scale · (s + 1)."""
    tokens, start = request.tokens, request.run.generated_from
    targets = [Span(t, t + 1, int(tokens.ids[t]), tokens.labels[t]) for t in range(start, len(tokens))]
    sources = [Span(s, s + 1, int(tokens.ids[s]), tokens.labels[s]) for s in range(len(tokens) - 1)]
    scores = np.zeros((len(targets), len(sources)), np.float32)
    for row, target in enumerate(targets):
        scores[row, : target.index] = scale * (1 + np.arange(target.index))
    return Attribution(
        method="ramp",
        target_function="log_probability",
        targets=tuple(targets),
        sources=tuple(sources),
        scores=scores,
        normalized=scores / scores.sum(axis=1, keepdims=True),
        unit="nats",
        signed=True,
        delta=np.linspace(-0.5, 0.25, len(targets)).astype(np.float32),
    )


def ramp(request):
    return result(request, 1.0)


def steep(request):
    return result(request, 2.0)


def slow(request):
    time.sleep(0.15)
    return result(request, 1.0)


def refuses(request):
    raise Unavailable("This method needs\n another model.")


def stumbles(request):
    return {}["<img src=x onerror=alert(1)>"]


@hookimpl
def attnviz_backends():
    def handles(spec):
        known = {*KINDS, "broken"}
        return None if spec.source in known else f"it knows only {', '.join(sorted(known))}."

    return [Backend(name="bench_world", summary="Models of rules.", handles=handles, load=load, rank=1)]


@hookimpl
def attnviz_analyses():
    return [
        Analysis(
            name=f"{run.__name__}_method",
            title=run.__name__,
            group="Attribution",
            summary="For tests.",
            run=run,
            produces=Attribution,
            requires=frozenset({"generation"}),
        )
        for run in (ramp, steep, slow, refuses, stumbles)
    ]
