"""Runs every family that is tested and writes how far it is from transformers' eager attention: docs/families.md.

python docs/families.py [FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import transformers  # noqa: E402

from attnviz.plugins.backends.number_models import UNREADABLE  # noqa: E402
from tests.backends import arrays  # noqa: E402
from tests.backends.conftest import byte_level_tokenizer  # noqa: E402
from tests.backends.families import (  # noqa: E402
    COUNT,
    FAMILIES,
    SOURCE,
    Differences,
    compare,
    load,
    random_module,
)

NUMBERS = ("model", "class", "array", "tokens", "layers × heads", "maps", "statistics", "outputs")
TORCH = "torch encoder"
COLUMNS = ("family", "class", "layers", "route", "maps", "statistics", "logits", "lens", "generation")


@dataclass(frozen=True)
class Row:
    """One line of the table, and why the model is read on this route."""

    cells: tuple[str, ...]
    reason: str


def measure(family: str) -> Row:
    """Builds the family's tiny random model, loads it, and compares all it gives."""
    module = random_module(family)
    name = type(module).__name__
    model = load(family, module, byte_level_tokenizer())
    card, found = model.card, compare(model, module)
    lens = card.missing.get("logits") or f"yes, {digits(found.lens)}"
    generation = card.missing.get("generation") or _generation(found)
    measured = (digits(found.maps), digits(found.statistics), digits(found.logits))
    cells = (family, name, FAMILIES[family].layers_in_words(), card.route, *measured, lens, generation)
    return Row(cells, card.route_reason.replace(name, "the class"))


def _generation(found: Differences) -> str:
    return f"{found.generated} ids" + ("" if found.rows is None else f", rows {digits(found.rows)}")


def digits(difference: float | None) -> str:
    """One digit; none where there is no such number."""
    return "–" if difference is None else f"{difference:.0e}" if difference else "0"


def measure_numbers(model: str) -> tuple[str, ...]:
    """The same for a model that reads numbers: cells of its line."""
    if model == TORCH:
        module, values = arrays.torch_encoder(), arrays.numbers(COUNT, 16)
        maps, output = arrays.own_maps(module, values)
        given = torch.tensor(values)[None]
    else:
        module, values = arrays.random_module(model), arrays.example(model)
        maps, output = arrays.run_eager(module, model, values)
        given = arrays.arguments(model, values)
    read = arrays.load(module)
    found = arrays.compare(read, values, maps, output, arrays.forward(given))
    layers = f"{len(read.card.layers)} × {read.card.layers[0].heads}"
    known = (model, type(module).__name__, " × ".join(map(str, values.shape)), str(len(read.tokenize_values(values))))
    return (*known, layers, digits(found.maps), digits(found.statistics), digits(found.outputs))


def table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a table."""
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


def numbers_page(rows: Sequence[tuple[str, ...]]) -> str:
    """The table of models that read numbers."""
    return f"""
## Models that read numbers

The same for models that take an array instead of a text: against transformers' eager maps, and for the
nn.TransformerEncoder against the maps its layers return when they are asked for them.

{chr(10).join(table(NUMBERS, rows))}

**array**: one input, without a batch axis: channel × height × width of a picture, time × channel of a series.

**layers × heads**: PatchTST has maps of its own for each of its 3 channels, so 3 × 4 heads; head = 4 · channel + head
of the model. A time series transformer has two layers each of encoder, decoder and cross-attention; its tokens are the
24 past steps that the encoder reads and the 8 future ones of the decoder.

**outputs**: what the module returns while its attention is taken, from what it returns otherwise.

Limits: maps 1e-5, statistics 2e-5, outputs 1e-5. All ways of masking and of calling nn.MultiheadAttention and
scaled_dot_product_attention are compared in tests/backends/test_arrays_modules.py.

Refused, with the reason: {", ".join(UNREADABLE)}; modules that write their
attention out by hand; nn.Transformer, which reads two sequences.
"""


def page(rows: list[Row]) -> str:
    """The table and what its columns say."""
    lines = table(COLUMNS, [row.cells for row in rows])
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        reasons.setdefault((row.cells[3], row.reason), []).append(row.cells[0])
    return f"""# Families

Tiny models of random weights (norms and biases too), each read by attnviz and by transformers with eager attention:
transformers {transformers.__version__}, torch {torch.__version__}, CPU, float32, {COUNT} tokens. Written by
`python docs/families.py`; the tests run the same comparison with the limits of the last section.

{chr(10).join(lines)}

**layers**: kinds in order; of a sliding layer the window, so that a query sees only keys nearer than this. Of a hybrid
model the linear layers have no maps and are shown as missing, under their own numbers. A model with encoder and decoder
has the encoder's layers first, then the decoder's, then the cross layers, in which the decoder reads the encoder; it is
given {SOURCE} tokens as source and {COUNT - SOURCE} as target, and the answer is more of the target. An encoder that
attends within windows or in parts (LED, LongT5, PEGASUS-X) has no maps over its tokens; its decoder has.

**maps, statistics, logits**: largest absolute difference over all layers, heads and rows. Statistics (entropy, largest
weight, distance, received attention, the largest weights) are compared with their definitions in float64. On the eager
route maps and logits come from transformers itself, so their difference is 0.

**lens**: whether there is one, and how far its last row is from the model's own logits; else why not.

**generation**: how many greedy tokens were those of argmax step by step without a cache (again with a repetition
penalty), and how far the attention of one pass over prompt and answer is from that of each step.

## Routes

{chr(10).join(f"* {route}: {reason} ({', '.join(names)})" for (route, reason), names in reasons.items())}

Layers of gpt_oss have a learned sink beside the keys: their rows sum to less than 1, and the rest is the sink's.

## Limits

maps 1e-5, statistics 2e-5, logits 1e-5, lens 1e-5, rows of the answer 1e-5; ids, layers, windows and routes exact.
"""


def main(file: str = str(ROOT / "docs" / "families.md")) -> None:
    """Measure everything and write the page."""
    torch.set_num_threads(1)
    numbers = [measure_numbers(model) for model in (*arrays.FAMILIES, TORCH)]
    Path(file).write_text(page([measure(family) for family in FAMILIES]) + numbers_page(numbers), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
