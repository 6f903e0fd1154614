"""The rules of `--allow` and `--deny`: a tool by its name, or the commands of a tool by their first words.

    bash                    every call of the tool
    tool_*                  every tool whose name matches
    bash(git status)        exactly this command
    bash(git status*)       this command with any further arguments

The words are those of a shell. A rule allows a command only if it is one simple command: an operator, a
redirection, a substitution, a variable or a second line could run something else, so such a command is asked.
A deny rule looks at the start of every command in a line. A shell can hide a command from it (`eval`, a
script), so it prevents mistakes and not attacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from tinyagent.errors import ConfigurationError

__all__ = ["Rule", "first_match", "parse_rule"]

_ARGUMENT = "command"
"""The argument that has the command."""

_OPERATORS = ";&|<>()\n\r"
"""What ends a command, outside quotes."""

_EXPANSIONS = "$`\0"
"""What a shell replaces, also in double quotes."""

_WRAPPERS = ("builtin", "command", "doas", "env", "exec", "nice", "nohup", "sudo", "time", "xargs")
"""Programs that run the command that follows."""

_ASSIGNMENT = r"[A-Za-z_]\w*\+?="


class Rule(NamedTuple):
    """A rule.

    Attributes:
        text: The rule as it was written.
        name: The name of the tool; `*` and `?` match.
        words: The first words of the command; None for every call.
        more: Whether further words may follow.
    """

    text: str
    name: str
    words: tuple[str, ...] | None = None
    more: bool = False

    def allows(self, name: str, arguments: Mapping[str, object]) -> bool:
        """Return whether the rule matches a call, and its command can be nothing else."""
        if not fnmatchcase(name, self.name):
            return False
        if self.words is None:
            return True
        command = arguments.get(_ARGUMENT)
        words = _simple_command(command) if isinstance(command, str) else None
        return words is not None and self._begins(words)

    def denies(self, name: str, arguments: Mapping[str, object]) -> bool:
        """Return whether the rule matches a call, or a command in it."""
        if not fnmatchcase(name, self.name):
            return False
        if self.words is None:
            return True
        command = arguments.get(_ARGUMENT)
        return isinstance(command, str) and any(map(self._begins, _commands(command)))

    def _begins(self, words: list[str]) -> bool:
        assert self.words is not None
        count = len(self.words)
        return tuple(words[:count]) == self.words and (self.more or len(words) == count)


def first_match(rules: Iterable[Rule], name: str, arguments: Mapping[str, object]) -> Rule | None:
    """Return the first rule that allows a call; None if no rule does."""
    return next((rule for rule in rules if rule.allows(name, arguments)), None)


def parse_rule(text: str) -> Rule:
    """Parse a rule.

    Raises:
        ConfigurationError: The part in brackets is not a simple command.
    """
    name, bracket, rest = text.partition("(")
    if not bracket:
        return Rule(text, text)
    inner = rest[:-1].strip()
    more = inner.endswith("*")
    words = _simple_command(inner.removesuffix("*")) if rest.endswith(")") else None
    if not name or not words or any(character in word for word in words for character in "*?["):
        raise ConfigurationError(
            f"{text!r} is not a rule. A rule is the name of a tool, or the name and one simple command in "
            "brackets.",
            hint="For example 'bash(git status)', or with any further arguments 'bash(git status*)'.",
        )
    return Rule(text, name, tuple(words), more)


def _simple_command(command: str) -> list[str] | None:
    """Return the words of a command; None if a shell may do more than to run the program with these words."""
    quote = ""
    characters = iter(command)
    for character in characters:
        if quote == "'":
            quote = "" if character == "'" else quote
        elif character == "\\":
            following = next(characters, "\n")
            if following in "\n\r\0" or (quote and following in "$`"):
                return None  # a line that goes on, or characters that `shlex` reads otherwise
        elif character in _EXPANSIONS or (not quote and character in _OPERATORS):
            return None
        elif character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
    if quote:
        return None
    import shlex  # most runs have no rule for commands

    return shlex.split(command)


def _commands(line: str) -> list[list[str]]:
    """Return the words of each command in a line, without its folder and what is set for it."""
    import shlex

    found: list[list[str]] = []
    for part in re.split(r"[;&|()\n{}`]|\$\(", line):
        try:
            words = shlex.split(part)
        except ValueError:  # a quote was cut
            words = part.replace("'", " ").replace('"', " ").split()
        while words and (re.match(_ASSIGNMENT, words[0]) or words[0] in _WRAPPERS):
            del words[0]
        found.append([words[0].rpartition("/")[2], *words[1:]] if words else [])
    return found
