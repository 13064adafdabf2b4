"""Prompts to try, about ten of each category, all of which the embedded model answers well."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A prompt to try."""

    category: str  # Math, Knowledge, Reasoning, Code, Creative
    text: str


_PROMPTS: dict[str, tuple[str, ...]] = {
    "Math": (
        "What is 25 * 37?",
        "What is 123 + 4567?",
        "How much is 17 times 23?",
        "Compute 12 + 8, then multiply by 5.",
        "Convert 12 km to miles.",
        "How many dollars are 250 euros?",
        "Tom has 48 apples and gives away 19. How many apples are left?",
        "There are 14 boxes with 36 eggs each. How many eggs are there?",
        "Divide 1024 by 16.",
        "What is 7 + 8?",
    ),
    "Knowledge": (
        "What is the capital of France?",
        "Which city is the capital of Japan?",
        "How many legs does a spider have?",
        "What sound does a duck make?",
        "What is the chemical symbol of iron?",
        "What is a young horse called?",
        "What colour is snow?",
        "Which planet from the sun is Mars?",
        "What time is it in Oslo?",
        "What is the burner temperature of boiler 7?",
    ),
    "Reasoning": (
        "Omar is older than Rosa. Rosa is older than Bob. Who is the oldest?",
        "Carl is heavier than Rex. Ben is heavier than Carl. Who is the lightest?",
        "Sort 30, 12, 5.",
        "Put 31, 8, 54 in order.",
        "Which is the largest of 12, 88, 45, 61?",
        "All wugs are blue. All daxs are loud. Tom is a wug. What is Tom?",
        "Which is larger, 17 or 71?",
        "Eva has 62 coins. Sam has 35 coins. How many more does Eva have?",
        "What is the fuel flow of boiler 3 and boiler 5 together?",
        "Lea is faster than Jon. Paul is faster than Lea. Who is the fastest?",
    ),
    "Code": (
        "Write a Python function that adds two numbers.",
        "Write a Python function that returns the length of a list.",
        "Write a Python function that checks if a number is even.",
        "Define a function that sorts a list in Python.",
        "Write a loop that runs 5 times and does print(i).",
        "Set x to 42 and print it.",
        "Print yes if n is greater than 10.",
        "What does sum([3, 14, 15]) return?",
        "Run 'garden'.upper().",
        "Evaluate len([4, 8, 15, 16]) in Python.",
    ),
    "Creative": (
        "Write a short story about a fox.",
        "Write a story about a brave mouse.",
        "Tell me a story about a bear in a forest.",
        "Tell me a short story with a cat and a red lantern.",
        "Tell me a story about a goose.",
        "Write a poem about the moon.",
        "Write a short poem about the sea.",
        "Give me four lines about the wind.",
        "Write a poem about the night.",
        "Tell me a poem about the snow.",
    ),
}

EXAMPLES: tuple[Example, ...] = tuple(Example(category, text) for category, texts in _PROMPTS.items() for text in texts)
