"""The policy in runs with a scripted model, and in runs of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinyagent import Agent, AgentOptions, ConfigurationError, tool
from tinyagent.testing import Reply, ScriptedProvider, call, check_grammar, collect
from tinyagent_audit import Audit

RULES = r"""
log = "{log}"
hide = ['sk-\w+']
[[deny]]
tool = "sh*"
pattern = 'rm\s+-rf'
reason = "Not with rm."
[[deny]]
tool = "forbidden"
"""


@tool
def shell(command: str, more: dict[str, Any] | None = None) -> str:
    """Pretend to run a command."""
    return f"ran {command} with sk-secret"


@tool
def forbidden() -> str:
    """Fail, because the policy denies this tool."""
    raise AssertionError


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a rules file, set the environment variable, and return the path of the log."""

    def write(text: str = RULES, log: str = "audit.jsonl") -> Path:
        path = tmp_path / log
        (tmp_path / "rules.toml").write_text(text.replace("{log}", str(path)))
        monkeypatch.setenv("TINYAGENT_AUDIT", str(tmp_path / "rules.toml"))
        return path

    return write


async def run(*calls: Any) -> list[Any]:
    """Run these calls in one turn under the policy, and return the results."""
    audit = Audit()
    sinks: list[Any] = []
    audit.tinyagent_register_sinks(lambda name, factory: sinks.append(factory()))
    provider = ScriptedProvider(Reply(*calls), "Done.")
    agent = Agent(
        AgentOptions(
            initial_state={"model": provider.model, "tools": [shell, forbidden]},
            stream_fn=provider,
            before_tool_call=audit.tinyagent_before_tool_call,
            after_tool_call=lambda call, result, is_error: audit.tinyagent_after_tool_call(call, result),
        )
    )
    for sink in sinks:
        agent.subscribe(sink)
    events = await collect(agent.stream("Go"))
    check_grammar(events)
    return [m for m in events[-1].messages if m["role"] == "tool_result"]


def text(message: Any) -> str:
    """Return the text of a result."""
    return str(message["content"][0]["text"])


async def test_it_does_nothing_until_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a rules file, calls and results are unchanged."""
    monkeypatch.delenv("TINYAGENT_AUDIT", raising=False)
    [result] = await run(call("shell", command="rm -rf /"))
    assert "ran rm -rf / with sk-secret" == text(result)


@pytest.mark.parametrize(
    ("arguments", "denied"),
    [
        ({"command": "rm  -rf /"}, True),
        ({"command": "ls", "more": {"a": ["b", "rm -rf"]}}, True),
        ({"command": "ls", "more": {"rm -rf": 1}}, True),
        ({"command": "ls"}, False),
    ],
)
async def test_it_denies_by_pattern(rules: Any, arguments: dict[str, Any], denied: bool) -> None:
    """A pattern that matches anywhere in the arguments blocks the call, and the model gets the reason."""
    rules()
    [result] = await run(call("shell", **arguments))
    assert (denied, denied) == (result["is_error"], text(result) == "Not with rm.")


async def test_it_denies_a_tool(rules: Any) -> None:
    """A rule without a pattern denies every call of the tool."""
    rules()
    [result] = await run(call("forbidden"))
    assert "Refused by the user's audit rules." == text(result)


async def test_it_hides_secrets(rules: Any) -> None:
    """Secrets are hidden from the model and in the log."""
    log = rules()
    [result] = await run(call("shell", command="echo sk-abc"))
    assert "ran echo [hidden] with [hidden]" == text(result)
    assert "sk-" not in log.read_text()


async def test_it_logs_each_call(rules: Any) -> None:
    """The log has one JSON line per call, including refused calls, and is private."""
    log = rules()
    await run(call("shell", command="ls"), call("shell", command="rm -rf x"), call("unknown"))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [("shell", False), ("shell", True), ("unknown", True)] == [
        (line["tool"], line["is_error"]) for line in lines
    ]
    assert {"command": "ls"} == lines[0]["arguments"]
    assert ["arguments", "characters", "is_error", "seconds", "time", "tool"] == sorted(lines[0])
    assert 0o600 == log.stat().st_mode & 0o777


async def test_a_log_that_cannot_be_written_refuses_every_call(rules: Any) -> None:
    """While the log cannot be written, calls are refused."""
    rules(log="not-there/audit.jsonl")
    [result] = await run(call("shell", command="ls"))
    assert result["is_error"]
    assert "not-there" in text(result)


@pytest.mark.parametrize("wrong", ["[", "lock = 1", "hide = ['(']", "[[deny]]\npattern = '('"])
def test_invalid_rules_are_an_error(rules: Any, wrong: str) -> None:
    """With invalid rules the plugin cannot be loaded."""
    rules(wrong)
    with pytest.raises(ConfigurationError, match=r"rules\.toml"):
        Audit()


def test_missing_rules_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the rules file does not exist, the plugin cannot be loaded."""
    monkeypatch.setenv("TINYAGENT_AUDIT", "/not/there.toml")
    with pytest.raises(ConfigurationError, match="does not exist"):
        Audit()
