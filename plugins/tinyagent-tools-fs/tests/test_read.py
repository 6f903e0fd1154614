"""`read` and `list`: what a model gets to see of a file and a folder."""

from __future__ import annotations

import base64
import os
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path

import pytest

import tinyagent_tools_fs
from tinyagent import AgentTool, AgentToolResult, ToolError
from tinyagent_tools_fs import _read
from tinyagent_tools_fs._text import detect

Call = Callable[..., Awaitable[AgentToolResult]]
Text = Callable[..., Awaitable[str]]

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def test_the_plugin_registers_six_tools() -> None:
    """Those that look need no approval, those that write do."""
    registered: list[AgentTool] = []
    tinyagent_tools_fs.tinyagent_register_tools(registered.append)
    assert {"read": True, "write": False, "edit": False, "list": True, "glob": True, "grep": True} == {
        tool.name: tool.read_only for tool in registered
    }


def test_the_entry_point_names_the_module() -> None:
    """`-t fs` finds this package by its metadata."""
    [point] = metadata.entry_points(group="tinyagent.tools", name="fs")
    assert tinyagent_tools_fs is point.load()


async def test_a_file_is_shown_as_it_is(here: Path, text: Text) -> None:
    """No numbers, no note, nothing lost."""
    (here / "a.py").write_text("def f():\n\treturn 'é'\n\n\n")
    assert "def f():\n\treturn 'é'\n\n" == await text("read", path="a.py")


async def test_a_range_of_lines(here: Path, call: Call) -> None:
    """From `offset`, at most `limit`; the note says what there is and how to go on."""
    (here / "a.txt").write_text("".join(f"line {n}\n" for n in range(1, 11)))
    result = await call("read", path="a.txt", offset=4, limit=2, line_numbers=True)
    assert (
        "     4\tline 4\n     5\tline 5\n[lines 4-5 of 10; go on with offset=6]" == result.content[0]["text"]
    )
    assert (4, 5, 10, True) == tuple(
        result.details[key] for key in ("first_line", "last_line", "total_lines", "truncated")
    )


async def test_a_range_beyond_the_end(here: Path, call: Call) -> None:
    """It says how many lines there are."""
    (here / "a.txt").write_text("one\ntwo")
    with pytest.raises(ToolError, match=r"has 2 line\(s\), so there is no line 3"):
        await call("read", path="a.txt", offset=3)


async def test_an_empty_file_is_said_to_be_empty(here: Path, text: Text) -> None:
    """An empty text would look like a failure."""
    (here / "a.txt").write_bytes(b"")
    assert "[a.txt is empty]" == await text("read", path="a.txt")


async def test_a_name_that_is_nearly_right(here: Path, call: Call) -> None:
    """The error names what is there."""
    (here / "src").mkdir()
    (here / "src" / "main.py").write_text("")
    with pytest.raises(ToolError, match=r"There is no 'src/mian\.py'.* Did you mean 'src/main\.py'\?"):
        await call("read", path="src/mian.py")
    with pytest.raises(ToolError, match=r"There is no 'sorc'"):
        await call("read", path="sorc/main.py")
    with pytest.raises(ToolError, match="'src' is a directory"):
        await call("read", path="src")
    with pytest.raises(ToolError, match=r"'src/main\.py' is not a directory"):
        await call("read", path="src/main.py/x")


@pytest.mark.parametrize(
    ("data", "label"),
    [
        ("naïve — 日本".encode(), None),
        (b"\xef\xbb\xbf" + "naïve — 日本".encode(), "UTF-8 with BOM"),
        (b"\xff\xfe" + "naïve — 日本".encode("utf-16-le"), "UTF-16 LE with BOM"),
        (b"\xfe\xff" + "naïve — 日本".encode("utf-16-be"), "UTF-16 BE with BOM"),
        (b"\xff\xfe\0\0" + "naïve — 日本".encode("utf-32-le"), "UTF-32 LE with BOM"),
    ],
)
async def test_unicode_encodings_are_recognised(
    data: bytes, label: str | None, here: Path, text: Text
) -> None:
    """The text is the same; the note says what it was, unless it was plain UTF-8."""
    (here / "a.txt").write_bytes(data)
    note = "" if label is None else f"\n[encoding: {label}]"
    assert f"naïve — 日本{note}" == await text("read", path="a.txt")


async def test_latin_1_is_a_guess_and_said_to_be_one(here: Path, text: Text) -> None:
    """Also where the first byte that is not UTF-8 comes late."""
    (here / "a.txt").write_bytes("café\n".encode("latin-1"))
    assert "café\n[encoding: Latin-1 (a guess: it is not UTF-8)]" == await text("read", path="a.txt")
    (here / "late.txt").write_bytes(b"ok\n" * 30_000 + "café\n".encode("latin-1"))
    last = await text("read", path="late.txt", offset=30_001)
    assert last.startswith("café\n[encoding: Latin-1")


def test_utf_16_without_a_mark_is_recognised() -> None:
    """By its zero bytes, of which text in UTF-8 has none."""
    for codec in ("utf-16-le", "utf-16-be"):
        found = detect("Hello, world\n".encode(codec), whole=True)
        assert found is not None
        assert codec == found.codec


def test_a_character_that_is_cut_by_the_sample_does_not_matter() -> None:
    """UTF-8 stays UTF-8 where the first part of a file ends in the middle of a character."""
    head = "é".encode() * 10
    assert "utf-8" == getattr(detect(head[:-1], whole=False), "codec", None)
    assert "latin-1" == getattr(detect(head[:-1], whole=True), "codec", None)


async def test_line_ends_of_windows_are_said(here: Path, text: Text) -> None:
    """The model sees plain line ends, and that the file has others."""
    (here / "a.txt").write_bytes(b"one\r\ntwo\r\n")
    assert "one\ntwo\n[line ends: CRLF, which edit and write keep]" == await text("read", path="a.txt")


@pytest.mark.parametrize(
    "data", [b"\x7fELF\x02\x01\x01\0\0\0\0", bytes(range(256)), b"\x01\x02\x03\x04" * 9, b"\xff\xfe\x00\xd8x"]
)
async def test_binary_files_are_refused(data: bytes, here: Path, call: Call) -> None:
    """With their size, and without their bytes."""
    (here / "a.bin").write_bytes(data)
    with pytest.raises(ToolError, match=rf"'a\.bin' is a binary file of {len(data)} bytes"):
        await call("read", path="a.bin")


async def test_an_image_is_an_image(here: Path, call: Call) -> None:
    """By its content, whatever its name."""
    (here / "picture").write_bytes(PNG)
    said, image = (await call("read", path="picture")).content
    assert f"[picture: image/png, {len(PNG)} bytes]" == said["text"]
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert {"type": "image", "url": url, "mime_type": "image/png"} == image


async def test_an_image_that_is_too_large_is_refused(
    here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how large it may be."""
    monkeypatch.setattr(_read, "MAX_IMAGE", 50)
    (here / "picture.png").write_bytes(PNG)
    with pytest.raises(ToolError, match="at most 50 can be shown"):
        await call("read", path="picture.png")


async def test_a_large_file_comes_in_parts(here: Path, call: Call) -> None:
    """What one call shows is bounded; going on as the notes say gives the whole, once."""
    lines = [f"{number} {'x' * 60}" for number in range(3_000)]
    (here / "big.txt").write_text("\n".join(lines))
    seen: list[str] = []
    offset = 1
    while True:
        result = await call("read", path="big.txt", offset=offset)
        shown = result.content[0]["text"].split("\n")
        if not result.details["truncated"]:
            break
        assert len(result.content[0]["text"]) < _read.MAX_TEXT + 200
        seen += shown[:-1]
        offset = result.details["last_line"] + 1
    assert lines == seen + shown


async def test_a_huge_file_shows_its_head(here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read to its end to count lines, nor kept in memory; the size is said instead."""
    with (here / "huge.log").open("wb") as file:
        file.write(b"first line\n" * 10)
        file.truncate(20 * 1024 * 1024 * 1024)  # 20 GiB, of which next to nothing exists
    monkeypatch.setattr(_read, "SAMPLE", 64)
    result = await call("read", path="huge.log", limit=3)
    assert (
        "first line\n" * 3 + "[lines 1-3 of more (21,474,836,480 bytes); go on with offset=4]"
        == (result.content[0]["text"])
    )
    assert result.details["total_lines"] is None


async def test_a_place_far_into_a_huge_file_is_not_looked_for(
    here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many characters it says so, also if they are all in one line."""
    monkeypatch.setattr(_read, "MAX_SCAN", 4_000_000)
    with (here / "huge.log").open("wb") as file:
        file.write(b"first line\n" * 10_000)
        file.truncate(20 * 1024 * 1024 * 1024)
    with pytest.raises(ToolError, match="more than 4,000,000 characters into the file"):
        await call("read", path="huge.log", offset=10_002)


async def test_long_lines_are_cut(here: Path, text: Text) -> None:
    """One line of a minified file does not take all the room, and the cut is marked."""
    (here / "a.js").write_text("x" * 1_000_000 + "\nshort\n")
    shown = await text("read", path="a.js")
    assert f"{'x' * 2_000} [… 1,000,000 characters in this line]\nshort\n[1 long line(s) cut]" == shown


# ---- list -------------------------------------------------------------------------------------------


async def test_a_folder_is_listed(here: Path, text: Text) -> None:
    """Sorted; folders end in a slash; links say where they lead and are not followed; no hidden names."""
    (here / "b.txt").write_text("")
    (here / "a").mkdir()
    (here / ".hidden").write_text("")
    (here / "link").symlink_to("/nowhere/in particular")
    assert "a/\nb.txt\nlink -> /nowhere/in particular" == await text("list")
    assert (await text("list", hidden=True)).startswith(".hidden\na/\n")
    assert "[no names in a, except hidden ones]" == await text("list", path="a")
    assert "[a is empty]" == await text("list", path="a", hidden=True)


async def test_a_long_list_is_cut(here: Path, text: Text) -> None:
    """And says how much is missing."""
    for number in range(1_003):
        (here / f"{number:04}").touch()
    lines = (await text("list")).splitlines()
    assert "0999" == lines[-2]
    assert "[3 more; use glob with a narrower pattern]" == lines[-1]


NAMES = {
    b"caf\xe9.txt": r'"caf\xe9.txt"',
    b"a\nfake.txt": r'"a\nfake.txt"',
    b"a\rb\tc.txt": r'"a\rb\tc.txt"',
    b"\x1b[2Jclear.txt": r'"\u001b[2Jclear.txt"',
    "rtl\u202etxt.txt".encode(): r'"rtl\u202etxt.txt"',
    "line\u2028end.txt".encode(): r'"line\u2028end.txt"',
    "tag\U000e0041.txt".encode(): r'"tag\U000e0041.txt"',
    b'"quoted".txt': r'"\"quoted\".txt"',
    b"back\\slash.txt": r"back\slash.txt",
    b"back\\n\n.txt": r'"back\\n\n.txt"',
    "plain é 日本.txt".encode(): "plain é 日本.txt",
}


@pytest.mark.parametrize("name", NAMES, ids=repr)
async def test_odd_names_are_quoted_and_can_be_given_back(
    name: bytes, here: Path, call: Call, text: Text
) -> None:
    """One line for one name, in every tool; what is shown leads to the file, for each of them."""
    (here / "sub").mkdir()
    with open(bytes(here) + b"/sub/" + name, "wb") as file:  # noqa: PTH123 - a name in bytes
        file.write(b"needle\n")
    shown = NAMES[name]
    inside = f'"sub/{shown[1:]}' if shown.startswith('"') else f"sub/{shown}"
    assert shown == await text("list", path="sub")
    assert inside == await text("glob", pattern="*.txt")
    assert f"{inside}:1:needle" == await text("grep", pattern="needle")
    assert "needle" == await text("read", path=inside)
    assert f"{inside}:1:needle" == await text("grep", pattern="needle", path=inside)
    assert f"Edited {inside} in 1 place" in await text("edit", path=inside, old_text="needle", new_text="pin")
    assert f"Replaced {inside}:" in await text("write", path=inside, content="x")
    assert [name] == os.listdir(bytes(here / "sub"))  # noqa: PTH208 - names in bytes
    with pytest.raises(ToolError) as missing:
        await call("read", path=f"{inside[:-1]}X" + inside[-1])
    assert "\n" not in str(missing.value)


async def test_a_name_cannot_pass_for_something_else(here: Path, text: Text) -> None:
    """A link, a note of ours, a match in another file."""
    (here / "a -> b").write_text("")
    (here / "[more than 2; use a narrower pattern]").write_text("")
    (here / "safe.py:3:x").write_text("needle\n")
    assert ['"[more than 2; use a narrower pattern]"', '"a -> b"', "safe.py:3:x"] == (
        await text("list")
    ).splitlines()
    assert '"safe.py:3:x":1:needle' == await text("grep", pattern="needle")


async def test_quotes_that_are_not_ours_are_part_of_the_name(here: Path, text: Text) -> None:
    """A path that only looks quoted is taken as it is; octal escapes of Git's are understood."""
    (here / "caf\u00e9").write_text("x")
    (here / '"a"b"').write_text("y")
    assert "x" == await text("read", path=r'"caf\303\251"')
    assert "y" == await text("read", path='"a"b"')


async def test_a_file_cannot_be_listed(here: Path, call: Call) -> None:
    """It says that it is one."""
    (here / "a.txt").write_text("")
    with pytest.raises(ToolError, match=r"'a\.txt' is not a directory"):
        await call("list", path="a.txt")
