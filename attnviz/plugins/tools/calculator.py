"""Calculator: works out one expression of numbers, exactly, and writes it with at most two decimals.

Takes + - * / // % ** and parentheses; no names, no calls. Fractions keep every step exact (0.1 + 0.2 is 0.3); a power
with a fractional exponent is the one step done in floating point.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

from attnviz.hooks import BadInput, Tool, hookimpl

MAX_LENGTH = 200
MAX_NODES = 100
MAX_EXPONENT = 100
MAX_BITS = 20_000  # of the numerator and denominator of a power: small values can have huge ones
LIMIT = Fraction(10) ** 30
"""Largest magnitude of any intermediate result."""
FLOAT_LIMIT = 10**13
"""Above this a float no longer carries two decimals."""
_ALLOWED = re.compile(r"[0-9.\s+\-*/%()]*")
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_DIVISIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
}


def calculate(expression: str) -> str:
    """The value of an expression as text: "25 * 37" -> "925", "10 / 4" -> "2.5", "2 / 3" -> "0.67".

    Raises:
        BadInput: not an expression of numbers, too long, too large, or a division by zero.
    """
    source = _one_line(expression)
    return written(_value(_parse(source), source))


def written(value: Fraction) -> str:
    """At most two decimals, no thousands separators, no trailing zeros."""
    if value.denominator == 1:
        return str(value.numerator)
    if abs(value) < FLOAT_LIMIT:
        text = f"{float(value):.2f}"
    else:
        whole, hundredths = divmod(round(abs(value) * 100), 100)
        text = f"{'-' if value < 0 else ''}{whole}.{hundredths:02d}"
    text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _one_line(expression: str) -> str:
    """The expression with single spaces, once it is short and has no strange characters."""
    if not isinstance(expression, str) or not expression.strip():
        raise BadInput("Calculator: expected an expression such as 25 * 37, got nothing.")
    if len(expression) > MAX_LENGTH:
        raise BadInput(f"Calculator: expected at most {MAX_LENGTH} characters, got {len(expression)}.")
    if not _ALLOWED.fullmatch(expression):
        stranger = next(c for c in expression if not _ALLOWED.fullmatch(c))
        raise BadInput(
            f"Calculator: {stranger!r} is not understood. Expected digits, a decimal point, + - * / // % ** and "
            "parentheses."
        )
    return " ".join(expression.split())


def _parse(source: str) -> ast.expr:
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise BadInput(f"Calculator: {source!r} is not an expression; expected one such as (25 + 12) * 37.") from None
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        raise BadInput("Calculator: too many operations in one expression; split it.")
    return tree.body


def _value(node: ast.expr, source: str) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return _bounded(Fraction(source[node.col_offset : node.end_col_offset]))  # as written: 0.1 is a tenth
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        value = _value(node.operand, source)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        return _bounded(_apply(node.op, _value(node.left, source), _value(node.right, source)))
    raise BadInput("Calculator: expected numbers joined by + - * / // % ** and parentheses.")


def _apply(operation: ast.operator, a: Fraction, b: Fraction) -> Fraction:
    if isinstance(operation, ast.Pow):
        return _power(a, b)
    kind = type(operation)
    if kind in _DIVISIONS:
        if b == 0:
            raise BadInput("Calculator: division by zero.")
        return _DIVISIONS[kind](a, b)
    return _OPERATIONS[kind](a, b)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    """base ** exponent; its size is known before it is computed."""
    if abs(exponent) > MAX_EXPONENT:
        raise BadInput(
            f"Calculator: expected an exponent from -{MAX_EXPONENT} to {MAX_EXPONENT}, got {written(exponent)}."
        )
    if base == 0 and exponent < 0:
        raise BadInput("Calculator: division by zero.")
    if exponent.denominator == 1:
        if max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent) > MAX_BITS:
            raise BadInput("Calculator: the result has too many digits.")
        return base**exponent.numerator
    if base < 0:
        raise BadInput("Calculator: a negative number has no real power with a fractional exponent.")
    try:
        return Fraction(float(base) ** float(exponent))
    except OverflowError:
        raise BadInput("Calculator: the result is too large.") from None


def _bounded(value: Fraction) -> Fraction:
    if abs(value) > LIMIT:
        raise BadInput("Calculator: the result is too large; at most 30 digits.")
    return value


@hookimpl
def attnviz_tools() -> list[Tool]:
    """The calculator."""
    return [
        Tool(
            name="calculator",
            summary="Works out an expression of numbers, rounded to two decimals.",
            parameters={
                "type": "object",
                "properties": {"expression": {"type": "string", "description": "Such as 25 * 37 or (12 + 8) / 5."}},
                "required": ["expression"],
                "additionalProperties": False,
            },
            run=calculate,
        )
    ]
