"""What an analysis promises: the same result every time, of the kind it says, explained, and fit for a file."""

from __future__ import annotations

import copy
import dataclasses

from attnviz.hooks import Analysis, AnalysisRequest, Result, UnknownName
from attnviz.testing.require import as_json, require
from attnviz.testing.results import check_round_trip


def check_analysis(analysis: Analysis, request: AnalysisRequest) -> Result:
    """Run an analysis twice and check all it promises; returns the result.

    See `fake_request` for a request to give it.
    """
    title = f"Analysis {analysis.name}"
    _check_params(analysis)
    before = copy.deepcopy(dict(request.params))
    shares: list[float] = []
    watched = dataclasses.replace(request, progress=lambda share, what: shares.append(share))
    result = analysis.run(watched)
    require(
        isinstance(result, analysis.produces),
        f"{title}: expected a {analysis.produces.__name__}, as `produces` says, got {type(result).__name__}.",
    )
    require(bool(result.info), f"{title}: `info` is empty; it must say units, mask and what was averaged.")
    lines = (*result.info, *result.warnings)
    require(
        all(isinstance(line, str) and line.strip() for line in lines),
        f"{title}: every line of info and warnings must be a text.",
    )
    require(dict(request.params) == before, f"{title}: it changed the parameters it was given.")
    require(
        all(0 <= share <= 1 for share in shares),
        f"{title}: progress must be a share from 0 to 1, got {shares}.",
    )
    again = analysis.run(request)
    require(as_json(result) == as_json(again), f"{title}: two runs of the same request gave different results.")
    check_round_trip(result)
    return result


def _check_params(analysis: Analysis) -> None:
    for param in analysis.params:
        require(bool(param.help), f"Analysis {analysis.name}: parameter {param.name} has no help text.")
    unknown = "no_such_parameter"
    try:
        analysis.resolve({unknown: 1})
    except UnknownName:
        return
    raise AssertionError(f"Analysis {analysis.name}: it takes a parameter {unknown!r} it does not have.")
