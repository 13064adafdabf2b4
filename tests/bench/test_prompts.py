"""Which column of a CSV file is the prompt, and what is refused."""

import csv
from collections import Counter

import pytest

from attnviz.bench.prompts import Prompt, read_prompts
from attnviz.errors import BadInput


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("full_prompt\nHello\n", [("Hello", "")]),
        ("id,user_request,system_instruction,full_prompt\n1,u,s,whole\n", [("whole", "")]),
        ("system_instruction,user_request\nBe brief.,What is it?\n", [("What is it?", "Be brief.")]),
        ("system_instruction,user_request\n,What is it?\n", [("What is it?", "")]),
        ("user_request,note\nWhat is it?,n\n", [("What is it?", "")]),
        ("id,weight,question,answer\n1,2.5,Why?,Because\n2,,Who?,Me\n", [("Why?", ""), ("Who?", "")]),
        ("\ufeffquestion\nÄpfel?\n", [("Äpfel?", "")]),
        ('full_prompt\n"two\nlines, and ""quotes"""\n', [('two\nlines, and "quotes"', "")]),
        ("full_prompt,x\nHello,\n,\n", [("Hello", "")]),
    ],
)
def test_the_column_of_the_prompt(tmp_path, content, expected):
    found = read_prompts(write(tmp_path / "p.csv", content))
    assert [(prompt.text, prompt.system) for prompt in found] == expected
    assert [prompt.id for prompt in found] == list(range(1, len(found) + 1))


def test_a_prompt_with_an_instruction_as_text_and_as_conversation():
    prompt = Prompt(1, "What is it?", "Be brief.")
    assert prompt.plain == "Be brief.\n\nWhat is it?"
    assert prompt.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is it?"},
    ]
    assert Prompt(1, "Hi").messages == [{"role": "user", "content": "Hi"}]


def test_a_category_is_kept_and_a_limit_holds(tmp_path):
    file = write(tmp_path / "p.csv", "category,full_prompt\nMath,a\nCode,b\nMath,c\n")
    assert [(p.text, p.category) for p in read_prompts(file, limit=2)] == [("a", "Math"), ("b", "Code")]


def test_a_long_document_is_read_and_the_csv_module_is_left_as_it_was(tmp_path):
    before = csv.field_size_limit()
    text = "word " * 60_000
    assert read_prompts(write(tmp_path / "p.csv", f"full_prompt\n{text}\n"))[0].text == text
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "expected a header and at least one row"),
        ("full_prompt\n", "expected a header and at least one row"),
        ("full_prompt,note\nHello,a\n  ,b\n", "row 2: expected a prompt in 'full_prompt', got nothing"),
        ("full_prompt,full_prompt\na,b\n", "'full_prompt' stands twice"),
        ("full_prompt,x\na,b,c\n", "row 1: expected 2 cells as in the header, got 3"),
        ('full_prompt\n"never closed\n', "expected CSV, got a broken line"),
        (b"full_prompt\n\xff\n", "expected UTF-8 text, byte 12 is not"),
        ("a,b\n1,2\n3,4\n", "all are numbers"),
    ],
)
def test_what_is_refused(tmp_path, content, said):
    with pytest.raises(BadInput, match=said) as refused:
        read_prompts(write(tmp_path / "p.csv", content))
    assert "\n" not in str(refused.value)


def test_no_file_and_no_limit_of_nothing(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        read_prompts(tmp_path / "none.csv")
    with pytest.raises(BadInput, match="from 1, got 0"):
        read_prompts(limit=0)


def test_the_built_in_set_has_four_prompts_of_each_category():
    found = read_prompts()
    assert Counter(prompt.category for prompt in found) == dict.fromkeys(
        ("Knowledge", "Math", "Reasoning", "Code", "Creative"), 4
    )
    assert len({prompt.text for prompt in found}) == 20
