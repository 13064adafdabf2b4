"""The plugin keeps the contract, and its number is the one it claims."""

import attnviz_example
import numpy as np

from attnviz.testing import check_analysis, check_renderer, fake_request, sample_finding


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
