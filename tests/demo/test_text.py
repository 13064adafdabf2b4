"""The generator: balance, format, hygiene."""

import random
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest

from attnviz.demo import train
from attnviz.demo.text import AGENT_SYSTEM_PROMPT, EXAMPLES, agent, direct, draw, draw_held_out, split, world
from attnviz.demo.text.noise import roughen
from attnviz.demo.text.numbers import calculate, random_number, written
from attnviz.demo.text.problem import Problem, Step
from attnviz.demo.text.prompts import RESERVED_TEMPLATES, random_agent_prompt
from attnviz.demo.text.stream import conversation, tools_for
from attnviz.demo.tokenizer import train_tokenizer


def documents(count, seed=0, agent_share=0.6):
    rng = random.Random(seed)
    return [draw(rng, agent_share=agent_share) for _ in range(count)]


@pytest.fixture(scope="module")
def sample():
    return documents(20_000)


def test_importing_the_text_loads_no_heavy_library():
    code = "import sys, attnviz.demo.text; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def test_the_stream_is_the_same_every_time():
    assert [d.text for d in documents(200, seed=3)] == [d.text for d in documents(200, seed=3)]
    assert [d.text for d in documents(200, seed=3)] != [d.text for d in documents(200, seed=4)]


def test_balance(sample):
    modes = Counter(document.mode for document in sample)
    agents = modes["agent"] + modes["missing"] + modes["error"]
    assert 0.03 < modes["plain"] / len(sample) < 0.08
    assert 0.13 < modes["missing"] / agents < 0.18
    others = sum(document.problem.category == "Other" for document in sample)
    assert 0.035 < others / len(sample) < 0.065
    assert {document.problem.category for document in sample} == {
        "Math", "Knowledge", "Reasoning", "Code", "Creative", "Other"
    }  # fmt: skip


def test_every_tool_is_missing_equally_often(sample):
    missing = Counter(d.problem.steps[0].tool for d in sample if d.mode == "missing")
    mean = sum(missing.values()) / len(world.TOOLS)
    assert set(missing) == set(world.TOOLS)
    assert all(abs(count - mean) < 0.25 * mean for count in missing.values())


def listed_tools(prompt):
    system = prompt.split("<|system|>")[1].split("<|end|>")[0]
    system = system.replace("tells the time in a city", "")  # the word, not the tool
    return {tool for tool in world.TOOLS if re.search(rf"\b{tool}\b", system)}


def test_the_prompt_lists_what_is_needed_unless_it_is_missing(sample):
    for document in sample:
        if document.mode in ("agent", "missing", "error"):
            needed = {step.tool for step in document.problem.steps}
            listed = listed_tools(document.prompt)
            if document.mode == "missing":
                assert not needed & listed, document.text
            else:
                assert needed <= listed, document.text


def test_form_of_an_agent_run(sample):
    turn = r"Thought: [^\n]+\nAction: (calculator|convert|lookup|time|sensor|python)\[.+\]\nObservation: [^\n]+\n"
    last = r"Thought: [^\n]+\nFinal Answer: (.|\n)+<\|end\|>"
    for document in sample:
        if document.mode in ("agent", "missing", "error"):
            spoken = document.text.split("<|assistant|>")[1]
            assert re.fullmatch(f"({turn})*{last}", spoken), document.text
            weights = {piece.weight for piece in document.pieces if piece.text.startswith(" ")}
            assert weights <= {0}  # observations are read, never foretold


def test_loss_weights():
    problem = Problem("Math", "x", "What is 12 + 30?", "42", (Step("Add.", "calculator", "12 + 30", "42"),))
    pieces = [(p.text, p.weight) for p in conversation(problem.question, "Tools: time.")]
    assert pieces == [
        ("<|bos|><|system|>Tools: time.<|end|>", 0),
        ("<|user|>What is 12 + 30?<|end|>", 0.2),
        ("<|assistant|>", 0),
    ]


def test_the_word_that_tells_whether_the_tool_is_there_can_weigh_more():
    plain, weighed = random.Random(5), random.Random(5)
    for _ in range(500):
        first = draw(plain, agent_share=1.0, missing_share=0.5)
        second = draw(weighed, agent_share=1.0, missing_share=0.5, decision_weight=20.0)
        assert first.text == second.text
        heavy = [piece.text for piece in second.pieces if piece.weight == 20.0]
        calls = first.problem.steps and first.mode != "plain"
        assert heavy == ([" but" if first.mode == "missing" else "."] if calls else [])


def test_numbers_have_at_most_two_decimals_and_no_separators(sample):
    for document in sample[:5000]:
        for step in document.problem.steps:
            assert not re.search(r"\d\.\d{3}|\d,\d{3}\b", step.observation), step
    assert [written(x) for x in (25, 2.5, 7.4286, 3.0, -0.001, 1234567)] == [
        "25",
        "2.5",
        "7.43",
        "3",
        "0",
        "1234567",
    ]
    assert [calculate(7, o, 2) for o in "+-*/"] == ["9", "5", "14", "3.5"]


def test_calculator_observations_are_true(sample):
    for document in sample[:5000]:
        for step in document.problem.steps:
            if step.tool == "calculator" and document.mode == "agent":
                exact = eval(step.argument)  # written by the generator: two numbers and a sign
                assert abs(float(step.observation) - exact) <= 0.00501, step
            if step.tool == "python" and document.mode == "agent":
                assert str(eval(step.argument)) == step.observation, step


def test_repeated_digits_are_frequent():
    rng = random.Random(0)
    numbers = [str(random_number(rng)) for _ in range(4000)]
    repeated = [n for n in numbers if len(n) > 1 and len(set(n)) < len(n)]
    assert len(repeated) / len(numbers) > 0.25


def test_written_chains_are_true():
    rng = random.Random(0)
    for _ in range(300):
        problem = direct.sort_by_hand(rng)
        for numbers, smallest in re.findall(r"Smallest of ([\d, ]+) is (\d+)", problem.final):
            assert min(map(int, numbers.split(", "))) == int(smallest)
        order = [int(n) for n in problem.final.split("The order is ")[1].rstrip(".").split(", ")]
        assert order == sorted(int(n) for n in re.findall(r"\d+", problem.question))
        problem = direct.transitive(rng)
        people = problem.final.split("The order is ")[1].split(".")[0].split(", ")
        for first, second in pairwise(people):
            assert re.search(rf"{first} is \w+ than {second}\.", problem.question)


def test_direct_arithmetic_is_declined():
    rng = random.Random(0)
    for _ in range(500):
        assert agent.one_digit_declined(rng).final == "I can not answer this without the calculator tool."
        assert re.fullmatch(r"I can not answer this without the \w+ tool\.", agent.needs_tool(rng).final)


def test_noise_changes_a_third_and_keeps_case_when_asked():
    rng = random.Random(0)
    texts = [roughen(rng, "What is 25 * 37?", exact_case=False) for _ in range(3000)]
    assert 0.6 < texts.count("What is 25 * 37?") / 3000 < 0.75
    assert {"what is 25 * 37?", "What's 25 * 37?", "What is 25*37?"} <= set(texts)
    assert all("Tom" in roughen(rng, "Is Tom here?", exact_case=True) for _ in range(300))


def test_system_prompts_vary_and_the_reserved_ones_stay_unused(sample):
    systems = {d.prompt.split("<|user|>")[0] for d in sample if d.mode == "agent"}
    assert len(systems) > 3000
    for template in RESERVED_TEMPLATES:
        words = template.split("{tools}")[0]
        assert not any(words in system for system in systems)
    rng = random.Random(0)
    assert any(random_agent_prompt(rng, world.TOOLS) == AGENT_SYSTEM_PROMPT for _ in range(50))
    tools = {tuple(tools_for(rng, agent.arithmetic(rng), missing=False)) for _ in range(300)}
    assert len(tools) > 100  # any number, any order


def test_keys():
    assert split.question_key("  What is  2 + 30? ") == split.question_key("what is 2 + 30")
    assert split.call_key("calculator", "30 + 2") == split.call_key("calculator", "2 + 30") == "calculator:2+30"
    assert split.call_key("calculator", "30 - 2") != split.call_key("calculator", "2 - 30")
    assert split.call_key("calculator", "3 * 4") is None
    assert split.call_key("python", "sorted([3, 1, 2])") == split.call_key("python", "max([2, 1, 3])")
    assert split.call_key("python", "'abc'.upper()") == split.call_key("python", "len('abc')") == "word:abc"
    assert split.call_key("time", "Oslo") == "time:oslo"
    with pytest.raises(ValueError, match="expected 'a \\+ b'"):
        split.call_key("calculator", "2 plus 30")
    held = sum(split.is_held_out(f"calculator:{n}") for n in range(6000))
    assert abs(held - 500) < 80


def shown_keys(document):
    """Keys that stand in the text itself, found without the generator's own list of them."""
    if document.mode == "missing":  # the call that could not be made is shown by nothing but the question
        yield from document.problem.keys
        return
    spoken = document.text.split("<|assistant|>")[-1]
    for tool, argument in re.findall(r"Action: (\w+)\[(.+)\]\nObservation:", spoken):
        yield split.call_key(tool, argument)
    for expression in re.findall(r"(?<![\d.])-?\d+(?:\.\d+)? [-+*/] -?\d+(?:\.\d+)?", spoken):
        yield split.call_key("calculator", expression)
    for numbers in re.findall(r"Smallest of ([\d, ]+) is", spoken):
        yield split.list_key(int(n) for n in numbers.split(", "))
    for people in re.findall(r"The order is ([A-Z]\w+(?:, [A-Z]\w+)+)\.", spoken):
        names = people.split(", ")
        for three in zip(names, names[1:], names[2:], strict=False):
            yield f"order:{'>'.join(three)}"
    if document.mode != "plain":
        yield split.question_key(document.problem.question)


def assert_clean(document):
    assert not split.any_held_out(document.problem.keys), document.text
    held = [key for key in shown_keys(document) if key and split.is_held_out(key)]
    assert not held, (held, document.text)


def go_through_the_training_stream(monkeypatch, steps_of):
    """The very texts that train() draws, in its order; returns how many there were."""
    checked = 0

    def checking(rng, **options):
        nonlocal checked
        document = draw(rng, **options)
        assert_clean(document)
        checked += 1
        return document

    recipe, tokenizer = train.Recipe(), train_tokenizer()
    repetition = train.new_repetition(tokenizer)
    monkeypatch.setattr(train, "draw", checking)
    rng = random.Random(recipe.seed)
    for stage in recipe.stages:
        source = train.batches(rng, tokenizer, repetition, stage, recipe.batch_tokens)
        for _ in range(steps_of(stage)):
            next(source)
    return checked


def test_nothing_held_out_is_in_a_good_part_of_the_training_stream(monkeypatch):
    assert go_through_the_training_stream(monkeypatch, lambda stage: stage.steps // 10) > 10_000


@pytest.mark.slow
def test_nothing_held_out_is_in_the_whole_training_stream(monkeypatch):
    assert go_through_the_training_stream(monkeypatch, lambda stage: stage.steps) > 100_000


def test_held_out_problems_are_held_out_in_every_part():
    rng = random.Random(1)
    for maker in (*agent.WEIGHTS, *direct.WEIGHTS):
        problem = draw_held_out(rng, maker)
        assert all(split.is_held_out(key) for key in problem.sub_keys or problem.keys)
        assert not problem.trainable


def test_held_out_sums_never_appear_in_training():
    """The other way round: draw held-out problems, then look for them in the stream."""
    rng = random.Random(2)
    held = set()
    for _ in range(60):
        for maker in (agent.arithmetic, agent.word_problem, agent.two_steps, agent.difference):
            held |= draw_held_out(rng, maker).sub_keys
    seen = set()
    for document in documents(20_000, seed=9):
        seen |= document.problem.keys
    assert held
    assert not held & seen


def test_examples():
    counts = Counter(example.category for example in EXAMPLES)
    assert set(counts) == {"Math", "Knowledge", "Reasoning", "Code", "Creative"}
    assert all(count >= 10 for count in counts.values())
    assert len({example.text for example in EXAMPLES}) == len(EXAMPLES)
