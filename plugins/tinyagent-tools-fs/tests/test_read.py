"""`read` and `list`: the text that a model gets."""

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
    """Only tools that write need approval."""
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
    """A file is shown without numbers and notes."""
    (here / "a.py").write_text("def f():\n\treturn 'é'\n\n\n")
    assert "def f():\n\treturn 'é'\n\n" == await text("read", path="a.py")


async def test_a_range_of_lines(here: Path, call: Call) -> None:
    """`offset` and `limit` select lines; the note shows how to continue."""
    (here / "a.txt").write_text("".join(f"line {n}\n" for n in range(1, 11)))
    result = await call("read", path="a.txt", offset=4, limit=2, line_numbers=True)
    assert (
        "     4\tline 4\n     5\tline 5\n[lines 4-5 of 10; continue with offset=6]"
        == result.content[0]["text"]
    )
    assert (4, 5, 10, True) == tuple(
        result.details[key] for key in ("first_line", "last_line", "total_lines", "truncated")
    )


async def test_a_range_beyond_the_end(here: Path, call: Call) -> None:
    """The error shows the number of lines."""
    (here / "a.txt").write_text("one\ntwo")
    with pytest.raises(ToolError, match=r"has 2 line\(s\), so there is no line 3"):
        await call("read", path="a.txt", offset=3)


async def test_an_empty_file_has_a_note(here: Path, text: Text) -> None:
    """The result of an empty file is a note, not an empty text."""
    (here / "a.txt").write_bytes(b"")
    assert "[a.txt is empty]" == await text("read", path="a.txt")


async def test_similar_names_are_suggested(here: Path, call: Call) -> None:
    """The error suggests existing names."""
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
    """The text is the same, and a note shows the encoding unless it is UTF-8."""
    (here / "a.txt").write_bytes(data)
    note = "" if label is None else f"\n[encoding: {label}]"
    assert f"naïve — 日本{note}" == await text("read", path="a.txt")


async def test_latin_1_is_marked_as_a_guess(here: Path, text: Text) -> None:
    """Latin-1 is used even if the first byte that is not UTF-8 is far from the start."""
    (here / "a.txt").write_bytes("café\n".encode("latin-1"))
    assert "café\n[encoding: Latin-1 (a guess: it is not UTF-8)]" == await text("read", path="a.txt")
    (here / "late.txt").write_bytes(b"ok\n" * 30_000 + "café\n".encode("latin-1"))
    last = await text("read", path="late.txt", offset=30_001)
    assert last.startswith("café\n[encoding: Latin-1")


def test_utf_16_without_a_mark_is_recognised() -> None:
    """UTF-16 is recognised by its NUL bytes."""
    for codec in ("utf-16-le", "utf-16-be"):
        found = detect("Hello, world\n".encode(codec), whole=True)
        assert found is not None
        assert codec == found.codec


def test_a_character_may_cross_the_end_of_the_sample() -> None:
    """The file is still recognised as UTF-8."""
    head = "é".encode() * 10
    assert "utf-8" == getattr(detect(head[:-1], whole=False), "codec", None)
    assert "latin-1" == getattr(detect(head[:-1], whole=True), "codec", None)


async def test_crlf_has_a_note(here: Path, text: Text) -> None:
    """The model gets LF, and a note about CRLF."""
    (here / "a.txt").write_bytes(b"one\r\ntwo\r\n")
    assert "one\ntwo\n[line ends: CRLF, preserved by edit and write]" == await text("read", path="a.txt")


@pytest.mark.parametrize(
    "data", [b"\x7fELF\x02\x01\x01\0\0\0\0", bytes(range(256)), b"\x01\x02\x03\x04" * 9, b"\xff\xfe\x00\xd8x"]
)
async def test_binary_files_are_refused(data: bytes, here: Path, call: Call) -> None:
    """The error shows the size but no bytes."""
    (here / "a.bin").write_bytes(data)
    with pytest.raises(ToolError, match=rf"'a\.bin' is a binary file of {len(data)} bytes"):
        await call("read", path="a.bin")


async def test_images_are_recognised_by_content(here: Path, call: Call) -> None:
    """Images are recognised whatever their names are."""
    (here / "picture").write_bytes(PNG)
    said, image = (await call("read", path="picture")).content
    assert f"[picture: image/png, {len(PNG)} bytes]" == said["text"]
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert {"type": "image", "url": url, "mime_type": "image/png"} == image


async def test_an_image_that_is_too_large_is_refused(
    here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error shows the limit."""
    monkeypatch.setattr(_read, "MAX_IMAGE", 50)
    (here / "picture.png").write_bytes(PNG)
    with pytest.raises(ToolError, match="at most 50 can be shown"):
        await call("read", path="picture.png")


async def test_a_large_file_comes_in_parts(here: Path, call: Call) -> None:
    """Following the notes gives the complete file, each part once."""
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
    """A huge file is not read to its end; the note shows its size instead of its lines."""
    with (here / "huge.log").open("wb") as file:
        file.write(b"first line\n" * 10)
        file.truncate(20 * 1024 * 1024 * 1024)  # 20 GiB as a sparse file
    monkeypatch.setattr(_read, "SAMPLE", 64)
    result = await call("read", path="huge.log", limit=3)
    assert (
        "first line\n" * 3 + "[lines 1-3 of more (21,474,836,480 bytes); continue with offset=4]"
        == (result.content[0]["text"])
    )
    assert result.details["total_lines"] is None


async def test_an_offset_beyond_the_scan_limit_is_refused(
    here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit applies to many lines and to one long line."""
    monkeypatch.setattr(_read, "MAX_SCAN", 4_000_000)
    with (here / "huge.log").open("wb") as file:
        file.write(b"first line\n" * 10_000)
        file.truncate(20 * 1024 * 1024 * 1024)
    with pytest.raises(ToolError, match="beyond 4,000,000 characters"):
        await call("read", path="huge.log", offset=10_002)


async def test_long_lines_are_truncated(here: Path, text: Text) -> None:
    """A long line is truncated with a mark."""
    (here / "a.js").write_text("x" * 1_000_000 + "\nshort\n")
    shown = await text("read", path="a.js")
    assert f"{'x' * 2_000} [… 1,000,000 characters in this line]\nshort\n[1 long line(s) truncated]" == shown


# ---- list -------------------------------------------------------------------------------------------


async def test_a_folder_is_listed(here: Path, text: Text) -> None:
    """Names are sorted; folders end in a slash, links show their target, hidden names are omitted."""
    (here / "b.txt").write_text("")
    (here / "a").mkdir()
    (here / ".hidden").write_text("")
    (here / "link").symlink_to("/nowhere/in particular")
    assert "a/\nb.txt\nlink -> /nowhere/in particular" == await text("list")
    assert (await text("list", hidden=True)).startswith(".hidden\na/\n")
    assert "[no names in a, except hidden ones]" == await text("list", path="a")
    assert "[a is empty]" == await text("list", path="a", hidden=True)


async def test_a_long_list_is_truncated(here: Path, text: Text) -> None:
    """A note shows the number of omitted names."""
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


def inside(shown: str) -> str:
    """Return how a name is shown with its folder `sub`."""
    return f'"sub/{shown[1:]}' if shown.startswith('"') else f"sub/{shown}"


async def test_unusual_names_are_quoted(here: Path, text: Text) -> None:
    """Every tool shows each name on one line."""
    (here / "sub").mkdir()
    for name in NAMES:
        with open(bytes(here) + b"/sub/" + name, "wb") as file:  # noqa: PTH123 - a name in bytes
            file.write(b"needle\n")
    shown = {inside(name) for name in NAMES.values()}
    assert sorted(NAMES.values()) == sorted((await text("list", path="sub")).splitlines())
    assert sorted(shown) == sorted((await text("glob", pattern="*.txt")).splitlines())
    assert {f"{name}:1:needle" for name in shown} == set((await text("grep", pattern="needle")).splitlines())


@pytest.mark.parametrize("name", NAMES, ids=repr)
async def test_quoted_names_are_accepted(name: bytes, here: Path, call: Call, text: Text) -> None:
    """Every tool accepts the form in which a name is shown."""
    (here / "sub").mkdir()
    with open(bytes(here) + b"/sub/" + name, "wb") as file:  # noqa: PTH123 - a name in bytes
        file.write(b"needle\n")
    path = inside(NAMES[name])
    assert "needle" == await text("read", path=path)
    assert f"{path}:1:needle" == await text("grep", pattern="needle", path=path)
    assert f"Edited {path} in 1 place" in await text("edit", path=path, old_text="needle", new_text="pin")
    assert f"Replaced {path}:" in await text("write", path=path, content="x")
    assert [name] == os.listdir(bytes(here / "sub"))  # noqa: PTH208 - names in bytes
    with pytest.raises(ToolError) as missing:
        await call("read", path=f"{path[:-1]}X" + path[-1])
    assert "\n" not in str(missing.value)


async def test_a_name_cannot_imitate_output(here: Path, text: Text) -> None:
    """A name cannot look like a link, a note or a match."""
    (here / "a -> b").write_text("")
    (here / "[more than 2; use a narrower pattern]").write_text("")
    (here / "safe.py:3:x").write_text("needle\n")
    assert ['"[more than 2; use a narrower pattern]"', '"a -> b"', "safe.py:3:x"] == (
        await text("list")
    ).splitlines()
    assert '"safe.py:3:x":1:needle' == await text("grep", pattern="needle")


async def test_other_quotes_are_part_of_the_name(here: Path, text: Text) -> None:
    """Invalid quoted forms are plain names; Git's octal escapes are decoded."""
    (here / "caf\u00e9").write_text("x")
    (here / '"a"b"').write_text("y")
    assert "x" == await text("read", path=r'"caf\303\251"')
    assert "y" == await text("read", path='"a"b"')


async def test_a_file_cannot_be_listed(here: Path, call: Call) -> None:
    """`list` refuses a file."""
    (here / "a.txt").write_text("")
    with pytest.raises(ToolError, match=r"'a\.txt' is not a directory"):
        await call("list", path="a.txt")
