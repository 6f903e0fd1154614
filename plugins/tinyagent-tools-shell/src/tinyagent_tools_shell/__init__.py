"""The tool `bash`: run a shell command, stream and limit its output, and end all its processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from tinyagent import AgentTool, AgentToolResult, AgentToolUpdateCallback, ToolError, hookimpl, tool
from tinyagent.errors import ConfigurationError
from tinyagent.sandbox import SandboxSettings, find_sandbox, sandbox_settings
from tinyagent.tool_sandbox import OUTSIDE

from ._result import result_of
from ._run import DEFAULT_TIMEOUT, MAX_TIMEOUT, run
from ._sandbox import CommandSandbox

__all__ = ["DEFAULT_TIMEOUT", "MAX_TIMEOUT", "shell_tool", "tinyagent_register_tools"]

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

        return await _run_command(
            box,
            command,
            _folder(root, cwd),
            timeout,
            more,
            outside=without_sandbox and box.can_leave,
            save=save_output,
            stop=signal,
            on_output=report,
        )

    if not box.can_leave:
        del bash.parameters["properties"][OUTSIDE]
    if settings.mode != "off":
        bash.sandbox = box.call
    return bash


async def _run_command(
    box: CommandSandbox,
    command: str,
    cwd: str,
    timeout: float,
    environment: frozenset[str],
    *,
    outside: bool,
    save: bool,
    stop: asyncio.Event | None,
    on_output: Callable[[str, int], None],
) -> AgentToolResult:
    """Run a command, in the sandbox unless it may run outside, and return its result.

    Raises:
        ToolError: It cannot be started.
    """
    try:
        # The first use tries the mechanisms, which takes 50 ms or, on a busy machine, longer.
        confined = await asyncio.to_thread(box.is_active) and not outside
        before = box.repositories() if confined else set()
        ended = await run(
            command,
            cwd=cwd,
            timeout=timeout,
            stop=stop,
            on_output=on_output,
            more_environment=environment,
            save=save,
            sandbox=box if confined else None,
        )
    except (OSError, ValueError) as error:
        raise ToolError(f"The shell could not be started: {error}.") from None
    except ConfigurationError as error:
        raise ToolError(str(error)) from None
    if ended.saved is not None and ended.saved.path is not None:
        box.add_saved(ended.saved.path)
    if confined:
        failed = bool(ended.code) and ended.why == "exit"
        notes = box.notes(failed, ended.output.text(), box.repositories() - before)
    else:
        notes = [note] if (note := box.first_note()) is not None else []
    return result_of(ended, timeout, notes, box.details(outside=box.is_active() and not confined))


def _folder(root: Path, path: str) -> str:
    try:
        found = (root / path).resolve()
        is_inside = found.is_relative_to(root)
        is_folder = is_inside and found.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        raise ToolError(f"The folder {path!r} cannot be resolved: {error}.") from None
    if not is_inside:
        raise ToolError(f"The folder {path!r} is outside the working directory. Use a path inside it.")
    if not is_folder:
        raise ToolError(f"There is no folder {path!r} in the working directory.")
    return str(found)


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
