"""Calculator: works out one expression of numbers, exactly, and writes it with at most two decimals.

Takes + - * / // % ** and parentheses; no names, no calls. Fractions keep every step exact (0.1 + 0.2 is 0.3); a power with
a fractional exponent is the one step done in floating point.
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
    return written(_value(_parse(expression)))


def written(value: Fraction) -> str:
    """At most two decimals, no thousands separators, no trailing zeros."""
    if value.denominator == 1:
        return str(value.numerator)
    text = f"{float(value) if abs(value) < FLOAT_LIMIT else round(value, 2):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _parse(expression: str) -> ast.expr:
    if not isinstance(expression, str) or not expression.strip():
        raise BadInput("Calculator: expected an expression such as 25 * 37, got nothing.")
    if len(expression) > MAX_LENGTH:
        raise BadInput(f"Calculator: expected at most {MAX_LENGTH} characters, got {len(expression)}.")
    if not _ALLOWED.fullmatch(expression):
        stranger = next(c for c in expression if not _ALLOWED.fullmatch(c))
        raise BadInput(
            f"Calculator: {stranger!r} is not understood. Expected digits, a decimal point, + - * / // % ** and parentheses."
        )
    try:
        tree = ast.parse(" ".join(expression.split()), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise BadInput(
            f"Calculator: {expression!r} is not an expression; expected one such as (25 + 12) * 37."
        ) from None
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        raise BadInput("Calculator: too many operations in one expression; split it.")
    return tree.body


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return _bounded(_number(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        return _bounded(_apply(node.op, _value(node.left), _value(node.right)))
    raise BadInput("Calculator: expected numbers joined by + - * / // % ** and parentheses.")


def _number(value: float) -> Fraction:
    """Exactly what was written: 0.1 is a tenth."""
    try:
        return Fraction(repr(value))
    except ValueError:  # inf: more digits than a float has
        raise BadInput("Calculator: a number is too large.") from None


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
