"""What is kept of a benchmark: one record for each loaded model and each cell (model, method, prompt).

Records are read back from folders that anybody may have written to, so every field is checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from attnviz.errors import BadInput

STAGES = ("model_loading", "tokenization", "generation", "attribution", "faithfulness", "saving")
"""Where a cell can fail, in the order in which it is computed."""
MAX_TEXT = 200_000


@dataclass(frozen=True)
class Loaded:
    """How a model was loaded. Seconds are wall and CPU seconds; `error` empty = it is loaded."""

    model: str
    success: bool
    error: str
    seconds: float
    cpu_seconds: float
    architecture: str
    parameters: int
    dtype: str
    device: str


@dataclass(frozen=True)
class Cell:
    """One method over one prompt of one model. What was not reached or cannot be measured is None.

    error_stage           one of STAGES, "" for a success;  error in words;  details a traceback, where it was a bug
    token_count           tokens of the prompt;  output_token_count  of the answer, which are the targets
    answer                SHA-256 of all ids, prompt and answer: a resumed benchmark must see the same
    generation_time       wall seconds of the answer
    attribution_time      wall seconds of the method, saving not included;  cpu_seconds  of all threads meanwhile
    peak_memory_mb        most memory of the process meanwhile, model included; on a GPU that of its tensors (MB = 1e6)
    completeness_delta    largest completeness gap of any target, in the unit of the scores
    comprehensiveness …   means over targets, see the faithfulness analysis; random: of random orders of the sources
    """

    model: str
    method: str
    prompt: int
    success: bool
    error_stage: str = ""
    error: str = ""
    details: str = ""
    token_count: int | None = None
    output_token_count: int | None = None
    answer: str = ""
    generation_time: float | None = None
    attribution_time: float | None = None
    cpu_seconds: float | None = None
    peak_memory_mb: float | None = None
    completeness_delta: float | None = None
    comprehensiveness: float | None = None
    comprehensiveness_random: float | None = None
    sufficiency: float | None = None
    sufficiency_random: float | None = None
    deletion_auc: float | None = None
    deletion_auc_random: float | None = None
    insertion_auc: float | None = None
    insertion_auc_random: float | None = None
    kendall_tau: float | None = None
    kendall_tau_random: float | None = None
    faithfulness_time: float | None = None
    device: str = ""

    @property
    def tokens_per_second(self) -> float | None:
        """Prompt tokens by seconds of attribution."""
        if not self.success or not self.attribution_time or self.token_count is None:
            return None
        return self.token_count / self.attribution_time


_NEVER_NEGATIVE = {
    *("seconds", "cpu_seconds", "generation_time", "attribution_time", "faithfulness_time"),
    *("peak_memory_mb", "completeness_delta"),
}
Record = TypeVar("Record", Loaded, Cell)


def read_record(kind: type[Record], data: Any, where: str) -> Record:
    """A record from JSON data.

    Raises:
        BadInput: not an object with exactly its fields, or a value that none of them can have.
    """
    names = {f.name: str(f.type) for f in fields(kind)}
    if not isinstance(data, Mapping) or set(data) != set(names):
        raise BadInput(
            f"{where}: expected a record of this version of the benchmark, with the fields of {kind.__name__}."
        )
    record = kind(**{name: _value(data[name], names[name], name, where) for name in names})
    if isinstance(record, Cell) and (record.success if record.error_stage else not record.success):
        raise BadInput(f"{where}: expected either a success or the stage it failed at, got both or neither.")
    if isinstance(record, Cell) and record.error_stage not in ("", *STAGES):
        raise BadInput(f"{where}: expected a stage of {', '.join(STAGES)}, got {record.error_stage!r:.60}.")
    return record


def _value(value: Any, kind: str, name: str, where: str) -> Any:
    if value is None and kind.endswith("None"):
        return None
    plain = kind.removesuffix(" | None")
    if plain == "str" and isinstance(value, str) and len(value) <= MAX_TEXT:
        return value
    if plain == "bool" and isinstance(value, bool):
        return value
    if plain == "int" and type(value) is int and 0 <= value < 1 << 62:
        return value
    if (
        plain == "float"
        and type(value) in (int, float)
        and math.isfinite(value)
        and (value >= 0 or name not in _NEVER_NEGATIVE)
    ):
        return float(value)
    raise BadInput(f"{where}: expected {plain} as {name}, got {value!r:.60}.")
