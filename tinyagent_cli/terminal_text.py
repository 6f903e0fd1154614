"""Text that others wrote, on its way to a terminal.

Models, tools, providers, files and plugins can send control sequences that hide, rewrite or inject what a
person sees. `Sanitizer` removes them, also when a sequence is cut in two by a delta; `clean` does the same
for a whole text, `one_line` for a text that must stay on one line, and `visible` shows instead of removing,
for what somebody is asked to approve.
"""

from __future__ import annotations

import re

__all__ = ["Sanitizer", "clean", "one_line", "visible"]

# C0 but tab and newline, DEL, C1; zero-width and bidirectional controls; surrogates; tag characters.
_SUSPECT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)

_TEXT, _AFTER_CR, _ESCAPE, _CHARSET, _CSI, _STRING, _STRING_ESCAPE = range(7)

_LONGEST_SEQUENCE = 4096
"""A sequence that is still not over after so many characters is not one: the text shows again."""

_C1 = {"\x9b": _CSI, "\x90": _STRING, "\x98": _STRING, "\x9d": _STRING, "\x9e": _STRING, "\x9f": _STRING}
_AFTER_ESCAPE = {"[": _CSI, "P": _STRING, "X": _STRING, "]": _STRING, "^": _STRING, "_": _STRING}


class Sanitizer:
    """Takes text piece by piece and gives back what may be shown of it."""

    def __init__(self) -> None:
        self._state = _TEXT
        self._length = 0

    def feed(self, text: str) -> str:
        """The harmless part of `text`; what it ends in the middle of is remembered."""
        if self._state == _TEXT and _SUSPECT.search(text) is None:
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
            # The escape was no terminator: it begins a sequence of its own.
            self._after_escape(character, shown)
        elif state == _ESCAPE:
            self._after_escape(character, shown)
        elif (state == _CSI and " " <= character <= "?") or (state == _CHARSET and " " <= character <= "/"):
            pass
        elif state == _STRING_ESCAPE or "0" <= character <= "~":
            self._state = _TEXT  # this one ends the sequence
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
        elif _SUSPECT.match(character) is None:
            shown.append(character)

    def _enter(self, state: int) -> None:
        if self._state <= _AFTER_CR:
            self._length = 0
        self._state = state


def clean(text: str) -> str:
    """`text` without anything that a terminal would obey."""
    return Sanitizer().feed(text)


def one_line(text: str, limit: int = 200) -> str:
    """`text` cleaned, on one line and cut to `limit` characters."""
    line = " ".join(clean(text[: limit * 20]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def visible(text: str) -> str:
    """`text` with everything that cannot be seen written out (`\\x1b`, `\\u202e`), newlines kept.

    Nothing is removed: this is for showing exactly what is about to be done.
    """
    return "".join(
        character if character.isprintable() or character == "\n" else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
