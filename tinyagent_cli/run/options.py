"""The options of a run, as its command gets them."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from tinyagent._net.transport import TransportChoice

__all__ = ["RunOptions", "first"]

T = TypeVar("T")
D = TypeVar("D")


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `tinyagent run`."""

    prompt: str | None
    template: str | None
    parameters: tuple[str, ...]
    model: str | None
    system: str | None
    tools: tuple[str, ...]
    mcp: tuple[str, ...]
    files: tuple[str, ...]
    history: str | None
    schema: str | None
    schema_multi: str | None
    plain: bool
    jsonl: bool
    json: bool
    extract: int
    output: str | None
    record: str | None
    options: tuple[str, ...]
    temperature: float | None
    max_tokens: int | None
    thinking: str | None
    max_turns: int | None
    max_repeats: int | None
    max_cost: float | None
    max_total_tokens: int | None
    compact: bool | None
    context_window: int | None
    timeout: float | None
    transport: TransportChoice | None
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    yes: bool
    no_stdin: bool
    session: str | None
    continues: bool
    no_session: bool
    context: bool | None


def first(value: T | None, default: D) -> T | D:
    return default if value is None else value
