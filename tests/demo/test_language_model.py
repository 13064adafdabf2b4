"""The shipped language model: its files, its figures, and that it really answers."""

import json
import random
import re
import warnings
from dataclasses import asdict

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from attnviz.demo import LANGUAGE, behaviour, structure
from attnviz.demo.evaluate import BEGIN, FINISH, Figure, Sizes, acceptance, control_figures, evaluate, table
from attnviz.demo.text import AGENT_SYSTEM_PROMPT, EXAMPLES, STOP, world
from attnviz.demo.text.numbers import calculate, written
from attnviz.demo.text.stream import BOS, conversation
from attnviz.demo.train import Recipe, digest

# What the right answer to each example holds. Those marked agent can only be answered with tools.
EXPECTED = {
    "What is 25 * 37?": ("agent", "925"),
    "What is 123 + 4567?": ("agent", "4690"),
    "How much is 17 times 23?": ("agent", "391"),
    "Compute 12 + 8, then multiply by 5.": ("agent", "100"),
    "Convert 12 km to miles.": ("agent", "7.46 miles"),
    "How many dollars are 250 euros?": ("agent", "270 dollars"),
    "Tom has 48 apples and gives away 19. How many apples are left?": ("agent", "29"),
    "There are 14 boxes with 36 eggs each. How many eggs are there?": ("agent", "504"),
    "Divide 1024 by 16.": ("agent", "64"),
    "What is 7 + 8?": ("agent", "15"),
    "What is the capital of France?": ("both", "Paris"),
    "Which city is the capital of Japan?": ("both", "Tokyo"),
    "How many legs does a spider have?": ("both", "8 legs"),
    "What sound does a duck make?": ("both", "quack"),
    "What is the chemical symbol of iron?": ("both", "Fe"),
    "What is a young horse called?": ("both", "foal"),
    "What colour is snow?": ("both", "white"),
    "Which planet from the sun is Mars?": ("both", "fourth"),
    "What time is it in Oslo?": ("agent", "12:34"),
    "What is the burner temperature of boiler 7?": ("agent", "842.5"),
    "Omar is older than Rosa. Rosa is older than Bob. Who is the oldest?": ("both", "So Omar is the oldest."),
    "Carl is heavier than Rex. Ben is heavier than Carl. Who is the lightest?": ("both", "So Rex is the lightest."),
    "Sort 30, 12, 5.": ("both", "The order is 5, 12, 30."),
    "Put 31, 8, 54 in order.": ("both", "The order is 8, 31, 54."),
    "Which is the largest of 12, 88, 45, 61?": ("agent", "88"),
    "All wugs are blue. All daxs are loud. Tom is a wug. What is Tom?": ("both", "So Tom is blue."),
    "Which is larger, 17 or 71?": ("both", "71 is larger."),
    "Eva has 62 coins. Sam has 35 coins. How many more does Eva have?": ("agent", "Eva has 27 more coins."),
    "What is the fuel flow of boiler 3 and boiler 5 together?": ("agent", "810.5"),
    "Lea is faster than Jon. Paul is faster than Lea. Who is the fastest?": ("both", "So Paul is the fastest."),
    "Write a Python function that adds two numbers.": ("both", "def add(a, b):\n    return a + b"),
    "Write a Python function that returns the length of a list.": ("both", "def length(items):\n    return len(items)"),
    "Write a Python function that checks if a number is even.": ("both", "return n % 2 == 0"),
    "Define a function that sorts a list in Python.": ("both", "return sorted(items)"),
    "Write a loop that runs 5 times and does print(i).": ("both", "for i in range(5):\n    print(i)"),
    "Set x to 42 and print it.": ("both", "x = 42\nprint(x)"),
    "Print yes if n is greater than 10.": ("both", "if n > 10:\n    print('yes')"),
    "What does sum([3, 14, 15]) return?": ("agent", "32"),
    "Run 'garden'.upper().": ("agent", "GARDEN"),
    "Evaluate len([4, 8, 15, 16]) in Python.": ("agent", "4"),
    "Write a short story about a fox.": ("both", "fox"),
    "Write a story about a brave mouse.": ("both", "mouse"),
    "Tell me a story about a bear in a forest.": ("both", "bear"),
    "Tell me a short story with a cat and a red lantern.": ("both", "cat"),
    "Tell me a story about a goose.": ("both", "goose"),
    "Write a poem about the moon.": ("both", "moon"),
    "Write a short poem about the sea.": ("both", "sea"),
    "Give me four lines about the wind.": ("both", "wind"),
    "Write a poem about the night.": ("both", "night"),
    "Tell me a poem about the snow.": ("both", "snow"),
}


def call_tool(tool, argument):
    """Stand-ins for the app's tools, in the trained number format."""
    if tool == "calculator":
        a, operation, b = argument.split()
        return calculate(float(a) if "." in a else int(a), operation, float(b) if "." in b else int(b))
    if tool == "convert":
        amount, source, target = re.fullmatch(r"(\S+) (\w+) to (\w+)", argument).groups()
        return f"{written(float(amount) * world.CONVERSIONS[source, target])} {target}"
    if tool == "lookup":
        facts = {r.topic.format(x=thing): truth for r in world.RELATIONS for thing, truth in r.facts.items()}
        return facts[argument]
    if tool == "python":
        return str(eval(argument, {"__builtins__": {"len": len, "sum": sum, "max": max, "min": min, "sorted": sorted}}))
    readings = {"boiler 3 fuel flow": "412.5", "boiler 5 fuel flow": "398", "boiler 7 burner temperature": "842.5"}
    return "12:34" if tool == "time" else readings[argument]


@pytest.fixture(scope="module")
def writer():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = AutoModelForCausalLM.from_pretrained(LANGUAGE, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(LANGUAGE)
    yield behaviour.Writer(model, tokenizer)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def accepted():
    return json.loads((LANGUAGE / "acceptance.json").read_text(encoding="utf-8"))


def prompt(question, system=None):
    return "".join(piece.text for piece in conversation(question, system))


def agent_answers(writer, questions, system=AGENT_SYSTEM_PROMPT):
    """Whole agent runs with the tools above: texts after the prompt, up to the final answer."""
    texts = {question: prompt(question, system) for question in questions}
    starts = {question: len(text) for question, text in texts.items()}
    active = list(questions)
    for _ in range(4):
        for question, text in zip(active, writer.complete([texts[q] for q in active], max_new_tokens=110), strict=True):
            texts[question] += text
        active = [question for question in active if texts[question].endswith(STOP)]
        for question in active:
            tool, argument = re.findall(r"Action: (\w+)\[(.+)\]", texts[question])[-1]
            texts[question] += f" {call_tool(tool, argument)}\n"
    return {question: text[starts[question] :] for question, text in texts.items()}


def good(example, text, expected):
    if example.category != "Creative":
        return text.endswith(expected) or text.endswith(expected + ".") or f"{expected} " in text or expected in text
    poem = "poem" in example.text or "lines" in example.text
    return expected in text.lower() and (text.count("\n") == 3 if poem else text.count(".") == 4)


def test_the_folder_is_complete_and_small():
    assert {path.name for path in LANGUAGE.iterdir()} == {
        "README.md", "acceptance.json", "chat_template.jinja", "config.json", "generation_config.json",
        "model.safetensors", "recipe.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert (LANGUAGE / "model.safetensors").stat().st_size <= 4_000_000


def test_it_loads_in_float32_with_tied_embeddings(writer):
    assert {p.dtype for p in writer.model.parameters()} == {torch.float32}
    assert writer.model.lm_head.weight is writer.model.model.embed_tokens.weight
    assert sum(p.numel() for p in writer.model.parameters()) == 1_336_960
    assert writer.model.config.max_position_embeddings == writer.tokenizer.model_max_length == 512


def test_chat_template_of_the_shipped_tokenizer(writer):
    messages = [{"role": "system", "content": AGENT_SYSTEM_PROMPT}, {"role": "user", "content": "What is 25 * 37?"}]
    ids = writer.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids == writer.ids(prompt("What is 25 * 37?", AGENT_SYSTEM_PROMPT))
    assert ids.count(writer.tokenizer.bos_token_id) == 1
    assert writer.tokenizer("Once upon a time").input_ids == writer.ids(f"{BOS}Once upon a time")


def test_greedy_writing_equals_the_librarys_generation(writer):
    texts = [
        prompt("What is 25 * 37?", AGENT_SYSTEM_PROMPT),
        prompt("Which is larger, 17 or 71?"),
        prompt("Sort 42, 7, 19."),
    ]
    for text, own in zip(texts, writer.complete(texts), strict=True):
        ids = torch.tensor([writer.ids(text)])
        out = writer.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=60)
        whole = writer.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert whole.startswith(own)
        assert whole == own or own.endswith(STOP)


def test_examples_are_answered_by_the_agent(writer):
    assert set(EXPECTED) == {example.text for example in EXAMPLES}
    answers = agent_answers(writer, [example.text for example in EXAMPLES])
    for example in EXAMPLES:
        spoken = answers[example.text]
        assert "Final Answer: " in spoken, spoken
        assert good(example, spoken.split("Final Answer: ")[1], EXPECTED[example.text][1]), spoken


def test_examples_are_answered_directly_or_honestly_declined(writer):
    answers = writer.complete([prompt(example.text) for example in EXAMPLES], max_new_tokens=110)
    for example, text in zip(EXAMPLES, answers, strict=True):
        mode, expected = EXPECTED[example.text]
        if mode == "agent":
            assert re.fullmatch(r"I can not answer this without the \w+ tool\.", text), (example, text)
        else:
            assert good(example, text, expected), (example, text)


def test_plain_text_goes_on_as_a_story(writer):
    (text,) = writer.complete([f"{BOS}Once upon a time"], max_new_tokens=90)
    assert text.startswith(" a ")
    assert text.count(".") == 4


def test_a_quick_part_of_the_evaluation(writer):
    rng = random.Random(100)
    problems = behaviour.held_out_problems(rng, behaviour.ALL_KINDS, 104)
    runs = behaviour.run_agent(writer, problems, behaviour.agent_prompts(rng, problems))
    assert behaviour.share(run.calls_right for run in runs) >= 0.95
    assert behaviour.share(run.right for run in runs) >= 0.93
    assert behaviour.false_observation(writer, 40, seed=101) >= 0.95
    missing = behaviour.missing_tool(writer, 8, seed=102)
    assert sum(missing.values()) / len(missing) >= 0.8
    assert behaviour.out_of_domain(writer, 40, seed=103) >= 0.8
    assert behaviour.knowledge(writer)[0] >= 0.9


def test_heads(writer):
    found = structure.repeating(writer.model)
    assert found.second_copy >= 0.9
    assert found.previous_token >= 0.9
    assert found.induction >= 0.8
    assert found.without_induction <= 0.3
    assert found.without_random >= 0.85
    copying = structure.copying(writer, runs=15)
    assert copying.attention >= 0.8
    assert copying.lens[-1] >= 0.95


def test_removing_heads_leaves_nothing_behind(writer):
    tokens = structure.RepeatedTokens.draw(1024, rows=2)
    before = writer.model(tokens.ids).logits

    def fail_inside():
        with structure.removed(writer.model, [(0, 0), (5, 3)]):
            assert not torch.equal(writer.model(tokens.ids).logits, before)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert torch.equal(writer.model(tokens.ids).logits, before)
    structure.patterns(writer.model, tokens.ids)
    assert writer.model.config._attn_implementation == "sdpa"


def test_head_scores_by_hand(writer):
    """Induction and previous-token score of one head, summed in plain Python."""
    tokens = structure.RepeatedTokens.draw(1024, length=4, rows=1)
    previous, induction = tokens.head_scores(writer.model)
    pattern = structure.patterns(writer.model, tokens.ids)[2, 0, 1]  # layer 2, head 1: [Q, K]
    # bos a b c d a b c d: the second a stands at 5, what followed the first a at 2; and so on up to d at 8 -> 5
    assert float(induction[2, 1]) == pytest.approx(sum(float(pattern[q, q - 3]) for q in (5, 6, 7, 8)) / 4, abs=1e-6)
    assert float(previous[2, 1]) == pytest.approx(sum(float(pattern[q, q - 1]) for q in range(2, 9)) / 7, abs=1e-6)


def test_random_weights_can_do_none_of_it(writer):
    small = Sizes(control=13)
    for figure in control_figures(writer, small):
        assert figure.met, figure


def test_acceptance_belongs_to_these_weights_and_meets_every_bound(accepted):
    assert accepted["weights_sha256"] == digest(LANGUAGE / "model.safetensors")
    recipe = json.loads((LANGUAGE / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["weights_sha256"] == accepted["weights_sha256"]
    figures = [Figure(**{k: v for k, v in entry.items() if k != "met"}) for entry in accepted["figures"]]
    assert [figure.name for figure in figures if not figure.met] == []
    bounds = {figure.name.split(", layer")[0]: (figure.sense, figure.bound) for figure in figures if figure.bound}
    required = {
        "agent, math: tool calls right": (">=", 0.95),
        "agent, math: right from end to end": (">=", 0.93),
        "agent, all kinds: tool calls right": (">=", 0.95),
        "agent, all kinds: right from end to end": (">=", 0.93),
        "agent, system prompts in words never trained on: calls right": (">=", 0.9),
        "agent: a false observation is followed": (">=", 0.95),
        "missing tool: says so": (">=", 0.8),
        "out of domain, unseen questions: says so": (">=", 0.8),
        "knowledge in unseen wording": (">=", 0.9),
        "second copy of random tokens": (">=", 0.9),
        "previous-token score": (">=", 0.9),
        "induction score": (">=", 0.8),
        "copying an observation": (">=", 0.8),
        "second copy without three other heads, worst of five draws": (">=", 0.85),
        "lens top-1 on answer digits, at the end": (">=", 0.95),
        "same top token as before rounding to float16": (">=", 0.999),
        "size of model.safetensors in MB": ("<=", 4.0),
    }
    assert required.items() <= bounds.items()
    assert next(f.n for f in figures if f.name.startswith("agent, math")) >= 300
    removal = next(f for f in figures if f.name.startswith("second copy without the three strongest induction heads"))
    assert (removal.sense, removal.bound) == ("<=", 0.3)


def test_the_recipe_of_these_weights_is_the_one_in_the_script():
    recipe = json.loads((LANGUAGE / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["recipe"] == json.loads(json.dumps(asdict(Recipe())))


def test_the_card_shows_the_same_figures(accepted):
    shown = (LANGUAGE / "README.md").read_text(encoding="utf-8").split(BEGIN)[1].split(FINISH)[0]
    assert accepted["weights_sha256"][:16] in shown
    for entry in accepted["figures"]:
        assert f"| {entry['name']} | " in shown


def test_a_missed_figure_is_marked():
    figures = [Figure("low", 0.5, 10, 0.9), Figure("high", 5.0, None, 4.0, "<="), Figure("only told", 0.1)]
    assert [figure.met for figure in figures] == [False, False, True]
    assert table(figures).splitlines()[2:] == [
        "| low | 0.500 **missed** | ≥ 0.9 | 10 |",
        "| high | 5.000 **missed** | ≤ 4 |  |",
        "| only told | 0.100 |  |  |",
    ]
    assert acceptance(figures, {"weights_sha256": "x"}, Sizes())["all_met"] is False


@pytest.mark.slow
def test_the_complete_evaluation_gives_the_figures_of_the_card(accepted):
    figures = evaluate(LANGUAGE, Sizes())
    assert [figure.name for figure in figures if not figure.met] == []
    now = {figure.name: figure.value for figure in figures}
    for entry in accepted["figures"]:  # another machine may break a tie differently
        assert now[entry["name"]] == pytest.approx(entry["value"], abs=0.02)
