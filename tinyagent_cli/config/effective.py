"""What holds: each setting with its value and the file or variable that it comes from. Secrets are hidden."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from tinyagent._net.errors import redact
from tinyagent._stream.servers import SERVERS
from tinyagent.agent_types import JsonValue
from tinyagent.text_files import read_config

from .endpoints import endpoint_of
from .environment import allowed_plugins, config_directory, user_file, variable
from .key_types import dotted
from .reference import NAME, all_settings
from .settings import DEFAULT, PROJECT_FILE, Settings

__all__ = ["HIDDEN", "Value", "effective_settings", "hidden_if_secret"]

HIDDEN = "(hidden)"
"""Stands for a secret."""

ENVIRONMENT = "environment"


class Value(NamedTuple):
    """The value of a setting.

    Attributes:
        key: The dotted key, or the name of a variable.
        value: The value; `HIDDEN` for a secret, None if it is not set.
        source: The file or variable that sets it; `default` if no file does.
    """

    key: str
    value: JsonValue
    source: str


def effective_settings(found: Settings, *, defaults: bool) -> list[Value]:
    """Return what holds in the working directory.

    Args:
        found: The settings, which are read and valid.
        defaults: Whether settings that are not set are included.
    """
    rows = [*_of_files(found), *_of_environment(found)]
    if defaults:
        have = [f"{row.key}." for row in rows]
        for setting in all_settings():
            is_set = any(key.startswith(f"{setting.key}.") for key in have)
            if not is_set and f".{NAME}" not in setting.key:
                default = msgspec.json.decode(setting.default) if setting.default else None
                rows.append(Value(setting.key, default, DEFAULT))
    order = {setting.key.partition(".")[0]: n for n, setting in enumerate(reversed(all_settings()))}
    return sorted(rows, key=lambda row: (-order.get(row.key.partition(".")[0], -1), row.key))


def _of_files(found: Settings) -> Iterator[Value]:
    """Return what the files and TINYAGENT_MODEL set; for `[run]`, what their merge has as the result."""
    path = user_file()
    user = msgspec.toml.decode(read_config(path) or "")
    for keys, value in _leaves(user):
        if keys[0] not in ("run", "sandbox"):
            yield _row(keys, value, str(path))
    in_user_file = user.get("run", {})
    for name, merged in msgspec.to_builtins(found.run).items():
        source = found.run_sources.get(name)
        if merged is None or (source is None and name not in in_user_file):
            continue
        if name == "deny" and source is not None and in_user_file.get("deny"):
            source = f"{path}, {PROJECT_FILE}"
        for keys, value in _leaves({"run": {name: merged}}):
            yield _row(keys, value, source or str(path))

    for name, merged in msgspec.to_builtins(found.sandbox).items():
        if name in found.sandbox_sources or name in user.get("sandbox", {}):
            yield _row(("sandbox", name), merged, found.sandbox_sources.get(name, str(path)))


def _of_environment(found: Settings) -> Iterator[Value]:
    """Return what variables set that are not keys."""
    if variable("TINYAGENT_HOME") is not None:
        yield Value("TINYAGENT_HOME", str(config_directory()), ENVIRONMENT)
    allowed = allowed_plugins()
    if allowed is not None:
        yield Value("TINYAGENT_PLUGINS", ",".join(sorted(allowed)), ENVIRONMENT)
    for name, server in SERVERS.items():
        if server.url_env is not None and variable(server.url_env) is not None:
            endpoint = endpoint_of(name, found.providers.get(name))
            if endpoint.moved_by is not None:
                yield _row(("providers", name, "base_url"), endpoint.base_url, endpoint.moved_by)


def _leaves(
    table: Mapping[str, JsonValue], keys: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], JsonValue]]:
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*keys, name))
        else:
            yield (*keys, name), value


def _row(keys: Sequence[str], value: JsonValue, source: str) -> Value:
    return Value(dotted(keys), hidden_if_secret(keys, value), source)


def hidden_if_secret(keys: Sequence[str], value: JsonValue) -> JsonValue:
    """Return `HIDDEN` for a header, and for an option whose name says that it is a secret; else the value.

    Parts of a text that look like secrets are replaced.
    """
    if "headers" in keys[:-1]:
        return HIDDEN
    if "options" in keys[:-1] and re.search(
        r"(?i)(?:^|[-_.])(?:api_?key|key|token|secret|password|passwd|credentials?|auth|authorization|cookie)$",
        keys[-1],
    ):
        return HIDDEN
    if keys[-1] == "api_key_env" and not (
        isinstance(value, str) and re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", value)
    ):
        return HIDDEN  # a key that is in the place of its variable's name
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [hidden_if_secret(keys, item) for item in value]
    return value
