"""The rules file."""

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
    """A rule that refuses calls of matching tools, if a text in the arguments matches the pattern."""

    tool: str = "*"
    pattern: str = ""
    reason: str = "Refused by the user's audit rules."


class Rules(msgspec.Struct, forbid_unknown_fields=True):
    """The settings: the log file, the patterns to hide, and the rules that deny calls."""

    log: str | None = None
    hide: list[str] = []
    deny: list[Deny] = []

    @classmethod
    def read(cls, path: str) -> Rules:
        """Read the rules in a file.

        Raises:
            ConfigurationError: The file is missing, unreadable or invalid, or other users may write it.
        """
        text = read_config(Path(path).expanduser())
        if text is None:
            raise ConfigurationError(f"{path} does not exist")
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
        """Return the reason if a rule denies a call, otherwise None."""
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
