"""What other commands of tinyagent know and do: sessions, templates, models and settings."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec

from tinyagent import PluginError

from ._rpc import COMMAND

__all__ = ["SessionEntry", "Template", "copy_session", "default_tools", "models", "sessions", "templates"]

T = TypeVar("T")


class SessionEntry(msgspec.Struct, frozen=True):
    """A saved session. `used` is a time in milliseconds since 1970."""

    id: str
    cwd: str = ""
    title: str = ""
    name: str | None = None
    used: int = 0

    @property
    def shown_title(self) -> str | None:
        """Its name, or else its first message."""
        return self.name or self.title or None


class Template(msgspec.Struct, frozen=True):
    """A template."""

    name: str
    description: str | None = None
    problem: str | None = None
    hidden: bool = False
    variables: list[str] = []
    defaults: dict[str, object] = {}

    @property
    def needs_only_a_prompt(self) -> bool:
        """Whether every variable but `prompt` has a default."""
        return self.problem is None and set(self.variables) <= {"prompt", *self.defaults}


class _Named(msgspec.Struct, frozen=True):
    name: str = ""
    id: str = ""


class _Setting(msgspec.Struct, frozen=True):
    key: str = ""
    value: object = None


async def sessions() -> list[SessionEntry]:
    """Return the saved sessions, the last used one first."""
    return await _read("/", list[SessionEntry], "sessions", "list")


async def copy_session(folder: str, id: str) -> str:
    """Copy a saved session, and return the id of the copy, which belongs to the folder."""
    return (await _run(folder, "sessions", "fork", id)).decode().strip()


async def remove_session(folder: str, id: str) -> None:
    """Remove a saved session."""
    await _run(folder, "sessions", "remove", "--yes", id)


async def templates(folder: str) -> list[Template]:
    """Return the templates."""
    return await _read(folder, list[Template], "templates", "list")


async def models(folder: str, provider: str) -> list[str]:
    """Return the stored list of models of a provider, as names for `-m`. No request is sent."""
    found = await _read(folder, list[_Named], "models", "list", provider, "--cached")
    return [f"{provider}/{model.id or model.name}" for model in found]


async def default_tools(folder: str) -> list[str]:
    """Return the tools of the configuration, or else those for files and commands that are installed."""
    settings, installed = await asyncio.gather(
        _read(folder, list[_Setting], "config", "show", "run.tools"),
        _read(folder, list[_Named], "tools", "list"),
    )
    for setting in settings:
        if setting.key == "run.tools" and isinstance(setting.value, list):
            return [str(name) for name in setting.value]
    names = {tool.name for tool in installed}
    return [name for name in ("fs", "shell") if name in names]


async def _read(folder: str, kind: type[T], *arguments: str) -> T:
    """Return the JSON that a command prints.

    Raises:
        PluginError: The command failed.
    """
    output = await _run(folder, *arguments, "--json")
    try:
        return msgspec.json.decode(output, type=kind)
    except msgspec.MsgspecError as error:
        raise PluginError(
            f"The output of 'tinyagent {' '.join(arguments)}' cannot be read: {error}"
        ) from None


async def _run(folder: str, *arguments: str) -> bytes:
    """Return the output of a command.

    Raises:
        PluginError: The command failed.
    """
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        cwd=folder, start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = await process.communicate()
    except BaseException:
        process.kill()
        raise
    if process.returncode != 0:
        reason = errors.decode(errors="replace").strip()
        raise PluginError(f"'tinyagent {' '.join(arguments)}' failed: {reason}")
    return output
