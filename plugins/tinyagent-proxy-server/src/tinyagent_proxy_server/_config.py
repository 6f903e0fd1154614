"""The configuration: a TOML file, and tokens from the environment or from files.

The TOML file contains no secrets. It names the variables and files with the tokens, and the variables with
the providers' keys.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from tinyagent import ConfigurationError, text_files
from tinyagent.agent_types import JsonDict

__all__ = [
    "TOKEN_VARIABLE",
    "ConfigFile",
    "ProviderTable",
    "ServerTable",
    "Token",
    "read_config",
    "read_tokens",
]

TOKEN_VARIABLE = "TINYAGENT_PROXY_TOKEN"
SHORTEST_TOKEN = 16
HOW_TO = "Make one with: tinyagent proxy token"


class _Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A table that refuses unknown keys."""


class ServerTable(_Table, frozen=True):
    """`[server]`: the limits of all callers together.

    Attributes:
        max_streams: The limit of active replies.
        max_request_bytes: The maximum length of a request, including images, which are encoded as text.
        stall_timeout: Seconds until a caller that does not read is disconnected.
        shutdown_grace: Seconds for active replies to end when the server stops.
    """

    max_streams: int = 1000
    max_request_bytes: int = 32 << 20
    stall_timeout: float = 120.0
    shutdown_grace: float = 5.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")


class TokenTable(_Table, frozen=True):
    """`[tokens.NAME]`: one caller. The token is in the variable `env` or in the file `file`.

    Attributes:
        models: Patterns for `PROVIDER/ID`.
        max_streams: The limit of active replies for this token; None: only the server's limit.
        requests_per_minute: The average rate; the requests of one minute may come at once. None: no limit.
    """

    env: str | None = None
    file: str | None = None
    models: tuple[str, ...] = ("*",)
    max_streams: int | None = None
    requests_per_minute: float | None = None

    def __post_init__(self) -> None:
        if (self.env is None) == (self.file is None):
            raise ValueError("set either env or file")
        if any(limit is not None and limit <= 0 for limit in (self.max_streams, self.requests_per_minute)):
            raise ValueError("a limit must be above 0")


class ProviderTable(_Table, frozen=True):
    """`[providers.NAME]`: as in tinyagent's configuration, and `models`, patterns for model ids."""

    base_url: str | None = None
    api: Literal["openai-completions", "openai-responses", "anthropic-messages"] | None = None
    api_key_env: str | None = None
    headers: dict[str, str] = {}
    allow_http: bool = False
    ca_file: str | None = None
    options: JsonDict = {}
    models: tuple[str, ...] = ("*",)

    def __repr__(self) -> str:
        return f"ProviderTable(base_url={self.base_url!r})"  # headers may hold secrets


class ConfigFile(_Table, frozen=True):
    """The complete file."""

    server: ServerTable = ServerTable()
    tokens: dict[str, TokenTable] = {}
    providers: dict[str, ProviderTable] = {}


class Token(NamedTuple):
    """A token, and its name in the log."""

    name: str
    secret: str
    table: TokenTable

    def __repr__(self) -> str:
        return f"Token({self.name!r})"


def read_config(path: Path | None) -> ConfigFile:
    """Read and check the file. Without a file, return the defaults.

    Raises:
        ConfigurationError: The file is invalid. The message names the file and the key.
    """
    if path is None:
        return ConfigFile()
    try:
        return msgspec.toml.decode(_read(path), type=ConfigFile)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def read_tokens(
    tables: Mapping[str, TokenTable], variables: Iterable[str] = (), *, folder: Path | None = None
) -> list[Token]:
    """Read the tokens of the tables, and of the variables that the command line names.

    Args:
        tables: `[tokens.NAME]`.
        variables: Names of variables with further tokens, which are logged under these names. If there is
            no other token, `TINYAGENT_PROXY_TOKEN` is used.
        folder: The base of relative file names.

    Raises:
        ConfigurationError: There is no token, or one is invalid.
    """
    named = dict(tables) | {name: TokenTable(env=name) for name in variables}
    if not named:
        if not os.environ.get(TOKEN_VARIABLE):
            raise ConfigurationError(
                "There is no token, so no caller could use the proxy.",
                hint=f"export {TOKEN_VARIABLE}=$(tinyagent proxy token), or add tokens with --token-env or "
                "[tokens.NAME] in the file.",
            )
        named[TOKEN_VARIABLE] = TokenTable(env=TOKEN_VARIABLE)
    tokens = [Token(name, _secret(name, table, folder or Path()), table) for name, table in named.items()]
    owners: dict[str, str] = {}
    for token in tokens:
        if owners.setdefault(token.secret, token.name) != token.name:
            raise ConfigurationError(f"{owners[token.secret]!r} and {token.name!r} have the same token.")
    return tokens


def _secret(name: str, table: TokenTable, folder: Path) -> str:
    if table.env is not None:
        place, text = f"the variable {table.env}", os.environ.get(table.env, "")
    else:
        path = folder / Path(table.file or "").expanduser()
        place, text = f"the file {path}", _read(path, private=True)
    secret = text.strip()
    if not secret:
        raise ConfigurationError(f"The token {name!r} is missing: {place} is not set or empty.", hint=HOW_TO)
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise ConfigurationError(
            f"The token {name!r} in {place} has characters that are not allowed in a token.", hint=HOW_TO
        )
    if len(secret) < SHORTEST_TOKEN:
        raise ConfigurationError(
            f"The token {name!r} in {place} is too short: it needs at least {SHORTEST_TOKEN} characters.",
            hint=HOW_TO,
        )
    return secret


def _read(path: Path, *, private: bool = False) -> str:
    text = text_files.read_config(path, private=private)
    if text is None:
        raise ConfigurationError(f"{path} does not exist.")
    return text
