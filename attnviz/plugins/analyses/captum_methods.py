"""Attribution by a method of Captum, under its name there.

Kokhlikyan et al. 2020, "Captum: A Unified and Generic Model Interpretability Library for PyTorch". Two kinds:

* which sources are kept (feature_ablation, shapley_value_sampling, kernel_shap, lime): Captum chooses runs in which a
  baseline stands in for some of the sources, attnviz runs them on the ids of the run, all targets at once where the
  method can; Captum makes scores of what came out
* a layer (layer_…): what a block hands on at each position, on a module of the same weights that
  Captum may change; a target at a time

Captum's own wrapper for language models is not used: in its default way it gives wrong numbers with transformers 5.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.hooks import Analysis, AnalysisRequest, Attribution, Floats, ModelError, Param, Unavailable, hookimpl
from attnviz.plugins.analyses.attribution.answer import About, Rows, explain
from attnviz.plugins.analyses.attribution.baseline import BASELINE, baseline
from attnviz.plugins.analyses.attribution.engine import Engine, as_array
from attnviz.plugins.analyses.attribution.hidden_axis import AGGREGATIONS, SIGNED, aggregate, aggregation
from attnviz.plugins.analyses.attribution.other_module import block, left_to, twin
from attnviz.plugins.analyses.attribution.question import SHARED_AT_THE_RUN, SOURCES
from attnviz.plugins.analyses.attribution.sampling import SEED
from attnviz.plugins.analyses.attribution.shapley import Game

if TYPE_CHECKING:
    import torch

if importlib.util.find_spec("captum") is None:
    raise ModuleNotFoundError("No module named 'captum'", name="captum")

AT_ONCE = {"feature_ablation": "FeatureAblation", "shapley_value_sampling": "ShapleyValueSampling"}
FITTED = {"kernel_shap": "KernelShap", "lime": "Lime"}
LAYERS = {
    "layer_gradient_x_activation": "LayerGradientXActivation",
    "layer_integrated_gradients": "LayerIntegratedGradients",
    "layer_conductance": "LayerConductance",
}
METHODS = (*AT_ONCE, *FITTED, *LAYERS)
"""Names in Captum; the classes are those of captum.attr."""
_SINGLE = "layer_gradient_x_activation"  # the one that takes no steps and no baseline
_RUNS = "Runs with some sources taken away are no text, and another baseline gives other scores."
_STATES = "A state holds what its position has read, not its token alone."


def run(request: AnalysisRequest) -> Attribution:
    """Scores of one method. See answer.explain for errors.

    Raises:
        Unavailable: scikit-learn is missing for a method that fits, or the model's layers cannot be found.
        ModelError: what went wrong in Captum, in its words.
    """
    name, how = request.params["method"], request.params["aggregation"]
    if name in FITTED and importlib.util.find_spec("sklearn") is None:
        raise Unavailable(f"Captum's {name} needs scikit-learn: pip install scikit-learn")
    inside = name in LAYERS
    lines = [f"Method {name} of Captum {_version()} (Kokhlikyan et al. 2020), run on the ids of this run."]
    if inside:
        lines.append(f"Layer {request.params['layer']}; {AGGREGATIONS[how]}. Sources of several tokens: the sum.")
    about = About(
        name="captum",
        unit="{}",
        signed=not inside or how in SIGNED,
        info=tuple(lines),
        warnings=(_STATES if inside else _RUNS,),
    )
    rows = _inside if inside else _at_once if name in AT_ONCE else _fitted
    return explain(request, rows, about)


def _version() -> str:
    from importlib.metadata import version

    return version("captum")


# --------------------------------------------------------------------------------------------- which sources are kept


def _at_once(engine: Engine, request: AnalysisRequest) -> Rows:
    """Of all targets."""
    name, (game, words) = request.params["method"], _game(engine, request)
    scores = _kept_or_not(game, request, AT_ONCE[name], _worth(game)).reshape(-1, game.players)
    return Rows(scores, values=_values(engine), info=(words,))


def _fitted(engine: Engine, request: AnalysisRequest) -> Rows:
    """A target at a time, over the sources before it: a fit would give others a score as well."""
    question, name = engine.question, request.params["method"]
    scores, words = np.zeros((len(question.targets), len(question.sources))), ""
    for row, part in enumerate(question.one_by_one()):
        game, words = _game(replace(engine, question=part), request)
        found = _kept_or_not(game, request, FITTED[name], _one(_worth(game)))
        scores[row, : game.players] = found.reshape(-1)
    few = len(question.sources) >= request.params["samples"] and name == "kernel_shap"
    return Rows(
        scores,
        values=_values(engine),
        info=(words, f"{request.params['samples']} runs for each target, seed {request.params['seed']}."),
        warnings=("As many sources as runs, or more: the fit is not determined. Take more samples.",) if few else (),
    )


def _game(engine: Engine, request: AnalysisRequest) -> tuple[Game, str]:
    start, words = baseline(engine, request, request.params["baseline"])
    return Game(engine, start, request.progress), f"Taken away: every token of a source is replaced by {words}."


def _worth(game: Game) -> Callable[[torch.Tensor], torch.Tensor]:
    """[B, C] of 1 (kept) and 0 -> [B, R]"""
    import torch

    return lambda kept: torch.from_numpy(game.worth(kept.numpy() > 0.5))


def _one(worth: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """[B] of the only target"""
    return lambda kept: worth(kept)[:, 0]


def _kept_or_not(
    game: Game, request: AnalysisRequest, method: str, forward: Callable[[torch.Tensor], torch.Tensor]
) -> Any:
    """What a method of Captum makes of `forward`, with all sources kept against none."""
    import torch

    every = torch.ones((1, game.players), dtype=torch.float64)
    options: dict[str, Any] = {} if method == "FeatureAblation" else {"n_samples": request.params["samples"]}
    if method in FITTED.values():
        options["perturbations_per_eval"] = game.engine.batch
    with left_to("Captum", request.params["method"], request):
        from captum import attr

        found = getattr(attr, method)(forward).attribute(every, baselines=torch.zeros_like(every), **options)
    if not bool(found.isfinite().all()):
        raise ModelError(f"Captum: {request.params['method']} gave no finite number for some sources of this run.")
    return found.detach().numpy()


def _values(engine: Engine, embeddings: torch.Tensor | None = None) -> Floats:
    """[R] the numbers that are explained, of the run or of other embeddings [n, d]."""
    given = engine.embeddings if embeddings is None else embeddings
    return engine.question.by_target(as_array(engine.values(given[None]))[0])


# --------------------------------------------------------------------------------------------- layers


def _inside(engine: Engine, request: AnalysisRequest) -> Rows:
    from captum import attr

    question, name, how = engine.question, request.params["method"], request.params["aggregation"]
    if question.tokens.decoder_from is not None:
        raise Unavailable(f"{request.card.name} has an encoder and a decoder: no layer holds a state of every token.")
    start, words = baseline(engine, request, request.params["baseline"])
    other = twin(request.model.module())
    method = getattr(attr, LAYERS[name])(
        partial(_explained, engine=engine, module=other), block(other, request, request.params["layer"])
    )
    options: dict[str, Any] = {}
    if name != _SINGLE:
        options = {"baselines": start[None], "n_steps": request.params["samples"], "internal_batch_size": engine.batch}
    rows, sums = [], []
    for target in range(len(question.targets)):
        request.progress(target / len(question.targets), f"target {target + 1} of {len(question.targets)}")
        with left_to("Captum", name, request):
            found = method.attribute(engine.embeddings[None], target=target, **options)
            vectors = (found[0] if isinstance(found, tuple) else found).detach()
        if vectors.ndim != 3 or vectors.shape[1] != question.count or not bool(vectors.isfinite().all()):
            raise ModelError(f"Captum: {name} gave no finite number for each token of this run.")
        rows.append(as_array(aggregate(vectors[0], how)))
        sums.append(float(vectors.sum()))
    info = (
        ()
        if name == _SINGLE
        else (
            f"Baseline: {words}, at every position; {request.params['samples']} steps. delta: the "
            "sum over all positions and the hidden axis, minus the difference between run and baseline.",
        )
    )
    after = _values(engine)
    before = _values(engine, start)
    delta = None if name == _SINGLE else (np.array(sums) - (after - before)).astype(after.dtype)
    return Rows(question.by_source(np.stack(rows)), values=after, delta=delta, info=info)


def _explained(embeddings: torch.Tensor, *, engine: Engine, module: Any) -> torch.Tensor:
    """[B, n, d] -> [B, R] the numbers of all targets, of a module that Captum listens to."""
    import torch

    question = engine.question
    logits = module(inputs_embeds=embeddings, use_cache=False).logits[:, list(question.positions)]
    exact = logits if logits.dtype == torch.float64 else logits.float()
    numbers = question.function(exact, torch.tensor(question.ids, device=logits.device))  # [B, P]
    return torch.stack([numbers[:, group].sum(dim=1) for group in question.groups], dim=1)


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """The methods of Captum."""
    shared = tuple(replace(param, default="word") if param is SOURCES else param for param in SHARED_AT_THE_RUN)
    return [
        Analysis(
            name="captum",
            title="Captum",
            group="Attribution",
            summary="Attribution by a method of Captum: kernel SHAP, LIME, ablation, sampled Shapley values, layers.",
            run=run,
            produces=Attribution,
            requires=frozenset({"gradients", "logits"}),
            params=(
                Param("method", "choice", default="kernel_shap", choices=METHODS, help="Its name in Captum."),
                *shared,
                aggregation("sum"),
                BASELINE,
                Param(
                    "samples",
                    "int",
                    default=100,
                    minimum=2,
                    maximum=4096,
                    help="Runs that are fitted for each target, orders of Shapley values, or steps of a layer method.",
                ),
                Param("layer", "layer", default=0, help="Of a layer method: from 0."),
                SEED,
            ),
            gpu=True,
        )
    ]
