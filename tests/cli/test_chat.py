"""`tinyagent chat` on a terminal."""

from __future__ import annotations

import re
import signal
import stat
from typing import Any

import pytest

from tinyagent.testing import FakeServer, Wait
from tinyagent.testing.server import chat_chunk

from .conftest import ROOT, TOOLS, Cli, FakeReply, Serve, Terminal, message_text, read_lines, sent
from .documents import blocks

ENTER, ALT_ENTER, UP, CTRL_C, CTRL_D, TAB = "\r", "\x1b\r", "\x1b[A", "\x03", "\x04", "\t"

SLOW = """
import asyncio
from pathlib import Path
from tinyagent import tool

@tool(read_only=True)
async def build():
    '''Build until the file `built` exists.'''
    while not Path("built").exists():
        await asyncio.sleep(0.01)
    return "built"
"""


NOTES = """
import time
from pathlib import Path
from tinyagent import PromptTemplate, PromptVariable, hookimpl

def fill_in(values):
    while values.get("style") == "slow":
        time.sleep(0.01)
    if values["topic"] == "nothing":
        raise ValueError("no such topic")
    return f"About {values['topic']}"

@hookimpl
def tinyagent_register_templates(register, requested):
    variables = (PromptVariable("topic", "What about"), PromptVariable("style", required=False))
    register(PromptTemplate("notes/ask", fill_in, "Ask about it", variables))
"""


def _chat(cli: Cli, *args: str, model: str = "local/m", **given: Any) -> Terminal:
    environment = {"PROMPT_TOOLKIT_NO_CPR": "1", "NO_COLOR": "1", **given.pop("environment", {})}
    chosen = ("-m", model) if model else ()
    terminal = cli.on_terminal("chat", *chosen, *args, environment=environment, **given)
    if model:
        terminal.expect("/help shows the commands")
    return terminal


def _ask(terminal: Terminal, text: str, answer: str) -> None:
    terminal.type(text + ENTER)
    terminal.expect(answer)
    terminal.expect_prompt()


def _session(cli: Cli) -> list[dict[str, Any]]:
    [path] = cli.sessions()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    return read_lines(path)


def test_a_chat_is_one_conversation_and_one_session(cli: Cli, serve: Serve) -> None:
    """Each prompt has the earlier ones before it; the session has a result for each, and can be continued."""
    server = serve(FakeReply.text("**Paris**"), FakeReply.text("Rome"), FakeReply.text("Bern"))
    terminal = _chat(cli)
    _ask(terminal, "France?", "Paris")
    _ask(terminal, "Italy?", "Rome")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert [("user", "France?"), ("assistant", "**Paris**"), ("user", "Italy?")] == sent(server, 1)
    assert b"**" not in terminal.shown
    types = [line["type"] for line in _session(cli)]
    assert ("session", 2, "result") == (types[0], types.count("result"), types[-1])
    assert "session" not in types[1:]
    assert 0 == cli("run", "-c", "Switzerland?").code
    assert 5 == len(sent(server, 2))
    assert 0 == cli("sessions", "show").code


def test_a_session_is_continued(cli: Cli, serve: Serve) -> None:
    """`-c` and `--session` take the conversation and the model of the session."""
    server = serve(FakeReply.text("Paris"), FakeReply.text("Rome"))
    assert 0 == cli("run", "-m", "local/m", "--session", "trip", "France?").code
    terminal = _chat(cli, "-c", model="")
    terminal.expect("with 2 messages")
    terminal.expect("Last prompt: France?")
    _ask(terminal, "Italy?", "Rome")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert 3 == len(sent(server, 1))


def test_ctrl_c_stops_the_reply_and_not_the_chat(cli: Cli, serve: Serve) -> None:
    """The text so far stays in the conversation, and the next prompt is answered."""
    reply = FakeReply.chunks(chat_chunk("Once upon"), Wait())
    server = serve(reply, FakeReply.text("Fine."))
    terminal = _chat(cli)
    terminal.type("A story" + ENTER)
    terminal.expect("Once upon")
    terminal.type(CTRL_C)
    terminal.expect("Stopped.")
    _ask(terminal, "Thanks", "Fine.")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert ("user", "Thanks") == sent(server, 1)[-1]
    assert [False, True] == [line["ok"] for line in _session(cli) if line["type"] == "result"]


def test_a_message_to_a_stopped_reply_is_not_lost(cli: Cli, serve: Serve) -> None:
    """The chat says that it was not sent, and Up brings it back."""
    server = serve(FakeReply.chunks(chat_chunk("Once upon"), Wait()), FakeReply.text("Fine."))
    terminal = _chat(cli)
    terminal.type("A story" + ENTER)
    terminal.expect("Once upon")
    terminal.type("with a cat" + ENTER)
    terminal.expect("Sent to the running reply.")
    terminal.type(CTRL_C)
    terminal.expect("1 message was not sent")
    _ask(terminal, UP, "Fine.")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert ("user", "with a cat") == sent(server, 1)[-1]


def test_an_error_is_wrapped_at_words(cli: Cli, serve: Serve) -> None:
    """In a chat and in a run, a long message is broken between its words; in a pipe it is one line."""
    message = "unbreakable " * 20
    reply = FakeReply.error(400, message)
    serve(reply, reply, reply)
    terminal = _chat(cli, columns=50)
    terminal.type("Hi" + ENTER)
    terminal.expect("Error:")
    terminal.expect_prompt()
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    run = cli.on_terminal("run", "-m", "local/m", "Hi", columns=50)
    assert 1 == run.end()
    for shown in (terminal, run):
        words = "\n".join(shown.screen(50, rows=200)).split()
        assert 20 == words.count("unbreakable"), words
    assert message.strip() in cli("run", "-m", "local/m", "Hi").err


def test_ctrl_c_removes_the_text(cli: Cli, serve: Serve) -> None:
    """Without a reply, Ctrl-C removes what was typed; without text it says how to leave."""
    server = serve(FakeReply.text("Fine."))
    terminal = _chat(cli)
    terminal.type("wrong" + CTRL_C)
    _ask(terminal, "right", "Fine.")
    terminal.type(CTRL_C)
    terminal.expect("Ctrl-D leaves the chat.")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert [("user", "right")] == sent(server, 0)


def test_what_is_typed_while_it_works_steers_or_follows(cli: Cli, serve: Serve) -> None:
    """Enter reaches the next request of the run, and Alt-Enter the one after its answer."""
    server = serve(
        FakeReply.tool_calls(("build", {})), FakeReply.text("Steered."), FakeReply.text("Followed.")
    )
    cli.file("slow.py", SLOW)
    terminal = _chat(cli, "-t", "slow.py")
    terminal.type("Build" + ENTER)
    terminal.expect("build")
    terminal.type("then pack" + ALT_ENTER)
    terminal.expect("Sent after the reply.")
    terminal.type("faster" + ENTER)
    terminal.expect("Sent to the running reply.")
    cli.file("built", "")
    terminal.expect("Followed.")
    terminal.expect_prompt()
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert ("user", "faster") == sent(server, 1)[-1]
    assert ("user", "then pack") == sent(server, 2)[-1]
    screen = terminal.screen(rows=200)
    answers = ["> faster", "Steered.", "> then pack", "Followed."]
    place = screen.index("Steered.") - 1
    assert answers == screen[place : place + 4], "each prompt is above its answer"


def test_a_tool_is_approved_in_the_chat(cli: Cli, serve: Serve) -> None:
    """The question is that of `run`, but for this chat; after it the prompt comes back."""
    serve(FakeReply.tool_calls(("write", {"text": "it"})), FakeReply.text("Done."), FakeReply.text("Bye."))
    cli.file("mytools.py", TOOLS)
    terminal = _chat(cli, "-t", "mytools.py")
    terminal.type("Write" + ENTER)
    terminal.expect("[a] always in this chat")
    terminal.expect("[e] always in this chat  [p] always in this project: ")
    terminal.type("y\n")
    terminal.expect("Done.")
    _ask(terminal, "Thanks", "Bye.")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert "it" == (cli.work / "written").read_text()


def test_ctrl_c_at_a_question_stops_the_reply(cli: Cli, serve: Serve) -> None:
    """The tool does not run, and the chat goes on."""
    serve(FakeReply.tool_calls(("write", {"text": "it"})), FakeReply.text("Bye."))
    cli.file("mytools.py", TOOLS)
    terminal = _chat(cli, "-t", "mytools.py")
    terminal.type("Write" + ENTER)
    terminal.expect("always in this project: ")
    terminal.type(CTRL_C)
    terminal.expect("Stopped.")
    _ask(terminal, "Thanks", "Bye.")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert not (cli.work / "written").exists()


@pytest.mark.parametrize(
    "keys",
    ["one\ntwo", f"one{ALT_ENTER}two", f"one\\{ENTER}two", "\x1b[200~one\r\ntwo\x1b[201~"],
    ids=["ctrl-j", "alt-enter", "backslash", "paste"],
)
def test_a_prompt_has_several_lines(cli: Cli, serve: Serve, keys: str) -> None:
    """Ctrl-J, Alt-Enter and a backslash make a new line; pasted lines are one prompt."""
    server = serve(FakeReply.text("Fine."))
    terminal = _chat(cli)
    _ask(terminal, keys, "Fine.")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert [("user", "one\ntwo")] == sent(server, 0)


def test_an_error_of_the_provider_does_not_end_the_chat(cli: Cli, serve: Serve) -> None:
    """It is shown, and /retry asks again, without the failed run."""
    server = serve(FakeReply.error(400, "bad luck"), FakeReply.text("Fine."))
    terminal = _chat(cli)
    _ask(terminal, "Hi", "bad luck")
    _ask(terminal, "/retry", "Fine.")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert [("user", "Hi")] == sent(server, 1)
    assert [True] == [line["ok"] for line in _session(cli) if line["type"] == "result"]


def test_a_prompt_that_is_too_long_can_be_removed(cli: Cli, serve: Serve) -> None:
    """The error names the commands that help, because every later prompt would fail, too."""
    server = serve(FakeReply.error(400, "maximum context length is 8 tokens"), FakeReply.text("Fine."))
    terminal = _chat(cli, columns=120)
    _ask(terminal, "long", "/undo removes the last prompt, /compact shortens the conversation")
    _ask(terminal, "/undo", "are removed")
    _ask(terminal, "short", "Fine.")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert [("user", "short")] == sent(server, 1)


def test_undo_removes_the_last_prompt_from_the_session(cli: Cli, serve: Serve) -> None:
    """Neither the next request nor the file has it."""
    server = serve(FakeReply.text("A."), FakeReply.text("B."), FakeReply.text("C."))
    terminal = _chat(cli)
    _ask(terminal, "one", "A.")
    _ask(terminal, "two", "B.")
    _ask(terminal, "/undo", "are removed")
    _ask(terminal, "three", "C.")
    _ask(terminal, "/cost", "cost unknown: there is no known price of local/m")
    terminal.expect("3 prompts · 3 turns · 9 tokens in, 6 out")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert [("user", "one"), ("assistant", "A."), ("user", "three")] == sent(server, 2)
    prompts = [line["message"] for line in _session(cli) if line["type"] == "message_end"]
    assert ["one", "A.", "three", "C."] == [message_text(message) for message in prompts]


def test_settings_change_in_the_chat(cli: Cli, serve: Serve) -> None:
    """/model, /tools, /system and /thinking hold for the next prompt."""
    server = serve(FakeReply.text("A."))
    cli.file("mytools.py", TOOLS)
    terminal = _chat(cli, model="demo")
    _ask(terminal, "/model local/gpt-5", "Model: local/gpt-5")
    _ask(terminal, "/model nosuch/m", "Error:")
    _ask(terminal, "/tools mytools.py", "write (asks)")
    _ask(terminal, "/system Be brief.", "System prompt: Be brief.")
    _ask(terminal, "/thinking high", "Thinking: high")
    _ask(terminal, "/thinking hard", "One of: off, minimal")
    _ask(terminal, "one", "A.")
    terminal.type("/quit" + ENTER)
    assert 0 == terminal.end()
    body = server.requests[0].json
    assert ("gpt-5", "high") == (body["model"], body["reasoning_effort"])
    assert ["look", "write"] == [tool["function"]["name"] for tool in body["tools"]]
    assert "Be brief." == message_text(body["messages"][0])


def test_sessions_are_named_forked_and_exported(cli: Cli, serve: Serve) -> None:
    """/save, /fork and /export work on the session of the chat."""
    serve(FakeReply.text("A."), FakeReply.text("B."))
    terminal = _chat(cli)
    _ask(terminal, "/save trip", "nothing to save yet")
    _ask(terminal, "one", "A.")
    _ask(terminal, "/save trip", "saved as trip")
    _ask(terminal, "/fork other", "goes on in the copy other")
    _ask(terminal, "two", "B.")
    _ask(terminal, "/export out.md", "The chat is in out.md")
    _ask(terminal, "/export out.md", "out.md exists")
    _ask(terminal, "/export out.jsonl", "The chat is in out.jsonl")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert b"Session other, to continue" in terminal.shown
    assert "two" not in cli("sessions", "show", "trip").out
    assert "two" in cli("sessions", "show", "other").out
    assert "## Assistant\n\nB." in (cli.work / "out.md").read_text()
    assert 0o600 == stat.S_IMODE((cli.work / "out.md").stat().st_mode)
    assert 2 == (cli.work / "out.jsonl").read_text().count('"type":"result"')


def test_a_new_conversation(cli: Cli, serve: Serve) -> None:
    """/new forgets the messages and begins another session. The last one stays, and a line names it."""
    server = serve(FakeReply.text("A."), FakeReply.text("B."))
    terminal = _chat(cli)
    _ask(terminal, "/new", "This is a new conversation.")
    _ask(terminal, "one", "A.")
    _ask(terminal, "/save trip", "saved as trip")
    _ask(terminal, "/new", "The last one: tinyagent chat --session trip")
    _ask(terminal, "/undo", "There is no prompt to remove.")
    _ask(terminal, "two", "B.")
    terminal.type("exit" + ENTER)
    assert 0 == terminal.end()
    assert ["two"] == [str(message["content"]) for message in server.requests[1].json["messages"]]
    assert "one" in cli("sessions", "show", "trip").out
    shown = cli("sessions", "show").out
    assert ("one" in shown, "two" in shown) == (False, True)


def test_unknown_commands_suggest(cli: Cli) -> None:
    """A typo names the nearest command, and a missing argument the form of the command."""
    terminal = _chat(cli, "--no-session", model="demo")
    _ask(terminal, "/exprt", "Did you mean /export?")
    _ask(terminal, "/clear", "Did you mean /new?")
    _ask(terminal, "/exit", "Did you mean /quit?")
    _ask(terminal, "/export", "Write it as /export FILE")
    _ask(terminal, "/undo 2", "/undo has no argument")
    _ask(terminal, "/undo", "There is no prompt to remove.")
    _ask(terminal, "/save x", "not saved as a session")
    _ask(terminal, "/help", "Alt-Enter")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert not list(cli.home.rglob("*")), "nothing is written"


def test_commands_and_files_are_completed(cli: Cli, serve: Serve) -> None:
    """Tab completes a command, and a file after @, whose content is then in the prompt."""
    server = serve(FakeReply.text("Fine."))
    cli.file("notes.txt", "Buy milk")
    terminal = _chat(cli)
    terminal.type("/thin")
    terminal.expect("Show how much")
    terminal.type(TAB)
    terminal.expect_prompt("> /thinking")
    _ask(terminal, " low", "Thinking: low")
    terminal.type("Read @not")
    terminal.expect("notes.txt")
    terminal.type(TAB)
    terminal.expect_prompt("> Read @notes.txt")
    _ask(terminal, "", "Fine.")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert b"Added notes.txt (8 bytes)." in terminal.shown
    assert "<file name='notes.txt'>\nBuy milk\n</file>\n\nRead @notes.txt" == sent(server, 0)[0][1]


def test_a_template_of_a_plugin_is_a_command(cli: Cli, serve: Serve) -> None:
    """Values are words NAME=VALUE, a missing one is asked for, and the text after them is sent, too."""
    cli.install("notes", NOTES, "inputs")
    server = serve(*[FakeReply.text(f"Answer {number}.") for number in (1, 2)])
    terminal = _chat(cli)
    terminal.type('/notes/ask topic="green tea" Be brief; don\'t argue.' + ENTER)
    terminal.expect("Answer 1.")
    terminal.expect_prompt()
    terminal.type("/notes/ask" + ENTER)
    terminal.expect("notes/ask needs a value for topic: What about")
    terminal.expect_prompt("topic:")
    terminal.type(ENTER)
    terminal.expect_prompt("topic:")
    terminal.type("/tools" + ENTER)
    terminal.expect("Answer 2.")
    terminal.expect_prompt()
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert ("user", "About green tea\n\nBe brief; don't argue.") == sent(server, 0)[-1]
    assert ("user", "About /tools") == sent(server, 1)[-1]


def test_a_template_that_is_not_sent(cli: Cli, serve: Serve) -> None:
    """Unknown names, failures and Ctrl-C leave the conversation as it was."""
    cli.install("notes", NOTES, "inputs")
    server = serve(FakeReply.text("Fine."))
    terminal = _chat(cli)
    _ask(terminal, "/notes/no", "no template of that name")
    _ask(terminal, "/notes/ask topik=x", "Its variables: topic, style.")
    _ask(terminal, "/notes/ask topic=nothing", "ValueError: no")
    terminal.type("/notes/ask" + ENTER)
    terminal.expect_prompt("topic:")
    terminal.type(CTRL_C)
    terminal.expect("Stopped.")
    terminal.expect_prompt()
    terminal.type("/notes/ask topic=x style=slow" + ENTER)
    terminal.expect("Waiting for the plugin. Ctrl-C stops it.")
    terminal.type("Hello" + ENTER)
    terminal.expect("Sent to the running reply.")
    terminal.type(CTRL_C)
    terminal.expect("1 message was not sent")
    terminal.expect_prompt()
    _ask(terminal, "Again", "Fine.")
    terminal.type("/notes/ask topic=x style=slow" + ENTER)
    terminal.expect_prompt()
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert [("user", "Again")] == sent(server, 0)


def test_templates_are_listed_and_completed(cli: Cli, serve: Serve) -> None:
    """`/templates` asks the plugins; after it, Tab completes the names and the variables."""
    terminal = _chat(cli, model="demo")
    _ask(terminal, "/templates", "No plugin offers templates.")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    cli.install("notes", NOTES, "inputs")
    terminal = _chat(cli, model="demo")
    _ask(terminal, "/templates", "/notes/ask  topic=… [style=…]: Ask about it")
    terminal.type("/not")
    terminal.expect_prompt("> /not")
    terminal.type(TAB)
    terminal.expect_prompt("> /notes/ask")
    terminal.type(" st")
    terminal.expect(" style=")
    terminal.type(TAB)
    terminal.expect_prompt("> /notes/ask style=")
    _ask(terminal, "short topic=tea", "You said: About tea")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()


def test_a_small_window_shows_the_completion(cli: Cli) -> None:
    """The menu takes the lines that there are."""
    terminal = _chat(cli, model="demo", rows=7)
    terminal.type("/")
    terminal.expect("go on with another one")
    terminal.type(CTRL_C + CTRL_D)
    assert 0 == terminal.end()
    assert b"too small" not in terminal.shown


def test_the_history_of_prompts_is_private_and_lasts(cli: Cli, serve: Serve) -> None:
    """Up shows the prompts of earlier chats."""
    server = serve(FakeReply.text("Fine."), FakeReply.text("Again."))
    (cli.home / "chat-history").touch(mode=0o644)
    for answer, keys in (("Fine.", "A prompt"), ("Again.", UP)):
        terminal = _chat(cli)
        _ask(terminal, keys, answer)
        terminal.type(CTRL_D)
        assert 0 == terminal.end()
    assert [("user", "A prompt")] == sent(server, 1)
    assert 0o600 == stat.S_IMODE((cli.home / "chat-history").stat().st_mode)


def test_a_history_that_cannot_be_written_is_a_warning(cli: Cli, serve: Serve) -> None:
    """The chat goes on without it."""
    serve(FakeReply.text("Fine."))
    (cli.home / "chat-history").mkdir()
    terminal = _chat(cli)
    _ask(terminal, "Hi", "Fine.")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert b"Warning: The history of prompts is not saved" in terminal.shown


def test_a_signal_ends_the_chat_and_its_session(cli: Cli, serve: Serve) -> None:
    """SIGTERM ends a running reply; the session has its result."""
    serve(FakeReply.chunks(chat_chunk("Once upon"), Wait()))
    terminal = _chat(cli)
    terminal.type("A story" + ENTER)
    terminal.expect("Once upon")
    terminal.process.send_signal(signal.SIGTERM)
    assert 143 == terminal.end()
    assert "result" == _session(cli)[-1]["type"]


def test_ctrl_d_leaves_while_it_works(cli: Cli, serve: Serve) -> None:
    """The reply is stopped and saved."""
    serve(FakeReply.chunks(chat_chunk("Once upon"), Wait()))
    terminal = _chat(cli)
    terminal.type("A story" + ENTER)
    terminal.expect("Once upon")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert ["message_end", "result"] == [
        line["type"] for line in _session(cli) if line["type"] in ("message_end", "result")
    ][-2:]


def test_a_time_limit_is_one_of_each_reply(cli: Cli, serve: Serve) -> None:
    """--timeout ends the reply, and not the chat."""
    serve(FakeReply.chunks(chat_chunk("Once upon"), Wait()), FakeReply.text("Fine."))
    terminal = _chat(cli, "--timeout", "1")
    _ask(terminal, "A story", "longer than 1 s (--timeout)")
    _ask(terminal, "Hi", "Fine.")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()


def test_a_chat_needs_a_terminal(cli: Cli) -> None:
    """In a pipe it is an error that names `run`."""
    done = cli("chat", "-m", "demo", stdin=b"Hi")
    assert 2 == done.code
    assert "needs a terminal" in done.err
    assert "tinyagent run" in done.err


def _models(*names: str) -> FakeReply:
    return FakeReply.json({"object": "list", "data": [{"id": name} for name in names]})


def test_a_chat_without_a_model_helps_to_choose_one(cli: Cli) -> None:
    """It asks for provider, key and model, and stores them. A refused key is replaced, and none is shown."""
    with FakeServer(FakeReply.error(401, "bad key"), _models("gpt-a", "gpt-b-mini", "gpt-b")) as server:
        terminal = _chat(cli, model="", environment={"OPENAI_BASE_URL": server.url})
        terminal.expect("Provider (number or name)")
        terminal.type("opnai" + ENTER)
        terminal.expect("Did you mean 'openai'?")
        terminal.expect_prompt("Provider (number or name): ")
        terminal.type("openai" + ENTER)
        terminal.expect("Key of openai")
        terminal.type("sk-test-CANARY-00000" + ENTER)
        terminal.expect("bad key")
        terminal.expect_prompt("Key of openai (it is not shown): ")
        terminal.type("sk-test-CANARY-12345" + ENTER)
        terminal.expect("  3  gpt-b-mini")
        terminal.type("gpt-b-" + ENTER)
        terminal.expect("from now on? [Y/n]")
        terminal.type("maybe" + ENTER)
        terminal.expect_prompt("Use openai/gpt-b-mini from now on? [Y/n]: ")
        terminal.type(ENTER)
        terminal.expect("/help shows the commands")
        terminal.type(CTRL_D)
        assert 0 == terminal.end()
        assert ["Bearer sk-test-CANARY-00000", "Bearer sk-test-CANARY-12345"] == [
            request.headers["authorization"] for request in server.requests
        ]
    assert b"CANARY" not in terminal.shown
    assert 0o600 == stat.S_IMODE((cli.home / "keys.toml").stat().st_mode)
    assert "openai/gpt-b-mini\n" == cli("models", "default").out


def test_ctrl_c_skips_the_list_of_models(cli: Cli, serve: Serve) -> None:
    """A provider that does not answer does not hold up the choice; any id can be typed."""
    serve(FakeReply((Wait(),)))
    terminal = _chat(cli, model="", columns=60)
    terminal.expect("Provider (number or name)")
    shown = terminal.screen(60)
    assert "  2  local: from your configuration" in shown
    assert ["Ctrl-D leaves.", "  1  demo: offline and scripted, to try the program without"] == shown[1:3]
    terminal.type("2" + ENTER)
    terminal.expect("Ctrl-C skips this")
    terminal.type(CTRL_C)
    terminal.expect("Skipped.")
    terminal.expect_prompt("Model: ")
    terminal.type("two words" + ENTER)
    terminal.expect("has no blanks")
    terminal.expect_prompt("Model: ")
    terminal.type("own" + ENTER)
    terminal.expect("Use local/own from now on")
    terminal.type("n" + ENTER)
    terminal.expect("/help shows the commands")
    terminal.type(CTRL_D)
    assert 0 == terminal.end()
    assert 3 == cli("models", "default").code


def test_a_local_server_that_does_not_run(cli: Cli) -> None:
    """The choice of a model asks whether it runs; any id can be typed."""
    cli.config('[providers.local]\nbase_url = "http://127.0.0.1:1/v1"\n')
    terminal = _chat(cli, model="", columns=120)
    terminal.expect("Provider (number or name)")
    terminal.type("local" + ENTER)
    terminal.expect("Warning: local does not list its models: cannot connect to http://127.0.0.1:1")
    terminal.expect("Is the server running?")
    terminal.expect_prompt("Model: ")
    terminal.type(CTRL_D)
    assert 3 == terminal.end()


def test_leaving_the_choice_of_a_model_is_an_error(cli: Cli) -> None:
    """Also beside an answer that is proposed or half typed. The message shows the other ways."""
    terminal = _chat(cli, model="")
    terminal.expect("Provider (number or name)")
    terminal.type("oll" + CTRL_D)
    assert 3 == terminal.end()
    assert b"No model was chosen" in terminal.shown


def test_the_command_alone_says_how_to_begin(cli: Cli) -> None:
    """On a terminal, `tinyagent` names `chat` and `run`, and that a chat without a model chooses one."""
    terminal = cli.on_terminal(columns=60)
    assert 2 == terminal.end()
    shown = terminal.screen(60)
    assert "  tinyagent chat              talk with a model; the first" == shown[1]
    assert "tinyagent chat -m demo" in "\n".join(shown)
    cli.config('[run]\nmodel = "local/m"\n')
    terminal = cli.on_terminal()
    assert 2 == terminal.end()
    assert "  tinyagent chat              talk with a model" == terminal.screen()[1]


def test_the_commands_of_the_documentation_exist(cli: Cli) -> None:
    """Each line of the blocks of docs/chat.md starts a chat, and its table has all commands."""
    from tinyagent_cli.chat.commands import COMMANDS

    page = ROOT / "docs" / "chat.md"
    lines = [line for block in blocks(page) for line in block.text.splitlines()]
    cli.config('[run]\nmodel = "demo"\n')
    for line in lines:
        args = line.partition("#")[0].split()
        assert ["tinyagent", "chat"] == args[:2]
        terminal = _chat(cli, *args[2:], model="")
        terminal.expect("/help shows the commands")
        _ask(terminal, "Hello", "You said: Hello")
        terminal.type(CTRL_D)
        assert 0 == terminal.end()
    assert list(COMMANDS) == re.findall(r"^\| `/(\w+)", page.read_text(encoding="utf-8"), re.MULTILINE)
