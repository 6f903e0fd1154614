"""Approvals of tool calls: refusals, questions and rules."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

import tinyagent_cli.run.approvals as approvals_module
from tinyagent.agent_types import AgentContext, AgentTool, CallSandbox, ToolCallInfo
from tinyagent.errors import ConfigurationError
from tinyagent.sandbox import find_sandbox
from tinyagent.testing import FakeServer, assistant
from tinyagent_cli.plugins.tool_sources import ToolSource
from tinyagent_cli.run.approval_store import ApprovalStore, current_project, fingerprint
from tinyagent_cli.run.approvals import Approvals, Asked, Question, question

from .conftest import TOOLS, Cli, FakeReply, Serve, read_lines, tool_result

RUN = ("run", "-m", "local/m", "-t", "mytools.py")


@pytest.fixture
def server(cli: Cli, serve: Serve) -> FakeServer:
    """A model that calls `write` twice and then answers, and a file with tools."""
    cli.file("mytools.py", TOOLS)
    return serve(
        FakeReply.tool_calls(("write", {"text": "one"})),
        FakeReply.tool_calls(("write", {"text": "two"})),
        FakeReply.text("Done."),
    )


def written(cli: Cli) -> str:
    """Return the text that the tool has written."""
    path = cli.work / "written"
    return path.read_text() if path.exists() else ""


# ---- without a terminal -------------------------------------------------------------------------------


@pytest.mark.usefixtures("new_processes")
def test_without_a_terminal_it_is_refused(cli: Cli, server: FakeServer) -> None:
    """A call is refused without a terminal, and the model and the user read how to allow it."""
    process = cli.start(*RUN, "Write", start_new_session=True)
    out, err = process.communicate(timeout=60)
    assert (0, b"Done.\n", "") == (process.returncode, out, written(cli))
    assert "there is no terminal to ask the user on" in tool_result(server, 1)
    assert "--allow write" in tool_result(server, 1)
    assert b"--allow write" in err


def test_a_run_that_ends_without_an_answer_after_refusals_is_incomplete(cli: Cli, serve: Serve) -> None:
    """The exit code is 4 if the model does not answer after a refusal."""
    cli.file("mytools.py", TOOLS)
    serve(FakeReply.tool_calls(("write", {"text": "one"})), FakeReply.text(""))
    done = cli(*RUN, "--jsonl", "--deny", "write", "Write")
    assert (4, "tool_refused") == (done.code, done.result["error"]["kind"])


@pytest.mark.parametrize(
    "flags", [["-y"], ["--allow", "write"], ["--allow", "wr*"], ["--yes", "--deny", "look"]], ids=" ".join
)
def test_allowed_by_a_flag(cli: Cli, server: FakeServer, flags: list[str]) -> None:
    """-y allows every tool; --allow takes a name or a pattern."""
    assert (0, "Done.\n") == cli(*RUN, *flags, "Write")[:2]
    assert "onetwo" == written(cli)


@pytest.mark.parametrize("flags", ["-y --deny write", "--allow write --deny w*"])
def test_deny_wins(cli: Cli, server: FakeServer, flags: str) -> None:
    """--deny takes precedence over every other rule."""
    assert 0 == cli(*RUN, *flags.split(), "Write").code
    assert "" == written(cli)
    assert "does not allow the tool 'write'" in tool_result(server, 1)


def test_deny_holds_for_read_only_tools(cli: Cli, serve: Serve) -> None:
    """A denied tool is not run, even if it is read-only."""
    cli.file("mytools.py", TOOLS)
    server = serve(FakeReply.tool_calls(("look", {})), FakeReply.text("Done."))
    assert 0 == cli(*RUN, "--deny", "look", "Look").code
    assert "does not allow" in tool_result(server, 1)


def test_the_user_may_allow_in_the_configuration_and_the_project_may_deny(
    cli: Cli, server: FakeServer
) -> None:
    """`[run] deny` of a project takes precedence over `[run] allow` of the user."""
    config = (cli.home / "config.toml").read_text()
    cli.config(f'[run]\nallow = ["write"]\n{config}')
    assert 0 == cli(*RUN, "Write").code
    assert "onetwo" == written(cli)
    cli.file("tinyagent.toml", '[run]\ndeny = ["write"]\n')
    server.add(FakeReply.tool_calls(("write", {"text": "three"})), FakeReply.text("Done."))
    assert 0 == cli(*RUN, "Write").code
    assert "onetwo" == written(cli)


# ---- on a terminal --------------------------------------------------------------------------------------


def test_asked_on_the_terminal(cli: Cli, server: FakeServer) -> None:
    """`y` runs one call and the next one is asked again; `n` refuses it and tells the model."""
    terminal = cli.on_terminal(*RUN, "Write")
    terminal.expect(
        "  text: one\r\nThere is no sandbox: the tool has all your permissions.\r\nRun write? [y] once"
    )
    terminal.type("y\n")
    terminal.expect("text: two")
    terminal.type("n\n")
    assert 0 == terminal.end()
    assert "one" == written(cli)
    assert "the user declined" in tool_result(server, 2)


def test_always_is_not_asked_again(cli: Cli, server: FakeServer) -> None:
    """`a` allows the tool for the rest of the run."""
    terminal = cli.on_terminal(*RUN, "Write")
    terminal.expect("[a] always")
    terminal.type("a\n")
    assert 0 == terminal.end()
    assert ("onetwo", 1) == (written(cli), terminal.shown.count(b"[a] always"))


@pytest.mark.parametrize("answer", ["\n", "yup\n", "\x04"], ids=["nothing", "something else", "end of file"])
def test_anything_but_yes_is_no(cli: Cli, server: FakeServer, answer: str) -> None:
    """Only `y`, `yes`, `a` and `always` allow a call."""
    terminal = cli.on_terminal(*RUN, "Write")
    for _ in range(2):
        terminal.expect("Run write?")
        terminal.shown = b""
        terminal.type(answer)
    assert 0 == terminal.end()
    assert "" == written(cli)


def test_the_terminal_is_asked_and_not_standard_input(cli: Cli, server: FakeServer) -> None:
    """The question is on the terminal, even if standard input and output are pipes."""
    terminal = cli.on_terminal(*RUN, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert terminal.process.stdin is not None
    terminal.process.stdin.write(b"y\ny\ny\n")
    terminal.process.stdin.close()
    terminal.expect("Run write?")
    terminal.type("a\n")
    assert 0 == terminal.end()
    assert "onetwo" == written(cli)
    assert b"Run write?" not in terminal.process.stdout.read()  # type: ignore[union-attr]


def a_call(arguments: dict[str, Any]) -> ToolCallInfo:
    """Return a call of the tool `shell`."""
    tool = AgentTool(name="shell", description="", parameters={})
    return ToolCallInfo(tool, "call_1", arguments, assistant("…"), AgentContext(messages=[]))


def asked(arguments: dict[str, Any]) -> Asked:
    """Return a question about such a call."""
    return Asked(a_call(arguments), ["yes", "always", "exact", "project"], "There is no sandbox.")


def test_the_question_shows_exactly_what_would_be_run(cli: Cli, serve: Serve) -> None:
    """Escapes, backspaces, bidi controls and invisible characters in arguments are shown as escapes."""
    cli.file("mytools.py", TOOLS)
    evil = "rm -rf ~ #\x1b[2K\x1b[1Gls\x08\x08 \u202e\u200b\U000e0041\r\nnext"
    serve(FakeReply.tool_calls(("write", {"text": evil})), FakeReply.text("Done."))
    terminal = cli.on_terminal(*RUN, "Write")
    terminal.expect("Run write?")
    shown = terminal.shown.decode()
    question = shown[shown.index("The model wants") :]
    assert "│ rm -rf ~ #⟨\\x1b⟩[2K⟨\\x1b⟩[1Gls⟨\\x08\\x08⟩ ⟨\\u202e\\u200b\\U000e0041\\x0d⟩\r\n" in question
    assert "│ next\r\n" in question
    assert [] == [c for c in question if not (c.isprintable() or c in "\r\n")]
    terminal.type("y\n")
    assert 0 == terminal.end()
    assert evil == (cli.work / "written").read_bytes().decode()


UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u180b\u180e\u200b\u200c\u200d\u200e\u2028\u202e\u2060\u2061\u2064\u206f"
    "\u2800\u3000\u3164\ufe0f\ufeff\uffa0\ufff9\ufffc\U0001d159\U0001d173\U000e0001\U000e0041\U000e0100\U000e0fff\ue000\u00a0"
)


def test_unseen_characters_are_written_out() -> None:
    """Ignorable characters, fillers, variation selectors, tags and unusual blanks are shown as escapes."""
    text = question(asked({"command": f"ls{UNSEEN}"})).text
    for character in UNSEEN:
        code = ord(character)
        assert character not in text
        assert (f"\\x{code:02x}", f"\\u{code:04x}", f"\\U{code:08x}")[(code > 0xFF) + (code > 0xFFFF)] in text


@pytest.mark.parametrize(
    ("blanks", "shown"),
    [
        (" " * 12_000, "⟨12,000 spaces⟩"),
        ("\n" * 500, "⟨500 line breaks⟩"),
        (" \n\t" * 40, "⟨40 spaces, 40 line breaks, 40 tabs⟩"),
        (" " * 39, " " * 39),
        ("\\n" * 50, "\\n" * 50),  # a backslash and a letter are no blank
    ],
)
def test_long_blanks_are_counted(blanks: str, shown: str) -> None:
    """A long run of blanks is shown as its length, so it cannot hide the end of a command."""
    assert f"  $ ls #{shown}; rm -rf ~\n" in question(asked({"command": f"ls #{blanks}; rm -rf ~"})).text


@pytest.mark.parametrize(
    "arguments",
    [{"text": "begin" + "x" * 10_000_000 + "end"}, {"lines": ["begin", *range(10_000), "end"]}],
    ids=["one line", "many lines"],
)
def test_a_long_call_is_shown_in_part(arguments: dict[str, Any]) -> None:
    """A question about a long call shows its beginning, its end, and the length of the gap."""
    shown = question(asked(arguments))
    assert (True, True) == ("begin" in shown.text, "end\n" in shown.text)
    assert "characters are not shown here" in shown.text
    assert len(shown.text) < 9_000
    assert shown.text.count("\n") < 120
    assert "[a]" not in shown.text


def test_a_question_is_wrapped_by_words_but_not_the_call() -> None:
    """The text around the call fits into a narrow terminal; the call stays as it is."""
    command = "echo " + "word " * 30
    text = question(asked({"command": command}), source="tinyagent-tools-shell", width=40).text
    around = [line for line in text.split("\n") if not line.startswith("  ")]
    assert all(len(line) < 40 for line in around), around
    assert f"  $ {command}" in text
    assert text.endswith("project: ")


def test_a_long_call_runs_only_after_a_full_yes_or_a_view(cli: Cli, serve: Serve) -> None:
    """A long call needs a full `yes`, or a view of all pages, after which the usual answers work."""
    cli.file("mytools.py", TOOLS)
    texts = [letter * 9_000 for letter in "abc"]
    calls = [FakeReply.tool_calls(("write", {"text": text})) for text in texts]
    serve(*calls, FakeReply.text("Done."))
    terminal = cli.on_terminal(*RUN, "Write")
    for answer in ("y\n", "n\n", "yes\n", "v\n"):
        terminal.expect("[v] view ")
        terminal.shown = b""
        terminal.type(answer)
    for answer in ("\n", "a\n"):
        terminal.expect("[Enter] more")
        terminal.shown = b""
        terminal.type(answer)
    terminal.expect("Run write?")
    terminal.type("y\n")
    assert 0 == terminal.end()
    assert texts[1] + texts[2] == written(cli)


def test_the_answer_is_typed_behind_the_question() -> None:
    """However wide the terminal is, the question ends with a colon and a blank, not with an empty line."""
    for width in range(21, 120):
        text = question(asked({"command": "make"}), width=width).text
        assert text.split("\n")[-1].endswith(": "), width


def test_keys_before_the_question_are_ignored(cli: Cli, server: FakeServer) -> None:
    """Keys that were typed before the question are discarded."""
    terminal = cli.on_terminal(*RUN, stdin=subprocess.PIPE)
    terminal.type("y\ny\n")
    assert terminal.process.stdin is not None
    terminal.process.stdin.write(b"Write")
    terminal.process.stdin.close()
    terminal.expect("Run write?")
    terminal.type("n\n")
    terminal.expect("text: two")
    terminal.type("n\n")
    assert 0 == terminal.end()
    assert "" == written(cli)


def test_interrupting_the_question_ends_the_run(cli: Cli, server: FakeServer) -> None:
    """Ctrl-C at the question runs nothing, exits with 130, and completes the record."""
    terminal = cli.on_terminal(*RUN, "-o", "run.jsonl", "Write")
    terminal.expect("Run write?")
    terminal.type("\x03")
    assert 130 == terminal.end()
    assert "" == written(cli)
    assert any(line.startswith("✗ write") for line in terminal.screen()), "not behind the question"
    assert 130 == read_lines(cli.work / "run.jsonl")[-1]["exit_code"]


def test_the_time_limit_holds_while_a_question_is_open(cli: Cli, server: FakeServer) -> None:
    """--timeout ends a run that waits for an answer."""
    terminal = cli.on_terminal(*RUN, "--timeout", "1", "Write")
    terminal.expect("Run write?")
    assert 124 == terminal.end()
    assert "" == written(cli)


def test_this_exact_call_is_not_asked_again(cli: Cli, serve: Serve) -> None:
    """`e` allows the same tool with the same arguments in this run, and nothing else."""
    cli.file("mytools.py", TOOLS)
    write = [FakeReply.tool_calls(("write", {"text": text})) for text in ("one", "one", "two")]
    serve(*write, FakeReply.text("Done."))
    terminal = cli.on_terminal(*RUN, "Write")
    terminal.expect("[e] always in this run")
    terminal.type("e\n")
    terminal.expect("text: two")
    terminal.type("n\n")
    assert 0 == terminal.end()
    assert "oneone" == written(cli)
    assert 2 == terminal.shown.count(b"Run write?")


# ---- remembered -----------------------------------------------------------------------------------------


def remember(cli: Cli, server: FakeServer) -> None:
    """Answer `p` to the first question and `n` to the second."""
    terminal = cli.on_terminal(*RUN, "Write")
    terminal.expect("[p] always in this project")
    terminal.type("p\n")
    terminal.expect("text: two")
    terminal.type("n\n")
    assert 0 == terminal.end()
    again = [FakeReply.tool_calls(("write", {"text": text})) for text in ("one", "two")]
    server.add(*again, FakeReply.text("Done."))


def test_remembered_for_the_project(cli: Cli, server: FakeServer) -> None:
    """`p` allows the exact call in later runs in the same folder, with or without a terminal."""
    remember(cli, server)
    assert 0 == cli(*RUN, "Write").code
    assert "oneone" == written(cli)
    assert "the user declined" not in tool_result(server, 4)
    file = cli.home / "approvals.json"
    assert 0o600 == file.stat().st_mode & 0o777


@pytest.mark.parametrize("change", ["description", "code", "folder", "same path", "deny"])
def test_stored_approvals_are_bound(cli: Cli, server: FakeServer, change: str) -> None:
    """A change of the tool's file or of the folder ends an approval; a deny rule takes precedence."""
    remember(cli, server)
    more: tuple[str, ...] = ()
    if change == "description":
        cli.file("mytools.py", TOOLS.replace("Write a text.", "Write any text."))
    elif change == "code":
        cli.file("mytools.py", TOOLS.replace("file.write(text)", "file.write(text + text)"))
    elif change == "same path":
        old = cli.work.rename(cli.work.with_name("old"))
        shutil.copytree(old, cli.work)
    elif change == "folder":
        cli.work = cli.work.rename(cli.work.with_name("other"))
    else:
        more = ("--deny", "write")
    assert 0 == cli(*RUN, *more, "Write").code
    assert "one" == written(cli)


@pytest.mark.parametrize("harm", ["mode", "content", "version", "link", "pipe"])
def test_an_insecure_store_is_not_used(cli: Cli, server: FakeServer, harm: str) -> None:
    """An insecure file of approvals is not used and not changed, and a warning names it."""
    remember(cli, server)
    file = cli.home / "approvals.json"
    if harm == "mode":
        file.chmod(0o644)
    elif harm == "content":
        file.write_text("{")
    elif harm == "version":
        file.write_text(file.read_text().replace('"version": 2', '"version": 3'))
    elif harm == "link":
        file.rename(cli.home / "elsewhere").chmod(0o606)
        file.symlink_to(cli.home / "elsewhere")
    else:
        file.unlink()
        os.mkfifo(file)
    before = (os.stat(file).st_mode, None if harm == "pipe" else file.read_text())  # noqa: PTH116
    done = cli(*RUN, "Write")
    assert (0, "one") == (done.code, written(cli))
    assert 1 == done.err.count("Stored approvals are not used.")
    assert [3, 3] == [cli("approvals", *command).code for command in (["list"], ["revoke", "--all"])]
    server.add(FakeReply.tool_calls(("write", {"text": "one"})), FakeReply.text("Done."))
    terminal = cli.on_terminal(*RUN, "Write")
    terminal.expect("[p] always in this project")
    terminal.type("p\n")
    assert 0 == terminal.end()
    assert b"The approval is valid for this run only." in terminal.shown
    assert before == (os.stat(file).st_mode, None if harm == "pipe" else file.read_text())  # noqa: PTH116


def test_an_invalid_home_has_no_approvals(cli: Cli, server: FakeServer) -> None:
    """If the home is not a directory, no approvals exist, and no internal error is reported."""
    environment = {"TINYAGENT_HOME": "/dev/null"}
    assert (0, 0) == (
        cli("approvals", "list", **environment).code,
        cli("approvals", "revoke", "--all", **environment).code,
    )
    with pytest.raises(ConfigurationError, match="cannot be written: "):
        add_approvals(Path("/dev/null/approvals.json"), 0, 1)


def test_approvals_of_an_older_version_are_asked_again(cli: Cli, server: FakeServer) -> None:
    """Approvals of version 1, which did not bind the content of a tool, are not used."""
    remember(cli, server)
    file = cli.home / "approvals.json"
    file.write_text(file.read_text().replace('"version": 2', '"version": 1'))
    assert 0 == cli(*RUN, "Write").code
    assert ("one", "[]\n") == (written(cli), cli("approvals", "list", "--json").out)


PLUGIN = (
    TOOLS
    + """
from tinyagent import hookimpl

@hookimpl
def tinyagent_register_tools(register):
    register(write)
"""
)


@pytest.mark.parametrize("change", ["none", "code", "RECORD"])
def test_an_installed_tool_is_bound_to_its_files(cli: Cli, serve: Serve, change: str) -> None:
    """An approval ends with a change of the plugin's code or of its RECORD."""
    cli.install("writer", PLUGIN)
    site = cli.work.parent / "site-writer-tools"
    (site / "writer-1.0.dist-info" / "RECORD").write_text("plugin_writer.py,sha256=abc,10\n")
    write = FakeReply.tool_calls(("write", {"text": "one"}))
    serve(write, FakeReply.text("Done."), write, FakeReply.text("Done."))
    terminal = cli.on_terminal("run", "-m", "local/m", "-t", "writer", "Write")
    terminal.expect("[p] always in this project")
    terminal.type("p\n")
    assert 0 == terminal.end()
    if change == "code":
        (site / "plugin_writer.py").write_text(PLUGIN.replace("file.write(text)", "file.write(2 * text)"))
    elif change == "RECORD":
        (site / "writer-1.0.dist-info" / "RECORD").write_text("plugin_writer.py,sha256=abd,10\n")
    assert 0 == cli("run", "-m", "local/m", "-t", "writer", "Write").code
    assert ("oneone" if change == "none" else "one") == written(cli)


def test_a_tool_of_a_server_is_bound_to_the_server() -> None:
    """An approval ends with a change of `AgentTool.origin`."""
    source = ToolSource("s", "m", is_file=False)
    tools = [AgentTool(name="t", description="", parameters={}, origin=origin) for origin in ("a", "b")]
    keys = {fingerprint(current_project(), tool, source, {}) for tool in tools}
    assert 2 == len(keys)


def add_approvals(path: Path, first: int, count: int) -> None:
    """Store approvals from this process."""
    tool = AgentTool(name="t", description="", parameters={})
    for number in range(first, first + count):
        ApprovalStore(path).add(str(number), tool, ToolSource("s", "m", is_file=False), {"n": number})


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    """Processes that add approvals at the same time keep all of them."""
    path = tmp_path / "approvals.json"
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=add_approvals, args=(path, first, 10)) for first in (0, 10, 20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert {str(number) for number in range(30)} == {approval.id for approval in ApprovalStore(path)}


def test_approvals_are_listed_and_revoked(cli: Cli, server: FakeServer) -> None:
    """The list shows project, tool and arguments; revoke takes a prefix of an id, --project or --all."""
    assert (0, "[]\n") == cli("approvals", "list", "--json")[:2]
    remember(cli, server)
    [row] = json.loads(cli("approvals", "list", "--json").out)
    assert (str(cli.work), "write", '{"text": "one"}') == (row["project"], row["tool"], row["arguments"])
    assert row["source"] == str(cli.work / "mytools.py")
    assert row["id"][:12] in cli("approvals", "list").out
    assert 2 == cli("approvals", "revoke").code
    assert 2 == cli("approvals", "revoke", "zzz").code
    assert (0, "1 approval revoked.\n") == cli("approvals", "revoke", row["id"][:8])[::2]
    assert "[]\n" == cli("approvals", "list", "--json").out
    assert (0, "0 approvals revoked.\n") == cli("approvals", "revoke", "--all", "--project")[::2]


def test_the_list_of_approvals_hides_nothing(cli: Cli) -> None:
    """The list shows each approval on one line, with invisible characters as escapes."""
    tool = a_call({}).tool
    home = Path(cli.home)
    home.mkdir(parents=True, exist_ok=True)
    source = ToolSource("/x/\u202eyp.loot\n.py", "m", is_file=True)
    ApprovalStore(home / "approvals.json").add(
        "0" * 64, tool, source, {"command": "echo" + " " * 90 + "\u3164;\x1b[8mrm"}
    )
    lines = cli("approvals", "list").out.splitlines()
    assert 1 == len(lines)
    assert "/x/\\u202eyp.loot\\n.py" in lines[0]
    assert r'"echo⟨90 spaces⟩\u3164;\u001b[8mrm"' in lines[0]


# ---- what is noted --------------------------------------------------------------------------------------


def test_decisions_are_in_the_record(cli: Cli, server: FakeServer) -> None:
    """The details of a result name who approved the call; a refusal is its text; -v shows both at once."""
    done = cli(*RUN, "--jsonl", "-v", "--allow", "write", "Write")
    ends = [line for line in done.lines if line["type"] == "tool_execution_end"]
    assert ["--allow", "--allow"] == [end["result"]["details"]["approval"] for end in ends]
    assert 2 == done.err.count("write: allowed by --allow")
    server.add(FakeReply.tool_calls(("write", {"text": "x"})), FakeReply.text("Done."))
    done = cli(*RUN, "--jsonl", "-v", "--deny", "write", "Write")
    [end] = [line for line in done.lines if line["type"] == "tool_execution_end"]
    assert end["result"]["content"][0]["text"] in done.err


# ---- limits ---------------------------------------------------------------------------------------------

LONG = """
import asyncio
from tinyagent import AgentToolResult, tool

@tool(read_only=True)
def talk(n: int) -> str:
    "Say much."
    return "a" * n + "z" * n

@tool(read_only=True)
def show() -> AgentToolResult:
    "Show a picture between two texts."
    text = lambda c: {"type": "text", "text": c * 50}
    return AgentToolResult([text("a"), {"type": "image", "url": "data:image/png;base64,AA=="}, text("z")])

@tool(read_only=True)
async def wait() -> str:
    "Take one's time."
    await asyncio.Event().wait()
"""


@pytest.mark.parametrize(
    ("table", "kept"),
    [("[tools.talk]\nmax_output = 30", 30), ('[tools."*"]\nmax_output = 60', 60), ("", 100_000)],
)
def test_long_results_are_truncated(cli: Cli, serve: Serve, table: str, kept: int) -> None:
    """The model gets the beginning and the end of a long result, with a note about the gap."""
    cli.file("mytools.py", LONG)
    server = serve(FakeReply.tool_calls(("talk", {"n": 90_000})), FakeReply.text("Done."), more=table)
    assert 0 == cli(*RUN, "Talk").code
    begin, note, end = tool_result(server, 1).split("\n")
    assert (kept * 2 // 3, kept - kept * 2 // 3) == (len(begin), len(end))
    assert ({"a"}, {"z"}) == (set(begin), set(end))
    assert f"{180_000 - kept:,} of 180,000 characters are omitted here" in note


def test_pictures_are_not_truncated(cli: Cli, serve: Serve) -> None:
    """The limit counts text only, and every part keeps its position."""
    cli.file("mytools.py", LONG)
    serve(FakeReply.tool_calls(("show", {})), FakeReply.text("Done."), more="[tools.show]\nmax_output = 30")
    done = cli(*RUN, "--jsonl", "Show")
    [end] = [line for line in done.lines if line["type"] == "tool_execution_end"]
    first, image, last = end["result"]["content"]
    assert ("a" * 20, "image", "z" * 10) == (first["text"].split("\n")[0], image["type"], last["text"])


def test_time_outs_of_tools(cli: Cli, serve: Serve) -> None:
    """`[tools.NAME] timeout` ends a call in a run and in `tools call`."""
    cli.file("mytools.py", LONG)
    server = serve(
        FakeReply.tool_calls(("wait", {})), FakeReply.text("Done."), more="[tools.wait]\ntimeout = 0.1"
    )
    assert 0 == cli(*RUN, "Wait").code
    assert "timed out after 0.1 s" in tool_result(server, 1)
    assert "timed out after 0.1 s" in cli("tools", "call", "mytools.py:wait").err
    cli.config("[tools.wait]\ntimeout = 0\n")
    assert 3 == cli(*RUN, "Wait").code


async def test_an_approval_of_a_tool_ends_when_the_tool_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """`always in this run` is for the tool as it was; the same tool made again is still that tool."""
    asked: list[str] = []

    async def always(question: Question) -> str:
        asked.append(question.text)
        return "a"

    monkeypatch.setattr(approvals_module, "ask_on_terminal", always)
    approvals = Approvals()

    async def ask(**fields: Any) -> None:
        tool = AgentTool("move", **fields)
        message: Any = {"role": "assistant", "content": []}
        assert (await approvals.ask(ToolCallInfo(tool, "c1", {}, message))).refusal is None

    for fields in ({}, {}, {"description": "Other words."}, {"origin": "another server"}):
        await ask(**fields)
    assert 3 == len(asked)


async def test_a_deny_rule_holds_for_the_arguments_of_a_hook() -> None:
    """A hook may change the arguments before the call is approved, also those of a read-only tool."""
    approvals = Approvals(yes=True, deny=["shell(rm*)"])
    for read_only in (False, True):
        tool = AgentTool("shell", "", {"properties": {"command": {}}}, read_only=read_only)
        message: Any = {"role": "assistant", "content": []}
        verdicts = [
            await approvals.ask(ToolCallInfo(tool, "c1", {"command": command}, message))
            for command in ("ls", "rm x")
        ]
        assert [True, False] == [verdict.refusal is None for verdict in verdicts]


# ---- the sandbox ----------------------------------------------------------------------------------------

SANDBOXED = """
from tinyagent import AgentToolResult, tool
from tinyagent.agent_types import CallSandbox

@tool
def build(target: str, without_sandbox: bool = False) -> str:
    "Build."
    with open("built", "a") as file:
        file.write(f"{target} {without_sandbox}\\n")
    return "built"

def confined(arguments):
    if arguments.get("without_sandbox"):
        return CallSandbox("Outside the sandbox: all your permissions.", False, leaves=True)
    outside = {**arguments, "without_sandbox": True}
    return CallSandbox("In a sandbox (test): no network.", True, outside=outside)

build.sandbox = confined
"""


def built(cli: Cli) -> list[str]:
    """Return what the tool has built."""
    path = cli.work / "built"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def builds(cli: Cli, serve: Serve) -> FakeServer:
    """A model that builds in the sandbox, then twice outside of it, and then answers."""
    cli.file("mytools.py", SANDBOXED)
    outside = {"target": "b", "without_sandbox": True}
    return serve(
        FakeReply.tool_calls(("build", {"target": "a"})),
        FakeReply.tool_calls(("build", outside)),
        FakeReply.tool_calls(("build", outside)),
        FakeReply.text("Done."),
    )


def test_the_question_says_what_holds(cli: Cli, builds: FakeServer) -> None:
    """A call can be approved once outside the sandbox; a call that leaves it has no other answers."""
    terminal = cli.on_terminal(*RUN, "Build")
    terminal.expect(
        "In a sandbox (test): no network.\r\n"
        "Run build? [y] once  [a] always in this run  [n] no\r\nOutside the sandbox: [o] once\r\n"
    )
    terminal.type("o\n")
    terminal.expect("Outside the sandbox: all your permissions.\r\n")
    terminal.expect("Run build outside the sandbox? [y] once  [n] no: ")
    terminal.shown = b""
    terminal.type("a\n")  # no answer to this question
    terminal.expect("Run build outside the sandbox?")
    terminal.type("y\n")
    assert 0 == terminal.end()
    assert ["a True", "b True"] == built(cli)
    assert "the user declined" in tool_result(builds, 2)


@pytest.mark.parametrize("rule", [("-y",), ("--allow", "build")])
def test_no_rule_lets_a_call_leave_the_sandbox(cli: Cli, builds: FakeServer, rule: tuple[str, ...]) -> None:
    """`-y` and `--allow` are for calls in the sandbox. Without a terminal, other calls are refused."""
    done = cli(*RUN, *rule, "Build")
    assert 0 == done.code
    assert ["a False"] == built(cli)
    assert "only the user can allow a call outside the sandbox" in tool_result(builds, 2)
    assert "-y and --allow do not include this" in " ".join(done.err.split())


def test_an_answer_for_the_run_does_not_let_a_call_leave_the_sandbox(cli: Cli, builds: FakeServer) -> None:
    """`always` is for calls in the sandbox."""
    terminal = cli.on_terminal(*RUN, "Build")
    terminal.expect("Run build?")
    terminal.type("a\n")
    for _ in range(2):
        terminal.expect("Run build outside the sandbox?")
        terminal.shown = b""
        terminal.type("n\n")
    assert 0 == terminal.end()
    assert ["a False"] == built(cli)


def test_the_record_says_that_a_call_was_outside(cli: Cli, builds: FakeServer) -> None:
    """In the details of its result."""
    terminal = cli.on_terminal(*RUN, "-o", "run.jsonl", "Build")
    for answer in "onn":
        terminal.expect("Run build")
        terminal.shown = b""
        terminal.type(f"{answer}\n")
    assert 0 == terminal.end()
    first = next(line for line in read_lines(cli.work / "run.jsonl") if line["type"] == "tool_execution_end")
    assert "the user, once, outside the sandbox" == first["result"]["details"]["approval"]


def test_a_call_that_the_user_types_may_leave_the_sandbox(cli: Cli) -> None:
    """`tools call` runs exactly what is on the command line."""
    cli.file("mytools.py", SANDBOXED)
    done = cli("tools", "call", "mytools.py:build", "target=c", "without_sandbox=true")
    assert 0 == done.code, done.err
    assert ["c True"] == built(cli)


async def test_an_answer_without_a_sandbox_does_not_let_a_call_leave_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`always` for a tool that nothing confines is not for a call that leaves a sandbox."""
    questions: list[str] = []

    async def always(question: Question) -> str:
        questions.append(question.text)
        return "a"

    monkeypatch.setattr(approvals_module, "ask_on_terminal", always)
    approvals = Approvals()

    def confined(arguments: dict[str, Any]) -> CallSandbox:
        return CallSandbox("None.", False, leaves="out" in arguments)

    tool = AgentTool(name="shell", description="", parameters={}, sandbox=confined)
    message: Any = {"role": "assistant", "content": []}
    for arguments, allowed, asked in (({}, True, 1), ({}, True, 1), ({"out": 1}, False, 2)):
        verdict = await approvals.ask(ToolCallInfo(tool, "c1", arguments, message))
        assert (allowed, asked) == (verdict.refusal is None, len(questions))


async def test_a_sandbox_that_cannot_be_described_runs_nothing() -> None:
    """The function of the tool may raise, for example because a sandbox is required."""

    def confined(arguments: dict[str, Any]) -> CallSandbox:
        raise ConfigurationError("A sandbox is required, but not available.")

    tool = AgentTool(name="shell", description="", parameters={}, sandbox=confined)
    call = ToolCallInfo(tool, "call_1", {}, assistant("…"), AgentContext(messages=[]))
    verdict = await Approvals(yes=True).ask(call)
    assert "A sandbox is required" in str(verdict.refusal)


def test_stored_approvals_are_bound_to_the_sandbox() -> None:
    """A call that was approved for the sandbox is asked again if there is none."""
    tool = AgentTool(name="shell", description="", parameters={})
    states = [None, CallSandbox("In.", True), CallSandbox("None.", False)]
    assert 3 == len({fingerprint(current_project(), tool, None, {}, state) for state in states})


CONFINED = """
from pathlib import Path

from tinyagent import tool
from tinyagent.sandbox import Policy

@tool(sandbox=Policy(writable=["."]))
def save(path: str) -> str:
    "Save a file."
    Path(path).write_text("saved")
    return "Saved."
"""


@pytest.mark.skipif(find_sandbox().mechanism == "none", reason="this machine has no sandbox")
def test_a_tool_file_asks_for_the_sandbox(cli: Cli, serve: Serve, request: pytest.FixtureRequest) -> None:
    """A call that the sandbox refuses tells the model why, and the user can allow it once outside."""
    cli.file("mytools.py", CONFINED)
    folder = tempfile.TemporaryDirectory(dir="/var/tmp")  # in the sandbox, /tmp is another folder
    request.addfinalizer(folder.cleanup)
    outside = Path(folder.name, "outside.txt")
    server = serve(
        FakeReply.tool_calls(("save", {"path": "inside.txt"})),
        FakeReply.tool_calls(("save", {"path": str(outside)})),
        FakeReply.tool_calls(("save", {"path": str(outside), "without_sandbox": True})),
        FakeReply.text("Done."),
    )
    terminal = cli.on_terminal(*RUN, "Save")
    for asked in ("Run save?", "Run save?", "Run save outside the sandbox?"):
        terminal.expect(asked)
        terminal.shown = b""
        terminal.type("y\n")
    assert 0 == terminal.end()
    assert ["saved", "saved"] == [(cli.work / "inside.txt").read_text(), outside.read_text()]
    assert ["Saved.", "Saved."] == [tool_result(server, 1), tool_result(server, 3)]
    assert "may be due to the sandbox." in tool_result(server, 2)
    assert "call save again with without_sandbox=true" in tool_result(server, 2)
