r"""File names in the form that models read and write.

A file name may have any characters except NUL and slash: a line end that forges a line of `list`, an escape
sequence, bytes that are not UTF-8. Such a name is shown in double quotes with escapes, as Git does: `"a\nb"`.
Every tool accepts a path in this form. A name that needs no quotes is shown unchanged.

The escapes are `\n`, `\t`, `\r`, `\"` and `\\`, `\xNN` for a byte that is not part of UTF-8 text, and
`\uNNNN` or `\UNNNNNNNN` for a character that is not printable. Git's `\NNN` (a byte in octal) is accepted.
"""

from __future__ import annotations

import os
import re

from tinyagent import ToolError

__all__ = ["check_text", "parse_path", "show_path", "show_text"]

_LETTERS = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
_ESCAPES = {ord(character): f"\\{letter}" for letter, character in _LETTERS.items()}
_ESCAPE = re.compile(
    r"""\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|([ntr"\\]))|([^\\"]+)"""
)
_LINE_BREAKS = re.compile("[\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def show_path(path: str, *, quote: re.Pattern[str] | None = None) -> str:
    """Return a path for the model, in quotes if it is ambiguous without them.

    Args:
        path: The path, as decoded by `os.fsdecode`.
        quote: A pattern; if the path matches, it needs quotes.
    """
    odd = not path.isprintable() or '"' in path or (path.startswith("[") and path.endswith("]"))
    if not odd and (quote is None or quote.search(path) is None):
        return path
    return f'"{"".join(map(_escape, path))}"'


def _escape(character: str) -> str:
    number = ord(character)
    if number in _ESCAPES:
        return _ESCAPES[number]
    if character.isprintable():
        return character
    if 0xDC80 <= number <= 0xDCFF:  # a byte, as decoded by `surrogateescape`
        return f"\\x{number - 0xDC00:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def parse_path(path: str) -> str:
    """Return the path that a model wrote. A quoted path is decoded as `show_path` encoded it."""
    if len(path) < 2 or path[0] != '"' or path[-1] != '"':
        return path
    data, position, end = bytearray(), 1, len(path) - 1
    while position < end:
        found = _ESCAPE.match(path, position, end)
        if found is None:
            return path  # not our quotes
        position = found.end()
        byte, short, long, octal, letter, plain = found.groups()
        if byte is not None or octal is not None:
            data.append(int(byte, 16) if byte is not None else int(octal, 8))
            continue
        if short is not None or long is not None:
            number = int(short or long, 16)
            if number > 0x10FFFF:
                return path
            plain = chr(number)
        elif letter is not None:
            plain = _LETTERS[letter]
        try:
            data += plain.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return path  # an unpaired surrogate
    return os.fsdecode(bytes(data))


def show_text(line: str) -> str:
    r"""Return a line of a file without line breaks inside, such as `\r`, which are shown as escapes."""
    return _LINE_BREAKS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), line)


def check_text(text: str) -> None:
    """Refuse unpaired surrogates, which are possible in JSON but not in a file.

    Raises:
        ToolError: The text has an unpaired surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ToolError(f"The character {error.object[error.start]!r} is an unpaired surrogate.") from None
