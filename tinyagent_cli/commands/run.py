"""`tinyagent run`: answer a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.shell_completion import (
    complete_allowed,
    complete_at_files,
    complete_files,
    complete_models,
    complete_sessions,
    complete_templates,
    complete_tools,
    complete_variables,
)

from .options import CONTEXT, AgentCommand, HintedUsageError, OptionGroups, TextArgument, common_options

if TYPE_CHECKING:
    from tinyagent_cli.run.options import RunOptions

__all__ = ["OPTION_GROUPS", "options_of", "run"]

TRANSPORTS = ("auto", "direct", "httpx")
FORMATS = {"--jsonl": "jsonl", "--json": "json", "-x": "extract"}
OPTION_GROUPS: OptionGroups = {
    "Model": ("model", "options", "temperature", "max_tokens", "thinking", "transport"),
    "Prompt": ("system", "template", "parameters", "files", "context", "no_stdin"),
    "Tools": ("tools", "mcp", "allow", "deny", "yes"),
    "Conversation": ("history", "session", "continues", "no_session", "compact", "context_window"),
    "Output": ("schema", "schema_multi", "plain", "jsonl", "json", "extract", "output", "record"),
    "Limits": ("max_turns", "max_cost", "max_total_tokens", "max_repeats", "timeout"),
}
"""Heading in the help -> parameters, for this command, `chat` and `rpc`."""
LEVELS = ("off", "minimal", "low", "medium", "high", "xhigh")


class RunCommand(AgentCommand):
    """Writes a result line to the records of `--jsonl` and `-o` even if the options are invalid."""

    option_groups: OptionGroups = OPTION_GROUPS

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        typed = list(args)  # click removes them from `args`
        try:
            ctx = super().make_context(info_name, args, parent, **extra)
            if not extra.get("resilient_parsing"):
                _check_formats(ctx)
            return ctx
        except click.UsageError as error:
            if extra.get("resilient_parsing"):
                raise
            hint = _hint(typed, error)
            if hint is not None:
                error = HintedUsageError(error, hint)
            self._record(typed, parent, error)
            raise error from None

    def _record(self, args: list[str], parent: click.Context | None, error: click.UsageError) -> None:
        lenient = super().make_context(
            self.name, args, parent, resilient_parsing=True, ignore_unknown_options=True
        )
        before_dashes = args[: args.index("--")] if "--" in args else args
        formats = [
            name for name in ("jsonl", "json") if lenient.params.get(name) or f"--{name}" in before_dashes
        ]
        file = lenient.params.get("output") or lenient.params.get("record")
        if formats or file:
            from tinyagent_cli.run.records import record_failure

            record_failure(formats, file, error)


def _check_formats(ctx: click.Context) -> None:
    """Refuse two forms of standard output."""
    chosen = [flag for flag, name in FORMATS.items() if ctx.params[name]]
    if len(chosen) > 1:
        raise click.UsageError(f"Choose one of {' and '.join(chosen)}: each determines standard output.", ctx)
    if ctx.params["output"] is not None and ctx.params["record"] is not None:
        raise click.UsageError("Choose one of -o and --record: both write the record of the run.", ctx)


def _hint(args: list[str], error: click.UsageError) -> str | None:
    """Return a hint for a prompt that click parsed as an option or a second argument; None otherwise."""
    from tinyagent_cli.terminal.hints import run_command

    if isinstance(error, click.NoSuchOption):
        prompt = next((arg for arg in args if arg.startswith(error.option_name)), None)
        return f"A prompt that begins with a dash comes after --: {run_command('--', prompt or 'PROMPT')}"
    if "unexpected extra argument" in error.message:
        return f"Put a prompt of several words in quotes: {run_command('What is …?')}"
    return None


@click.command("run", cls=RunCommand, context_settings=CONTEXT)
@click.argument("prompt", required=False, type=TextArgument(), shell_complete=complete_at_files)
@click.option(
    "-m",
    "--model",
    metavar="PROVIDER/ID",
    type=TextArgument(path_prefix="replay:"),
    shell_complete=complete_models,
    help="The model. 'demo' needs no key; 'replay:FILE' plays a recorded run.",
)
@click.option(
    "-s",
    "--system",
    metavar="TEXT|@FILE",
    type=TextArgument(path_prefix="@"),
    shell_complete=complete_at_files,
    help="The system prompt.",
)
@click.option(
    "-p",
    "--template",
    metavar="NAME",
    type=TextArgument(),
    shell_complete=complete_templates,
    help="Use a template: a stored prompt with variables, and what else it sets. See 'tinyagent templates'.",
)
@click.option(
    "-P",
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    type=TextArgument(),
    shell_complete=complete_variables,
    help="The value of a variable of the template. Repeatable.",
)
@click.option(
    "--context/--no-context",
    default=None,
    help="Add AGENTS.md of the working directory and its parents, up to the root of the repository, to the "
    "system prompt.",
)
@click.option(
    "-t",
    "--tool",
    "tools",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_tools,
    help="A tool: a plugin, PLUGIN.TOOL, or a Python file. Repeatable.",
)
@click.option(
    "--mcp",
    multiple=True,
    metavar="COMMAND|URL",
    help="Use the tools of an MCP server (needs tinyagent-mcp). Repeatable.",
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="PATH|URL",
    type=click.Path(allow_dash=True),
    help="A text file, an image or a web page (needs tinyagent-tools-web) for the prompt; '-' is standard "
    "input. Repeatable.",
)
@click.option(
    "--history",
    metavar="FILE|-",
    type=click.Path(allow_dash=True),
    help="Continue the run of a JSONL record.",
)
@click.option(
    "--schema",
    metavar="SCHEMA",
    type=TextArgument(),
    shell_complete=complete_files,
    help="Answer with JSON that fits a schema: a JSON Schema or its file, a list of fields such as "
    "'name, age int, tags list', or MODULE:TYPE, which is imported. Only validated JSON is printed.",
)
@click.option(
    "--schema-multi",
    metavar="SCHEMA",
    type=TextArgument(),
    shell_complete=complete_files,
    help="Like --schema, for a list of such values, printed as JSON lines.",
)
@click.option(
    "--session",
    metavar="NAME|ID",
    type=TextArgument(),
    shell_complete=complete_sessions,
    help="Continue the session with this name or id; a new name starts one.",
)
@click.option("-c", "--continue", "continues", is_flag=True, help="Continue the last session of this folder.")
@click.option("--no-session", is_flag=True, help="Do not save this run as a session.")
@click.option("--plain", is_flag=True, help="Print the text as it is, also on a terminal.")
@click.option("--jsonl", is_flag=True, help="Print the run as JSON lines instead of text.")
@click.option(
    "--json",
    is_flag=True,
    help="Print one JSON object at the end: the result line, with the text and the usage.",
)
@click.option(
    "-x",
    "--extract",
    count=True,
    help="Print only the first fenced code block of the reply; -xx prints the last one.",
)
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(), help="Write the run as JSON lines to a file."
)
@click.option(
    "--record",
    metavar="FILE",
    type=click.Path(),
    help="Like -o, for tests: -m replay:FILE then fails if the prompt, the tools or their results differ.",
)
@click.option(
    "-O",
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    type=TextArgument(),
    help="An option for the provider; a JSON value is decoded. Repeatable.",
)
@click.option("--temperature", type=click.FloatRange(min=0), metavar="N", help="The sampling temperature.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), metavar="N", help="The maximum number of tokens of a reply."
)
@click.option("--thinking", type=click.Choice(LEVELS), help="How much the model should reason.")
@click.option(
    "--max-turns", type=click.IntRange(min=1), metavar="N", help="The maximum number of model calls (50)."
)
@click.option(
    "--max-cost",
    type=click.FloatRange(min=0, min_open=True),
    metavar="USD",
    help="End the run when its cost reaches this many US dollars, with exit code 4.",
)
@click.option(
    "--max-total-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="End the run when all its model calls together have used this many tokens, with exit code 4.",
)
@click.option(
    "--max-repeats",
    type=click.IntRange(min=1),
    metavar="N",
    help="End the run when a tool call repeats, or all tool calls fail, N times in a row (10).",
)
@click.option(
    "--compact/--no-compact",
    default=None,
    help="Whether a summary by the model replaces the older messages of a conversation that is too long for "
    "it (yes).",
)
@click.option(
    "--context-window",
    type=click.IntRange(min=1),
    metavar="N",
    help="The tokens of the model's context window, if the one that is known is wrong.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End the run after this time, with exit code 124.",
)
@click.option(
    "--transport",
    type=click.Choice(TRANSPORTS),
    help="The HTTP engine: 'direct', 'httpx' (for SOCKS and HTTP/2), or 'auto' (depends on the proxy).",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="RULE",
    shell_complete=complete_allowed,
    help="Run this tool without asking, or commands: 'bash(git status*)'. Repeatable.",
)
@click.option(
    "--deny",
    multiple=True,
    metavar="RULE",
    shell_complete=complete_allowed,
    help="Never run this tool, or these commands. Takes precedence over --allow. Repeatable.",
)
@click.option("-y", "--yes", is_flag=True, help="Run every tool without asking.")
@click.option("--no-stdin", is_flag=True, help="Do not read standard input.")
@common_options
@click.pass_obj
def run(app: AppContext, /, **options: object) -> int:
    """Answer PROMPT. Piped standard input comes before it. A word @FILE in it adds the file, like -f.

    The reply is streamed to standard output; messages go to standard error.
    Tools that can change something need approval, on the terminal.

    \b
    Exit codes: 0 answered, 1 failed, 2 usage, 3 not configured, 4 incomplete,
    124 time-out, 130 and 143 interrupted.
    """
    from tinyagent_cli.run.kernel_guards import protect_memory
    from tinyagent_cli.run.lifetime import Lifetime

    protect_memory()
    with Lifetime() as lifetime:
        import msgspec

        from tinyagent_cli.run.driver import execute
        from tinyagent_cli.run.options import RunOptions

        return execute(app, msgspec.convert(options, RunOptions), lifetime)


def options_of(given: Mapping[str, object]) -> RunOptions:
    """Return the options of a run for another command. Those that are not given have their defaults."""
    import msgspec

    from tinyagent_cli.run.options import RunOptions

    defaults = run.make_context("run", [], resilient_parsing=True).params
    return msgspec.convert({**defaults, **given}, RunOptions)
