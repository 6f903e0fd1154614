"""`@tool`: a typed function becomes a tool, and arguments must fit its schema."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, Optional, TypedDict, Union

import msgspec
import pytest

import tinyagent.agent_tool_execution as execution
from tinyagent import Agent, AgentOptions, AgentToolResult, tool, validate_tool_arguments
from tinyagent._cancel import AbortSignal
from tinyagent.agent_tool_execution import ToolBatch
from tinyagent.errors import ToolError
from tinyagent.testing import Reply, ScriptedProvider, assistant, call
from tinyagent.tools import run_until_aborted

if TYPE_CHECKING:
    from nowhere import OnlyForTheChecker


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclasses.dataclass
class Size:
    width: float
    height: float


class Options(TypedDict):
    name: str
    deep: NotRequired[bool]


async def run(made: Any, arguments: Any = None, **options: Any) -> tuple[str, Any]:
    """Return the text of the result of one call, and its message."""
    call = {"type": "tool_call", "id": "id-1", "name": made.name, "arguments": arguments or {}}
    batch = ToolBatch(assistant(call), [made], lambda event: None, **options)  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        await batch.run()
    (message,) = batch.results
    return "".join(part.get("text", "") for part in message["content"]), message


# ---- the schema --------------------------------------------------------------------------------------


def test_a_function_becomes_a_tool() -> None:
    """Name, description and schema come from the function, which can still be called."""

    @tool
    def weather(city: str, days: int = 1) -> str:
        """Say how the weather will be.

        Args:
            city: Name of the city.
            days: How many days ahead,
                counted from today.
        """
        return f"Sunny in {city} for {days} days."

    assert ("weather", "Say how the weather will be.") == (weather.name, weather.description)
    assert {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Name of the city."},
            "days": {
                "type": "integer",
                "description": "How many days ahead, counted from today.",
                "default": 1,
            },
        },
        "required": ["city"],
        "additionalProperties": False,
    } == weather.parameters
    assert (False, None, "weather") == (weather.read_only, weather.timeout, weather.label)
    assert "Sunny in Rome for 1 days." == weather("Rome")


def test_the_decorator_accepts_the_fields_of_a_tool() -> None:
    """Arguments of the decorator override the function."""

    @tool(name="other", description="Told.", label="Label", read_only=True, timeout=2)
    def function() -> None:
        """Not this."""

    assert ("other", "Told.", "Label", True, 2) == (
        function.name,
        function.description,
        function.label,
        function.read_only,
        function.timeout,
    )
    assert {"type": "object", "properties": {}, "required": [], "additionalProperties": False} == {
        "properties": {},
        "required": [],
        **function.parameters,
    }


STYLES: dict[str, tuple[str, str, dict[str, str]]] = {
    "none": ("", "", {}),
    "a sentence": ("Do it.", "Do it.", {}),
    "paragraphs": ("Do it.\n\nAnd more.", "Do it.\n\nAnd more.", {}),
    "arguments": ("Do it.\n\nArgs:\n    a: The a.\n    b: The b.", "Do it.", {"a": "The a.", "b": "The b."}),
    "types": ("Do it.\n\nArgs:\n    a (int): The a.\n    b (str, optional): The b.", "Do it.",
              {"a": "The a.", "b": "The b."}),
    "other names": ("Do it.\n\nParameters:\n    a: The a.", "Do it.", {"a": "The a."}),
    "colons": ("Do it.\n\nArgs:\n    a: One of: x, y.", "Do it.", {"a": "One of: x, y."}),
    "continued": ("Do it.\n\nArgs:\n    a: The\n        long a.\n    b: The b.", "Do it.",
                  {"a": "The long a.", "b": "The b."}),
    "followed": ("Do it.\n\nArgs:\n    a: The a.\n\nReturns:\n    Something.",
                 "Do it.\n\nReturns:\n    Something.",
                 {"a": "The a."}),
    "numpy": ("Do it.\n\nParameters\n----------\na : int\n    The a,\n    continued.\n"
              "b : str, optional\n    The b.", "Do it.", {"a": "The a, continued.", "b": "The b."}),
    "numpy, followed": ("Do it.\n\nParameters\n----------\na, b : int\n    Both.\n\n"
                        "Returns\n-------\nint\n    It.",
                        "Do it.\n\nReturns\n-------\nint\n    It.", {"a": "Both.", "b": "Both."}),
    "numpy, others": ("Do it.\n\nParameters\n----------\na\n    The a.\n\n"
                      "Other Parameters\n----------------\nb\n    The b.",
                      "Do it.", {"a": "The a.", "b": "The b."}),
    "sphinx": ("Do it.\n\n:param a: The a.\n:param str b: The b,\n    continued.\n:type a: int",
               "Do it.", {"a": "The a.", "b": "The b, continued."}),
    "sphinx, followed": ("Do it.\n\n:param a: The a: all of it.\n:type a: int\n:returns: Something.\n"
                         ":raises X: no",
                         "Do it.\n\n:returns: Something.\n:raises X: no", {"a": "The a: all of it."}),
    "several sections": ("Do it.\n\nArgs:\n    a: The a.\n\nReturns:\n    It.\n\n"
                         "Keyword Args:\n    b: The b.",
                         "Do it.\n\nReturns:\n    It.", {"a": "The a.", "b": "The b."}),
    "nested types": ("Do it.\n\nArgs:\n    a (Tuple[int, (1)]): The a.", "Do it.", {"a": "The a."}),
    "in its first line": ("Args:\n    a: The a.\n    b: The b.\n    ", "", {"a": "The a.", "b": "The b."}),
    "unknown names": ("Do it.\n\nArgs:\n    zzz: Not there.", "Do it.", {}),
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_docstrings_of_all_styles(style: str) -> None:
    """The docstring gives the description of the tool and of its parameters."""
    docstring, description, told = STYLES[style]

    def function(a: int, b: str = "x") -> None: ...

    function.__doc__ = docstring
    made = tool(function)
    assert description == made.description
    found = {name: entry["description"] for name, entry in made.parameters["properties"].items()
             if "description" in entry}  # fmt: skip
    assert told == found


class Doc:
    """As PEP 727 has it."""

    def __init__(self, documentation: str) -> None:
        self.documentation = documentation


def test_annotations_describe_parameters() -> None:
    """A string in `Annotated`, also inside a type, takes precedence over the docstring."""

    @tool
    def function(
        a: Annotated[str, "The a."],
        b: Annotated[int, Doc("The b."), msgspec.Meta(ge=1)],
        c: list[Annotated[str, "One c."]],
        d: Annotated[int | None, "The d."] = None,
        e: int = 0,
    ) -> None:
        """Do it.

        Args:
            a: Not this.
            e: The e.
        """

    assert {
        "a": {"type": "string", "description": "The a."},
        "b": {"type": "integer", "minimum": 1, "description": "The b."},
        "c": {"type": "array", "items": {"type": "string", "description": "One c."}},
        "d": {"anyOf": [{"type": "integer"}, {"type": "null"}], "description": "The d.", "default": None},
        "e": {"type": "integer", "description": "The e.", "default": 0},
    } == function.parameters["properties"]


HINTS: list[tuple[Any, Any, Any]] = [
    (str, "x", "x"),
    (int, 5, 5),
    (int, 5.0, 5),
    (int, 1e20, 10**20),
    (list[int], [1.0, 2], [1, 2]),
    (dict[str, int], {"a": -1.0}, {"a": -1}),
    (int | None, 5.0, 5),
    (int | str, 5.0, 5),
    (Point, {"x": 1.0}, Point(1)),
    (dict[str, list[Point]], {"a": [{"x": 1, "y": 2.0}]}, {"a": [Point(1, 2)]}),
    (Literal[1, 2], 2.0, 2),
    (Annotated[int, msgspec.Meta(ge=1)], 1.0, 1),
    (float, 5.0, 5.0),
    (float, 1e300, 1e300),
    (int, 2**70, 2**70),
    (float, 1, 1.0),
    (float, 1.5, 1.5),
    (bool, True, True),
    (None, None, None),
    (list[int], [1], [1]),
    (list, [1, "x"], [1, "x"]),
    (set[str], ["a"], {"a"}),
    (tuple[int, str], [1, "x"], (1, "x")),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (dict[int, str], {"1": "a"}, {1: "a"}),
    (dict, {"a": [1]}, {"a": [1]}),
    (Optional[int], None, None),  # noqa: UP045
    (Union[int, str], "x", "x"),  # noqa: UP007
    (int | None, 5, 5),
    (Literal["a", "b"], "b", "b"),
    (Literal[1, 2], 2, 2),
    (Color, "red", Color.RED),
    (Point, {"x": 1}, Point(1)),
    (list[Point], [{"x": 1, "y": 2}], [Point(1, 2)]),
    (Size, {"width": 1, "height": 2.5}, Size(1.0, 2.5)),
    (Options, {"name": "x"}, {"name": "x"}),
    (datetime.date, "2024-02-29", datetime.date(2024, 2, 29)),
    (datetime.datetime, "2024-02-29T12:00:00Z", datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)),
    (uuid.UUID, "12345678-1234-5678-1234-567812345678", uuid.UUID("12345678-1234-5678-1234-567812345678")),
    (decimal.Decimal, "1.10", decimal.Decimal("1.10")),
    (bytes, "AAE=", b"\x00\x01"),
    (Any, {"x": [None]}, {"x": [None]}),
    (Annotated[int, msgspec.Meta(ge=1, description="At least one.")], 1, 1),
]


@pytest.mark.parametrize(("hint", "given", "expected"), HINTS, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("described", [False, True])
async def test_hints_of_all_kinds(hint: Any, given: Any, expected: Any, described: bool) -> None:
    """The schema accepts the argument, and the function gets it converted."""
    seen = []

    async def function(value: Any) -> None:
        seen.append(value)

    function.__annotations__["value"] = hint
    function.__doc__ = "Do it.\n\nArgs:\n    value: The value." if described else None
    made = tool(function)
    json.dumps(made.parameters)
    validate_tool_arguments(
        made, {"type": "tool_call", "id": "1", "name": "t", "arguments": {"value": given}}
    )
    text, message = await run(made, {"value": given})
    assert ("Done.", False) == (text, message["is_error"])
    assert [expected] == seen
    assert type(expected) is type(seen[0])


@pytest.mark.parametrize(
    ("hint", "given"),
    [
        (int, "5"),
        (int, 1.5),
        (str, 5),
        (bool, 1),
        (Color, "green"),
        (Literal["a"], "b"),
        (Point, {"y": 1}),
        (list[int], ["x"]),
        (Annotated[int, msgspec.Meta(ge=1)], 0),
        (datetime.date, "yesterday"),
        (uuid.UUID, "x"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_arguments_that_do_not_fit(hint: Any, given: Any) -> None:
    """The error result shows the place; the function is not called."""
    seen: list[Any] = []

    def function(value: Any) -> None:
        seen.append(value)

    function.__annotations__["value"] = hint
    text, message = await run(tool(function), {"value": given})
    assert message["is_error"]
    assert "$.value" in text
    assert [] == seen


async def test_missing_and_unknown_arguments() -> None:
    """The error text names a missing or unknown argument."""

    @tool
    def function(needed: int) -> None: ...

    for arguments, word in (({}, "needed"), ({"needed": 1, "extra": 2}, "extra")):
        text, message = await run(function, arguments)
        assert message["is_error"]
        assert word in text


async def test_defaults_of_all_kinds() -> None:
    """A missing argument gets its default; each call gets a new copy of a mutable default."""

    @tool
    async def function(
        number: int = 1,
        maybe: str | None = None,
        color: Color = Color.RED,
        items: list[int] = [1],  # noqa: B006
        pairs: dict[str, int] = {"a": 1},  # noqa: B006
        point: Point = Point(1),  # noqa: B008
        *,
        keyword: bool = True,
    ) -> str:
        items.append(2)
        pairs["b"] = 2
        return f"{number} {maybe} {color.value} {items} {pairs} {point.x} {keyword}"

    assert not function.parameters.get("required")
    expected = "1 None red [1, 2] {'a': 1, 'b': 2} 1 True"
    for _ in range(2):
        assert expected == (await run(function))[0]
    assert {"default": 1, "type": "integer"} == function.parameters["properties"]["number"]


class Namespace:
    """Parameters with names that could conflict with others."""

    @staticmethod
    @tool
    def odd(name: str, type: int, self_: int, arguments: int, _hidden: int, index: int) -> str:
        return f"{name}{type}{self_}{arguments}{_hidden}{index}"


async def test_parameters_may_have_any_name() -> None:
    """`type`, `name` and similar names are allowed."""
    arguments = {"name": "n", "type": 1, "self_": 2, "arguments": 3, "_hidden": 4, "index": 5}
    assert "n12345" == (await run(Namespace.odd, arguments))[0]


async def test_a_method_of_an_object() -> None:
    """A bound method can be a tool."""

    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def add(self, number: int) -> int:
            """Add to the count."""
            self.count += number
            return self.count

    counter = Counter()
    made = tool(counter.add)
    assert {"number"} == set(made.parameters["properties"])
    assert "2" == (await run(made, {"number": 2}))[0]
    assert 2 == counter.count


async def test_a_decorated_function() -> None:
    """`functools.wraps` preserves the hints."""

    def twice(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs) * 2

        return wrapper

    @tool
    @twice
    def echo(text: str) -> str:
        return text

    assert "xx" == (await run(echo, {"text": "x"}))[0]


def test_hints_for_type_checkers_only_are_ignored() -> None:
    """Hints of the result and of special parameters are not resolved."""

    @tool
    def function(a: int, signal: OnlyForTheChecker, on_update: OnlyForTheChecker) -> OnlyForTheChecker: ...

    assert {"a"} == set(function.parameters["properties"])


# ---- errors of the decorator --------------------------------------------------------------------------


def test_invalid_functions_are_refused() -> None:
    """The decorator raises TypeError with the tool and the parameter."""

    class Local: ...

    def no_hint(a): ...  # type: ignore[no-untyped-def]

    def variable(*args: int) -> None: ...

    def keywords(**kwargs: int) -> None: ...

    def positional(a: int, /) -> None: ...

    def local(a: Local) -> None: ...

    def checker(a: OnlyForTheChecker) -> None: ...

    for function, words in (
        (no_hint, ["'no_hint'", "'a'", "type hint"]),
        (variable, ["'variable'", "'args'"]),
        (keywords, ["'keywords'", "'kwargs'"]),
        (positional, ["'positional'", "'a'"]),
        (local, ["'local'", "Local", "top of the module"]),
        (checker, ["'checker'", "OnlyForTheChecker"]),
    ):
        with pytest.raises(TypeError) as caught:
            tool(function)
        for word in words:
            assert word in str(caught.value)


@pytest.mark.parametrize("hint", [object, Callable[[], None], asyncio.Event, complex])
def test_types_without_a_json_form_are_refused(hint: Any) -> None:
    """The decorator raises, and the message has the tool's name."""

    def function(a: Any) -> None: ...

    function.__annotations__["a"] = hint
    with pytest.raises(TypeError, match="'function'"):
        tool(function)


@pytest.mark.parametrize("given", [5, "text", functools.partial(print), len])
def test_other_objects_are_refused(given: Any) -> None:
    """The error shows the object."""
    with pytest.raises(TypeError, match="made from a function"):
        tool(given)


# ---- running -----------------------------------------------------------------------------------------


VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


async def test_a_sync_function_runs_in_a_thread() -> None:
    """A sync function runs in a thread with the context variables, and the event loop continues."""
    main, entered, gate = threading.get_ident(), threading.Event(), threading.Event()

    @tool
    def work() -> str:
        entered.set()
        assert gate.wait(60)
        return f"{threading.get_ident() != main} {VARIABLE.get()} {threading.current_thread().daemon}"

    VARIABLE.set("set")
    running = asyncio.create_task(run(work))
    assert await asyncio.to_thread(entered.wait, 60)
    assert not running.done()
    gate.set()
    assert "True set True" == (await running)[0]


async def test_an_async_function_runs_in_the_loop() -> None:
    """An async function runs in the thread of the loop."""
    main = threading.get_ident()

    @tool
    async def work() -> bool:
        await asyncio.sleep(0)
        return threading.get_ident() == main

    assert "true" == (await run(work))[0]


async def test_a_function_that_gives_a_coroutine() -> None:
    """A coroutine that a sync function returns is awaited."""

    async def inner(a: int) -> int:
        return a + 1

    @tool
    def outer(a: int) -> Any:
        return inner(a)

    assert "2" == (await run(outer, {"a": 1}))[0]


@pytest.mark.parametrize("is_async", [False, True])
async def test_special_parameters(is_async: bool) -> None:
    """`tool_call_id`, `signal` and `on_update` are not in the schema."""
    signal, events = AbortSignal(), []
    seen: list[Any] = []

    def sync(a: int, tool_call_id: str, signal: Any, on_update: Any) -> str:
        seen.extend([tool_call_id, signal])
        on_update(AgentToolResult(content=[{"type": "text", "text": "half"}]))
        return "done"

    async def later(a: int, tool_call_id: str, signal: Any, on_update: Any) -> str:
        return sync(a, tool_call_id, signal, on_update)

    made = tool(later if is_async else sync)
    assert {"a"} == set(made.parameters["properties"])
    call: Any = {"type": "tool_call", "id": "id-1", "name": made.name, "arguments": {"a": 1}}
    batch = ToolBatch(assistant(call), [made], events.append, signal=signal)  # type: ignore[arg-type]
    await batch.run()
    assert ["id-1", signal] == seen
    assert 1 == sum(event.type == "tool_execution_update" for event in events)  # type: ignore[attr-defined]


RESULTS: list[tuple[Any, str, Any]] = [
    ("text", "text", {}),
    ("", "", {}),
    (5, "5", {"result": 5}),
    (1.5, "1.5", {"result": 1.5}),
    (True, "true", {"result": True}),
    (None, "Done.", {}),
    ({"a": [1]}, '{"a":[1]}', {"result": {"a": [1]}}),
    ({1: "x"}, '{"1":"x"}', {"result": {"1": "x"}}),
    ([1, "x"], '[1,"x"]', {"result": [1, "x"]}),
    ((1, 2), "[1,2]", {"result": [1, 2]}),
    (Point(1), '{"x":1,"y":0}', {"result": {"x": 1, "y": 0}}),
    (Size(1, 2), '{"width":1,"height":2}', {"result": {"width": 1, "height": 2}}),
    (Color.RED, '"red"', {"result": "red"}),
    (datetime.date(2024, 1, 2), '"2024-01-02"', {"result": "2024-01-02"}),
    (2**70, str(2**70), {"result": 2**70}),
    ({"a": "\ud800"}, '{"a":"\ufffd"}', {"result": {"a": "\ufffd"}}),
    (AgentToolResult(content=[{"type": "text", "text": "own"}], details={"a": 1}), "own", {"a": 1}),
]


@pytest.mark.parametrize(("given", "text", "details"), RESULTS, ids=lambda value: ascii(value)[:40])
@pytest.mark.parametrize("is_async", [False, True])
async def test_results_of_all_kinds(given: Any, text: str, details: Any, is_async: bool) -> None:
    """Text is unchanged, other values are JSON with details, and a result is unchanged."""

    def sync() -> Any:
        return given

    async def later() -> Any:
        return given

    said, message = await run(tool(later if is_async else sync))
    assert (text, details, False) == (said, message["details"], message["is_error"])


@pytest.mark.parametrize(
    ("given", "is_error", "shown"),
    [
        (object(), True, "TypeError"),
        ({"a": object()}, True, "TypeError"),
        (lambda: None, True, "TypeError"),
        (float("nan"), False, "null"),
    ],
)
async def test_a_result_that_json_cannot_express(given: Any, is_error: bool, shown: str) -> None:
    """It is an error result; NaN is null."""

    @tool
    def function() -> Any:
        return given

    text, message = await run(function)
    assert (is_error, True) == (message["is_error"], shown in text)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (LookupError("mine"), "LookupError"),
        (SystemExit(1), "SystemExit"),
        (StopIteration("x"), "StopIteration"),
        (asyncio.CancelledError(), "cancelled"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_what_a_function_raises_is_an_error_result(
    error: BaseException, shown: str, is_async: bool
) -> None:
    """The result shows the error, from a thread and from the loop."""

    def sync() -> None:
        raise error

    async def later() -> None:
        raise error

    text, message = await run(tool(later if is_async else sync))
    assert (True, True) == (message["is_error"], shown in text)


async def test_a_sync_function_that_takes_too_long() -> None:
    """The call ends at its time-out, and the later end of the thread has no effect."""
    gate, ended = threading.Event(), threading.Event()

    @tool(timeout=0.01)
    def slow() -> str:
        gate.wait(60)
        ended.set()
        return "late"

    text, message = await run(slow)
    assert message["is_error"]
    assert "timed out" in text
    gate.set()
    assert await asyncio.to_thread(ended.wait, 60)
    await asyncio.sleep(0)


def test_a_thread_that_outlives_the_loop() -> None:
    """The late end and late updates of a thread are ignored, and nothing is raised in the thread."""
    gate, ended = threading.Event(), threading.Event()

    @tool(timeout=0.01)
    def slow(on_update: Any) -> str:
        gate.wait(60)
        on_update(AgentToolResult())
        ended.set()
        return "late"

    asyncio.run(run(slow))
    gate.set()
    assert ended.wait(60)
    for thread in threading.enumerate():
        if thread.name.startswith("tinyagent tool"):
            thread.join(60)


def test_the_repr_of_a_tool_is_stable() -> None:
    """It has no memory address."""

    @tool
    def function(a: int) -> None: ...

    assert "function=" not in repr(function)
    assert "'function'" in repr(function)


# ---- generators ----------------------------------------------------------------------------------------


async def steps(
    made: Any, *, abort: AbortSignal | None = None, after: int = 99
) -> tuple[list[str], str, bool]:
    """Return the texts of the updates and of the result, and whether it is an error."""
    seen: list[Any] = []

    def emit(event: Any) -> None:
        if event.type == "tool_execution_update":
            seen.append(event.partial_result.content[0]["text"])
            if len(seen) == after and abort is not None:
                abort.set()

    call = {"type": "tool_call", "id": "1", "name": made.name, "arguments": {"count": 3}}
    batch = ToolBatch(assistant(call), [made], emit, signal=abort)  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        await batch.run()
    (message,) = batch.results
    return seen, "".join(part.get("text", "") for part in message["content"]), message["is_error"]


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_generator_reports_each_item(is_async: bool) -> None:
    """Each item is an update when it is yielded, and the last one is the result."""

    async def later(count: int) -> AsyncIterator[int]:
        for n in range(count):
            yield n

    def now(count: int) -> Iterator[int]:
        yield from range(count)

    made = tool(later) if is_async else tool(now)
    assert (["0", "1", "2"], "2", False) == await steps(made)


async def test_a_generator_may_return_its_result() -> None:
    """The return value of a sync generator is the result, and all items are updates."""

    def function(count: int) -> Generator[str, None, AgentToolResult]:
        yield "half"
        return AgentToolResult(content=[{"type": "text", "text": "all"}])

    assert (["half"], "all", False) == await steps(tool(function))


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_generator_without_items_or_that_raises(is_async: bool) -> None:
    """Without items the result is empty; an exception is the result, after the items."""

    async def later(count: int) -> AsyncIterator[int]:
        if count > 3:
            yield 1

    def now(count: int) -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    if is_async:
        assert ([], "Done.", False) == await steps(tool(later))
    else:
        assert (["1"], "ValueError: no more", True) == await steps(tool(now))


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_generator_that_is_left_is_closed(is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an abort its `finally` runs, and no item follows."""
    monkeypatch.setattr(execution, "ABORT_GRACE_S", 0.05)
    closed = threading.Event()

    async def later(count: int) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0)
        finally:
            closed.set()

    def now(count: int) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    _, text, is_error = await steps(tool(later) if is_async else tool(now), abort=AbortSignal(), after=2)
    assert ("Operation aborted", True) == (text, is_error)
    assert await asyncio.to_thread(closed.wait, 10)


async def test_a_keyboard_interrupt_of_a_function_is_its_result() -> None:
    """In a thread it is not Ctrl-C, so it must not end the event loop."""

    @tool
    def stop() -> str:
        raise KeyboardInterrupt

    provider = ScriptedProvider(Reply(call("stop")), "Done.")
    agent = Agent(AgentOptions(stream_fn=provider, initial_state={"model": provider.model, "tools": [stop]}))
    assert "Done." == await agent.prompt_text("Stop")
    result: Any = agent.state["messages"][2]
    assert (True, "RuntimeError: the function raised KeyboardInterrupt") == (
        result["is_error"],
        result["content"][0]["text"],
    )


@pytest.mark.parametrize("hint", [Path, object, list[Path]])
def test_a_type_that_json_cannot_express_is_named(hint: Any) -> None:
    """The error shows the parameter, the type and the alternatives."""

    def function(a: int, b: Any) -> None: ...

    function.__annotations__["b"] = hint
    with pytest.raises(TypeError, match=r"parameter 'b' of the tool 'function' has the type .* Use str"):
        tool(function)


def test_a_default_that_json_cannot_express_is_named() -> None:
    """The error shows the parameter."""

    def function(a: int, b: int = object()) -> None: ...  # type: ignore[assignment]

    with pytest.raises(TypeError, match="parameter 'b' of the tool 'function' has the default"):
        tool(function)


async def test_run_until_aborted_cancels_the_work() -> None:
    """The work is cancelled and cleaned up before the tool fails with `Operation aborted`."""
    signal = AbortSignal()
    cleaned = []

    async def work() -> None:
        try:
            asyncio.get_running_loop().call_soon(signal.set)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    with pytest.raises(ToolError, match="Operation aborted"):
        await run_until_aborted(work(), signal)
    assert cleaned == [True]


@pytest.mark.parametrize("signal", [None, asyncio.Event(), AbortSignal()], ids=["none", "event", "signal"])
async def test_run_until_aborted_returns_the_result(signal: asyncio.Event | None) -> None:
    """Without an abort, it is the same as `await`."""

    async def work() -> int:
        await asyncio.sleep(0)
        return 1

    assert 1 == await run_until_aborted(work(), signal)


async def test_run_until_aborted_does_not_start_after_an_abort() -> None:
    """If the signal is set already, the work does not start, and its coroutine is closed."""
    signal = asyncio.Event()
    signal.set()
    started = []

    async def work() -> None:
        started.append(True)

    with pytest.raises(ToolError, match="Operation aborted"):
        await run_until_aborted(work(), signal)
    assert started == []


async def test_run_until_aborted_passes_a_cancellation_on() -> None:
    """A cancellation of the tool is raised as such."""
    task = asyncio.create_task(run_until_aborted(asyncio.Event().wait(), AbortSignal()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
