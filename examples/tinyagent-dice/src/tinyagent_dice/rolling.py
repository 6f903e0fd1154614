"""Roll dice: the function, and the tool for models."""

import random
import re

from tinyagent import ToolError, tool


def roll_dice(dice: str, seed: int | None = None) -> tuple[list[int], int]:
    """Roll dice in a notation like `2d6+1`, and return the dice and the sum. Raises `ToolError`."""
    parsed = re.fullmatch(r"(\d{0,3})d(\d{1,4})([+-]\d{1,4})?", dice.replace(" ", "").lower())
    if parsed is None or not int(parsed[2]):
        raise ToolError(f"{dice!r} is not a valid roll: write it like 2d6, d20 or 3d8+2")
    source = random.Random(seed)
    rolled = [source.randint(1, int(parsed[2])) for _ in range(int(parsed[1] or 1))]
    return rolled, sum(rolled) + int(parsed[3] or 0)


@tool(read_only=True)  # it changes nothing, so it needs no approval
def roll(dice: str, seed: int | None = None) -> str:
    """Roll dice.

    Args:
        dice: The dice to roll, like 2d6, d20 or 3d8+2.
        seed: The same seed gives the same roll.
    """
    rolled, total = roll_dice(dice, seed)
    return f"{total} ({' + '.join(map(str, rolled))})"
