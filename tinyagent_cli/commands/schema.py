"""`tinyagent schema`: the JSON Schema of the output."""

from __future__ import annotations

import click

from .options import command_group, common_options

__all__ = ["schema"]


@command_group()
def schema() -> None:
    """Print the JSON Schema of the output."""


@schema.command()
@common_options
def events() -> None:
    """Print the schema of the lines of --jsonl, -o and --history."""
    from tinyagent import jsonl

    _print(jsonl.schema())


@schema.command()
@common_options
def rpc() -> None:
    """Print the schema of the lines of rpc, in both directions."""
    from tinyagent_cli.rpc.schema import schema

    _print(schema())


def _print(schema: dict[str, object]) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(schema), indent=2))
