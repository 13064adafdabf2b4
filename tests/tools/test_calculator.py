"""What the calculator computes, writes and refuses."""

from fractions import Fraction

import pytest

from attnviz.demo.text.numbers import calculate as trained
from attnviz.hooks import BadInput
from attnviz.plugins.tools.calculator import attnviz_tools, calculate, written
from attnviz.testing import check_tool


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("25 * 37", "925"),
        ("123+4567", "4690"),
        ("10 / 4", "2.5"),
        ("2 / 3", "0.67"),
        ("-2 / 3", "-0.67"),
        ("0.1 + 0.2", "0.3"),
        ("(12 + 8) * 5", "100"),
        ("2 - 3 - 4", "-5"),
        ("-2 ** 2", "-4"),
        ("2 ** 3 ** 2", "512"),
        ("2 ** -1", "0.5"),
        ("2 ** 0.5", "1.41"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("7.5 % 2", "1.5"),
        ("--3", "3"),
        (" 1\n+ 1 ", "2"),
        ("5.", "5"),
        ("0 * -1", "0"),
        ("-1 / 1000", "0"),
        ("1000000 * 1000000", "1000000000000"),  # no separators
        ("10 ** 29 / 3", "33333333333333333333333333333.33"),  # past what a float can hold
        ("0.12345678901234567890123 * 10 ** 22", "1234567890123456789012.3"),
    ],
)
def test_values(expression, expected):
    assert calculate(expression) == expected


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "got nothing"),
        ("   ", "got nothing"),
        ("1 +", "is not an expression"),
        ("4 4", "is not an expression"),
        ("007", "is not an expression"),
        ("1,000 + 1", "',' is not understood"),
        ("1e5", "'e' is not understood"),
        ("x + 1", "'x' is not understood"),
        ("__import__('os')", "'_' is not understood"),
        ("2 & 1", "'&' is not understood"),
        ("2(3)", "expected numbers joined by"),
        ("()", "expected numbers joined by"),
        ("...", "expected numbers joined by"),
        ("1 / 0", "division by zero"),
        ("1 // 0", "division by zero"),
        ("1 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("9 ** 9 ** 9", "expected an exponent from -100 to 100, got 387420489"),
        ("99 ** 99", "too large"),
        ("((0.001 ** 100) ** 100) ** 100", "too many digits"),
        ("(0 - 8) ** (1 / 3)", "no real power"),
        ("10 ** 29 ** 0.5 * 10 ** 28", "too large"),
        ("1" * 201, "at most 200 characters, got 201"),
        ("1+" * 99 + "1", "too many operations"),
        ("(" * 150, "is not an expression"),
        ("9" * 40, "too large"),
    ],
)
def test_refusals(expression, message):
    with pytest.raises(BadInput) as refusal:
        calculate(expression)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_something_else_than_text_is_refused():
    with pytest.raises(BadInput, match="expected an expression"):
        calculate(25)


@pytest.mark.parametrize("operation", "+-*/")
def test_numbers_are_written_as_the_embedded_model_was_trained(operation):
    for a, b in [(25, 37), (7, 8), (1, 8), (5, 200), (100, 3), (3, 100), (9999, 7), (12, 12)]:
        assert calculate(f"{a} {operation} {b}") == trained(a, operation, b)


@pytest.mark.parametrize("value", [Fraction(-1, 3), Fraction(10**14 * 3 + 1, 3), Fraction(-(10**14) * 3 - 1, 3)])
def test_two_decimals_on_both_sides_of_the_float_limit(value):
    assert abs(Fraction(written(value)) - value) <= Fraction(1, 200)


def test_the_contract():
    assert check_tool(attnviz_tools()[0], expression="25 * 37") == "925"
