"""The sandbox of commands: what it is, what confines a call, and which failures it may have caused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tinyagent.agent_types import CallSandbox, JsonDict, JsonObject
from tinyagent.sandbox import Launch, Policy, Sandbox, SandboxSettings, find_sandbox, repositories

__all__ = ["OUTSIDE", "CommandSandbox"]

OUTSIDE = "without_sandbox"
"""The argument that asks to run a command without the sandbox."""

_REFUSALS = re.compile(
    r"read-only file system|permission denied|operation not permitted|invalid cross-device link"
    r"|network is unreachable|could not resolve|name resolution|name or service not known"
    r"|(?:couldn't|failed to|unable to) connect|connection refused|getaddrinfo|no address associated"
    r"|\b(?:EROFS|EACCES|EPERM|EXDEV|ENETUNREACH|EAI_AGAIN|ENOTFOUND|ECONNREFUSED)\b",
    re.IGNORECASE,
)
"""Messages of programs that were refused something, by the sandbox or otherwise."""

_SHOWN_REPOSITORIES = 5


class CommandSandbox:
    """The sandbox of the commands in one folder.

    Args:
        folder: The working directory of the commands.
        settings: The user's settings.
        can_leave: Whether a call may ask to run without the sandbox.
    """

    def __init__(self, folder: Path, settings: SandboxSettings, *, can_leave: bool) -> None:
        self._folder = folder
        self._settings = settings
        self._can_leave = can_leave
        self._found: Sandbox | None = None
        self._saved: list[str] = []
        self._text = ""
        self._told = False

    @property
    def can_leave(self) -> bool:
        """Whether a call may ask to run without the sandbox."""
        return self._can_leave and self._settings.mode != "off"

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox, which is looked for on first use.

        Raises:
            ConfigurationError: It is required, and there is none.
        """
        if self._found is None:
            self._found = find_sandbox(self._settings.mode)
        return self._found

    @property
    def active(self) -> bool:
        """Whether commands run in a sandbox."""
        return self.sandbox.mechanism != "none"

    def launch(self, command: list[str], environment: Mapping[str, str], cwd: str) -> Launch:
        """Return how to start a command in the sandbox, below a supervisor."""
        launch = self.sandbox.launch(command, self._policy(environment), cwd=cwd, die=False)
        self._text = launch.text
        return launch

    def _policy(self, environment: Mapping[str, str] | None = None) -> Policy:
        """Return what a command may do. Files of saved output stay readable."""
        return Policy(
            writable=[self._folder, *self._settings.writable],
            network=self._settings.network,
            environment=environment,
            visible=self._saved,
        )

    def call(self, arguments: JsonDict) -> CallSandbox:
        """Return what confines a call, for approvals."""
        if not self.active:
            return CallSandbox(
                f"{self.sandbox.describe(self._policy())} The command has all your permissions.", False
            )
        if arguments.get(OUTSIDE) is True:
            return CallSandbox(
                "Outside of the sandbox: the command has all your permissions.", False, leaves=True
            )
        outside: JsonDict | None = {**arguments, OUTSIDE: True} if self.can_leave else None
        return CallSandbox(self.sandbox.describe(self._policy()), True, outside=outside)

    def add_saved(self, path: str) -> None:
        """Let later commands read a file."""
        self._saved.append(path)

    def repositories(self) -> set[str]:
        """Return the Git repositories in the working directory."""
        return set(repositories(str(self._folder)))

    def notes(self, failed: bool, output: str, new_repositories: set[str]) -> list[str]:
        """Return what the model should know about a command in the sandbox."""
        notes = []
        if failed and (found := _REFUSALS.search(output)) is not None:
            how = (
                f"If the task needs it, call bash again with {OUTSIDE}=true; the user is then asked."
                if self.can_leave
                else "If the task needs it, tell the user."
            )
            notes.append(f'"{found[0]}" may be due to the sandbox. {self._text} {how}')
        if new_repositories:
            names = ", ".join(sorted(new_repositories)[:_SHOWN_REPOSITORIES])
            notes.append(f"the command has created {names}; Git runs programs that its configuration names")
        return notes

    def first_note(self) -> str | None:
        """Return once that there is no sandbox, if one was looked for."""
        if self._told or self.active or self._settings.mode == "off":
            return None
        self._told = True
        return self.sandbox.describe(self._policy()).rstrip(".")

    def details(self, *, outside: bool) -> JsonObject:
        """Return what a result says about the sandbox."""
        found = self.sandbox
        if outside or found.mechanism == "none":
            return {"mechanism": "none", "text": "left for this call" if outside else found.problem}
        return {"mechanism": found.mechanism, "network": self._settings.network, "text": self._text}
