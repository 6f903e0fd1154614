"""The reply on a terminal as rendered Markdown, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyagent.agent_types import AgentEvent, MessageStartEvent

from .blocks import Block, BlockSplitter
from .sanitise import clean
from .text import TextRenderer, text_bytes
from .wrapping import columns

if TYPE_CHECKING:
    from .markdown import MarkdownPrinter
    from .output import Output

__all__ = ["MarkdownRenderer"]


class MarkdownRenderer(TextRenderer):
    """Writes each block of a reply when it is complete, so nothing on the screen changes afterwards.

    Args:
        output: A terminal.
        color: Whether to show colours.
    """

    def __init__(self, output: Output, *, color: bool) -> None:
        super().__init__(output)
        self._color = color
        self._splitter = BlockSplitter()
        self._printer: MarkdownPrinter | None = None

    def __call__(self, event: AgentEvent) -> None:
        if type(event) is MessageStartEvent:
            self._load()  # while the first token is awaited
        super().__call__(event)

    def _load(self) -> MarkdownPrinter:
        if self._printer is None:
            from .markdown import MarkdownPrinter

            self._printer = MarkdownPrinter(color=self._color)
        return self._printer

    def _show(self, text: str) -> None:
        self._print(self._splitter.feed(text))

    def _write_lines(self, text: str) -> None:
        self.end_line()
        self._output.write(text_bytes(clean(text) + "\n"))
        self._output.flush()

    def _print(self, blocks: list[Block]) -> None:
        for block in blocks:
            shown = self._load().render(block, columns(self._output.fd))
            if shown:
                self._output.write(text_bytes(shown))

    @property
    def pending(self) -> str:
        """The end of the block that is not complete."""
        return self._splitter.pending

    def end_line(self) -> None:
        """Write the last block. The next text starts a new one, without a blank line before it."""
        self._print(self._splitter.end())
        self._splitter = BlockSplitter()
        self._printer = None
        super().end_line()
