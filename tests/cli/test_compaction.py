"""Long conversations on the command line: they are compacted, and nothing of the session is lost."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tinyagent import jsonl
from tinyagent.testing import FakeServer, Wait
from tinyagent.testing.grammar import check_grammar
from tinyagent.testing.server import chat_chunk
from tinyagent.testing.wires import AnthropicWire, ChatWire, ResponsesWire, Script, Wire

from .conftest import SECONDS, Cli, FakeReply, Serve, Terminal, message_text, read_lines, sent

WINDOW = "context_window = 2000\n"
LONG = "x" * 3000
"""A text of 750 tokens."""
ONE = "One. " + LONG
TOO_LONG = FakeReply.error(400, "This model's maximum context length is 2000 tokens.")

LOOK = f"""
from tinyagent import tool

@tool(read_only=True)
def look() -> str:
    '''Look around.'''
    return "seen " + {LONG!r}
"""


def answer(text: str, used: int = 1) -> FakeReply:
    """Return a reply whose request had this many tokens."""
    return FakeReply.text(
        text, usage={"prompt_tokens": used, "completion_tokens": 1, "total_tokens": used + 1}
    )


def beginnings(server: FakeServer, number: int) -> list[tuple[str, str]]:
    """Return the role and the beginning of the text of each message of a request."""
    return [(role, text[:20]) for role, text in sent(server, number)]


def session_of(cli: Cli) -> Path:
    """Return the only session file."""
    [path] = cli.sessions()
    return path


def test_a_session_is_compacted_and_keeps_everything(cli: Cli, serve: Serve) -> None:
    """Standard error says so. The next run sends what is left, and the file has all messages."""
    server = serve(
        answer(ONE),
        answer("Two.", 1700),
        answer("They counted."),
        answer("Three."),
        answer("Four."),
        more=WINDOW,
    )
    for number in ("1", "2"):
        assert 0 == cli("run", "-m", "local/m", *(["-c"] if number == "2" else []), number).code
    done = cli("run", "-c", "3")
    assert (0, "Three.\n") == (done.code, done.out)
    assert "Compacted near the limit: a summary replaces 2 messages (~1,7" in done.err
    assert ["system", "user"] == [role for role, _ in beginnings(server, 2)]
    assert "tools" not in server.requests[2].json
    expected = [("user", "The earlier part of "), ("user", "2"), ("assistant", "Two."), ("user", "3")]
    assert expected == beginnings(server, 3)
    assert 0 == cli("run", "-c", "4").code
    assert [*expected, ("assistant", "Three."), ("user", "4")] == beginnings(server, 4)
    path = session_of(cli)
    whole = jsonl.messages(path.read_bytes(), whole=True)
    assert ["1", ONE, "2", "Two.", "3", "Three.", "4", "Four."] == [message_text(one) for one in whole]
    assert 0 == cli("events", "validate", path).code
    shown = cli("sessions", "show").out
    assert shown.index("> 3") < shown.index("Compacted near the limit: ") < shown.index("Three.")
    exported = cli("sessions", "export", "--format", "markdown").out
    assert "## User\n\n1\n" in exported
    assert "They counted." not in exported
    stats = json.loads(cli("events", "stats", "--json", path).out)
    assert (1, 4, 1 + 1700 + 1 + 1 + 1) == (stats["compactions"], stats["turns"], stats["usage"]["input"])


@pytest.mark.parametrize("off", ["--no-compact", "[run]\ncompact = false\n"])
def test_compaction_is_switched_off(cli: Cli, serve: Serve, off: str) -> None:
    """Then a conversation is sent as it is, and an overflow is an error."""
    is_option = off.startswith("--")
    server = serve(answer(ONE), answer("Two.", 1700), TOO_LONG, more=WINDOW + ("" if is_option else off))
    options = [off] if is_option else []
    assert 0 == cli("run", "-m", "local/m", "1").code
    assert 0 == cli("run", "-c", *options, "2").code
    done = cli("run", "-c", *options, "3")
    assert (1, 5) == (done.code, len(beginnings(server, 2)))
    assert "maximum context length" in done.err


def test_a_request_that_was_too_long_is_sent_again(cli: Cli, serve: Serve) -> None:
    """The window is not known. The record of the run is valid, and can be replayed and continued."""
    server = serve(
        *(FakeReply.tool_calls(("look", {})) for _ in range(3)),
        TOO_LONG,
        answer("Nothing but x."),
        answer("Done."),
    )
    cli.file("look.py", LOOK)
    done = cli("run", "-m", "local/m", "-t", "look.py", "--record", "run.jsonl", "Look around")
    assert (0, "Done.\n") == (done.code, done.out)
    assert "Too long, so compacted: a summary" in done.err
    roles = [role for role, _ in beginnings(server, 5)]
    assert ["user", "user", "assistant", "tool"] == roles
    assert ("user", "Look around") == beginnings(server, 5)[1]
    check_grammar(jsonl.read((cli.work / "run.jsonl").read_bytes()))
    assert 0 == cli("events", "validate", "run.jsonl").code
    again = cli("run", "-m", "replay:run.jsonl", "-t", "look.py", "Look around")
    assert (0, "Done.\n") == (again.code, again.out), again.err


def test_a_replay_compacts_where_the_run_did(cli: Cli, serve: Serve) -> None:
    """The record has the context window; its requests are compared with those of the replay."""
    usage = {"prompt_tokens": 1700, "completion_tokens": 5, "total_tokens": 1705}
    looks = [FakeReply.tool_calls(("look", {})) for _ in range(3)]
    serve(*looks[:2], FakeReply.chunks(*_look(usage)), answer("A summary."), answer("Done."), more=WINDOW)
    cli.file("look.py", LOOK)
    args = ("-t", "look.py", "Look around")
    done = cli("run", "-m", "local/m", "--record", "run.jsonl", *args)
    assert "near the limit" in done.err
    again = cli("run", "-m", "replay:run.jsonl", "--jsonl", *args)
    assert (0, "Done.") == (again.code, again.result["text"])
    assert "near the limit" in again.err
    without = cli("run", "-m", "replay:run.jsonl", "--no-compact", *args)
    assert 1 == without.code
    assert "is not the one recorded" in without.err


def _look(usage: dict[str, int]) -> list[dict[str, object]]:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    return [chat_chunk({"tool_calls": [call]}), chat_chunk({}, "tool_calls", usage=usage)]


def test_a_second_overflow_ends_the_run(cli: Cli, serve: Serve) -> None:
    """It ends as the error it is, and the session goes on with what is left."""
    server = serve(answer(ONE), answer("Two."), TOO_LONG, answer("They counted."), TOO_LONG, answer("Three."))
    assert 0 == cli("run", "-m", "local/m", "1").code
    assert 0 == cli("run", "-c", "2").code
    done = cli("run", "-c", "--jsonl", "3")
    assert (1, "context_overflow", 5) == (done.code, done.result["error"]["kind"], len(server.requests))
    check_grammar(jsonl.read(done.out))
    assert 0 == cli("run", "-c", "again").code
    assert "The earlier part of " == beginnings(server, 5)[0][1]
    assert 0 == cli("events", "validate", session_of(cli)).code


@pytest.mark.parametrize("bad", [answer(" "), FakeReply.error(400, "bad luck")], ids=["empty", "error"])
def test_a_summary_that_fails_loses_nothing(cli: Cli, serve: Serve, bad: FakeReply) -> None:
    """Near the limit the run goes on with the whole conversation, and says why."""
    server = serve(answer(ONE), answer("Two.", 1700), bad, answer("Three."), more=WINDOW)
    assert 0 == cli("run", "-m", "local/m", "1").code
    assert 0 == cli("run", "-c", "2").code
    done = cli("run", "-c", "3")
    assert (0, "Three.\n", 5) == (done.code, done.out, len(beginnings(server, 3)))
    assert "Warning: The conversation could not be compacted: " in done.err
    assert 0 == cli("events", "validate", session_of(cli)).code


def test_the_summary_counts_in_the_limits(cli: Cli, serve: Serve) -> None:
    """The result has its tokens, too; it is no turn."""
    usage = {"prompt_tokens": 1700, "completion_tokens": 5, "total_tokens": 1705}
    look = FakeReply.chunks(*_look(usage))
    first = [FakeReply.tool_calls(("look", {})), FakeReply.tool_calls(("look", {}))]
    serve(*first, look, answer("A summary.", 300), FakeReply.tool_calls(("look", {})), more=WINDOW)
    cli.file("look.py", LOOK)
    done = cli("run", "-m", "local/m", "-t", "look.py", "--max-total-tokens", "2010", "--json", "Look")
    result = json.loads(done.out)
    assert (4, 4, 5 + 5 + 1705 + 301 + 5) == (done.code, result["turns"], result["usage"]["total"])


@pytest.mark.parametrize(
    ("api", "wire"),
    [
        ("openai-completions", ChatWire()),
        ("anthropic-messages", AnthropicWire()),
        ("openai-responses", ResponsesWire()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_protocol_keeps_reasoning_and_results_with_their_calls(
    cli: Cli, serve: Serve, api: str, wire: Wire
) -> None:
    """The request after a compaction has whole turns, each with its signature, and the prompt before them."""
    looks = [
        wire.reply(
            Script(
                [
                    {"type": "thinking", "thinking": f"thought{n}", "thinking_signature": f"signed{n}"},
                    {"type": "tool_call", "id": f"call_{n}", "name": "look", "arguments": {}},
                ],
                "tool_use",
                {"input": 1700 if n == 2 else 100, "output": 10},
            )
        )
        for n in range(3)
    ]
    last = [
        wire.reply(Script([{"type": "text", "text": text}], "stop", {"input": 50, "output": 5}))
        for text in ("A summary.", "Done.")
    ]
    server = serve(*looks, *last, more=f'api = "{api}"\n{WINDOW}')
    cli.file("look.py", LOOK)
    done = cli(
        "run", "-m", "local/claude-sonnet-4", "-t", "look.py", "--thinking", "low", "--jsonl", "Look around"
    )
    assert (0, "Done.") == (done.code, done.result["text"]), done.err
    check_grammar(jsonl.read(done.out))
    body = server.requests[4].body.decode()
    kept = "thought2" if api == "openai-completions" else "signed2"
    for gone in ("signed0", "signed1", "thought0", "thought1", "call_0", "call_1"):
        assert gone not in body
    assert 2 == body.count("call_2")
    places = [body.index(text) for text in ("A summary.", "Look around", "call_2", "seen x")]
    assert places == sorted(places)
    assert body.index("Look around") < body.index(kept) < body.index("seen x")
    summary = server.requests[3].body.decode()
    assert "signed" not in summary
    assert "seen x" in summary


def test_images_are_not_sent_again_for_the_summary(cli: Cli, serve: Serve) -> None:
    """They are named; the last prompt keeps its image."""
    pixel = bytes.fromhex("89504e470d0a1a0a0000000d49484452")
    server = serve(answer(ONE), answer("Two.", 1700), answer("A summary."), answer("Three."), more=WINDOW)
    image = cli.file("dot.png", pixel)
    assert 0 == cli("run", "-m", "local/m", "-f", image, "1").code
    assert 0 == cli("run", "-c", "2").code
    assert 0 == cli("run", "-c", "-f", image, "3").code
    assert b"image/png" not in server.requests[2].body
    assert b"(an image)" in server.requests[2].body
    assert 1 == server.requests[3].body.count(b"image/png")


def test_the_window_is_that_of_the_stored_list(cli: Cli, serve: Serve) -> None:
    """`models list` stores it; --context-window takes precedence."""
    listed = FakeReply.json({"data": [{"id": "m", "context_length": 2000}]})
    server = serve(
        listed, answer(ONE), answer("Two.", 1700), answer("Three."), answer("A summary."), answer("4.")
    )
    assert 0 == cli("models", "list", "local").code
    assert 0 == cli("run", "-m", "local/m", "1").code
    assert 0 == cli("run", "-c", "2").code
    assert 0 == cli("run", "-c", "--context-window", "9000", "3").code
    assert "near the limit" in cli("run", "-c", "4", stdin=LONG.encode() * 3).err
    assert 6 == len(server.requests)


def test_an_interrupted_summary_leaves_a_valid_session(cli: Cli, serve: Serve) -> None:
    """The run ends as aborted, and the conversation is whole."""
    serve(answer(ONE), answer("Two.", 1700), FakeReply.chunks(chat_chunk("They"), Wait()), more=WINDOW)
    assert 0 == cli("run", "-m", "local/m", "1").code
    assert 0 == cli("run", "-c", "2").code
    process = cli.start("run", "-c", "--jsonl", "3")
    assert any(b'"compaction_start"' in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate()
    assert (130, False) == (process.returncode, b"compacted" in shown)
    assert 0 == cli("events", "validate", session_of(cli)).code
    server = serve(answer("Three."))
    assert 0 == cli("run", "-c", "again").code
    assert ["1", ONE[:20], "2", "Two.", "3", "again"] == [text for _, text in beginnings(server, 0)]


def test_a_closed_pipe_during_the_summary_ends_the_run(cli: Cli, serve: Serve) -> None:
    """The session is valid, and the next run sends the summary and the prompt that has no answer."""
    slow = FakeReply.chunks(chat_chunk("A summary."), Wait(), chat_chunk({}, "stop"))
    server = serve(answer(ONE), answer("Two.", 1700), slow, answer("Three."), more=WINDOW)
    assert 0 == cli("run", "-m", "local/m", "1").code
    assert 0 == cli("run", "-c", "2").code
    process = cli.start("run", "-c", "--jsonl", "3")
    assert any(b'"compaction_start"' in line for line in process.stdout)
    process.stdout.close()
    server.release()
    assert 141 == process.wait(SECONDS)
    assert 0 == cli("events", "validate", session_of(cli)).code
    assert 0 == cli("run", "-c", "again").code
    expected = ["The earlier part of ", "2", "Two.", "3", "again"]
    assert expected == [text for _, text in beginnings(server, 3)]


# ---- a chat --------------------------------------------------------------------------------------------


def _chat(cli: Cli, *args: str) -> Terminal:
    environment = {"PROMPT_TOOLKIT_NO_CPR": "1", "NO_COLOR": "1"}
    terminal = cli.on_terminal("chat", *args, environment=environment, columns=120)
    terminal.expect("/help shows the commands")
    return terminal


def _ask(terminal: Terminal, text: str, shown: str) -> None:
    terminal.type(text + "\r")
    terminal.expect(shown)
    terminal.expect_prompt()


def _leave(terminal: Terminal) -> None:
    terminal.type("\x04")
    assert 0 == terminal.end()


def test_a_chat_is_compacted_by_a_command(cli: Cli, serve: Serve) -> None:
    """The model gets the instructions; /undo takes the compaction back, and /cost has its tokens."""
    server = serve(answer(ONE), answer("Two."), answer("A summary.", 40), answer("Three."), answer("Four."))
    terminal = _chat(cli, "-m", "local/m")
    _ask(terminal, "/compact", "too short to compact")
    _ask(terminal, "1", "One.")
    _ask(terminal, "2", "Two.")
    _ask(terminal, "/compact Keep the numbers", "Compacted: a summary replaces 2 messages")
    _ask(terminal, "/cost", "2 prompts · 2 turns · 1 compaction · 42 tokens in")
    _ask(terminal, "3", "Three.")
    expected = [("user", "The earlier part of "), ("user", "2"), ("assistant", "Two."), ("user", "3")]
    assert expected == beginnings(server, 3)
    assert "Keep the numbers" in sent(server, 2)[-1][1]
    _ask(terminal, "/undo", "The last prompt and its reply are removed.")
    _ask(terminal, "/undo", "The compaction is undone.")
    _ask(terminal, "4", "Four.")
    _leave(terminal)
    assert ["1", ONE[:20], "2", "Two.", "4"] == [text for _, text in beginnings(server, 4)]
    path = session_of(cli)
    assert b"compaction" not in path.read_bytes()
    assert 0 == cli("events", "validate", path).code


def test_a_continued_chat_is_compacted_and_undone(cli: Cli, serve: Serve) -> None:
    """The compaction is in the session without a prompt after it; /undo also removes earlier runs."""
    server = serve(answer(ONE), answer("Two."), answer("A summary."), answer("Three."), answer("Four."))
    assert 0 == cli("run", "-m", "local/m", "1").code
    assert 0 == cli("run", "-c", "2").code
    terminal = _chat(cli, "-c")
    _ask(terminal, "/compact", "Compacted: a summary")
    _leave(terminal)
    assert 0 == cli("events", "validate", session_of(cli)).code
    terminal = _chat(cli, "-c")
    terminal.expect("with 3 messages")
    _ask(terminal, "3", "Three.")
    _ask(terminal, "/undo", "its reply are removed")
    _ask(terminal, "/undo", "The compaction is undone.")
    terminal.shown = b""
    _ask(terminal, "/undo", "its reply are removed")
    _ask(terminal, "/retry", "Four.")
    _ask(terminal, "/undo", "its reply are removed")
    terminal.type("/undo\r")
    terminal.expect("There is no prompt to remove.")
    _leave(terminal)
    assert ["1"] == [text for _, text in beginnings(server, 4)]
    assert 1 == len(session_of(cli).read_bytes().splitlines())


def test_a_compaction_is_stopped_and_what_was_typed_is_sent(cli: Cli, serve: Serve) -> None:
    """Ctrl-C stops it, the conversation is as it was, and a prompt typed meanwhile follows."""
    server = serve(
        answer(ONE),
        answer("Two."),
        FakeReply.chunks(chat_chunk("Three."), Wait(), chat_chunk({}, "stop")),
        answer("Three."),
    )
    terminal = _chat(cli, "-m", "local/m")
    _ask(terminal, "1", "One.")
    _ask(terminal, "2", "Two.")
    terminal.type("/compact\r")
    terminal.expect("compacting the conversation")
    terminal.type("3\r")
    terminal.expect("Sent after the compaction.")
    terminal.type("\x03")
    terminal.expect("Stopped. The conversation is as it was.")
    server.release()  # the request may not have been sent yet
    terminal.expect("Three.")
    terminal.expect_prompt()
    _leave(terminal)
    assert ["1", ONE[:20], "2", "Two.", "3"] == [text for _, text in beginnings(server, -1)]
    assert 0 == cli("events", "validate", session_of(cli)).code


def test_a_message_that_came_too_late_for_a_reply_is_sent_as_a_prompt(cli: Cli, serve: Serve) -> None:
    """With --max-turns 1 a reply has no next request, so each message starts a run."""
    first = FakeReply.chunks(chat_chunk("Once upon"), Wait(), chat_chunk(" a time."), chat_chunk({}, "stop"))
    server = serve(first, answer("A cat."), answer("A dog."))
    terminal = _chat(cli, "-m", "local/m", "--max-turns", "1")
    terminal.type("A story\r")
    terminal.expect("writing")
    terminal.type("with a cat\r")
    terminal.expect("Sent to the running reply.")
    terminal.type("and a dog\x1b\r")
    terminal.expect("Sent after the reply.")
    server.release()
    terminal.expect("A cat.")
    terminal.expect("A dog.")
    terminal.expect_prompt()
    _leave(terminal)
    assert ("user", "with a cat") == beginnings(server, 1)[-1]
    assert ("user", "and a dog") == beginnings(server, 2)[-1]
    assert [True] * 3 == [line["ok"] for line in read_lines(session_of(cli)) if line["type"] == "result"]
