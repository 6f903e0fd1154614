"""The result of a command: its output with notes for the model, and details for programs."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from tinyagent import AgentToolResult
from tinyagent.agent_types import JsonObject

from ._output import LIMIT
from ._processes import ProcessInfo
from ._run import MAX_TIMEOUT, CommandResult

__all__ = ["result_of"]


def result_of(
    ended: CommandResult, timeout: float, more_notes: Sequence[str], sandbox: JsonObject
) -> AgentToolResult:
    """Return the result of a command that has ended.

    Args:
        ended: How it ended.
        timeout: Its time limit, in seconds.
        more_notes: What else the model should know.
        sandbox: The sandbox in which it ran, for `details`.
    """
    text = ended.output.text() or "[no output]"
    if notes := [*_notes(ended, timeout), *more_notes]:
        text += ("" if text.endswith("\n") else "\n") + "\n".join(f"[{note}]" for note in notes)
    number = -ended.code if ended.code < 0 else None
    details: JsonObject = {
        "exit_code": ended.code if number is None else None,
        "signal": None if number is None else _name(number),
        "ended_by": ended.why,
        "bytes": ended.output.bytes,
        "truncated": ended.output.truncated or ended.why == "output",
        "killed": [{"pid": process.pid, "name": process.name} for process in ended.killed],
        "output_file": None if ended.saved is None else ended.saved.path,
        "sandbox": sandbox,
    }
    return AgentToolResult([{"type": "text", "text": text}], details)


def _notes(ended: CommandResult, timeout: float) -> list[str]:
    """Return how the command ended, unless it was successful, and what became of its processes."""
    reasons = {
        "timeout": f"timed out after {timeout:g} s and was ended; timeout can be up to {MAX_TIMEOUT}",
        "aborted": "aborted by the user",
        "output": f"ended after {LIMIT:,} bytes of output",
    }
    notes = []
    if ended.why in reasons:
        notes.append(reasons[ended.why])
    elif ended.code < 0:
        notes.append(f"killed by signal {_name(-ended.code)}")
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
    return notes


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _names(processes: list[ProcessInfo]) -> str:
    shown = ", ".join(f"{process.name} ({process.pid})" for process in processes[:10])
    return shown + (", …" if len(processes) > 10 else "")
