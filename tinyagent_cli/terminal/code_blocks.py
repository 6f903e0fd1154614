"""Find the code blocks of a reply."""

from __future__ import annotations

from markdown_it import MarkdownIt

__all__ = ["extract_code"]

_MAX_NESTING = 100
"""The maximum nesting of lists and quotes in which code is found."""


def extract_code(text: str, *, last: bool = False) -> str | None:
    """Return the content of the first or the last fenced code block; None without one.

    A fence in a list or a quote counts. Its content is without the indentation and the marks of the quote.
    """
    if "```" not in text and "~~~" not in text:
        return None
    blocks_only = MarkdownIt("commonmark", {"maxNesting": _MAX_NESTING}).disable("inline")
    fences = [token.content for token in blocks_only.parse(text) if token.type == "fence"]
    return fences[-1 if last else 0] if fences else None
