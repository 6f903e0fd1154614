"""Write above the prompt, which stays at the bottom of the terminal while the model answers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prompt_toolkit.application import get_app_or_none

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.terminal.display import OutputContext
from tinyagent_cli.terminal.output import Output

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


class ChatContext(OutputContext):
    """The messages of a chat, among the replies."""

    def __init__(self, app: AppContext, output: ChatOutput) -> None:
        super().__init__(app, output)
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop of the chat, once it runs. It alone writes."""

    def _write(self, text: str) -> None:
        if self.loop is None or threading.current_thread() is threading.main_thread():
            super()._write(text)
        else:  # a warning of a plugin that runs in a thread
            self.loop.call_soon_threadsafe(super()._write, text)
