"""Findings of every kind, small, the same every time, with token texts that try to break out of a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import (
    Analysis,
    AnalysisRequest,
    AttentionPattern,
    Attribution,
    EvidenceLedger,
    Faithfulness,
    FeatureAttention,
    Finding,
    HeadScores,
    LedgerSource,
    LedgerStep,
    Model,
    ModelSpec,
    ReadsNumbers,
    Reference,
    Result,
    Run,
    Segment,
    SensorImportance,
    Span,
    Table,
    TokenMatrix,
    Tokens,
    TokenScores,
    UnknownName,
)
from attnviz.plugins.formats.trajectory import RecordedCall, Recording
from attnviz.testing.captures import capture, random_trace
from attnviz.testing.fake import FakeModel, distribution, lens_table
from attnviz.testing.fake_sensors import FakeSensors

HOSTILE = ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "${alert(1)}", "{{constructor}}")
"""Token texts that must never be executed or parsed, wherever they are shown."""
LABELS = (*HOSTILE, "\"'&", "日本", "\\n", ",;=1+1")
TEXT = "one two three one two three"
ANSWERED = 4
"""Most tokens of a text that count as its answer where an analysis needs one."""


def sample_tokens() -> Tokens:
    """Eight tokens, the hostile ones first; the answer begins at token 6."""
    starts = np.cumsum([0, *(len(label) for label in LABELS)])
    return Tokens(
        ids=np.arange(100, 100 + len(LABELS)),
        labels=LABELS,
        offsets=np.stack([starts[:-1], starts[1:]], axis=1),
        special=np.array([False] * len(LABELS)),
        text="".join(LABELS),
        segments=(Segment("user", 0, 6), Segment("assistant", 6, 8)),
    )


def sample_finding(kind: str) -> Finding:
    """A finding of one kind of result.

    Raises:
        UnknownName: no such kind.
    """
    return next(iter(sample_findings(kind).values()))


def sample_findings(kind: str) -> Mapping[str, Finding]:
    """Name -> finding of one kind: the usual one first, then those with other tokens in rows and columns, and others.

    Raises:
        UnknownName: no such kind.
    """
    if kind not in _MAKERS:
        raise UnknownName("result kind", kind, _MAKERS)
    usual = Finding(
        analysis="sample",
        title=f"Sample {HOSTILE[0]}",
        params={"layer": 1, "words": HOSTILE[1]},
        model=HOSTILE[0],
        tokens=sample_tokens(),
        result=_MAKERS[kind](),
        provenance="0" * 64,
        run="sample",
        generated_from=6,
    )
    return {"usual": usual} | {name: change(usual) for name, change in _VARIANTS.get(kind, {}).items()}


def fake_request(
    analysis: Analysis,
    model: Model | None = None,
    text: str | NDArray[Any] | None = None,
    reference: Reference | None = None,
    *,
    analyses: Mapping[str, Analysis] | None = None,
    **params: Any,
) -> AnalysisRequest:
    """A request for this analysis over a run of the fake model (or of `model`), as a session would make it.

    An analysis of sensors gets the fake model of sensors, six steps of it, and five more inputs as a reference; for one
    that needs generation the last tokens of the text, at most four, count as the answer, unless an encoder reads them.

    text      the prompt, or an array for a model that reads numbers
    analyses  what `request.analyze` may ask, by name; none where nothing is given

    Raises:
        UnknownName, BadInput: the parameters do not fit the analysis.
    """
    if model is None and "sensors" in analysis.requires:
        series = np.random.default_rng(0).normal(size=(6, 6, 4))
        model, text = FakeSensors(), series[0] if text is None else text
        reference = Reference(series[1:]) if reference is None else reference
    model, text = model or FakeModel(), TEXT if text is None else text
    tokens = model.tokenize(text) if isinstance(text, str) else cast(ReadsNumbers, model).tokenize_values(text)
    tokens = tokens if reference is None else dataclasses.replace(tokens, reference=reference)
    answer = None
    if "generation" in analysis.requires and tokens.decoder_from in (None, 0):
        answer = max(1, len(tokens) - ANSWERED)
    run = Run(id="sample", spec=ModelSpec("fake"), model=model.card.name, tokens=tokens, generated_from=answer)
    resolved = analysis.resolve(params)
    for param in analysis.params:
        if param.linked and resolved[param.name] is None:
            resolved[param.name] = len(tokens) - 1 if param.type == "token" else 0
    captured = model.trace(tokens, analysis.want) if "attention" in analysis.requires else None
    request = AnalysisRequest(run=run, card=model.card, model=model, params=resolved, captured=captured)
    return request if analyses is None else with_analyses(request, analyses)


def with_analyses(request: AnalysisRequest, analyses: Mapping[str, Analysis]) -> AnalysisRequest:
    """The request, with these analyses to ask about its run."""

    def analyze(name: str, /, **given: Any) -> Result:
        if name not in analyses:
            raise UnknownName("analysis", name, analyses)
        other = analyses[name]
        captured = request.model.trace(request.tokens, other.want) if "attention" in other.requires else None
        return other.run(dataclasses.replace(request, params=other.resolve(given), captured=captured))

    return dataclasses.replace(request, analyze=analyze)


def _pattern() -> Result:
    trace = random_trace(len(LABELS), heads=(3, 3, 3), missing=(1,))
    captures = [layer for layer in trace.layers if layer is not None]
    pictures = np.zeros((3, 3, *captures[0].thumbnail.shape[1:]), dtype=np.uint8)
    pictures[0], pictures[2] = captures[0].thumbnail, captures[1].thumbnail
    return AttentionPattern(
        weights=trace.attention(0, 2),
        layer=0,
        head=2,
        thumbnails=pictures,
        causal=True,
        generated_from=6,
        missing=dict(trace.missing),
        info=("Layer 0, head 2.", HOSTILE[0]),
        warnings=(HOSTILE[1],),
    )


def _two_stacks(finding: Finding, result: Result) -> Finding:
    """Of a model with encoder and decoder: five source tokens, three of the decoder."""
    segments = (Segment("source", 0, 5), Segment("target", 5, 8))
    tokens = dataclasses.replace(sample_tokens(), decoder_from=5, segments=segments)
    return dataclasses.replace(finding, tokens=tokens, result=result, layers=("encoder 0", HOSTILE[0], "cross 0"))


def _stacks_pattern(layer: int, rows: tuple[int, int], columns: tuple[int, int]) -> AttentionPattern:
    """The map of one layer of three: encoder, decoder, and cross, whose rows and columns are other tokens."""
    rng = np.random.default_rng(layer)
    sizes = np.array([[5, 5], [3, 3], [3, 5]])
    pictures = np.zeros((3, 2, 5, 5), dtype=np.uint8)
    for index, (height, width) in enumerate(sizes):
        pictures[index, :, :height, :width] = rng.integers(1, 256, (2, height, width))
    weights = rng.random((rows[1] - rows[0], columns[1] - columns[0])) + 0.1
    weights = np.tril(weights) if layer == 1 else weights
    return AttentionPattern(
        weights=(weights / weights.sum(axis=1, keepdims=True)).astype(np.float32),
        layer=layer,
        head=1,
        thumbnails=pictures,
        thumbnail_sizes=sizes,
        causal=layer == 1,
        generated_from=6,
        rows=rows,
        columns=columns,
        info=(HOSTILE[0],),
    )


def _cross(finding: Finding) -> Finding:
    return _two_stacks(finding, _stacks_pattern(2, (5, 8), (0, 5)))


def _decoder(finding: Finding) -> Finding:
    return _two_stacks(finding, _stacks_pattern(1, (5, 8), (5, 8)))


def _last_rows(finding: Finding) -> Finding:
    """Only the rows that predict the answer, over all keys."""
    result = finding.result
    assert isinstance(result, AttentionPattern)
    return dataclasses.replace(finding, result=dataclasses.replace(result, weights=result.weights[5:7], rows=(5, 7)))


def _learned_sink(finding: Finding) -> Finding:
    """All heads of two layers; the second has a learned sink, so that some of its weight goes to no token."""
    rng = np.random.default_rng(0)
    plain, second = rng.normal(0, 2, (2, 2, 3, len(LABELS), 4))
    captures = (capture(*plain), capture(*second, sinks=np.array([3.0, 0.0, -3.0], np.float32)))
    both = [[layer.pattern_and_share(head) for head in range(3)] for layer in captures]
    shares = np.array([[[np.nan] * len(LABELS) if share is None else share for _, share in layer] for layer in both])
    result = AttentionPattern(
        weights=both[1][0][0],
        layer=1,
        head=0,
        thumbnails=np.stack([layer.thumbnail for layer in captures]),
        causal=True,
        generated_from=6,
        sink_share=both[1][0][1],
        every=np.array([[pattern for pattern, _ in layer] for layer in both], np.float16),
        every_sink_share=shares.astype(np.float32),
        info=(HOSTILE[0],),
    )
    return dataclasses.replace(finding, result=result)


def _stacks_heads(finding: Finding) -> Finding:
    """Keys that a layer does not have received nothing there: missing, not zero."""
    result = finding.result
    assert isinstance(result, HeadScores)
    received = np.full((3, 8), np.nan, np.float32)
    received[0, :5], received[1, 5:], received[2, :5] = 1.0, np.arange(3), np.arange(5)
    return _two_stacks(finding, dataclasses.replace(result, received=received))


def _heads() -> Result:
    entropy = np.array([[0.5, 1.25, 2.0], [np.nan] * 3, [0.0, 1.5, 0.75]], np.float32)
    focus = 1 - entropy / 3
    effect = np.array([[0.75, -0.5, 0.0], [np.nan] * 3, [1.0, np.nan, 0.25]], np.float32)
    return HeadScores(
        metrics={"entropy": entropy, "focus": focus, "focus_effect": effect, "focus_null": focus / 2},
        units={"entropy": "bits", "focus": "0 to 1", "focus_effect": "share of possible rise", "focus_null": "0 to 1"},
        received=np.array([np.linspace(0.2, 3, 8), [np.nan] * 8, np.linspace(2, 0, 8)], np.float32),
        layer_importance=np.array([0.5, np.nan, 0.7], np.float32),
        sinks=(0,),
        roles={"0.0": ("focus", HOSTILE[0]), "2.0": ("focus", *HOSTILE[1:], LABELS[-1])},
        info=("Layer 1 has no attention: it is linear.", HOSTILE[0]),
        warnings=(HOSTILE[1],),
    )


def _scores() -> Result:
    scores = np.array([0.1, -0.5, np.nan, 2.0, 0.0, 1.0, -1.0, 0.25], np.float32)
    return TokenScores(scores=scores, unit="bits", info=("Token 2 has no score.", HOSTILE[0]))


def _matrix() -> Result:
    scores = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)
    return TokenMatrix(scores=scores, rows=np.array([6, 7]), columns=np.arange(8), unit="nats", info=(HOSTILE[0],))


def _attribution() -> Result:
    spans = tuple(Span(i, i + 1, 100 + i, label) for i, label in enumerate(LABELS))
    scores = np.zeros((2, 8), np.float32)  # 0 for sources that do not come before the target
    scores[0, :6] = (0.5, -0.25, 1.5, 0.0, -1.0, 0.75)
    scores[1, :7] = (-0.125, 0.5, 0.0, 2.0, -0.5, 0.375, 0.5)
    return Attribution(
        method="sample",
        target_function="log_probability",
        targets=spans[6:],
        sources=spans,
        scores=scores,
        normalized=scores / np.abs(scores).sum(axis=1, keepdims=True),
        unit="nats",
        signed=True,
        target_values=np.array([-0.25, -1.5], np.float32),
        delta=np.array([0.0005, -0.25], np.float32),
        info=("Rows are targets, columns are sources.", HOSTILE[0]),
        warnings=(HOSTILE[1],),
    )


def _lens() -> Result:
    answers = (100, 101, 102)
    log_probs = np.log([[distribution(site, 3, answer) for answer in answers] for site in range(3)])
    names = dict(zip(range(100, 100 + len(LABELS)), LABELS, strict=True))
    return lens_table(
        log_probs,
        ("embedding", HOSTILE[0], "model"),
        positions=(5, 6, 7),
        top_k=3,
        targets=(100, 101, -1),
        label=lambda i: names.get(i, HOSTILE[i % 4]),
    )


def _table() -> Result:
    rows = ((HOSTILE[0], 1, 0.5), (HOSTILE[3], 2, None), (",;=1+1", -3, 1e-9))
    return Table(columns=("text", HOSTILE[1], "value"), rows=rows, info=(HOSTILE[2],))


def _sensors() -> Result:
    count = 3
    numbers = np.array([0.5, 2.0, 0.0], np.float32)
    return SensorImportance(
        sensors=(HOSTILE[0], HOSTILE[2], "\"'&,=1+1"),
        outputs=(HOSTILE[1], "日本"),
        inputs=4,
        attention=np.array([0.5, 1.5, 1.0], np.float32),
        null=np.array([0.75, 1.25, 1.0], np.float32),
        null_sd=np.array([0.125, 0.25, 0.0], np.float32),
        occlusion=numbers,
        gradient_x_input=numbers / 2,
        integrated_gradients=np.full(count, np.nan, np.float32),
        occlusion_outputs=np.stack([numbers, numbers * 2]),
        windows=np.array([[0, 4], [4, 8]]),
        occlusion_windows=np.array([[0.25, 1.0, 0.0], [0.5, 1.5, np.nan]], np.float32),
        gradient_windows=np.array([[0.25, 0.5, 0.0], [0.0, 0.5, 0.125]], np.float32),
        weights=np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]], np.float32),
        rank_correlation={"attention_occlusion": 0.5, "attention_integrated_gradients": float("nan")},
        fit=np.array([0.875, np.nan], np.float32),
        units={
            "attention": "times uniform",
            "occlusion": HOSTILE[0],
            "gradient_x_input": "unit of the outputs",
            "integrated_gradients": "unit of the outputs",
        },
        absent={"integrated_gradients": HOSTILE[1]},
        trusted="occlusion",
        verdict=f"Rank by occlusion. {HOSTILE[0]}",
        info=("Mean over 4 inputs.", HOSTILE[0]),
        warnings=(HOSTILE[1],),
    )


def _faithfulness() -> Result:
    rows = ((f"6 {HOSTILE[0]}", "deletion AUC", "lower", 0.25, 0.5, 0.125, 1.0, "probability"),)
    curve = np.array([[0.75, 0.25, 0.125]], np.float32)
    return Faithfulness(
        columns=("target", "figure", "better", "value", "random mean", "random sd", "random beaten", "unit"),
        rows=(*rows, (f"6 {HOSTILE[0]}", "Kendall tau-b", "higher", None, None, None, None, "–")),
        method=HOSTILE[1],
        removal=HOSTILE[2],
        number="probability",
        targets=(Span(6, 7, 106, HOSTILE[0]),),
        shares=np.array([[0.0, 0.5, 1.0]], np.float32),
        deletion=curve,
        insertion=curve[:, ::-1].copy(),
        random_deletion=curve * 0.75,
        random_insertion=curve[:, ::-1] * 0.75,
        info=("Beside random orders.", HOSTILE[3]),
        warnings=(HOSTILE[1],),
    )


def _ledger() -> Result:
    steps = (LedgerStep("thought", "thought", 4, 6), LedgerStep("answer", f"answer {HOSTILE[0]}", 6, 8))
    sources = (
        LedgerSource("question", "question", ((1, 3),)),
        LedgerSource("observation", f"observation 1 ({HOSTILE[2]})", ((3, 4),)),
        LedgerSource("own", "own earlier text", ((4, 8),)),
    )
    share = np.array([[0.5, 0.25, 0.25], [0.125, 0.625, 0.25]], np.float32)
    effect = np.array([[1.5, -0.25, np.nan], [0.125, 4.0, 0.5]], np.float32)
    cells = [(a, b) for a in range(2) for b in range(3)]
    return EvidenceLedger(
        columns=("step", "tokens", "source", "share of attention", "uniform share", "effect [nats]"),
        rows=tuple(
            (steps[a].label, "4–5", sources[b].label, float(share[a, b]), 0.5, None if a + b == 2 else 1.5)
            for a, b in cells
        ),
        steps=steps,
        sources=sources,
        share=share,
        uniform=share[:, ::-1].copy(),
        effect=effect,
        logprob=np.array([-0.5, -2.0], np.float32),
        removal=HOSTILE[1],
        flags=(f"Observation 1 was never used: {HOSTILE[3]}.",),
        info=("Mean over 2 layers.", HOSTILE[0]),
        warnings=(HOSTILE[1],),
    )


def _features() -> Result:
    importance = np.array([0.25, 0.125, 0.5, np.nan, 0.0, 0.0625, 0.0625, 0.0], np.float32)
    return FeatureAttention(
        features=LABELS,
        importance=importance,
        received=np.stack([importance * 7, np.full(8, np.nan), importance * 7]).astype(np.float32),
        attending=np.array([np.nan, 0.5, 0.25, 0.75, 1.0, 0.0, 0.125, 0.5], np.float32),
        layer_importance=np.array([0.5, np.nan, 0.25], np.float32),
        head_importance=np.array([[0.25, 0.75, 0.5], [np.nan] * 3, [0.25, 0.25, np.nan]], np.float32),
        weights=np.tril(np.ones((8, 8)) / np.arange(1, 9)[:, None]).astype(np.float32),
        axis="sensor",
        made="2026-01-02T03:04:05+00:00",
        info=("Layer 1 has no attention: it is linear.", HOSTILE[0]),
        warnings=(HOSTILE[1],),
    )


_MAKERS: dict[str, Callable[[], Result]] = {
    "attention_pattern": _pattern,
    "head_scores": _heads,
    "token_scores": _scores,
    "token_matrix": _matrix,
    "attribution": _attribution,
    "lens_table": _lens,
    "sensor_importance": _sensors,
    "attention_summary": _features,
    "table": _table,
    "faithfulness": _faithfulness,
    "evidence_ledger": _ledger,
}

_VARIANTS: dict[str, dict[str, Callable[[Finding], Finding]]] = {
    "attention_pattern": {
        "cross": _cross,
        "decoder": _decoder,
        "last rows": _last_rows,
        "learned sink": _learned_sink,
    },
    "head_scores": {"two stacks": _stacks_heads},
}


def sample_recording() -> Recording:
    """A trajectory of two calls: maps that are uniform over what each query sees."""
    calls = []
    for context, count in ((3, 5), (6, 8)):
        labels = tuple(f"t{i} " for i in range(count))
        seen = np.tril(np.ones((count, count), np.float32))
        calls.append(
            RecordedCall(
                labels, context, (seen / seen.sum(axis=1, keepdims=True))[context - 1 :], context - 1, "action"
            )
        )
    steps: tuple[dict[str, Any], ...] = (
        {"step_number": 1, "step_type": "answer", "content": "925", "tool_call": None},
    )
    return Recording(
        id="20260131_120000_000001",
        timestamp="2026-01-31 12:00:00",
        category="Math",
        query="What is 25 * 37? \N{SNOWMAN}",
        response="925",
        model="demo",
        calls=tuple(calls),
        layers=6,
        heads=4,
        layer=5,
        steps=steps,
        settings={"temperature": 0.0, "device": "cpu"},
    )
