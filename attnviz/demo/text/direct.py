"""Problems of every category answered at once, without tools: what the model knows, works out, writes, or declines."""

# ruff: noqa: C408, SIM905 - tables of words read better without a quote around each

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

from attnviz.demo.text import world
from attnviz.demo.text.numbers import calculate, random_word
from attnviz.demo.text.problem import Problem
from attnviz.demo.text.split import list_key

Maker = Callable[[random.Random], Problem]

UNKNOWN_ANSWER = "I do not know that. I can help with math, facts, logic, code and stories."
GREETING_ANSWER = "Hello. I can help with math, facts, logic, code and stories."


def one_digit(rng: random.Random) -> Problem:
    """Sums of two one-digit numbers: a table small enough to know."""
    operation = rng.choice("+++---***/")
    a, b = rng.randint(0, 9), rng.randint(1 if operation == "/" else 0, 9)
    word = world.OPERATIONS[operation][1]
    question = rng.choice(
        (f"What is {a} {operation} {b}?", f"What is {a} {word} {b}?", f"Compute {a} {operation} {b}.",
         f"How much is {a} {operation} {b}?", f"{a} {operation} {b} = ?", f"How much is {a} {word} {b}?",
         f"{a} {operation} {b}")
    )  # fmt: skip
    return Problem("Math", "one digit", question, f"{a} {operation} {b} = {calculate(a, operation, b)}")


def fact(rng: random.Random) -> Problem:
    """A true fact of the world."""
    relation = rng.choices(world.RELATIONS, [len(r.facts) for r in world.RELATIONS])[0]
    thing = rng.choice(list(relation.facts))
    question = rng.choice(relation.wordings).format(x=thing)
    return Problem("Knowledge", "fact", question, relation.statement.format(x=thing, y=relation.facts[thing]))


def unknown_fact(rng: random.Random) -> Problem:
    """The same question about something that is not in the world."""
    relation = rng.choice(world.RELATIONS)
    thing = rng.choice(world.UNKNOWN[relation.name])
    if rng.random() < 0.5:
        thing = random_word(rng)
        if relation.name in ("capital", "planet"):
            thing = thing.capitalize()
    question = rng.choice(relation.wordings).format(x=thing)
    final = f"I do not know the {relation.topic.format(x=thing)}."
    return Problem("Knowledge", "unknown fact", question, final, exact_case=True)


def transitive(rng: random.Random) -> Problem:
    """Who is the tallest? The order is written down before the answer."""
    people = rng.sample(world.NAMES, 4 if rng.random() < 0.25 else 3)
    more, most, least = rng.choice(world.COMPARATIVES)
    facts = [f"{a} is {more} than {b}." for a, b in pairwise(people)]
    rng.shuffle(facts)
    asked, answer = rng.choice(((most, people[0]), (least, people[-1])))
    question = f"{' '.join(facts)} Who is the {asked}?"
    chain = ", ".join(f"{a} over {b}" for a, b in pairwise(people))
    final = f"{chain}. The order is {', '.join(people)}. So {answer} is the {asked}."
    keys = tuple(f"order:{'>'.join(three)}" for three in zip(people, people[1:], people[2:], strict=False))
    return Problem("Reasoning", "transitive", question, final, content_keys=keys, exact_case=True)


def sort_by_hand(rng: random.Random) -> Problem:
    """Sorting with each step written down: the smallest of what is left."""
    numbers = rng.sample(range(1, 60), rng.choice((3, 3, 4)))
    question = rng.choice(
        (f"Sort {', '.join(map(str, numbers))}.", f"Put {', '.join(map(str, numbers))} in order.",
         f"Order the numbers {', '.join(map(str, numbers))}.")
    )  # fmt: skip
    left, chain, keys = list(numbers), [], []
    while len(left) > 1:
        keys.append(list_key(left))
        smallest = min(left)
        chain.append(f"Smallest of {', '.join(map(str, left))} is {smallest}.")
        left.remove(smallest)
    final = f"{' '.join(chain)} Last is {left[0]}. The order is {', '.join(map(str, sorted(numbers)))}."
    return Problem("Reasoning", "sorting by hand", question, final, content_keys=tuple(keys))


def deduction(rng: random.Random) -> Problem:
    """A rule about an invented kind, applied to one of it; a second rule is there to mislead."""
    name = rng.choice(world.NAMES)
    kind, other_kind = rng.sample(world.INVENTED_KINDS, 2)
    what, other_what = rng.sample(world.PROPERTIES, 2)
    rules = [f"All {kind}s are {what}.", f"All {other_kind}s are {other_what}."]
    rng.shuffle(rules)
    question = f"{' '.join(rules)} {name} is a {kind}. What is {name}?"
    final = f"{name} is a {kind} and all {kind}s are {what}. So {name} is {what}."
    return Problem(
        "Reasoning", "deduction", question, final, content_keys=(f"deduction:{kind}:{what}",), exact_case=True
    )


def comparison(rng: random.Random) -> Problem:
    """The larger or smaller of two numbers."""
    a, b = rng.sample(range(1, 100), 2)
    word, pick = rng.choice((("larger", max), ("smaller", min)))
    question = rng.choice((f"Which is {word}, {a} or {b}?", f"Which number is {word}, {a} or {b}?"))
    return Problem("Reasoning", "comparison", question, f"{pick(a, b)} is {word}.", content_keys=(list_key((a, b)),))


def function(rng: random.Random) -> Problem:
    """A Python function of one line, under its usual name or one that is asked for."""
    what, name, parameters, expression = rng.choice(world.FUNCTIONS)
    wording = rng.choice(
        ("Write a Python function that {}", "Define a function that {} in Python", "I need a Python function that {}",
         "Write code that {}", "Write a function that {}")
    )  # fmt: skip
    question = wording.format(what)
    if rng.random() < 0.35:
        name = random_word(rng)
        question += f" and call it {name}"
    final = f"def {name}({parameters}):\n    return {expression}"
    return Problem("Code", "function", question + ".", final, exact_case=True)


def snippet(rng: random.Random) -> Problem:
    """A few lines of Python."""
    variable, number = rng.choice("abcnxy"), rng.randint(1, 99)
    kind = rng.randrange(4)
    if kind == 0:
        body = rng.choice(("print('hi')", "print(i)", "total = total + i", "count = count + 1"))
        number = rng.randint(1, 9)
        question, final = (
            f"Write a loop that runs {number} times and does {body}.",
            f"for i in range({number}):\n    {body}",
        )
    elif kind == 1:
        question, final = (
            f"Set {variable} to {number} and print it.",
            f"{variable} = {number}\nprint({variable})",
        )
    elif kind == 2:
        question = f"Print yes if {variable} is greater than {number}."
        final = f"if {variable} > {number}:\n    print('yes')"
    else:
        word = random_word(rng) if rng.random() < 0.5 else rng.choice(world.WORDS)
        question, final = f"Print the word {word}.", f"print('{word}')"
    return Problem("Code", "snippet", question, final, exact_case=True)


def story(rng: random.Random) -> Problem:
    """Four sentences about an animal."""
    hero, friend = rng.choice(world.ANIMALS), rng.choice(world.ANIMALS)
    place, feeling, later = rng.choice(world.PLACES), rng.choice(world.FEELINGS), rng.choice(world.FEELINGS)
    thing, name = rng.choice(world.OBJECTS), rng.choice(world.NAMES)
    asked = rng.choice(
        (f"Write a short story about a {hero}.", f"Tell me a story about a {hero} in a {place}.",
         f"Tell me a short story with a {hero} and a {thing}.", f"Write a story about a {feeling} {hero}.",
         f"Tell me a story about a {hero}.")
    )  # fmt: skip
    sentences = (
        rng.choice((f"Once upon a time a {feeling} {hero} named {name} lived near a {place}.",
                    f"Long ago there was a {feeling} {hero} called {name} in a quiet {place}.",
                    f"In a small {place} lived a {hero} named {name} who was always {feeling}.")),
        rng.choice((f"One morning {name} found a {thing} under a tree.", f"One day a {friend} gave {name} a {thing}.",
                    f"On a cold night {name} lost a {thing}.")),
        rng.choice((f"{name} showed it to a {later} {friend} and they became friends.",
                    f"A {later} {friend} came to help, and {name} smiled.",
                    f"So {name} walked to the {place} with a {friend}.")),
        rng.choice((f"From that day on {name} was never alone.", f"And {name} slept well that night.",
                    f"In the end the {hero} was {later} and at home.")),
    )  # fmt: skip
    return Problem("Creative", "story", asked, " ".join(sentences))


def poem(rng: random.Random) -> Problem:
    """Four lines, the second and the fourth rhymed with the first and the third."""
    what = rng.choice(world.NATURE)
    (first, second), (third, fourth) = rng.sample(world.RHYMES, 2)
    asked = rng.choice(
        (f"Write a poem about the {what}.", f"Write a short poem about the {what}.",
         f"Give me four lines about the {what}.", f"Tell me a poem about the {what}.")
    )  # fmt: skip
    lines = (
        rng.choice((f"The {what} is near on this quiet {first},", f"I see the {what} and think of the {first},",
                    f"O {what}, you sing to the {first},")),
        rng.choice((f"it fills my heart with a gentle {second}.", f"and all I hear is soft and {second}.",
                    f"it comes to me, so near, so {second}.")),
        rng.choice((f"A bird flies over the {third},", f"The wind is calm above the {third},",
                    f"We walk together to the {third},")),
        rng.choice((f"and the {what} is with us, {fourth}.", f"and we dream of the {what}, {fourth}.",
                    f"and nothing is ever so {fourth}.")),
    )  # fmt: skip
    return Problem("Creative", "poem", asked, "\n".join(lines))


_GREETINGS = (
    "Hello", "Hi", "Hey", "Hi there", "Hello there", "Good morning", "Good evening", "How are you?", "Good day",
    "Are you there?", "Who are you?", "What can you do?", "Help", "Hello, how are you?", "What are you?",
    "Nice to meet you", "Can you help me?", "Thank you", "Thanks", "test",
)  # fmt: skip
_STRANGE = (
    "Who wrote {title}?", "Who painted {title}?", "Who directed {title}?", "What is {title} about?",
    "When was {title} written?", "Have you read {title}?", "What is the population of {place}?",
    "How many people live in {place}?", "How big is {place}?", "What is the weather in {place}?",
    "Will it rain in {place} tomorrow?", "Who is the president of {place}?", "What language is spoken in {place}?",
    "How do I get to {place}?", "How far is {place} from here?", "What should I see in {place}?",
    "When was {place} founded?", "How old is {person}?", "Who is {person}?", "Where does {person} live?",
    "When was {person} born?", "Who is married to {person}?", "What did {person} say?", "Did {person} win?",
    "Who won the {sport} world cup in {year}?", "What are the rules of {sport}?", "Who invented {sport}?",
    "What happened in {year}?", "Who was king in {year}?", "Which film won in {year}?", "How do I cook {food}?",
    "Give me a recipe for {food}.", "How much does {food} cost?", "Is {food} healthy?", "Where can I buy {food}?",
    "Translate {thing} into French.", "What is the French word for {thing}?", "Why is {thing} important?",
    "How does a {thing} work?", "Who invented the {thing}?", "What is a {thing} made of?", "How heavy is a {thing}?",
    "Do you like {food}?", "Do you like {sport}?", "What do you think about {person}?", "Can you draw a {thing}?",
    "Play some music.", "What is love?", "What is the meaning of life?", "Tell me a joke.", "Why is the sky high?",
    "What day is today?", "Book a flight to {place}.", "Send a mail to {person}.", "Call {person}.",
    "Turn on the {thing}.", "Explain {topic}.", "What is {topic}?", "Why do we need {topic}?",
    "What is the best book about {topic}?", "Summarise {title}.", "How deep is the {water}?",
    "How long is the {water}?",
    "Which fish live in the {water}?", "What does {nonsense} mean?", "{nonsense} {nonsense2}?",
    "{nonsense} {nonsense2} {nonsense}", "Who is {nonsense}?", "What is a {nonsense}?", "asdf {nonsense}",
    "Why is {person} famous?", "Who discovered {topic}?", "Is {topic} hard?", "Where is {place} on the map?",
    "Should I buy a {thing}?", "What is my name?", "How old am I?", "Where do I live?", "What did I say before?",
    "I feel sad.", "I am bored.", "Is there a god?", "Which car is the best?",
)  # fmt: skip
# Never trained on: questions of wholly other forms, kept for evaluation.
RESERVED_STRANGE = (
    "Who composed {title}?", "What is the height of {thing} towers?", "How many goals did {person} score?",
    "What currency is used in {place}?", "Recommend a hotel in {place}.", "Who was the first man on the moon?",
    "Is {food} better than {food}?", "What is the plot of {title}?", "How fast can {person} run?",
    "Describe the history of {place}.", "Which team plays {sport} best?", "How do vaccines work?",
    "What is the stock price today?", "Can you sing?", "When does the train to {place} leave?",
)  # fmt: skip
_SLOTS = dict(
    title=(
        "Hamlet,the Odyssey,Faust,Don Quixote,Macbeth,"
        "the Mona Lisa,Star Wars,the Bible,Moby Dick,Emma,Dracula"
    ).split(","),
    place=(
        "Paris,London,Brazil,Texas,New York,Africa,Tokyo,"
        "Berlin,Mexico,Sydney,the Alps,Rome,Mars,Lyon,Boston"
    ).split(","),
    person="Einstein,Mozart,Napoleon,Newton,Picasso,Caesar,my mother,the king,Shakespeare,Darwin,Cleopatra".split(","),
    sport="football,tennis,chess,golf,hockey,rugby,poker".split(","),
    year="1066,1492,1789,1914,1945,1969,1990,2004,2010,2018,2022".split(","),
    food="rice,soup,pasta,bread,fish,cake,pizza,cheese,beans".split(","),
    thing="car,radio,house,phone,lamp,plane,computer,piano,camera,clock,train,robot".split(","),
    topic="physics,gravity,democracy,quantum theory,art,evolution,music,history,economics,magic,philosophy".split(","),
    water="Rhine,Nile,ocean,lake,Pacific,Danube,Thames".split(","),
)  # fmt: skip


def fill(rng: random.Random, template: str) -> str:
    """The template with random words in its slots."""
    words = {slot: rng.choice(choices) for slot, choices in _SLOTS.items()}
    return template.format(nonsense=random_word(rng), nonsense2=random_word(rng), **words)


def other(rng: random.Random) -> Problem:
    """Everything else. The model says that it does not know, and what it can do."""
    if rng.random() < 0.15:
        return Problem("Other", "greeting", rng.choice(_GREETINGS), GREETING_ANSWER)
    return Problem("Other", "out of domain", fill(rng, rng.choice(_STRANGE)), UNKNOWN_ANSWER)


WEIGHTS: dict[Maker, float] = {
    one_digit: 0.9,
    fact: 1.5,
    unknown_fact: 0.35,
    transitive: 1.3,
    sort_by_hand: 1.1,
    deduction: 0.7,
    comparison: 0.6,
    function: 0.8,
    snippet: 0.5,
    story: 0.6,
    poem: 0.6,
    other: 0.65,
}
