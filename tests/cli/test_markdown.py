"""The reply on a terminal is rendered Markdown, and hostile Markdown is harmless."""

from __future__ import annotations

import re
import subprocess
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tinyagent.testing import Wait
from tinyagent.testing.server import chat_chunk
from tinyagent_cli.terminal.blocks import BlockSplitter
from tinyagent_cli.terminal.highlighting import highlighted
from tinyagent_cli.terminal.markdown import MarkdownPrinter

from .conftest import Cli, FakeReply, Serve

RUN = ("run", "-m", "local/m")
OURS = r"\x1b\[[0-9;]*m|\x1b\]8;(?:id=\d+)?;[!-~]*\x1b\\"
"""What may be written beside text: colours, and links to an address without blanks and controls."""


def rendered(text: str, width: int = 40, *, color: bool = True) -> str:
    """Return a text as a terminal gets it."""
    splitter, printer = BlockSplitter(), MarkdownPrinter(color=color)
    return "".join(printer.render(block, width) for block in (*splitter.feed(text), *splitter.end()))


def lines(text: str, width: int = 40) -> list[str]:
    """Return the lines of a rendered text without colours and links."""
    return re.sub(OURS, "", rendered(text, width)).removesuffix("\n").split("\n")


CASES: dict[str, tuple[str, list[str]]] = {
    "a paragraph is wrapped by words": (
        "Some *prose* that is\nlonger than the `terminal` is wide.",
        ["Some prose that is longer than the", "terminal is wide."],
    ),
    "wide characters": ("漢字" * 15, ["漢字" * 10, "漢字" * 5]),
    "headings": ("# One\n## Two\nThree\n===", ["One", "", "Two", "", "Three"]),
    "items": ("- one\n- two\n\n  more\n- three", ["• one", "• two", "", "  more", "• three"]),
    "nested items": ("1. one\n   - two\n1. three", ["1. one", "   • two", "2. three"]),
    "a quote": ("> one\n>\n> two", ["│ one", "│", "│ two"]),
    "code": ("```py\nif x:\n\n    y\n```", ["── py ──", "if x:", "", "    y", "────────"]),
    "code without a language": ("    a  b", ["────────", "a  b", "────────"]),
    "long code is not wrapped": ("```\n" + "x " * 40 + "\n```", ["─" * 40, "x " * 40, "─" * 40]),
    "html is shown": (
        "<p>\na\n</p>\n\n<b>b</b>",
        ["── html ──", "<p>", "a", "</p>", "──────────", "", "<b>b</b>"],
    ),
    "a link has its address": ("[a](https://x.org/y)", ["a (https://x.org/y)"]),
    "an address has no second one": ("<https://x.org/y>", ["https://x.org/y"]),
    "an image": ("![a *b*](c.png)", ["[image: a b] (c.png)"]),
    "a definition shows nothing": ("[a]: https://x.org\n\n[a]", ["a (https://x.org)"]),
    "a hard break": ("a  \nb\\\nc", ["a", "b", "c"]),
    "tasks": ("- [x] a\n- [ ] b", ["• [x] a", "• [ ] b"]),
    "nothing": (" \n\n", [""]),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_laid_out(name: str) -> None:
    """Each kind of block at 40 columns."""
    text, shown = CASES[name]
    assert shown == [line.rstrip() if line.startswith("│") else line for line in lines(text)]


@pytest.mark.parametrize("width", [40, 60, 200])
def test_the_columns_of_a_table_align(width: int) -> None:
    """Wide characters take two columns, and numbers are at the right."""
    shown = lines("|Name|名前|N|\n|:-|:-:|-:|\n|apple|りんご|3|\n|**b**|漢字|12345|", width)
    assert 4 == len(shown)
    assert {cell_len(shown[0])} == {cell_len(line) for line in shown}
    assert ["Name", "名前", "N"] == shown[0].split()
    assert ("3", "12345") == (shown[2][-1], shown[3][-5:])


def test_a_table_that_does_not_fit_is_shown_as_it_is() -> None:
    """Forty columns of a table in forty columns of a terminal stay readable as source."""
    source = "\n".join("|".join(["", *[cell] * 40, ""]) for cell in ("a", "-", "b"))
    assert source.split("\n") == lines(source)


def test_prose_is_narrower_than_a_wide_terminal() -> None:
    """A line of text has at most 100 columns."""
    assert 100 >= max(map(len, lines("word " * 100, 200)))


def test_code_is_coloured_unless_colours_are_off() -> None:
    """Only the colours of the terminal's palette are used."""
    assert "\x1b[35mdef\x1b[0m" in rendered("```python\ndef f(): pass\n```")
    plain = rendered("```python\ndef f(): pass\n```\n**b** `c`", color=False)
    assert [] == re.findall(r"\x1b\[(?:\d+;)*[349][0-7]m", plain)


@given(
    st.text() | st.text("x='\"#+-<>&/* \t\n"),
    st.sampled_from(["", "bash", "diff", "html", "json", "python", "x"]),
)
def test_the_pieces_of_code_are_the_code(code: str, language: str) -> None:
    """Nothing is lost or added, and neighbours differ in their kind."""
    pieces = highlighted(code, language)
    assert code == "".join(piece.text for piece in pieces)
    assert all(before.kind != after.kind for before, after in pairwise(pieces))


HOSTILE: dict[str, str] = {
    "an entity": "a &#x202e;b &#27;[2J &#x9b;2J &#x200b; &#10;c",
    "a link with an entity": "[a](https://x/&#27;]0;t&#7; )[b](https://x/\u202e) [c](<https://x/ \x9b2J>)",
    "an address with controls": "<https://x/\x1b]8;;http://evil\x1b\\>",
    "javascript": "[a](javascript:alert(1)) [b](file:///etc/passwd) ![c](data:text/html,x)",
    "a language": "```\x1b]0;t\x07py\u202e x\na\n```",
    "a reference": "[a]: https://x/&#x202e; '&#27;[2J'\n\n[a]",
    "deep quotes": ">" * 10_000 + " a",
    "deep items": "- " * 5_000 + "a",
    "deep indentation": "\n".join(" " * n + "- a" for n in range(150)),
    "brackets": "[" * 15_000,
    "images": "![" * 7_500,
    "stars": "*a **b " * 2_000,
    "backticks": "".join("`" * n + " " for n in range(170)),
    "a long line": "x" * 1_000_000,
    "a long line of wide characters": "漢" * 500_000,
    "a long line of code": "```py\n" + "x = '''" * 150_000 + "\n```",
    "many lines of code": "```python\n" + "def f(): pass\n" * 50_000 + "```",
    "slow to lex": "```perl\n" + ("s{" * 900 + "\n") * 10 + "```",
    "many rows": "|a|b|\n|-|-|\n" + "|x|y|\n" * 50_000,
    "many cells": "|a" * 8_000 + "|\n" + "|-" * 8_000 + "|\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_markdown_neither_hangs_nor_escapes(name: str) -> None:
    """Only colours, links and text without control characters are written."""
    text = re.sub(OURS, "", rendered(HOSTILE[name].replace("\x1b", "").replace("\x07", "")))
    bad = [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Cf") and c != "\n"]
    assert [] == bad


@given(st.text(alphabet="-*`~#>|[]()!<&;x27b \n\ta1.:/h\x1b\x9b\u202e漢", max_size=80), st.integers(1, 120))
def test_any_text_is_safe_at_any_width(text: str, width: int) -> None:
    """Whatever is rendered, a terminal gets no control sequence of the model."""
    shown = re.sub(OURS, "", rendered(text, width))
    assert [] == [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Cf") and c != "\n"]


@given(st.lists(st.sampled_from(["word", "漢字", "*", "- ", "1. ", "> ", "\n", "\n\n", "`", "|", " ", "# "])))
def test_no_word_is_lost(pieces: list[str]) -> None:
    """Every word of the reply is shown, whatever the marks around it mean."""
    text = "".join(pieces)
    shown = "".join(lines(text, 60))
    assert (text.count("word"), text.count("漢")) == (shown.count("word"), shown.count("漢"))


# ---- through the program ----------------------------------------------------------------------------


def test_a_block_is_shown_when_it_is_complete(cli: Cli, serve: Serve) -> None:
    """The first paragraph appears while the second is received; nothing on the screen is written again."""
    pieces = [chat_chunk("A **bo"), chat_chunk("ld** word.\n\nThe *sec"), Wait(), chat_chunk("ond* one.")]
    server = serve(FakeReply.chunks(*pieces, chat_chunk({}, "stop")))
    terminal = cli.on_terminal(*RUN, "Hi")
    terminal.expect("\x1b[1mbold\x1b[0m word.")
    terminal.expect("The *sec")  # the preview above the spinner
    terminal.expect("writing")
    server.release()
    assert 0 == terminal.end()
    assert ["A bold word.", "The second one."] == terminal.screen()[:2]
    assert "The *sec" not in "\n".join(terminal.screen())
    assert 1 == terminal.shown.count(b"word.")


@pytest.mark.parametrize(
    ("flags", "variable"), [(("--plain",), {}), ((), {"TERM": "dumb"})], ids=["--plain", "dumb"]
)
def test_plain_text(cli: Cli, serve: Serve, flags: tuple[str, ...], variable: dict[str, str]) -> None:
    """--plain and a dumb terminal show the text as it is, without control sequences."""
    serve(FakeReply.text("A **bold** \x1b[31mword."))
    terminal = cli.on_terminal(*RUN, "-q", *flags, "Hi", environment=variable)
    assert 0 == terminal.end()
    assert b"A **bold** word.\r\n" == terminal.shown


def test_without_colours_nothing_is_coloured(cli: Cli, serve: Serve) -> None:
    """NO_COLOR removes colours; bold stays."""
    serve(FakeReply.text("A **bold** `word`."))
    terminal = cli.on_terminal(*RUN, "-q", "Hi", environment={"NO_COLOR": "1"})
    assert 0 == terminal.end()
    assert b"A \x1b[1mbold\x1b[0m word.\r\n" == terminal.shown


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_no_line_of_text_is_wider_than_the_terminal(cli: Cli, serve: Serve, columns: int) -> None:
    """Text, lists and tables are wrapped at each width."""
    serve(
        FakeReply.text("word " * 60 + "\n\n- " + "漢字 " * 60 + "\n\n|a|b|\n|-|-|\n|" + "word " * 30 + "|c|")
    )
    terminal = cli.on_terminal(*RUN, "-q", "Hi", columns=columns, environment={"NO_COLOR": "1"})
    assert 0 == terminal.end()
    text = re.sub(OURS, "", terminal.shown.decode())
    assert columns >= max(map(cell_len, text.split("\r\n")))


def test_a_pipe_gets_the_source(cli: Cli, serve: Serve) -> None:
    """The bytes are untouched, even if standard error is a terminal."""
    source = "# A\n\n| b |\n|---|\n\x1b[31m\n"
    serve(FakeReply.text(*source))
    terminal = cli.on_terminal(*RUN, "-q", "Hi", stdout=subprocess.PIPE)
    assert terminal.process.stdout is not None
    assert source.encode() == terminal.process.stdout.read()
    assert (0, b"") == (terminal.end(), terminal.shown)


def test_an_interrupted_reply_shows_what_has_arrived(cli: Cli, serve: Serve) -> None:
    """Ctrl-C renders the incomplete block before the error."""
    serve(FakeReply.chunks(chat_chunk("One.\n\nThe *second"), Wait()))
    terminal = cli.on_terminal(*RUN, "Hi")
    terminal.expect("The *second")
    terminal.type("\x03")
    assert 130 == terminal.end()
    assert ["One.", "The *second"] == terminal.screen()[:2]
    assert terminal.screen()[2].startswith("local/m · ")
    assert "Interrupted." == terminal.screen()[3]
