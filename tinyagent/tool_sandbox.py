"""The sandbox of one tool: what confines a call, what the user is asked, and what the result says.

`@tool(sandbox=Policy(…))` uses it. A tool that starts programs can use it, too:

    box = ToolSandbox("build", Policy(writable=["."]))
    with box.launch(["/usr/bin/make"], cwd=Path.cwd()) as launch:
        subprocess.run(launch.command, env=launch.environment, pass_fds=launch.descriptors)

Set `AgentTool.sandbox` to `box.call`, so that approvals show what holds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .agent_types import CallSandbox, JsonDict, JsonObject
from .sandbox import Launch, Mode, Policy, Sandbox, find_sandbox, sandbox_settings

__all__ = ["OUTSIDE", "ToolSandbox"]

OUTSIDE = "without_sandbox"
"""The argument with which a call asks to run outside the sandbox."""

_REFUSALS = re.compile(
    r"read-only file system|permission denied|operation not permitted|invalid cross-device link"
    r"|network is unreachable|could not resolve|name resolution|name or service not known"
    r"|(?:couldn't|failed to|unable to) connect|connection refused|getaddrinfo|no address associated"
    r"|\b(?:EROFS|EACCES|EPERM|EXDEV|ENETUNREACH|EAI_AGAIN|ENOTFOUND|ECONNREFUSED)\b",
    re.IGNORECASE,
)
"""Messages of programs that were refused something, by the sandbox or otherwise."""


class ToolSandbox:
    """The sandbox of a tool.

    Args:
        tool: The name of the tool, for messages.
        policy: What its calls may do.
        mode: Whether a sandbox is used; if None, `TINYAGENT_SANDBOX` says so when the first call starts.
        can_leave: Whether a call may run outside the sandbox if its argument `without_sandbox` is true. Use
            it only if such calls are approved one by one: see `CallSandbox.leaves`.
        subject: What runs, for the sentences to the user.

    Attributes:
        policy: What the calls may do; a change holds from the next call on.
    """

    def __init__(
        self,
        tool: str,
        policy: Policy,
        mode: Mode | None = None,
        *,
        can_leave: bool = False,
        subject: str = "The tool",
    ) -> None:
        self.policy = policy
        self._tool = tool
        self._mode = mode
        self._can_leave = can_leave
        self._subject = subject
        self._found: Sandbox | None = None
        self._text = ""
        self._has_noted = False

    @property
    def mode(self) -> Mode:
        """Whether a sandbox is used.

        Raises:
            ConfigurationError: `TINYAGENT_SANDBOX` has another value.
        """
        if self._mode is None:
            self._mode = sandbox_settings(os.environ).mode
        return self._mode

    @property
    def can_leave(self) -> bool:
        """Whether a call may ask to run outside the sandbox."""
        return self._can_leave and self.mode != "off"

    def let_calls_leave(self) -> None:
        """Let a call run outside the sandbox, as with `can_leave`."""
        self._can_leave = True

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox. The first use looks for it, which starts a program.

        Raises:
            ConfigurationError: It is required, and this machine has none.
        """
        if self._found is None:
            self._found = find_sandbox(self.mode)
        return self._found

    def is_active(self) -> bool:
        """Return whether calls run in a sandbox. The first call looks for it.

        Raises:
            ConfigurationError: It is required, and this machine has none.
        """
        return self.sandbox.mechanism != "none"

    def leaves(self, arguments: JsonDict) -> bool:
        """Return whether a call with these arguments runs outside the sandbox."""
        return self.can_leave and arguments.get(OUTSIDE) is True

    def launch(
        self,
        command: Sequence[str],
        *,
        cwd: str | Path,
        environment: Mapping[str, str] | None = None,
        visible: Sequence[str | Path] = (),
        die: bool = True,
    ) -> Launch:
        """Return how to start a program in the sandbox. See `Sandbox.launch`.

        Args:
            command: The program, as a path, and its arguments.
            cwd: The folder to start in.
            environment: The variables if the policy has none.
            visible: Further files and folders to read, although they are hidden or in `/tmp`.
            die: Whether everything in the sandbox ends with the program.
        """
        policy = replace(self.policy, visible=[*self.policy.visible, *visible])
        if policy.environment is None:
            policy = replace(policy, environment=environment)
        launch = self.sandbox.launch(command, policy, cwd=cwd, die=die)
        self._text = launch.text
        return launch

    def call(self, arguments: JsonDict) -> CallSandbox:
        """Return what confines a call, for approvals.

        Raises:
            ConfigurationError: A sandbox is required, and this machine has none.
        """
        if not self.is_active():
            text = f"{self.sandbox.describe(self.policy)} {self._subject} has all your permissions."
            return CallSandbox(text, False)
        if self.leaves(arguments):
            text = f"Outside of the sandbox: {_lower(self._subject)} has all your permissions."
            return CallSandbox(text, False, leaves=True)
        outside: JsonDict | None = {**arguments, OUTSIDE: True} if self.can_leave else None
        return CallSandbox(self.sandbox.describe(self.policy), True, outside=outside)

    def failure_note(self, output: str) -> str | None:
        """Return a note for the model if the sandbox may be why a call failed.

        Args:
            output: What the call has printed, or its error.
        """
        found = _REFUSALS.search(output)
        if found is None:
            return None
        how = (
            f"If the task needs it, call {self._tool} again with {OUTSIDE}=true; the user is then asked."
            if self.can_leave
            else "If the task needs it, tell the user."
        )
        return f'"{found[0]}" may be due to the sandbox. {self._text} {how}'

    def first_note(self) -> str | None:
        """Return once that this machine has no sandbox; None if calls run in one, or shall not."""
        if self._has_noted or self.is_active() or self.mode == "off":
            return None
        self._has_noted = True
        return self.sandbox.describe(self.policy).rstrip(".")

    def details(self, *, outside: bool) -> JsonObject:
        """Return what a result says about the sandbox.

        Args:
            outside: Whether this call has left it.
        """
        found = self.sandbox
        if outside or found.mechanism == "none":
            return {"mechanism": "none", "text": "left for this call" if outside else found.problem}
        return {"mechanism": found.mechanism, "network": self.policy.network, "text": self._text}


def _lower(subject: str) -> str:
    return subject[:1].lower() + subject[1:]
