"""The plugin by itself: no model, no network."""

import pytest

from tinyagent import Agent, AgentOptions, ToolError
from tinyagent_dice import dice_provider, roll
from tinyagent_dice.rolling import roll_dice


def test_the_same_seed_gives_the_same_throw():
    """A seed makes a throw repeatable."""
    assert roll_dice("3d6+1", seed=7) == roll_dice("3D6 + 1", seed=7)


def test_every_die_is_within_its_sides():
    """Dice show 1 to their number of sides, and the sum adds up."""
    thrown, total = roll_dice("100d6-3", seed=1)
    assert 100 == len(thrown)
    assert set(range(1, 7)) == set(thrown)
    assert sum(thrown) - 3 == total


@pytest.mark.parametrize("dice", ["", "six", "2x6", "d0", "1000d6", "2d6+", "2d6; import os"])
def test_what_is_no_throw_is_refused_in_words(dice):
    """The error tells the model how to write it."""
    with pytest.raises(ToolError, match="write it like 2d6"):
        roll_dice(dice)


async def test_the_tool_answers():
    """The tool returns the sum and the dice."""
    thrown, total = roll_dice("2d6", seed=7)
    result = await roll.execute("call", {"dice": "2d6", "seed": 7}, None, lambda partial: None)
    assert f"{total} ({thrown[0]} + {thrown[1]})" == result.content[0]["text"]


async def test_the_provider_answers_with_a_roll():
    """An agent on this provider says the dice and their sum, piece by piece."""
    agent = Agent(AgentOptions(stream_fn=dice_provider.stream_fn))
    agent.set_model(dice_provider.make_model("2d6", {"seed": "7"}))
    thrown, total = roll_dice("2d6", seed=7)
    pieces = [piece async for piece in agent.stream_text("hello")]
    assert [f"[{thrown[0]}] ", f"[{thrown[1]}] ", f"= {total}"] == pieces


async def test_a_wrong_throw_ends_the_run_as_an_error():
    """A provider may raise: the run ends with a message that says why."""
    agent = Agent(AgentOptions(stream_fn=dice_provider.stream_fn))
    agent.set_model(dice_provider.make_model("chess", {}))
    message = await agent.prompt("hello")
    assert "error" == message["stop_reason"]
    assert "'chess' is not a throw of dice" in message["error_message"]
