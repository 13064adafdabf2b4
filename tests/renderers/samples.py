"""Sample findings of every result kind, with token texts that try to break a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from attnviz.hooks import (
    AttentionPattern,
    Attribution,
    EvidenceLedger,
    FeatureAttention,
    Finding,
    HeadScores,
    LedgerSource,
    LedgerStep,
    LensTable,
    Result,
    Segment,
    SelfCheck,
    SensorImportance,
    Span,
    Table,
    TokenMatrix,
    Tokens,
    TokenScores,
)

HOSTILE = (
    "<s>",
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "${alert(3)}",
    "{{constructor.constructor('alert(4)')()}}",
    "$x_1^2$ \\frac{a}{b}",
    "<!--",
    "a\u2028b\u202eevil",
    "\"quote\" 'single' `tick`",
    '=HYPERLINK("http://x")',
    "\n",
    " 日本",
    " שלום",
    "🦜",
    "&lt;b&gt;",
    "%s %(x)s {0}",
)
PLAIN = (
    "<s>",
    "The",
    " cat",
    " sat",
    " on",
    " the",
    " mat",
    " and",
    " the",
    " cat",
    " looked",
    " at",
    " the",
    " sun",
    ".",
    "\n",
)


def make_tokens(labels: tuple[str, ...], segments: tuple[Segment, ...] = ()) -> Tokens:
    count = len(labels)
    ends = np.cumsum([len(label) for label in labels])
    starts = np.concatenate([[0], ends[:-1]])
    special = np.zeros(count, bool)
    special[0] = True
    return Tokens(
        ids=np.arange(count, dtype=np.int64),
        labels=labels,
        offsets=np.stack([starts, ends], axis=1),
        special=special,
        text="".join(labels),
        segments=segments,
    )


def long_labels(count: int) -> tuple[str, ...]:
    words = ("<s>", *PLAIN[1:])
    return tuple(words[i % len(words)] if i else "<s>" for i in range(count))


def make_every(layers: int, heads: int, count: int, seed: int = 0) -> np.ndarray:
    """Softmax patterns [L, H, T, T] of several shapes: diffuse, sharp, previous-token, resting on the first token."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 1.2, (layers, heads, count, count))
    scores *= rng.uniform(0.3, 2.2, (layers, heads, 1, 1))
    rows, columns = np.arange(count)[:, None], np.arange(count)[None, :]
    previous = rng.random((layers, heads, 1, 1)) < 0.2
    scores += np.where(previous, 7.0 * (columns == rows - 1), 0)
    sink = rng.random((layers, heads, 1, 1)) < 0.4
    scores += np.where(sink, 5.0 * (columns == 0), 0)
    scores[..., columns[0][None, :] > rows] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def make_thumbnails(every: np.ndarray, edge: int = 64) -> np.ndarray:
    size = min(edge, every.shape[-1])
    starts = np.linspace(0, every.shape[-1], size + 1).astype(int)[:-1]
    pooled = np.maximum.reduceat(np.maximum.reduceat(every, starts, axis=2), starts, axis=3)
    return np.rint(255 * np.sqrt(pooled)).astype(np.uint8)


def pattern(
    every: np.ndarray, layer: int = 0, head: int = 0, *, keep: bool = False, generated_from: int | None = None
) -> AttentionPattern:
    return AttentionPattern(
        weights=every[layer, head],
        layer=layer,
        head=head,
        thumbnails=make_thumbnails(every),
        causal=True,
        generated_from=generated_from,
        every=every.astype(np.float16) if keep else None,
        info=(
            "Attention weights after softmax; each row sums to 1 over the tokens it may see.",
            "Nothing was averaged.",
        ),
        warnings=("A weight says where a head reads, not why the model answers as it does.",),
    )


def finding(result: Result, tokens: Tokens, **more: Any) -> Finding:
    given: dict[str, Any] = {
        "analysis": "sample",
        "title": "A sample <b>result</b> & more",
        "params": {"layer": 0, "head": 0, "text": "</script><script>alert(9)</script>"},
        "model": "tiny <i>model</i>",
        "provenance": "0123456789abcdef" * 4,
    }
    return Finding(result=result, tokens=tokens, **(given | more))


def sample_attention(labels: tuple[str, ...] = HOSTILE, **more: Any) -> Finding:
    count = len(labels)
    every = make_every(4, 4, count)
    segments = (Segment("user", 0, 5), Segment("assistant", 5, count))
    return finding(pattern(every, keep=True, generated_from=10), make_tokens(labels, segments), **more)


def sample_heads(labels: tuple[str, ...] = HOSTILE) -> Finding:
    rng = np.random.default_rng(1)
    entropy = rng.uniform(0, 3, (4, 4)).astype(np.float32)
    entropy[2] = np.nan
    return finding(
        HeadScores(
            metrics={"entropy": entropy, "focus": 1 - entropy / 4, "mean_distance": entropy * 3},
            units={"entropy": "bits", "focus": "0 to 1", "mean_distance": "tokens"},
            received=np.abs(rng.normal(1, 0.5, (4, len(labels)))).astype(np.float32),
            layer_importance=np.array([0.4, 0.6, np.nan, 0.2], np.float32),
            sinks=(0,),
            info=("Mean over queries that see at least 2 keys.",),
            warnings=("Layer 2 has no attention: linear layer.",),
        ),
        make_tokens(labels),
    )


def sample_roles(labels: tuple[str, ...] = HOSTILE) -> Finding:
    """Two roles with scores, effects and nulls, one negative effect, and roles whose names try to break the page."""
    score = np.array([[0.9, 0.1, 0.5], [np.nan] * 3, [0.2, 0.95, 0.0]], np.float32)
    other = np.array([[0.0, 0.8, 0.25], [np.nan] * 3, [0.1, 0.7, np.nan]], np.float32)
    null = np.array([[0.2, 0.2, 0.2], [np.nan] * 3, [0.5, 0.5, 0.5]], np.float32)
    return finding(
        HeadScores(
            metrics={
                "previous_token": score,
                "self": other,
                "previous_token_effect": (score - null) / (1 - null),
                "previous_token_null": null,
            },
            units={
                "previous_token": "share of weight",
                "self": "share of weight",
                "previous_token_effect": "share of possible rise",
                "previous_token_null": "share of weight",
            },
            roles={
                "2.1": ("self", "previous_token"),
                "0.0": ("previous_token", *HOSTILE[1:3]),
                "0.1": ("self", HOSTILE[7], HOSTILE[9]),
            },
        ),
        make_tokens(labels),
    )


def sample_scores(labels: tuple[str, ...] = HOSTILE) -> Finding:
    scores = np.linspace(-1, 2, len(labels), dtype=np.float32)
    scores[3] = np.nan
    segments = (Segment("system", 0, 3), Segment("user", 3, 9), Segment("answer", 9, len(labels)))
    return finding(
        TokenScores(scores=scores, unit="change of log-probability (nats)", info=("Signed: raises or lowers.",)),
        make_tokens(labels, segments),
        generated_from=9,
    )


def sample_matrix(labels: tuple[str, ...] = HOSTILE) -> Finding:
    rng = np.random.default_rng(2)
    count = len(labels)
    rows, columns = np.arange(count - 5, count), np.arange(count)
    scores = rng.normal(0, 1, (5, count)).astype(np.float32)
    scores[columns[None, :] >= rows[:, None]] = 0
    return finding(
        TokenMatrix(scores=scores, rows=rows, columns=columns, unit="share of the row", info=("Rows = targets.",)),
        make_tokens(labels),
        generated_from=count - 5,
    )


def sample_attribution(labels: tuple[str, ...] = HOSTILE, *, targets: int = 5, **more: Any) -> Finding:
    """The last tokens are targets; signed scores of every earlier token, a delta that is too large for the last."""
    rng = np.random.default_rng(4)
    count = len(labels)
    spans = tuple(Span(i, i + 1, i, label) for i, label in enumerate(labels))
    scores = rng.normal(0, 1, (targets, count)).astype(np.float32)
    scores[np.arange(count)[None, :] >= np.arange(count - targets, count)[:, None]] = 0
    delta = np.full(targets, 1e-4, np.float32)
    delta[-1] = 0.5
    return finding(
        Attribution(
            method="integrated_gradients",
            target_function="log_probability",
            targets=spans[count - targets :],
            sources=spans,
            scores=scores,
            normalized=scores / np.abs(scores).sum(axis=1, keepdims=True),
            unit="nats",
            signed=True,
            target_values=np.linspace(-2, -0.25, targets, dtype=np.float32),
            delta=delta,
            info=("Rows are targets, columns are sources.",),
            warnings=("The last target's delta is above tolerance <b>bold</b>.",),
        ),
        make_tokens(labels),
        generated_from=count - targets,
        **({"params": {"tolerance": 0.01, "text": "</script>"}} | more),
    )


def sample_lens(labels: tuple[str, ...] = HOSTILE, layers: int = 4, *, ok: bool = True) -> Finding:
    rng = np.random.default_rng(3)
    sites = ("embedding", *(f"block {i}" for i in range(layers)), "model")
    count, depth, top = len(labels), layers + 2, 5
    probabilities = -np.sort(-rng.dirichlet(np.full(len(labels), 0.35), (depth, count)), axis=-1)[..., :top]
    ids = np.argsort(rng.random((depth, count, len(labels))), axis=-1)[..., :top]
    ids[-3:] = ids[-1]
    targets = np.append(np.arange(1, count), -1)
    hit = ids == targets[None, :, None]
    ranks = np.where(hit.any(-1), hit.argmax(-1), top + rng.integers(0, 50, (depth, count)))
    log = np.log(np.maximum(probabilities, 1e-9)).astype(np.float32)
    target_logprob = np.where(hit.any(-1), (log * hit).sum(-1), log[..., -1] - 1)
    ranks[:, -1], target_logprob[:, -1] = -1, np.nan
    kl = np.linspace(6, 0, depth, dtype=np.float32)[:, None] * rng.uniform(0.5, 1, (depth, count)).astype(np.float32)
    return finding(
        LensTable(
            sites=sites,
            positions=np.arange(count),
            top_ids=ids,
            top_logprobs=log,
            entropy=rng.uniform(0, 4, (depth, count)).astype(np.float32),
            kl_model_lens=kl,
            kl_lens_model=kl * 1.1,
            jensen_shannon=kl / 8,
            total_variation=kl / 8,
            target_ids=targets,
            target_logprob=target_logprob,
            target_rank=ranks,
            settles_at=np.full(count, depth - 3),
            settles_in_top5=np.full(count, depth - 3),
            self_check=SelfCheck(ok=ok, max_abs_diff=2.4e-6 if ok else 3.1, kl=0.0),
            labels=dict(enumerate(labels)),
            info=("Final norm and unembedding of the model.",),
        ),
        make_tokens(labels),
        generated_from=10,
    )


def sample_table() -> Finding:
    return finding(
        Table(
            columns=("segment <b>", "share", "note"),
            rows=(("question", 0.25, None), ("=1+1", -1, "</script>"), ("日本 $x$", 3, "\u2028")),
            info=("Shares sum to 1.",),
            warnings=("Nothing <b>bold</b>.",),
        ),
        make_tokens(HOSTILE),
    )


def sample_sensors(names: tuple[str, ...] = HOSTILE, steps: int = 32) -> Finding:
    rng = np.random.default_rng(5)
    sensors = len(names)
    strength = rng.gamma(1.0, 1.0, sensors).astype(np.float32)
    windows = np.stack([np.arange(0, steps, 8), np.arange(8, steps + 8, 8)], axis=1)
    shares = rng.dirichlet(np.ones(len(windows)), sensors).T.astype(np.float32)
    weights = rng.dirichlet(np.ones(sensors), sensors).astype(np.float32)
    result = SensorImportance(
        sensors=names,
        outputs=("nox_emission",),
        inputs=16,
        attention=weights.sum(axis=0),
        null=np.ones(sensors, np.float32),
        null_sd=np.full(sensors, 0.125, np.float32),
        occlusion=strength,
        gradient_x_input=strength * 0.875,
        integrated_gradients=strength * 0.9375,
        occlusion_outputs=strength[None],
        windows=windows,
        occlusion_windows=shares * strength,
        gradient_windows=shares * strength / 2,
        weights=weights,
        rank_correlation={"attention_occlusion": 0.25, "integrated_gradients_occlusion": 1.0},
        fit=np.array([0.925], np.float32),
        units={
            "attention": "times uniform",
            "occlusion": "unit of the output",
            "gradient_x_input": "unit of the output",
            "integrated_gradients": "unit of the output",
        },
        trusted="occlusion",
        verdict="Rank by occlusion; integrated gradients agree.",
        info=("Means over 16 inputs.",),
        warnings=("For interpretation by people.",),
    )
    tokens = dataclasses.replace(make_tokens(names), values=rng.normal(size=(steps, sensors)).astype(np.float32))
    return finding(result, tokens)


def sample_features(labels: tuple[str, ...] = HOSTILE, layers: int = 3, heads: int = 4) -> Finding:
    rng = np.random.default_rng(9)
    weights = rng.dirichlet(np.full(len(labels), 0.5), (layers, heads, len(labels)))
    received = weights.mean(axis=1).sum(axis=1)
    importance = received.mean(axis=0) / len(labels)
    importance[-1] = np.nan
    result = FeatureAttention(
        features=labels,
        importance=importance.astype(np.float32),
        received=received.astype(np.float32),
        attending=rng.random(len(labels)).astype(np.float32),
        layer_importance=rng.random(layers).astype(np.float32),
        head_importance=rng.random((layers, heads)).astype(np.float32),
        weights=weights.mean(axis=(0, 1)).astype(np.float32),
        axis="sensor",
        info=("Means over layers and heads.",),
        warnings=("For interpretation by people.",),
    )
    values = rng.normal(size=(24, len(labels))).astype(np.float32)
    return finding(result, dataclasses.replace(make_tokens(labels), values=values))


def sample_ledger(labels: tuple[str, ...] = HOSTILE, *, effects: bool = True) -> Finding:
    """Question, thought, action, observation, answer, over sixteen tokens; the answer does not see the last source."""
    steps = (
        LedgerStep("thought", "thought", 5, 7),
        LedgerStep("action", "action", 7, 9),
        LedgerStep("answer", f"answer {labels[1]}", 12, 16),
    )
    sources = (
        LedgerSource("question", "question", ((1, 4),)),
        LedgerSource("observation", f"observation 1 ({labels[2]})", ((9, 11),)),
        LedgerSource("own", "own earlier text", ((5, 9), (12, 16))),
        LedgerSource("marks", "marks of the template", ((0, 1), (4, 5), (11, 12))),
    )
    share = np.array([[0.5, 0, 0.25, 0.25], [0.375, 0, 0.5, 0.125], [0.0625, 0.125, 0.75, 0.0625]], np.float32)
    uniform = np.array([[0.625, 0, 0.125, 0.25], [0.5, 0, 0.25, 0.25], [0.25, 0.25, 0.375, 0.125]], np.float32)
    effect = np.array([[2, np.nan, np.nan, np.nan], [1.5, np.nan, 3, np.nan], [-0.5, 0.25, 8, np.nan]], np.float32)
    cells = [(s, c) for s in range(3) for c in range(4)]
    return finding(
        EvidenceLedger(
            columns=("step", "source", "share"),
            rows=tuple((steps[s].label, sources[c].label, float(share[s, c])) for s, c in cells),
            steps=steps,
            sources=sources,
            share=share,
            uniform=uniform,
            effect=effect if effects else None,
            logprob=np.array([-1, -0.5, -0.25], np.float32) if effects else None,
            removal=f"replaced by {labels[0]!r}" if effects else "",
            flags=(f"Observation 1 ({labels[2]}) was never used: it makes no difference.",),
            info=("The sources of a step sum to 1.",),
            warnings=("Attention says what was looked at <b>only</b>.",),
        ),
        make_tokens(labels, (Segment("user", 1, 4), Segment("thought", 5, 7), Segment("answer", 12, 16))),
        generated_from=5,
    )


SAMPLES: dict[str, Callable[[], Finding]] = {
    "attention_pattern": sample_attention,
    "head_scores": sample_heads,
    "token_scores": sample_scores,
    "token_matrix": sample_matrix,
    "attribution": sample_attribution,
    "lens_table": sample_lens,
    "sensor_importance": sample_sensors,
    "attention_summary": sample_features,
    "table": sample_table,
    "evidence_ledger": sample_ledger,
}
