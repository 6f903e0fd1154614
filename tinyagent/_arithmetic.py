"""Find arithmetic in a text, such as `3 + 4` or `sqrt(2)`, for the demo."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

__all__ = ["find_arithmetic"]

_NUMBER = re.compile(r"(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w])|\.\d+(?![\w])")
_FUNCTION = re.compile(r"[a-z][a-z0-9]*(?=\()")
_OPERATOR = re.compile(r"\s*(\*\*|//|[-+*/^×÷])\s*|\s+([x%])\s+")
_SPELLING = {"^": "**", "×": "*", "÷": "/", "x": "*"}
_MAX_DEPTH = 20
_MAX_TEXT = 4_000


def find_arithmetic(text: str) -> Iterator[str]:
    """Yield the expressions in a text that have an operator or a function, such as `3 + 4` or `sqrt(2)`."""
    text, at = text[:_MAX_TEXT], 0
    while at < len(text):
        boundary = at == 0 or not (text[at - 1].isalnum() or text[at - 1] in "_.")
        found = _expression(text, at, 0) if boundary else None
        if found is not None and found[2]:
            yield found[1]
            at = found[0]
        elif found is not None:
            at = max(found[0], at + 1)
        else:
            at += 1


Match: TypeAlias = "tuple[int, str, bool] | None"
"""The end of an expression, its normalised text, and whether it has an operator or a function."""


def _expression(text: str, at: int, depth: int) -> Match:
    found = _operand(text, at, depth)
    while found is not None:
        operator = _OPERATOR.match(text, found[0])
        right = _operand(text, operator.end(), depth) if operator is not None else None
        if operator is None or right is None:
            break
        sign = operator[1] or operator[2]
        found = right[0], f"{found[1]} {_SPELLING.get(sign, sign)} {right[1]}", True
    return found


def _operand(text: str, at: int, depth: int) -> Match:
    if depth > _MAX_DEPTH or at >= len(text):
        return None
    if text[at] == "-":
        inner = _operand(text, at + 1, depth + 1)
        return None if inner is None else (inner[0], f"-{inner[1]}", inner[2])
    if number := _NUMBER.match(text, at):
        return number.end(), number[0], False
    function = _FUNCTION.match(text, at)
    begin = function.end() if function else at
    if text[begin] != "(":
        return None
    inside = []
    while True:
        begin = _after_spaces(text, begin + 1)
        inner = _expression(text, begin, depth + 1)
        if inner is None:
            return None
        inside.append(inner[1])
        begin = _after_spaces(text, inner[0])
        if begin >= len(text) or text[begin] not in (",)" if function else ")"):
            return None
        if text[begin] == ")":
            break
    name = function[0] if function else ""
    return begin + 1, f"{name}({', '.join(inside)})", bool(function) or inner[2]


def _after_spaces(text: str, at: int) -> int:
    while at < len(text) and text[at] == " ":
        at += 1
    return at
