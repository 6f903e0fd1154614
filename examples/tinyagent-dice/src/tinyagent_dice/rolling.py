"""The dice, and the tool that rolls them."""

import random
import re

from tinyagent import ToolError, tool


def roll_dice(dice: str, seed: int | None = None) -> tuple[list[int], int]:
    """The dice that came up for a throw like `2d6+1`, and their sum."""
    parsed = re.fullmatch(r"(\d{0,3})d(\d{1,4})([+-]\d{1,4})?", dice.replace(" ", "").lower())
    if parsed is None or not int(parsed[2]):
        raise ToolError(f"{dice!r} is not a throw of dice: write it like 2d6, d20 or 3d8+2")
    source = random.Random(seed)
    thrown = [source.randint(1, int(parsed[2])) for _ in range(int(parsed[1] or 1))]
    return thrown, sum(thrown) + int(parsed[3] or 0)


@tool(read_only=True)  # it changes nothing, so it needs no approval
def roll(dice: str, seed: int | None = None) -> str:
    """Roll dice.

    Args:
        dice: The throw, like 2d6, d20 or 3d8+2.
        seed: The same seed gives the same throw.
    """
    thrown, total = roll_dice(dice, seed)
    return f"{total} ({' + '.join(map(str, thrown))})"
