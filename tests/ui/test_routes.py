"""The plain HTTP paths over a running app: right positions on the generated ids, and a status for every failure."""

import json
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.ui.conftest import ROOT, start, stop

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The app as `python app.py` starts it, over the embedded model."""
    folder = tmp_path_factory.mktemp("served")
    running = start([sys.executable, "app.py"], folder, ATTNVIZ_HOME=str(folder))
    running.home = folder
    yield running
    stop(running)


def ask(app, path, body=None, *, prefix="/api", kind="application/json", method=None):
    """(status, JSON) of a path; a body makes it a POST."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(app.url + prefix + path, data, {"content-type": kind}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


@pytest.fixture(scope="module")
def chatted(served):
    status, found = ask(served, "/chat", {"text": QUESTION, "max_new_tokens": 16, "top_k": 3})
    assert status == 200, found
    return found


@pytest.fixture(scope="module")
def demo():
    import attnviz

    return attnviz.load("demo")


def test_health(served, chatted):
    status, found = ask(served, "/health")
    assert (status, found["status"], found["model"], found["model_loaded"]) == (200, "ok", "demo", True)
    assert found["device"] == "cpu"


def test_model_info(served):
    found = ask(served, "/model_info?tokens=64")[1]
    assert (found["model_name"], found["num_layers"], found["vocab_size"]) == ("demo", 6, 1024)
    assert [e["tokens"] for e in found["estimates"]] == [64]
    assert len(found["card"]["layers"]) == 6


def test_lists(served):
    assert "demo" in [entry["name"] for entry in ask(served, "/models")[1]["models"]]
    assert ask(served, "/plugins")[1]["plugins"]


def test_chat_gives_the_answer_and_its_ids(chatted, demo):
    run = demo.generate(messages=[{"role": "user", "content": QUESTION}], max_new_tokens=16)
    assert chatted["text"] == run.answer == "The capital of France is Paris."
    assert [t["id"] for t in chatted["tokens"]] == run.tokens.ids[run.generated_from :].tolist()
    assert [t["position"] for t in chatted["tokens"]] == list(range(run.generated_from, len(run.tokens)))
    assert "".join(t["text"] for t in chatted["userTokens"]) == QUESTION


def test_the_lens_of_a_token_is_taken_where_it_was_predicted(chatted, demo):
    """The last layer is the model: transformers' own forward pass gives the same chances at the position before."""
    import torch

    run = demo.generate(messages=[{"role": "user", "content": QUESTION}], max_new_tokens=16)
    module = demo.session.model(demo.spec).module()
    with torch.no_grad():
        logits = module(torch.tensor(run.tokens.ids)[None]).logits[0].double()
    for token in [*chatted["tokens"], *chatted["userTokens"]]:
        assert [layer["layer"] for layer in token["lens"]] == ["embedding", *(f"block {i}" for i in range(5)), "model"]
        chances, ids = (100 * logits[token["position"] - 1].softmax(-1)).topk(3)
        last = token["lens"][-1]["predictions"]
        assert [p["id"] for p in last] == ids.tolist()
        assert [p["rank"] for p in last] == [1, 2, 3]
        np.testing.assert_allclose([p["probability"] for p in last], chances, atol=1e-3)
    for token in chatted["tokens"]:  # greedy: each token is the first that the model expected
        assert token["lens"][-1]["predictions"][0]["id"] == token["id"]


def test_a_conversation_is_in_the_request_and_nowhere_else(served):
    before = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "The capital of France is Paris."},
    ]
    body = {"text": "How many legs does a spider have?", "max_new_tokens": 4}
    alone, after, again = (ask(served, "/chat", {**body, **more})[1] for more in ({}, {"messages": before}, {}))
    assert after["generated_from"] > alone["generated_from"]
    assert "".join(t["text"] for t in after["userTokens"]) == body["text"]
    assert again["tokens"] == alone["tokens"]
    assert len({alone["run"], after["run"], again["run"]}) == 3


def ids_of(layer):
    return [prediction["id"] for prediction in layer["predictions"]]


def chances_of(layer):
    return [prediction["probability"] for prediction in layer["predictions"]]


def test_context_of_a_token(served, chatted):
    token = chatted["tokens"][5]
    path = f"/token/{token['position']}/context?run={chatted['run']}&top_k=3"
    found = ask(served, f"{path}&context_size=4")[1]
    assert found["token"]["id"] == token["id"]
    assert [ids_of(layer) for layer in found["lens"]] == [ids_of(layer) for layer in token["lens"]]
    assert chances_of(found["lens"][-1]) == pytest.approx(chances_of(token["lens"][-1]), abs=1e-3)
    assert [t["relative_position"] for t in found["context"]] == [-4, -3, -2, -1]
    assert [t["id"] for t in found["context"][-4:]] == [t["id"] for t in chatted["tokens"][1:5]]
    first = ask(served, f"/token/0/context?run={chatted['run']}")[1]
    assert (first["context"], first["lens"]) == ([], [])


def test_an_analysis_is_the_json_of_the_command_line(served, chatted, demo):
    status, found = ask(served, "/analyze/attention_stats", {"text": "The cat sat."})
    assert status == 200
    expected = json.loads(demo.trace("The cat sat.").analyze("attention_stats").to_json())
    assert (found["result"], found["provenance"]) == (expected["result"], expected["provenance"])
    of_run = ask(served, "/analyze/attention_pattern", {"run": chatted["run"], "params": {"layer": 2, "head": 1}})[1]
    assert len(of_run["tokens"]) == chatted["tokens"][-1]["position"] + 1


def test_saved_runs_are_listed_and_analysed(served, demo):
    from attnviz.store import RunStore

    assert ask(served, "/runs") == (200, {"runs": []})
    run = demo.generate(messages=[{"role": "user", "content": QUESTION}], max_new_tokens=16)
    saved = run.save(category="Knowledge", title="a capital", store=RunStore(served.home / "runs"))
    for query in ("", "?search=paris", "?category=Knowledge&limit=5"):
        found = ask(served, f"/runs{query}")[1]["runs"]
        assert [(r["id"], r["title"], r["category"]) for r in found] == [(saved.id, "a capital", "Knowledge")]
    assert ask(served, "/runs?search=london")[1] == {"runs": []}
    found = ask(served, "/analyze/attention_stats", {"run": saved.id})[1]
    assert found["result"] == json.loads(run.analyze("attention_stats").to_json())["result"]
    assert ask(served, f"/token/3/context?run={saved.id}")[1]["token"]["id"] == int(run.tokens.ids[3])


def test_a_public_server_lists_and_opens_nobodys_saved_runs(demo, monkeypatch, tmp_path):
    from attnviz.store import RunStore
    from attnviz.ui import answers

    monkeypatch.setenv("ATTNVIZ_HOME", str(tmp_path))
    monkeypatch.setenv("SPACE_ID", "somebody/attnviz")
    saved = demo.generate("The cat", max_new_tokens=2).save(store=RunStore())
    with pytest.raises(answers.Forbidden, match="not listed on a public server"):
        answers.runs(demo.session, {})
    from attnviz.registry import load_registry
    from attnviz.session import Session

    with pytest.raises(answers.UnknownRun, match="in memory"):
        answers.analyze(Session(load_registry()), {"analysis": "attention_stats", "run": saved.id})


def test_the_paths_are_also_where_a_server_in_front_lets_them_through(served):
    assert ask(served, "/health", prefix="/gradio_api/attnviz")[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/chat", {"text": "  "}, 400, "text: expected what the user says, got nothing."),
        ("/chat", {}, 400, "text: expected what the user says"),
        ("/chat", {"text": 5}, 422, "text: expected a text, got 5."),
        ("/chat", {"text": "a", "messages": {}}, 422, "messages: expected a list"),
        ("/chat", {"text": "a", "messages": [{"role": "robot", "content": "b"}]}, 404, "Unknown role of message 0"),
        ("/chat", {"text": "a", "messages": ["b"]}, 400, "Message 0: expected"),
        ("/chat", {"text": "a", "max_new_tokens": 0}, 422, "max_new_tokens: expected a whole number from 1"),
        ("/chat", {"text": "a", "top_k": True}, 422, "top_k: expected a whole number from 1 to 20"),
        ("/chat", {"text": "a", "colour": "red"}, 422, "Unknown field 'colour'"),
        ("/chat", {"text": "a", "model": "/no/such/folder"}, 503, "No backend can load"),
        ("/chat", b"{", 422, "Body: expected a JSON object, got '{'"),
        ("/chat", b"[1]", 422, "Body: expected a JSON object"),
        ("/chat", b"[" * 100_000, 422, "Body: expected a JSON object"),
        ("/chat", b" " * (1 << 20) + b"{}", 413, "at most 1 MiB"),
        ("/analyze/nothing", {"text": "a"}, 404, "Unknown analysis 'nothing'"),
        ("/analyze/attention_stats", {}, 422, "Expected one of text, messages and run, got none"),
        ("/analyze/attention_stats", {"text": "a", "run": "b"}, 422, "got text and run"),
        ("/analyze/attention_stats", {"run": "b"}, 404, "No run 'b' is in memory"),
        ("/analyze/attention_stats", {"text": "a", "params": {"nope": 1}}, 404, "Unknown parameter"),
        ("/analyze/attention_pattern", {"text": "a", "params": {"layer": 99}}, 400, "Unknown layer 99"),
        ("/analyze/sensor_importance", {"text": "a"}, 400, "Needs sensors"),
        ("/runs?limit=0", None, 422, "limit: expected a whole number from 1 to 500"),
        ("/runs?colour=red", None, 422, "Unknown field 'colour'"),
        ("/token/1/context", None, 422, "run: expected the id of a run"),
        ("/token/1/context?run=nobody", None, 404, "No run 'nobody'"),
        ("/model_info?tokens=many", None, 422, "tokens: expected whole numbers"),
        ("/logit-lens", None, 404, "No such path"),
        ("/chat", None, 404, "No such path or method: GET"),
    ],
)
def test_a_failure_has_its_status_and_one_line(served, path, body, status, said):
    code, found = ask(served, path, body)
    assert (code, found["status"]) == (status, status)
    assert said in found["error"]
    assert "\n" not in found["error"]


def test_a_position_outside_a_run_is_unknown(served, chatted):
    code, found = ask(served, f"/token/9999/context?run={chatted['run']}")
    assert code == 404
    assert f"No token 9999 in this run. It has {chatted['tokens'][-1]['position'] + 1}" in found["error"]
    assert ask(served, f"/token/-1/context?run={chatted['run']}")[0] == 422


def test_a_form_of_another_site_is_not_taken(served):
    assert ask(served, "/chat", {"text": "a"}, kind="text/plain")[0] == 415


def test_more_than_are_served_at_once_are_told_to_come_back(served):
    body = {"text": "Tell me a story about a bear in a forest.", "max_new_tokens": 60}
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda _: ask(served, "/chat", body), range(24)))
    codes = {code for code, _ in found}
    assert codes <= {200, 429}
    answers = {answer["text"] for code, answer in found if code == 200}
    assert len(answers) == 1  # every one that was served got the same answer
    assert ask(served, "/health")[0] == 200


def test_a_defect_is_500_and_says_nothing_of_the_inside(app):
    code, found = ask(app, "/analyze/broken", {"text": "abc", "params": {"divide": True}})
    assert code == 500
    assert "defect" in found["error"]
    assert "ZeroDivisionError" not in json.dumps(found)


def test_a_client_of_gradio_reaches_the_published_endpoints(served):
    from gradio_client import Client

    client = Client(served.url, verbose=False)
    found = client.predict("The cat sat.", "demo", None, api_name="/attention_stats")
    assert found["analysis"] == "attention_stats"


def test_the_table_of_the_paths_is_that_of_the_app():
    from attnviz.ui import routes

    text = (ROOT / "docs" / "http.md").read_text()
    paths = (
        "health",
        "model_info",
        "models",
        "plugins",
        "runs",
        "chat",
        "analyze/{analysis}",
        "token/{position}/context",
    )
    for path in (*paths, "token/{position}/context"):
        assert f"/api/{path}" in text
        assert f"/api/{path}" in str(routes.__doc__)
