"""What plugins and the host promise each other while running: a loaded model, and the request an analysis gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import BadInput, Unavailable
from attnviz.hooks.descriptors import Tool
from attnviz.types import (
    Estimate,
    LensTable,
    LiveRow,
    ModelCard,
    Result,
    Run,
    Sampling,
    SensorSeries,
    Tokens,
    Trace,
    Want,
)

Message = Mapping[str, str]
"""One turn of a conversation: {"role": "user", "content": "…"}."""


@runtime_checkable
class Model(Protocol):
    """A loaded model. Safe to call from several threads; leaves nothing behind in the torch module."""

    @property
    def card(self) -> ModelCard:
        """What is known of the model before any run."""

    def tokenize(self, prompt: str | Sequence[Message]) -> Tokens:
        """Tokens of a text, or of a conversation through the model's chat template (ready for the answer).

        A model with encoder and decoder gets the text as what the encoder reads; the decoder's start token follows
        (`decoder_from`).

        Raises:
            BadInput: nothing left to run, text that cannot be encoded, more tokens than the model has positions.
        """

    def trace(self, tokens: Tokens, want: Want) -> Trace:
        """One forward pass over exactly these ids. Everything returned is numpy.

        Raises:
            Unavailable: the model gives no attention (with the reason).
        """

    def lens(
        self,
        tokens: Tokens,
        *,
        positions: Sequence[int],
        top_k: int,
        targets: Sequence[int],
        sites: str,
    ) -> LensTable:
        """Logit lens at the given positions; see LensTable. `targets` [P] ids (-1 = none); sites: blocks | sublayers.

        Raises:
            Unavailable: the unembedding could not be located or verified, or (sublayers) the model's blocks have no
                state after attention.
        """

    def generate(
        self,
        tokens: Tokens,
        sampling: Sampling,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_row: Callable[[LiveRow], None] | None = None,
    ) -> Tokens:
        """Prompt and answer, the exact ids. `on_token` gets each new id as it comes; stops soon after `cancelled()`.

        `on_row`, of a model with attention, gets what each new token was chosen from, right after `on_token`; the
        answer is the same with and without it.
        """

    def label(self, token_id: int) -> str:
        """Text of one id, safe to show."""

    def module(self) -> Any:
        """The torch module, for analyses that need it."""


@runtime_checkable
class Estimating(Protocol):
    """A model that can say what a trace will take. Not every model can, so this is not part of Model."""

    def estimate(self, count: int, want: Want, decoder_from: int | None = None) -> Estimate:
        """What a trace of `count` tokens will take, the decoder's from `decoder_from` on (see Tokens). Runs nothing.

        Raises:
            Unavailable: the model gives no attention (with the reason).
        """


@runtime_checkable
class GivesMaps(Protocol):
    """A model that can be asked for one map again, where the maps of a run are too large to travel with its trace."""

    def attention_map(self, tokens: Tokens, layer: int, head: int) -> NDArray[np.float32]:
        """[Q, K] pattern of one head.

        Raises:
            BadInput: no such layer or head.
            Unavailable: even one map is too large.
        """


@runtime_checkable
class ReadsIds(Protocol):
    """A model that takes token ids as they are, such as a row of a batch that was tokenised elsewhere."""

    def tokens_of(self, ids: Sequence[int], padding: Sequence[bool] | None = None) -> Tokens:
        """Tokens of exactly these ids. padding: True for those that only fill up the row.

        Raises:
            BadInput: ids outside the vocabulary, none at all, or nothing but padding.
        """


@runtime_checkable
class ReadsNumbers(Protocol):
    """A model that reads numbers instead of text: pixels, sound, sensors."""

    def tokenize_values(self, values: NDArray[Any]) -> Tokens:
        """Tokens of one input in the model's own axes (`Tokens.values`), ready for `trace`.

        Raises:
            BadInput, ShapeError: what was expected, what came.
        """


@runtime_checkable
class ReadsSeries(Protocol):
    """A model that reads numbers and may read series [time, sensor] of a certain length and certain sensors."""

    @property
    def reads_series(self) -> bool:
        """Whether one input is a series; pictures are none."""

    @property
    def steps(self) -> int | None:
        """Rows of one input; None = any number, or it reads no series."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that it reads, in their order; () = it knows of no names."""


@runtime_checkable
class PredictsNumbers(Protocol):
    """A model with the capability "sensors" whose predictions can be asked for: what occlusion and gradients with
    respect to the input need.

    `values` is a batch [B, time, column] of inputs, each in the axes and units of `Tokens.values` of a run. All arrays
    are numpy, float32 (float64 of a float64 model). Every input is answered as if it were alone. Each method raises
    Unavailable, with the reason, where the model gives no prediction (a base model without a head).
    """

    def series(self, tokens: Tokens) -> SensorSeries:
        """What the columns of a run are, and what is predicted from it; names given to the run come first."""

    def predict(self, values: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """[B, time, column] -> [B, O] what the model predicts from each input; see SensorSeries.outputs.

        Raises:
            BadInput, ShapeError: what was expected, what came.
            ModelError: the device has too little memory.
        """

    def prediction_gradients(self, values: NDArray[Any], outputs: Sequence[int]) -> NDArray[np.floating[Any]]:
        """[B, time, column], P indices of outputs -> [B, P, time, column] derivative of each of these outputs with
        respect to each number of its own input, in units of the output per unit of the column.

        Raises:
            BadInput, ShapeError: an unknown output, or values that do not fit.
            ModelError: the device has too little memory.
        """


@runtime_checkable
class TakesTurns(Protocol):
    """A model that can be told of tools, and whose turns can be followed by what others say: what an agent needs.

    All that was in `tokens` stays as it is, the very ids; what follows is tokenised by itself.
    """

    def tool_format(self) -> str:
        """How the chat template has the model write a call: hermes | llama | mistral; see docs/agent.md.

        Raises:
            Unavailable: the template knows no tools, or has them called in another way.
        """

    def tool_prompt(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Tokens:
        """Tokens of a conversation through the chat template, which tells the model of the tools. What is said before
        the question, tools included, is one segment "system".

        Raises:
            BadInput: as `tokenize`.
        """

    def say(self, tokens: Tokens, text: str, role: str) -> Tokens:
        """`tokens` and a plain text, as a segment of that role. Names of control tokens in it are letters."""

    def reply(self, tokens: Tokens, replies: Sequence[Reply]) -> Tokens:
        """`tokens`, which end with a turn of the model, what the chat template writes around these replies to it, and
        the replies, each a segment "observation": ready for the model's next turn. A turn that was cut off is ended
        first, as the template ends it.

        Raises:
            BadInput: the template refuses the conversation, or changes what was replied.
        """


@dataclass(frozen=True)
class Reply:
    """What is said to a model after its turn: the answer of the tool it called, or, without a tool, of the user.

    call_id  as the model wrote it; "" = it wrote none
    """

    text: str
    tool: str = ""
    call_id: str = ""


@runtime_checkable
class Differentiable(Protocol):
    """A model that gradients can be taken through. Not every model can, so this is not part of Model.

    All arguments and results are torch tensors on the model's device. The embeddings stand for the tokens at their
    positions; positions, masks and everything else are the model's own affair. Parameters take no gradient. Each method
    raises Unavailable, with the reason on the card, where the model lacks the capability "gradients".
    """

    @property
    def reads_ahead(self) -> bool:
        """Whether a state depends on later tokens, so that each target needs a pass over what comes before it alone."""

    @property
    def stand_ins(self) -> Mapping[str, int]:
        """Tokens that say nothing, to compare a token with: those of eos, pad, unk, mask, bos that the model has."""

    def embed(self, ids: Any, *, decoder: bool = False) -> Any:
        """[...] token ids -> [..., d] what the embedding layer makes of them; `decoder`: that of the decoder."""

    def states(self, embeddings: Any, tokens: Tokens, positions: Sequence[int], *, after: Any = None) -> Any:
        """One forward pass over B variants of the first n tokens of a run: [B, n, d] -> [B, P, d'], the residual stream
        that the unembedding reads. Differentiable unless called under no_grad.

        positions [P]: the query positions; position p predicts token p + 1.
        after: what `remember` gave of the first tokens; the embeddings are then those of the tokens behind them.

        Raises:
            ModelError: the device has too little memory.
        """

    def remember(self, embeddings: Any, tokens: Tokens, after: Any = None) -> Any:
        """What the model makes of the first m tokens, [1, m, d], for passes that go on from there, without gradients;
        None where it cannot go on. after: as in `states`.
        """

    def unembed(self, states: Any) -> Any:
        """[..., d'] -> [..., V] logits in float32 (float64 of a float64 model), with the model's own scale and
        soft-cap."""

    def variants(self, count: int) -> int:
        """How many variants of a run of `count` tokens fit into memory at once, with all that their gradients need.

        Raises:
            ModelError: not even one; says what it needs and what is free.
        """


@runtime_checkable
class DifferentiableInside(Protocol):
    """A model that gradients can be taken through from any of its layers on. Not every Differentiable can."""

    def inner_states(self, embeddings: Any, tokens: Tokens, positions: Sequence[int], layer: int) -> tuple[Any, Any]:
        """`states` [B, P, d'], and what a layer gave to the next on the way there [B, n, d']; gradients of the one go
        back to the other, where the embeddings require them.

        Raises:
            BadInput: no such layer.
            Unavailable: its layers do not hand on one state per token of the run, with the reason.
            ModelError: the device has too little memory.
        """


@runtime_checkable
class DifferentiableMaps(Protocol):
    """A model that gradients of its attention weights can be taken of. Not every Differentiable can."""

    def states_and_maps(
        self, embeddings: Any, tokens: Tokens, positions: Sequence[int]
    ) -> tuple[Any, Mapping[int, Any]]:
        """`states` [B, P, d'], and layer -> the weights [B, H, Q, K] that were used on the way there; gradients of the
        states go back to them, where the embeddings require them. A layer without attention is left out.

        Raises:
            Unavailable: the model gives no attention, or has more than one stack of it, with the reason.
            ModelError: the device has too little memory.
        """


@runtime_checkable
class PropagatesRelevance(Protocol):
    """A Differentiable whose passes can be gone back by the rules of layer-wise relevance propagation."""

    def relevance_rules(self) -> AbstractContextManager[list[Any]]:
        """Inside, gradients of what this thread puts through `states` and `unembed` are those of the rules: attention
        weights, norms' scales and gates count as constants, an activation as its ratio of output to input, a product
        of two signals is shared between them by halves. The results are those of a pass outside.

        Gives a list that grows by whatever is added on the way and comes from no embedding (biases, position
        embeddings), as tensors that gradients can be taken of. A number that is linear in the logits is then the sum
        of every embedding and every such tensor, each times its gradient, unless an operation has no rule.
        """


class Analyze(Protocol):
    """Asks another analysis about the same run: its name and parameters -> its result."""

    def __call__(self, name: str, /, **params: Any) -> Result:
        """
        Raises:
            UnknownName, BadInput: no such analysis or parameter, or one that is waiting for this answer.
            Unavailable: the model lacks what it requires, with the reason.
        """


def _alone(name: str, /, **params: Any) -> Result:
    raise Unavailable(f"This request stands alone, so the analysis {name} cannot be asked. Make it through a session.")


@dataclass(frozen=True)
class AnalysisRequest:
    """What an analysis gets. `params` are already validated against its Params and the run.

    captured  the trace, or None if the analysis does not require attention
    analyze   asks another analysis about this run; for an analysis with `gpu`, because the other one may use the device
    """

    run: Run
    card: ModelCard
    model: Model
    params: Mapping[str, Any] = field(default_factory=dict)
    captured: Trace | None = None
    progress: Callable[[float, str], None] = lambda share, what: None
    analyze: Analyze = _alone

    @property
    def tokens(self) -> Tokens:
        return self.run.tokens

    @property
    def trace(self) -> Trace:
        """Attention of the run.

        Raises:
            BadInput: the analysis does not list "attention" in `requires`.
        """
        if self.captured is None:
            raise BadInput('No attention was captured: add "attention" to the requires of this analysis.')
        return self.captured

    def attention(self, layer: int, head: int, rows: slice | None = None) -> NDArray[np.float32]:
        """Pattern of one head, float32 [query, key]; asked of the model where the trace keeps no maps (see GivesMaps).

        Raises:
            BadInput: an unknown layer or head.
            Unavailable: there are no maps, and the model cannot give one.
        """
        try:
            return self.trace.attention(layer, head, rows)
        except Unavailable:
            ask = getattr(self.model, "attention_map", None)
            if ask is None:
                raise
            pattern: NDArray[np.float32] = ask(self.tokens, layer, head)
            return pattern[rows or slice(None)]
