"""Run a search in a process, and collect its results."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field

from tinyagent import ToolError
from tinyagent.tools import run_in_process

from ._requests import SEARCH_TIMEOUT_S, GlobRequest, GrepRequest, Item, Place
from ._root import Parts, Root
from ._search import glob, grep

__all__ = ["Answer", "ask"]


@dataclass
class Answer:
    """The results of a search. `complete` is False if it timed out."""

    items: list[Item] = field(default_factory=list)
    complete: bool = True

    def get(self, name: str) -> str | int | bool | None:
        """Return a value that the search reported once, such as the engine."""
        return next((item[name] for item in self.items if name in item), None)


async def ask(
    root: Root,
    start: Parts,
    request: GlobRequest | GrepRequest,
    stop: asyncio.Event | None,
    seconds: float = SEARCH_TIMEOUT_S,
) -> Answer:
    """Search below `start`. The process has ended when this returns.

    Raises:
        ToolError: The search failed, or the run was aborted.
    """
    place = Place(
        os.fsencode(root.path), os.fsencode("/".join(start)), tuple(map(os.fsencode, root.places().secret))
    )
    answer = Answer()
    try:
        if isinstance(request, GlobRequest):
            await run_in_process(
                glob, place, request, signal=stop, timeout=seconds, on_item=answer.items.append
            )
        else:
            await run_in_process(
                grep, place, request, signal=stop, timeout=seconds, on_item=answer.items.append
            )
    except TimeoutError:
        answer.complete = False
    except (OSError, TypeError) as error:
        raise ToolError(f"The search could not be started: {error}.") from None
    return answer
