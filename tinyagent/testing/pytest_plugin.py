"""Fixtures for the tests of plugins and agents; pytest finds them once tinyagent is installed.

    def test_a_model_uses_it(scripted_provider, run_agent):
        provider = scripted_provider(Reply(call("weather", city="Paris")), "Sunny.")
        events = run_agent(provider, "How is it in Paris?", tools=[weather])

`scripted_provider`, `fake_server`, `run_agent`, `check_grammar`, `snapshot_jsonl`, `tinyagent_home`. None of
them is used by itself, and whatever one needs is imported when a test asks for it. What they are made of is
in `tinyagent.testing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from tinyagent.agent_types import AgentEvent, InitialState
    from tinyagent.testing import FakeReply, FakeServer, ScriptedProvider
    from tinyagent.testing.scripted import Step

__all__ = [
    "check_grammar",
    "fake_server",
    "run_agent",
    "scripted_provider",
    "snapshot_jsonl",
    "tinyagent_home",
]

NOW = 1_700_000_000_000
"""The time in a snapshot."""


@pytest.fixture
def scripted_provider() -> Iterator[Callable[..., ScriptedProvider]]:
    """Makes providers that answer with a script; at the end of the test every step must have been used."""
    from tinyagent.testing import ScriptedProvider

    made: list[ScriptedProvider] = []

    def make(*steps: Step) -> ScriptedProvider:
        made.append(ScriptedProvider(*steps))
        return made[-1]

    yield make
    for provider in made:
        provider.assert_finished()


@pytest.fixture
def fake_server() -> Iterator[Callable[..., FakeServer]]:
    """Starts loopback servers that give these replies; they are stopped at the end of the test."""
    from tinyagent.testing import FakeServer

    made: list[FakeServer] = []

    def start(*replies: FakeReply) -> FakeServer:
        server = FakeServer(*replies)
        server.__enter__()
        made.append(server)
        return server

    yield start
    for server in made:
        server.__exit__(None, None, None)


@pytest.fixture
def check_grammar() -> Callable[..., None]:
    """`tinyagent.testing.check_grammar`: asserts that events are those of one whole run."""
    from tinyagent.testing import check_grammar

    return check_grammar


@pytest.fixture
def run_agent() -> Callable[..., list[AgentEvent]]:
    """Runs an agent to its end and gives its events, whose grammar was checked.

    `run_agent(provider, prompt, model=..., **options)`: `provider` is a `StreamFn`, its model is
    `provider.model` if there is one; `tools`, `system_prompt` and `messages` go into the agent's state, any
    other option to `AgentOptions`. For synchronous tests; an asynchronous one uses `Agent` itself.
    """
    import asyncio

    from tinyagent.agent import Agent, AgentOptions
    from tinyagent.testing import check_grammar, collect

    def run(provider: Any, prompt: Any, *, model: Any = None, **options: Any) -> list[AgentEvent]:
        state: dict[str, Any] = {"model": provider.model if model is None else model}
        for name in ("tools", "system_prompt", "messages"):
            if name in options:
                state[name] = options.pop(name)
        agent = Agent(AgentOptions(initial_state=cast("InitialState", state), stream_fn=provider, **options))

        async def drive() -> list[AgentEvent]:
            return await collect(agent.stream(prompt))

        events = asyncio.run(drive())
        check_grammar(events)
        return events

    return run


@pytest.fixture
def snapshot_jsonl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compares a list of events with a file of JSON lines, which syrupy keeps; the clock stands still."""
    import time

    pytest.importorskip("syrupy", reason="snapshot_jsonl needs syrupy: pip install syrupy")
    from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

    from tinyagent import jsonl

    class JsonlSnapshotExtension(SingleFileSnapshotExtension):
        """One file a snapshot, the events as lines."""

        _write_mode = WriteMode.TEXT
        file_extension = "jsonl"

        def serialize(self, data: Any, **_: Any) -> str:
            return b"".join(jsonl.write(data, clock=lambda: NOW)).decode()

    monkeypatch.setattr(time, "time_ns", lambda: NOW * 1_000_000)
    return request.getfixturevalue("snapshot").use_extension(JsonlSnapshotExtension)


@pytest.fixture
def tinyagent_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for configuration, keys and cache; no key and no other setting is in the environment.

    Child processes inherit it, so `python -m tinyagent_cli` in a test sees nothing of yours.
    """
    import os

    home = tmp_path_factory.mktemp("tinyagent-home")
    for name in list(os.environ):
        if name.startswith("TINYAGENT_") or name.endswith(("_API_KEY", "_API_TOKEN")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TINYAGENT_HOME", str(home))
    return home
