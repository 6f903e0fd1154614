"""Models, tools and fragments of plugins of `llm`: real ones, and one that shows faults."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyagent import Agent, AgentOptions, AgentTool, AgentToolResult
from tinyagent.agent_types import AssistantMessage, Context
from tinyagent.errors import (
    ConfigurationError,
    EmptyReplyError,
    NotConfiguredError,
    OutputTruncatedError,
    ProviderError,
    RateLimitError,
    ToolError,
)
from tinyagent.testing import check_grammar, check_reply, collect, tool_result, user
from tinyagent_llm import tinyagent_read_input
from tinyagent_llm._models import list_models, make_model
from tinyagent_llm._stream import stream_llm
from tinyagent_llm._tools import all_tools

from . import plugin_for_tests as own

TINYAGENT = Path(sys.executable).with_name("tinyagent")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Forget what the models of an earlier test have seen."""
    own.SEEN.clear()
    own.CONVERSATIONS.clear()
    own.CLOSED.clear()
    yield
    while own.GO.acquire(blocking=False):
        pass


def agent(model: str, **options: Any) -> Agent:
    """Return an agent with a model of llm."""
    made = Agent(AgentOptions(stream_fn=stream_llm))
    made.set_model(make_model(model, options))
    return made


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command of this environment, which has the plugin installed."""
    return subprocess.run(
        [TINYAGENT, *arguments], env={**os.environ, **environment}, text=True, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip


async def test_a_real_model(tmp_path: Path) -> None:
    """A model of llm-echo answers; the events are in order, and nothing is logged to llm's database."""
    events = await collect(agent("echo").stream("Hello."))
    check_grammar(events)
    message = events[-1].messages[-1]
    assert "Hello." == json.loads(message["content"][0]["text"])["prompt"]
    assert message["usage"]["input"] > 0
    assert [] == list((tmp_path / "llm").iterdir())


async def test_the_events_of_a_reply() -> None:
    """Reasoning, text and tool calls are blocks of their own."""
    events = [
        event async for event in await stream_llm(make_model("memory", {}), Context("", [user("call")]), {})
    ]
    check_reply(events)
    message: AssistantMessage = events[-1]["message"]  # type: ignore[typeddict-item]
    assert ["thinking", "tool_call", "tool_call"] == [block["type"] for block in message["content"]]
    assert [{"at": "it"}, {}] == [
        block["arguments"] for block in message["content"] if block["type"] == "tool_call"
    ]
    assert 2 == len({block["id"] for block in message["content"] if block["type"] == "tool_call"})
    assert ("tool_use", 10) == (message["stop_reason"], (message["usage"] or {})["total"])


@pytest.mark.parametrize("model", ["slow", "slow-async"])
async def test_each_piece_arrives_at_once(model: str) -> None:
    """The first piece arrives while the model waits, from a thread or from a coroutine."""
    own.GO.release()
    deltas = agent(model).stream_text("x")
    assert "one " == await anext(deltas)
    await deltas.aclose()
    own.GO.release(2)  # a thread ends at its next event
    assert await asyncio.to_thread(own.CLOSED.wait, 30)


@pytest.mark.parametrize("model", ["slow", "slow-async"])
async def test_an_abort_ends_the_reply(model: str) -> None:
    """An abort keeps the text so far, and the events stay balanced."""
    own.GO.release()
    made = agent(model)
    events = []
    async with made.stream("x") as stream:
        async for event in stream:
            events.append(event)
            if event.type == "message_update":
                made.abort()
    own.GO.release(2)
    check_grammar(events)
    assert ("aborted", "one ") == (
        events[-1].messages[-1]["stop_reason"], events[-1].messages[-1]["content"][0]["text"]
    )  # fmt: skip


async def test_the_history_of_a_second_turn() -> None:
    """Present plugins get all messages, with calls, results and signatures; older ones get responses."""
    made = agent("memory")

    async def look(tool_call_id: str, arguments: Any, signal: Any, on_update: Any) -> AgentToolResult:
        return AgentToolResult(content=[{"type": "text", "text": "seen"}])

    made.set_tools(
        [AgentTool("look", "Look.", {"type": "object", "properties": {}}, execute=look, read_only=True)]
    )
    made.state["system_prompt"] = "Be brief."
    image = {"type": "image", "url": "data:image/png;base64,iVBORw0KGgoAAAAAAAAAAAAAAAAAAAAA"}
    await made.prompt({"role": "user", "content": [{"type": "text", "text": "call"}, image], "timestamp": 1})
    await made.prompt("And now?")
    first, second, third = own.SEEN
    assert ("call", "Be brief.", 1) == (first.prompt, first.system, len(first.attachments))
    assert ["seen", "seen"] == [result.output for result in second.tool_results]
    assert ["system", "user", "assistant", "tool"] == [message.role for message in second.messages]
    parts = second.messages[2].to_dict()["parts"]
    assert ["reasoning", "tool_call", "tool_call"] == [part["type"] for part in parts]
    assert {"signature": "abc"} == parts[0]["provider_metadata"]
    assert "And now?" == third.prompt
    assert ["system", "user", "assistant", "tool", "assistant", "user"] == [
        each.role for each in third.messages
    ]
    assert "Be brief." == third.messages[0].parts[0].text
    assert ["call", ""] == [response.prompt.prompt for response in own.CONVERSATIONS[2].responses[:2]]
    assert "Yes." == own.CONVERSATIONS[2].responses[1].text()


async def test_results_of_tools_can_be_errors() -> None:
    """A failed call is marked as such."""
    messages: list[Any] = [
        user("call"),
        {**(await agent("memory").prompt("call")), "provider": "other"},
        {**tool_result("call-1", "look", "it broke"), "is_error": True},
    ]
    await (await stream_llm(make_model("memory", {}), Context("", messages), {})).result()
    parts = [part for message in own.SEEN[-1].messages for part in message.to_dict()["parts"]]
    [result] = [part for part in parts if part["type"] == "tool_result"]
    assert ("it broke", "ToolError: it broke") == (result["output"], result["exception"])
    assert "reasoning" not in [part["type"] for part in parts]  # that of another model


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ("at once", ProviderError, "llm/broken: the server went away"),
        ("later", ProviderError, "llm/broken: the server went away"),
        ("limit", RateLimitError, "llm/broken: slow down"),
        ("empty", EmptyReplyError, "empty"),
    ],
)
async def test_a_failure_is_no_answer(prompt: str, error: type[Exception], message: str) -> None:
    """An exception before or in a reply is an error, and so is a reply without content."""
    with pytest.raises(error, match=message) as caught:
        await agent("broken").prompt_text(prompt)
    if prompt == "later":
        assert "Half an ans" == caught.value.partial_text  # type: ignore[attr-defined]


async def test_a_reply_that_was_cut() -> None:
    """If the plugin keeps the finish reason, a reply at the limit is incomplete."""
    assert "Yes." == await agent("memory").prompt_text("short")
    with pytest.raises(OutputTruncatedError):
        await agent("memory").prompt_text("long")


async def test_keys_are_those_of_llm(llm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is read from llm's store, and from the variable of the plugin; without one, the error says so."""
    with pytest.raises(NotConfiguredError, match="llm/keyed needs a key") as caught:
        await agent("keyed").prompt_text("x")
    assert "llm keys set" in (caught.value.hint or "")
    (llm_folder / "keys.json").write_text('{"acme": "sk-test-12"}')
    assert "the key has 10 characters" == await agent("keyed").prompt_text("x")
    (llm_folder / "keys.json").unlink()
    monkeypatch.setenv("ACME_TEST_KEY", "sk-test-1234")
    assert "the key has 12 characters" == await agent("keyed").prompt_text("x")


async def test_options_and_limits() -> None:
    """Options are those of the model. A setting that it lacks is noted; a wrong option is an error."""
    notes: list[str] = []
    options: Any = {"temperature": 0.5, "max_tokens": 9, "on_note": notes.append}
    await (await stream_llm(make_model("memory", {}), Context("", [user("x")]), options)).result()
    assert 0.5 == own.SEEN[0].options.temperature
    assert ["memory has no option max_tokens, so it is not sent."] == notes
    with pytest.raises(ConfigurationError, match="does not take -O size") as caught:
        make_model("memory", {"size": 3})
    assert "Its options: temperature." == caught.value.hint
    with pytest.raises(ConfigurationError, match=r"no model 'memori'\. Did you mean llm/memory\?"):
        make_model("memori", {})


async def test_a_schema_and_tools_that_a_model_lacks() -> None:
    """A schema reaches a model that supports it. Tools are not offered to one that takes none."""
    options: Any = {"response_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    await (await stream_llm(make_model("memory", {}), Context("", [user("x")]), options)).result()
    assert "a" in own.SEEN[0].schema["properties"]
    notes: list[str] = []
    tool = AgentTool("look", "Look.", {"type": "object", "properties": {}})
    given: Any = {"on_note": notes.append}
    with pytest.raises(ProviderError):
        await (await stream_llm(make_model("broken", {}), Context("", [user("x")], [tool]), given)).result()
    assert ["broken takes no tools, so none are offered to it."] == notes


async def test_an_image_for_a_model_that_takes_none() -> None:
    """An image is not dropped in silence."""
    image: Any = {"type": "image", "url": "data:image/png;base64,iVBORw0KGgo="}
    message: Any = {"role": "user", "content": [image], "timestamp": 1}
    with pytest.raises(ProviderError, match="takes no images of this type"):
        await stream_llm(make_model("broken", {}), Context("", [message]), {})


async def test_the_list_of_models(llm_folder: Path) -> None:
    """All models are listed, with the aliases of the plugin and of the user, and their abilities."""
    (llm_folder / "aliases.json").write_text('{"mem": "memory"}')
    found = {info.id: info for info in await list_models()}
    assert ("mem", ("tools", "images", "json_schema")) == (found["memory"].name, found["memory"].abilities)
    assert "sa" == found["slow-async"].name
    assert "Yes." == await agent("mem").prompt_text("x")


def tool(name: str) -> AgentTool:
    return {each.name: each for each in all_tools()}[name]


async def call(name: str, **arguments: Any) -> AgentToolResult:
    execute = tool(name).execute
    assert execute is not None
    return await execute("call", arguments, None, lambda partial: None)


async def test_tools_of_all_kinds() -> None:
    """Functions, coroutines and toolboxes are tools; values become JSON, and images stay images."""
    assert "HI" == (await call("slowly", text="hi")).content[0]["text"]  # type: ignore[typeddict-item]
    shelf = [json.loads((await call("Shelf_count", item="cup")).content[0]["text"]) for _ in "ab"]  # type: ignore[typeddict-item]
    assert [{"item": "cup", "prepared": 1}] * 2 == shelf
    assert ["text", "image"] == [part["type"] for part in (await call("picture")).content]
    with pytest.raises(ToolError, match="ValueError: no such shelf"):
        await call("fails")
    assert not tool("slowly").read_only
    assert {"item": {"type": "string"}} == tool("Shelf_count").parameters["properties"]


async def test_real_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llm-tools-simpleeval calculates, and llm-tools-sqlite queries the database that a variable names."""
    assert "408" == (await call("simple_eval", expression="17 * 24")).content[0]["text"]  # type: ignore[typeddict-item]
    database = tmp_path / "data.db"
    with sqlite3.connect(database) as connection:
        connection.execute("create table cups (name text)")
        connection.execute("insert into cups values ('blue')")
    assert not [each for each in all_tools() if each.name.startswith("SQLite")]
    monkeypatch.setenv("TINYAGENT_LLM_TOOLBOXES", f'SQLite("{database}")')
    result = await call("SQLite_query", sql="select name from cups")
    assert [{"name": "blue"}] == json.loads(result.content[0]["text"])  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Nothing()", "llm has no toolbox 'Nothing'. It has: "),
        ("SQLite(open('x'))", "is malformed"),
        ("SQLite(", "is malformed"),
        ("SQLite()", "TypeError"),
    ],
)
def test_wrong_toolboxes(value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong toolbox is an error; its arguments are literals, so no code runs."""
    monkeypatch.setenv("TINYAGENT_LLM_TOOLBOXES", value)
    with pytest.raises(ConfigurationError) as caught:
        all_tools()
    assert message in str(caught.value)


def test_fragments() -> None:
    """A fragment is text or an image; an unknown loader is an error that names the others."""
    assert [b"The shelf has cups."] == tinyagent_read_input("shelf:cups")
    assert [own.PNG, b"drawn"] == tinyagent_read_input("drawing:x")
    with pytest.raises(ConfigurationError, match="no fragment loader 'shelv'"):
        tinyagent_read_input("shelv:cups")


def test_the_command(tmp_path: Path) -> None:
    """The installed plugins work by name on the command line, and errors have their exit code."""
    done = run("run", "-m", "llm/echo", "Hello.", LLM_USER_PATH=str(tmp_path))
    assert (0, "Hello.") == (done.returncode, json.loads(done.stdout)["prompt"]), done.stderr
    unknown = run("run", "-m", "llm/ecko", "x")
    assert (3, True) == (unknown.returncode, "llm has no model 'ecko'. Did you mean" in unknown.stderr)
    listed = run("models", "list", "llm")
    assert "llm/echo" in listed.stdout
    used = run("tools", "call", "llm.simple_eval", "expression=6*7")
    assert (0, "42") == (used.returncode, used.stdout.strip()), used.stderr
    prompt = json.dumps(
        {"prompt": "x", "tool_calls": [{"name": "simple_eval", "arguments": {"expression": "6*7"}}]}
    )
    both = run("run", "-m", "llm/echo", "-t", "llm.simple_eval", "-y", prompt)
    assert "42" in both.stdout, both.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "-m", "llm/echo", "x"),
        ("models", "list", "llm"),
        ("run", "-m", "demo", "-t", "llm", "x"),
        ("run", "-m", "demo", "-f", "llm:shelf:x", "x"),
    ],
)
def test_a_plugin_that_cannot_be_loaded(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The error names its package: `llm plugins` and `llm uninstall` fail like llm itself then."""
    metadata = tmp_path / "llm_torn-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-torn\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[llm]\ntorn = llm_torn\n")
    (tmp_path / "llm_torn.py").write_text("raise ImportError('libtorn.so is missing')\n")
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = run(*arguments, PYTHONPATH=os.pathsep.join(paths))
    assert 0 != done.returncode
    assert "The plugin llm-torn of llm cannot be loaded: ImportError: libtorn.so is missing" in done.stderr
    assert "pip uninstall llm-torn" in done.stderr
