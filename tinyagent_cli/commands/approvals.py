"""`tinyagent approvals`: show and revoke stored approvals."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.shell_completion import complete_approvals
from tinyagent_cli.terminal.sanitise import visible_line
from tinyagent_cli.terminal.tables import print_json, print_table

from .options import CONTEXT, CommandGroup, common_options, need_command

if TYPE_CHECKING:
    from tinyagent_cli.run.approval_store import Approval, ApprovalStore

__all__ = ["approvals"]

_DIGITS = 12
"""Digits of an id that are shown. A user may type any unique prefix."""


@click.group(cls=CommandGroup, invoke_without_command=True, context_settings=CONTEXT)
@common_options
@click.pass_context
def approvals(ctx: click.Context) -> None:
    """Show and revoke the approvals of tool calls for projects."""
    need_command(ctx)


def _store(app: AppContext) -> ApprovalStore:
    from tinyagent_cli.config.environment import APPROVALS_FILE, config_directory
    from tinyagent_cli.run.approval_store import ApprovalStore

    return ApprovalStore(config_directory() / APPROVALS_FILE, app.warn)


@approvals.command("list", short_help="List the calls that run without a question.")
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
@common_options
@click.pass_obj
def list_approvals(app: AppContext, as_json: bool) -> None:
    """List the exact calls that run without a question, each with its project."""
    from msgspec import to_builtins

    found = sorted(_store(app), key=lambda approval: (approval.project, approval.created))
    if as_json:
        print_json([to_builtins(approval) for approval in found])
    elif not found:
        app.note("No approvals are stored.")
    else:
        print_table(
            ("ID", "PROJECT", "TOOL", "FROM", "ARGUMENTS", "SINCE"),
            [_row(approval) for approval in found],
        )


def _row(approval: Approval) -> tuple[str, ...]:
    shown = (approval.id[:_DIGITS], approval.project, approval.tool, approval.source, approval.arguments)
    return (*map(visible_line, shown), _day(approval.created))


def _day(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(milliseconds / 1000))


@approvals.command()
@click.argument("ids", nargs=-1, metavar="ID...", shell_complete=complete_approvals)
@click.option("--all", "everything", is_flag=True, help="Revoke all approvals.")
@click.option("--project", is_flag=True, help="Revoke the approvals of the working directory.")
@common_options
@click.pass_obj
def revoke(app: AppContext, ids: tuple[str, ...], everything: bool, project: bool) -> None:
    """Revoke the approvals with these IDs (see `approvals list`)."""
    from tinyagent_cli.exit_codes import InputError
    from tinyagent_cli.run.approval_store import current_project

    store = _store(app)
    found = list(store)
    gone = {a.id for a in found if everything or (project and a.project == current_project().path)}
    if not (ids or everything or project):
        raise InputError(
            "Nothing to revoke: name an ID, --project or --all.", hint="tinyagent approvals list"
        )
    for prefix in ids:
        matching = [a.id for a in found if a.id.startswith(prefix)]
        if len(matching) != 1:
            count = f"There are {len(matching)} approvals" if matching else "There is no approval"
            raise InputError(
                f"{count} with an ID that starts with {prefix!r}.", hint="All IDs: tinyagent approvals list"
            )
        gone |= set(matching)
    store.remove(gone)
    app.note(f"{len(gone)} approval{'' if len(gone) == 1 else 's'} revoked.")
