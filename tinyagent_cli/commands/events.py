"""`tinyagent events`: filters over recorded runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.shell_completion import complete_files, complete_records
from tinyagent_cli.terminal.amounts import counted, time_text

from .options import TextArgument, command_group, common_options

if TYPE_CHECKING:
    from tinyagent_cli.events.calls import Call
    from tinyagent_cli.events.source import Source
    from tinyagent_cli.events.stats import Stats
    from tinyagent_cli.terminal.output import BatchedOutput

__all__ = ["events"]

_WIDTH = 200
"""The most characters of a line of a tool's result."""
_RESULT_LINES = 5
"""How many lines of a tool's result are shown."""

_source_argument = click.argument(
    "source", required=False, metavar="[FILE|SESSION|-]", type=TextArgument(), shell_complete=complete_records
)


@command_group()
def events() -> None:
    """Read recorded runs: a file of --jsonl or -o, a session, or a pipe.

    Standard input is read if no file or session is named. Lines are processed as they arrive.

    \b
      tinyagent run --jsonl "Hello" | tinyagent events text
      tinyagent events stats run.jsonl
    """


def _open(app: AppContext, source: str | None) -> tuple[Source, BatchedOutput]:
    """Return the source and standard output, which is written before the source waits for more."""
    from tinyagent_cli.events.source import open_source
    from tinyagent_cli.terminal.output import BatchedOutput, take_stdout

    opened = open_source(source, app.warn)
    stdout = take_stdout()
    output = BatchedOutput(stdout.fd, stdout.name)
    opened.before_read = output.flush_or_raise
    return opened, output


@events.command("text")
@_source_argument
@common_options
@click.pass_obj
def text(app: AppContext, source: str | None) -> None:
    """Print the text of the replies."""
    from tinyagent.jsonl import HistoryRecord, ResultRecord, SessionRecord
    from tinyagent_cli.terminal.text import TextRenderer

    opened, output = _open(app, source)
    renderer = TextRenderer(output)
    for record in opened.records():
        if isinstance(record, ResultRecord):
            if record.error is not None:
                renderer.end_line()
                output.flush_or_raise()
                app.warn(f"The run failed: {record.error.message}")
        elif not isinstance(record, SessionRecord | HistoryRecord):
            renderer(record)
    renderer.end_line()
    output.flush_or_raise()


@events.command("stats")
@_source_argument
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@common_options
@click.pass_obj
def stats(app: AppContext, source: str | None, as_json: bool) -> None:
    """Count runs, turns, tool calls, tokens, cost and time."""
    from tinyagent_cli.events.stats import collect
    from tinyagent_cli.terminal.tables import print_json

    opened, output = _open(app, source)
    found = collect(opened.entries(updates=False))
    if as_json:
        print_json(found, output)
        return
    rows = _rows(found)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        output.print(f"{name.ljust(width)}  {value}")


def _rows(found: Stats) -> list[tuple[str, str]]:
    from tinyagent_cli.events.stats import cost_text, with_notes
    from tinyagent_cli.terminal.sanitise import one_line

    notes = [
        (found.failed_runs, "failed"),
        (found.interrupted_runs, "interrupted"),
        (found.unfinished_runs, "not finished"),
    ]
    rows = [("Runs", with_notes(found.runs, notes))]
    if found.models:
        rows.append(("Models", one_line(", ".join(found.models), _WIDTH)))
    rows.append(("Turns", str(found.turns)))
    if found.compactions:
        rows.append(("Compactions", str(found.compactions)))
    rows.append(("Tool calls", with_notes(found.tool_calls, [(found.failed_tool_calls, "failed")])))
    for name, tool in sorted(found.tools.items()):
        shown = with_notes(tool.calls, [(tool.failed, "failed")])
        rows.append((f"  {one_line(name, 40)}", f"{shown}, {_seconds(tool.duration_ms)}"))
    usage = found.usage
    if usage is not None:
        rows.append(("Tokens", f"{usage.get('input', 0):,} in, {usage.get('output', 0):,} out"))
        rows.append(("Cost", cost_text(usage, found.runs_without_cost)))
    if found.started is not None:
        rows.append(("Started", time_text(found.started)))
    parts = f"the model {_seconds(found.model_ms)}, tools {_seconds(found.tools_ms)}"
    rows.append(("Time", f"{_seconds(found.duration_ms)}: {parts}"))
    rows += [("Error", one_line(error, _WIDTH)) for error in found.errors]
    return rows


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.1f} s"


@events.command("tools")
@_source_argument
@click.option("--json", "as_json", is_flag=True, help="Print one object in each line.")
@common_options
@click.pass_obj
def tools(app: AppContext, source: str | None, as_json: bool) -> None:
    """List the tool calls with arguments, result and duration."""
    import msgspec

    from tinyagent import _json
    from tinyagent_cli.events.calls import tool_calls

    opened, output = _open(app, source)
    for call in tool_calls(opened.entries(updates=False)):
        if as_json:
            output.write(_json.encode_lossy(msgspec.to_builtins(call)) + b"\n")
        else:
            output.write("".join(f"{line}\n" for line in _shown(call)).encode("utf-8", "replace"))
    output.flush_or_raise()


def _shown(call: Call) -> list[str]:
    from tinyagent._json import as_dict
    from tinyagent_cli.terminal.activity import call_line, command_failed
    from tinyagent_cli.terminal.sanitise import one_line

    details = as_dict(call.result.get("details")) if call.result is not None else {}
    mark = "?" if call.is_error is None else "✗" if call.is_error or command_failed(details) else "✓"
    duration = "not ended" if call.is_error is None else ""
    if call.duration_ms is not None:
        duration = _seconds(call.duration_ms)
    found = [one_line(line, _WIDTH) for line in call.text.splitlines() if line.strip()]
    more = len(found) - _RESULT_LINES
    lines = [f"{mark} {call_line(call.name, call.arguments)}  {duration}".rstrip()]
    lines += [f"    {line}" for line in found[:_RESULT_LINES]]
    return [*lines, f"    … {more} more lines"] if more > 0 else lines


@events.command("validate")
@_source_argument
@common_options
@click.pass_obj
def validate(app: AppContext, source: str | None) -> int:
    """Check each line against the format and the grammar of events.

    Each problem is printed with the number of its line.

    \b
    Exit codes: 0 no problem, 1 problems.
    """
    from tinyagent_cli.events.checks import Checker

    opened, output = _open(app, source)
    checker = Checker()
    count = 0
    for problem in checker.problems(opened):
        count += 1
        output.write(f"line {problem.line}: {problem.text}\n".encode("utf-8", "replace"))
    output.flush_or_raise()
    for kind, line in checker.unknown.items():
        app.warn(f"{opened.name}: line {line} has the unknown type {kind!r}, which readers ignore.")
    if count:
        problems = counted(count, "problem")
        app.error(f"{opened.name} has {problems} in {counted(checker.lines, 'line')}.")
        return 1
    runs = counted(checker.runs, "run")
    app.note(f"{opened.name} is valid: {checker.lines} lines, {runs}.")
    return 0


@events.command("html")
@_source_argument
@click.option(
    "-o",
    "--output",
    "path",
    metavar="PAGE",
    type=click.Path(),
    shell_complete=complete_files,
    help="Write the page to this file instead of standard output.",
)
@click.option(
    "--serve", is_flag=True, help="Serve the page on this computer and follow the run, until Ctrl-C."
)
@common_options
@click.pass_obj
def html(app: AppContext, source: str | None, path: str | None, serve: bool) -> int:
    """Make a page for a browser, also while the run goes on.

    The page has the conversation, the tool calls, a time line, tokens and cost. It is one file that loads
    nothing from anywhere.

    \b
      tinyagent events html run.jsonl -o run.html
      tinyagent run --jsonl "Hello" | tinyagent events html --serve

    \b
    Exit codes: 0 the page is complete, 1 it leaves out lines that cannot be read.
    """
    if serve:
        if path is not None:
            raise click.UsageError("--serve and -o cannot be used together.")
        return _serve(app, source)
    return _write_page(app, source, None if path == "-" else path)


def _write_page(app: AppContext, source: str | None, path: str | None) -> int:
    from tinyagent_cli.events.page import write_page
    from tinyagent_cli.events.source import open_source
    from tinyagent_cli.exit_codes import InputError
    from tinyagent_cli.sinks.record_file import RecordFile, refuse_inputs
    from tinyagent_cli.terminal.output import take_stdout
    from tinyagent_cli.terminal.signals import raise_on_sigint

    opened = open_source(source, app.warn)
    if path is None:
        output = take_stdout()
        if output.is_terminal:
            raise InputError("A page is for a browser, not for a terminal.", hint="Name a file: -o run.html")
        problems = write_page(opened, output.write_or_raise, app.warn)
    else:
        refuse_inputs(path, [(opened.name, opened.descriptor)])
        raise_on_sigint()  # removes the incomplete file
        file = RecordFile(path)
        is_complete = False
        try:
            problems = write_page(opened, file.output.write_or_raise, app.warn, on_start=file.start)
            is_complete = True
        finally:
            file.finish(is_complete)
    if problems:
        what = counted(problems, "line")
        app.error(f"The page leaves out {what} of {opened.name}, which cannot be read.")
    return 1 if problems else 0


def _serve(app: AppContext, source: str | None) -> int:
    import asyncio
    import signal

    from tinyagent_cli.events.serve import serve_page

    opened, output = _open(app, source)

    def on_ready(address: str) -> None:
        output.print(address)
        app.note(f"Following {opened.name}. Ctrl-C ends.")

    signum = asyncio.run(serve_page(opened, on_ready, app.warn))
    return 0 if signum == signal.SIGINT else 128 + signum
