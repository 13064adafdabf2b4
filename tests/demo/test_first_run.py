"""The saved run of the first screen is what the shipped model says, and is shown without loading it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import attnviz
from attnviz.demo import first_run
from attnviz.errors import BadInput
from attnviz.registry import load_registry
from attnviz.runfile import read_run
from attnviz.session import Session

ROOT = Path(attnviz.__file__).parent.parent


@pytest.fixture(scope="module")
def computed():
    return first_run.compute(Session(load_registry(safe=True)))


def test_it_is_what_the_model_computes(computed):
    saved = read_run(first_run.FILE)
    np.testing.assert_array_equal(saved.run.tokens.ids, computed.tokens.ids)
    assert saved.run.tokens.labels == computed.tokens.labels
    assert saved.run.tokens.segments == computed.tokens.segments
    assert saved.run.generated_from == computed.generated_from
    assert saved.run.sampling == computed.run.sampling
    assert saved.card.weights_digest == computed.model.card.weights_digest
    assert saved.card.layers == computed.model.card.layers
    assert (saved.run.spec.source, saved.card.name) == ("demo", "demo")  # no path of the machine it was made on
    assert b"/language" not in first_run.FILE.read_bytes()
    for kept, fresh in zip(saved.trace.layers, computed.captured.layers, strict=True):
        for head in range(fresh.heads):
            np.testing.assert_allclose(kept.pattern(head), fresh.pattern(head), atol=1e-5)
        np.testing.assert_allclose(kept.entropy, fresh.entropy, atol=2e-5)


def test_the_first_screen_needs_no_model():
    code = """
import sys
from attnviz.registry import load_registry
from attnviz.session import Session
from attnviz.ui.first_run import _saved
from attnviz.ui.wish import Finished, first_wish
session = Session(load_registry(safe=True))
finished = Finished(session)
wish = first_wish(session)
run = _saved(finished, wish)
for name in ("attention_pattern", "attention_stats"):
    finding = run.analyze(name)
    for renderer in session.renderers(type(finding.result)):
        if renderer.produces == "script":
            session.render(finding, renderer.name)
assert finished.find(wish).id == run.id
print("torch" in sys.modules, "transformers" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_an_analysis_that_needs_the_model_loads_it_and_agrees(computed):
    session = Session(load_registry(safe=True))
    run = session.adopt("demo", first_run.FILE)
    ours, theirs = run.analyze("logit_lens").result, computed.analyze("logit_lens").result
    np.testing.assert_array_equal(ours.top_ids, theirs.top_ids)
    assert run.analyze("attention_stats").run == run.id


def test_a_run_of_other_weights_is_refused(tmp_path):
    session = Session(load_registry(safe=True))
    for file in (ROOT / "attnviz" / "demo" / "language").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "model.safetensors").open("r+b") as weights:
        weights.seek(-2, 2)
        last = weights.read(1)
        weights.seek(-2, 2)
        weights.write(bytes([last[0] ^ 1]))
    with pytest.raises(BadInput, match="other weights"):
        session.adopt(str(tmp_path), first_run.FILE)
