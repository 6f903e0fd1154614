"""What standard error shows on a terminal while a run works."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable

import pytest

from tinyagent.testing import Wait
from tinyagent.testing.server import chat_chunk
from tinyagent_cli.terminal.activity import call_line, with_update
from tinyagent_cli.terminal.live import LiveLines
from tinyagent_cli.terminal.wrapping import fit

from .conftest import Cli, FakeReply, Serve

RUN = ("run", "-m", "local/m", "-t", "mytools.py")
TOOLS = '''
import asyncio
from pathlib import Path
from tinyagent import tool

async def until(name):
    while not Path(name).exists():
        await asyncio.sleep(0.01)

@tool(read_only=True)
async def build(target: str, jobs: int = 1):
    """Build until the file `built` exists."""
    yield "\\n".join(f"\\x1b]0;owned\\x07step {n} 編譯" for n in range(9))
    await until("built")
    yield "all of it"

@tool(read_only=True)
def fail(path: str) -> str:
    """Fail."""
    raise OSError(f"no {path}\\x1b[2J\\nsecond line")

@tool
def change(what: str) -> str:
    """Change something."""
    return "changed"
'''
PROMPT_TO_END = re.compile(r"^local/m · 3 tokens in, 2 out · \d+\.\d s$")


@pytest.fixture
def tools(cli: Cli) -> None:
    """Write the tools."""
    cli.file("mytools.py", TOOLS)


@pytest.mark.usefixtures("tools")
def test_a_spinner_says_what_is_awaited(cli: Cli, serve: Serve) -> None:
    """First the connection, then the first token; at the end only the reply and the closing line are left."""
    reply = FakeReply.chunks(Wait(), chat_chunk("Hello"), *FakeReply.text().steps[:-1])
    server = serve(FakeReply([Wait()], head=b""), reply)
    terminal = cli.on_terminal(*RUN, "Hi")
    terminal.expect("connecting to local/m")
    server.release()
    terminal.expect("waiting for the first token")
    server.release()
    assert 0 == terminal.end()
    shown = terminal.screen()
    assert "Hello" == shown[-2]
    assert PROMPT_TO_END.match(shown[-1])


class Timers:
    """An event loop whose clock a test advances."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, function: Callable[[], None]) -> Timers:
        """Note what is to be called."""
        self.waiting.append((seconds, function))
        return self

    def cancel(self) -> None:
        """Forget it."""
        self.waiting.clear()

    def fire(self) -> float:
        """Call the function. Return how many seconds it has waited."""
        seconds, function = self.waiting.pop()
        function()
        return seconds


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    """The timers of the running event loop."""
    loop = Timers()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    return loop


def test_a_short_wait_shows_nothing(capfd: pytest.CaptureFixture[str], timers: Timers) -> None:
    """Lines appear after 0.3 s, change every 0.1 s and disappear; a shorter wait draws nothing."""
    live = LiveLines(lambda width: ["a", "b"], lambda: True)
    live.show()
    live.hide()
    assert ("", []) == (capfd.readouterr().err, timers.waiting)
    live.show()
    assert 0.3 == timers.fire()
    assert "\r \x1b[J\ra\r\nb\x1b[1A\r" == capfd.readouterr().err
    assert 0.1 == timers.fire()
    live.erase()
    live.hide()
    assert capfd.readouterr().err.endswith("\r \x1b[J\r")
    assert [] == timers.waiting


def test_nothing_is_drawn_in_an_unfinished_line(capfd: pytest.CaptureFixture[str], timers: Timers) -> None:
    """Text that has no line break yet would be erased."""
    LiveLines(lambda width: ["a"], lambda: False).show()
    timers.fire()
    assert "" == capfd.readouterr().err


@pytest.mark.usefixtures("tools")
def test_a_tool_shows_its_last_lines_and_then_one_line(cli: Cli, serve: Serve) -> None:
    """The last three lines of the output are live; then the call has its name, arguments and time."""
    serve(FakeReply.tool_calls(("build", {"target": "漢字", "jobs": 2})), FakeReply.text("Done."))
    terminal = cli.on_terminal(*RUN, "Hi", columns=40)
    terminal.expect("step 8")
    shown = terminal.screen(40)
    assert ["  step 6 編譯", "  step 7 編譯", "  step 8 編譯"] == shown[-3:]
    assert re.fullmatch(r"⠋?.* build 漢字 jobs=2( \d+ s)?", shown[-4])
    cli.file("built", "")
    assert 0 == terminal.end()
    first, reply, *_ = terminal.screen(40)
    assert re.fullmatch(r"✓ build 漢字 jobs=2 \d+\.\d s", first)
    assert "Done." == reply
    assert b"owned" not in terminal.shown


@pytest.mark.usefixtures("tools")
def test_a_failure_is_shown_in_its_place(cli: Cli, serve: Serve) -> None:
    """The lines of the error are below the call, without control sequences."""
    serve(FakeReply.tool_calls(("fail", {"path": "a"})), FakeReply.text("Done."))
    terminal = cli.on_terminal(*RUN, "Hi")
    assert 0 == terminal.end()
    assert re.fullmatch(r"✗ fail a \d+\.\d s", terminal.screen()[0])
    assert ["  OSError: no a", "  second line", "Done."] == terminal.screen()[1:4]


@pytest.mark.usefixtures("tools")
def test_nothing_moves_while_the_user_is_asked(cli: Cli, serve: Serve) -> None:
    """The spinner is erased before a question, and the answer is not overwritten."""
    serve(FakeReply.tool_calls(("change", {"what": "it"})), FakeReply.text("Done."))
    terminal = cli.on_terminal(*RUN, "Hi")
    terminal.expect("Run change?")
    terminal.expect("This exact call: ")
    terminal.expect("project: ")
    before = len(terminal.shown)
    terminal.type("y\n")
    assert 0 == terminal.end()
    assert terminal.shown[before:].startswith(b"y\r\n")
    assert re.search(r"✓ change it \d+\.\d s", "\n".join(terminal.screen()))


@pytest.mark.usefixtures("tools")
def test_a_retry_is_noted_and_awaited(cli: Cli, serve: Serve) -> None:
    """The reason stays on the screen, and the spinner shows that the request is repeated."""
    server = serve(
        FakeReply.error(503, "busy"), FakeReply([Wait()], head=b""),
        FakeReply.text("Hello"),
    )  # fmt: skip
    terminal = cli.on_terminal(*RUN, "Hi")
    terminal.expect("retrying local/m")
    server.release()
    assert 0 == terminal.end()
    assert terminal.screen()[0].startswith("Retrying in ")


@pytest.mark.usefixtures("tools")
def test_lines_follow_the_width(cli: Cli, serve: Serve) -> None:
    """After a change of the size, the next redraw fits."""
    serve(FakeReply.tool_calls(("build", {"target": "x" * 150})), FakeReply.text("Done."))
    terminal = cli.on_terminal(*RUN, "Hi", columns=200)
    terminal.expect("x" * 150)
    terminal.resize(40)
    terminal.expect("x" * 20 + "…")
    cli.file("built", "")
    assert 0 == terminal.end()


@pytest.mark.parametrize("plain", [(), ("--plain",)])
def test_reasoning_is_above_the_text_that_comes_after_it(
    cli: Cli, serve: Serve, plain: tuple[str, ...]
) -> None:
    """-v shows it in a live run and in `sessions show`, which has no deltas."""
    serve(
        FakeReply.chunks(chat_chunk({"reasoning_content": "Hm."}), chat_chunk("Yes"), chat_chunk({}, "stop"))
    )
    for args in (("run", "-m", "local/m", "Hi"), ("sessions", "show")):
        terminal = cli.on_terminal(*args, "-v", *plain)
        assert 0 == terminal.end()
        screen = terminal.screen()
        assert 1 == screen.index("Yes") - screen.index("∴ Hm.")


@pytest.mark.parametrize("columns", [40, 60])
def test_the_closing_line_fits_into_a_narrow_terminal(cli: Cli, serve: Serve, columns: int) -> None:
    """It is broken between its parts."""
    serve(FakeReply.text("Done."))
    terminal = cli.on_terminal("run", "-m", f"local/{'m' * 20}", "Hi", columns=columns)
    assert 0 == terminal.end()
    reply, model, *rest = terminal.screen(columns=columns)
    assert ("Done.", f"local/{'m' * 20}") == (reply, model.partition(" · ")[0])
    assert all(line == line.strip(" ·") for line in (model, *rest))


@pytest.mark.parametrize(
    ("updates", "shown"),
    [
        (["a\n", "b\n", "c\nd\n"], "a\nb\nc\nd\n"),
        (["a\n", "a\nb\n", "a\nb\nc\n"], "a\nb\nc\n"),
        (["10 %", "20 %"], "10 %\n20 %"),
        (["x" * 5_000], "x" * 4_000),
    ],
)
def test_updates_with_new_or_with_all_output_are_shown(updates: list[str], shown: str) -> None:
    """A tool may report what is new, or everything so far."""
    output = ""
    for update in updates:
        output = with_update(output, update)
    assert shown == output


COMMANDS = """
from tinyagent import tool
from tinyagent.agent_types import AgentToolResult

@tool(read_only=True)
async def sh(code: int, ended_by: str):
    '''Run a command.'''
    text = [{"type": "text", "text": f"it ended by {ended_by}"}]
    return AgentToolResult(text, {"exit_code": code, "ended_by": ended_by})
"""


def test_a_command_that_failed_or_was_stopped_is_marked(cli: Cli, serve: Serve) -> None:
    """For the model the call is no error, but the user sees a cross and the end of the output."""
    cli.file("commands.py", COMMANDS)
    ends = [(0, "exit"), (1, "exit"), (0, "aborted")]
    calls = [("sh", {"code": code, "ended_by": end}) for code, end in ends]
    serve(FakeReply.tool_calls(*calls), FakeReply.text("Done."))
    terminal = cli.on_terminal("run", "-m", "local/m", "-t", "commands.py", "Hi")
    assert 0 == terminal.end()
    shown = terminal.screen()
    marks = ["✓ sh code=0", "✗ sh code=1", "✗ sh code=0"]
    assert marks == [line[:11] for line in shown if " sh " in line]
    assert "  it ended by aborted" in shown
    [session] = cli.sessions()
    assert marks == [line[:11] for line in cli("events", "tools", session).out.splitlines()[::2]]


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("flags", [("-q",), ("-q", "-v")])
def test_quiet_shows_only_the_reply(cli: Cli, serve: Serve, flags: tuple[str, ...]) -> None:
    """-q removes the spinner, the tool calls and the closing line."""
    serve(FakeReply.tool_calls(("fail", {"path": "a"})), FakeReply.text("Done."))
    terminal = cli.on_terminal(*RUN, *flags, "Hi")
    assert 0 == terminal.end()
    assert b"Done.\r\n" == terminal.shown


@pytest.mark.usefixtures("tools")
def test_a_dumb_terminal_gets_lines(cli: Cli, serve: Serve) -> None:
    """Without a movable cursor, a call has a line when it starts and one when it ends, without escapes."""
    serve(FakeReply.tool_calls(("fail", {"path": "a"})), FakeReply.text("Done."))
    terminal = cli.on_terminal(*RUN, "Hi", environment={"TERM": "dumb"})
    assert 0 == terminal.end()
    assert re.match(r"→ fail a\r\n✗ fail a \d+\.\d s\r\n", terminal.shown.decode())
    assert b"\x1b" not in terminal.shown


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(("flag", "variable"), [("--no-color", {}), ("-v", {"NO_COLOR": "1"})])
def test_without_colours(cli: Cli, serve: Serve, flag: str, variable: dict[str, str]) -> None:
    """Only the cursor moves."""
    serve(FakeReply.tool_calls(("fail", {"path": "a"})), FakeReply.text("Done."))
    terminal = cli.on_terminal(*RUN, flag, "Hi", environment=variable)
    assert 0 == terminal.end()
    assert [] == re.findall(rb"\x1b\[[0-9;]*m", terminal.shown)


@pytest.mark.usefixtures("tools")
def test_a_pipe_gets_the_bytes_while_standard_error_is_a_terminal(cli: Cli, serve: Serve) -> None:
    """The spinner does not reach standard output."""
    serve(FakeReply.text("\x1b[31mred"))
    terminal = cli.on_terminal(*RUN, "Hi", stdout=subprocess.PIPE)
    assert terminal.process.stdout is not None
    assert b"\x1b[31mred\n" == terminal.process.stdout.read()
    assert 0 == terminal.end()
    assert 1 == len(terminal.screen())


@pytest.mark.usefixtures("tools")
def test_interrupting_a_wait_leaves_no_spinner(cli: Cli, serve: Serve) -> None:
    """Ctrl-C erases the spinner, is no error, and the session can be continued."""
    serve(FakeReply([Wait()], head=b""))
    terminal = cli.on_terminal(*RUN, "Hi")
    terminal.expect("connecting")
    terminal.type("\x03")
    assert 130 == terminal.end()
    assert "connecting" not in "\n".join(terminal.screen())
    assert ["Interrupted.", "To continue: tinyagent run -c"] == terminal.screen()[-2:]
    assert "Error" not in "\n".join(terminal.screen())


CALLS: dict[str, tuple[dict[str, object], str]] = {
    "one text": ({"command": "ls -la\nwc"}, "t ls -la wc"),
    "several": ({"path": "a b", "limit": 3, "deep": {"x": [1]}}, 't a b limit=3 deep={"x":[1]}'),
    "a number first": ({"a": 1, "b": "two"}, "t a=1 b=two"),
    "none": ({}, "t"),
    "control characters": ({"\x1b[2Jk": 1, "b": "\x1b]0;t\x07x\u202e"}, "t k=1 b=x"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_one_line(name: str) -> None:
    """The first argument is shown without its name if it is a text."""
    args, shown = CALLS[name]
    assert shown == call_line("t", args)


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("漢字漢字", 5, "漢字…"), ("漢字", 4, "漢字"), ("abc", 0, "…")],
)
def test_a_line_is_cut_by_columns(text: str, width: int, shown: str) -> None:
    """Wide characters take two columns."""
    assert shown == fit(text, width)
