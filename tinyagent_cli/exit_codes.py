"""Map errors to exit codes, in one table, and to messages, in one function."""

from __future__ import annotations

import signal
from typing import NamedTuple

import click

from tinyagent import errors
from tinyagent.errors import InputError

from .terminal.signals import Interrupted, RunTimeoutError, StopRun
from .terminal.standard_output import StandardOutputError

__all__ = [
    "EXIT_CODES",
    "STOPPED",
    "Failure",
    "InputError",
    "NoCodeBlockError",
    "OutputClosedError",
    "ToolsRefusedError",
    "WriteError",
    "describe",
    "how_it_ended",
    "plugin_exit",
    "usage_text",
]


class WriteError(errors.TinyAgentError):
    """The output cannot be written."""

    kind = "output"


class OutputClosedError(WriteError):
    """The reader of standard output has closed it."""

    kind = "broken_pipe"


class ToolsRefusedError(errors.IncompleteAnswerError):
    """The run ended without an answer after tool calls were refused."""

    kind = "tool_refused"


class NoCodeBlockError(errors.IncompleteAnswerError):
    """`-x` was used, and the reply has no fenced code block."""

    kind = "no_code_block"


EXIT_CODES: dict[type[BaseException], int] = {
    errors.TinyAgentError: 1,
    errors.ConfigurationError: 3,  # and so AuthenticationError
    errors.PluginError: 3,
    errors.RecordError: 2,
    errors.InvalidMessageError: 2,
    errors.IncompleteAnswerError: 4,
    WriteError: 1,
    InputError: 2,
    RunTimeoutError: 124,
    OutputClosedError: 128 + signal.SIGPIPE,
    click.ClickException: 2,
    click.Abort: 128 + signal.SIGINT,
    KeyboardInterrupt: 128 + signal.SIGINT,
    BrokenPipeError: 128 + signal.SIGPIPE,
    BaseException: 1,
}
"""The most specific class applies. Signals are 128 plus their number, as in a shell."""


STOPPED = (errors.RunAbortedError.kind, "interrupted")
"""The kinds of error of a run that the user has stopped, by Ctrl-C, by a signal or through rpc."""


HELP = "help"
"""The kind of error of a plugin's group without a command. Its message is the help of the group."""


class Failure(NamedTuple):
    """How a command failed.

    Attributes:
        silent: Whether the message is not printed: it is empty, or standard output was closed by its reader.
        status: The HTTP status of a provider's response.
        retryable: Whether the same request may succeed later; None if unknown.
        retry_after: Seconds to wait, from the provider.
    """

    kind: str
    message: str
    hint: str | None
    exit_code: int
    silent: bool = False
    status: int | None = None
    retryable: bool | None = None
    retry_after: float | None = None


def plugin_exit(error: BaseException) -> errors.PluginError:
    """Return the failure of a plugin that tried to exit the process; exit code 0 is a failure, too."""
    return errors.PluginError(
        f"A plugin tried to exit the process: {errors.error_text(error)}.",
        hint="A plugin reports a failure with an exception of tinyagent.errors. -vv shows where.",
    )


def describe(error: BaseException) -> Failure:
    """Return the message, the record and the exit code of an error, with secrets redacted."""
    from tinyagent._net.errors import redact

    failure = _describe(error)
    hint = redact(failure.hint) if failure.hint is not None else None
    return failure._replace(message=redact(failure.message), hint=hint)


def usage_text(error: click.ClickException) -> str:
    """Return the message of a usage error with at most one suggestion; click suggests all similar options."""
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        from difflib import get_close_matches

        near = get_close_matches(error.option_name, error.possibilities, 1, 0.7)
        error = click.NoSuchOption(error.option_name, possibilities=near, ctx=error.ctx)
    return error.format_message()


def how_it_ended(kind: str, message: str) -> str:
    """Return how a recorded run without an answer ended, as the end of a sentence."""
    return "was interrupted." if kind in STOPPED else f"failed: {message}"


def _describe(error: BaseException) -> Failure:
    if isinstance(error, StopRun):
        return _stopped(error)
    if isinstance(error, SystemExit | click.exceptions.Exit):
        return _exit(error.code if isinstance(error, SystemExit) else error.exit_code)
    code = next(EXIT_CODES[base] for base in type(error).__mro__ if base in EXIT_CODES)
    if isinstance(error, errors.TinyAgentError):
        silent = isinstance(error, OutputClosedError)
        return Failure(
            error.kind,
            errors.error_text(error),
            error.hint,
            code,
            silent,
            error.status,
            error.retryable,
            error.retry_after,
        )
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return Failure(HELP, usage_text(error), None, code)
    if isinstance(error, click.ClickException):
        return Failure("usage", usage_text(error), _click_hint(error), code)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Failure("interrupted", "Interrupted.", None, code)
    if isinstance(error, StandardOutputError):
        code = EXIT_CODES[OutputClosedError if error.reader_left else WriteError]
        kind = OutputClosedError.kind if error.reader_left else WriteError.kind
        return Failure(kind, str(error), None, code, silent=error.reader_left)
    if isinstance(error, BrokenPipeError):
        return Failure("broken_pipe", "Standard output was closed.", None, code, silent=True)
    if isinstance(error, MemoryError):
        return Failure(
            "out_of_memory", "There is not enough memory.", "Send less, or allow more memory.", code
        )
    fields = errors.error_fields(error)
    if fields.get("error_kind") != errors.TinyAgentError.kind:
        # A plugin's own error class with a kind or a status is an expected failure, not a defect.
        return describe(errors.error_from_message(fields))
    return Failure(
        "internal",
        f"Internal error: {type(error).__name__}: {error}",
        "This is a defect of tinyagent or of a plugin; -vv shows where.",
        code,
    )


def _stopped(error: StopRun) -> Failure:
    if not isinstance(error, Interrupted):
        return Failure("run_timeout", str(error), None, EXIT_CODES[RunTimeoutError])
    how = "Interrupted." if error.signum == signal.SIGINT else f"Ended by {error}."
    return Failure("interrupted", how, error.hint, 128 + error.signum)


def _exit(code: object) -> Failure:
    if code is None or isinstance(code, int):
        return Failure("exit", "", None, code or 0, silent=True)
    return Failure("exit", str(code), None, 1)


def _click_hint(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    lines = [getattr(error, "hint", None), context and f"Try '{context.command_path} --help' for help."]
    return "\n".join(filter(None, lines)) or None
