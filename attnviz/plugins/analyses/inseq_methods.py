"""Attribution by a method of Inseq, under its name there.

Sarti et al. 2023, "Inseq: An Interpretability Toolkit for Sequence Generation Models". Inseq gets the very ids of the
run, no text in between, and a module of the same weights that it may change; it explains the number that is asked for
here. Each target is read by itself, over what comes before it, so this takes several times as long as the analyses of
attnviz that do the same.

Not offered of Inseq 0.7.1: layer_integrated_gradients and layer_deeplift, whose baseline is never read, so that every
score is 0; lime, which fills the embedding of a token that is left out with the number of an id; reagent and
discretized_integrated_gradients, which keep pickled files under a model's name; dummy, which finds nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import Analysis, AnalysisRequest, Attribution, Floats, ModelError, Param, Unavailable, hookimpl
from attnviz.plugins.analyses.attribution.answer import About, Rows, attribution
from attnviz.plugins.analyses.attribution.baseline import BASELINE, stand_in
from attnviz.plugins.analyses.attribution.engine import Engine, differentiable
from attnviz.plugins.analyses.attribution.hidden_axis import AGGREGATIONS, SIGNED, aggregate, aggregation
from attnviz.plugins.analyses.attribution.other_module import block, left_to, twin
from attnviz.plugins.analyses.attribution.question import SHARED_AT_THE_RUN, Question, ask
from attnviz.plugins.analyses.attribution.sampling import SEED
from attnviz.plugins.analyses.attribution.target_functions import NOTHING

if TYPE_CHECKING:
    import torch

if importlib.util.find_spec("inseq") is None:
    raise ModuleNotFoundError("No module named 'inseq'", name="inseq")


@dataclass(frozen=True)
class Method:
    """What is known of a method of Inseq.

    vectors   it gives a vector for each token, as long as an embedding
    signed    its scores have signs
    explains  it explains a number; else it reads something off the model, of which the mean is taken
    samples   the name there of how many steps or samples it takes
    """

    vectors: bool = True
    signed: bool = True
    explains: bool = True
    baseline: bool = False
    samples: str = ""
    layer: bool = False


METHODS: Mapping[str, Method] = {
    "saliency": Method(signed=False),
    "input_x_gradient": Method(),
    "integrated_gradients": Method(baseline=True, samples="n_steps"),
    "sequential_integrated_gradients": Method(baseline=True, samples="n_steps"),
    "gradient_shap": Method(baseline=True, samples="n_samples"),
    "deeplift": Method(baseline=True),
    "layer_gradient_x_activation": Method(layer=True),
    "occlusion": Method(vectors=False, signed=False, baseline=True),
    "attention": Method(vectors=False, signed=False, explains=False),
    "value_zeroing": Method(vectors=False, signed=False, explains=False),
}
DEEPLIFT = (
    "DeepLIFT has no rules for attention and norms: its scores do not add up to what they should in transformers."
)


def run(request: AnalysisRequest) -> Attribution:
    """Scores of one method.

    Raises:
        Unavailable: the model gives no gradients or does not predict the next token, or its layers cannot be found.
        BadInput: parameters that do not fit the run.
        ModelError: what went wrong in Inseq, in its words.
    """
    name = request.params["method"]
    method = METHODS[name]
    question = ask(request, None if method.explains else NOTHING)
    engine = Engine(differentiable(request), question, request.card.vocabulary)
    base, compared = stand_in(engine, request, request.params["baseline"])
    asked = _Asked(request, question, name, base)
    vectors = asked.vectors()  # [P, n] or [P, n, d]
    how = request.params["aggregation"]
    signed = method.signed and (not method.vectors or how in SIGNED)
    lines = [
        f"Method {name} of Inseq {_version()} (Sarti et al. 2023), run on the ids of this run.",
        *_read(method, how),
    ]
    if method.baseline:
        lines.append(f"Baseline: {compared}, at every position.")
    about = About(
        name="inseq",
        unit="{}" if method.explains else "mean of what the method reads",
        signed=signed,
        info=tuple(lines),
        warnings=(DEEPLIFT,) if "deeplift" in name else (),
    )
    return attribution(request, question, _rows(question, vectors, method, how), about)


def _read(method: Method, how: str) -> list[str]:
    if method.vectors:
        return [f"{AGGREGATIONS[how].capitalize()}. Sources of several tokens: the sum."]
    if method.explains:
        return ["Inseq gives the size of each change, without its sign. Sources of several tokens: the sum."]
    return ["Mean over layers, and over heads where there are any. Sources of several tokens: the sum."]


def _rows(question: Question, vectors: torch.Tensor, method: Method, how: str) -> Rows:
    """The scores of targets and sources; vectors are put together over the tokens of a target before they are one
    number."""
    import torch

    start = [group.start for group in question.groups]
    summed = torch.from_numpy(np.add.reduceat(vectors.numpy(), start, axis=0))
    scores: Floats = (aggregate(summed, how) if method.vectors else summed).numpy()
    if not method.explains:
        lengths = np.array([group.stop - group.start for group in question.groups])
        scores = scores / lengths[:, None]
    return Rows(question.by_source(scores.astype(np.float32)))


def _version() -> str:
    from importlib.metadata import version

    return version("inseq")


@dataclass(frozen=True)
class _Asked:
    """What Inseq is asked: one method, of one run. base: id of the token that it compares with."""

    request: AnalysisRequest
    question: Question
    name: str
    base: int

    def vectors(self) -> torch.Tensor:
        """[P, n, d] of each target token and each token before it, [P, n] of a method without vectors; 0 for a token
        that comes too late."""
        import torch

        method, question, module = METHODS[self.name], self.question, self.request.model.module()
        split = question.tokens.decoder_from
        if method.layer and split is not None:
            raise Unavailable(f"Inseq: {self.name} cannot explain encoder and decoder at once. Choose another method.")
        other = twin(module, "sdpa" if method.explains else "eager")
        with left_to("Inseq", self.name, self.request):
            found = self._attribute(other)
        parts = [p for p in (found.source_attributions, found.target_attributions) if p is not None]
        whole = torch.cat(parts)[: question.count].transpose(0, 1)  # [P, n, ...]
        ids = [token.id for part in (found.source if split is not None else [], found.target) for token in part]
        if ids[: question.count] != question.tokens.ids[: question.count].tolist():
            raise ModelError("Inseq: its scores are of other tokens than those of this run.")
        late = np.arange(question.count)[None, :] > np.array(question.positions)[:, None]
        whole = whole.masked_fill(torch.from_numpy(late).reshape(*late.shape, *[1] * (whole.ndim - 2)), 0)
        if whole.shape[:2] != late.shape or not bool(whole.isfinite().all()):
            raise ModelError(f"Inseq: {self.name} gave no finite number for some tokens of this run.")
        if not bool(whole.any()):
            raise ModelError(f"Inseq: {self.name} gave nothing but zeros.")
        return whole if method.vectors else whole.reshape(*late.shape, -1).mean(dim=-1)

    def _attribute(self, module: Any) -> Any:
        """Inseq's scores of one sequence."""
        from inseq.data import DecoderOnlyBatch, EncoderDecoderBatch
        from inseq.models.huggingface_model import HuggingfaceModel

        ids, split = self.question.tokens.ids, self.question.tokens.decoder_from
        stop = self.question.first + len(self.question.ids)
        ids = np.append(ids[: self.question.first], self.question.ids)[:stop]
        layer = self.request.params["layer"] if METHODS[self.name].layer else None
        place = {} if layer is None else {"target_layer": block(module, self.request, layer)}
        model = HuggingfaceModel.load(module, self.name, _names(), device=str(module.device), model_kwargs={}, **place)
        if split is None:
            batch = DecoderOnlyBatch.from_batch(self._batch(model, ids, as_targets=False))
        else:
            batch = EncoderDecoderBatch(
                self._batch(model, ids[:split], as_targets=False), self._batch(model, ids[split:], as_targets=True)
            )
        samples = METHODS[self.name].samples
        output = model.attribution_method.attribute(
            batch,
            self._explained,
            attr_pos_start=self.question.first - (split or 0),
            show_progress=False,
            attribute_target=split is not None,
            attribution_args={samples: self.request.params["samples"]} if samples else {},
        )
        return output.sequence_attributions[0]

    def _batch(self, model: Any, ids: NDArray[Any], *, as_targets: bool) -> Any:
        import torch
        from inseq.data import Batch, BatchEmbedding, BatchEncoding

        given = torch.tensor(np.array(ids), device=model.model.device)[None]
        other = torch.full_like(given, self.base)
        names = [[str(i) for i in ids]]
        embeddings = (model.embed_ids(some, as_targets=as_targets).detach() for some in (given, other))
        return Batch(BatchEncoding(given, torch.ones_like(given), names, other), BatchEmbedding(*embeddings))

    def _explained(self, args: Any) -> torch.Tensor:
        """[B] the number that is asked for, in place of one of Inseq's own."""
        import torch

        done = args.decoder_input_ids.shape[1] + (self.question.tokens.decoder_from or 0) - self.question.first
        self.request.progress(done / len(self.question.ids), f"target token {done + 1} of {len(self.question.ids)}")
        logits = args.attribution_model.output2logits(args.forward_output)
        exact = logits if logits.dtype == torch.float64 else logits.float()
        number: torch.Tensor = self.question.function(exact[:, None], args.target_ids.reshape(-1)[:1])[:, 0]
        return number


def _names() -> Any:
    """A tokenizer for Inseq that reads no text and calls each token by its id."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    class Names(PreTrainedTokenizerFast):  # type: ignore[misc]
        def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
            return str(ids) if isinstance(ids, int) else [str(int(i)) for i in ids]

        def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
            return ["" for _ in sequences]

        def convert_tokens_to_string(self, tokens: list[str]) -> str:
            return ""

    core = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))
    return Names(tokenizer_object=core, pad_token="<pad>", unk_token="<pad>")


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """The methods of Inseq."""
    without_mean = tuple(choice for choice in BASELINE.choices if choice != "mean")
    return [
        Analysis(
            name="inseq",
            title="Inseq",
            group="Attribution",
            summary="Attribution by a method of Inseq, to compare with.",
            run=run,
            produces=Attribution,
            requires=frozenset({"gradients", "logits"}),
            params=(
                Param("method", "choice", default="saliency", choices=tuple(METHODS), help="Its name in Inseq."),
                *SHARED_AT_THE_RUN,
                aggregation("sum"),
                replace(BASELINE, choices=without_mean, help=_BASELINE_HELP),
                Param(
                    "samples",
                    "int",
                    default=50,
                    minimum=1,
                    maximum=4096,
                    help="Steps of integrated gradients, samples of gradient_shap.",
                ),
                Param("layer", "int", minimum=0, help="Of a layer_ method: from 0. Empty: the embedding."),
                SEED,
            ),
            gpu=True,
        )
    ]


_BASELINE_HELP = "What a token is compared with, by the methods that compare: a control token of the model."
