"""Read the TOML files into types.

A project file has its own type with fewer keys. It usually comes with another person's repository, so it may
select from the user's configuration and set limits, but not add anything.
"""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from tinyagent.agent_types import JsonDict
from tinyagent.errors import ConfigurationError
from tinyagent.text_files import read_config

__all__ = [
    "ProviderTable",
    "RunTable",
    "ToolTable",
    "UserFile",
    "decode_keys",
    "names_a_file",
    "read_keys",
    "read_project_file",
    "read_user_file",
    "split_model",
]

T = TypeVar("T")

_PROVIDER_NAME = set(string.ascii_letters + string.digits + "_.-")
Level = Literal["off", "minimal", "low", "medium", "high", "xhigh"]
Count = Annotated[int, msgspec.Meta(ge=1)]
Dollars = Annotated[float, msgspec.Meta(gt=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class _Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A table without unknown keys."""


class ProjectRunTable(_Table, frozen=True):
    """`[run]` of a project file."""

    model: str | None = None
    tools: list[str] | None = None
    deny: list[str] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    max_tokens: Count | None = None
    thinking: Level | None = None
    max_turns: Count | None = None
    max_repeats: Count | None = None
    max_cost: Dollars | None = None
    timeout: Seconds | None = None


class RunTable(ProjectRunTable, frozen=True):
    """`[run]` of the user file, with the keys that extend what a run may do."""

    system: str | None = None
    allow: list[str] | None = None
    transport: Literal["auto", "direct", "httpx"] | None = None
    options: JsonDict = {}


class ProviderTable(_Table, frozen=True):
    """`[providers.NAME]`: an endpoint of the user, or changes to a built-in provider."""

    base_url: str | None = None
    api: Literal["openai-completions", "openai-responses", "anthropic-messages"] | None = None
    api_key_env: str | None = None
    headers: dict[str, str] = {}
    allow_http: bool = False
    ca_file: str | None = None
    options: JsonDict = {}

    def __repr__(self) -> str:
        return f"ProviderTable(base_url={self.base_url!r})"  # headers may contain secrets


class PluginsTable(_Table, frozen=True):
    """`[plugins]`: settings of installed plugins.

    Attributes:
        disable: Names or distributions of plugins of the group `tinyagent.hooks` that are not loaded.
        prefer: The distribution to use for a name that several claim (`prefer = {calc = "DISTRIBUTION"}`).
        hook_timeout: The time limit of a hook, in seconds.
    """

    disable: list[str] = []
    prefer: dict[str, str] = {}
    hook_timeout: float = 30.0


class ToolTable(_Table, frozen=True):
    """`[tools.NAME]`: seconds that a call may take, and characters of its result that the model gets."""

    timeout: Seconds | None = None
    max_output: Count | None = None


class KeysTable(_Table, frozen=True):
    """`[keys]`: where `tinyagent keys set` stores the keys of providers.

    Attributes:
        store: `file` for `keys.toml`, or `keyring` for the keyring of the system.
    """

    store: Literal["file", "keyring"] = "file"


class UserFile(_Table, frozen=True):
    """The user's `config.toml`."""

    run: RunTable = RunTable()
    providers: dict[str, ProviderTable] = {}
    plugins: PluginsTable = PluginsTable()
    tools: dict[str, ToolTable] = {}
    keys: KeysTable = KeysTable()


class ProjectFile(_Table, frozen=True):
    """A `tinyagent.toml` in the working directory."""

    run: ProjectRunTable = ProjectRunTable()


def names_a_file(name: str) -> bool:
    """Return whether `-t NAME` means a Python file: `FILE.py`, `FILE.py:TOOL`, or a name with a slash."""
    return name.endswith(".py") or ".py:" in name or "/" in name or "\\" in name


def split_model(text: str) -> tuple[str, str]:
    """Split `PROVIDER/ID` into both; `replay:FILE` into `replay` and the file."""
    text = text.strip()
    if text.startswith("replay:"):
        return "replay", text.removeprefix("replay:")
    provider, _, model_id = text.partition("/")
    return provider, model_id


def read_user_file(path: Path) -> UserFile | None:
    """Return the user's file; None if it does not exist."""
    text = read_config(path)
    if text is None:
        return None
    file = _decode(text, path, UserFile)
    for name in file.providers:
        if not (name[:1].isalnum() and name.isascii() and set(name) <= _PROVIDER_NAME):
            raise ConfigurationError(
                f"{path}: providers.{name!r}: a provider's name may have letters, digits, '-', '_' and '.'."
            )
    return file


def read_project_file(path: Path, user_path: Path) -> ProjectFile | None:
    """Return the project's file; None if it does not exist.

    Raises:
        ConfigurationError: The file is malformed, or sets what only the user may set.
    """
    text = read_config(path)
    if text is None:
        return None
    try:
        file = _decode(text, path, ProjectFile)
    except ConfigurationError as error:
        if isinstance(error.__cause__, msgspec.ValidationError) and _decodes(text, UserFile):
            raise ConfigurationError(
                f"{error} A project file can only choose a model and tools by name, and set limits: "
                "endpoints, headers, plugins, permissions and limits of tools belong in the user's file.",
                hint=f"If you want this setting, add it to {user_path}.",
            ) from None
        raise
    for name in file.run.tools or ():
        if names_a_file(name):
            raise ConfigurationError(
                f"{path}: run.tools: {name!r} is a file. A project file can only name installed tools, "
                "because otherwise its code would run without your request.",
                hint=f"To use it: tinyagent run -t {name}",
            )
    if file.run.model is not None and split_model(file.run.model)[0] == "replay":
        raise ConfigurationError(
            f"{path}: run.model: a project file cannot choose a replay.",
            hint="To use it: tinyagent run -m replay:FILE",
        )
    return file


def read_keys(path: Path) -> dict[str, str]:
    """Return the keys in `keys.toml` by provider; empty if there is no such file.

    Raises:
        ConfigurationError: The file is malformed, or other users can read or write it.
    """
    text = read_config(path, private=True)
    return {} if text is None else decode_keys(text, path)


def decode_keys(text: str, path: Path) -> dict[str, str]:
    """Decode the text of `keys.toml`.

    Raises:
        ConfigurationError: It is malformed. The message does not quote it.
    """
    try:
        return _decode(text, path, dict[str, str])
    except ConfigurationError as error:
        # The decoder's message may quote the line, which contains a key.
        raise ConfigurationError(
            f'{path} is malformed: each line is provider = "key".{_position(str(error))}'
        ) from None


def _position(text: str) -> str:
    match = re.search(r"\(at [^()]*\)", text)
    return f" {match[0]}" if match else ""


def _decode(text: str, path: Path, kind: type[T]) -> T:
    try:
        return msgspec.toml.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {_with_key(str(error))}.") from error
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}.") from error


def _decodes(text: str, kind: type[UserFile]) -> bool:
    try:
        msgspec.toml.decode(text, type=kind)
    except msgspec.DecodeError:
        return False
    return True


def _with_key(message: str) -> str:
    """Move the key to the front of a message such as "Expected `int`, got `str` - at `$.run.max_turns`"."""
    unknown = re.fullmatch(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?", message)
    if unknown:
        return f"unknown key {'.'.join(filter(None, (unknown[2], unknown[1])))!r}"
    placed = re.fullmatch(r"(.*) - at `\$\.?(.*)`", message)
    if placed:
        return f"{placed[2]}: {placed[1][:1].lower()}{placed[1][1:]}"
    return message
