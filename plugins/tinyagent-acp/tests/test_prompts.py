"""Prompts of an editor: streaming, tool calls, approvals, cancelling, and how a prompt ends."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from acp import (
    RequestError,
    embedded_text_resource,
    image_block,
    resource_block,
    resource_link_block,
    text_block,
)
from acp.schema import AudioContentBlock, BlobResourceContents, EmbeddedResourceContentBlock

from tinyagent.testing import FakeReply, FakeServer
from tinyagent.testing.server import Hold, chat_chunk

from .conftest import Editor, Start, processes_with

pytestmark = pytest.mark.slow


async def test_a_prompt_streams(start: Start) -> None:
    """Thoughts, a tool call with its life cycle, and text arrive as updates before the reply."""
    editor = await start()
    session = (await editor.new()).session_id
    reply = await editor.ask(session, "What is 6 * 7?")
    assert ("end_turn", 28) == (reply.stop_reason, reply.usage.total_tokens)
    assert "6 * 7 = 42" == editor.text()
    assert len([u for u in editor.updates if u["sessionUpdate"] == "agent_message_chunk"]) > 1
    assert "The prompt can be answered by a tool: calc." == editor.text("agent_thought_chunk")
    [call] = editor.calls().values()
    assert [["pending", "in_progress", "completed"]] == editor.statuses()
    assert {"expression": "6 * 7"} == call[1]["rawInput"]
    assert "42" == call[-1]["content"][0]["content"]["text"]
    assert [] == editor.questions  # it is read-only
    assert {session} == {update["session"] for update in editor.updates}


async def test_ids_of_calls_are_unique(start: Start) -> None:
    """A model that repeats the ids of its calls makes new calls in the editor."""
    editor = await start()
    session = (await editor.new()).session_id
    await editor.ask(session, "What is 6 * 7?")
    await editor.ask(session, "What is 6 * 8?")
    assert 2 == len(editor.calls())


async def test_a_change_of_a_file_is_a_diff(start: Start, project: Path) -> None:
    """The question and the call have the whole file before and after, and its place."""
    (project / "a.txt").write_text("one\ntwo\nthree\n")
    editor = await start()
    session = (await editor.new()).session_id
    await editor.ask(session, 'write path="new.txt" content="hello"')
    reply = await editor.ask(session, 'edit path="a.txt" old_text="two" new_text="2"')
    assert "end_turn" == reply.stop_reason
    assert ("hello", "one\n2\nthree\n") == (
        (project / "new.txt").read_text(),
        (project / "a.txt").read_text(),
    )
    created, changed = editor.questions
    assert {"type": "diff", "path": str(project / "new.txt"), "newText": "hello"} == created["content"][0]
    assert ("Write new.txt", "edit", "pending") == (created["title"], created["kind"], created["status"])
    assert [
        {
            "type": "diff",
            "path": str(project / "a.txt"),
            "oldText": "one\ntwo\nthree\n",
            "newText": "one\n2\nthree\n",
        }
    ] == changed["content"]
    assert [{"path": str(project / "a.txt"), "line": 2}] == changed["locations"]
    assert {created["toolCallId"], changed["toolCallId"]} == set(editor.calls())
    assert [["pending", "in_progress", "completed"]] * 2 == editor.statuses()
    assert "content" not in editor.calls()[changed["toolCallId"]][-1]  # the diff stays


async def test_the_options_of_a_question(start: Start, project: Path) -> None:
    """They are the approvals of tinyagent; the one for the project holds in another process, too."""
    editor = await start()
    session = (await editor.new()).session_id
    editor.answer = "project"
    await editor.ask(session, 'write path="a.txt" content="x"')
    assert {
        "yes": "allow_once", "project": "allow_always", "always": "allow_always", "no": "reject_once"
    } == editor.questions[0]["options"]  # fmt: skip
    other = await start()
    await other.ask((await other.new()).session_id, 'write path="a.txt" content="x"')
    assert [] == other.questions
    assert [["pending", "in_progress", "completed"]] == other.statuses()


@pytest.mark.parametrize("answer", ["no", "nonsense"])
async def test_a_call_that_is_not_allowed(start: Start, project: Path, answer: str) -> None:
    """It fails, its change is not made, and the model goes on. An unknown answer is no, too."""
    editor = await start()
    session = (await editor.new()).session_id
    editor.answer = answer
    reply = await editor.ask(session, 'write path="a.txt" content="x"')
    assert "end_turn" == reply.stop_reason
    assert not (project / "a.txt").exists()
    [call] = editor.calls().values()
    assert "failed" == call[-1]["status"]
    assert "the user declined" in call[-1]["content"][0]["content"]["text"]


async def test_an_answer_of_cancelled_ends_the_run(start: Start, project: Path) -> None:
    """The prompt then returns `cancelled`."""
    editor = await start()
    session = (await editor.new()).session_id
    editor.answer = "cancelled"
    reply = await editor.ask(session, 'write path="a.txt" content="x"')
    assert "cancelled" == reply.stop_reason
    assert "failed" == editor.statuses()[0][-1]
    assert not (project / "a.txt").exists()


async def test_cancel_while_a_question_is_open(start: Start, project: Path) -> None:
    """The prompt returns `cancelled`, its call has failed, and the session goes on."""
    editor = await start()
    session = (await editor.new()).session_id
    editor.answer = None
    prompt = asyncio.ensure_future(editor.ask(session, 'write path="a.txt" content="x"'))
    await editor.asked.wait()
    await editor.agent.cancel(session_id=session)
    assert "cancelled" == (await prompt).stop_reason
    assert "failed" == editor.statuses()[0][-1]
    assert not (project / "a.txt").exists()
    assert "end_turn" == (await editor.ask(session, "What is 6 * 7?")).stop_reason


async def test_cancel_in_a_stream(start: Start) -> None:
    """The reply ends where it is."""
    editor = await start("-O", "delay=0.2")
    session = (await editor.new()).session_id
    prompt = asyncio.ensure_future(editor.ask(session, "Hello"))
    await editor.until(editor.text)
    await editor.agent.cancel(session_id=session)
    assert "cancelled" == (await prompt).stop_reason
    seen = editor.text()
    await editor.agent.cancel(session_id=session)  # without a prompt it does nothing
    assert seen == editor.text()


async def test_cancel_in_a_command(start: Start) -> None:
    """The output so far was streamed, and the command is ended."""
    editor = await start(tools="shell")
    session = (await editor.new()).session_id
    mark = f"3600.{os.getpid()}{time.monotonic_ns()}"
    command = f"echo started; sleep {mark}"
    prompt = asyncio.ensure_future(editor.ask(session, f'bash command="{command}"'))
    await editor.until(lambda: output_of(editor) == "```\nstarted\n```")
    [call] = editor.calls().values()
    assert ("execute", f"`{command}`") == (call[0]["kind"], call[1]["title"])
    await editor.agent.cancel(session_id=session)
    assert "cancelled" == (await prompt).stop_reason
    assert editor.statuses()[0][-1] in ("completed", "failed")
    await editor.until(lambda: processes_with(mark) == [])


async def test_a_second_prompt_is_refused(start: Start) -> None:
    """A session has one prompt at a time; another session has its own."""
    editor = await start("-O", "delay=0.2")
    first, second = (await editor.new()).session_id, (await editor.new()).session_id
    assert first != second
    prompt = asyncio.ensure_future(editor.ask(first, "Hello"))
    await editor.until(editor.text)
    with pytest.raises(RequestError, match="A prompt is under way"):
        await editor.ask(first, "Again")
    other = asyncio.ensure_future(editor.ask(second, "Hello"))
    await editor.until(lambda: second in {u["session"] for u in editor.updates if "content" in u})
    for session in (first, second):
        await editor.agent.cancel(session_id=session)
    assert ["cancelled", "cancelled"] == [(await prompt).stop_reason, (await other).stop_reason]


Serve = Callable[..., FakeServer]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (FakeReply.chunks(chat_chunk("Half"), chat_chunk({}, "length")), "max_tokens"),
        (FakeReply.chunks(chat_chunk("No"), chat_chunk({}, "content_filter")), "refusal"),
    ],
)
async def test_a_reply_that_is_not_complete(
    start: Start, serve: Serve, reply: FakeReply, reason: str
) -> None:
    """The reason is the one of the model."""
    serve(reply)
    editor = await start(model="local/m", tools="")
    session = (await editor.new()).session_id
    assert reason == (await editor.ask(session, "Hi")).stop_reason


async def test_a_limit_of_model_calls(start: Start) -> None:
    """A run that has reached it ends with `max_turn_requests`."""
    editor = await start("--max-turns", "1")
    session = (await editor.new()).session_id
    assert "max_turn_requests" == (await editor.ask(session, "What is 6 * 7?")).stop_reason


@pytest.mark.parametrize(
    ("reply", "code", "text"),
    [
        (FakeReply.error(400, "bad things"), -32603, "bad things"),
        (FakeReply.error(401, "wrong key"), -32000, "wrong key"),
        (FakeReply.chunks(chat_chunk("Half"), done=False), -32603, "broke off"),
        (FakeReply.text(""), -32603, "empty"),
    ],
)
async def test_a_failed_run_is_an_error(
    start: Start, serve: Serve, reply: FakeReply, code: int, text: str
) -> None:
    """It is never the end of a turn."""
    serve(*[reply] * 9)
    editor = await start("-O", "max_retries=0", model="local/m", tools="")
    session = (await editor.new()).session_id
    with pytest.raises(RequestError) as raised:
        await editor.ask(session, "Hi")
    assert code == raised.value.code
    assert text in str(raised.value)


async def test_the_process_of_a_session_is_killed(start: Start, project: Path) -> None:
    """The prompt is an error, and the next one goes on with the conversation, mode and model."""
    editor = await start(tools="fs,shell")
    session = (await editor.new()).session_id
    await editor.agent.set_session_mode(session_id=session, mode_id="accept-edits")
    await editor.ask(session, "Hello")
    await editor.until(lambda: "session_info_update" in str(editor.updates))  # its process has ended
    editor.answer = "yes"
    prompt = asyncio.ensure_future(editor.ask(session, 'bash command="echo ready; sleep 600"'))
    await editor.until(lambda: output_of(editor) == "```\nready\n```")
    [rpc] = children_of(editor.process.pid)
    os.kill(rpc, signal.SIGKILL)
    with pytest.raises(RequestError, match="has ended with exit code -9"):
        await prompt
    assert "failed" == editor.statuses()[-1][-1]
    assert "end_turn" == (await editor.ask(session, 'write path="a.txt" content="x"')).stop_reason
    assert "x" == (project / "a.txt").read_text()
    assert 1 == len(editor.questions)  # for the command; edits are accepted
    found = await editor.agent.list_sessions(cwd=str(project))
    assert [session] == [entry.session_id for entry in found.sessions]


def output_of(editor: Editor) -> str:
    """Return the output so far of the last call."""
    contents = [update["content"] for update in editor.updates if isinstance(update.get("content"), list)]
    return contents[-1][0].get("content", {}).get("text", "") if contents else ""


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n....").decode()


async def test_the_content_of_a_prompt(start: Start, serve: Serve, project: Path) -> None:
    """Images, linked files and embedded files reach the model. Paths are relative to the folder."""
    server = serve(FakeReply.text("A cat."))
    editor = await start(model="local/m", tools="")
    session = (await editor.new()).session_id
    blocks = [
        text_block("Look at "),
        resource_link_block("a b.py", (project / "a b.py").as_uri()),
        text_block(" and "),
        resource_block(embedded_text_resource((project / "c.py").as_uri(), "print(1)\n")),
        image_block(PNG, "image/png"),
        EmbeddedResourceContentBlock(
            type="resource",
            resource=BlobResourceContents(uri="file:///x.png", blob=PNG, mime_type="image/png"),
        ),
    ]
    assert "end_turn" == (await editor.agent.prompt(session_id=session, prompt=blocks)).stop_reason
    first, second, text = server.requests[0].json["messages"][-1]["content"]
    assert [f"data:image/png;base64,{PNG}"] * 2 == [first["image_url"]["url"], second["image_url"]["url"]]
    expected = 'Look at [@a b.py](a b.py) and [@c.py](c.py)\n\n<file path="c.py">\nprint(1)\n</file>'
    assert expected == text["text"]


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (AudioContentBlock(type="audio", data="", mime_type="audio/wav"), "Audio cannot be sent"),
        (
            EmbeddedResourceContentBlock(
                type="resource",
                resource=BlobResourceContents(uri="file:///x.zip", blob="", mime_type="a/zip"),
            ),
            "file:///x.zip cannot be sent to the model",
        ),
        (image_block("?", "image/png"), "is not base64"),
        (text_block(" "), "There is no prompt"),
    ],
)
async def test_content_that_no_model_can_read(start: Start, block: Any, text: str) -> None:
    """The prompt is refused, so that nothing is left out without a word."""
    editor = await start()
    session = (await editor.new()).session_id
    with pytest.raises(RequestError, match=re.escape(text)) as raised:
        await editor.agent.prompt(session_id=session, prompt=[block])
    assert -32602 == raised.value.code
    assert "end_turn" == (await editor.ask(session, "Hello")).stop_reason


async def test_slash_commands(start: Start, serve: Serve, home: Path) -> None:
    """Templates that need only a prompt are commands, beside /compact. Any other slash is text."""
    folder = home / "tinyagent" / "templates"
    folder.mkdir(parents=True)
    (folder / "review.toml").write_text('description = "Review code"\nprompt = "Review: {{ prompt }}"\n')
    (folder / "other.toml").write_text('prompt = "In {{ language }}: {{ prompt }}"\n')
    server = serve(*[FakeReply.text("Fine.")] * 2)
    editor = await start(model="local/m", tools="")
    session = (await editor.new()).session_id
    await editor.until(lambda: editor.updates)
    [update] = editor.updates
    assert ["compact", "review"] == [command["name"] for command in update["availableCommands"]]
    await editor.ask(session, "/review x = 1")
    await editor.ask(session, "/etc/hosts is a file")
    texts = [
        message["content"] for message in server.requests[1].json["messages"] if message["role"] == "user"
    ]
    assert ["Review: x = 1", "/etc/hosts is a file"] == texts


async def test_compact(start: Start) -> None:
    """It replaces the older messages, and says so."""
    editor = await start()
    session = (await editor.new()).session_id
    for _ in range(3):
        await editor.ask(session, "What is 6 * 7?")
    editor.updates.clear()
    reply = await editor.ask(session, "/compact keep numbers")
    assert "end_turn" == reply.stop_reason
    assert "A summary has replaced" in editor.text()


async def test_a_server_that_hangs_can_be_cancelled(start: Start, serve: Serve) -> None:
    """A model that sends nothing more does not block the session."""
    serve(FakeReply.chunks(chat_chunk("Wait"), Hold()))
    editor = await start(model="local/m", tools="")
    session = (await editor.new()).session_id
    prompt = asyncio.ensure_future(editor.ask(session, "Hi"))
    await editor.until(editor.text)
    await editor.agent.cancel(session_id=session)
    assert "cancelled" == (await prompt).stop_reason
