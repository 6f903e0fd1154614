"""The tools of a server: names, results and failures."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tinyagent import Agent, AgentOptions, Model, ToolArgumentsError, ToolError, validate_tool_arguments
from tinyagent.testing import Reply, ScriptedProvider, call, check_grammar, collect

from .conftest import Tools, eventually, text_of


def test_names_have_the_server_as_a_prefix(shared: Tools) -> None:
    """Names have the form `server__tool`, in accepted characters, for all pages of the list."""
    assert {"t__double", "t__picture", "t__pid", "t__bad_name_", "t__read_resource"} <= set(shared.by_name)


def test_descriptions_and_schemas_are_used(shared: Tools) -> None:
    """The read-only annotation is not used."""
    double, picture = shared.by_name["t__double"], shared.by_name["t__picture"]
    assert ("Twice n.", False, False) == (double.description, double.read_only, picture.read_only)
    assert {"n": {"type": "integer", "minimum": 1}} == double.parameters["properties"]
    assert 120.0 == double.timeout


@pytest.mark.parametrize("arguments", [{}, {"n": 0}, {"n": "1"}, {"n": 1, "m": 2}])
def test_arguments_are_validated_by_the_servers_schema(shared: Tools, arguments: dict[str, object]) -> None:
    """Invalid arguments are not sent."""
    with pytest.raises(ToolArgumentsError):
        validate_tool_arguments(
            shared.by_name["t__double"],
            {"type": "tool_call", "id": "c1", "name": "t__double", "arguments": arguments},
        )


async def test_text(shared: Tools) -> None:
    """A call returns the server's text."""
    assert "8" == await shared.text("double", n=4)


async def test_a_name_that_providers_do_not_accept(shared: Tools) -> None:
    """The server is called with its own name for the tool."""
    assert "a name that no provider takes" == await shared.text("bad_name_")


async def test_pictures(shared: Tools) -> None:
    """An image becomes image content at its position."""
    result = await shared.result("picture")
    assert ["text", "image"] == [part["type"] for part in result.content]
    assert result.content[1]["url"].startswith("data:image/png;base64,")  # type: ignore[typeddict-item]


async def test_structured_content(shared: Tools) -> None:
    """Without text, the model gets the JSON; the details have the structured content."""
    result = await shared.result("structured")
    assert ('{"answer":[42]}', {"structured_content": {"answer": [42]}}) == (text_of(result), result.details)


async def test_is_error_is_an_error(shared: Tools) -> None:
    """`isError` becomes an error with the server's text only."""
    with pytest.raises(ToolError, match=r"^the disk is full$"):
        await shared.result("fails")


async def test_a_long_text_is_truncated(shared: Tools) -> None:
    """The result has a limit and a note."""
    text = await shared.text("long")
    assert 100_000 == text.count("x")
    assert "200000 more characters were omitted" in text


async def test_progress(shared: Tools) -> None:
    """Each progress notification is an update, in order, before the result."""
    shared.partials.clear()
    assert "done" == await shared.text("steps")
    assert [f"step {n} ({n} of 3)" for n in (1, 2, 3)] == [text_of(partial) for partial in shared.partials]
    assert {"progress": 2.0, "total": 3.0, "message": "step 2"} == shared.partials[1].details


async def test_resources(shared: Tools) -> None:
    """Resources and templates are listed; texts and pictures are read."""
    listed = await shared.text("list_resources")
    assert [True] * 3 == [uri in listed for uri in ("memo://one", "memo://pixel", "memo://{n}")]
    assert "This is memo://seven" == await shared.text("read_resource", uri="memo://seven")
    pixel = await shared.result("read_resource", uri="memo://pixel")
    assert ["text", "image"] == [part["type"] for part in pixel.content]


async def test_the_environment_has_no_secrets(shared: Tools) -> None:
    """Only configured variables with keys or tokens are passed on."""
    names = (await shared.text("environment")).split()
    assert {"PATH", "HOME", "TEST_LOG", "PASSED_ON"} <= set(names)
    assert not {"OPENAI_API_KEY", "GITHUB_TOKEN", "MY_SECRET"} & set(names)


@pytest.mark.parametrize("how", ["signal", "cancel"])
async def test_cancelling_reaches_the_server(shared: Tools, log: Path, how: str) -> None:
    """An abort or a cancellation ends the work in the server, and the next call works."""
    log.touch()
    before = log.read_text().count("cancelled")
    signal = asyncio.Event()
    begun = log.read_text().count("begun")
    task = asyncio.ensure_future(shared.result("hangs", signal))
    assert await asyncio.to_thread(eventually, lambda: log.read_text().count("begun") > begun)
    if how == "signal":
        signal.set()
        with pytest.raises(ToolError, match="aborted"):
            await task
    else:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(eventually, lambda: log.read_text().count("cancelled") > before)
    assert "2" == await shared.text("double", n=1)


async def test_concurrent_calls_get_their_own_results(shared: Tools) -> None:
    """Each concurrent call gets its own answer."""
    answers = await asyncio.gather(*(shared.text("double", n=n) for n in range(1, 40)))
    assert [str(2 * n) for n in range(1, 40)] == answers


async def test_a_server_that_exits_is_started_again(shared: Tools) -> None:
    """The call fails with the last output; the next call starts a new server."""
    before = await shared.text("pid")
    assert before == await shared.text("pid")
    with pytest.raises(ToolError, match=r"ended before it had answered 'dies'[\s\S]*out of memory, good bye"):
        await shared.result("dies")
    assert before != await shared.text("pid")


async def test_in_a_run(shared: Tools) -> None:
    """An agent calls a server's tool: updates, result and event grammar are correct."""
    async with ScriptedProvider(Reply(call("t__steps")), "All done.") as provider:
        agent = Agent(AgentOptions(stream_fn=provider))
        agent.set_model(Model(provider="scripted", id="m"))
        agent.set_tools(list(shared.by_name.values()))
        events = await collect(agent.stream("go"))
    check_grammar(events)
    kinds = [event.type for event in events if event.type.startswith("tool_execution")]
    assert ["tool_execution_start", *["tool_execution_update"] * 3, "tool_execution_end"] == kinds
