"""The file of rules."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from tinyagent import ConfigurationError
from tinyagent.agent_types import JsonValue
from tinyagent.text_files import read_config

__all__ = ["Rules"]


class Deny(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Calls that are refused: of these tools, with a text in the arguments that has this pattern."""

    tool: str = "*"
    pattern: str = ""
    reason: str = "Refused by the audit rules of the user."


class Rules(msgspec.Struct, forbid_unknown_fields=True):
    """What is logged, hidden and denied."""

    log: str | None = None
    hide: list[str] = []
    deny: list[Deny] = []

    @classmethod
    def read(cls, path: str) -> Rules:
        """Read the rules in a file.

        Raises:
            ConfigurationError: it cannot be read or understood, or others may write it, so nothing may run.
        """
        text = read_config(Path(path).expanduser())
        if text is None:
            raise ConfigurationError(f"{path} cannot be read: there is no such file")
        try:
            found = msgspec.toml.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise ConfigurationError(f"{path}: {error}") from None
        for pattern in (*found.hide, *(rule.pattern for rule in found.deny)):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigurationError(f"{path}: the pattern {pattern!r}: {error}") from None
        return found

    def denied(self, tool: str, texts: Iterable[str]) -> str | None:
        """Return why a call is refused; None if it may run."""
        strings = list(texts)
        for rule in self.deny:
            if fnmatchcase(tool, rule.tool) and (
                not rule.pattern or any(re.search(rule.pattern, text) for text in strings)
            ):
                return rule.reason
        return None

    def hidden(self, text: str) -> str:
        """Replace every match of the `hide` patterns in a text."""
        for pattern in self.hide:
            text = re.sub(pattern, "[hidden]", text)
        return text

    def hidden_in(self, value: JsonValue) -> JsonValue:
        """Apply `hidden` to every string in a value."""
        if isinstance(value, str):
            return self.hidden(value)
        if isinstance(value, dict):
            return {key: self.hidden_in(inner) for key, inner in value.items()}
        return [self.hidden_in(inner) for inner in value] if isinstance(value, list) else value
