"""The plugin keeps the contract, and its number is the one it claims."""

from dataclasses import replace

import attnviz_example
import numpy as np

from attnviz.hooks import Trace
from attnviz.testing import capture, check_analysis, check_renderer, fake_request, sample_finding


def test_it_keeps_the_contract():
    """All that `attnviz check` asks."""
    check_analysis(attnviz_example.analysis, fake_request(attnviz_example.analysis))
    check_renderer(attnviz_example.renderer, sample_finding("token_scores"))


def test_the_row_is_the_mean_over_heads():
    """Eight heads of the fake model; later tokens are not visible."""
    request = fake_request(attnviz_example.analysis, token=2)
    scores = attnviz_example.looks_at(request).scores
    rows = [request.attention(layer, head)[2] for layer in (0, 1) for head in range(4)]
    np.testing.assert_allclose(scores[:3], np.mean(rows, axis=0)[:3], rtol=1e-6)
    assert np.isnan(scores[3:]).all()


def test_tokens_that_are_no_keys_have_no_score():
    """Token 4 is the decoder's: it looks at 3 and 4, and across at 0 to 2; each in two heads."""
    rng = np.random.default_rng(0)

    def layer(rows, columns, causal):
        q, k = rng.normal(size=(2, rows[1] - rows[0], 4)), rng.normal(size=(2, columns[1] - columns[0], 4))
        return replace(capture(q, k, causal=causal), queries=rows, keys=columns)

    source, target = (0, 3), (3, 6)
    layers = (layer(source, source, False), layer(target, target, True), layer(target, source, False))
    request = fake_request(attnviz_example.analysis, text="abcde", token=4)
    scores = attnviz_example.looks_at(replace(request, captured=Trace(layers))).scores
    across, own = (np.mean([layers[i].pattern(head)[1] for head in (0, 1)], axis=0) for i in (2, 1))
    np.testing.assert_allclose(scores, [*across, *own[:2], np.nan], rtol=1e-6)
