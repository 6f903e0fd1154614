"""Make untrusted text safe for a terminal.

Models, tools, providers, files and plugins can send control sequences and invisible characters, which hide,
rewrite or inject text on a terminal. `Sanitizer` removes them from a stream, even if a sequence is split
between two deltas. `clean` does the same for a complete text, and `one_line` for a text that must stay on one
line. `visible`, `visible_line` and `exact` show them as escapes, for approvals.
"""

from __future__ import annotations

import re
from itertools import groupby

__all__ = ["Sanitizer", "clean", "exact", "one_line", "visible", "visible_line"]

# Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt and the interlinear annotations, except
# joiners of letters and variation selectors of emoji: U+200C, U+200D, U+FE0E, U+FE0F.
_IGNORABLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# C0 except tab and newline, DEL, C1, surrogates, ignorable characters.
_SUSPECT = f"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{_IGNORABLE}]"

# Printable for Python, but invisible: ignorable characters, joiners, and blank letters and symbols (Braille,
# object replacement, Khitan filler, Egyptian blanks, null note head).
_UNSEEN = f"[{_IGNORABLE}\u200c\u200d\ufe0e\ufe0f\u2800\ufffc\U00013441\U00013442\U00016fe4\U0001d159]"

# Blanks inside a line of JSON text, but not its indentation.
_LONG_BLANKS = r"(?<=\S)(?: |\\[nrtf]){40,}"
_BLANKS = {
    "space": (" ",),
    "line break": ("\n", r"\n"),
    "carriage return": ("\r", r"\r"),
    "tab": ("\t", r"\t"),
    "form feed": ("\f", r"\f"),
}

_TEXT, _AFTER_CR, _ESCAPE, _CHARSET, _CSI, _STRING, _STRING_ESCAPE = range(7)

_LONGEST_SEQUENCE = 4096
"""The maximum length of a control sequence. After that, the text is shown again."""

_C1 = {"\x9b": _CSI, "\x90": _STRING, "\x98": _STRING, "\x9d": _STRING, "\x9e": _STRING, "\x9f": _STRING}
_AFTER_ESCAPE = {"[": _CSI, "P": _STRING, "X": _STRING, "]": _STRING, "^": _STRING, "_": _STRING}


# The patterns are compiled at the first text that needs them: most commands print plain ASCII.


def _is_suspect(text: str) -> bool:
    """Return whether a terminal would interpret or hide a character of `text`."""
    if text.isascii() and text.isprintable():
        return False
    return re.search(_SUSPECT, text) is not None


def _has_unseen(text: str) -> bool:
    """Return whether a character of `text` is printable for Python, but cannot be seen."""
    return not text.isascii() and re.search(_UNSEEN, text) is not None


class Sanitizer:
    """Removes control sequences and invisible characters from a stream of text."""

    def __init__(self) -> None:
        self._state = _TEXT
        self._length = 0

    def feed(self, text: str) -> str:
        """Return the harmless part of `text`. An unfinished sequence continues in the next call."""
        if self._state == _TEXT and not _is_suspect(text):
            return text
        shown: list[str] = []
        for character in text:
            self._step(character, shown)
        return "".join(shown)

    def _step(self, character: str, shown: list[str]) -> None:
        state = self._state
        if state > _AFTER_CR:
            self._length += 1
            if self._length > _LONGEST_SEQUENCE or character == "\n":
                state = self._state = _TEXT
        if state == _AFTER_CR:
            state = self._state = _TEXT
            if character == "\n":
                return
        if state == _TEXT:
            self._plain(character, shown)
        elif character == "\x1b":
            self._enter(_STRING_ESCAPE if state in (_STRING, _STRING_ESCAPE) else _ESCAPE)
        elif state == _STRING:
            if character in "\x07\x9c":
                self._state = _TEXT
        elif state == _STRING_ESCAPE and character != "\\":
            # The escape is not a terminator: it starts a new sequence.
            self._after_escape(character, shown)
        elif state == _ESCAPE:
            self._after_escape(character, shown)
        elif (state == _CSI and " " <= character <= "?") or (state == _CHARSET and " " <= character <= "/"):
            pass
        elif state == _STRING_ESCAPE or "0" <= character <= "~":
            self._state = _TEXT  # the last character of the sequence
        else:
            self._state = _TEXT
            self._plain(character, shown)

    def _after_escape(self, character: str, shown: list[str]) -> None:
        if character in _AFTER_ESCAPE:
            self._enter(_AFTER_ESCAPE[character])
        elif " " <= character <= "/":
            self._state = _CHARSET
        elif "0" <= character <= "~":
            self._state = _TEXT
        else:
            self._state = _TEXT
            self._plain(character, shown)

    def _plain(self, character: str, shown: list[str]) -> None:
        if character == "\r":
            shown.append("\n")
            self._state = _AFTER_CR
        elif character == "\x1b":
            self._enter(_ESCAPE)
        elif character in _C1:
            self._enter(_C1[character])
        elif "\ud800" <= character <= "\udfff":
            shown.append("\ufffd")
        elif not _is_suspect(character):
            shown.append(character)

    def _enter(self, state: int) -> None:
        if self._state <= _AFTER_CR:
            self._length = 0
        self._state = state


def clean(text: str) -> str:
    """Return `text` without control sequences and invisible characters."""
    return Sanitizer().feed(text)


def one_line(text: str, limit: int = 200) -> str:
    """Return `text` cleaned, on one line and cut to `limit` characters."""
    line = " ".join(clean(text[: limit * 20]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def visible(text: str) -> str:
    """Return `text` with invisible characters as escapes (`\\x1b`, `\\u3164`), except newlines.

    Nothing is removed, because the user must see exactly what is about to happen.
    """
    if text.replace("\n", "").isprintable() and not _has_unseen(text):
        return text
    return "".join(
        character
        if character == "\n" or (character.isprintable() and not _has_unseen(character))
        else _escaped(character)
        for character in text
    )


def visible_line(text: str) -> str:
    """Return `visible(text)` on one line: with newlines as escapes, and long blanks as their length.

    A run of 40 or more blanks, such as `⟨12,000 spaces⟩`, would push the text after it out of sight. Line
    breaks and tabs are blanks in the form of a JSON string, too: `\\n` and `\\t`.
    """
    line = visible(text).replace("\n", "\\n")
    return re.sub(_LONG_BLANKS, _length, line)


def exact(text: str) -> str:
    """Return text as it is, with characters that cannot be seen as `⟨\\x1b⟩`, except newlines.

    Tabs are shown as an arrow, and 40 or more blanks in a row, including line breaks, as their length.
    """
    text = re.sub(r"[ \t\n\r\f]{40,}", _length, text)
    if text.replace("\n", "").isprintable() and not _has_unseen(text):
        return text
    shown: list[str] = []
    for unseen, characters in groupby(text, _is_unseen):
        run = "".join(characters)
        shown.append(f"⟨{''.join(map(_escaped, run))}⟩" if unseen else run.replace("\t", "⇥   "))
    return "".join(shown)


def _is_unseen(character: str) -> bool:
    return character not in "\n\t" and (not character.isprintable() or _has_unseen(character))


def _length(run: re.Match[str]) -> str:
    """Return the number of each kind of blank in a run."""
    counts = {name: sum(map(run[0].count, forms)) for name, forms in _BLANKS.items()}
    parts = [f"{count:,} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count]
    return f"⟨{', '.join(parts)}⟩"


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
