"""`tinyagent approvals`: show and revoke stored approvals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.shell_completion import complete_approvals
from tinyagent_cli.terminal.amounts import counted, time_text
from tinyagent_cli.terminal.sanitise import visible_line
from tinyagent_cli.terminal.tables import print_json, print_table

from .options import command_group, common_options, json_option

if TYPE_CHECKING:
    from tinyagent_cli.run.approval_store import Approval, ApprovalStore

__all__ = ["approvals"]


@command_group()
def approvals() -> None:
    """Show and revoke the approvals of tool calls for projects."""


def _store(app: AppContext) -> ApprovalStore:
    from tinyagent_cli.config.environment import approvals_file
    from tinyagent_cli.run.approval_store import ApprovalStore

    return ApprovalStore(approvals_file(), app.warn)


@approvals.command("list", short_help="List the calls that run without a question.")
@json_option
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
    from tinyagent_cli.run.approval_store import SHOWN_ID

    shown = (approval.id[:SHOWN_ID], approval.project, approval.tool, approval.source, approval.arguments)
    return (*map(visible_line, shown), time_text(approval.created).split()[0])


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
    app.note(f"{counted(len(gone), 'approval')} revoked.")
