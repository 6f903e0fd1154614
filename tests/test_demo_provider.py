"""The demo calls real tools, and its answers contain their results."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tinyagent._arithmetic import _operand, find_arithmetic
from tinyagent.agent import Agent, AgentOptions
from tinyagent.agent_types import AgentTool, AgentToolResult, MessageUpdateEvent
from tinyagent.demo_provider import NOTICE, demo_provider
from tinyagent.errors import ConfigurationError
from tinyagent.testing import assistant, check_grammar, collect, user


def tool(name: str, answer: Any, **properties: str) -> AgentTool:
    """Return a tool that requires all its properties and answers with `answer(args)`."""

    async def execute(call_id: str, args: dict[str, Any], signal: Any, on_update: Any) -> AgentToolResult:
        return AgentToolResult(content=[{"type": "text", "text": str(answer(args))}])

    rules = {key: {"type": kind} for key, kind in properties.items()}
    parameters = {"type": "object", "properties": rules, "required": list(rules)}
    return AgentTool(name=name, parameters=parameters, execute=execute)


def ask(*tools: AgentTool, messages: tuple[Any, ...] = (), **options: Any) -> Agent:
    provider = demo_provider()
    state = {"model": provider.make_model("", options), "tools": list(tools), "messages": list(messages)}
    return Agent(AgentOptions(initial_state=state, stream_fn=provider.stream_fn))


SURE = tool("calc", lambda args: {"6 * 7": "42"}.get(args["expression"], "?"), expression="string")


async def test_it_answers_with_the_result_of_the_calculator() -> None:
    """The answer is the result of the tool, after a thought and a real call."""
    agent = ask(SURE)
    events = await collect(agent.stream("What is 6 * 7?"))
    check_grammar(events)
    assert "6 * 7 = 42" == agent.state["messages"][-1]["content"][0]["text"]
    assert ["user", "assistant", "tool_result", "assistant"] == [
        message["role"] for message in agent.state["messages"]
    ]
    first = agent.state["messages"][1]
    assert ["thinking", "tool_call"] == [block["type"] for block in first["content"]]
    assert "tool_use" == first["stop_reason"]


async def test_no_answer_is_made_up() -> None:
    """The result of a wrong or failing tool is quoted unchanged."""
    wrong = tool("calc", lambda args: "banana", expression="string")
    assert "6 * 7 = banana" == await ask(wrong).prompt_text("6 * 7")

    def fail(args: dict[str, Any]) -> str:
        raise ValueError("out of numbers")

    failing = tool("calc", fail, expression="string")
    answer = await ask(failing).prompt_text("6 * 7")
    assert "calc failed on 6 * 7" in answer
    assert "out of numbers" in answer


async def test_two_expressions_are_two_calls() -> None:
    """Each expression of the prompt gets its own call in one reply."""
    adder = tool("calc", lambda args: f"<{args['expression']}>", expression="string")
    agent = ask(adder)
    assert "1 + 2 = <1 + 2> and 3 * 4 = <3 * 4>" == await agent.prompt_text("What are 1 + 2 and 3*4?")
    assert 2 == len([message for message in agent.state["messages"] if message["role"] == "tool_result"])


@pytest.mark.parametrize(
    ("text", "expressions"),
    [
        ("What is 6 * 7?", ["6 * 7"]),
        ("6*7 and (3+4)*2.", ["6 * 7", "(3 + 4) * 2"]),
        ("2^10, 8 ÷ 2, 3 × 3", ["2 ** 10", "8 / 2", "3 * 3"]),
        ("sqrt(2) + max(1, 2*3)", ["sqrt(2) + max(1, 2 * 3)"]),
        ("-3 + .5", ["-3 + .5"]),
        ("1 x 3 and 7 % 4", ["1 * 3", "7 % 4"]),
        ("on 2024-01-02 v1.2 - 3 costs 50% + a3+4 is 42", []),
        ("", []),
        ("(1 +", []),
    ],
)
def test_arithmetic_is_found_in_the_text(text: str, expressions: list[str]) -> None:
    """Arithmetic is found in the prompt; dates, versions and plain numbers are ignored."""
    assert expressions == list(find_arithmetic(text))


@pytest.mark.parametrize("unit", ["(", "1+", "-", "f(", "1 ", "(1"])
def test_a_prompt_is_searched_in_linear_time(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the text takes twice the steps, however often it begins an expression."""
    steps = 0

    def counting_operand(text: str, at: int, depth: int) -> object:
        nonlocal steps
        steps += 1
        return _operand(text, at, depth)

    monkeypatch.setitem(find_arithmetic.__globals__, "_operand", counting_operand)
    counts = []
    for length in (1_000, 2_000, 4_000):
        steps = 0
        assert len(list(find_arithmetic((unit * length)[:length]))) <= 1
        counts.append(steps)
    once, twice, four_times = counts
    assert 0 < twice <= 2.2 * once
    assert four_times <= 2.2 * twice


async def test_a_tool_that_the_prompt_names_is_called() -> None:
    """The arguments come from key=value, from quotes, from numbers, or are the rest of the prompt."""
    seen: list[dict[str, Any]] = []
    weather = tool("get_weather", lambda args: seen.append(args) or "sunny", city="string")
    dice = tool("dice", lambda args: seen.append(args) or "4", sides="integer")
    assert "get_weather: sunny" == await ask(weather).prompt_text("get weather city=Oslo please")
    assert "get_weather: sunny" == await ask(weather).prompt_text('Use get_weather for "New York".')
    assert "get_weather: sunny" == await ask(weather).prompt_text("get_weather Berlin?")
    assert "dice: 4" == await ask(weather, dice).prompt_text("Roll the dice with 6 sides")
    assert [{"city": "Oslo"}, {"city": "New York"}, {"city": "Berlin"}, {"sides": 6}] == seen


async def test_missing_arguments_are_not_invented() -> None:
    """A missing argument is an error of the call, which the answer contains."""
    dice = tool("dice", lambda args: "4", sides="integer")
    answer = await ask(dice).prompt_text("Roll the dice")
    assert answer.startswith("dice failed")
    assert "sides" in answer


async def test_without_a_tool_it_explains_the_demo() -> None:
    """Without a tool the answer repeats the prompt, and explains the demo and how to choose a model."""
    answer = await ask().prompt_text("Tell me a story")
    for part in ("Tell me a story", "a script, not a model", "OPENROUTER_API_KEY", "-m demo -t calc"):
        assert part in answer
    assert "add `-t calc`" in await ask().prompt_text("What is 6 * 7?")
    assert "weather" in await ask(tool("weather", str, city="string")).prompt_text("Hello")
    assert "not a model" in NOTICE


async def test_it_sees_the_conversation() -> None:
    """The answer states the number of earlier messages and the last answer."""
    agent = ask(messages=(user("What is 6 * 7?"), assistant("6 * 7 = 42")))
    answer = await agent.prompt_text("now in French")
    assert "2 earlier messages; the last answer was: 6 * 7 = 42" in answer


async def test_it_streams_word_by_word() -> None:
    """The answer arrives in many deltas."""
    agent = ask()
    events = await collect(agent.stream("Hello"))
    deltas = [
        event.assistant_message_event["delta"]
        for event in events
        if isinstance(event, MessageUpdateEvent) and event.assistant_message_event["type"] == "text_delta"
    ]
    assert len(deltas) > 20
    assert agent.state["messages"][-1]["content"][0]["text"] == "".join(deltas)
    usage = agent.state["messages"][-1]["usage"]
    assert {"input": 1, "output": len(deltas), "total": 1 + len(deltas), "cost": 0.0} == usage


async def test_an_abort_ends_it_at_once() -> None:
    """An abort ends the wait for the next word, and leaves no task."""
    agent = ask(delay=10)  # a second word would exceed the time limit of the test
    asyncio.get_running_loop().call_later(0.05, agent.abort)
    events = await collect(agent.stream("Hello"))
    check_grammar(events)
    assert "aborted" == agent.state["messages"][-1]["stop_reason"]


@pytest.mark.parametrize("delay", [-1, 11, "soon", None, float("nan")])
def test_an_invalid_delay_is_refused(delay: Any) -> None:
    """The error explains what a delay is."""
    with pytest.raises(ConfigurationError, match="delay is seconds"):
        demo_provider().make_model("", {"delay": delay})
