"""Write above the prompt, which stays at the bottom of the terminal while the model answers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prompt_toolkit.application import get_app_or_none

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.terminal.output import Output
from tinyagent_cli.terminal.wrapping import terminal_width

__all__ = ["ChatContext", "ChatOutput"]


class ChatOutput(Output):
    """The terminal above the prompt. It gets whole lines, because the prompt starts at the start of a line.

    The terminal stays in raw mode: prompt_toolkit's `in_terminal` would restore the mode in which an Enter
    that is typed at this moment becomes Ctrl-J.

    Args:
        fd: The terminal.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "the terminal")
        self._lines = bytearray()
        self._held = False

    @property
    def unfinished(self) -> str:
        """The end of the output that is not shown yet, because its line is not complete."""
        return self._lines[self._lines.rfind(b"\n") + 1 :].decode("utf-8", "replace")

    def show(self, text: str) -> None:
        """Write lines of text. Before the chat has started, this needs no event loop."""
        self.write_now(f"{text}\n".encode("utf-8", "replace"))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the output back, while something else uses the terminal."""
        self.flush()
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._send()

    def _send(self) -> None:
        self._lines += b"".join(self._pieces)
        self._pieces.clear()
        end = self._lines.rfind(b"\n") + 1
        if not end or self._held:
            return
        data = memoryview(bytes(self._lines[:end]))
        del self._lines[:end]
        app = get_app_or_none()
        drawn = app is not None and app.is_running
        if app is not None and drawn:
            app.renderer.erase()
        try:
            while data:
                data = data[os.write(self.fd, data) :]
        except OSError:
            pass  # the terminal is gone, and its signal or its end of input ends the chat
        if app is not None and drawn:
            app.invalidate()


class ChatContext(AppContext):
    """The messages of a chat, among the replies."""

    def __init__(self, app: AppContext, output: ChatOutput) -> None:
        super().__init__(app.args)
        self.verbosity: int = app.verbosity
        self.quiet: bool = app.quiet
        self.no_color: bool = app.no_color
        self._output = output
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop of the chat, once it runs. It alone writes."""

    @property
    def stderr_is_terminal(self) -> bool:
        """Whether messages are shown on a terminal: always."""
        return True

    @property
    def columns(self) -> int | None:
        """The width of the terminal."""
        return terminal_width(self._output.fd)

    def _write(self, text: str) -> None:
        if self.loop is None or threading.current_thread() is threading.main_thread():
            self._output.show(text)
        else:  # a warning of a plugin that runs in a thread
            self.loop.call_soon_threadsafe(self._output.show, text)
