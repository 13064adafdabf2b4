"""Steps are put together as by trying every way; figures are those of both ledgers, and none is made up where one run
has nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

import attnviz
from attnviz.__main__ import main
from attnviz.agent import run_agent
from attnviz.errors import BadInput
from attnviz.registry import load_registry
from attnviz.run_comparison import Part, aligned, compare_runs, parts_of
from attnviz.session import Session
from attnviz.store import RunStore

PRODUCT, LONGER = "What is 25 * 37?", "What is 12 * 12 + 5?"


@pytest.fixture(scope="module")
def model():
    return Session(load_registry(safe=True)).load("demo")


@pytest.fixture(scope="module")
def product(model):
    return run_agent(model, PRODUCT)


@pytest.fixture(scope="module")
def plain(model):
    return model.generate(messages=[{"role": "user", "content": PRODUCT}], max_new_tokens=40)


def parts(*told):
    return [Part(kind, kind, text, n, n + 1) for n, (kind, text) in enumerate(told)]


def every_way(first, second, i=0, j=0):
    """All ways to put two lists together in order."""
    if i == len(first) or j == len(second):
        yield [*((k, None) for k in range(i, len(first))), *((None, k) for k in range(j, len(second)))]
        return
    for way in every_way(first, second, i + 1, j):
        yield [(i, None), *way]
    for way in every_way(first, second, i, j + 1):
        yield [(None, j), *way]
    if first[i].kind == second[j].kind:
        for way in every_way(first, second, i + 1, j + 1):
            yield [(i, j), *way]


def worth(first, second, way):
    """Pairs, and of each the share of common words: exact for texts of one word."""
    both = [(first[i], second[j]) for i, j in way if i is not None and j is not None]
    return sum(1 + (a.text == b.text) for a, b in both)


def test_no_way_to_put_steps_together_is_better():
    rng = np.random.default_rng(0)
    for _ in range(30):
        lists = [
            parts(*((("thought", "action")[rng.integers(2)], "xyz"[rng.integers(3)]) for _ in range(rng.integers(5))))
            for _ in range(2)
        ]
        found = aligned(*lists)
        for which in (0, 1):
            assert [pair[which] for pair in found if pair[which] is not None] == list(range(len(lists[which])))
        assert all(a is None or b is None or lists[0][a].kind == lists[1][b].kind for a, b in found)
        assert worth(*lists, found) == max(worth(*lists, way) for way in every_way(*lists))


def test_alike_steps_stand_beside_each_other():
    one = parts(("thought", "add the two"), ("action", "calculator[1 + 2]"), ("answer", "3"))
    two = parts(
        ("thought", "look it up"), ("action", "lookup[x]"), ("thought", "add the two"), ("action", "calculator[1 + 2]")
    )
    assert aligned(one, two) == [(None, 0), (None, 1), (0, 2), (1, 3), (2, None)]


def test_two_agents_have_the_figures_of_their_ledgers(model, product):
    other = run_agent(model, LONGER)
    found = attnviz.compare_runs(product.run, other.run)
    assert found.result.columns == ("step", "A", "B", "text", "source", "share A", "share B", "share B − A")
    rows = found.result.rows
    assert rows[0][:4] == ("question", PRODUCT, LONGER, "differs")
    assert rows[1][:4] == ("final answer", product.answer, other.answer, "differs")
    ledgers = [done.run.analyze("evidence_ledger").result for done in (product, other)]
    kinds = [step.kind for step in ledgers[0].steps]
    assert kinds == [step.kind for step in ledgers[1].steps]
    told = [row for row in rows if row[4] is not None]
    expected = []
    for s in range(len(kinds)):
        for c, source in enumerate(ledgers[0].sources):
            a, b = (float(ledger.share[s, c]) for ledger in ledgers)
            if ledgers[0].uniform[s, c] > 0:
                expected.append((source.label, a, b, b - a))
    assert [row[4] for row in told] == [label for label, *_ in expected]
    np.testing.assert_allclose([row[5:8] for row in told], [figures for _, *figures in expected], atol=5.1e-5)
    observed = next(row for row in rows if row[0] == "observation 1 (calculator)" and row[4] is None)
    assert observed[1:4] == ("925", "144", "differs")


def test_what_only_one_run_has_gets_no_difference(product, plain):
    found = compare_runs(plain, product.run, effect=True)
    rows = found.result.rows
    assert rows[1][1:4] == (plain.answer, "25 * 37 = 925", "differs")
    assert [row[0] for row in rows if row[3] == "only in B"] == [
        "thought 1",
        "action",
        "observation 1 (calculator)",
        "thought 2",
    ]
    ledgers = [run.analyze("evidence_ledger", effect=True).result for run in (plain, product.run)]
    of_answer = {row[4]: row[5:] for row in rows if row[0] == "answer" and row[4] is not None}
    assert of_answer["observation 1 (calculator)"][0] is None
    assert of_answer["observation 1 (calculator)"][2] is None
    a, b = (ledger.effect[-1, [s.kind for s in ledger.sources].index("question")] for ledger in ledgers)
    assert of_answer["question"][3:] == pytest.approx((a, b, b - a), abs=5.1e-5)
    assert found.result.info[0] == f"A: demo, without tools, {len(plain.tokens)} tokens."


def test_a_run_beside_itself_differs_nowhere(product):
    rows = compare_runs(product.run, product.run).result.rows
    assert {row[3] for row in rows if row[4] is None} == {"the same"}
    assert {row[7] for row in rows if row[4] is not None} == {0.0}


def test_parts_of_an_answer_without_steps(plain):
    assert [(p.kind, p.label, p.text) for p in parts_of(plain.run)] == [("answer", "answer", plain.answer.strip())]


def test_bad_input_is_refused(model, product):
    with pytest.raises(BadInput, match="one of the runs has none"):
        compare_runs(product.run, model.trace("The cat sat."))
    with pytest.raises(BadInput, match="Unknown layer 6"):
        compare_runs(product.run, product.run, layers="6")


def test_one_question_with_and_without_tools(model, plain):
    both = attnviz.compare_tools(model, PRODUCT, max_new_tokens=40)
    assert both.without_tools.answer == plain.answer
    assert both.with_tools.answer == "25 * 37 = 925"
    assert both.finding.result.rows[1][1:3] == (plain.answer.strip(), "25 * 37 = 925")


def test_a_comparison_is_saved_in_every_way(product, plain, tmp_path):
    found = compare_runs(plain, product.run)
    for ending in (".html", ".csv", ".png", ".svg", ".json"):
        assert found.save(tmp_path / f"compared{ending}").stat().st_size > 1000


def test_saved_runs_are_compared_on_the_command_line(product, plain, tmp_path, capsys):
    store = RunStore(tmp_path)
    first, second = (run.save(store=store).id for run in (plain, product.run))
    assert main(["runs", "compare", first, second, "--folder", str(tmp_path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["result"]["rows"][1][1:4] == [plain.answer.strip(), "25 * 37 = 925", "differs"]
    target = Path(tmp_path) / "both.csv"
    assert main(["runs", "compare", first, second, "--folder", str(tmp_path), "--out", str(target)]) == 0
    assert "only in B" in target.read_text("utf-8")
    assert main(["runs", "compare", first, "nothing", "--folder", str(tmp_path)]) == 2


def test_words_are_compared_where_the_model_of_a_saved_run_is_not_at_hand(product, plain, tmp_path):
    from tests.test_saved_runs import without_model

    store = RunStore(tmp_path)
    kept = without_model(store.read(product.run.save(store=store).id))
    found = compare_runs(plain, kept).result
    assert found.rows[1][1:3] == (plain.answer.strip(), "25 * 37 = 925")
    assert {row[6] for row in found.rows} == {None}  # shares of B
    assert any(line.startswith("No evidence of B: ") for line in found.warnings)


def test_an_agent_is_compared_with_a_plain_answer_on_the_command_line(capsys):
    assert main(["generate", "--agent", "--compare", "--text", PRODUCT, "--no-plugins", "--max-new-tokens", "40"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["comparison"]["rows"][1][1:3] == [printed["without_tools"]["answer"].strip(), "25 * 37 = 925"]
    assert main(["generate", "--compare", "--text", PRODUCT, "--no-plugins"]) == 2
    assert "--compare: expected together with --agent" in capsys.readouterr().err
