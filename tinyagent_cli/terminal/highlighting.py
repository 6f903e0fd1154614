"""Divide code into pieces for colours.

Sizes and time are limited, because some lexers are slow on hostile code.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

__all__ = ["Kind", "Piece", "highlighted"]

MAX_CODE = 20_000
"""The longest code with colours, in characters."""
MAX_LINE = 2_000
"""The longest line of code with colours."""
LEXING_S = 0.5
"""Seconds after which code is shown without colours."""

Kind: TypeAlias = Literal[
    "",
    "comment",
    "definition",
    "deleted",
    "heading",
    "inserted",
    "keyword",
    "name",
    "number",
    "string",
    "subheading",
]
"""What a piece is. Other pieces, and whole code of an unknown language, have an empty kind."""

_KINDS: dict[str, Kind] = {
    "Token.Comment": "comment",
    "Token.Keyword": "keyword",
    "Token.Operator.Word": "keyword",
    "Token.Name.Function": "definition",
    "Token.Name.Class": "definition",
    "Token.Name.Builtin": "name",
    "Token.Name.Decorator": "name",
    "Token.Name.Tag": "keyword",
    "Token.Name.Attribute": "name",
    "Token.Literal.String": "string",
    "Token.Literal.Number": "number",
    "Token.Generic.Deleted": "deleted",
    "Token.Generic.Inserted": "inserted",
    "Token.Generic.Heading": "heading",
    "Token.Generic.Subheading": "subheading",
    "Token.Generic.Error": "deleted",
}
"""The kinds of pygments' tokens; a token without one has the kind of its parent."""


class Piece(NamedTuple):
    """A part of code."""

    text: str
    kind: Kind


def highlighted(code: str, language: str) -> Sequence[Piece]:
    """Return the pieces of code. Their texts together are the code.

    Code of an unknown language is one piece, as is code that is too long or takes too long.
    """
    plain = [Piece(code, "")]
    if not language or len(code) > MAX_CODE or max(map(len, code.split("\n"))) > MAX_LINE:
        return plain
    from rich.syntax import Syntax

    lexer = Syntax("", language).lexer
    if lexer is None:
        return plain
    source = code if code.endswith("\n") else f"{code}\n"  # the rules of many lexers need the end of a line
    pieces: list[Piece] = []
    started = time.monotonic()
    # Without the preprocessing of get_tokens, which changes tabs and line ends.
    for _, token, text in lexer.get_tokens_unprocessed(source):
        kind = _kind(token)
        if pieces and pieces[-1].kind == kind:
            pieces[-1] = Piece(pieces[-1].text + text, kind)
        else:
            pieces.append(Piece(text, kind))
        if time.monotonic() - started > LEXING_S:
            return plain
    if "".join(piece.text for piece in pieces) != source:
        return plain  # a few lexers lose or repeat text
    if source != code:
        pieces[-1] = Piece(pieces[-1].text[:-1], pieces[-1].kind)
    return pieces


def _kind(token: object) -> Kind:
    name = str(token)
    while name and name not in _KINDS:
        name = name.rpartition(".")[0]
    return _KINDS.get(name, "")
