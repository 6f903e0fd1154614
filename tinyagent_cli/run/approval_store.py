"""Stored approvals: exact calls that the user approved for one project.

Each approval is bound to the project's folder (path, device and inode), to the tool as the model sees it, to
the content of its file or distribution, and to the exact arguments. If any of these changes, the user is
asked again.

The file must be private to the user. If others can read or write it, it is neither used nor changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tinyagent.agent_types import AgentTool, CallSandbox, JsonObject
from tinyagent.errors import ConfigurationError
from tinyagent.text_files import read_config, write_private
from tinyagent.toml_files import locked

if TYPE_CHECKING:
    from tinyagent_cli.plugins.tool_sources import ToolSource

__all__ = ["SHOWN_ID", "Approval", "ApprovalStore", "Project", "current_project", "fingerprint"]

VERSION = 2
"""The version of the file format. Version 1 did not bind the content of a tool, so it is not used."""

MAX_BYTES = 16 << 20
"""The size limit of the file, about 20,000 approvals."""

SHOWN_ID = 12
"""Digits of an id that are shown. A user may type any unique prefix."""
_SHOWN = 500
"""Characters of the arguments that are stored for `approvals list`; the check uses their hash."""


class Approval(msgspec.Struct, frozen=True):
    """One exact call that may run without a question."""

    id: str
    project: str
    tool: str
    source: str
    arguments: str
    created: int


class _File(msgspec.Struct):
    version: int = VERSION
    approvals: list[Approval] = []


class Project(NamedTuple):
    """The folder to which approvals are bound. A different folder at the same path is another project."""

    path: str
    device: int
    inode: int


def current_project() -> Project:
    """Return the working directory as a project."""
    path = os.path.realpath(".")
    found = os.stat(path)  # noqa: PTH116
    return Project(path, found.st_dev, found.st_ino)


def fingerprint(
    project: Project,
    tool: AgentTool,
    source: ToolSource | None,
    arguments: JsonObject,
    sandbox: CallSandbox | None = None,
) -> str:
    """Return the hash of everything that an approval is bound to."""
    code = None if source is None else (source.name, source.content())
    shown = (tool.name, tool.description, tool.parameters)
    bound = [VERSION, project, code, tool.origin, shown, arguments]
    if sandbox is not None:
        bound.append(sandbox.active)  # a call that was approved for the sandbox does not run without it
    text = json.dumps(bound, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class ApprovalStore:
    """The approvals in a file.

    Args:
        path: The file; it need not exist.
        warn: Called with the reason if the file cannot be used for a run.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = lambda text: None) -> None:
        self.path = path
        self._warn = warn
        self._warned = False

    def __iter__(self) -> Iterator[Approval]:
        """Iterate over all approvals.

        Raises:
            ConfigurationError: The file cannot be used.
        """
        return iter(self._read().approvals)

    def __contains__(self, key: str) -> bool:
        """Return whether this call is approved; False if the file cannot be used."""
        try:
            return any(approval.id == key for approval in self)
        except ConfigurationError as error:
            if not self._warned:
                self._warned = True
                self._warn(f"Stored approvals are not used. {error} {error.hint or ''}".rstrip())
            return False

    def add(self, key: str, tool: AgentTool, source: ToolSource, arguments: JsonObject) -> None:
        """Approve this exact call in the current project from now on.

        Raises:
            ConfigurationError: The file cannot be used or written; it is unchanged.
        """
        shown = json.dumps(arguments, ensure_ascii=False)
        shown = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"
        approval = Approval(
            key, current_project().path, tool.name, source.name, shown, int(time.time() * 1000)
        )
        with self._changing() as file:
            file.approvals = [*(old for old in file.approvals if old.id != key), approval]

    def remove(self, keys: Iterable[str]) -> None:
        """Remove these approvals. The errors are those of `add`."""
        removed = set(keys)
        if removed:
            with self._changing() as file:
                file.approvals = [old for old in file.approvals if old.id not in removed]

    def _read(self) -> _File:
        text = read_config(self.path, private=True, limit=MAX_BYTES)
        if text is None:
            return _File()
        try:
            file = msgspec.json.decode(text, type=_File)
        except msgspec.DecodeError as error:
            raise ConfigurationError(
                f"{self.path} is malformed ({error}).", hint="Delete it to start with an empty one."
            ) from None
        if file.version > VERSION:
            raise ConfigurationError(
                f"{self.path} was written by a newer tinyagent (version {file.version}).",
                hint="Update tinyagent.",
            )
        return file if file.version == VERSION else _File()

    @contextmanager
    def _changing(self) -> Iterator[_File]:
        """Lock and read the file, and replace it atomically at the end."""
        with locked(self.path):
            file = self._read()
            yield file
            self._write(file)

    def _write(self, file: _File) -> None:
        data = msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"
        if len(data) > MAX_BYTES:
            raise ConfigurationError(
                f"{self.path} is full: it has {len(file.approvals)} approvals.",
                hint="Revoke some: tinyagent approvals revoke",
            )
        write_private(self.path, data)
