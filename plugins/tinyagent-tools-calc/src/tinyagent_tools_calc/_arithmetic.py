"""Evaluate arithmetic expressions without `eval`: check the tokens, parse them with `ast`, walk the tree.

Every limit is checked before the work: the length and the nesting of the text before parsing, the size
of a power, product or factorial before computing it. So each evaluation takes less than a millisecond.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable

from tinyagent import ToolError

MAX_CHARACTERS = 1_000
MAX_DEPTH = 100
MAX_BITS = 13_000  # about 3,900 decimal digits, below the 4,300 that Python prints

Number = int | float


class CalcError(ToolError):
    """The expression cannot be evaluated; the message gives the reason."""


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number> (?: 0[xX][0-9a-fA-F]+ | 0[bB][01]+ | 0[oO][0-7]+
                      | (?: \d[\d_]* \.? [\d_]* | \.\d[\d_]* ) (?: [eE][+-]?\d+ )? ) (?![\w.]) )
      | (?P<name> [A-Za-z]\w* )
      | (?P<operator> \*\* | // | [-+*/%(),] )
    )""",
    re.ASCII | re.VERBOSE,
)
_ADVICE = {
    "^": "for a power write **",
    "=": "this tool calculates and does not compare or assign",
    "<": "this tool calculates and does not compare or shift",
    ">": "this tool calculates and does not compare or shift",
    "[": "use round brackets",
    "{": "use round brackets",
    "×": "for a product write *",
    "÷": "for a quotient write /",
    "−": "for minus write -",
}


def calculate(expression: str) -> str:
    """Evaluate an arithmetic expression and format its value.

    Raises:
        CalcError: The expression cannot be evaluated.
    """
    try:
        value = _walk(_parse(expression), 0)
    except ZeroDivisionError:
        raise CalcError("division by zero") from None
    except OverflowError:
        raise CalcError("the result is too large for a decimal number") from None
    return _show(value)


def _show(value: Number) -> str:
    """Format an integer in full, and a decimal with 15 digits, without a point if it is an integer."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        value = int(value)
    return str(value) if isinstance(value, int) else f"{value:.15g}"


# ---- text to tree -------------------------------------------------------------------------------


def _parse(expression: str) -> ast.expr:
    text = " ".join(expression.split())
    if not text:
        raise CalcError("the expression is empty")
    if len(text) > MAX_CHARACTERS:
        raise CalcError(f"the expression has {len(text)} characters; {MAX_CHARACTERS} are allowed")
    _check_tokens(text)
    try:
        return ast.parse(text, mode="eval").body
    except (RecursionError, MemoryError):
        raise _too_deep() from None
    except SyntaxError as error:
        raise CalcError(f"{_short(text)!r} is not an arithmetic expression: {error.msg}") from None


def _check_tokens(text: str) -> None:
    position = depth = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise CalcError(_unreadable(text, position))
        position = token.end()
        depth += {"(": 1, ")": -1}.get(token["operator"] or "", 0)
        if depth > MAX_DEPTH:
            raise _too_deep()


def _unreadable(text: str, position: int) -> str:
    position += text[position] == " "
    advice = _ADVICE.get(
        text[position], "only numbers, + - * / // % **, round brackets and functions are allowed"
    )
    return f"{text[position : position + 20]!r} at character {position + 1} cannot be read: {advice}"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."


def _too_deep() -> CalcError:
    return CalcError(f"the expression is nested more than {MAX_DEPTH} deep")


# ---- tree to number -----------------------------------------------------------------------------


def _walk(node: ast.expr, depth: int) -> Number:
    if depth > MAX_DEPTH:
        raise _too_deep()
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.Name(id=name) if name in CONSTANTS:
            return CONSTANTS[name]
        case ast.Name(id=name):
            raise CalcError(_unknown(name))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_walk(operand, depth + 1)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _walk(operand, depth + 1)
        case ast.BinOp():
            return _chain(node, depth)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            if name not in FUNCTIONS:
                raise CalcError(_unknown(name))
            return _call(name, [_walk(argument, depth + 1) for argument in arguments])
        case ast.Tuple(elts=[]):
            raise CalcError("there is nothing between the brackets")
        case ast.Tuple():
            raise CalcError("a comma only separates the arguments of a function: write 1000, not 1,000")
        case _:
            raise CalcError(f"{_short(ast.unparse(node))!r} is not arithmetic")


def _chain(node: ast.expr, depth: int) -> Number:
    """Walk operators from left to right: 1 + 1 + 1 ... is long, not deep."""
    links: list[ast.BinOp] = []
    while isinstance(node, ast.BinOp):
        links.append(node)
        node = node.left
    value = _walk(node, depth + 1)
    for link in reversed(links):
        apply = _OPERATORS.get(type(link.op))
        if apply is None:
            raise CalcError(f"{_short(ast.unparse(link))!r} is not arithmetic")
        value = _bounded(apply(value, _walk(link.right, depth + 1)))
    return value


def _unknown(name: str) -> str:
    if name in FUNCTIONS:
        return f"{name!r} is a function: write {name}(...)"
    if name in CONSTANTS:
        return f"{name!r} is a number, not a function"
    known = ", ".join(sorted([*FUNCTIONS, *CONSTANTS]))
    return f"{name!r} is not known (known: {known})"


def _call(name: str, arguments: list[Number]) -> Number:
    try:
        return _bounded(FUNCTIONS[name](*arguments))
    except (TypeError, ValueError) as error:
        shown = _short(", ".join(_show(argument) for argument in arguments))
        raise CalcError(f"{name}({shown}) has no value: {error}") from None


# ---- limits -------------------------------------------------------------------------------------


def _bounded(value: object) -> Number:
    """Return the value if it is a real number within the limits; raise otherwise."""
    if isinstance(value, complex):
        raise CalcError("the result is not a real number")
    if isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise _too_large()
        return value
    assert isinstance(value, float)
    if not math.isfinite(value):
        raise OverflowError
    return value


def _too_large() -> CalcError:
    return CalcError(f"the result has more than {int(MAX_BITS * math.log10(2)):,} digits")


def _multiply(a: Number, b: Number) -> Number:
    if isinstance(a, int) and isinstance(b, int) and a.bit_length() + b.bit_length() - 1 > MAX_BITS:
        raise _too_large()
    return a * b


def _divide(a: Number, b: Number) -> Number:
    if isinstance(a, int) and isinstance(b, int) and b and a % b == 0:
        return a // b
    return a / b


def _power(base: Number, exponent: Number) -> object:
    if isinstance(base, int) and isinstance(exponent, int):
        # |base| >= 2**(bits - 1), so this is a lower bound; the real number of bits is at most twice that.
        certain_bits = (abs(base).bit_length() - 1) * exponent
        if certain_bits > MAX_BITS:
            raise _too_large()
    return base**exponent


def _factorial(n: Number) -> int:
    if not isinstance(n, int):
        raise TypeError("the argument must be an integer")
    if n > MAX_BITS or (n > 1 and math.lgamma(n + 1) > MAX_BITS * math.log(2)):
        raise _too_large()
    return math.factorial(n)


def _sqrt(x: Number) -> Number:
    if isinstance(x, int) and x >= 0 and (root := math.isqrt(x)) ** 2 == x:
        return root
    return math.sqrt(x)


def _round(x: Number, digits: Number = 0) -> Number:
    if not isinstance(digits, int) or abs(digits) > 1_000:
        raise TypeError("the number of digits must be an integer of at most 1000")
    return round(x, digits) if digits else round(x)


def _least(*values: Number) -> Number:
    return min(values)


def _greatest(*values: Number) -> Number:
    return max(values)


_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _multiply,
    ast.Div: _divide,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
CONSTANTS: dict[str, Number] = {"pi": math.pi, "e": math.e, "tau": math.tau}
FUNCTIONS: dict[str, Callable[..., object]] = {
    "abs": abs,
    "ceil": math.ceil,
    "cos": math.cos,
    "exp": math.exp,
    "factorial": _factorial,
    "floor": math.floor,
    "gcd": math.gcd,
    "log": math.log,
    "log10": math.log10,
    "log2": math.log2,
    "max": _greatest,
    "min": _least,
    "round": _round,
    "sin": math.sin,
    "sqrt": _sqrt,
    "tan": math.tan,
}
