"""Ask the user, or the model of the run, from inside a tool.

An application that can ask its user passes an `Interaction` to the agent (`AgentOptions(interaction=…)`). A
tool gets it by `current_interaction()` while it is called, and also from its tasks and threads. In a run that
cannot ask, the result is None, so a tool needs another way, or an error that says what it lacks.

    interaction = current_interaction()
    if interaction is None:
        raise ToolError("There is no user to ask for the seat.")
    answer = await interaction.fill_in(Form(source="booking", message="Choose a seat.", schema=SEAT))

While the user is asked, the time limit of the call stands still. When the call ends, open questions are
withdrawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Self, TypeVar

from ._cancel import is_cancelled
from .agent_types import Completion, CompletionRequest, Form, FormAnswer, Interaction, Link

__all__ = [
    "Completion",
    "CompletionRequest",
    "Form",
    "FormAnswer",
    "Interaction",
    "Link",
    "ToolInteraction",
    "current_interaction",
]

T = TypeVar("T")

_ENDED = "The tool call has ended."

_CURRENT: ContextVar[ToolInteraction | None] = ContextVar("CURRENT_INTERACTION", default=None)


def current_interaction() -> Interaction | None:
    """Return how the running tool can ask the user; None if it cannot."""
    return _CURRENT.get()


class ToolInteraction:
    """The interaction of one tool call, which any event loop and thread may use. The agent loop makes it.

    Args:
        inner: The interaction of the application.
        limit: The time limit of the current call.
    """

    def __init__(self, inner: Interaction, limit: asyncio.Timeout) -> None:
        self._inner = inner
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._asking: set[Callable[[], bool]] = set()
        """Withdraw the open questions."""
        self._left: float | None = None
        self._closed = False

    def __enter__(self) -> Self:
        _CURRENT.set(self)  # the call has a task of its own
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for withdraw in self._asking:
            withdraw()

    async def fill_in(self, form: Form) -> FormAnswer:
        """Ask the user for values."""
        return await self._ask(lambda: self._inner.fill_in(form), FormAnswer(accepted=False, reason=_ENDED))

    async def open_link(self, link: Link) -> FormAnswer:
        """Ask the user to open an address."""
        return await self._ask(lambda: self._inner.open_link(link), FormAnswer(accepted=False, reason=_ENDED))

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask the model of the run, if the user agrees."""
        return await self._ask(lambda: self._inner.complete(request), Completion(text=None, reason=_ENDED))

    async def _ask(self, ask: Callable[[], Awaitable[T]], ended: T) -> T:
        if asyncio.get_running_loop() is self._loop:
            return await self._ask_here(ask, ended)
        if self._loop.is_closed():
            return ended
        future = asyncio.run_coroutine_threadsafe(self._ask_here(ask, ended), self._loop)
        return await asyncio.wrap_future(future)

    async def _ask_here(self, ask: Callable[[], Awaitable[T]], ended: T) -> T:
        if self._closed:
            return ended
        task = asyncio.ensure_future(ask())
        self._asking.add(task.cancel)
        self._pause()
        try:
            return await task
        except asyncio.CancelledError:
            if self._closed and not is_cancelled(asyncio.current_task()):
                return ended
            task.cancel()
            raise
        finally:
            self._asking.discard(task.cancel)
            self._resume()

    def _pause(self) -> None:
        if len(self._asking) == 1 and (deadline := self._limit.when()) is not None:
            self._left = deadline - self._loop.time()
            self._limit.reschedule(None)

    def _resume(self) -> None:
        if not self._asking and self._left is not None and not self._closed:
            self._limit.reschedule(self._loop.time() + self._left)
            self._left = None
