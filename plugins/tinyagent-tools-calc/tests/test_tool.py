"""The tool `calc` as tinyagent uses it."""

from __future__ import annotations

from importlib import metadata

import pytest

import tinyagent_tools_calc
from tinyagent import AgentTool, ToolError
from tinyagent_tools_calc import calc


def test_the_plugin_registers_calc() -> None:
    """The hook registers `calc` only."""
    registered: list[AgentTool] = []
    tinyagent_tools_calc.tinyagent_register_tools(registered.append)
    assert [calc] == registered


def test_the_entry_point_names_the_module() -> None:
    """`-t calc` finds this package by its metadata."""
    [point] = metadata.entry_points(group="tinyagent.tools", name="calc")
    assert tinyagent_tools_calc is point.load()


def test_it_needs_no_approval() -> None:
    """The tool is read-only."""
    assert calc.read_only


async def test_it_answers_with_text() -> None:
    """The model gets the number as text."""
    result = await calc.execute("c1", {"expression": "6 * 7"}, None, lambda partial: None)
    assert result.content == [{"type": "text", "text": "42"}]


async def test_it_fails_with_the_reason() -> None:
    """The model gets the reason without a traceback."""
    with pytest.raises(ToolError, match=r"^division by zero$"):
        await calc.execute("c1", {"expression": "1 / 0"}, None, lambda partial: None)
