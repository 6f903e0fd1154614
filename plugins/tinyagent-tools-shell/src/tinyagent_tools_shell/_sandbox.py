"""The sandbox of commands: that of a tool, and what it says about the files that a command creates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tinyagent.sandbox import Policy, SandboxSettings, repositories
from tinyagent.tool_sandbox import ToolSandbox

__all__ = ["CommandSandbox"]

_SHOWN_REPOSITORIES = 5


class CommandSandbox(ToolSandbox):
    """The sandbox of the commands in one folder.

    Args:
        folder: The working directory of the commands.
        settings: The user's settings.
        can_leave: Whether a call may ask to run without the sandbox.
    """

    def __init__(self, folder: Path, settings: SandboxSettings, *, can_leave: bool) -> None:
        policy = Policy(writable=[folder, *settings.writable], network=settings.network)
        super().__init__("bash", policy, settings.mode, can_leave=can_leave, subject="The command")
        self._folder = folder

    def add_saved(self, path: str) -> None:
        """Let later commands read a file."""
        self.policy = replace(self.policy, visible=[*self.policy.visible, path])

    def repositories(self) -> set[str]:
        """Return the Git repositories in the working directory."""
        return set(repositories(str(self._folder)))

    def notes(self, failed: bool, output: str, new_repositories: set[str]) -> list[str]:
        """Return what the model should know about a command in the sandbox."""
        note = self.failure_note(output) if failed else None
        notes = [note] if note is not None else []
        if new_repositories:
            names = ", ".join(sorted(new_repositories)[:_SHOWN_REPOSITORIES])
            notes.append(f"the command has created {names}; Git runs programs that its configuration names")
        return notes
