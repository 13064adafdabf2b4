"""Which sensors a prediction rests on: occlusion, gradients and attention beside each other, and which to believe.

Ranked by occlusion, confirmed by integrated gradients, with attention as what it is, a map of where values come from;
all of it only as good as the model predicts. How each number comes about: `sensors/`.
"""

from __future__ import annotations

import numpy as np

from attnviz.hooks import Analysis, AnalysisRequest, Floats, Ints, Param, SensorImportance, hookimpl
from attnviz.plugins.analyses.sensors.input_gradients import InputGradients, input_gradients
from attnviz.plugins.analyses.sensors.judgement import correlations, fit, of_history, verdict
from attnviz.plugins.analyses.sensors.occlusion import occlusion, occlusion_by_window
from attnviz.plugins.analyses.sensors.question import ALL, NOTICE, Question, question
from attnviz.plugins.analyses.sensors.routing import Routing, routing, why_not

_WINDOWS = 8  # of time, where none were asked for
_GAP = 0.05  # of what the prediction moved: a larger completeness gap is said as a warning


def run(request: AnalysisRequest) -> SensorImportance:
    """See question.question for errors."""
    asked = question(request)
    windows = _windows(asked.inputs.shape[1], int(request.params["window"]))
    by_output = occlusion(asked)  # [P, S]
    by_window = occlusion_by_window(asked, windows, lambda share: request.progress(0.3 * share, "occlusion"))
    request.progress(0.3, "gradients")
    gradients = input_gradients(asked, windows, int(request.params["points"]))
    routed, absent = _routed(request, asked)
    count = len(asked.usual)
    nothing = np.full(count, np.nan)
    methods = {
        "occlusion": by_output.mean(axis=0),
        "integrated_gradients": gradients.on_the_way,
        "gradient_x_input": gradients.at_input,
        "attention": nothing if routed is None else routed.attention,
    }
    rho = correlations(methods)
    how_good = fit(asked, request.tokens.reference)
    trusted, said = verdict(how_good, rho, "" if routed is None else of_history(routed.attention, routed.null))
    units = {name: "times uniform" if name == "attention" else asked.unit for name in methods}
    return SensorImportance(
        sensors=asked.series.sensors,
        outputs=asked.output_names,
        inputs=len(asked.inputs),
        **{name: values.astype(np.float32) for name, values in methods.items()},
        null=(nothing if routed is None else routed.null).astype(np.float32),
        null_sd=(nothing if routed is None else routed.null_sd).astype(np.float32),
        occlusion_outputs=by_output.astype(np.float32),
        windows=windows,
        occlusion_windows=by_window.astype(np.float32),
        gradient_windows=gradients.windows.astype(np.float32),
        weights=None if routed is None else routed.weights.astype(np.float32),
        rank_correlation=rho,
        fit=None if how_good.found is None else how_good.found.astype(np.float32),
        units=units,
        absent=absent,
        trusted=trusted,
        verdict=said,
        sensor_units=asked.series.units if any(asked.series.units) else (),
        usual=asked.usual.astype(np.float32),
        info=_info(asked, gradients, routed, how_good.words(), said, int(request.params["points"])),
        warnings=_warnings(asked, gradients, absent),
    )


def _routed(request: AnalysisRequest, asked: Question) -> tuple[Routing | None, dict[str, str]]:
    """Attention, or why there is none."""
    reason = why_not(request.tokens)
    if reason is not None:
        return None, {"attention": reason, "null": reason}
    told = lambda share: request.progress(0.5 + 0.5 * share, "attention of shuffled input")  # noqa: E731
    return routing(request, asked, int(request.params["shuffles"]), int(request.params["seed"]), told), {}


def _windows(steps: int, width: int) -> Ints:
    """[W, 2] parts of `width` steps, the last one shorter where they do not fit; of about an eighth for width 0."""
    width = width or -(-steps // _WINDOWS)
    starts = np.arange(0, steps, width)
    return np.stack([starts, np.minimum(starts + width, steps)], axis=1)


def _info(
    asked: Question, gradients: InputGradients, routed: Routing | None, fit_line: str, said: str, points: int
) -> tuple[str, ...]:
    return (
        said,
        *asked.info,
        fit_line,
        "Occlusion: mean absolute change of the prediction when a sensor, or a window of it, is replaced by its usual "
        "value.",
        "Gradient × input: |Σ over time of gradient · (value − usual)|. Integrated gradients: the same with the mean "
        f"gradient at {points} places on the straight way from usual to value.",
        f"Completeness of integrated gradients: largest gap {gradients.gap:.3g}, of a change of {gradients.moved:.3g}.",
        *(() if routed is None else routed.info),
        "Agreement: Spearman's rank correlation over the sensors.",
    )


def _warnings(asked: Question, gradients: InputGradients, absent: dict[str, str]) -> tuple[str, ...]:
    lines = [NOTICE, *asked.warnings, *dict.fromkeys(absent.values())]
    if sum(name.removeprefix("next ") in asked.series.sensors for name in asked.output_names) > 1:
        lines.append(
            "The predictions explained are those of several sensors, so a sensor also counts for its own next value, "
            "even one that drives nothing else. Choose one output to see what that rests on."
        )
    if still := _still(asked):
        lines.append(
            f"Constant over time in every input that is explained: {', '.join(still)}. Shuffling changes nothing there."
        )
    if gradients.gap > _GAP * gradients.moved:
        lines.append("Integrated gradients do not add up to the change of the prediction: raise points.")
    lines.append("Sensors that carry the same information share it: each alone can be replaced without a loss.")
    return tuple(lines)


def _still(asked: Question) -> list[str]:
    """Sensors that never change."""
    spread: Floats = np.ptp(asked.inputs[:, :, : len(asked.usual)], axis=1).max(axis=0)
    return [name for name, found in zip(asked.series.sensors, spread, strict=True) if found == 0]


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Sensor importance."""
    return [
        Analysis(
            name="sensor_importance",
            title="Sensor importance",
            group="Sensors",
            summary="Which sensors a prediction rests on: occlusion, gradients and attention beside each other.",
            run=run,
            produces=SensorImportance,
            requires=frozenset({"sensors"}),
            params=(
                Param(
                    "output",
                    "text",
                    default="",
                    choices=(ALL,),
                    help="Name of the prediction to explain; all = every one; empty = all, or the first where they "
                    "cannot be compared.",
                ),
                Param(
                    "inputs",
                    "choice",
                    default="this",
                    choices=("this", "reference"),
                    help="Explain this input, or the mean over all inputs of the reference.",
                ),
                Param(
                    "window", "int", default=0, minimum=0, help="Time steps of a window; 0 = an eighth of the input."
                ),
                Param(
                    "points",
                    "int",
                    default=16,
                    minimum=1,
                    maximum=1024,
                    help="Places on the way from usual to value for integrated gradients.",
                ),
                Param(
                    "shuffles", "int", default=8, minimum=2, maximum=1000, help="Random orders of time for the null."
                ),
                Param("seed", "int", default=0, minimum=0, help="Of the random orders."),
            ),
            gpu=True,
        )
    ]
