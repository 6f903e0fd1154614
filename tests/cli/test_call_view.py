"""A question shows what will happen."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagent_cli.run.call_view import call_view
from tinyagent_cli.terminal.sanitise import exact

from .conftest import Cli, FakeReply, Serve

VIEWS: dict[str, tuple[str, dict[str, object], str]] = {
    "a command": ("bash", {"command": "make test"}, "$ make test"),
    "a script": ("bash", {"command": "cd a\n  ls", "timeout": 5}, "$ cd a\n>   ls\ntimeout: 5"),
    "a command of another tool": ("remote", {"command": "ls\nrm"}, "command:\n  │ ls\n  │ rm"),
    "no arguments": ("clear", {}, "(no arguments)"),
    "a path and a number": (
        "get",
        {"path": "a b", "limit": 3, "deep": None},
        "path: a b\nlimit: 3\ndeep: null",
    ),
    "texts that look like other values": (
        "get",
        {"a": "3", "b": "", "c": " x ", "d": "null", "e": "[1]", "f": '"x'},
        'a: "3"\nb: ""\nc: " x "\nd: "null"\ne: "[1]"\nf: ""x"',
    ),
    "nested values": (
        "get",
        {"to": ["a", {"b": "c\nd"}], "e": {}, "f": {"g": [1, "2"]}},
        'to:\n  • a\n  •\n    b:\n      │ c\n      │ d\ne: {}\nf:\n  g:\n    • 1\n    • "2"',
    ),
    "deep values": (
        "get",
        {"a": [[[[[[["x"]]]]]]]},
        'a:\n  •\n    •\n      •\n        •\n          • [["x"]]',
    ),
    "hidden characters": (
        "bash",
        {"command": "ls\u202e\u200b\x1b[2K\tx" + " " * 50 + "; rm\r\n"},
        "$ ls⟨\\u202e\\u200b\\x1b⟩[2K⇥   x⟨50 spaces⟩; rm⟨\\x0d⟩\n> ",
    ),
    "a hidden name": ("get", {"a\x1b\nb": 1}, "a\\x1b\\nb: 1"),
    "a new file": (
        "write",
        {"path": "new.txt", "content": "one\ntwo"},
        "Create the file new.txt:\n@@ -0,0 +1,2 @@\n+one\n+two ⟨no line break at the end⟩",
    ),
    "a file": (
        "write",
        {"path": "old.txt", "content": "one\n2\nthree\n", "mode": "w"},
        "Replace the content of old.txt:\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\nmode: w",
    ),
    "the same file": (
        "write",
        {"path": "old.txt", "content": "one\ntwo\nthree\n"},
        "Replace the content of old.txt:\n(its content stays the same)",
    ),
    "an edit": (
        "edit",
        {"path": "old.txt", "old_text": "two\n", "new_text": "2\x1b\n"},
        "Change the file old.txt:\n@@ -1,3 +1,3 @@\n one\n-two\n+2⟨\\x1b⟩\n three",
    ),
    "an edit everywhere": (
        "edit",
        {"path": "old.txt", "old_text": "e\n", "new_text": "E\n", "replace_all": True},
        "Change the file old.txt:\n@@ -1,3 +1,3 @@\n-one\n+onE\n two\n-three\n+threE\nreplace_all: true",
    ),
    "an edit without its text": (
        "edit",
        {"path": "old.txt", "old_text": "x\n", "new_text": "y\n"},
        "Change the file old.txt:\n@@ -1 +1 @@\n-x\n+y",
    ),
    "a folder": ("write", {"path": ".", "content": "a\nb"}, "path: .\ncontent:\n  │ a\n  │ b"),
    "a FIFO": ("write", {"path": "fifo", "content": "a"}, "path: fifo\ncontent: a"),
    "not a text": ("write", {"path": "binary", "content": "a"}, "path: binary\ncontent: a"),
    "not a path": ("write", {"path": "a\0b", "content": "a"}, "path: a⟨\\x00⟩b\ncontent: a"),
    "another tool with this name": ("write", {"text": "a"}, "text: a"),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands as in a shell, changes of files as a diff, and other arguments line by line."""
    monkeypatch.chdir(tmp_path)
    Path("old.txt").write_text("one\ntwo\nthree\n")
    Path("binary").write_bytes(b"\xff\x00")
    os.mkfifo("fifo")
    tool, arguments, shown = VIEWS[name]
    assert shown == call_view(tool, arguments)


def test_a_large_file_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole new content is shown instead."""
    monkeypatch.chdir(tmp_path)
    Path("large.txt").write_text("a\n" * 200_000)
    short, long = {"path": "large.txt", "content": "b\nc"}, {"path": "new.txt", "content": "b\n" * 9_000}
    assert "path: large.txt\ncontent:\n  │ b\n  │ c" == call_view("write", short)
    assert call_view("write", long).startswith("path: new.txt\ncontent:\n  │ b\n")


@given(st.text(max_size=60))
def test_nothing_is_removed_and_nothing_is_hidden(text: str) -> None:
    """Every character is shown, as itself or as an escape; short blanks and line breaks stay."""
    shown = exact(text)
    assert [] == [c for c in shown if not c.isprintable() and c != "\n"]
    assert text.count("\n") == shown.count("\n") or "line break" in shown
    if "⟨" not in text:
        letters = re.sub("⟨[^⟩]*⟩", "", shown)
        assert [c for c in text if c.isascii() and c.isalnum()] == [
            c for c in letters if c.isascii() and c.isalnum()
        ]


def test_a_diff_is_asked_in_colours(cli: Cli, serve: Serve) -> None:
    """The question names the tool's file and the sandbox, and has no escaped JSON."""
    cli.file(
        "mytools.py",
        "from tinyagent import tool\n\n@tool\ndef write(path: str, content: str) -> str:\n"
        '    """Write."""\n    return "ok"\n',
    )
    cli.file("notes.txt", "one\ntwo\n")
    arguments = {"path": "notes.txt", "content": 'one\n"2"\n'}
    serve(FakeReply.tool_calls(("write", arguments)), FakeReply.text("Done."))
    terminal = cli.on_terminal("run", "-m", "local/m", "-t", "mytools.py", "Write")
    terminal.expect("Run write?")
    terminal.type("n\n")
    assert 0 == terminal.end()
    shown = terminal.screen()
    begin = next(n for n, line in enumerate(shown) if line.startswith("The model wants to run write"))
    question = "\n".join(shown[begin:])
    assert "  Replace the content of notes.txt:\n" in question
    assert '  @@ -1,2 +1,2 @@\n   one\n  -two\n  +"2"\nThere is no sandbox' in question
    assert b'\x1b[32m  +"2"\x1b[0m' in terminal.shown
    assert b"\x1b[31m  -two\x1b[0m" in terminal.shown
