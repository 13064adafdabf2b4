"""Promises every plugin keeps, as functions; and models without weights to write tests with.

Each check raises AssertionError with one sentence: what was expected, what came. They run over every plugin of this
project and are meant for yours:

    from attnviz.testing import check_analysis, fake_request
    from my_plugin import analysis

    def test_my_analysis():
        check_analysis(analysis, fake_request(analysis, top_k=3))
"""

from attnviz.testing.analyses import check_analysis
from attnviz.testing.captures import attention, brute_force, capture, capture_map, random_trace, thumbnail, visibility
from attnviz.testing.fake import FakeModel, fake_backend
from attnviz.testing.fake_sensors import FakeSensors
from attnviz.testing.formats import check_format
from attnviz.testing.models import check_backend, check_model
from attnviz.testing.plugins import check_plugin, check_registry
from attnviz.testing.renderers import check_renderer
from attnviz.testing.results import check_round_trip
from attnviz.testing.samples import HOSTILE, fake_request, sample_finding, sample_findings, sample_tokens, with_analyses
from attnviz.testing.tools import check_tool

__all__ = [
    "HOSTILE",
    "FakeModel",
    "FakeSensors",
    "attention",
    "brute_force",
    "capture",
    "capture_map",
    "check_analysis",
    "check_backend",
    "check_format",
    "check_model",
    "check_plugin",
    "check_registry",
    "check_renderer",
    "check_round_trip",
    "check_tool",
    "fake_backend",
    "fake_request",
    "random_trace",
    "sample_finding",
    "sample_findings",
    "sample_tokens",
    "thumbnail",
    "visibility",
    "with_analyses",
]
