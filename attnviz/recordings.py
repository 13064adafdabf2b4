"""Trajectory files and saved runs: what such a file holds as runs that can be looked at, and a run as what it holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import BadInput, Unavailable
from attnviz.hooks import LayerCapture, LayerCard, ModelCard, ModelSpec, Run, Tokens, Trace, to_jsonable
from attnviz.plugins.formats.trajectory import RecordedCall, Recording, moment_id, read, write, write_into
from attnviz.runfile import SavedRun
from attnviz.store import ENDING, LONGEST_CATEGORY, RunStore, StoredRun

THUMBNAIL = 64
FILE = "trajectory file"
"""Source of the model of a run that was read from one."""
NO_MODEL = "It was read from a trajectory file, which holds one map and no model."
_CAPABILITIES = ("hidden_states", "logits", "gradients", "interventions", "generation", "sensors")

# --------------------------------------------------------------------------------------------- files in and out


def take_file(store: RunStore, path: Path, metadata: Mapping[str, Any] | None = None) -> list[StoredRun]:
    """Keep what a file holds, under new ids: the run of a run file, the calls of a trajectory.

    Args:
        metadata: plain JSON to keep with each.

    Raises:
        BadInput: neither, or the folder cannot be written to.
    """
    if path.suffix.lower() == ENDING:
        return [store.take(path, metadata)]
    if path.suffix.lower() != ".json":
        raise BadInput(f"{path.name}: expected a run ({ENDING}) or a trajectory (.json), got another ending.")
    recording = read(path)
    about = {"file": path.name, "id": recording.id, "timestamp": recording.timestamp, "steps": list(recording.steps)}
    kept = []
    for number, run in enumerate(runs_of(recording), 1):
        several = len(recording.calls) > 1
        title = f"{recording.query} (call {number} of {len(recording.calls)})" if several else recording.query
        kept.append(
            store.add(
                run,
                prompt=recording.query or run.run.prompt,
                response=run.run.answer if several else recording.response or run.run.answer,
                title=title,
                category=recording.category[:LONGEST_CATEGORY],
                kind="trajectory",
                metadata={**(metadata or {}), "trajectory": about},
            )
        )
    return kept


def write_recording(recording: Recording, target: Path) -> tuple[Path, str]:
    """Write to a .json file, or under its own name into a folder with an index.

    Returns:
        The file, and what was wrong with the index of the folder; "" = nothing.

    Raises:
        BadInput: a place that cannot be written.
    """
    if target.suffix.lower() == ".json":
        write(recording, target)
        return target, ""
    return write_into(recording, target)


# --------------------------------------------------------------------------------------------- a file as runs


def runs_of(recording: Recording) -> list[SavedRun]:
    """One run for each call of the model: its tokens, and one map with the rows that are there."""
    return [_run_of(recording, call) for call in recording.calls]


def _run_of(recording: Recording, call: RecordedCall) -> SavedRun:
    spec = ModelSpec(FILE, backend="none")
    run = Run(
        id="",
        spec=spec,
        model=recording.model,
        tokens=_tokens(call.labels),
        generated_from=call.context if call.context < len(call.labels) else None,
        category=recording.category,
    )
    return SavedRun(run, _card(recording, call), Trace((_layer(call),), precision="what the file holds"))


def _tokens(labels: tuple[str, ...]) -> Tokens:
    """Tokens without ids: −1."""
    ends = np.cumsum([0, *map(len, labels)])
    return Tokens(
        ids=np.full(len(labels), -1, np.int64),
        labels=labels,
        offsets=np.stack([ends[:-1], ends[1:]], axis=1).astype(np.int64),
        special=np.zeros(len(labels), np.bool_),
        text="".join(labels),
    )


def _card(recording: Recording, call: RecordedCall) -> ModelCard:
    off = float(np.abs(call.weights.sum(axis=1) - 1).max())
    where = "the last layer" if recording.layer < 0 else f"layer {recording.layer} of {recording.layers}"
    notes = [
        f"{NO_MODEL} The map is the mean over the heads of {where}, as the file has it.",
        f"Its rows: {call.convention}.",
    ]
    if off > 0.02:
        notes.append(f"Rows do not all sum to 1: the largest difference is {off:.2g}.")
    return ModelCard(
        name=recording.model,
        architecture="not stated",
        layers=(LayerCard(0, "full", 1, 1),),
        vocabulary=0,
        positions=None,
        dtype="not stated",
        device="file",
        parameters=-1,
        causal=True,
        route="none",
        route_reason=" ".join(notes),
        capabilities=frozenset({"attention"}),
        missing=dict.fromkeys(_CAPABILITIES, NO_MODEL),
        notes=tuple(notes),
    )


def _layer(call: RecordedCall) -> LayerCapture:
    """The map with its statistics; each query sees the tokens up to its own."""
    weights = call.weights
    rows, keys = weights.shape
    queries = call.first + np.arange(rows)
    visible = np.arange(keys)[None, :] <= queries[:, None]
    exact = weights.astype(np.float64)
    logs = np.log2(exact, out=np.zeros_like(exact), where=exact > 0)
    distance = np.abs(queries[:, None] - np.arange(keys)[None, :])
    return LayerCapture(
        q=None,
        k=None,
        scale=1.0,
        causal=False,
        visible=visible,
        weights=weights[None],
        entropy=-(exact * logs).sum(axis=1)[None].astype(np.float32),
        row_max=weights.max(axis=1)[None],
        distance=(exact * distance).sum(axis=1)[None].astype(np.float32),
        column_sum=exact.sum(axis=0)[None].astype(np.float32),
        allowed=visible.sum(axis=1),
        seen_by=visible.sum(axis=0),
        thumbnail=_picture(weights)[None],
        queries=(call.first, call.first + rows),
        keys=(0, keys),
    )


def _picture(weights: NDArray[Any]) -> NDArray[np.uint8]:
    """round(255·√max) over square blocks, so many that no edge is longer than THUMBNAIL."""
    rows, columns = weights.shape
    edge = max(1, math.ceil(max(rows, columns) / THUMBNAIL))
    n, m = math.ceil(rows / edge), math.ceil(columns / edge)
    whole = np.zeros((n * edge, m * edge))
    whole[:rows, :columns] = weights
    largest = whole.reshape(n, edge, m, edge).max(axis=(1, 3))
    picture: NDArray[np.uint8] = np.round(255 * np.sqrt(np.clip(largest, 0, 1))).astype(np.uint8)
    return picture


# --------------------------------------------------------------------------------------------- a run as a file


def recording_of(
    run: Run, card: ModelCard, attention: Callable[[int, int], NDArray[np.float32]], *, title: str = ""
) -> Recording:
    """What a trajectory file holds of a run: for each call of the model the rows that predicted its tokens.

    Args:
        attention: (layer, head) -> [T, T] map.

    Raises:
        BadInput: a run without an answer, or with encoder and decoder.
        Unavailable: the model gives no attention.
    """
    if run.tokens.decoder_from is not None:
        raise BadInput("Trajectory files have no place for a model with encoder and decoder.")
    layer = _last_with_attention(card)
    heads = card.layers[layer].heads
    total = np.zeros((len(run.tokens),) * 2)
    for head in range(heads):
        total += attention(layer, head)
    mean = (total / heads).astype(np.float32)
    calls = tuple(
        RecordedCall(run.tokens.labels[:stop], start, mean[start - 1 : stop, :stop], start - 1, kind)
        for start, stop, kind in _spans(run)
    )
    moment = datetime.now(timezone.utc)
    return Recording(
        id=moment_id(moment),
        timestamp=moment.strftime("%Y-%m-%d %H:%M:%S"),
        category=run.category,
        query=run.prompt if run.trajectory is None else run.trajectory.question,
        response=run.answer if run.trajectory is None else run.trajectory.answer,
        model=run.model,
        calls=calls,
        description=title,
        layers=len(card.layers),
        heads=heads,
        layer=layer,
        steps=_steps(run),
        settings={**_sampling(run), "device": card.device},
    )


def _spans(run: Run) -> list[tuple[int, int, str]]:
    """(first written token, one beyond the last, kind) of each call."""
    count = len(run.tokens)
    if run.trajectory is not None:
        acting = {step.call for step in run.trajectory.steps if step.kind == "action"}
        found = [
            (c.start, c.stop, "action" if i in acting else "reasoning") for i, c in enumerate(run.trajectory.calls)
        ]
    else:
        found = [] if run.generated_from is None else [(run.generated_from, count, "")]
    spans = [(start, stop, kind) for start, stop, kind in found if 0 < start < stop]
    if not spans:
        raise BadInput("A trajectory file holds the rows of an answer, and this run has none.")
    return spans


def _steps(run: Run) -> tuple[Mapping[str, Any], ...]:
    if run.trajectory is None:
        return ()
    steps: list[Mapping[str, Any]] = []
    for number, step in enumerate(run.trajectory.steps, 1):
        call = {"name": step.tool, "arguments": to_jsonable(step.arguments)} if step.kind == "action" else None
        result = step.text if step.kind == "observation" else None
        steps.append(
            {
                "step_number": number,
                "step_type": step.kind,
                "content": step.text,
                "tool_call": call,
                "tool_result": result,
            }
        )
    return tuple(steps)


def _sampling(run: Run) -> dict[str, Any]:
    sampling = run.sampling
    return {} if sampling is None else {"temperature": sampling.temperature, "max_tokens": sampling.max_new_tokens}


def _last_with_attention(card: ModelCard) -> int:
    found = [layer.index for layer in card.layers if layer.heads > 0 and layer.kind not in ("none", "linear", "cross")]
    if not found:
        raise Unavailable(f"{card.name} has no layer with attention among the tokens of its answer.")
    return found[-1]
