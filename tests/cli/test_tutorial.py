"""docs/tutorial.md: what its terminals show, and its steps with a real model."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence

import pytest

from tinyagent.testing import FakeReply, FakeServer

from .conftest import ROOT, Cli
from .documents import Block, blocks
from .reader import Reader, internet, new_reader

__all__ = ["internet", "new_reader"]

PAGE = blocks(ROOT / "docs" / "tutorial.md")
WITH_A_MODEL = next(number for number, block in enumerate(PAGE) if "tinyagent chat" in block.text)

pytestmark = pytest.mark.skipif(
    shutil.which("jq") is None and "CI" not in os.environ, reason="jq is not installed"
)


def block_with(text: str) -> Block:
    """Return the only block with this text."""
    [found] = [block for block in PAGE if text in block.text]
    return found


def test_what_the_terminal_shows(cli: Cli) -> None:
    """The first answer is among the lines that the page shows; only times differ."""
    terminal = cli.on_terminal("run", "-m", "demo", "-t", "calc", "What is 6 * 7?", columns=100)
    assert 0 == terminal.end()
    shown, expected = (
        re.sub(r"\d+\.\d s", "… s", text)
        for text in ("\n".join(terminal.screen(100)) + "\n", block_with("✓ calc").text)
    )
    assert expected == shown


def test_the_steps_with_a_real_model(cli: Cli, new_reader: Callable[[Sequence[Block]], Reader]) -> None:
    """The chat helps to choose a local model, which then reads the receipts with the tool of the page."""
    chat, script, table = PAGE[WITH_A_MODEL:]
    [(command, screen)] = chat.commands()
    assert "tinyagent chat" == command
    listed = FakeReply.json({"object": "list", "data": [{"id": "qwen3:8b"}]})
    receipts = [
        reply
        for item, amount, currency, euros in (("hotel", 24000, "JPY", 144), ("taxi", 25, "GBP", 30))
        for reply in (
            FakeReply.tool_calls(("to_euros", {"amount": amount, "currency": currency})),
            FakeReply.text(f'{{"item": "{item}", "euros": {euros}}}'),
        )
    ]
    answer = screen.splitlines()[-1]
    with FakeServer(listed, FakeReply.text(answer), *receipts) as server:
        environment = {"OLLAMA_HOST": server.url.removesuffix("/v1")}
        terminal = cli.on_terminal("chat", columns=100, rows=50, environment=environment)
        for question in ("Provider ", "Model ", "Use ", "> "):
            [line] = [line for line in screen.splitlines() if line.startswith(question)]
            prompt, typed = re.split(r"(?<=[:>]) ", line, maxsplit=1)
            terminal.expect_prompt(f"{prompt} ")
            terminal.type(f"{typed}\r")
        terminal.expect(answer)
        terminal.expect_prompt()
        terminal.type("\x04")
        assert 0 == terminal.end()
        shown = "\n".join(terminal.screen(100, rows=50))
        before, _, after = screen.partition("...\n")
        assert shown.startswith(before)
        assert after in f"{shown}\n"

        reader = new_reader(PAGE)
        reader.environment |= {**environment, "TINYAGENT_HOME": str(cli.home)}
        for block in (block_with("def to_euros"), script, table):
            reader.do(block)
    results = [request.json["messages"][-1] for request in server.requests[3::2]]
    assert [("tool", "144.0"), ("tool", "30.0")] == [(each["role"], each["content"]) for each in results]
