"""The published API: one endpoint per analysis, the JSON of the command line, failures that are failures."""

import json
import urllib.error
import urllib.request

import pytest


def call(app, name, *data):
    """The answer of an endpoint; raises RuntimeError with the message of a failure."""
    request = urllib.request.Request(
        f"{app.url}/gradio_api/call/{name}",
        json.dumps({"data": list(data)}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        event = json.load(response)["event_id"]
    with urllib.request.urlopen(f"{app.url}/gradio_api/call/{name}/{event}", timeout=20) as response:
        text = response.read().decode()
    kind = text.split("event: ")[-1].split("\n")[0]
    payload = json.loads(text.rsplit("data: ", 1)[1])
    if kind != "complete":
        raise RuntimeError(payload)
    return payload[0]


def test_an_analysis(app):
    answer = call(app, "attention_pattern", "abcabc", "fake", {"layer": 0, "head": 1})
    assert answer["analysis"] == "attention_pattern"
    assert answer["params"]["head"] == 1
    assert [row[0] for row in answer["result"]["weights"]] == [1.0] * 7  # head 1 looks at the first token
    assert len(answer["tokens"]) == 7


def test_defaults(app):
    assert call(app, "counted", "abc", "fake", None)["params"] == {"factor": 1}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (("abc", "fake", {"layer": 99}), "Unknown layer 99"),
        (("abc", "fake", {"nope": 1}), "Unknown parameter of attention_pattern 'nope'"),
        (("", "fake", {}), "Nothing to run"),
        (("abc", "blind", {}), "Needs attention"),
    ],
)
def test_a_failure_is_a_failure_in_words(app, data, expected):
    with pytest.raises(RuntimeError, match=expected):
        call(app, "attention_pattern", *data)


def test_a_bug_is_named(app):
    with pytest.raises(RuntimeError, match="Unexpected error: ZeroDivisionError"):
        call(app, "broken", "abc", "fake", {"divide": True})


def test_plugins_and_models(app):
    plugins = call(app, "plugins")
    assert {"kind": "analyses", "name": "counted"} in [p for plugin in plugins["plugins"] for p in plugin["provides"]]
    assert [f["reason"] for f in plugins["failures"] if f["plugin"] == "raises_on_import"] == [
        "RuntimeError: this plugin is <b>broken</b>"
    ]
    assert "fake" in [model["name"] for model in call(app, "models")["models"]]


def test_what_is_known_of_a_model(app):
    found = call(app, "model_info", "blind", [7, 600])
    assert set(found) == {"model", "card", "estimates", "analyses"}
    assert found["analyses"]["attention_pattern"] == "Needs attention: This model of rules has no attention."
    assert found["analyses"]["logit_lens"] is None
    assert [e["tokens"] for e in found["estimates"]] == [7, 600]
    assert [layer["name"] for layer in call(app, "model_info", "fake", None)["card"]["layers"]] == ["0", "1", "2"]
    with pytest.raises(RuntimeError, match="nope is no folder"):
        call(app, "model_info", "nope", None)
    with pytest.raises(RuntimeError, match="Tokens: expected a whole number from 1"):
        call(app, "model_info", "fake", [0])


def test_only_the_api_is_published(app):
    with urllib.request.urlopen(f"{app.url}/gradio_api/info", timeout=20) as response:
        names = {name.strip("/") for name in json.load(response)["named_endpoints"]}
    analyses = {
        p["name"] for plugin in call(app, "plugins")["plugins"] for p in plugin["provides"] if p["kind"] == "analyses"
    }
    assert names == analyses | {"plugins", "models", "model_info"}
