"""Fixtures for the tests of plugins and agents. pytest finds them when tinyagent is installed.

    def test_a_model_uses_it(scripted_provider, run_agent):
        provider = scripted_provider(Reply(call("weather", city="Paris")), "Sunny.")
        events = run_agent(provider, "How is it in Paris?", tools=[weather])

The fixtures are `scripted_provider`, `fake_server`, `run_agent`, `check_grammar`, `snapshot_jsonl` and
`tinyagent_home`. No fixture is used automatically, and each imports what it needs when a test uses it. Their
parts are in `tinyagent.testing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from syrupy.assertion import SnapshotAssertion

    from tinyagent._agent.prompts import Input
    from tinyagent.agent_types import (
        AgentEvent,
        AgentTool,
        AnyAgentMessage,
        InitialState,
        ModelIdentity,
        StreamFn,
    )
    from tinyagent.jsonl import Record
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
"""The time in a snapshot, in Unix milliseconds."""


@pytest.fixture
def scripted_provider() -> Iterator[Callable[..., ScriptedProvider]]:
    """Create providers that answer with a script. At the end of the test each step must be used."""
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
    """Start loopback servers that send these replies. They stop at the end of the test."""
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
    """`tinyagent.testing.check_grammar`: checks that events are those of one complete run."""
    from tinyagent.testing import check_grammar

    return check_grammar


@pytest.fixture
def run_agent() -> Callable[..., list[AgentEvent]]:
    """Run an agent to its end, check the grammar of its events, and return them.

    `run_agent(provider, prompt, model=..., **options)`: `provider` is a `StreamFn`. The default of `model` is
    `provider.model`. `tools`, `system_prompt` and `messages` are set in the state of the agent, and other
    options in `AgentOptions`. It is for synchronous tests; an asynchronous test uses `Agent` directly.
    """
    import asyncio

    from tinyagent.agent import Agent, AgentOptions
    from tinyagent.testing import check_grammar, collect

    def run(
        provider: StreamFn,
        prompt: Input,
        *,
        model: ModelIdentity | None = None,
        tools: Sequence[AgentTool] = (),
        system_prompt: str = "",
        messages: Sequence[AnyAgentMessage] = (),
        **options: object,
    ) -> list[AgentEvent]:
        state: InitialState = {
            "model": getattr(provider, "model", None) if model is None else model,
            "tools": tools,
            "system_prompt": system_prompt,
            "messages": messages,
        }
        settings = AgentOptions(initial_state=state, stream_fn=provider)
        for name, value in options.items():
            if not hasattr(settings, name):
                raise TypeError(f"AgentOptions has no option {name!r}.")
            setattr(settings, name, value)
        agent = Agent(settings)

        async def drive() -> list[AgentEvent]:
            return await collect(agent.stream(prompt))

        events = asyncio.run(drive())
        check_grammar(events)
        return events

    return run


@pytest.fixture
def snapshot_jsonl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SnapshotAssertion:
    """Compare a list of events with a file of JSON lines, by syrupy. The clock stands still."""
    import time

    pytest.importorskip("syrupy", reason="snapshot_jsonl needs syrupy: pip install syrupy")
    from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

    from tinyagent import jsonl

    class JsonlSnapshotExtension(SingleFileSnapshotExtension):
        """One file for each snapshot, with the events as lines."""

        _write_mode = WriteMode.TEXT
        file_extension = "jsonl"

        def serialize(self, data: Iterable[Record], **_: object) -> str:
            return b"".join(jsonl.write(data, clock=lambda: NOW)).decode()

    monkeypatch.setattr(time, "time_ns", lambda: NOW * 1_000_000)
    snapshot: SnapshotAssertion = request.getfixturevalue("snapshot")
    return snapshot.use_extension(JsonlSnapshotExtension)


@pytest.fixture
def tinyagent_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for configuration, keys and cache, and an environment without keys and settings.

    Child processes inherit both, so `python -m tinyagent_cli` in a test does not read your configuration.
    """
    import os

    home = tmp_path_factory.mktemp("tinyagent-home")
    for name in list(os.environ):
        if name.startswith("TINYAGENT_") or name.endswith(("_API_KEY", "_API_TOKEN")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TINYAGENT_HOME", str(home))
    return home
