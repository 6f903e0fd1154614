"""The tool `bash`: run a shell command, stream and limit its output, and end all its processes."""

from __future__ import annotations

import asyncio
import os
import signal as signals
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from tinyagent import AgentTool, AgentToolResult, AgentToolUpdateCallback, ToolError, hookimpl, tool
from tinyagent.agent_types import JsonObject
from tinyagent.errors import ConfigurationError
from tinyagent.sandbox import SandboxSettings, find_sandbox, sandbox_settings
from tinyagent.tool_sandbox import OUTSIDE

from ._output import LIMIT
from ._processes import ProcessInfo
from ._run import CommandResult, run
from ._sandbox import CommandSandbox

__all__ = ["DEFAULT_TIMEOUT", "MAX_TIMEOUT", "shell_tool", "tinyagent_register_tools"]

DEFAULT_TIMEOUT = 120
MAX_TIMEOUT = 600

_Command = Annotated[str, Meta(min_length=1, max_length=100_000)]
_Seconds = Annotated[float, Meta(gt=0, le=MAX_TIMEOUT)]


def shell_tool(
    folder: str | Path | None = None,
    *,
    environment: Iterable[str] = (),
    sandbox: SandboxSettings | None = None,
    can_leave_sandbox: bool = False,
) -> AgentTool:
    """Return the tool `bash`.

    Args:
        folder: Where commands start, and what they may change; the current working directory if None.
        environment: Names of further variables that commands get. A variable with a name like that of
            a secret is never passed on.
        sandbox: The settings of the sandbox; if None, a sandbox is used if this machine has one.
        can_leave_sandbox: Whether the model may ask to run a command without the sandbox. Use it only if such
            calls are approved one by one: see `AgentTool.sandbox`.

    Raises:
        ConfigurationError: A sandbox is required, but not available.
    """
    root = Path(folder if folder is not None else Path.cwd()).resolve(strict=True)
    more = frozenset(environment)
    settings = SandboxSettings() if sandbox is None else sandbox
    box = CommandSandbox(root, settings, can_leave=can_leave_sandbox)
    if settings.mode == "required":
        find_sandbox("required")

    @tool(label="Run a shell command")
    async def bash(
        command: _Command,
        timeout: _Seconds = DEFAULT_TIMEOUT,
        cwd: str = ".",
        save_output: bool = False,
        without_sandbox: bool = False,
        *,
        signal: asyncio.Event | None = None,
        on_update: AgentToolUpdateCallback | None = None,
    ) -> AgentToolResult:
        """Run a command with bash and return its output, standard output and standard error together.

        There is no terminal and no input. Each call is a new shell: changes of the directory or of variables
        do not last, and background processes are ended with the command. Long output is cut in the middle.

        Args:
            command: The command.
            timeout: Seconds after which the command is ended.
            cwd: The folder to start in, relative to the working directory.
            save_output: Save the complete output in a temporary file and return its path.
            without_sandbox: Run the command without the sandbox, after asking the user. Use it only if the
                command has failed because of the sandbox, and the task needs it.
        """
        if "\0" in command:
            raise ToolError("A command cannot contain a NUL character.")

        def report(text: str, count: int) -> None:
            if on_update is not None:
                on_update(AgentToolResult([{"type": "text", "text": text}], {"bytes": count}))

        try:
            start = _folder(root, cwd)
            # The first use tries the mechanisms, which takes 50 ms or, on a busy machine, longer.
            active = await asyncio.to_thread(box.is_active) and not (without_sandbox and box.can_leave)
            before = box.repositories() if active else set()
            ended = await run(
                command,
                cwd=start,
                timeout=timeout,
                stop=signal,
                on_output=report,
                more_environment=more,
                save=save_output,
                sandbox=box if active else None,
            )
        except (OSError, ValueError) as error:
            raise ToolError(f"The shell could not be started: {error}.") from None
        except ConfigurationError as error:
            raise ToolError(str(error)) from None
        result = _result(ended, timeout)
        if ended.saved is not None and ended.saved.path is not None:
            box.add_saved(ended.saved.path)
        notes = []
        if active:
            failed = bool(ended.code) and ended.why == "exit"
            notes = box.notes(failed, ended.output.text(), box.repositories() - before)
        elif (note := box.first_note()) is not None:
            notes = [note]
        _add_notes(result, notes)
        result.details["sandbox"] = box.details(outside=box.is_active() and not active)
        return result

    if not box.can_leave:
        del bash.parameters["properties"][OUTSIDE]
    if settings.mode != "off":
        bash.sandbox = box.call
    return bash


def _add_notes(result: AgentToolResult, notes: Sequence[str]) -> None:
    [part] = result.content
    if notes and part["type"] == "text":
        text = part["text"]
        part["text"] = text + ("" if text.endswith("\n") else "\n") + "\n".join(f"[{note}]" for note in notes)


def _folder(root: Path, path: str) -> str:
    try:
        found = (root / path).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise ToolError(f"The folder {path!r} cannot be resolved: {error}.") from None
    if not found.is_relative_to(root):
        raise ToolError(f"The folder {path!r} is outside the working directory. Use a path inside it.")
    if not found.is_dir():
        raise ToolError(f"There is no folder {path!r} in the working directory.")
    return str(found)


def _result(ended: CommandResult, timeout: float) -> AgentToolResult:
    number = -ended.code if ended.code < 0 else None
    reasons = {
        "timeout": f"timed out after {timeout:g} s and was ended; timeout can be up to {MAX_TIMEOUT}",
        "aborted": "aborted by the user",
        "output": f"ended after {LIMIT:,} bytes of output",
    }
    notes = []
    if ended.why in reasons:
        notes.append(reasons[ended.why])
    elif number is not None:
        notes.append(f"killed by signal {_name(number)}")
    elif ended.code > 128 and (of := _name(ended.code - 128)).startswith("SIG"):
        notes.append(f"exit code {ended.code} (128 + {of})")
    elif ended.code:
        notes.append(f"exit code {ended.code}")
    if ended.killed:
        count = len(ended.killed)
        notes.append(f"{count} background process(es) still running, killed: {_names(ended.killed)}")
    if ended.lost:
        notes.append("a process of this command has detached itself, cannot be found, and may still run")
    if ended.survived:
        notes.append(f"could not be killed: {_names(ended.survived)}")
    if ended.saved is not None and ended.saved.path is not None:
        notes.append(f"full output: {ended.saved.path}")
    elif ended.saved is not None:
        notes.append(f"the full output could not be saved: {ended.saved.problem}")
    text = ended.output.text()
    if not text:
        text = "[no output]"
    if notes:
        text += ("" if text.endswith("\n") else "\n") + "\n".join(f"[{note}]" for note in notes)
    details: JsonObject = {
        "exit_code": ended.code if number is None else None,
        "signal": None if number is None else _name(number),
        "ended_by": ended.why,
        "bytes": ended.output.bytes,
        "truncated": ended.output.truncated or ended.why == "output",
        "killed": [{"pid": member.pid, "name": member.name} for member in ended.killed],
        "output_file": None if ended.saved is None else ended.saved.path,
    }
    return AgentToolResult([{"type": "text", "text": text}], details)


def _name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return str(number)


def _names(members: list[ProcessInfo]) -> str:
    shown = ", ".join(f"{member.name} ({member.pid})" for member in members[:10])
    return shown + (", …" if len(members) > 10 else "")


@hookimpl
def tinyagent_register_tools(register: Callable[[AgentTool], None]) -> None:
    """Register `bash` for the current working directory.

    `TINYAGENT_SHELL_ENV=NAME,NAME` names further variables that commands get. `tinyagent.sandbox` describes
    the variables for the sandbox.
    """
    names = os.environ.get("TINYAGENT_SHELL_ENV", "").split(",")
    register(
        shell_tool(
            environment=filter(None, map(str.strip, names)),
            sandbox=sandbox_settings(os.environ),
            can_leave_sandbox=True,
        )
    )
