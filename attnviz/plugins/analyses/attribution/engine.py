"""Forward passes and gradients for all targets at once.

A prediction depends on earlier tokens only, so one forward pass over the whole run serves every target. The pass is cut
where the unembedding reads the residual stream: the way from there to the numbers that are explained is gone back once
for all targets (their rows are independent), and from there to the embeddings once for each target. Going back for
several targets in one batch (vmap) was measured on a processor and saved 8 %, less than it costs in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from attnviz.hooks import (
    AnalysisRequest,
    Differentiable,
    DifferentiableInside,
    DifferentiableMaps,
    Floats,
    Ints,
    ModelError,
    PropagatesRelevance,
    Unavailable,
)
from attnviz.plugins.analyses.attribution.question import Question

if TYPE_CHECKING:
    import torch

_TOKENS = 512  # of a batch of variants; a processor gains nothing from more
_LOGITS = 1 << 24  # numbers of logits held at once


def differentiable(request: AnalysisRequest) -> Differentiable:
    """The model of a request, as one that gradients can be taken through.

    Raises:
        Unavailable: it is none, with the reason.
    """
    card = request.card
    if "gradients" not in card.capabilities:
        raise Unavailable(f"{card.name} gives no gradients: {card.missing.get('gradients', 'its backend has none.')}")
    return cast(Differentiable, request.model)


@dataclass(frozen=True)
class Relevance:
    """Where the number of a target comes from.

    gradient  [n, d] that makes relevance of the embeddings, each times its own
    added     what comes from no embedding: biases, position embeddings
    """

    gradient: torch.Tensor
    added: float


@dataclass(frozen=True)
class Engine:
    """Answers a question about a model with so many tokens to choose from."""

    model: Differentiable
    question: Question
    vocabulary: int

    @cached_property
    def embeddings(self) -> torch.Tensor:
        """[n, d] of the run."""
        return self.embed(self.question.tokens.ids[: self.question.count])

    def embed(self, ids: Ints) -> torch.Tensor:
        """[n] ids in place of the run's -> [n, d]."""
        import torch

        split = self.question.tokens.decoder_from
        if split is None:
            found: torch.Tensor = self.model.embed(ids).detach()
            return found
        return torch.cat([self.model.embed(ids[:split]), self.model.embed(ids[split:], decoder=True)]).detach()

    @cached_property
    def batch(self) -> int:
        """Variants of the run that are put through the model at once.

        Raises:
            ModelError: not even one fits into memory.
        """
        return max(1, min(_TOKENS // self.question.count, self.model.variants(self.question.count)))

    def values(self, embeddings: torch.Tensor, places: Sequence[int] | None = None, after: Any = None) -> torch.Tensor:
        """[B, n, d] -> [B, p] the numbers of the target tokens at `places` (None = all). Any B.

        after: see Differentiable.remember
        """
        import torch

        asked = range(len(self.question.ids)) if places is None else places
        with torch.no_grad(), _enough_memory(self.question):
            parts = [self.read(self._states(part, asked, after), asked) for part in embeddings.split(self.batch)]
        return torch.cat(parts)

    def gradients(
        self, embeddings: torch.Tensor, targets: Sequence[int] | None = None
    ) -> tuple[torch.Tensor, Iterator[torch.Tensor]]:
        """[B, n, d] -> the numbers [B, P] of the tokens of `targets` (None = all), and for each target in turn the
        gradient of its number, [B, n, d]. At most `batch` variants; gradients have to be taken in order, and hold the
        pass until the last.

        Raises:
            ModelError: out of memory, or gradients that are no finite numbers.
        """
        import torch

        groups = self.question.groups
        chosen = [
            range(group.start, group.stop) for group in (groups if targets is None else [groups[t] for t in targets])
        ]
        places = [place for group in chosen for place in group]
        leaves = embeddings.detach().clone().requires_grad_()
        with torch.enable_grad(), _enough_memory(self.question):
            states = self._states(leaves, places)
            values, seeds = self._seeds(states, places)
        found = self._back([leaves], states, seeds, [len(group) for group in chosen])
        return values, (gradient for (gradient,) in found)

    def inner_gradients(self, layer: int) -> tuple[torch.Tensor, torch.Tensor, Iterator[torch.Tensor]]:
        """The numbers [P] of the run's target tokens, what a layer hands on [n, d'], and for each target in turn the
        gradient of its number with regard to that, [n, d'].

        Raises:
            BadInput: no such layer.
            Unavailable: the model gives no gradients from a layer on, with the reason.
            ModelError: see gradients.
        """
        import torch

        model, question = self.model, self.question
        if not isinstance(model, DifferentiableInside):
            raise Unavailable("Its backend gives gradients of embeddings only, not of what a layer hands on.")
        leaves = self.embeddings[None].clone().requires_grad_()
        with torch.enable_grad(), _enough_memory(question):
            states, inner = model.inner_states(leaves, question.tokens, question.positions, layer)
            values, seeds = self._seeds(states, range(len(question.ids)))
        rows = (gradient[0] for (gradient,) in self._back([inner], states, seeds, self._lengths))
        return values[0], inner.detach()[0], rows

    def map_gradients(self) -> tuple[torch.Tensor, list[torch.Tensor], Iterator[list[torch.Tensor]]]:
        """The numbers [P] of the run's target tokens, the attention weights [H, Q, K] of each layer that has any, and
        for each target in turn the gradients of its number with regard to them.

        Raises:
            Unavailable: the model gives no gradients of its weights, with the reason.
            ModelError: see gradients.
        """
        import torch

        model, question = self.model, self.question
        if not isinstance(model, DifferentiableMaps):
            raise Unavailable("Its backend gives gradients of embeddings only, not of attention weights.")
        leaves = self.embeddings[None].clone().requires_grad_()
        with torch.enable_grad(), _enough_memory(question):
            states, maps = model.states_and_maps(leaves, question.tokens, question.positions)
            values, seeds = self._seeds(states, range(len(question.ids)))
        weights = list(maps.values())
        rows = ([gradient[0] for gradient in found] for found in self._back(weights, states, seeds, self._lengths))
        return values[0], [layer.detach()[0] for layer in weights], rows

    def relevance(self) -> tuple[torch.Tensor, Iterator[Relevance]]:
        """The numbers [P] of the run's target tokens, and for each target in turn where they come from, by the rules of
        relevance propagation.

        Raises:
            Unavailable: the model knows no such rules.
            ModelError: see gradients.
        """
        import torch

        model, question = self.model, self.question
        if not isinstance(model, PropagatesRelevance):
            raise Unavailable("Its backend has no rules of relevance propagation.")
        leaves = self.embeddings[None].clone().requires_grad_()
        with torch.enable_grad(), _enough_memory(question), model.relevance_rules() as constants:
            states = self._states(leaves, range(len(question.ids)))
            inside = list(constants)
            values, seeds, shares = self._relevance_seeds(states, constants)
        return values, self._relevance_back([leaves, *inside], states, seeds, shares)

    def _relevance_seeds(
        self, states: torch.Tensor, constants: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `_seeds`, a row at a time: values [P], gradients [1, P, d'], and what `constants`, which grow on the way,
        have to do with each value [P]."""
        import torch

        values, seeds, shares = [], torch.empty_like(states), []
        for place in range(states.shape[1]):
            leaf, before = states[:, place : place + 1].detach().requires_grad_(), len(constants)
            number = self._numbers(leaf, range(place, place + 1))
            added = constants[before:]
            gradient, *others = torch.autograd.grad(number.sum(), [leaf, *added], allow_unused=True)
            seeds[:, place] = gradient[:, 0]
            values.append(number.detach()[0, 0])
            shares.append(_contribution(added, others))
        return torch.stack(values), seeds.detach(), torch.stack(shares).to(states.device)

    def _relevance_back(
        self, leaves: Sequence[torch.Tensor], states: torch.Tensor, seeds: torch.Tensor, shares: torch.Tensor
    ) -> Iterator[Relevance]:
        for group, (gradient, *others) in zip(
            self.question.groups, self._back(leaves, states, seeds, self._lengths), strict=True
        ):
            added = _contribution(leaves[1:], others).to(states.device) + shares[group].sum()
            yield Relevance(gradient[0], float(added))

    @property
    def _lengths(self) -> list[int]:
        """Tokens of each target."""
        return [group.stop - group.start for group in self.question.groups]

    def _back(
        self, leaves: Sequence[torch.Tensor], states: torch.Tensor, seeds: torch.Tensor, lengths: Sequence[int]
    ) -> Iterator[list[torch.Tensor]]:
        """From the residual stream to each of `leaves`, a target at a time: so many rows of `states` are its tokens'.

        The gradient of a leaf that the states do not depend on is 0.
        """
        import torch

        start = 0
        for index, length in enumerate(lengths):
            rows = slice(start, start := start + length)
            given = torch.zeros_like(states)
            given[:, rows] = seeds[:, rows]
            with _enough_memory(self.question):
                found = torch.autograd.grad(
                    states, leaves, given, retain_graph=index < len(lengths) - 1, materialize_grads=True
                )
            if not all(bool(gradient.isfinite().all()) for gradient in found):
                raise ModelError(
                    f"The gradients are no finite numbers in {str(states.dtype).removeprefix('torch.')}: load the "
                    "model with dtype float32."
                )
            yield list(found)

    def _states(self, embeddings: torch.Tensor, places: Sequence[int], after: Any = None) -> torch.Tensor:
        """[B, n, d] -> [B, p, d'] the residual stream at the positions that predict the target tokens at `places`."""
        positions = [self.question.positions[place] for place in places]
        memory = {} if after is None else {"after": after}
        found: torch.Tensor = self.model.states(embeddings, self.question.tokens, positions, **memory)
        return found

    # ---- from the residual stream to the numbers that are explained

    def read(self, states: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """[B, p, d'] of the target tokens at `places` -> [B, p], without gradients."""
        import torch

        with torch.no_grad():
            return torch.cat([self._numbers(states[:, rows], places[rows]) for rows in self._pieces(states)], dim=1)

    def _seeds(self, states: torch.Tensor, places: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Values [B, p], and their gradients with regard to the residual stream [B, p, d'], each of its own row."""
        import torch

        values, seeds = [], torch.empty_like(states)
        for rows in self._pieces(states):
            leaves = states[:, rows].detach().requires_grad_()
            numbers = self._numbers(leaves, places[rows])
            (seeds[:, rows],) = torch.autograd.grad(numbers.sum(), leaves)
            values.append(numbers.detach())
        return torch.cat(values, dim=1), seeds.detach()

    def _numbers(self, states: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        import torch

        reference = None if self._reference is None else self._reference[list(places)]
        ids = torch.tensor([self.question.ids[place] for place in places], device=states.device)
        return self.question.function(self.model.unembed(states), ids, reference)

    def _pieces(self, states: torch.Tensor) -> list[slice]:
        """Rows of `states` whose logits are held at once."""
        count, rows = states.shape[1], max(1, _LOGITS // (self.vocabulary * len(states)))
        return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]

    @cached_property
    def _reference(self) -> torch.Tensor | None:
        """[P, V] log-probabilities of the run itself; only kl needs them."""
        import torch

        if self.question.function.name != "kl":
            return None
        with torch.no_grad():
            states = self._states(self.embeddings[None], range(len(self.question.ids)))[0]
            return torch.cat([torch.log_softmax(self.model.unembed(row[None]), dim=-1) for row in states])


def _contribution(tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Each times its gradient, added up in float64."""
    import torch

    total = torch.zeros((), dtype=torch.float64)
    for tensor, gradient in zip(tensors, gradients, strict=True):
        if gradient is not None and bool(gradient.any()):
            total = total + (tensor.detach().double() * gradient.double()).sum().cpu()
    return total


@contextmanager
def _enough_memory(question: Question) -> Iterator[None]:
    """Turns what torch says when memory runs out into one line."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"The device has too little free memory for attribution over {question.count} tokens: use a shorter prompt."
        ) from error


def as_array(tensor: torch.Tensor) -> Floats:
    """float32; float64 of a float64 model."""
    import torch

    exact = tensor if tensor.dtype == torch.float64 else tensor.float()
    array: Floats = np.asarray(exact.detach().cpu().numpy())
    return array
