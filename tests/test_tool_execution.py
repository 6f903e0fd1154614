"""Tool calls: whatever a tool, a hook or a model does, each call has one result."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from typing import Any

import pytest

import tinyagent.agent_tool_execution as execution
from tinyagent import (
    Agent,
    AgentContext,
    AgentLoopConfig,
    AgentOptions,
    AgentTool,
    AgentToolResult,
    ToolCallDecision,
    ToolCallInfo,
    agent_loop,
    create_agent_stream,
    execute_tool_calls,
    skip_tool_call,
    validate_tool_arguments,
)
from tinyagent._cancel import ABORTED, AbortSignal
from tinyagent.agent_tool_execution import MAX_CALLS, SKIPPED, ToolBatch
from tinyagent.agent_types import (
    AgentEndEvent,
    AgentStartEvent,
    MessageEndEvent,
    MessageStartEvent,
    TurnEndEvent,
    TurnStartEvent,
)
from tinyagent.errors import ToolArgumentsError, ToolError
from tinyagent.testing import assistant, check_grammar, collect, user

ADD = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "string"}}},
    "required": ["a"],
    "additionalProperties": False,
}


def result(text: str = "ok", **fields: Any) -> AgentToolResult:
    return AgentToolResult(content=[{"type": "text", "text": text}], **fields)


def make(execute: Any = None, name: str = "t", **fields: Any) -> AgentTool:
    """Return a tool that runs `execute` or answers `ok`."""

    async def answer(*_: Any) -> AgentToolResult:
        return result()

    return AgentTool(name=name, execute=answer if execute is None else execute, **fields)


def block(call_id: str = "1", name: str = "t", arguments: Any = None, **fields: Any) -> Any:
    given = {} if arguments is None else arguments
    return {"type": "tool_call", "id": call_id, "name": name, "arguments": given, **fields}


def calls(*blocks: Any) -> Any:
    return assistant(*blocks, stop_reason="tool_use")


class Batch:
    """Runs a batch, and checks its events as one turn of a run."""

    def __init__(self, blocks: Any, tools: Any, *, emit: Any = None, **options: Any) -> None:
        self.events: list[Any] = []
        self.message = calls(*blocks)
        self.also = emit
        self.batch = ToolBatch(self.message, tools, self.emit, **options)

    def emit(self, event: Any) -> Any:
        self.events.append(event)
        return self.also(event) if self.also is not None else None

    def check(self) -> None:
        prompt: Any = user("x")
        empty: Any = {**self.message, "content": []}
        check_grammar(
            [
                AgentStartEvent(),
                TurnStartEvent(),
                MessageStartEvent(message=prompt),
                MessageEndEvent(message=prompt),
                MessageStartEvent(message=empty),
                MessageEndEvent(message=self.message),
                *self.events,
                TurnEndEvent(message=self.message, tool_results=self.batch.results),
                AgentEndEvent(messages=[prompt, self.message, *self.batch.results]),
            ]
        )

    async def run(self, refuse: str | None = None) -> list[Any]:
        """Return the result messages."""
        async with asyncio.timeout(60):
            await self.batch.run(refuse)
        self.check()
        return self.batch.results


def text_of(message: Any) -> str:
    return "".join(part.get("text", "") for part in message["content"])


async def one(tool: Any, arguments: Any = None, **options: Any) -> tuple[str, bool]:
    """Return the text of the result of one call, and whether it is an error."""
    tools = [] if tool is None else [tool]
    name = "t" if tool is None else tool.name
    (message,) = await Batch([block(name=name, arguments=arguments)], tools, **options).run()
    return text_of(message), message["is_error"]


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the grace period of tools."""
    monkeypatch.setattr(execution, "ABORT_GRACE_S", 0.02)


# ---- validation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "path", "rule"),
    [
        ({}, "$", "required"),
        ({"a": "1"}, "$.a", "type"),
        ({"a": 1.5}, "$.a", "type"),
        ({"a": None}, "$.a", "type"),
        ({"a": 1, "b": ["x", 2]}, "$.b[1]", "items"),
        ({"a": 1, "c": 1}, "$", "additionalProperties"),
    ],
)
async def test_a_violation_names_the_path_and_the_rule(arguments: Any, path: str, rule: str) -> None:
    """The text lets the model correct the call; the public function raises the same text."""
    tool = make(parameters=ADD)
    with pytest.raises(ToolArgumentsError) as caught:
        validate_tool_arguments(tool, block(arguments=arguments))
    assert isinstance(caught.value, ToolError)
    assert isinstance(caught.value, ValueError)
    text, is_error = await one(tool, arguments)
    assert (str(caught.value), True) == (text, is_error)
    assert f"at {path}:" in text
    assert rule in text
    assert "'t'" in text


async def test_several_violations_are_named_at_once() -> None:
    """Several violations are in one text, so that one correction is enough."""
    text, _ = await one(make(parameters=ADD), {"a": "1", "b": [1], "c": 2})
    assert {"type", "items", "additionalProperties"} <= {rule for rule in ADD | {"items": 0} if rule in text}
    assert text.count("(rule:") == 3


async def test_a_violation_is_truncated() -> None:
    """A huge value is not repeated completely."""
    text, is_error = await one(make(parameters=ADD), {"a": "x" * 1_000_000})
    assert is_error
    assert len(text) < 2000


def test_valid_arguments_are_a_copy() -> None:
    """Changes by a tool do not affect the message."""
    call = block(arguments={"a": 1, "b": ["x"]})
    arguments = validate_tool_arguments(make(parameters=ADD), call)
    assert call["arguments"] == arguments
    arguments["b"].append("y")
    assert ["x"] == call["arguments"]["b"]


@pytest.mark.parametrize("arguments", [10**30, 2**63, -(2**70), 1.0])
def test_integers_of_any_size_are_integers(arguments: Any) -> None:
    """As in JSON Schema, 1.0 is an integer."""
    valid = validate_tool_arguments(make(parameters=ADD), block(arguments={"a": arguments}))
    assert {"a": arguments} == valid


@pytest.mark.parametrize("arguments", [None, [], "text", 5, '{"a": 1}', False])
async def test_arguments_that_are_no_object_are_an_error(arguments: Any) -> None:
    """They never become an empty call."""
    call = {**block(), "arguments": arguments}
    (message,) = await Batch([call], [make()]).run()
    assert message["is_error"]
    assert "not a JSON object" in text_of(message)


async def test_arguments_whose_text_is_no_object_are_an_error() -> None:
    """A finished call with `partial_json` does not run."""
    for raw in ('{"a": ', "[1]", "null", "nonsense"):
        (message,) = await Batch([block(partial_json=raw)], [make()]).run()
        assert message["is_error"]
        assert "not a JSON object" in text_of(message)
        assert raw in text_of(message)


@pytest.mark.parametrize("parameters", [{}, None, {"type": "object"}, {"type": "object", "properties": {}}])
async def test_a_tool_without_rules_takes_any_object(parameters: Any) -> None:
    """An empty schema accepts every object."""
    assert ("ok", False) == await one(make(parameters=parameters), {"anything": [1]})


async def test_the_current_draft_is_the_default() -> None:
    """`prefixItems` of draft 2020-12 and its form in draft 7 are enforced."""
    current = {"properties": {"a": {"prefixItems": [{"type": "integer"}]}}}
    assert (await one(make(parameters=current), {"a": ["x"]}))[1]
    older = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "properties": {"a": {"items": [{"type": "integer"}]}},
    }
    assert (await one(make(parameters=older), {"a": ["x"]}))[1]


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "wrong"},
        {"type": 5},
        {"properties": [5]},
        {"$ref": "#/nowhere"},
        {"pattern": "("},
        {"x": object()},
    ],
)
async def test_a_broken_schema_refuses_the_call(parameters: Any) -> None:
    """A tool with an invalid schema never runs unchecked."""
    text, is_error = await one(make(parameters=parameters), {"a": 1})
    assert is_error
    assert "schema of 't' cannot be used" in text


@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1:{port}/x.json", "http://localhost:{port}/x.json", "file:///etc/hostname"]
)
async def test_a_remote_reference_is_never_fetched(reference: str) -> None:
    """A schema cannot cause a request."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        url = reference.format(port=server.getsockname()[1])
        for parameters in ({"$ref": url}, {"properties": {"a": {"$ref": url}}}):
            text, is_error = await one(make(parameters=parameters), {"a": 1})
            assert is_error
            assert "schema of 't' cannot be used" in text
        with pytest.raises(BlockingIOError):
            server.accept()


async def test_deep_arguments_do_not_crash() -> None:
    """Nesting beyond Python's limit is an error result."""
    deep: Any = {}
    for _ in range(sys.getrecursionlimit()):
        deep = {"a": deep}
    batch = Batch([], [make()])
    batch.message["content"].append(block(arguments=deep))
    whole = ToolBatch(batch.message, [make()], batch.emit)
    await whole.run()
    assert "nested too deep" in text_of(whole.results[0])


# ---- errors of tools ----------------------------------------------------------------------------------


async def test_an_unknown_tool_is_an_error_with_the_known_ones() -> None:
    """The message lists the available tools."""
    (message,) = await Batch([block(name="nope")], [make(name="b"), make(name="a")]).run()
    assert message["is_error"]
    assert "'nope'" in text_of(message)
    assert "a, b" in text_of(message)
    assert "none" in (await one(None))[0]


async def test_a_tool_without_execute() -> None:
    """A call of it has an error result."""
    text, is_error = await one(AgentTool(name="t"))
    assert is_error
    assert "no execute" in text


class BoomError(Exception):
    pass


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise BoomError("no words")


RAISED = {
    SpeechlessError(): "SpeechlessError",
    BoomError("mine"): "BoomError: mine",
    BoomError(): "BoomError",
    ToolError("plain words"): "plain words",
    SystemExit(3): "SystemExit: 3",
    GeneratorExit(): "GeneratorExit",
    TimeoutError("its own"): "TimeoutError: its own",
    StopIteration(): "StopIteration",
    BaseExceptionGroup("group", [SystemExit(1)]): "group",
    asyncio.CancelledError(): "was cancelled",
    asyncio.InvalidStateError("x"): "InvalidStateError: x",
}


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("is_async", [False, True])
async def test_whatever_a_tool_raises_is_its_result(error: BaseException, is_async: bool) -> None:
    """An exception, `sys.exit()` and CancelledError are error results, and the next call runs."""

    async def later(*_: Any) -> Any:
        await asyncio.sleep(0)
        raise error

    def sync(*_: Any) -> Any:
        raise error

    tools = [make(later if is_async else sync), make(name="next")]
    first, second = await Batch([block("1"), block("2", "next")], tools).run()
    assert first["is_error"]
    expected = "StopIteration" if isinstance(error, StopIteration) else RAISED[error]
    assert expected in text_of(first)
    assert ("ok", False) == (text_of(second), second["is_error"])


async def test_a_tool_whose_own_task_is_cancelled() -> None:
    """If something that a tool awaits was cancelled, the tool has failed, and the run continues."""

    async def execute(*_: Any) -> Any:
        task = asyncio.create_task(asyncio.sleep(600))
        task.cancel()
        await task

    assert ("The tool 't' was cancelled from inside.", True) == await one(make(execute))


WRONG: list[Any] = [
    None,
    "text",
    {"content": []},
    AgentToolResult(content=None),  # type: ignore[arg-type]
    AgentToolResult(content="text"),  # type: ignore[arg-type]
    AgentToolResult(content=["text"]),  # type: ignore[list-item]
    AgentToolResult(content=[{"type": "audio"}]),  # type: ignore[list-item]
    AgentToolResult(content=[{"type": "text"}]),  # type: ignore[typeddict-item]
    AgentToolResult(content=[{"type": "text", "text": 5}]),  # type: ignore[typeddict-item]
    AgentToolResult(content=[{"type": "image"}]),  # type: ignore[typeddict-item]
    AgentToolResult(details=None),  # type: ignore[arg-type]
    AgentToolResult(details={"lock": threading.Lock()}),
]


@pytest.mark.parametrize("given", WRONG, ids=range(len(WRONG)))
async def test_a_wrong_return_type_is_an_error_result(given: Any) -> None:
    """The message explains the tool's mistake."""

    async def execute(*_: Any) -> Any:
        return given

    text, is_error = await one(make(execute))
    assert is_error
    assert "TypeError" in text


async def test_a_tool_may_be_sync() -> None:
    """An `execute` that returns the result without await works, too."""
    assert ("ok", False) == await one(make(lambda *_: result()))


async def test_execute_gets_its_four_arguments() -> None:
    """It gets the id, a copy of the arguments, the run's signal and a callback."""
    signal, seen = AbortSignal(), []

    async def execute(*args: Any) -> Any:
        seen.extend(args)
        args[1]["a"].append(2)
        return result()

    call = block("id-1", arguments={"a": [1]})
    await Batch([call], [make(execute)], signal=signal).run()
    assert "id-1" == seen[0]
    assert signal is seen[2]
    assert callable(seen[3])
    assert {"a": [1]} == call["arguments"]


async def test_a_result_is_a_copy() -> None:
    """Later changes by the tool affect neither events nor messages."""
    given = result("before", details={"list": [1]})

    async def execute(*_: Any) -> Any:
        return given

    batch = Batch([block()], [make(execute)], after=lambda *_: ToolCallDecision(terminate=True))
    (message,) = await batch.run()
    given.content[0]["text"] = "after"  # type: ignore[typeddict-unknown-key]
    given.details["list"].append(2)
    assert ("before", {"list": [1]}) == (text_of(message), message["details"])
    assert not given.terminate


async def test_images_and_details_go_through() -> None:
    """The model gets the content, and programs get the details."""
    image: Any = {"type": "image", "url": "data:image/png;base64,AA==", "mime_type": "image/png"}

    async def execute(*_: Any) -> Any:
        return AgentToolResult(content=[image], details={"a": 1})

    (message,) = await Batch([block()], [make(execute)]).run()
    assert ([image], {"a": 1}, False) == (message["content"], message["details"], message["is_error"])
    assert message["timestamp"] > 1_600_000_000_000


# ---- time-outs ---------------------------------------------------------------------------------------


async def test_a_tool_that_takes_too_long() -> None:
    """It is cancelled, and the result shows the limit; the next call runs."""
    ended = []

    async def execute(*_: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    tools = [make(execute, timeout=0.01), make(name="next")]
    first, second = await Batch([block("1"), block("2", "next")], tools).run()
    assert (True, "The tool 't' timed out after 0.01 s.") == (first["is_error"], text_of(first))
    assert [True] == ended
    assert not second["is_error"]


async def test_a_tool_that_cleans_up_in_time() -> None:
    """A result that a tool returns at its time-out is used."""

    async def execute(*_: Any) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return result("partly")

    assert "partly" == (await one(make(execute, timeout=0.01)))[0]


# ---- updates -----------------------------------------------------------------------------------------


async def test_updates_are_events_of_their_call() -> None:
    """They are between start and end, in order, and unchanged later."""
    partial = result("0")

    async def execute(call_id: str, args: Any, signal: Any, on_update: Any) -> Any:
        for number in range(3):
            partial.content[0]["text"] = str(number)  # type: ignore[typeddict-unknown-key]
            on_update(partial)
            await asyncio.sleep(0)
        return result()

    batch = Batch([block(arguments={"x": 1})], [make(execute)])
    await batch.run()
    updates = [event for event in batch.events if event.type == "tool_execution_update"]
    assert ["0", "1", "2"] == [text_of({"content": event.partial_result.content}) for event in updates]
    assert {("1", "t")} == {(event.tool_call_id, event.tool_name) for event in updates}
    assert {"x": 1} == updates[0].args


async def test_updates_from_threads() -> None:
    """Updates from any thread arrive before the end."""

    async def execute(call_id: str, args: Any, signal: Any, on_update: Any) -> Any:
        def work(number: int) -> None:
            on_update(result(str(number)))

        await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(20)))
        return result()

    batch = Batch([block()], [make(execute)])
    await batch.run()
    updates = [event for event in batch.events if event.type == "tool_execution_update"]
    assert {str(number) for number in range(20)} == {
        text_of({"content": event.partial_result.content}) for event in updates
    }


async def test_updates_after_the_end_are_ignored() -> None:
    """An update callback has no effect after the end of its call, from its thread or from the loop."""
    kept: list[Any] = []

    async def execute(call_id: str, args: Any, signal: Any, on_update: Any) -> Any:
        kept.append(on_update)
        return result()

    batch = Batch([block()], [make(execute)])
    await batch.run()
    count = len(batch.events)
    kept[0](result("late"))
    await asyncio.to_thread(kept[0], result("later"))
    await asyncio.sleep(0)
    assert count == len(batch.events)


async def test_an_update_from_a_thread_that_comes_too_late() -> None:
    """An update that arrives after the end is not in the next turn."""

    async def execute(call_id: str, args: Any, signal: Any, on_update: Any) -> Any:
        thread = threading.Thread(target=on_update, args=(result("late"),))
        thread.start()
        thread.join()  # it is on its way to the loop now
        return result()

    batch = Batch([block()], [make(execute)])
    await batch.run()
    count = len(batch.events)
    await asyncio.sleep(0)
    assert count == len(batch.events)


async def test_an_update_of_the_wrong_type_is_the_tools_error() -> None:
    """The callback raises."""

    async def execute(call_id: str, args: Any, signal: Any, on_update: Any) -> Any:
        on_update("half")

    text, is_error = await one(make(execute))
    assert is_error
    assert "TypeError" in text


async def test_listeners_of_updates_are_waited_for_before_the_end() -> None:
    """A slow sink gets every update before the end."""
    seen = []

    def emit(event: Any) -> Any:
        async def take() -> None:
            await asyncio.sleep(0)
            seen.append(event)

        return take()

    async def execute(call_id: str, args: Any, signal: Any, on_update: Any) -> Any:
        on_update(result("1"))
        on_update(result("2"))
        return result()

    batch = Batch([block()], [make(execute)], emit=emit)
    await batch.run()
    assert batch.events == seen


# ---- order -------------------------------------------------------------------------------------------


class Gated:
    """Tools that end when the test releases them."""

    def __init__(self, *names: str, read_only: bool = True) -> None:
        self.gates = {name: asyncio.Event() for name in names}
        self.began: list[str] = []
        self.tools = [make(self.execute, read_only=read_only)]
        self.blocks = [block(name) for name in names]

    async def execute(self, call_id: str, *_: Any) -> Any:
        self.began.append(call_id)
        await self.gates[call_id].wait()
        return result(call_id)


@pytest.mark.parametrize("mode", ["auto", "parallel"])
async def test_results_keep_the_order_of_the_calls(mode: Any) -> None:
    """Ends are in the order of completion; results are in the order of the calls."""
    gated = Gated("a", "b", "c")
    batch = Batch(gated.blocks, gated.tools, mode=mode)
    running = asyncio.create_task(batch.run())

    async def release(name: str) -> list[str]:
        gated.gates[name].set()
        for _ in range(10):
            await asyncio.sleep(0)
        return [
            f"{event.type}:{getattr(event, 'tool_call_id', '') or event.message['tool_call_id']}"
            for event in batch.events
            if event.type in ("tool_execution_end", "message_end")
        ]

    assert ["tool_execution_end:c"] == await release("c")
    assert ["tool_execution_end:c", "tool_execution_end:a", "message_end:a"] == await release("a")
    assert ["a", "b", "c"] == gated.began
    await release("b")
    assert ["a", "b", "c"] == [text_of(message) for message in await running]


@pytest.mark.parametrize(("mode", "read_only"), [("sequential", True), ("auto", False)])
async def test_one_after_the_other(mode: Any, read_only: bool) -> None:
    """A sequential call starts when the previous one has its result."""
    gated = Gated("a", "b", read_only=read_only)
    batch = Batch(gated.blocks, gated.tools, mode=mode)
    running = asyncio.create_task(batch.run())
    for _ in range(10):
        await asyncio.sleep(0)
    assert ["a"] == gated.began
    gated.gates["b"].set()
    gated.gates["a"].set()
    assert ["a", "b"] == [text_of(message) for message in await running]
    assert ["a", "b"] == gated.began


async def test_auto_is_sequential_if_one_tool_may_change_something() -> None:
    """One tool that is not `read_only` is enough; `parallel` overrides it."""
    for mode, expected in (("auto", ["a"]), ("parallel", ["a", "b"])):
        gated = Gated("a", "b")
        gated.tools.append(make(gated.execute, name="write"))
        gated.blocks[1]["name"] = "write"
        batch = Batch(gated.blocks, gated.tools, mode=mode)
        running = asyncio.create_task(batch.run())
        for _ in range(10):
            await asyncio.sleep(0)
        assert expected == gated.began
        for gate in gated.gates.values():
            gate.set()
        await running


async def test_too_many_calls_are_refused() -> None:
    """Calls beyond the limit of a reply get an error result."""
    batch = Batch([block(str(number)) for number in range(MAX_CALLS + 2)], [make(read_only=True)])
    messages = await batch.run()
    assert [False] * MAX_CALLS + [True] * 2 == [message["is_error"] for message in messages]
    assert str(MAX_CALLS) in text_of(messages[-1])


async def test_refusing_a_batch_runs_nothing() -> None:
    """Each call has the reason as its error."""
    ran: list[Any] = []
    batch = Batch([block("1"), block("2")], [make(ran.append)])
    messages = await batch.run("no")
    assert [("no", True)] * 2 == [(text_of(message), message["is_error"]) for message in messages]
    assert [] == ran


# ---- hooks -------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def either(request: pytest.FixtureRequest) -> Any:
    """Run a test with sync and async hooks."""

    def wrap(hook: Any) -> Any:
        if not request.param:
            return hook

        async def later(*args: Any) -> Any:
            await asyncio.sleep(0)
            return hook(*args)

        return later

    return wrap


async def test_before_sees_the_call_after_validation(either: Any) -> None:
    """The hook gets valid calls only."""
    seen: list[ToolCallInfo] = []
    tool = make(parameters=ADD)
    context: Any = object()
    batch = Batch(
        [block("1", arguments={"a": 1}), block("2")], [tool], before=either(seen.append), context=context
    )
    await batch.run()
    (info,) = seen
    assert (tool, "1", {"a": 1}, batch.message, context) == (
        info.tool,
        info.tool_call_id,
        info.arguments,
        info.assistant_message,
        info.context,
    )


async def test_before_may_block(either: Any) -> None:
    """A hook can refuse a call with a reason, which the model gets; the tool is not run."""
    ran: list[Any] = []
    hook = either(lambda info: ToolCallDecision(block="not on Sundays"))
    assert ("not on Sundays", True) == await one(make(ran.append), before=hook)
    assert ("This call was refused.", True) == await one(
        make(ran.append), before=lambda info: ToolCallDecision(block="")
    )
    assert [] == ran


async def test_before_may_change_the_arguments(either: Any) -> None:
    """Changed arguments are validated, and the message does not change."""
    seen = []

    async def execute(call_id: str, args: Any, *_: Any) -> Any:
        seen.append(args)
        return result()

    tool = make(execute, parameters=ADD)
    for arguments in ({"a": 2}, {"a": "wrong"}):
        batch = Batch(
            [block(arguments={"a": 1})],
            [tool],
            before=either(lambda info, arguments=arguments: ToolCallDecision(arguments=arguments)),
        )
        (message,) = await batch.run()
        assert {"a": 1} == batch.events[0].args
    assert [{"a": 2}] == seen
    assert message["is_error"]


async def test_arguments_changed_in_place_are_validated_too(either: Any) -> None:
    """A hook that changes the arguments in place cannot pass arguments that the schema forbids."""
    seen = []

    async def execute(call_id: str, args: Any, *_: Any) -> Any:
        seen.append(args)
        return result()

    for value in (2, "wrong"):
        hook = either(lambda info, value=value: info.arguments.update(a=value))
        await Batch([block(arguments={"a": 1})], [make(execute, parameters=ADD)], before=hook).run()
    assert [{"a": 2}] == seen


async def test_hooks_are_called_one_at_a_time() -> None:
    """In a parallel batch, a hook that asks a user has one question at a time."""
    asking = 0

    async def ask(info: Any) -> None:
        nonlocal asking
        asking += 1
        assert 1 == asking
        await asyncio.sleep(0)
        asking -= 1

    batch = Batch([block(str(n)) for n in range(5)], [make(read_only=True)], before=ask, mode="parallel")
    assert [False] * 5 == [message["is_error"] for message in await batch.run()]


async def test_a_call_that_ends_while_a_hook_asks_is_reported_at_once() -> None:
    """Waiting hooks do not delay the end of other calls."""
    ended = asyncio.Event()

    def emit(event: Any) -> None:
        if event.type == "tool_execution_end":
            ended.set()

    async def ask(info: ToolCallInfo) -> None:
        if info.tool_call_id == "2":
            await ended.wait()

    batch = Batch([block("1"), block("2")], [make(read_only=True)], before=ask, emit=emit)
    assert [False, False] == [message["is_error"] for message in await batch.run()]


@pytest.mark.parametrize("how", ["abort", "cancel"])
async def test_ending_a_batch_while_a_hook_asks(how: str, short_grace: None) -> None:
    """A running call, a call that waits for its hook and a call that has not started all get a result."""
    signal, asking = AbortSignal(), asyncio.Event()

    async def execute(*_: Any) -> Any:
        await asyncio.Event().wait()

    async def ask(info: ToolCallInfo) -> None:
        if info.tool_call_id == "2":
            asking.set()
            await asyncio.Event().wait()

    before = asyncio.all_tasks()
    batch = Batch(
        [block(str(n)) for n in (1, 2, 3)], [make(execute, read_only=True)], before=ask, signal=signal
    )
    task = asyncio.create_task(batch.run())
    await asking.wait()
    if how == "abort":
        signal.set()
        await task
        assert [ABORTED] * 3 == [text_of(message) for message in batch.batch.results]
    else:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        batch.check()
        assert 3 == len(batch.batch.results)
    assert before == asyncio.all_tasks()


async def test_after_may_replace_the_result(either: Any) -> None:
    """A result, or a decision with `is_error` and a reason, replaces it; None does not."""
    tool = make(lambda *_: result("secret", details={"a": 1}))
    for answer, expected in (
        (None, ("secret", False)),
        (result("***"), ("***", False)),
        (ToolCallDecision(is_error=True), ("secret", True)),
        (ToolCallDecision(block="hidden"), ("hidden", True)),
        (ToolCallDecision(), ("secret", False)),
    ):
        assert expected == await one(tool, after=either(lambda *_, answer=answer: answer))


async def test_after_may_change_content_and_is_error_together() -> None:
    """One decision can change content, details and `is_error`."""

    def censor(info: Any, given: Any, is_error: bool) -> ToolCallDecision:
        content: Any = [{"type": "text", "text": "changed"}]
        return ToolCallDecision(content=content, is_error=not is_error)

    for execute, expected in ((None, True), (fail, False)):
        (message,) = await Batch([block()], [make(execute)], after=censor).run()
        assert ("changed", expected) == (text_of(message), message["is_error"])
        assert {} == message["details"]

    def annotate(info: Any, given: Any, is_error: bool) -> ToolCallDecision:
        return ToolCallDecision(details={"seen": True})

    (message,) = await Batch([block()], [make()], after=annotate).run()
    assert ("ok", {"seen": True}, False) == (text_of(message), message["details"], message["is_error"])


async def test_malformed_content_of_a_decision_withholds_the_result() -> None:
    """Malformed content never reaches the model."""

    def censor(info: Any, given: Any, is_error: bool) -> ToolCallDecision:
        return ToolCallDecision(content="text")  # type: ignore[arg-type]

    (message,) = await Batch([block()], [make()], after=censor).run()
    assert message["is_error"]
    assert text_of(message).startswith("The result was withheld: after_tool_call failed with TypeError")


async def fail(*_: Any) -> Any:
    raise ValueError("no")


async def test_arguments_are_validated_again_only_if_a_hook_changed_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tool gets its own copy in any case."""
    validated = []
    validate = execution.validate_tool_arguments

    def count(tool: Any, call: Any) -> Any:
        validated.append(call["arguments"])
        return validate(tool, call)

    monkeypatch.setattr(execution, "validate_tool_arguments", count)
    held: list[Any] = []
    given: list[Any] = []

    async def execute(call_id: str, args: Any, *_: Any) -> AgentToolResult:
        held[0]["a"] = "changed too late"
        given.append(args)
        return result()

    def look(info: ToolCallInfo) -> None:
        held[:] = [info.arguments]

    tool = make(execute, parameters=ADD)
    await Batch([block(arguments={"a": 1.0})], [tool], before=look).run()
    assert (1, [{"a": 1}]) == (len(validated), given)

    def change(info: ToolCallInfo) -> None:
        look(info)
        info.arguments["a"] = True  # equal to 1 in Python, and no integer in JSON

    (message,) = await Batch([block(arguments={"a": 1})], [tool], before=change).run()
    assert (3, True) == (len(validated), message["is_error"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"a": 1.0}, {"a": 1}),
        ({"a": 1, "b": []}, {"a": 1, "b": []}),
        ({"a": [{"b": -0.0}, 1.5, True, None, "1.0"]}, {"a": [{"b": 0}, 1.5, True, None, "1.0"]}),
        ({"a": 1e20}, {"a": 10**20}),
    ],
)
def test_a_number_without_a_fraction_is_an_integer(given: Any, expected: Any) -> None:
    """Models send 5.0 for 5: the tool gets an int, at any depth."""
    arguments = validate_tool_arguments(make(parameters={}), block(arguments=given))
    assert repr(expected) == repr(arguments)


TOOLS_REFUSED: list[tuple[Any, type[Exception], str]] = [
    ([len], TypeError, "is not a tool"),
    (["t"], TypeError, "is not a tool"),
    ([make(), make()], ValueError, "Two tools have the name 't'"),
    ([make(name="")], ValueError, "no name"),
    ([make(name=None)], ValueError, "no name"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("tools", "error", "words"), TOOLS_REFUSED, ids=range(len(TOOLS_REFUSED)))
def test_invalid_tools_are_refused(tools: Any, error: type[Exception], words: str) -> None:
    """They are refused in the options, in `set_tools` and in the loop's context."""
    with pytest.raises(error, match=words):
        Agent().set_tools(tools)
    with pytest.raises(error, match=words):
        Agent(AgentOptions(initial_state={"tools": tools}))
    with pytest.raises(error, match=words):
        agent_loop([user("x")], AgentContext(tools=tools), AgentLoopConfig(model=None, convert_to_llm=list))


async def test_after_may_forgive_an_error(either: Any) -> None:
    """The hook gets failures, too, and may clear `is_error`."""
    seen = []

    def after(info: Any, given: Any, is_error: bool) -> Any:
        seen.append((text_of({"content": given.content}), is_error))
        return ToolCallDecision(is_error=False)

    def execute(*_: Any) -> Any:
        raise BoomError("mine")

    assert ("BoomError: mine", False) == await one(make(execute), after=either(after))
    assert [("BoomError: mine", True)] == seen


async def test_after_is_called_for_executed_calls_only() -> None:
    """Unknown tools, wrong arguments and blocked calls are skipped."""
    seen: list[Any] = []
    blocks = [block("1", "nope"), block("2"), block("3", arguments={"a": 1})]
    batch = Batch(
        blocks,
        [make(parameters=ADD)],
        before=lambda info: ToolCallDecision(block="no"),
        after=lambda *args: seen.append(args),
    )
    await batch.run()
    assert [] == seen


async def test_terminate_ends_the_batch() -> None:
    """It can come from a tool's result or from either hook."""
    decision = ToolCallDecision(terminate=True)
    for options in (
        {"tools": [make(lambda *_: result(terminate=True))]},
        {"tools": [make()], "before": lambda info: decision},
        {"tools": [make()], "after": lambda *_: decision},
        {"tools": [make()], "before": lambda info: ToolCallDecision(block="no", terminate=True)},
    ):
        batch = Batch([block()], **options)  # type: ignore[arg-type]
        await batch.run()
        assert batch.batch.terminate
        assert batch.events[1].result.terminate


# ---- abort and cancellation --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
async def test_an_abort_ends_running_tools(mode: Any, short_grace: None) -> None:
    """Tools see the signal and are then cancelled; calls that have not started get `Operation aborted`."""
    signal, ended = AbortSignal(), []

    async def execute(call_id: str, args: Any, given: Any, on_update: Any) -> Any:
        asyncio.get_running_loop().call_soon(signal.set)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(call_id)

    batch = Batch([block(str(n)) for n in range(3)], [make(execute)], signal=signal, mode=mode)
    messages = await batch.run()
    assert [ABORTED] * 3 == [text_of(message) for message in messages]
    assert (["0", "1", "2"] if mode == "parallel" else ["0"]) == sorted(ended)


async def test_an_abort_does_not_wait_for_a_tool_that_will_not_end(short_grace: None) -> None:
    """A tool that swallows its cancellation is abandoned, and its updates are ignored."""
    signal, free, late = AbortSignal(), asyncio.Event(), []

    async def execute(call_id: str, args: Any, given: Any, on_update: Any) -> Any:
        signal.set()
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                pass
        on_update(result("late"))
        late.append(True)
        return result("late")

    batch = Batch([block()], [make(execute)], signal=signal)
    (message,) = await batch.run()
    assert ABORTED == text_of(message)
    count = len(batch.events)
    free.set()
    while not late:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert count == len(batch.events)
    assert ABORTED == text_of(message)


async def test_an_abort_while_the_censor_works_withholds_the_result(short_grace: None) -> None:
    """A result is shown only after `after_tool_call` has passed it."""
    signal = AbortSignal()

    async def after(*_: Any) -> None:
        signal.set()
        await asyncio.Event().wait()

    (message,) = await Batch([block()], [make(lambda *_: result("secret"))], signal=signal, after=after).run()
    assert message["is_error"]
    assert "secret" not in str(message)


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
async def test_a_cancelled_batch_closes_every_call(mode: Any, short_grace: None) -> None:
    """Active calls end, other calls are refused, and no tool is left running."""
    began = asyncio.Event()

    async def execute(*_: Any) -> Any:
        began.set()
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    batch = Batch([block(str(n)) for n in range(3)], [make(execute)], mode=mode)
    task = asyncio.create_task(batch.run())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    batch.check()
    assert 3 == len(batch.batch.results)
    assert all(message["is_error"] for message in batch.batch.results)
    assert before == asyncio.all_tasks()


async def test_cancelling_while_a_listener_takes_updates(short_grace: None) -> None:
    """Pending updates end with the batch."""
    reached = asyncio.Event()

    def emit(event: Any) -> Any:
        if event.type != "tool_execution_update":
            return None

        async def take() -> None:
            reached.set()
            await asyncio.Event().wait()

        return take()

    async def execute(call_id: str, args: Any, signal: Any, on_update: Any) -> Any:
        on_update(result("1"))
        on_update(result("2"))
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    batch = Batch([block()], [make(execute)], emit=emit)
    task = asyncio.create_task(batch.run())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    batch.check()
    assert before == asyncio.all_tasks()


# ---- the public functions ----------------------------------------------------------------------------


async def test_execute_tool_calls() -> None:
    """Events are on the stream, and results are in order, without steering."""
    stream = create_agent_stream()
    given = await execute_tool_calls([make()], calls(block("1"), block("2", "nope")), None, stream)
    stream.end([])
    assert [False, True] == [message["is_error"] for message in given["tool_results"]]
    assert None is given["steering_messages"]
    events = await collect(stream)
    assert ["tool_execution_start", "tool_execution_end", "message_start", "message_end"] * 2 == [
        event.type for event in events
    ]


@pytest.mark.parametrize("is_async", [False, True])
async def test_execute_tool_calls_with_steering(is_async: bool) -> None:
    """Steering messages skip the calls that have not started, and are returned."""
    message: Any = user("stop")

    def steering() -> Any:
        return [message]

    async def later() -> Any:
        return [message]

    stream = create_agent_stream()
    given = await execute_tool_calls(
        [make()], calls(block("1"), block("2")), None, stream, later if is_async else steering
    )
    assert ["ok", SKIPPED] == [text_of(message) for message in given["tool_results"]]
    assert [message] == given["steering_messages"]


@pytest.mark.parametrize("tools", [None, []])
async def test_execute_tool_calls_without_tools_or_calls(tools: Any) -> None:
    """Without calls there are no results; a call without tools has an error."""
    stream = create_agent_stream()
    assert [] == (await execute_tool_calls(tools, assistant("x"), None, stream))["tool_results"]  # type: ignore[arg-type]
    (message,) = (await execute_tool_calls(tools, calls(block()), None, stream))["tool_results"]
    assert message["is_error"]


async def test_skip_tool_call() -> None:
    """A skipped call has an error result and its events."""
    stream = create_agent_stream()
    message = skip_tool_call(block("1", arguments={"a": 1}), stream)
    stream.end([])
    assert (SKIPPED, True, "1", "t") == (
        text_of(message),
        message["is_error"],
        message["tool_call_id"],
        message["tool_name"],
    )
    assert "Skipped due to queued user message." == SKIPPED
    events = await collect(stream)
    assert ["tool_execution_start", "tool_execution_end", "message_start", "message_end"] == [
        event.type for event in events
    ]
    assert {"a": 1} == events[0].args
