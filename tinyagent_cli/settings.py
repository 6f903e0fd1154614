"""What was set and where: flags > environment > project file > user file.

The only reader of the environment. Reading a variable imports next to nothing; reading the files, and with
them the directories and the decoder, happens in `load`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .config_files import ProviderTable, RunTable

__all__ = ["PROJECT_FILE", "Settings", "allowed_plugins", "config_directory", "load", "variable"]

PROJECT_FILE = "tinyagent.toml"


def variable(name: str) -> str | None:
    """An environment variable without surrounding white space; None if it is unset or blank."""
    value = os.environ.get(name, "").strip()
    return value or None


def allowed_plugins() -> frozenset[str] | None:
    """What TINYAGENT_PLUGINS lets through, by name or distribution: None for all, empty for none."""
    value = os.environ.get("TINYAGENT_PLUGINS")
    if value is None:
        return None
    names = {name.strip() for name in value.split(",") if name.strip()}
    return frozenset(names | {name.lower().replace("_", "-").replace(".", "-") for name in names})


def config_directory() -> Path:
    """Where `config.toml` and `keys.toml` are."""
    home = variable("TINYAGENT_HOME")
    if home is not None:
        return Path(home).expanduser()
    from platformdirs import user_config_path

    return user_config_path("tinyagent")


@dataclass(frozen=True)
class Settings:
    """What the environment and the files say; flags come on top, in the commands.

    Attributes:
        run: The run table of the project file over that of the user file, TINYAGENT_MODEL over both.
        model_source: Where the model was chosen, for messages.
        directory: Where the user's files are.
    """

    run: RunTable
    model_source: str
    providers: Mapping[str, ProviderTable]
    disabled_plugins: frozenset[str]
    hook_timeout: float
    directory: Path
    _keys: list[dict[str, str]] = field(default_factory=list, repr=False, compare=False)

    def api_key(self, provider: str, env_name: str | None) -> str | None:
        """The key of a provider: its environment variable, else `keys.toml`."""
        key = variable(env_name) if env_name else None
        if key is None:
            key = self._key_file().get(provider, "").strip() or None
        if key is not None and not all("!" <= character <= "~" for character in key):
            from tinyagent.errors import AuthenticationError

            where = env_name if env_name and variable(env_name) else self.directory / "keys.toml"
            raise AuthenticationError(
                f"The key of {provider!r} in {where} has spaces, line breaks or non-ASCII characters in it.",
                hint="Copy it again; it is not shown here on purpose.",
            )
        return key

    def _key_file(self) -> dict[str, str]:
        if not self._keys:
            from .config_files import read_keys

            self._keys.append(read_keys(self.directory / "keys.toml"))
        return self._keys[0]


def load(directory: Path | None = None) -> Settings:
    """Read the environment, the project file in `directory` (the working directory) and the user file."""
    from msgspec import structs

    from .config_files import UserFile, read_project_file, read_user_file

    home = config_directory()
    user_file, project_file = home / "config.toml", (directory or Path()) / PROJECT_FILE
    user = read_user_file(user_file) or UserFile()
    project = read_project_file(project_file, user_file)
    run, source = user.run, str(user_file)
    if project is not None:
        chosen = {name: value for name, value in structs.asdict(project.run).items() if value is not None}
        # A project can forbid more than the user does, never less.
        chosen["deny"] = [*(run.deny or ()), *(project.run.deny or ())]
        if "model" in chosen:
            source = str(project_file)
        run = structs.replace(run, **chosen)
    model = variable("TINYAGENT_MODEL")
    if model is not None:
        source = "TINYAGENT_MODEL"
        run = structs.replace(run, model=model)
    return Settings(
        run=run,
        model_source=source,
        providers=user.providers,
        disabled_plugins=frozenset(user.plugins.disable),
        hook_timeout=user.plugins.hook_timeout,
        directory=home,
    )
