"""Shares against loops over eager maps, effects against plain passes over changed ids, flags against runs whose truth
is known because the ids were put together so."""

from dataclasses import replace

import numpy as np
import pytest

import attnviz
from attnviz.hooks import BadInput, Run, Segment
from tests.attribution.asking import request


@pytest.fixture(scope="module")
def demo():
    return attnviz.load("demo")


@pytest.fixture(scope="module")
def agent(demo):
    return attnviz.run_agent(demo, "What is 25 * 37?").run


def ledger(run, **params):
    return run.analyze("evidence_ledger", **params).result


def changed(run, tokens):
    """The same run over other tokens."""
    about = {"generated_from": run.generated_from, "sampling": run.run.sampling, "trajectory": run.run.trajectory}
    return run.model.session.start(run.model, tokens, **about)


def maps_and_logprobs(demo, ids):
    """[L, H, T, T] and [T] log-probability of each token but the first, by transformers itself."""
    import torch
    import transformers

    module = transformers.AutoModelForCausalLM.from_pretrained(
        demo.spec.source, attn_implementation="eager", dtype=torch.float32
    )
    with torch.no_grad():
        found = module(torch.tensor(ids)[None], output_attentions=True)
    logprobs = found.logits[0].double().log_softmax(-1)[np.arange(len(ids) - 1), torch.tensor(ids[1:])]
    return np.stack([layer[0].numpy() for layer in found.attentions]), np.concatenate([[np.nan], logprobs.numpy()])


def kind_of(run, position):
    """Where a token counts, said another way than the analysis does."""
    roles = [s.role for s in run.tokens.segments if s.start <= position < s.stop]
    own = {"thought": "own", "action": "own", "answer": "own"}
    if roles:
        return own.get(roles[0], {"user": "question"}.get(roles[0], roles[0]))
    return "marks" if position < run.generated_from else "own"


@pytest.mark.parametrize("kept", [True, False])
def test_shares_are_those_of_loops_over_eager_maps(demo, agent, kept):
    found = ledger(agent, exclude_sinks=not kept)
    maps, _ = maps_and_logprobs(demo, agent.tokens.ids)
    sinks = [] if kept else [0, 36]  # the list in its info line
    assert kept or "Left out: the columns 0, 36." in found.info[3]
    for s, step in enumerate(found.steps):
        mass, alike = (
            dict.fromkeys((c.kind for c in found.sources), 0.0),
            dict.fromkeys((c.kind for c in found.sources), 0.0),
        )
        for layer in maps:
            for head in layer:
                for token in range(step.start, step.stop):
                    row = head[token - 1].astype(np.float64)
                    row[sinks] = 0
                    row /= row.sum()
                    seen = [k for k in range(token) if k not in sinks]
                    for key in seen:
                        mass[kind_of(agent, key)] += row[key]
                        alike[kind_of(agent, key)] += 1 / len(seen)
        count = len(maps) * maps.shape[1] * (step.stop - step.start)
        assert sum(mass.values()) == pytest.approx(count)
        for c, source in enumerate(found.sources):
            assert found.share[s, c] == pytest.approx(mass[source.kind] / count, abs=1e-5)
            assert found.uniform[s, c] == pytest.approx(alike[source.kind] / count, abs=1e-5)
        assert found.share[s].sum() == pytest.approx(1, abs=1e-6)
        assert found.uniform[s].sum() == pytest.approx(1, abs=1e-6)


def test_one_layer_and_one_head_make_up_the_mean(agent):
    whole = ledger(agent)
    alone = [ledger(agent, layers=str(layer), heads=str(head)).share for layer in range(6) for head in range(4)]
    np.testing.assert_allclose(np.mean(alone, axis=0), whole.share, atol=1e-6)
    np.testing.assert_allclose(
        np.mean([ledger(agent, layers=str(layer)).share for layer in range(6)], axis=0), whole.share, atol=1e-6
    )


def test_effects_are_those_of_plain_passes_over_changed_ids(demo, agent):
    found = ledger(agent, effect=True)
    ids, special = agent.tokens.ids, agent.tokens.special
    end = next(int(i) for i, label in zip(ids, agent.tokens.labels, strict=True) if label == "<|end|>")
    assert found.removal == "replaced by '<|end|>' (the eos token)"
    plain = maps_and_logprobs(demo, ids)[1]
    for s, step in enumerate(found.steps):
        assert found.logprob[s] == pytest.approx(plain[step.start : step.stop].sum(), abs=1e-4)
        for c, source in enumerate(found.sources):
            limit = step.start if source.kind == "own" else len(ids)
            away = [t for a, b in source.spans for t in range(a, b) if not special[t] and t < limit]
            if source.kind == "marks" or not away or away[0] >= step.start:
                assert np.isnan(found.effect[s, c])
                continue
            other = ids.copy()
            other[away] = end
            without = maps_and_logprobs(demo, other)[1]
            expected = (plain - without)[step.start : step.stop].sum()
            assert found.effect[s, c] == pytest.approx(expected, abs=2e-3)


def test_an_answer_that_is_read_from_a_false_observation_rests_on_it(demo, agent):
    """The observation is made false, and the answer says the same: without it the answer is out of reach."""
    tokens = agent.tokens
    digits = {label: int(i) for i, label in zip(tokens.ids, tokens.labels, strict=True) if label.isdigit()}
    ids = tokens.ids.copy()
    for start, stop in [(s.start, s.stop) for s in tokens.segments if s.role in ("observation", "answer")]:
        nines = [t for t in range(start, stop) if tokens.labels[t] == "9"]
        ids[nines] = digits["3"]
    labels = tuple(demo.session.model(demo.spec).label(int(i)) for i in ids)
    found = ledger(changed(agent, replace(tokens, ids=ids, labels=labels)), effect=True)
    answer = [step.kind for step in found.steps].index("answer")
    observed = [source.kind for source in found.sources].index("observation")
    assert found.effect[answer, observed] > 5
    assert not found.flags


def test_what_nothing_rests_on_is_flagged(demo):
    """A word of the question that the answer does not need is called an observation."""
    run = demo.generate(messages=[{"role": "user", "content": "What is the capital of France?"}], max_new_tokens=16)
    tokens, begin = run.tokens, run.generated_from
    role = next(s for s in tokens.segments if s.role == "user")
    idle = replace(
        tokens,
        segments=(
            Segment("user", role.start, role.start + 1),
            Segment("observation", role.start + 1, role.start + 2),  # " is": the answer does not need it
            Segment("user", role.start + 2, role.stop),
            *(s for s in tokens.segments if s.start >= begin),
        ),
    )
    found = ledger(changed(run, idle), effect=True)
    observed = [source.kind for source in found.sources].index("observation")
    assert abs(found.effect[0, observed]) < 0.5
    assert found.flags == (
        "The answer rests on no observation: without it what follows is less likely by under 0.5 nats.",
        "Observation 1 was never used: without it what follows is less likely by under 0.5 nats.",
    )


def test_a_plain_answer_is_one_step_over_question_and_marks(demo):
    run = demo.generate(messages=[{"role": "user", "content": "What is the capital of France?"}], max_new_tokens=16)
    found = ledger(run)
    assert [step.label for step in found.steps] == ["answer"]
    assert [source.kind for source in found.sources] == ["question", "own", "marks"]
    assert found.flags == ()
    text = ledger(demo.generate("Once upon a time", max_new_tokens=4))
    assert {source.kind for source in text.sources} >= {"own"}


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"layers": "six"}, "Parameter layers: expected mean or a number from 0, got 'six'."),
        ({"layers": "6"}, "Unknown layer 6"),
        ({"layers": "0", "heads": "4"}, "Unknown head 4. Layer 0 has heads 0 to 3."),
    ],
)
def test_what_is_not_there_is_refused(agent, params, said):
    with pytest.raises(BadInput, match=said.replace(".", r"\.")):
        ledger(agent, **params)


def test_without_an_answer_it_is_about_what_would_come_next(demo):
    """The first choice of the model, as it would be generated."""
    found = ledger(demo.trace("The cat sat"), effect=True)
    written = ledger(demo.generate("The cat sat", max_new_tokens=1), effect=True)
    assert [step.label for step in found.steps] == ["what would come next"]
    assert found.logprob == pytest.approx(written.logprob, abs=1e-4)
    of = {source.kind: column for column, source in enumerate(found.sources)}
    there = {source.kind: column for column, source in enumerate(written.sources)}
    for name in ("share", "uniform", "effect"):
        mine, theirs = getattr(found, name)[0, of["question"]], getattr(written, name)[0, there["question"]]
        assert mine == pytest.approx(theirs, abs=1e-4)


def test_a_model_that_reads_ahead_is_read_step_by_step(models):
    """The effects of each step are those of a question about that step alone; see test_effects for plain passes."""
    model = models("llama")
    asked = request("evidence_ledger", model, effect=True)
    run = asked.run
    two = replace(run.tokens, segments=(*run.tokens.segments[:1], Segment("thought", 8, 10), Segment("answer", 10, 12)))
    asked = replace(asked, run=Run("run", run.spec, run.model, two, run.generated_from))

    class Ahead:
        """The same model, said to read ahead."""

        reads_ahead = True

        def __getattr__(self, name):
            return getattr(model, name)

    from attnviz.plugins.analyses.attribution.evidence_ledger import run as analyze

    together, apart = analyze(asked), analyze(replace(asked, model=Ahead()))
    np.testing.assert_allclose(apart.effect, together.effect, atol=1e-4)
    np.testing.assert_allclose(apart.logprob, together.logprob, atol=1e-4)
