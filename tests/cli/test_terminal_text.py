"""Untrusted text is safe for a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyagent_cli.terminal.sanitise import Sanitizer, clean, one_line, visible
from tinyagent_cli.terminal.wrapping import wrap_words

HOSTILE = [
    ("colour \x1b[31mred\x1b[0m", "colour red"),
    ("erase\x1b[2K\x1b[1Gline", "eraseline"),
    ("title\x1b]0;owned\x07 end", "title end"),
    ("link \x1b]8;;http://evil\x1b\\text\x1b]8;;\x1b\\ end", "link text end"),
    ("dcs\x1bPq#0;2;0\x1b\\end", "dcsend"),
    ("apc\x1b_payload\x1b\\pm\x1b^payload\x1b\\sos\x1bXpayload\x1b\\end", "apcpmsosend"),
    ("8 bit \x9b31mred \x9d0;title\x9c end", "8 bit red  end"),
    ("8 bit dcs\x90q\x9csos\x98q\x9cpm\x9eq\x9capc\x9fq\x9cend", "8 bit dcssospmapcend"),
    ("charset\x1b(0end, reset\x1bcend", "charsetend, resetend"),
    ("bell\x07 back\x08\x08 del\x7f nul\x00", "bell back del nul"),
    ("unix\nold\rwin\r\nend", "unix\nold\nwin\nend"),
    ("tab\tstays", "tab\tstays"),
    ("bidi \u202eevil\u202c \u2066x\u2069", "bidi evil x"),
    ("zero\u200bwidth\ufeff", "zerowidth"),
    ("tags \U000e0041\U000e007f", "tags "),
    ("ignorable \u00ad\u034f\u061c\u3164\uffa0\u2060\ufe00\ufff9\U000e0100", "ignorable "),
    ("emoji ❤\ufe0f stay, and persian می\u200cخواهم", "emoji ❤\ufe0f stay, and persian می\u200cخواهم"),
    ("half \ud83d of it", "half \ufffd of it"),
    ("family 👨\u200d👩\u200d👧 café 漢字", "family 👨\u200d👩\u200d👧 café 漢字"),
    ("an unfinished one \x1b]0;swallows its line\nnot the next", "an unfinished one \nnot the next"),
]
PIECES = st.lists(
    st.one_of(
        st.text(max_size=5),
        st.sampled_from(["\x1b", "[", "]", "31m", "\x07", "\\", "\r", "\n", "\x9b", "\x90", "P", "\x1b\x1b"]),
    ),
    max_size=30,
)


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_control_sequences_are_removed_and_text_stays(text: str, shown: str) -> None:
    """Escapes, C0, C1, bidi, zero-width and tag characters are removed, and all other text stays."""
    assert shown == clean(text)


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_it_makes_no_difference_where_a_delta_ends(text: str, shown: str) -> None:
    """A sequence that is split between two deltas is removed."""
    sanitizer = Sanitizer()
    assert shown == "".join(sanitizer.feed(character) for character in text)


@given(PIECES)
def test_no_control_sequence_is_left(pieces: list[str]) -> None:
    """Text in any pieces is cleaned as in one piece, and its only controls are tab and newline."""
    sanitizer = Sanitizer()
    shown = "".join(sanitizer.feed(piece) for piece in pieces)
    assert clean("".join(pieces)) == shown
    assert [] == [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n"]


def test_a_sequence_without_an_end_does_not_swallow_the_rest() -> None:
    """After 4096 characters of an unfinished sequence, the text is shown again."""
    assert clean("\x1b]" + "x" * 10_000).endswith("x" * 5_000)


def test_one_line_is_one_line() -> None:
    """Line breaks become spaces, and long text ends with an ellipsis."""
    assert "a b c" == one_line("a\nb\r\n\x1b[31mc")
    assert "x" * 19 + "…" == one_line("x" * 50, 20)


def test_visible_removes_nothing() -> None:
    """For approvals, control and invisible characters are shown as escapes."""
    assert "rm -rf /\\x1b[2K\\x08 \\u202e \\U000e0041 ok\n" == visible(
        "rm -rf /\x1b[2K\x08 \u202e \U000e0041 ok\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Error: this has exactly", "Error: this has exactly"),
        ("Error: this is too long for it", "Error: this is too long\nfor it"),
        ("Try it:\n  tinyagent run a-long-command", "Try it:\n  tinyagent run a-long-command"),
        ("See /a/very/long/path/of/a/file there", "See\n/a/very/long/path/of/a/file\nthere"),
        ("文字 文字 文字 文字 文字 文字", "文字 文字 文字 文字\n文字 文字"),
        ("two  blanks stay  as they are", "two  blanks stay  as\nthey are"),
        ("", ""),
    ],
)
def test_messages_are_wrapped_at_words(text: str, expected: str) -> None:
    """No word is broken, and indented lines, which are commands, stay as they are."""
    assert expected == wrap_words(text, 23)
