"""The evaluation of expressions, and its limits."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagent_tools_calc._arithmetic import MAX_BITS, CalcError, calculate


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("6 * 7", "42"),
        ("84 / 2", "42"),
        ("7 // 2", "3"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("2 ** 10", "1024"),
        ("2 ** -3", "0.125"),
        ("2 ** 3 ** 2", "512"),
        ("-2 ** 2", "-4"),
        ("(1 + 2) * (3 + 4)", "21"),
        ("- - +5", "5"),
        (" 1\n+\t2 ", "3"),
        ("2 ** 200", str(2**200)),
        ("10 ** 400 / 10 ** 399", "10"),
    ],
)
def test_integers_are_exact(expression: str, expected: str) -> None:
    """Integers of any size are exact, and so are quotients without a remainder."""
    assert expected == calculate(expression)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0.1 + 0.2", "0.3"),
        ("2 / 3", "0.666666666666667"),
        (".5 + .5", "1"),
        ("5.", "5"),
        ("1e15", "1000000000000000"),
        ("1e300", "1e+300"),
        ("0.0 * -1", "0"),
        ("123456789.125", "123456789.125"),
    ],
)
def test_decimals_are_shown_without_noise(expression: str, expected: str) -> None:
    """Decimals have 15 digits, and no point if they are integers."""
    assert expected == calculate(expression)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("sqrt(16)", "4"),
        ("sqrt(10 ** 400)", str(10**200)),
        ("sqrt(2) ** 2", "2"),
        ("sin(pi / 2)", "1"),
        ("cos(0)", "1"),
        ("tan(0)", "0"),
        ("log(e)", "1"),
        ("log(8, 2)", "3"),
        ("log2(1024)", "10"),
        ("log10(1000)", "3"),
        ("exp(0)", "1"),
        ("abs(-3)", "3"),
        ("round(2.567, 2)", "2.57"),
        ("round(1234, -2)", "1200"),
        ("round(2.4)", "2"),
        ("min(3, 1, 2)", "1"),
        ("max(3, 1, 2)", "3"),
        ("floor(-1.5)", "-2"),
        ("ceil(1.2)", "2"),
        ("factorial(20)", "2432902008176640000"),
        ("gcd(12, 18)", "6"),
        ("tau / pi", "2"),
    ],
)
def test_functions_and_constants(expression: str, expected: str) -> None:
    """All documented functions and constants work."""
    assert expected == calculate(expression)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("", "empty"),
        ("  \n ", "empty"),
        ("1 / 0", "division by zero"),
        ("1 // 0", "division by zero"),
        ("1 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("1 +", "not an arithmetic expression"),
        ("1 2", "not an arithmetic expression"),
        ("(1", "not an arithmetic expression"),
        ("()", "nothing between the brackets"),
        ("0777", "leading zeros"),
        ("1,000", "write 1000, not 1,000"),
        ("2 ^ 3", "for a power write **"),
        ("6 × 7", "for a product write *"),
        ("x + 1", "'x' is not known (known: abs,"),
        ("sin", "'sin' is a function: write sin(...)"),
        ("pi(2)", "'pi' is a number, not a function"),
        ("sqrt(-1)", "sqrt(-1) has no value"),
        ("log(0)", "log(0) has no value"),
        ("min()", "min() has no value"),
        ("sin(1, 2)", "sin(1, 2) has no value"),
        ("gcd(1.5, 2)", "gcd(1.5, 2) has no value"),
        ("factorial(-1)", "factorial(-1) has no value"),
        ("factorial(1.5)", "must be an integer"),
        ("round(1.5, 10 ** 9)", "at most 1000"),
        ("(-8) ** (1 / 3)", "not a real number"),
        ("exp(1000)", "too large for a decimal number"),
        ("1e999", "too large for a decimal number"),
        ("10 ** 400 * 1.0", "too large for a decimal number"),
    ],
)
def test_errors_explain_the_mistake(expression: str, words: str) -> None:
    """An error shows the mistake and the correct form."""
    with pytest.raises(CalcError) as caught:
        calculate(expression)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "().__class__.__bases__",
        "(1).real",
        "1..real",
        "abs.__globals__",
        "abs.x",
        "lambda: 1",
        "[x for x in (1, 2)]",
        "{1: 2}",
        "'a' * 10",
        'f"{1}"',
        "x := 1",
        "x = 1",
        "1 if 1 else 2",
        "1if 1else 2",
        "1 and 2",
        "not 1",
        "~1",
        "1 < 2",
        "1 is 1",
        "1 << 10 ** 10",
        "1 @ 2",
        "1 | 2",
        "True",
        "None",
        "1j",
        "...",
        "eval(1)",
        "open(1)",
        "abs(x=1)",
        "abs(*1)",
        "min(**1)",
        "3(4)",
        "sin(1)(2)",
        "await 1",
        "yield",
        "import os",
        "1; 2",
        "1 # 2",
        "1 \\\n + 1",
        "\x00",
        "1\u20602",
        "\N{FULLWIDTH LATIN SMALL LETTER E}",
        "\ud800",
    ],
)
def test_other_python_is_refused(expression: str) -> None:
    """Names, attributes, strings, lambdas and logic of Python are refused."""
    with pytest.raises(CalcError):
        calculate(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9**9",
        "9**9**9",
        "2**13001",
        "(-2)**13001",
        "(10**3000)**(10**3000)",
        "(10**3000) * (10**3000)",
        "factorial(10**9)",
        "factorial(10**400)",
        "factorial(factorial(20))",
        "(" * 10_000 + "1" + ")" * 10_000,
        "(" * 101 + "1" + ")" * 101,
        "-" * 900 + "1",
        "2" + "**1" * 300,
        "abs(" * 101 + "1" + ")" * 101,
        "1" * 1_001,
        "1+" * 100_000 + "1",
        "*".join(["9" * 450] * 2) + "**99",
        "2.0**10**10",
        "(1 + 1e-9) ** 10**18",
    ],
)
def test_huge_results_are_refused_before_they_are_computed(expression: str) -> None:
    """Computing these would take minutes or all memory."""
    with pytest.raises(CalcError):
        calculate(expression)


@pytest.mark.parametrize("expression", ["+".join(["1"] * 500), "1" * 1_000, "(" * 100 + "1" + ")" * 100])
def test_long_expressions_are_accepted(expression: str) -> None:
    """Expressions within the limits of length and depth are evaluated."""
    expected = len(expression.split("+")) if "+" in expression else int(expression.strip("()"))
    assert str(expected) == calculate(expression)


def test_the_largest_integer_can_be_shown() -> None:
    """The size limit is below the limit of Python's conversion to text."""
    assert str(2 ** (MAX_BITS - 1)) == calculate(f"2 ** {MAX_BITS - 1}")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("expression", ["1if 1else 2", "3(4)", "0x1for x", "1 is 1"])
def test_the_parser_prints_no_warnings(expression: str) -> None:
    """Unusual input causes an error, never a Python warning on the terminal."""
    with pytest.raises(CalcError):
        calculate(expression)


def _grown(parts: st.SearchStrategy[tuple[str, Fraction]]) -> st.SearchStrategy[tuple[str, Fraction]]:
    def combine(parts: tuple[tuple[str, Fraction], str, tuple[str, Fraction]]) -> tuple[str, Fraction] | None:
        (left, a), sign, (right, b) = parts
        if sign in ("//", "%") and not b:
            return None
        value = {
            "+": lambda: a + b,
            "-": lambda: a - b,
            "*": lambda: a * b,
            "//": lambda: Fraction(a // b),
            "%": lambda: a % b,
        }[sign]()
        return f"({left}) {sign} ({right})", value

    signs = st.sampled_from(["+", "-", "*", "//", "%"])
    binary = st.tuples(parts, signs, parts).map(combine).filter(lambda made: made is not None)
    negated = parts.map(lambda part: (f"-({part[0]})", -part[1]))
    return st.one_of(binary, negated)  # type: ignore[arg-type]


_INTEGERS = st.integers(min_value=0, max_value=10**6).map(lambda n: (str(n), Fraction(n)))


@given(st.recursive(_INTEGERS, _grown, max_leaves=8))
def test_it_agrees_with_fractions(made: tuple[str, Fraction]) -> None:
    """Integer expressions have the value of exact rational arithmetic."""
    expression, value = made
    assert str(value) == calculate(expression)


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=0, max_value=1e300))
def test_decimals_round_trip(value: float) -> None:
    """Every decimal is shown with its first 15 digits."""
    assert math.isclose(value, float(calculate(repr(value))), rel_tol=1e-14)


def _answer_or_reason(text: str) -> str:
    try:
        return calculate(text)
    except CalcError as error:
        return str(error)


@given(st.text(max_size=80))
def test_any_text_is_answered_or_refused(text: str) -> None:
    """Every text gives a result or a CalcError."""
    assert _answer_or_reason(text)


@given(st.text(alphabet="0123456789.eE+-*/%(), sqrtminpi", max_size=60))
def test_near_arithmetic_is_answered_or_refused(text: str) -> None:
    """Every text that resembles arithmetic gives a result or a CalcError."""
    assert _answer_or_reason(text)
