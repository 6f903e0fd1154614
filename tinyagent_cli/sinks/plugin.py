"""Sinks of plugins. Each gets every event; a sink that fails is removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from tinyagent.agent_types import AgentEvent

if TYPE_CHECKING:
    from tinyagent.agent import Agent
    from tinyagent_cli.plugins.registrations import SinkFactory

__all__ = ["PluginSinks"]

P = ParamSpec("P")
T = TypeVar("T")


class PluginSinks:
    """Opens the sinks for one run, and closes them after it.

    Args:
        factories: The name of each sink, for messages, and its factory.
        agent: The agent of the run.
        warn: Called once for each sink that failed.
        session_id: Returns the id of the session that saves the run; None if it is not saved.
    """

    def __init__(
        self,
        factories: Sequence[tuple[str, SinkFactory]],
        agent: Agent,
        warn: Callable[[str], None],
        session_id: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._factories = factories
        self._agent = agent
        self._warn = warn
        self._session_id = session_id
        self._open: dict[str, tuple[Callable[[AgentEvent], None], Callable[[], None]]] = {}

    def __enter__(self) -> Self:
        for name, factory in self._factories:
            sink = self._guarded(name, self._made, factory)
            if sink is not None:
                self._open[name] = (sink, self._agent.subscribe(self._listener(name, sink)))
        return self

    def _made(self, factory: SinkFactory) -> Callable[[AgentEvent], None]:
        sink = factory()
        attach = getattr(sink, "attach", None)
        if callable(attach):
            attach(self._agent, self._session_id)
        return sink

    def _listener(self, name: str, sink: Callable[[AgentEvent], None]) -> Callable[[AgentEvent], None]:
        def listen(event: AgentEvent) -> None:
            if name in self._open:
                self._guarded(name, sink, event)

        return listen

    def _guarded(self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a sink never breaks the run
            self._warn(f"The sink {name} failed and is removed: {type(error).__name__}: {error}")
            _, unsubscribe = self._open.pop(name, (None, None))
            if unsubscribe is not None:
                unsubscribe()
            return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, (sink, unsubscribe) in list(self._open.items()):
            unsubscribe()
            close = getattr(sink, "close", None)
            if callable(close):
                self._guarded(name, close)
