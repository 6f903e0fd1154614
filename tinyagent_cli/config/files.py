"""Read the TOML files into types.

A project file has its own type with fewer keys. It usually comes with another person's repository, so it may
select from the user's configuration and set limits, but not add anything.
"""

from __future__ import annotations

import os
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
    "SandboxTable",
    "SessionsTable",
    "Table",
    "ToolTable",
    "UserFile",
    "decode_keys",
    "decode_toml",
    "decode_user_file",
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
Positive = Annotated[float, msgspec.Meta(gt=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A table without unknown keys."""


class ProjectRunTable(Table, frozen=True):
    """`[run]` of a project file.

    Attributes:
        model: The model, `PROVIDER/ID` or an alias. Unset, the first provider with a key is used.
        tools: The tools of a run without `-t`.
        deny: Tools, and commands such as `bash(git push*)`, that never run. Those in the project file are
            added to those of the user file.
        temperature: The sampling temperature.
        max_tokens: The most tokens of one reply.
        thinking: How much the model should reason.
        max_turns: The most model calls of a run.
        max_repeats: The most equal tool calls, or turns whose tool calls all fail, in a row.
        max_cost: The budget of a run in US dollars.
        max_total_tokens: The most tokens of a run, input and output of all its model calls together.
        compact: Whether a summary replaces the older messages of a conversation that is too long. Unset, it
            does.
        timeout: The time limit of the whole command in seconds.
    """

    model: str | None = None
    tools: list[str] | None = None
    deny: list[str] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    max_tokens: Count | None = None
    thinking: Level | None = None
    max_turns: Count | None = None
    max_repeats: Count | None = None
    max_cost: Dollars | None = None
    max_total_tokens: Count | None = None
    compact: bool | None = None
    timeout: Seconds | None = None


class RunTable(ProjectRunTable, frozen=True):
    """`[run]` of the user file, with the keys that extend what a run may do.

    Attributes:
        system: The system prompt.
        context: Whether `AGENTS.md` of the working directory and its parents is added to the system prompt.
        allow: Tools, and commands such as `bash(git status*)`, that run without a question.
        transport: The HTTP engine.
        options: Options for every provider, as with `-O`.
    """

    system: str | None = None
    context: bool | None = None
    allow: list[str] | None = None
    transport: Literal["auto", "direct", "httpx"] | None = None
    options: JsonDict = {}


class ProviderTable(Table, frozen=True):
    """`[providers.NAME]`: an endpoint of the user, or changes to a built-in provider.

    Attributes:
        base_url: The address, with or without the path of the protocol.
        api: The protocol. Unset, it is that of the built-in provider, or `openai-completions`.
        api_key_env: The environment variable of the key.
        headers: Further headers of each request.
        allow_http: Whether a key may be sent to another machine without TLS.
        ca_file: A file with further CA certificates.
        context_window: The tokens of the context window of its models. Unset, it is that of the provider's
            stored list of models, or of the list of prices.
        options: Fields that are merged into the body of each request.
    """

    base_url: str | None = None
    api: Literal["openai-completions", "openai-responses", "anthropic-messages"] | None = None
    api_key_env: str | None = None
    headers: dict[str, str] = {}
    allow_http: bool = False
    ca_file: str | None = None
    context_window: Count | None = None
    options: JsonDict = {}

    def __repr__(self) -> str:
        return f"ProviderTable(base_url={self.base_url!r})"  # headers may contain secrets


class PluginsTable(Table, frozen=True):
    """`[plugins]`: settings of installed plugins.

    Attributes:
        disable: Names or distributions of plugins of the group `tinyagent.hooks` that are not loaded.
        prefer: The distribution to use for a name that several claim (`prefer = {calc = "DISTRIBUTION"}`).
        hook_timeout: The time limit of a hook in seconds.
    """

    disable: list[str] = []
    prefer: dict[str, str] = {}
    hook_timeout: float = 30.0


class ToolTable(Table, frozen=True):
    """`[tools.NAME]`: the limits of a tool.

    Attributes:
        timeout: The time limit of a call in seconds.
        max_output: The most characters of a result that the model gets. Unset, it is that of the tool `*`, or
            100,000.
    """

    timeout: Seconds | None = None
    max_output: Count | None = None


class KeysTable(Table, frozen=True):
    """`[keys]`: where `tinyagent keys set` stores the keys of providers.

    Attributes:
        store: `file` for `keys.toml`, or `keyring` for the keyring of the system.
    """

    store: Literal["file", "keyring"] = "file"


class SessionsTable(Table, frozen=True):
    """`[sessions]`: whether runs are saved, and how long sessions without a name are.

    Attributes:
        keep: Whether a run is saved without `--session` and `--continue`.
        max_days: The days since the last use after which a session without a name is removed; 0 for no limit.
        max_count: The most sessions without a name; the least recently used ones are removed. 0 for no limit.
    """

    keep: bool = True
    max_days: Annotated[int, msgspec.Meta(ge=0)] = 30
    max_count: Annotated[int, msgspec.Meta(ge=0)] = 1000


class LimitsTable(Table, frozen=True):
    """`[batch.limits.NAME]`: the limits of a provider for `batch`. Those of its options hold, too.

    Attributes:
        rpm: The most requests of a batch to this provider in a minute.
        tpm: The most input and output tokens in a minute.
        concurrency: The most requests in flight.
    """

    rpm: Positive | None = None
    tpm: Positive | None = None
    concurrency: Count | None = None


class BatchTable(Table, frozen=True):
    """`[batch]`: settings of `tinyagent batch`."""

    limits: dict[str, LimitsTable] = {}


class SandboxTable(Table, frozen=True):
    """`[sandbox]`: the sandbox of tools that run programs, such as `bash`.

    Attributes:
        mode: Whether a sandbox is used if this machine has one (`auto`), is required, or is not used (`off`).
            A project file can only require it.
        network: Whether programs in the sandbox may use the network. A project file can only forbid it.
        writable: Folders that programs in the sandbox may change, besides the working directory.
    """

    mode: Literal["auto", "required", "off"] = "auto"
    network: bool = False
    writable: list[str] = []


class ProjectSandboxTable(Table, frozen=True):
    """`[sandbox]` of a project file, which can only make the sandbox stricter."""

    mode: Literal["required"] | None = None
    network: bool | None = None


class UserFile(Table, frozen=True):
    """The user's `config.toml`.

    Attributes:
        aliases: Names for models, which `-m` accepts. Each value is `PROVIDER/ID`.
        executors: The options of each executor of `batch`, by its name.
    """

    run: RunTable = RunTable()
    providers: dict[str, ProviderTable] = {}
    plugins: PluginsTable = PluginsTable()
    tools: dict[str, ToolTable] = {}
    keys: KeysTable = KeysTable()
    aliases: dict[str, str] = {}
    sessions: SessionsTable = SessionsTable()
    batch: BatchTable = BatchTable()
    executors: dict[str, JsonDict] = {}
    sandbox: SandboxTable = SandboxTable()


class ProjectFile(Table, frozen=True):
    """A `tinyagent.toml` in the working directory."""

    run: ProjectRunTable = ProjectRunTable()
    sandbox: ProjectSandboxTable = ProjectSandboxTable()


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


def model_label(provider: str, model_id: str) -> str:
    """Return the shortest name of a model that `-m` accepts."""
    if provider == "replay":
        return f"replay:{model_id}"
    if (provider, model_id) == ("demo", "demo"):
        return "demo"
    return "/".join(filter(None, (provider, model_id)))


def read_user_file(path: Path) -> UserFile | None:
    """Return the user's file; None if it does not exist."""
    text = read_config(path)
    return None if text is None else decode_user_file(text, path)


def decode_user_file(text: str, path: Path) -> UserFile:
    """Decode the text of `config.toml`.

    Raises:
        ConfigurationError: It is malformed.
    """
    file = decode_toml(text, path, UserFile)
    for name, model in file.aliases.items():
        if "/" in name or not name.strip() or not all(split_model(model)):
            raise ConfigurationError(
                f"{path}: aliases.{name}: an alias is a name without '/', for a model written PROVIDER/ID."
            )
    for folder in file.sandbox.writable:
        if not folder.startswith(("/", "~")) or os.pathsep in folder:
            raise ConfigurationError(
                f"{path}: sandbox.writable: {folder!r} is not an absolute path, or has {os.pathsep!r} in it."
            )
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
        file = decode_toml(text, path, ProjectFile)
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
        return decode_toml(text, path, dict[str, str])
    except ConfigurationError as error:
        # The decoder's message may quote the line, which contains a key.
        raise ConfigurationError(
            f'{path} is malformed: each line is provider = "key".{_position(str(error))}'
        ) from None


def _position(text: str) -> str:
    match = re.search(r"\(at [^()]*\)", text)
    return f" {match[0]}" if match else ""


def decode_toml(text: str, path: Path, kind: type[T]) -> T:
    """Decode the text of a TOML file.

    Raises:
        ConfigurationError: It is malformed. The message names the key.
    """
    try:
        return msgspec.toml.decode(text, type=kind)
    except msgspec.ValidationError as error:
        from .problems import explain  # no command needs it unless a file is malformed

        message, hint = explain(str(error), text, kind)
        raise ConfigurationError(f"{path}: {message}.", hint=hint) from error
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}.") from error


def _decodes(text: str, kind: type[UserFile]) -> bool:
    try:
        msgspec.toml.decode(text, type=kind)
    except msgspec.DecodeError:
        return False
    return True
