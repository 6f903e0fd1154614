"""List prices, for budgets and for the estimated cost of a run."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tinyagent._prices import estimate_cost, has_price, is_local, model_facts
from tinyagent.agent import Agent, AgentOptions
from tinyagent.agent_types import AgentTool, AgentToolResult, Model
from tinyagent.openai_wire import OpenAICompatModel
from tinyagent.testing import Reply, ScriptedProvider, call, check_grammar, collect

USAGE = {"input": 1_000_000, "output": 100_000, "cache_read": 400_000, "cache_write": 0, "total": 1_100_000}


def model(provider: str, model_id: str) -> OpenAICompatModel:
    return OpenAICompatModel(provider, model_id, base_url="http://127.0.0.1/v1")


def test_the_cost_of_a_usage() -> None:
    """Tokens that were cached are in the input and cost less: 0.6 M at $2.5, 0.4 M at $1.25, 0.1 M at $10."""
    assert pytest.approx(1.5 + 0.5 + 1.0) == estimate_cost(model("openai", "gpt-4o"), USAGE)


@pytest.mark.parametrize(("provider", "model_id"), [("openai", "novel"), ("acme", "gpt-4o")])
def test_unknown_prices_are_not_guessed(provider: str, model_id: str) -> None:
    """An unknown model or server has no price."""
    assert estimate_cost(model(provider, model_id), USAGE) is None
    assert not has_price(model(provider, model_id))
    assert model_facts(provider, model_id) is None


def test_a_server_of_this_machine_costs_nothing() -> None:
    """A built-in server that takes no key charges nothing."""
    assert 0.0 == estimate_cost(model("ollama", "qwen3"), USAGE)
    assert [True, False] == [is_local(model("ollama", "qwen3")), is_local(model("openai", "gpt-4o"))]


def test_counts_that_contradict_each_other() -> None:
    """If more tokens are cached than counted, the cost is unknown."""
    assert estimate_cost(model("openai", "gpt-4o"), {"input": 1, "cache_read": 5}) is None


def test_the_facts_of_a_model() -> None:
    """A model has its context window and its prices per million tokens."""
    assert (128_000, 2.5, 10.0) == model_facts("openai", "gpt-4o")


def test_the_table_is_loaded_on_first_use() -> None:
    """Neither the import nor a server without prices loads it."""
    code = (
        "import sys; from tinyagent import _prices; from tinyagent.agent_types import Model; "
        "_prices.estimate_cost(Model(provider='acme', id='m'), {}); "
        "print({'genai_prices', 'pydantic', 'httpx2'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "set()" == done.stdout.strip()


async def look(call_id: str, args: object, signal: object, on_update: object) -> AgentToolResult:
    return AgentToolResult()


@pytest.mark.parametrize(
    ("cost", "provider", "limit"),
    [(None, "openai", "budget"), (0.001, "openai", None), (0.6, "acme", "budget"), (None, "acme", None)],
)
async def test_a_budget_counts_list_prices(
    cost: float | None, provider: str, limit: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The reported cost takes precedence; a missing price is reported and does not count."""
    usage = {**USAGE, "cost": cost}
    replies = [Reply(call("look"), usage=usage), Reply("Done", usage=usage)]
    async with ScriptedProvider(*replies[: 1 if limit else 2]) as scripted:
        tools = [AgentTool(name="look", execute=look)]
        state: Any = {"model": Model(provider=provider, id="gpt-4o"), "tools": tools}
        agent = Agent(AgentOptions(initial_state=state, stream_fn=scripted, max_cost=0.5))
        events = await collect(agent.stream("go"))
    check_grammar(events)
    assert limit == events[-1].limit
    assert (cost is None and provider == "acme") == ("no price is known for" in caplog.text)


@pytest.mark.parametrize(
    ("usage", "why"), [(USAGE, "no price is known for"), (None, "no usage is reported by")]
)
async def test_an_unknown_cost_is_reported_once(usage: Any, why: str) -> None:
    """A run with an ineffective budget continues, and `on_note` is called once."""
    notes: list[str] = []
    replies = [Reply(call("look", n=1), usage=usage), Reply("Done", usage=usage)]
    async with ScriptedProvider(*replies) as scripted:
        tools = [AgentTool(name="look", execute=look)]
        state: Any = {"model": Model(provider="acme", id="m"), "tools": tools}
        options = AgentOptions(initial_state=state, stream_fn=scripted, max_cost=0.5, on_note=notes.append)
        events = await collect(Agent(options).stream("go"))
    check_grammar(events)
    assert events[-1].limit is None
    assert 1 == len(notes)
    assert why in notes[0]


def test_reasoning_that_is_only_in_the_total() -> None:
    """xAI's output count excludes reasoning, but its price does not: 448 of 496 tokens were cached."""
    usage = {"input": 496, "output": 77, "cache_read": 448, "reasoning": 121, "total": 694}
    assert pytest.approx(0.00031556) == estimate_cost(model("xai", "grok-code-fast-1"), usage)
