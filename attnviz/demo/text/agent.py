"""Problems of every category as an agent solves them: which tool is called with what, and what it returns."""

from __future__ import annotations

import random
from collections.abc import Callable

from attnviz.demo.text import direct, world
from attnviz.demo.text.numbers import calculate, random_list, random_number, random_word, written
from attnviz.demo.text.problem import Problem, Step

Maker = Callable[[random.Random], Problem]


def arithmetic(rng: random.Random) -> Problem:
    """One sum, asked in many ways."""
    a, b = random_number(rng), random_number(rng)
    if rng.random() < 0.04:
        b = a
    operation = rng.choice("+-*/")
    verb, word = world.OPERATIONS[operation]
    x, y = (written(a / 10), written(b)) if rng.random() < 0.06 else (str(a), str(b))
    result = calculate(float(x) if "." in x else int(x), operation, b)
    expression = f"{x} {operation} {y}"
    wordings = [
        f"What is {expression}?", f"What is {x} {word} {y}?", f"Compute {expression}.", f"How much is {expression}?",
        f"Calculate {x} {word} {y}.", f"{expression} = ?", f"Please work out {expression}.", f"{expression}",
        f"How much is {x} {word} {y}?", f"I need the result of {expression}.",
    ]  # fmt: skip
    if operation == "+":
        wordings += [f"Add {x} and {y}.", f"What is the sum of {x} and {y}?"]
    if operation == "-":
        wordings += [f"Subtract {y} from {x}.", f"Take {y} away from {x}."]
    if operation == "*":
        wordings += [f"Multiply {x} by {y}.", f"What is the product of {x} and {y}?"]
    if operation == "/":
        wordings += [f"Divide {x} by {y}."]
    thought = rng.choice(
        (
            f"I should use the calculator for {expression}.",
            f"I need to {verb} here.",
            f"I need to compute {expression}.",
        )
    )
    step = Step(thought, "calculator", expression, result)
    return Problem("Math", "arithmetic", rng.choice(wordings), f"{expression} = {result}", (step,))


def word_problem(rng: random.Random) -> Problem:
    """A sum told as a story."""
    a, b = random_number(rng), random_number(rng)
    name, item = rng.choice(world.NAMES), rng.choice(world.ITEMS)
    story = rng.randrange(4)
    if story == 0:
        operation, question = (
            "+",
            f"{name} has {a} {item} and gets {b} more. How many {item} does {name} have?",
        )
    elif story == 1:
        a, b = max(a, b), min(a, b)
        operation, question = "-", f"{name} has {a} {item} and gives away {b}. How many {item} are left?"
    elif story == 2:
        operation, question = "*", f"There are {a} boxes with {b} {item} each. How many {item} are there?"
    else:
        operation, question = "*", f"{name} buys {a} {item} for {b} euros each. How much does {name} pay?"
    verb = world.OPERATIONS[operation][0]
    thought = f"I need to {verb} {a} and {b}." if operation != "-" else f"I need to subtract {b} from {a}."
    result = calculate(a, operation, b)
    step = Step(thought, "calculator", f"{a} {operation} {b}", result)
    return Problem("Math", "word", question, f"The answer is {result}.", (step,))


def two_steps(rng: random.Random) -> Problem:
    """A sum whose result goes into a second one."""
    a, b, c = (rng.randint(2, 99) for _ in range(3))
    first, second = rng.choice("+-*"), rng.choice("+-*")
    x = calculate(a, first, b)
    y = calculate(int(x), second, c)
    then = {"+": "add", "-": "subtract", "*": "multiply by"}[second]
    question = rng.choice(
        (f"What is ({a} {first} {b}) {second} {c}?", f"Compute {a} {first} {b}, then {then} {c}.",
         f"Work out {a} {first} {b} and then {then} {c}.")
    )  # fmt: skip
    steps = (
        Step(f"First I compute {a} {first} {b}.", "calculator", f"{a} {first} {b}", x),
        Step(f"Now I use {x} and {c}.", "calculator", f"{x} {second} {c}", y),
    )
    return Problem("Math", "two steps", question, f"The answer is {y}.", steps)


def conversion(rng: random.Random) -> Problem:
    """An amount in another unit."""
    (source, target), factor = rng.choice(list(world.CONVERSIONS.items()))
    amount = random_number(rng)
    a = written(amount / 10) if rng.random() < 0.2 else str(amount)
    result = written(float(a) * factor)
    question = rng.choice(
        (f"Convert {a} {source} to {target}.", f"How many {target} are {a} {source}?",
         f"What is {a} {source} in {target}?", f"Change {a} {source} into {target}.",
         f"How much is {a} {source} in {target}?", f"{a} {source} in {target}")
    )  # fmt: skip
    thought = rng.choice(
        (f"I need to convert {source} to {target}.", f"This is a conversion from {source} to {target}.")
    )
    step = Step(thought, "convert", f"{a} {source} to {target}", f"{result} {target}")
    return Problem("Math", "conversion", question, f"{a} {source} is {result} {target}.", (step,))


def sum_then_convert(rng: random.Random) -> Problem:
    """Two tools in a row."""
    (source, target), factor = rng.choice(list(world.CONVERSIONS.items()))
    a, b = random_number(rng), random_number(rng)
    total = a + b
    result = written(total * factor)
    question = rng.choice(
        (f"Add {a} {source} and {b} {source} and give the result in {target}.",
         f"How many {target} are {a} {source} plus {b} {source}?")
    )  # fmt: skip
    steps = (
        Step(f"First I add {a} and {b}.", "calculator", f"{a} + {b}", str(total)),
        Step(
            f"Now I convert {source} to {target}.",
            "convert",
            f"{total} {source} to {target}",
            f"{result} {target}",
        ),
    )
    return Problem("Math", "sum and conversion", question, f"The answer is {result} {target}.", steps)


def lookup(rng: random.Random) -> Problem:
    """A fact, true or not, known or not: the answer is what the tool says."""
    relation = rng.choice(world.RELATIONS)
    thing = rng.choice(list(relation.facts))
    if rng.random() < 0.25:
        thing = _unknown_thing(rng, relation)
    found = relation.facts.get(thing) or rng.choice(list(relation.facts.values()))
    if rng.random() < 0.25:
        found = rng.choice(list(relation.facts.values()))
    topic = relation.topic.format(x=thing)
    thought = rng.choice((f"I should look up the {topic}.", f"I can find the {topic} with lookup."))
    final = relation.statement.format(x=thing, y=found)
    if rng.random() < 0.05:
        found, final = rng.choice(("nothing found", "no entry")), f"I could not find the {topic}."
    return Problem(
        "Knowledge", "lookup", rng.choice(relation.wordings).format(x=thing), final,
        (Step(thought, "lookup", topic, found),), exact_case=thing not in relation.facts,
    )  # fmt: skip


def _unknown_thing(rng: random.Random, relation: world.Relation) -> str:
    if rng.random() < 0.4:
        return rng.choice(world.UNKNOWN[relation.name])
    return random_word(rng).capitalize() if relation.name in ("capital", "planet") else random_word(rng)


def clock(rng: random.Random) -> Problem:
    """The time in a city."""
    invented = rng.random() < 0.3
    city = random_word(rng).capitalize() if invented else rng.choice(world.CITIES)
    now = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    question = rng.choice(
        (f"What time is it in {city}?", f"Tell me the time in {city}.", f"What is the current time in {city}?",
         f"How late is it in {city} now?", f"Time in {city}?", f"What is the time in {city} right now?")
    )  # fmt: skip
    thought = rng.choice((f"I need the current time in {city}.", "I should check the clock."))
    step = Step(thought, "time", city, now)
    return Problem("Knowledge", "time", question, f"It is {now} in {city}.", (step,), exact_case=invented)


def _reading(rng: random.Random) -> str:
    value = random_number(rng)
    return written(value / 10) if rng.random() < 0.3 else str(value)


def sensor(rng: random.Random) -> Problem:
    """One reading of one boiler."""
    quantity, boiler = rng.choice(world.QUANTITIES), rng.randint(1, 20)
    value = _reading(rng) + (" " + rng.choice(world.SENSOR_UNITS) if rng.random() < 0.3 else "")
    question = rng.choice(
        (f"What is the {quantity} of boiler {boiler}?", f"Read the {quantity} of boiler {boiler}.",
         f"Tell me the {quantity} of boiler {boiler}.", f"How high is the {quantity} of boiler {boiler}?",
         f"Show me the {quantity} of boiler {boiler}.", f"What {quantity} does boiler {boiler} have?")
    )  # fmt: skip
    step = Step(f"I need to read the {quantity} of boiler {boiler}.", "sensor", f"boiler {boiler} {quantity}", value)
    return Problem("Knowledge", "sensor", question, f"The {quantity} of boiler {boiler} is {value}.", (step,))


def sensor_sum(rng: random.Random) -> Problem:
    """Two readings and their sum: the answer rests on three observations."""
    quantity = rng.choice(world.QUANTITIES)
    first, second = rng.sample(range(1, 21), 2)
    x, y = _reading(rng), _reading(rng)
    total = calculate(float(x), "+", float(y))
    question = rng.choice(
        (f"What is the {quantity} of boiler {first} and boiler {second} together?",
         f"Add the {quantity} of boiler {first} and boiler {second}.")
    )  # fmt: skip
    steps = (
        Step(f"First I read boiler {first}.", "sensor", f"boiler {first} {quantity}", x),
        Step(f"Now I read boiler {second}.", "sensor", f"boiler {second} {quantity}", y),
        Step(f"I need to add {x} and {y}.", "calculator", f"{x} + {y}", total),
    )
    return Problem("Reasoning", "sensor sum", question, f"Together it is {total}.", steps)


def sorting(rng: random.Random) -> Problem:
    """Numbers put in order by running code."""
    numbers = random_list(rng)
    spoken, result = ", ".join(map(str, numbers)), str(sorted(numbers))
    question = rng.choice((f"Sort {spoken}.", f"Put {spoken} in order.", f"Order the numbers {spoken}."))
    step = Step("I can sort the list with python.", "python", f"sorted({numbers})", result)
    return Problem("Reasoning", "sorting", question, f"The order is {result[1:-1]}.", (step,))


def extreme(rng: random.Random) -> Problem:
    """The largest or smallest of some numbers, by running code."""
    numbers = random_list(rng)
    function, word = rng.choice((("max", "largest"), ("min", "smallest")))
    spoken, result = ", ".join(map(str, numbers)), str((max if function == "max" else min)(numbers))
    question = rng.choice(
        (
            f"Which is the {word} of {spoken}?",
            f"Find the {word} of {spoken}.",
            f"What is the {word} number in {spoken}?",
        )
    )
    step = Step(f"I need the {word} number.", "python", f"{function}({numbers})", result)
    return Problem("Reasoning", "extreme", question, f"The {word} is {result}.", (step,))


def difference(rng: random.Random) -> Problem:
    """Who has more, and by how much: first a comparison, then a sum."""
    first, second = rng.sample(world.NAMES, 2)
    a, b = rng.sample(range(10, 99), 2)
    item = rng.choice(world.ITEMS)
    more, high, low = (first, a, b) if a > b else (second, b, a)
    question = f"{first} has {a} {item}. {second} has {b} {item}. How many more does {more} have?"
    step = Step(f"{more} has {high}. I need to subtract {low}.", "calculator", f"{high} - {low}", str(high - low))
    return Problem(
        "Reasoning", "difference", question, f"{more} has {high - low} more {item}.", (step,), exact_case=True
    )


def run_code(rng: random.Random) -> Problem:
    """What an expression of Python gives."""
    if rng.random() < 0.45:
        numbers = random_list(rng)
        function, result = rng.choice((("len", len(numbers)), ("sum", sum(numbers)), ("max", max(numbers))))
        expression, output = f"{function}({numbers})", str(result)
    else:
        word = rng.choice(world.WORDS) if rng.random() < 0.4 else random_word(rng)
        expression, output = rng.choice(
            (
                (f"'{word}'.upper()", word.upper()),
                (f"'{word}'[::-1]", word[::-1]),
                (f"len('{word}')", str(len(word))),
            )
        )
    question = rng.choice(
        (f"What does {expression} return?", f"Run {expression}.", f"Evaluate {expression} in Python.",
         f"What is the result of {expression}?", f"What does Python print for {expression}?")
    )  # fmt: skip
    thought = rng.choice(("I can run this with python.", "I should run the code."))
    step = Step(thought, "python", expression, output)
    return Problem("Code", "run", question, f"The result is {output}.", (step,), exact_case=True)


def without_tool(maker: Maker) -> Maker:
    """The same task given to an agent that needs no tool for it."""

    def make(rng: random.Random) -> Problem:
        task = maker(rng)
        return Problem(
            task.category, task.kind, task.question, task.final, closing="No tool is needed for this.",
            content_keys=task.content_keys, exact_case=task.exact_case,
        )  # fmt: skip

    return make


_ONLY_WITH_TOOLS: dict[Maker, float] = {
    arithmetic: 4,
    word_problem: 1,
    two_steps: 1,
    conversion: 1,
    sum_then_convert: 0.5,
    clock: 1,
    sensor: 1,
    sensor_sum: 0.5,
    extreme: 1,
    difference: 1,
    run_code: 1.5,
}


def decline(tool: str) -> str:
    """What the model answers, word for word, when it lacks the tool it needs."""
    return f"I can not answer this without the {tool} tool."


def needs_tool(rng: random.Random) -> Problem:
    """What an agent would use a tool for, asked without any: no guess is made."""
    while True:
        task = rng.choices(list(_ONLY_WITH_TOOLS), list(_ONLY_WITH_TOOLS.values()))[0](rng)
        if task.sub_keys or task.kind != "arithmetic":  # one-digit sums it knows by heart
            break
    final = decline(task.steps[0].tool)
    keys = tuple(sorted(task.sub_keys))
    return Problem(task.category, "needs tool", task.question, final, content_keys=keys, exact_case=task.exact_case)


def one_digit_declined(rng: random.Random) -> Problem:
    """A sum of two one-digit numbers, asked without the calculator."""
    task = direct.one_digit(rng)
    return Problem("Math", "one digit", task.question, decline("calculator"))


def stranger(rng: random.Random) -> Problem:
    """A question outside the world, put to an agent."""
    task = direct.other(rng)
    return Problem(task.category, task.kind, task.question, task.final, closing="No tool helps with this.")


WEIGHTS: dict[Maker, float] = {
    arithmetic: 3.6,
    word_problem: 1.5,
    two_steps: 1.4,
    conversion: 1.4,
    sum_then_convert: 0.6,
    lookup: 1.5,
    clock: 0.8,
    sensor: 0.8,
    sensor_sum: 0.6,
    sorting: 0.8,
    extreme: 0.7,
    difference: 0.7,
    run_code: 1.8,
    without_tool(direct.story): 0.12,
    without_tool(direct.poem): 0.12,
    without_tool(direct.function): 0.2,
    without_tool(direct.transitive): 0.25,
    without_tool(direct.deduction): 0.15,
    without_tool(direct.comparison): 0.15,
    without_tool(direct.snippet): 0.12,
    stranger: 0.75,
}

# One tool is enough for these: from them come the problems whose tool is missing, each tool equally often.
BY_TOOL: dict[str, tuple[Maker, ...]] = {
    "calculator": (arithmetic, arithmetic, word_problem, two_steps, difference),
    "convert": (conversion,),
    "lookup": (lookup,),
    "time": (clock,),
    "sensor": (sensor,),
    "python": (sorting, extreme, run_code, run_code),
}
