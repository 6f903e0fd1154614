"""`@tool`: a typed function becomes a tool.

    @tool
    def weather(city: str, days: int = 1) -> str:
        '''Say how the weather will be.'''
        return f"Sunny in {city} for {days} days."

The schema comes from the type hints and the docstring; the arguments arrive converted to the types.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, ParamSpec, Protocol, TypeVar, overload

import msgspec

from . import _json
from ._cancel import run_in_thread, run_until_aborted
from ._process import run_in_process, run_tool_in_process
from ._tool_arguments import arguments_schema, arguments_type
from ._tool_checks import as_json_numbers
from ._tool_schemas import ToolSchema, tool_schema
from .agent_types import AgentTool, AgentToolResult, AgentToolUpdateCallback, JsonDict, ToolExecute
from .errors import ConfigurationError, ToolArgumentsError, ToolError

if TYPE_CHECKING:  # few tools have a sandbox, and it takes a while to import
    from .sandbox import Policy
    from .tool_sandbox import ToolSandbox

__all__ = ["FunctionTool", "ToolSchema", "run_in_process", "run_until_aborted", "tool", "tool_schema"]

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


@dataclass
class FunctionTool(AgentTool, Generic[P, R]):
    """A tool made from a function. Calling it calls the function, without its sandbox.

    Attributes:
        function: The function.
        execute_here: Runs a call in this process.
        box: The sandbox in which `execute` runs a call; None for this process.
    """

    function: Callable[P, R] = field(kw_only=True, repr=False)
    execute_here: ToolExecute = field(kw_only=True, repr=False)
    box: ToolSandbox | None = field(default=None, kw_only=True, repr=False)

    def let_calls_leave_sandbox(self) -> None:
        """Let a call run outside the tool's sandbox if its argument `without_sandbox` is true.

        Use it only if such calls are approved one by one, as the command line does: see `CallSandbox.leaves`.
        A tool without a sandbox stays as it is.
        """
        if self.box is None or self.box.mode == "off":
            return
        from .tool_sandbox import OUTSIDE

        self.box.let_calls_leave()
        added = {
            "type": "boolean",
            "default": False,
            "description": "Run this call without the sandbox, after asking the user. Use it only if the "
            "call has failed because of the sandbox, and the task needs it.",
        }
        _add_argument(self, OUTSIDE, added)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself."""
        return self.function(*args, **kwargs)


def _add_argument(made: AgentTool, name: str, schema: JsonDict) -> None:
    """Add an argument to the schema: to a new object, because checked schemas are cached."""
    made.parameters = {**made.parameters, "properties": {**made.parameters["properties"], name: schema}}


class ToolDecorator(Protocol):
    """What `tool` returns if it is called with options."""

    def __call__(self, function: Callable[P, R], /) -> FunctionTool[P, R]:
        """Make a tool from a function."""
        ...


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    label: str | None = None,
    read_only: bool = False,
    timeout: float | None = None,
    sandbox: Policy | None = None,
) -> ToolDecorator: ...
def tool(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    label: str | None = None,
    read_only: bool = False,
    timeout: float | None = None,
    sandbox: Policy | None = None,
) -> FunctionTool[P, R] | ToolDecorator:
    """Make a tool from a typed function or generator, sync or async.

    A sync function runs in its own thread. It may return a str, a number, a dict, a list, any value that
    msgspec can encode, or an `AgentToolResult`. Each item of a generator is reported as an update, and the
    last item is also the result; a sync generator may return another result.

    A parameter is described by `Annotated[str, "a description"]`, or by the docstring in the style of Google,
    NumPy or Sphinx. Parameters named `tool_call_id`, `signal` and `on_update` get the arguments of
    `AgentTool.execute` and are not part of the schema.

    Args:
        function: The function, if the decorator is used without parentheses.
        name: The tool's name; the function's name if None.
        description: The description for the model; the docstring without its parameters if None.
        label: A name for people.
        read_only: Whether it changes nothing, so it needs no approval and may run in parallel.
        timeout: Seconds after which the call becomes an error result.
        sandbox: What a call may do. It then runs in a process of its own, which imports the function's module
            again, and in the sandbox that this machine has: see `tinyagent.sandbox`. The working directory is
            that of this process. None runs calls in this process, with all your permissions.

    Raises:
        TypeError: A parameter has no type hint, or one that JSON cannot express. Or a tool with a sandbox is
            not a function at the top level of a module.
    """

    def make(target: Callable[P, R]) -> FunctionTool[P, R]:
        if not hasattr(inspect.unwrap(target), "__globals__"):
            raise TypeError(f"A tool is made from a function or method, not from {target!r}.")
        from ._docstrings import read_docstring  # its patterns take a while to compile

        summary, described = read_docstring(inspect.getdoc(target) or "")
        arguments, passed = arguments_type(target, described)
        tool_name = name or target.__name__
        here = execute = _executor(tool_name, target, arguments, passed)
        box = None if sandbox is None else _new_box(target, tool_name, sandbox)
        if box is not None:
            execute = _confined(target, here, box)
        return FunctionTool(
            name=tool_name,
            description=summary if description is None else description,
            parameters=arguments_schema(arguments, tool_name),
            label=label or tool_name,
            execute=execute,
            read_only=read_only,
            timeout=timeout,
            sandbox=None if box is None else box.call,
            function=target,
            execute_here=here,
            box=box,
        )

    if function is not None:
        return make(function)
    return make  # type: ignore[return-value] # it is as generic as ToolDecorator, which mypy does not see


def _executor(
    name: str, function: Callable[..., object], arguments: type[msgspec.Struct], passed: list[str]
) -> ToolExecute:
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)

    async def execute(
        tool_call_id: str,
        args: JsonDict,
        signal: asyncio.Event | None,
        on_update: AgentToolUpdateCallback,
    ) -> AgentToolResult:
        context = {"tool_call_id": tool_call_id, "signal": signal, "on_update": on_update}
        try:
            converted = msgspec.convert(as_json_numbers(args), arguments, str_keys=True)
        except msgspec.ValidationError as error:
            raise ToolArgumentsError(f"The arguments of {name!r} do not fit: {error}.") from error
        values = {key: getattr(converted, key) for key in converted.__struct_fields__}
        values |= {key: context[key] for key in passed}
        returned = function(**values) if is_async else await _call_in_thread(function, values, on_update)
        if inspect.isawaitable(returned):
            returned = await returned
        if isinstance(returned, AsyncGenerator):
            return await _last_item(returned, on_update)
        return as_result(returned)

    return execute


def _new_box(function: Callable[..., object], name: str, policy: Policy) -> ToolSandbox:
    from .tool_sandbox import ToolSandbox

    if not inspect.isfunction(function) or "<" in function.__qualname__:
        raise TypeError(
            f"A tool with a sandbox is a function at the top level of a module, not {function!r}."
        )
    return ToolSandbox(name, policy)


def _confined(function: Callable[..., object], here: ToolExecute, box: ToolSandbox) -> ToolExecute:
    """Return what runs the calls of a tool in its sandbox, unless one leaves it."""
    from .tool_sandbox import OUTSIDE

    async def execute(
        tool_call_id: str,
        args: JsonDict,
        signal: asyncio.Event | None,
        on_update: AgentToolUpdateCallback,
    ) -> AgentToolResult:
        leaves = box.leaves(args)
        if box.can_leave:
            args = {name: value for name, value in args.items() if name != OUTSIDE}
        try:
            active = await asyncio.to_thread(box.is_active)
        except ConfigurationError as error:
            raise ToolError(str(error)) from None
        if leaves or not active:
            result = await here(tool_call_id, args, signal, on_update)
        else:
            try:
                ended = await run_tool_in_process(
                    function, tool_call_id, args, signal, lambda item: on_update(_as_tool_result(item)), box
                )
            except ToolError as error:
                note = box.failure_note(str(error))
                raise ToolError(f"{error}\n[{note}]" if note else str(error)) from error
            result = _as_tool_result(ended)
        if (note := box.first_note()) is not None:
            result.content.append({"type": "text", "text": f"[{note}]"})
        result.details["sandbox"] = box.details(outside=leaves and active)
        return result

    return execute


def _as_tool_result(value: object) -> AgentToolResult:
    from ._jsonl.decoder import decode_tool_result

    return decode_tool_result(msgspec.convert(value, JsonDict))


async def _last_item(
    items: AsyncGenerator[object, None], on_update: AgentToolUpdateCallback
) -> AgentToolResult:
    """Report each item as an update. Return the last one as the result."""
    result = as_result(None)
    async with contextlib.aclosing(items):
        async for item in items:
            result = as_result(item)
            on_update(result)
    return result


def _last_item_in_thread(
    items: Generator[object, None, object], on_update: AgentToolUpdateCallback, is_left: Callable[[], bool]
) -> AgentToolResult:
    """Like `_last_item`, but a return value of the generator is the result instead."""
    result = as_result(None)
    with contextlib.closing(items):
        while not is_left():  # stop after a time-out or an abort
            try:
                item = next(items)
            except StopIteration as stop:
                return result if stop.value is None else as_result(stop.value)
            result = as_result(item)
            on_update(result)
    return result


async def _call_in_thread(
    function: Callable[..., object], values: dict[str, object], on_update: AgentToolUpdateCallback
) -> object:
    """Call a sync function in a thread, and run its generator there if it is a generator function."""
    is_left = False

    def call() -> object:
        result = function(**values)
        if isinstance(result, Generator):
            return _last_item_in_thread(result, on_update, lambda: is_left)
        return result

    try:
        return await run_in_thread(call, f"tinyagent tool {function.__name__}")
    finally:
        is_left = True


def as_result(value: object) -> AgentToolResult:
    """Convert a return value to a result: text unchanged, everything else as JSON."""
    if isinstance(value, AgentToolResult):
        return value
    if isinstance(value, str):
        return AgentToolResult(content=[{"type": "text", "text": value}])
    if value is None:
        return AgentToolResult(content=[{"type": "text", "text": "Done."}])
    text = _json.encode(value).decode()
    # Decoded again, so that the details equal those of a recorded run.
    return AgentToolResult(content=[{"type": "text", "text": text}], details={"result": _json.decode(text)})
