"""The settings, by precedence: environment, project file, user file. The commands apply options on top.

For limits, the lower one of the project file and the user file applies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import structs

from tinyagent._net.errors import check_key_variable
from tinyagent.agent_types import JsonDict
from tinyagent.errors import ConfigurationError

from .environment import keys_file, user_file, variable
from .files import (
    BatchTable,
    KeysTable,
    PluginsTable,
    ProjectRunTable,
    ProjectSandboxTable,
    ProviderTable,
    RunTable,
    SandboxTable,
    SessionsTable,
    ToolTable,
    UserFile,
    read_project_file,
    read_user_file,
)
from .keys import Key, KeyStore, check_key

__all__ = [
    "DEFAULT",
    "DEFAULT_MAX_REPEATS",
    "DEFAULT_MAX_TURNS",
    "PROJECT_FILE",
    "SETTINGS_VARIABLE",
    "Settings",
    "encode_settings",
    "load_settings",
]

PROJECT_FILE = "tinyagent.toml"
DEFAULT = "default"
"""The source of a setting that no file sets."""
DEFAULT_MAX_TURNS = 50

DEFAULT_MAX_REPEATS = 10

SETTINGS_VARIABLE = "TINYAGENT_SETTINGS"
"""Has the settings of a batch for its workers, which may be on other machines with other files."""

_LIMITS: dict[str, float | None] = {
    "max_turns": DEFAULT_MAX_TURNS,
    "max_repeats": DEFAULT_MAX_REPEATS,
    "max_cost": None,
    "max_total_tokens": None,
    "max_tokens": None,
    "timeout": None,
}
"""The keys of `[run]` that are limits, with their defaults; None for no limit."""


class Settings(NamedTuple):
    """The settings of the environment and the files.

    Attributes:
        run: The run table, merged from the user file, the project file and TINYAGENT_MODEL.
        model_source: The file or variable that sets the model, for messages.
        sandbox_sources: The file or variable that sets a key of `sandbox`, if it is not the user file.
        run_sources: The file, or `default`, that sets a key of `run`, if it is not the user file.
        notes: Messages about limits of the project file that do not apply, because the user's are lower.
    """

    run: RunTable
    model_source: str
    providers: Mapping[str, ProviderTable]
    disabled_plugins: frozenset[str]
    preferred_plugins: Mapping[str, str]
    tools: Mapping[str, ToolTable]
    keys: KeysTable
    aliases: Mapping[str, str]
    sessions: SessionsTable
    batch: BatchTable
    sandbox: SandboxTable
    executors: Mapping[str, JsonDict]
    hook_timeout: float
    run_sources: Mapping[str, str]
    sandbox_sources: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def key_store(self) -> KeyStore:
        """The stored keys."""
        return KeyStore(keys_file(), self.keys.store == "keyring")

    def find_key(self, provider: str, env_name: str | None) -> Key | None:
        """Return the key of a provider: from its environment variable, or else the stored one.

        Raises:
            ConfigurationError: The variable or the key is invalid, or the stored keys cannot be used.
        """
        if env_name is not None and variable(env_name) is None:
            check_key_variable(env_name, provider)
        value = variable(env_name) if env_name else None
        found = Key(value, env_name) if value and env_name else self.key_store.find(provider)
        if found is not None:
            check_key(found.value, provider, found.source)
        return found

    def api_key(self, provider: str, env_name: str | None) -> str | None:
        """Return the key alone. The errors are those of `find_key`."""
        found = self.find_key(provider, env_name)
        return None if found is None else found.value


def load_settings() -> Settings:
    """Read the environment, the project file in the working directory, and the user file."""
    encoded = variable(SETTINGS_VARIABLE)
    if encoded is not None:
        return _decoded(encoded)
    user_path, project_file = user_file(), Path(PROJECT_FILE)
    user = read_user_file(user_path) or UserFile()
    project = read_project_file(project_file, user_path)
    run, source = user.run, str(user_path)
    notes: list[str] = []
    sources: dict[str, str] = {}
    if project is not None:
        run, sources, notes = _with_project(user.run, project.run, str(project_file))
        if project.run.model is not None:
            source = str(project_file)
    model = variable("TINYAGENT_MODEL")
    if model is not None:
        source = "TINYAGENT_MODEL"
        run = structs.replace(run, model=model)
        sources["model"] = source
    sandbox, sandbox_sources = _sandbox(user.sandbox, project.sandbox if project else None, str(project_file))
    found = _settings(structs.replace(user, sandbox=sandbox), run, source, sources, notes)
    return found._replace(sandbox_sources=sandbox_sources)


def encode_settings(settings: Settings) -> str:
    """Return the settings as JSON, for `TINYAGENT_SETTINGS`. They may contain secrets."""
    user = UserFile(
        run=settings.run,
        providers=dict(settings.providers),
        plugins=PluginsTable(
            disable=sorted(settings.disabled_plugins),
            prefer=dict(settings.preferred_plugins),
            hook_timeout=settings.hook_timeout,
        ),
        tools=dict(settings.tools),
        aliases=dict(settings.aliases),
        batch=settings.batch,
        sandbox=settings.sandbox,
    )
    return msgspec.json.encode(user).decode()


def _decoded(encoded: str) -> Settings:
    """Return the settings of `TINYAGENT_SETTINGS`.

    Raises:
        ConfigurationError: The variable has something else.
    """
    try:
        user = msgspec.json.decode(encoded, type=UserFile)
    except msgspec.DecodeError:
        raise ConfigurationError(
            f"{SETTINGS_VARIABLE} is malformed.", hint="A batch sets it for its workers. Unset it."
        ) from None
    return _settings(user, user.run, SETTINGS_VARIABLE, {}, [])


def _settings(
    user: UserFile, run: RunTable, source: str, sources: dict[str, str], notes: list[str]
) -> Settings:
    return Settings(
        run=run,
        model_source=source,
        providers=user.providers,
        disabled_plugins=frozenset(user.plugins.disable),
        preferred_plugins=user.plugins.prefer,
        tools=user.tools,
        keys=user.keys,
        aliases=user.aliases,
        sessions=user.sessions,
        batch=user.batch,
        sandbox=user.sandbox,
        executors=user.executors,
        hook_timeout=user.plugins.hook_timeout,
        run_sources=sources,
        sandbox_sources={},
        notes=tuple(notes),
    )


def _sandbox(
    user: SandboxTable, project: ProjectSandboxTable | None, file: str
) -> tuple[SandboxTable, dict[str, str]]:
    """Merge the tables and the variables. Return the result, and its sources. The project can only forbid.

    Raises:
        ConfigurationError: A variable has a value that is not one of its values.
    """
    chosen: dict[str, str | bool | list[str]] = {}
    sources: dict[str, str] = {}
    if project is not None and project.mode is not None:
        chosen["mode"], sources["mode"] = project.mode, file
    if project is not None and project.network is False:
        chosen["network"], sources["network"] = False, file
    if (mode := variable("TINYAGENT_SANDBOX")) is not None:
        chosen["mode"], sources["mode"] = mode, "TINYAGENT_SANDBOX"
    if (network := variable("TINYAGENT_SANDBOX_NETWORK")) is not None:
        chosen["network"] = {"0": False, "1": True}.get(network, network)
        sources["network"] = "TINYAGENT_SANDBOX_NETWORK"
    if (writable := variable("TINYAGENT_SANDBOX_WRITABLE")) is not None:
        chosen["writable"] = [folder for folder in writable.split(os.pathsep) if folder]
        sources["writable"] = "TINYAGENT_SANDBOX_WRITABLE"
    try:
        return msgspec.convert(structs.asdict(user) | chosen, SandboxTable), sources
    except msgspec.ValidationError:
        names = " and ".join(name for name in sources.values() if name != file)
        raise ConfigurationError(
            f"{names}: TINYAGENT_SANDBOX can be auto, required or off, and TINYAGENT_SANDBOX_NETWORK 0 or 1."
        ) from None


def _with_project(
    user: RunTable, project: ProjectRunTable, file: str
) -> tuple[RunTable, dict[str, str], list[str]]:
    """Merge the tables. Return the result, its sources, and a note for each limit above the user's."""
    chosen = {name: value for name, value in structs.asdict(project).items() if value is not None}
    sources = dict.fromkeys(chosen, file)
    notes = []
    for name, default in _LIMITS.items():
        limit = getattr(user, name)
        limit = default if limit is None else limit
        if limit is not None and chosen.get(name, limit) > limit:
            notes.append(f"{file}: run.{name} = {chosen[name]} is above your limit; {limit} applies.")
            chosen[name] = limit
            sources[name] = DEFAULT
            if getattr(user, name) is not None:
                del sources[name]
    chosen["deny"] = [*(user.deny or ()), *(project.deny or ())]
    return structs.replace(user, **chosen), sources, notes
