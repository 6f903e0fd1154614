"""`tinyagent schema`: the JSON Schema of the output."""

from __future__ import annotations

import click

from .options import CONTEXT, common_options, need_command

__all__ = ["schema"]


@click.group(invoke_without_command=True, context_settings=CONTEXT)
@common_options
@click.pass_context
def schema(ctx: click.Context) -> None:
    """Print the JSON Schema of the output."""
    need_command(ctx)


@schema.command()
@common_options
def events() -> None:
    """Print the schema of the lines of --jsonl, -o and --history."""
    import msgspec

    from tinyagent import jsonl

    click.echo(msgspec.json.format(msgspec.json.encode(jsonl.schema()), indent=2))
