"""Read the blocks of messages and of results for a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from tinyagent._json import as_dict, as_list, as_str
from tinyagent._stream.citations import read_citations
from tinyagent._stream.compaction import without_introduction
from tinyagent_cli.terminal.sanitise import one_line

from .page_text import Markdown, Shown, json_text, link_url, shown
from .page_values import Block

__all__ = ["BlockReader"]

MAX_SOURCES = 100
"""The most sources of a text that are shown."""
MAX_IMAGE = 20 << 20
"""The longest data of an image, in characters."""

_IMAGE = r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}"


class BlockReader:
    """Reads blocks, whose content is untrusted. The texts of replies and of summaries are Markdown."""

    def __init__(self) -> None:
        self._markdown = Markdown()

    def blocks(self, fields: dict[str, object], *, is_final: bool = True) -> list[Block]:
        """Return the blocks of a message or a result, except tool calls.

        Args:
            fields: The message.
            is_final: Whether the message is complete. An incomplete one is read again as it grows.
        """
        is_reply = fields.get("role") == "assistant"
        blocks = [
            made
            for block in as_list(fields.get("content"))
            for made in self._block(as_dict(block), is_markdown=is_reply, is_final=is_final)
        ]
        error = as_str(fields.get("error_message"))
        if error:
            hint = as_str(fields.get("error_hint"))
            blocks.append(Block("error", shown(f"{error}\n{hint}" if hint else error)))
        return blocks

    def summary(self, message: Mapping[str, object]) -> list[Block]:
        """Return the text of a summary of older messages."""
        texts = [as_str(as_dict(block).get("text")) for block in as_list(message.get("content"))]
        return [self.text(without_introduction("\n".join(texts)))]

    def text(self, text: str, *, is_final: bool = True) -> Block:
        """Return a text as Markdown if it is short enough."""
        html = self._markdown.render(text, is_final=is_final)
        return Block("text", shown(text)) if html is None else Block("markdown", shown(text, 2000), html=html)

    def _block(self, block: dict[str, object], *, is_markdown: bool, is_final: bool) -> Iterator[Block]:
        match block.get("type"):
            case "text":
                text = as_str(block.get("text"))
                if is_markdown:
                    yield self.text(text, is_final=is_final)
                elif text:
                    yield Block("text", shown(text))
                yield from _sources(block.get("citations"))
            case "thinking":
                text = as_str(block.get("thinking"))
                if text.strip():
                    yield Block("thinking", shown(text))
            case "image":
                yield _image_block(as_str(block.get("url")))
            case "tool_call":
                pass
            case kind:
                yield Block("json", json_text(block), title=one_line(str(kind), 60))


def _sources(citations: object) -> Iterator[Block]:
    sources = [
        (one_line(source.get("title") or source.get("url") or "source"), link_url(source.get("url", "")))
        for source in read_citations(citations)
    ]
    if sources:
        yield Block("sources", sources=tuple(dict.fromkeys(sources))[:MAX_SOURCES])


def _image_block(url: str) -> Block:
    if len(url) <= MAX_IMAGE and re.fullmatch(_IMAGE, url):
        return Block("image", url=url)
    link = link_url(url)
    if link is not None:
        return Block("link", shown(link, 2000), url=link)
    kind = one_line(url[:100].partition(",")[0].partition(";")[0])
    return Block("text", Shown(f"[image that is not shown: {kind}, {len(url):,} characters]"))
