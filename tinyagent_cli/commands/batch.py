"""`tinyagent batch`: answer a file of prompts."""

from __future__ import annotations

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.shell_completion import complete_executors, complete_files

from .options import CONTEXT, AgentCommand, OptionGroups, TextArgument
from .run import OPTION_GROUPS, options_of, run

__all__ = ["batch"]

SHARED = {
    *("model", "system", "template", "parameters", "context", "tools", "mcp", "schema", "schema_multi"),
    *("options", "temperature", "max_tokens", "thinking", "max_turns", "max_repeats", "max_total_tokens"),
    *("timeout", "transport", "allow", "deny", "yes", "no_color", "quiet", "verbose"),
}
"""The parameters of `run` that hold for each item."""

BATCH_OPTION_GROUPS: OptionGroups = {
    "Input": ("form", "lines", "id_column", "item_prompt", "template", "parameters"),
    "Results": ("output", "keep", "records", "retry_failed"),
    "Limits of the batch": ("jobs", "rpm", "tpm", "max_cost", "keep_going"),
    "Executor": ("executor", "executor_options"),
    **{name: names for name, names in OPTION_GROUPS.items() if name in ("Model", "Tools")},
    "Each run": ("system", "context", "schema", "schema_multi", *OPTION_GROUPS["Limits"]),
}


class BatchCommand(AgentCommand):
    """The command `batch`."""

    option_groups: OptionGroups = BATCH_OPTION_GROUPS


@click.command(
    "batch",
    cls=BatchCommand,
    context_settings=CONTEXT,
    params=[param for param in run.params if param.name in SHARED],
)
@click.argument("input", metavar="INPUT", type=click.Path(allow_dash=True), shell_complete=complete_files)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    required=True,
    type=click.Path(),
    shell_complete=complete_files,
    help="The file of the results, one JSON line for each item. The same command again does only what has no "
    "answer in it.",
)
@click.option(
    "-j", "--jobs", type=click.IntRange(min=1), default=16, metavar="N", help="The most items at a time (16)."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("jsonl", "lines", "csv", "tsv")),
    help="The format of INPUT, if its name does not tell: *.csv, *.tsv, else JSON lines.",
)
@click.option("--lines", is_flag=True, help="Each line of INPUT is a prompt.")
@click.option(
    "--id", "id_column", metavar="NAME", default="id", help="The field or column with the id of an item (id)."
)
@click.option(
    "--prompt",
    "item_prompt",
    metavar="TEXT",
    type=TextArgument(),
    help="The prompt of all items; {{ NAME }} stands for a field or a column.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="NAME",
    help="Repeat this field or column of the item in its result. Repeatable.",
)
@click.option(
    "--records",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Write the JSON lines of each run to a file in this folder.",
)
@click.option("--retry-failed", is_flag=True, help="Do only the items whose result in OUT is a failure.")
@click.option("--keep-going", is_flag=True, help="Go on even if the first 50 items all fail in the same way.")
@click.option(
    "--rpm",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="The most requests in a minute to each provider; for one, set batch.limits.NAME.rpm.",
)
@click.option(
    "--tpm",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="The most tokens in a minute of each provider.",
)
@click.option(
    "--max-cost",
    type=click.FloatRange(min=0, min_open=True),
    metavar="USD",
    help="Start no more items when all together have cost this many US dollars, with exit code 4.",
)
@click.option(
    "--executor",
    default="local",
    metavar="NAME",
    shell_complete=complete_executors,
    help="Where the items run: 'local' (this process), 'processes', or that of a plugin, such as 'ray'.",
)
@click.option(
    "--executor-option",
    "executor_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the executor, such as workers=4. Repeatable.",
)
@click.pass_obj
def batch(app: AppContext, /, **options: object) -> int:
    """Answer all prompts of INPUT, a file or '-', and write the results to OUT.

    \b
      {"id": "a", "prompt": "Who wrote Faust?"}

    INPUT has JSON lines like this one (also: system, model, files, history; other fields are variables),
    requests of OpenAI's batch API (-m takes precedence over body.model), plain lines, or a table.
    See docs/batch.md.

    \b
    Exit codes: 0 all answered, 1 some failed, 2 usage, 3 not configured, 4 budget,
    130 and 143 interrupted.
    """
    from tinyagent_cli.run.kernel_guards import protect_memory

    protect_memory()
    import msgspec

    from tinyagent_cli.batch.driver import BatchOptions, execute

    own = {name: options.pop(name) for name in BatchOptions.__struct_fields__ if name != "run"}
    each = options_of({**options, "no_session": True})
    return execute(app, msgspec.convert({**own, "run": each}, BatchOptions))
