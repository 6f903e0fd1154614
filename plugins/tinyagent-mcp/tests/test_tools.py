"""A server's tools as tinyagent's: what they are called, what they give, how they end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tinyagent import Agent, AgentOptions, Model, ToolArgumentsError, ToolError, validate_tool_arguments
from tinyagent.testing import Reply, ScriptedProvider, call, check_grammar, collect

from .conftest import Tools, eventually, said


def test_names_say_whose_they_are(shared: Tools) -> None:
    """`server__tool`, in letters that every provider takes, over all pages of the list."""
    assert {"t__double", "t__picture", "t__pid", "t__bad_name_", "t__read_resource"} <= set(shared.by_name)


def test_what_the_server_says_of_a_tool_is_passed_on(shared: Tools) -> None:
    """Description and schema, but not the claim that it only reads."""
    double, picture = shared.by_name["t__double"], shared.by_name["t__picture"]
    assert ("Twice n.", False, False) == (double.description, double.read_only, picture.read_only)
    assert {"n": {"type": "integer", "minimum": 1}} == double.parameters["properties"]
    assert 120.0 == double.timeout


@pytest.mark.parametrize("arguments", [{}, {"n": 0}, {"n": "1"}, {"n": 1, "m": 2}])
def test_arguments_are_checked_before_the_server_sees_them(
    shared: Tools, arguments: dict[str, object]
) -> None:
    """The server's schema is the tool's schema."""
    with pytest.raises(ToolArgumentsError):
        validate_tool_arguments(
            shared.by_name["t__double"],
            {"type": "tool_call", "id": "c1", "name": "t__double", "arguments": arguments},
        )


async def test_text(shared: Tools) -> None:
    """A call reaches the server and comes back."""
    assert "8" == await shared.text("double", n=4)


async def test_a_name_that_providers_do_not_take(shared: Tools) -> None:
    """The server is called by its own name for the tool."""
    assert "a name that no provider takes" == await shared.text("bad_name_")


async def test_pictures(shared: Tools) -> None:
    """An image becomes image content, in its place."""
    result = await shared.result("picture")
    assert ["text", "image"] == [part["type"] for part in result.content]
    assert result.content[1]["url"].startswith("data:image/png;base64,")  # type: ignore[typeddict-item]


async def test_structured_content(shared: Tools) -> None:
    """Without any text the model reads the JSON; programs find it in the details."""
    result = await shared.result("structured")
    assert ('{"answer":[42]}', {"structured_content": {"answer": [42]}}) == (said(result), result.details)


async def test_a_failure_is_a_failure(shared: Tools) -> None:
    """`isError` is an error with the server's words, and nothing else."""
    with pytest.raises(ToolError, match=r"^the disk is full$"):
        await shared.result("fails")


async def test_a_long_text_is_cut(shared: Tools) -> None:
    """A result has a limit, and says what is missing."""
    text = await shared.text("long")
    assert 100_000 == text.count("x")
    assert "200000 more characters were left out" in text


async def test_progress(shared: Tools) -> None:
    """Each progress note is an update, in order, before the result."""
    shared.partials.clear()
    assert "done" == await shared.text("steps")
    assert [f"step {n} ({n} of 3)" for n in (1, 2, 3)] == [said(partial) for partial in shared.partials]
    assert {"progress": 2.0, "total": 3.0, "message": "step 2"} == shared.partials[1].details


async def test_resources(shared: Tools) -> None:
    """Resources are listed with their templates, and read: text as text, pictures as pictures."""
    listed = await shared.text("list_resources")
    assert [True] * 3 == [uri in listed for uri in ("memo://one", "memo://pixel", "memo://{n}")]
    assert "This is memo://seven" == await shared.text("read_resource", uri="memo://seven")
    pixel = await shared.result("read_resource", uri="memo://pixel")
    assert ["text", "image"] == [part["type"] for part in pixel.content]


async def test_no_secret_of_ours_gets_there(shared: Tools) -> None:
    """Keys and tokens stay here, but for what the configuration passes on."""
    names = (await shared.text("environment")).split()
    assert {"PATH", "HOME", "TEST_LOG", "PASSED_ON"} <= set(names)
    assert not {"OPENAI_API_KEY", "GITHUB_TOKEN", "MY_SECRET"} & set(names)


@pytest.mark.parametrize("how", ["signal", "cancel"])
async def test_cancelling_reaches_the_server(shared: Tools, log: Path, how: str) -> None:
    """An abort, or a call that is cancelled, ends the work in the server; the next call works."""
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


async def test_many_calls_at_once(shared: Tools) -> None:
    """Answers find the calls that they belong to."""
    answers = await asyncio.gather(*(shared.text("double", n=n) for n in range(1, 40)))
    assert [str(2 * n) for n in range(1, 40)] == answers


async def test_a_server_that_dies_is_started_again(shared: Tools) -> None:
    """The call that it died in fails with its last words; the next one finds a new server."""
    before = await shared.text("pid")
    assert before == await shared.text("pid")
    with pytest.raises(ToolError, match=r"ended before it had answered 'dies'[\s\S]*out of memory, good bye"):
        await shared.result("dies")
    assert before != await shared.text("pid")


async def test_in_a_run(shared: Tools) -> None:
    """An agent calls a server's tool: updates, result, and the grammar of a run."""
    async with ScriptedProvider(Reply(call("t__steps")), "All done.") as provider:
        agent = Agent(AgentOptions(stream_fn=provider))
        agent.set_model(Model(provider="scripted", id="m"))
        agent.set_tools(list(shared.by_name.values()))
        events = await collect(agent.stream("go"))
    check_grammar(events)
    kinds = [event.type for event in events if event.type.startswith("tool_execution")]
    assert ["tool_execution_start", *["tool_execution_update"] * 3, "tool_execution_end"] == kinds
