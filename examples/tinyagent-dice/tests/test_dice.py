"""The tool and the provider, without a model and without a network."""

import pytest

from tinyagent import Agent, AgentOptions, ToolError
from tinyagent_dice import dice_provider, roll
from tinyagent_dice.rolling import roll_dice


def test_the_same_seed_gives_the_same_roll():
    """A seed makes a roll repeatable."""
    assert roll_dice("3d6+1", seed=7) == roll_dice("3D6 + 1", seed=7)


def test_every_die_is_within_its_sides():
    """Dice show 1 to their number of sides, and the sum adds up."""
    rolled, total = roll_dice("100d6-3", seed=1)
    assert 100 == len(rolled)
    assert set(range(1, 7)) == set(rolled)
    assert sum(rolled) - 3 == total


@pytest.mark.parametrize("dice", ["", "six", "2x6", "d0", "1000d6", "2d6+", "2d6; import os"])
def test_an_invalid_roll_is_refused(dice):
    """The error shows the correct notation."""
    with pytest.raises(ToolError, match="write it like 2d6"):
        roll_dice(dice)


async def test_the_tool_returns_the_sum_and_the_dice():
    """The tool returns the sum and the dice."""
    rolled, total = roll_dice("2d6", seed=7)
    result = await roll.execute("call", {"dice": "2d6", "seed": 7}, None, lambda partial: None)
    assert f"{total} ({rolled[0]} + {rolled[1]})" == result.content[0]["text"]


async def test_the_provider_answers_with_a_roll():
    """An agent with this provider streams the dice and their sum."""
    agent = Agent(AgentOptions(stream_fn=dice_provider.stream_fn))
    agent.set_model(dice_provider.make_model("2d6", {"seed": "7"}))
    rolled, total = roll_dice("2d6", seed=7)
    pieces = [piece async for piece in agent.stream_text("hello")]
    assert [f"[{rolled[0]}] ", f"[{rolled[1]}] ", f"= {total}"] == pieces


async def test_an_invalid_roll_ends_the_run_with_an_error():
    """If a provider raises, the run ends with a message that has the error's text."""
    agent = Agent(AgentOptions(stream_fn=dice_provider.stream_fn))
    agent.set_model(dice_provider.make_model("chess", {}))
    message = await agent.prompt("hello")
    assert "error" == message["stop_reason"]
    assert "'chess' is not a valid roll" in message["error_message"]
