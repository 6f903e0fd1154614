"""`write` and `edit` make the requested change and no other."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyagent import AgentToolResult, ToolError
from tinyagent_tools_fs import _change, _diff, _lock, _replace
from tinyagent_tools_fs._change import _Text

Call = Callable[..., Awaitable[AgentToolResult]]
Text = Callable[..., Awaitable[str]]


# ---- write ------------------------------------------------------------------------------------------


async def test_a_new_file_with_its_folders(here: Path, call: Call) -> None:
    """Missing folders are created; the file has the mode of the umask and exactly the text."""
    result = await call("write", path="a/b/c.txt", content="é\nx\n")
    assert "Created a/b/c.txt: 2 line(s), 5 bytes." == result.content[0]["text"]
    assert {"path": "a/b/c.txt", "created": True, "bytes": 5, "encoding": "UTF-8"} == result.details
    made = here / "a" / "b" / "c.txt"
    assert "é\nx\n".encode() == made.read_bytes()
    (here / "plain").touch()
    assert stat.S_IMODE((here / "plain").stat().st_mode) == stat.S_IMODE(made.stat().st_mode)


async def test_the_mode_is_preserved(here: Path, call: Call) -> None:
    """Executable files stay executable, and private files stay private."""
    for mode in (0o755, 0o600, 0o664):
        (here / "a.sh").write_text("old\n")
        (here / "a.sh").chmod(mode)
        await call("read", path="a.sh")
        await call("write", path="a.sh", content="new\n")
        await call("edit", path="a.sh", old_text="new", new_text="newer")
        assert (mode, "newer\n") == (
            stat.S_IMODE((here / "a.sh").stat().st_mode),
            (here / "a.sh").read_text(),
        )


async def test_a_read_only_file_is_not_replaced(here: Path, call: Call) -> None:
    """A rename would succeed, but the missing permission is respected."""
    (here / "a.txt").write_text("old")
    (here / "a.txt").chmod(0o444)
    for name, more in (("write", {"content": "new"}), ("edit", {"old_text": "old", "new_text": "new"})):
        with pytest.raises(ToolError, match="is read-only"):
            await call(name, path="a.txt", **more)
    assert "old" == (here / "a.txt").read_text()


async def test_a_failed_write_preserves_the_old_file(
    here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the old content is complete, and no temporary file remains."""
    (here / "a.txt").write_text("old")

    def full(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_replace, "_write_all", full)
    with pytest.raises(ToolError, match=r"'a\.txt': No space left on device"):
        await call("write", path="a.txt", content="new")
    assert [("a.txt", "old")] == [(path.name, path.read_text()) for path in here.iterdir()]


async def test_a_concurrent_change_is_not_overwritten(
    here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an editor saves between reading and writing, its version remains and the call fails."""
    (here / "a.txt").write_text("one two")
    replace = _change.replace_file

    def late(*given: Any) -> None:
        (here / "a.txt").write_text("somebody's work")
        replace(*given)

    monkeypatch.setattr(_change, "replace_file", late)
    with pytest.raises(ToolError, match="changed by another program"):
        await call("edit", path="a.txt", old_text="one", new_text="1")
    with pytest.raises(ToolError, match="changed by another program"):
        await call("write", path="a.txt", content="x")
    assert "somebody's work" == (here / "a.txt").read_text()
    assert ["a.txt"] == [path.name for path in here.iterdir()]


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        (b"\xef\xbb\xbfold", b"\xef\xbb\xbfn\xc3\xa9w\n", "encoding: UTF-8 with BOM, as before"),
        (b"\xff\xfeo\0", b"\xff\xfen\0\xe9\0w\0\n\0", "encoding: UTF-16 LE with BOM, as before"),
        (b"caf\xe9", b"n\xe9w\n", "encoding: Latin-1"),
        (b"one\r\ntwo\r\n", b"n\xc3\xa9w\r\n", "line ends: CRLF, as before"),
        (b"one\r\ntwo\n", b"n\xc3\xa9w\n", None),
        (b"\x7fELF\0\0\0\1", b"n\xc3\xa9w\n", None),
        (b"", b"n\xc3\xa9w\n", None),
    ],
)
async def test_writing_preserves_encoding_and_line_ends(
    before: bytes, after: bytes, note: str | None, here: Path, text: Text
) -> None:
    """The new text is stored with the encoding and the line ends of the old file."""
    (here / "a.txt").write_bytes(before)
    said = await text("write", path="a.txt", content="néw\n")
    assert after == (here / "a.txt").read_bytes()
    assert (note or "bytes.") in said


async def test_characters_outside_latin_1_change_the_encoding(here: Path, text: Text) -> None:
    """A new text may change the encoding to UTF-8, and a note reports it."""
    (here / "a.txt").write_bytes(b"caf\xe9")
    assert "now in UTF-8: Latin-1 has no '日'" in await text("write", path="a.txt", content="日本")
    assert "日本" == (here / "a.txt").read_text()


async def test_an_unpaired_surrogate_is_refused(here: Path, call: Call) -> None:
    """JSON can have an unpaired surrogate; a file cannot."""
    with pytest.raises(ToolError, match="unpaired surrogate"):
        await call("write", path="a.txt", content="\ud800")
    assert [] == list(here.iterdir())


async def test_a_folder_is_not_replaced(here: Path, call: Call) -> None:
    """Folders, including the working directory, are refused."""
    (here / "a").mkdir()
    for path in ("a", ".", ""):
        with pytest.raises(ToolError, match="is a directory"):
            await call("write", path=path, content="x")
    (here / "file").write_text("")
    with pytest.raises(ToolError, match="'file' is not a directory"):
        await call("write", path="file/x", content="x")


# ---- edit -------------------------------------------------------------------------------------------


async def test_an_edit_shows_its_diff(here: Path, call: Call) -> None:
    """The diff is in the text and in the details, with the line numbers of the file."""
    (here / "a.py").write_text("".join(f"line{n}\n" for n in range(1, 41)))
    result = await call("edit", path="a.py", old_text="line20\n", new_text="twenty\nand more\n")
    diff = (
        "--- a/a.py\n+++ b/a.py\n@@ -17,7 +17,8 @@\n line17\n line18\n line19\n-line20\n+twenty\n+and more\n"
        " line21\n line22\n line23"
    )
    assert f"Edited a.py in 1 place:\n{diff}" == result.content[0]["text"]
    assert (diff, 1, 20) == tuple(result.details[key] for key in ("diff", "replacements", "first_line"))
    assert "line19\ntwenty\nand more\nline21\n" in (here / "a.py").read_text()


async def test_a_missing_end_of_line_is_shown(here: Path, text: Text) -> None:
    """The diff marks a missing line end, as diff does."""
    (here / "a.txt").write_text("one")
    assert "-one\n\\ No newline at end of file\n+one\n" in (
        await text("edit", path="a.txt", old_text="one", new_text="one\n") + "\n"
    )


async def test_a_text_that_occurs_twice_is_refused(here: Path, call: Call) -> None:
    """The error shows the lines; `replace_all` replaces all. Overlapping matches count, too."""
    (here / "a.txt").write_text("x = 1\ny = 2\nx = 1\n")
    with pytest.raises(ToolError, match=r"2 times in 'a\.txt' \(at lines 1, 3\).*replace_all"):
        await call("edit", path="a.txt", old_text="x = 1", new_text="x = 3")
    result = await call("edit", path="a.txt", old_text="x = 1", new_text="x = 3", replace_all=True)
    assert (2, "x = 3\ny = 2\nx = 3\n") == (result.details["replacements"], (here / "a.txt").read_text())
    (here / "b.txt").write_text("}\n}\n}\n")
    with pytest.raises(ToolError, match="more than once, overlapping itself"):
        await call("edit", path="b.txt", old_text="}\n}\n", new_text="}\n")
    assert "}\n}\n}\n" == (here / "b.txt").read_text()


@pytest.mark.parametrize(
    ("old", "words"),
    [
        ("if x :\n  return 'y'", "Only white space, quotes or dashes differ from lines 2-3:\n    if x:"),
        ("return “y”", "The most similar text is lines 3-3:\n        return 'y'"),
        ("return ’y’", "Only white space, quotes or dashes differ from lines 3-3"),
        ("    if x:\n        return 'z'", "The most similar text is lines 2-3"),
        ("something else entirely", "The file has nothing similar: read it again."),
        ("\n\n\n\n", "The file has nothing similar"),
    ],
)
async def test_a_missing_text_is_refused(old: str, words: str, here: Path, call: Call) -> None:
    """The error shows the most similar text of the file, and nothing is changed."""
    source = "def f(x):\n    if x:\n        return 'y'\n"
    (here / "a.py").write_text(source)
    with pytest.raises(ToolError) as refused:
        await call("edit", path="a.py", old_text=old, new_text="z")
    assert str(refused.value).startswith("old_text was not found in 'a.py', so nothing was changed.")
    assert words in str(refused.value)
    assert source == (here / "a.py").read_text()


async def test_useless_edits_are_refused(here: Path, call: Call) -> None:
    """An empty text, an equal text and a binary file are refused."""
    (here / "a.txt").write_text("abc")
    (here / "a.bin").write_bytes(b"abc\0\1\2")
    with pytest.raises(ToolError, match="old_text is empty"):
        await call("edit", path="a.txt", old_text="", new_text="x")
    with pytest.raises(ToolError, match="are the same"):
        await call("edit", path="a.txt", old_text="b", new_text="b")
    with pytest.raises(ToolError, match="is a binary file"):
        await call("edit", path="a.bin", old_text="abc", new_text="x")
    with pytest.raises(ToolError, match=r"There is no 'b\.txt'"):
        await call("edit", path="b.txt", old_text="abc", new_text="x")


async def test_a_huge_file_is_not_edited(here: Path, call: Call) -> None:
    """A huge file is refused, because an edit needs its size several times in memory."""
    with (here / "huge").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ToolError, match="1,073,741,824 bytes; files of at most"):
        await call("edit", path="huge", old_text="x", new_text="y")


async def test_an_edit_does_not_change_the_encoding(here: Path, call: Call) -> None:
    """An edit with characters outside Latin-1 is refused."""
    (here / "a.txt").write_bytes(b"caf\xe9 x")
    with pytest.raises(ToolError, match="has no '日'"):
        await call("edit", path="a.txt", old_text="x", new_text="日")
    await call("edit", path="a.txt", old_text="é", new_text="è")
    assert b"caf\xe8 x" == (here / "a.txt").read_bytes()


@pytest.mark.parametrize("replace_all", [False, True])
async def test_line_ends_are_preserved(replace_all: bool, here: Path, call: Call) -> None:
    """Every line end of a file with CRLF, or with both kinds, remains as it was."""
    cases = {
        "crlf": (b"a\r\nb\r\nc\r\n", b"x\r\ny\r\nc\r\n"),
        "lf": (b"a\nb\nc\n", b"x\ny\nc\n"),
        "mixed": (b"a\r\nb\nc\r\n", b"x\r\ny\nc\r\n"),
        "bom": (b"\xef\xbb\xbfa\r\nb\r\nc\r\n", b"\xef\xbb\xbfx\r\ny\r\nc\r\n"),
    }
    for name, (before, after) in cases.items():
        for ends in ("\n", "\r\n"):
            (here / name).write_bytes(before)
            await call("edit", path=name, old_text=f"a{ends}b", new_text=f"x{ends}y", replace_all=replace_all)
            assert after == (here / name).read_bytes(), name


_PIECES = st.lists(st.sampled_from(["a", "b", "\n", "\r\n", "\r", "é"]), max_size=12).map("".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=_PIECES, middle=st.sampled_from(["X", "X\nY", "X\r\nY"]), after=_PIECES)
def test_other_bytes_do_not_change(before: str, middle: str, after: str) -> None:
    """The bytes outside the replaced text are the same, whatever the line ends are."""
    text = _Text(before + middle + after)
    old = middle.replace("\r\n", "\n")
    [place] = text.find(old)
    replaced = text.replace([place], len(old), "Z")
    assert before + "Z" + after == replaced


async def test_an_enormous_change_is_not_compared(
    here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The diff of thousands of lines is omitted, and a long diff is truncated."""
    (here / "a.txt").write_text("x\n" * 10_000)
    result = await call("edit", path="a.txt", old_text="x", new_text="y", replace_all=True)
    assert "[the diff is too long: lines 1-10000]" == result.details["diff"]
    monkeypatch.setattr(_diff, "MAX_DIFF", 100)
    result = await call("edit", path="a.txt", old_text="y\n" * 20 + "y", new_text="z", replace_all=True)
    assert len(result.details["diff"]) < 200


async def test_parallel_edits_lose_nothing(here: Path, call: Call) -> None:
    """Each parallel edit of a reply applies to the result of the previous one."""
    import asyncio

    (here / "a.txt").write_text("".join(f"<{number}>" for number in range(20)))
    await asyncio.gather(
        *(call("edit", path="a.txt", old_text=f"<{n}>", new_text=f"[{n}]") for n in range(20))
    )
    assert "".join(f"[{number}]" for number in range(20)) == (here / "a.txt").read_text()


# ---- changes by others --------------------------------------------------------------------------------


async def test_write_refuses_a_file_that_has_changed(here: Path, call: Call) -> None:
    """`write` refuses a file that has changed since it was read; reading it again helps."""
    (here / "a.txt").write_text("one\n")
    await call("read", path="a.txt")
    (here / "a.txt").write_text("one\nand the user's line\n")
    with pytest.raises(ToolError, match=r"'a\.txt' has changed since you read it.*Read it again"):
        await call("write", path="a.txt", content="1\n")
    assert "one\nand the user's line\n" == (here / "a.txt").read_text()
    await call("read", path="a.txt")
    await call("write", path="a.txt", content="1\nand the user's line\n")
    await call("write", path="a.txt", content="2\n")
    assert "2\n" == (here / "a.txt").read_text()


async def test_an_edit_preserves_changes_by_others(here: Path, call: Call) -> None:
    """After an edit, `write` with the old text is still refused."""
    (here / "a.txt").write_text("one\ntwo\n")
    await call("read", path="a.txt")
    (here / "a.txt").write_text("one\ntwo\nthree\n")
    await call("edit", path="a.txt", old_text="one", new_text="1")
    assert "1\ntwo\nthree\n" == (here / "a.txt").read_text()
    with pytest.raises(ToolError, match="has changed since you read it"):
        await call("write", path="a.txt", content="1\ntwo\n")


async def test_a_change_with_equal_size_and_time_is_found(
    here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is compared before it is replaced."""
    file = here / "a.txt"
    file.write_text("one two")
    monkeypatch.setattr(_replace, "version", lambda status: (0, 0, 0, 0, 0))
    write_all = _replace._write_all

    def late(descriptor: int, data: bytes) -> None:
        write_all(descriptor, data)
        file.write_text("ONE two")

    monkeypatch.setattr(_replace, "_write_all", late)
    with pytest.raises(ToolError, match="changed by another program"):
        await call("edit", path="a.txt", old_text="two", new_text="2")
    assert "ONE two" == file.read_text()


async def test_edits_of_several_processes_lose_nothing(here: Path) -> None:
    """Each edit is in the file or has failed with an error."""
    import asyncio
    import subprocess
    import sys

    (here / "a.txt").write_text("".join(f"<{number}>" for number in range(60)))
    script = here.parent / "script.py"
    script.write_text(
        "import asyncio, sys\nfrom tinyagent import ToolError\nfrom tinyagent_tools_fs import file_tools\n"
        "edit = {tool.name: tool for tool in file_tools(sys.argv[1])}['edit'].execute\n"
        "async def main():\n"
        "    for number in range(int(sys.argv[2]), 60, 3):\n"
        "        arguments = {'path': 'a.txt', 'old_text': f'<{number}>', 'new_text': f'[{number}]'}\n"
        "        while True:\n"
        "            try:\n"
        "                await edit('c', arguments, None, lambda partial: None)\n"
        "                break\n"
        "            except ToolError as error:\n"
        "                assert 'changed by another program' in str(error), error\n"
        "asyncio.run(main())\n"
    )
    processes = [
        subprocess.Popen([sys.executable, str(script), str(here), str(number)], stderr=subprocess.PIPE)
        for number in range(3)
    ]
    ends = [await asyncio.to_thread(process.communicate, timeout=120) for process in processes]
    assert [(None, b"")] * 3 == ends
    assert "".join(f"[{number}]" for number in range(60)) == (here / "a.txt").read_text()
    assert ["a.txt"] == [path.name for path in here.iterdir()]


async def test_temporary_files_of_killed_writes_are_removed(here: Path, call: Call) -> None:
    """The next write in the folder removes them, but not files with similar names."""
    (here / ".tinyagent-0123456789abcdef.tmp").write_text("half")
    (here / ".tinyagent-notes.tmp").write_text("mine")
    (here / ".tinyagent-fedcba9876543210.tmp").symlink_to("a.txt")
    await call("write", path="a.txt", content="x")
    assert [".tinyagent-fedcba9876543210.tmp", ".tinyagent-notes.tmp", "a.txt"] == sorted(
        path.name for path in here.iterdir()
    )


# ---- edits in linear time -------------------------------------------------------------------------


async def test_pathological_repeats_are_fast(here: Path, call: Call) -> None:
    """With millions of equal lines, the search, the suggestion and the diff are linear."""
    (here / "a.txt").write_text("x\n" * 3_000_000)
    with pytest.raises(ToolError, match="was not found"):
        await call("edit", path="a.txt", old_text="x\n" * 100_000 + "y", new_text="z")
    with pytest.raises(ToolError, match=r"more than 100,000 times"):
        await call("edit", path="a.txt", old_text="x", new_text="y", replace_all=True)
    (here / "b.txt").write_text("\n".join("ab" * 100 if n % 2 else "ba" * 100 for n in range(4_000)))
    with pytest.raises(ToolError, match="was not found"):
        await call("edit", path="b.txt", old_text="a" * 100 + "b" * 100, new_text="z")


async def test_an_edit_cannot_exceed_the_size_limit(here: Path, call: Call) -> None:
    """Replacing a short text everywhere by a long one is refused before the result is built."""
    (here / "a.txt").write_text("a" * 90_000)
    with pytest.raises(ToolError, match="would grow to 90,000,000,000 characters"):
        await call("edit", path="a.txt", old_text="a", new_text="b" * 1_000_000, replace_all=True)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.lists(st.sampled_from("abc"), max_size=30), after=st.lists(st.sampled_from("abc"), max_size=30)
)
def test_a_diff_can_be_applied(before: list[str], after: list[str]) -> None:
    """Applying the diff to the old text gives the new text."""
    old, new = "".join(f"{line}\n" for line in before), "".join(f"{line}\n" for line in after)
    if old == new:
        return
    lines, position, result = _diff.unified_diff("x", old, new).split("\n")[2:], 0, []
    for line in lines:
        if line.startswith("@@"):
            found = re.match(r"@@ -(\d+)(?:,(\d+))? ", line)
            assert found is not None
            start = int(found[1]) - (found[2] != "0")
            result += before[position:start]
            position = start
        elif line[0] in " -":
            assert before[position] == line[1:]
            position += 1
        if line[0] in " +":
            result.append(line[1:])
    assert after == result + before[position:]


async def test_a_write_does_not_wait_for_a_lock_forever(
    here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the lock, the write succeeds, and recent temporary files are not removed."""
    monkeypatch.setattr(_lock, "_WAIT_SECONDS", 0.05)
    for name, age in ((".tinyagent-0000000000000000.tmp", 7_200), (".tinyagent-1111111111111111.tmp", 0)):
        (here / name).write_text("half")
        os.utime(here / name, (time.time() - age, time.time() - age))
    descriptor = os.open(here, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        await call("write", path="a.txt", content="x")
    finally:
        os.close(descriptor)
    assert [".tinyagent-1111111111111111.tmp", "a.txt"] == sorted(path.name for path in here.iterdir())
