"""A language model in numpy, without weights: tokens are bytes, and every head and every layer's answer is known.

Attention, by head of layer 0 (full, causal):

    0  previous token: all weight on q − 1 (position 0 on itself)
    1  first token: all weight on position 0
    2  uniform over the visible keys
    3  induction: all weight on the token after the latest earlier copy of this one; first token where there is none

Layer 1 has the same heads under a sliding window of WINDOW, two heads to a key head and soft: the key a head is after
gets SOFT times the weight of any other visible key. Layer 2 is linear: it has no attention. The value of key k has the
norm k + 1 in every head.

The lens at site i of n mixes what the model says with a fixed distribution over the bytes:
p_i = (i/(n−1))·CERTAIN·[id = answer] + (1 − (i/(n−1))·CERTAIN)·base, where base(id) ∝ id + 1. The answer is the token
after the latest earlier copy of this one; where there is none, the next byte.

Gradients: an embedding is the unit vector of its id. The state at a position is the embedding of the token that the
answer is taken from (the one after the copy; this one, moved on by a byte, where there is none), whatever id that
embedding stands for; logits are linear in it and equal the model's log-probabilities. So all that a prediction depends
on is one token that is known: `taken_from`. What is copied is read by head 3 of layer 0, so that gradients of attention
weights go to that head alone; what the logits add comes from no embedding, as a bias does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import (
    CAPABILITIES,
    Backend,
    BadInput,
    Floats,
    Ints,
    LayerCapture,
    LayerCard,
    LensTable,
    LiveRow,
    Message,
    ModelCard,
    ModelSpec,
    Sampling,
    Segment,
    SelfCheck,
    Tokens,
    Trace,
    Unavailable,
    Want,
)
from attnviz.testing.captures import capture, ranked

if TYPE_CHECKING:
    import torch

BYTES = 256
BOS, END = 256, 257
ROLES = {"system": 258, "user": 259, "assistant": 260}
VOCABULARY = 261
POSITIONS = 512
HEADS = 4
WINDOW = 8
SOFT = 20.0
CERTAIN = 0.9
_HARD = 60.0  # e^-60 is nothing in float32
NO_MAP = "it is linear: there is no map of weights"
_added: ContextVar[list[torch.Tensor] | None] = ContextVar("attnviz_fake_added", default=None)
_NAMES = {BOS: "<bos>", END: "<end>", **{i: f"<{role}>" for role, i in ROLES.items()}}
_SITES = {
    "blocks": ("embedding", "block 0", "block 1", "block 2", "model"),
    "sublayers": ("embedding", "attention 0", "block 0", "attention 1", "block 1", "block 2", "model"),
}


class FakeModel:
    """Implements the Model protocol. `without` takes capabilities away, each with its reason."""

    def __init__(self, *, without: Sequence[str] = (), name: str = "fake") -> None:
        capabilities = {"attention", "hidden_states", "logits", "generation", "gradients"} - set(without)
        self.card = ModelCard(
            name=name,
            architecture="FakeModel",
            layers=(
                LayerCard(0, "full", HEADS, HEADS),
                LayerCard(1, "sliding", HEADS, HEADS // 2, window=WINDOW),
                LayerCard(2, "linear", 0, 0),
            ),
            vocabulary=VOCABULARY,
            positions=POSITIONS,
            dtype="float32",
            device="cpu",
            parameters=0,
            causal=True,
            route="interface" if "attention" in capabilities else "none",
            route_reason="it computes its maps from rules",
            capabilities=frozenset(capabilities),
            missing={c: f"This model of rules has no {c.replace('_', ' ')}." for c in CAPABILITIES - capabilities},
            weights_digest="rules",
            ends=(END,),
        )

    # ---- text

    def tokenize(self, prompt: str | Sequence[Message]) -> Tokens:
        """Bytes after <bos>; in a conversation a role token before each message, and <assistant> at the end."""
        if isinstance(prompt, str):
            if not prompt:
                raise BadInput("Nothing to run: expected a text, got an empty one.")
            return self._tokens([("text", None, prompt)])
        if not prompt:
            raise BadInput("Nothing to run: expected at least one message, got none.")
        parts: list[tuple[str, int | None, str]] = []
        for message in prompt:
            role = message["role"]
            if role not in ROLES:
                raise BadInput(f"Message role: expected one of {', '.join(ROLES)}, got {role!r}.")
            parts.append((role, ROLES[role], message["content"]))
        return self._tokens([*parts, ("assistant", ROLES["assistant"], "")])

    def _tokens(self, parts: Sequence[tuple[str, int | None, str]]) -> Tokens:
        ids, offsets, segments = [BOS], [(-1, -1)], []
        at = 0
        for role, mark, text in parts:
            start = len(ids)
            if mark is not None:
                ids.append(mark)
                offsets.append((-1, -1))
            for character in text:
                try:
                    encoded = character.encode()
                except UnicodeEncodeError:
                    raise BadInput(f"Text: {character!r} cannot be encoded; remove it.") from None
                ids += encoded
                offsets += [(at, at + 1)] * len(encoded)
                at += 1
            segments.append(Segment(role, start, len(ids)))
        if len(ids) > POSITIONS:
            raise BadInput(f"Too long: expected at most {POSITIONS} tokens, got {len(ids)}. Shorten the text.")
        return self._build(ids, offsets, "".join(text for _, _, text in parts), segments)

    def _build(self, ids: list[int], offsets: list[tuple[int, int]], text: str, segments: list[Segment]) -> Tokens:
        return Tokens(
            ids=np.array(ids, np.int64),
            labels=tuple(self.label(i) for i in ids),
            offsets=np.array(offsets, np.int64).reshape(-1, 2),
            special=np.array([i >= BYTES for i in ids], np.bool_),
            text=text,
            segments=tuple(segments),
        )

    def label(self, token_id: int) -> str:
        """Text of one id; a byte that is part of a character is shown as <0xE2>."""
        if not 0 <= token_id < VOCABULARY:
            raise BadInput(f"Unknown token id {token_id}. This model has ids 0 to {VOCABULARY - 1}.")
        return _NAMES.get(token_id) or (chr(token_id) if token_id < 128 else f"<0x{token_id:02X}>")

    def module(self) -> Any:
        raise Unavailable("A FakeModel has no torch module.")

    # ---- attention

    def trace(self, tokens: Tokens, want: Want) -> Trace:
        """The planted maps."""
        if "attention" not in self.card.capabilities:
            raise Unavailable(self.card.missing["attention"])
        layers: list[LayerCapture | None] = []
        missing = {2: NO_MAP}
        for index in range(2):
            if want.layers is None or index in want.layers:
                layers.append(_asked_for(_layer(tokens.ids, index, want.thumbnail), want))
            else:
                layers.append(None)
                missing[index] = "not asked for"
        return Trace(layers=(*layers, None), missing=missing)

    # ---- lens

    def lens(
        self, tokens: Tokens, *, positions: Sequence[int], top_k: int, targets: Sequence[int], sites: str
    ) -> LensTable:
        """The known distributions; see the head of the file."""
        if "hidden_states" not in self.card.capabilities:
            raise Unavailable(self.card.missing["hidden_states"])
        if len(targets) != len(positions):
            raise BadInput(f"targets: expected {len(positions)}, one per position, got {len(targets)}.")
        if any(not 0 <= p < len(tokens) for p in positions):
            raise BadInput(f"positions: expected 0 to {len(tokens) - 1}, got {list(positions)}.")
        if sites not in _SITES:
            raise BadInput(f"sites: expected blocks or sublayers, got {sites!r}.")
        answers = [next_id(tokens.ids[: p + 1]) for p in positions]
        names = _SITES[sites]
        log_probs = np.log([[distribution(i, len(names), a) for a in answers] for i in range(len(names))])
        return lens_table(log_probs, names, positions, top_k, targets, self.label)

    # ---- gradients

    @property
    def reads_ahead(self) -> bool:
        """Never: what a position looks at comes before it."""
        return False

    @property
    def stand_ins(self) -> Mapping[str, int]:
        """<end> and <bos>."""
        return {"eos": END, "bos": BOS}

    def embed(self, ids: Any, *, decoder: bool = False) -> torch.Tensor:
        """[...] ids -> [..., V] unit vectors."""
        import torch

        return torch.eye(VOCABULARY)[torch.tensor(np.asarray(ids), dtype=torch.long)]

    def remember(self, embeddings: torch.Tensor, tokens: Tokens, after: Any = None) -> None:
        """It has no memory."""

    def states(
        self, embeddings: torch.Tensor, tokens: Tokens, positions: Sequence[int], *, after: Any = None
    ) -> torch.Tensor:
        """[B, n, V] -> [B, P, V]; see the head of the file."""
        import torch

        moved = torch.eye(VOCABULARY)[[(i + 1) % BYTES for i in range(VOCABULARY)]].to(embeddings.dtype)
        rows = []
        for position in positions:
            source = taken_from(tokens.ids, position)
            copied = earlier_copy(tokens.ids, position) is not None
            rows.append(embeddings[:, source] if copied else embeddings[:, source] @ moved)
        return torch.stack(rows, dim=1)

    def inner_states(
        self, embeddings: torch.Tensor, tokens: Tokens, positions: Sequence[int], layer: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Every layer hands on the embeddings as they are."""
        if not 0 <= layer < len(self.card.layers):
            raise BadInput(f"Unknown layer {layer}. This model has layers 0 to {len(self.card.layers) - 1}.")
        inner = embeddings * 1
        return self.states(inner, tokens, positions), inner

    def states_and_maps(
        self, embeddings: torch.Tensor, tokens: Tokens, positions: Sequence[int]
    ) -> tuple[torch.Tensor, Mapping[int, torch.Tensor]]:
        """The maps of layers 0 and 1; see the head of the file."""
        import torch

        if "attention" not in self.card.capabilities:
            raise Unavailable(self.card.missing["attention"])
        batch, count = embeddings.shape[:2]
        layers = [_layer(tokens.ids[:count], index, 1) for index in range(2)]
        maps = [torch.tensor(np.stack([layer.pattern(head) for head in range(HEADS)])) for layer in layers]
        weights = {
            index: found.to(embeddings.dtype).repeat(batch, 1, 1, 1).requires_grad_()
            for index, found in enumerate(maps)
        }
        states = list(self.states(embeddings, tokens, positions).unbind(1))
        for place, position in enumerate(positions):
            if earlier_copy(tokens.ids, position) is not None:
                states[place] = (weights[0][:, 3, position, None] @ embeddings)[:, 0]
        return torch.stack(states, dim=1), weights

    @contextmanager
    def relevance_rules(self) -> Iterator[list[torch.Tensor]]:
        """All is linear already: only what the logits add is noted."""
        added: list[torch.Tensor] = []
        token = _added.set(added)
        try:
            yield added
        finally:
            _added.reset(token)

    def unembed(self, states: torch.Tensor) -> torch.Tensor:
        """[..., V] -> [..., V] log-probabilities where `states` is a unit vector, and a line between."""
        import torch

        base = torch.tensor(distribution(0, 2, 0) * (1 - CERTAIN), dtype=states.dtype)
        start, added = base.log(), _added.get()
        if added is not None:
            added.append(start.requires_grad_())
        return start + states * ((base + CERTAIN) / base).log()

    def variants(self, count: int) -> int:
        """As many as fit into a few megabytes."""
        return max(1, (1 << 22) // (count * VOCABULARY))

    # ---- generation

    def generate(
        self,
        tokens: Tokens,
        sampling: Sampling,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_row: Callable[[LiveRow], None] | None = None,
    ) -> Tokens:
        """Greedy: the answer of the rule, until <end> or the limit. Sampling draws from the model's distribution."""
        rng = np.random.default_rng(sampling.seed)
        ids = [int(i) for i in tokens.ids]
        for _ in range(sampling.max_new_tokens):
            if len(ids) >= POSITIONS or (cancelled is not None and cancelled()):
                break
            answer = next_id(np.array(ids))
            if sampling.temperature > 0:
                answer = int(rng.choice(VOCABULARY, p=distribution(1, 2, answer)))
            ids.append(answer)
            if on_token is not None:
                on_token(answer)
            if on_row is not None and "attention" in self.card.capabilities:
                on_row(LiveRow(len(ids) - 1, answer, _last_rows(np.array(ids[:-1]))))
            if answer == END or any(text in self._spelled(ids[len(tokens) :]) for text in sampling.stop):
                break
        return self._continued(tokens, ids)

    def _spelled(self, ids: list[int]) -> str:
        """What an answer spells, a byte outside ASCII as U+FFFD."""
        return "".join(chr(i) if i < 128 else "\N{REPLACEMENT CHARACTER}" for i in ids if i < BYTES)

    def _continued(self, tokens: Tokens, ids: list[int]) -> Tokens:
        """Prompt and answer; what the answer spells is appended to the text, a byte outside ASCII as U+FFFD."""
        start = len(tokens)
        offsets = [(int(a), int(b)) for a, b in tokens.offsets]
        text = tokens.text
        for at in range(start, len(ids)):
            if ids[at] >= BYTES:
                offsets.append((-1, -1))
                continue
            text += self._spelled([ids[at]])
            offsets.append((len(text) - 1, len(text)))
        segments = [*tokens.segments, Segment("assistant", start, len(ids))]
        return self._build(ids, offsets, text, segments)


# --------------------------------------------------------------------------------------------- rules


def earlier_copy(ids: Ints, position: int) -> int | None:
    """Latest position before `position` with the same id, or None."""
    found = np.flatnonzero(ids[:position] == ids[position])
    return int(found[-1]) if len(found) else None


def next_id(ids: Ints) -> int:
    """What the model says after these ids."""
    copy = earlier_copy(ids, len(ids) - 1)
    return int(ids[copy + 1]) if copy is not None else (int(ids[-1]) + 1) % BYTES


def taken_from(ids: Ints, position: int) -> int:
    """Where the token stands that the answer after `position` is made of."""
    copy = earlier_copy(ids, position)
    return position if copy is None else copy + 1


def distribution(site: int, sites: int, answer: int) -> NDArray[np.float64]:
    """[V] probabilities at one site."""
    certain = CERTAIN * site / (sites - 1)
    base = np.arange(1, VOCABULARY + 1, dtype=np.float64)
    mixed: NDArray[np.float64] = (1 - certain) * base / base.sum()
    mixed[answer] += certain
    return mixed


def looks_at(ids: Ints, head: int, position: int) -> int | None:
    """The key a head is after at this position; None = no key in particular (the uniform head)."""
    copy = earlier_copy(ids, position)
    return (max(position - 1, 0), 0, None, 0 if copy is None else copy + 1)[head]


def _layer(ids: Ints, index: int, edge: int) -> LayerCapture:
    """Key k is the k-th unit vector, so that a query q scores exactly its k-th entry on it."""
    count = len(ids)
    strength = _HARD if index == 0 else float(np.log(SOFT))
    queries = np.zeros((HEADS, count, count))
    for head in range(HEADS):
        for position in range(count):
            key = looks_at(ids, head, position)
            if key is not None:
                queries[head, position, key] = strength
    shared = HEADS if index == 0 else HEADS // 2
    keys = np.broadcast_to(np.eye(count), (shared, count, count))
    return capture(queries, keys, scale=1.0, window=WINDOW if index == 1 else None, edge=edge)


def _last_rows(ids: Ints) -> Floats:
    """[3, HEADS, K] rows of the last query, by the rules; layer 2 has none."""
    count = len(ids)
    rows = np.full((3, HEADS, count), np.nan, np.float32)
    for layer, strength, hidden in ((0, _HARD, 0), (1, float(np.log(SOFT)), max(0, count - WINDOW))):
        for head in range(HEADS):
            key = looks_at(ids, head, count - 1)
            powers = np.where(np.arange(count) < hidden, 0.0, 1.0)
            if key is not None:
                powers[key] *= np.exp(strength)
            rows[layer, head] = powers / powers.sum()
    return rows


def _asked_for(layer: LayerCapture, want: Want) -> LayerCapture:
    """With the largest weights and the norms of values, where they are wanted."""
    changes: dict[str, Any] = {}
    if want.top_k:
        weights = np.stack([layer.pattern(head) for head in range(layer.heads)])
        changes["top_weights"], changes["top_keys"] = ranked(weights, want.top_k)
    if want.values:
        changes["value_norm"] = np.tile(np.arange(1, len(layer.seen_by) + 1, dtype=np.float32), (layer.heads, 1))
    return dataclasses.replace(layer, **changes)


def lens_table(
    log_probs: Floats,
    sites: Sequence[str],
    positions: Sequence[int],
    top_k: int,
    targets: Sequence[int],
    label: Callable[[int], str],
) -> LensTable:
    """All numbers of a lens, from the whole distributions [N, P, V] (natural logarithm), by their definitions."""
    p = np.exp(log_probs)
    model, model_log = p[-1:], log_probs[-1:]
    middle = np.log((p + model) / 2)
    kl_to_middle = (p * (log_probs - middle)).sum(-1) + (model * (model_log - middle)).sum(-1)
    order = np.argsort(-log_probs, axis=-1, kind="stable")
    target = np.array(targets, np.int64)
    known = target >= 0
    at_target = np.take_along_axis(log_probs, np.maximum(target, 0)[None, :, None], axis=-1)
    rank = (log_probs > at_target).sum(-1)
    winner = order[-1, :, 0]
    place = (log_probs > np.take_along_axis(log_probs, winner[None, :, None], axis=-1)).sum(-1)  # [N, P]
    top_ids = order[..., :top_k]
    bits = np.log(2.0)
    return LensTable(
        sites=tuple(sites),
        positions=np.array(positions, np.int64),
        top_ids=top_ids,
        top_logprobs=np.take_along_axis(log_probs, top_ids, axis=-1).astype(np.float32),
        entropy=(-(p * log_probs).sum(-1) / bits).astype(np.float32),
        kl_model_lens=((model * (model_log - log_probs)).sum(-1) / bits).astype(np.float32),
        kl_lens_model=((p * (log_probs - model_log)).sum(-1) / bits).astype(np.float32),
        jensen_shannon=(kl_to_middle / 2 / bits).astype(np.float32),
        total_variation=(np.abs(p - model).sum(-1) / 2).astype(np.float32),
        target_ids=target,
        target_logprob=np.where(known, at_target[..., 0], np.nan).astype(np.float32),
        target_rank=np.where(known, rank, -1),
        settles_at=_settles(place == 0),
        settles_in_top5=_settles(place < 5),
        self_check=SelfCheck(ok=True, max_abs_diff=0.0, kl=0.0),
        labels={int(i): label(int(i)) for i in np.unique(np.concatenate([top_ids.ravel(), target[known]]))},
    )


def _settles(holds: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[P] first site from which `holds` [N, P] is true to the end."""
    to_the_end = np.logical_and.accumulate(holds[::-1], axis=0)[::-1]
    first: NDArray[np.int64] = to_the_end.argmax(axis=0)
    return first


def fake_backend(name: str = "fake", **options: Any) -> Backend:
    """A backend whose every model is a FakeModel; it takes the spec "fake"."""

    def handles(spec: ModelSpec) -> str | None:
        return None if spec.source == "fake" else f"it only knows the model 'fake', not {spec.source!r}."

    return Backend(
        name=name, summary="A model of rules, for tests.", handles=handles, load=lambda spec: FakeModel(**options)
    )
