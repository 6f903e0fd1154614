"""Test an agent in CI with a recorded model, without a network and a key: pytest examples/replay_in_ci

Record the run again after you have changed the prompt or a tool, in this folder. `demo` may be any model:
tinyagent run -m demo --no-session -t ./weather.py --record weather.jsonl "weather city=Oslo"
"""

from collections.abc import Callable
from pathlib import Path

from tinyagent import AgentEvent, extract_text
from tinyagent.replay_provider import replay_provider
from weather import weather

RECORDING = Path(__file__).with_name("weather.jsonl")


def test_the_agent_says_the_weather(run_agent: Callable[..., list[AgentEvent]]) -> None:
    """The tool runs with the recorded arguments. The test fails if a request differs from the recorded one.

    `run_agent` is a fixture of tinyagent's pytest plugin. It also checks the order of the events.
    """
    model = replay_provider(RECORDING)
    events = run_agent(model.stream_fn, "weather city=Oslo", model=model.make_model("", {}), tools=[weather])
    [end] = [event for event in events if event.type == "agent_end"]
    assert extract_text(end.messages[-1]) == "weather: It is sunny in Oslo."
