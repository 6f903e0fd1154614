"""`tinyagent plugins list`: the installed plugins, with what each adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.plugins.discovery import Plugin, find
from tinyagent_cli.terminal.tables import print_json, print_table

from .options import common_options, json_option
from .plugins import cells, plain

if TYPE_CHECKING:
    from tinyagent_cli.config.settings import Settings
    from tinyagent_cli.plugins.check import CheckResult

__all__ = ["command", "with_additions"]


@click.command("list", short_help="List the installed plugins, with what each adds.")
@json_option
@click.option("--check", is_flag=True, help="Load each plugin to see whether it works.")
@common_options
@click.pass_obj
def command(app: AppContext, as_json: bool, check: bool) -> None:
    """List the installed plugins, with what each adds and may do.

    They are not imported: the list has what their metadata and source declare. A broken plugin shows only
    with --check and in `plugins doctor`. `plugins show NAME` loads one.
    """
    from tinyagent_cli.plugins.problems import problems, readable_settings

    found = find()
    results: dict[Plugin, CheckResult] = {}
    if check:
        from tinyagent_cli.plugins.check import check_all

        results = dict(check_all(found))
    if as_json:
        print_json([with_additions(plugin, results.get(plugin)) for plugin in found])
        return
    settings = readable_settings()
    if not found:
        app.note("No plugins are installed.")
    elif check:
        print_table(
            ("NAME", "GROUP", "FROM", "STATUS"),
            [(*cells(plugin), _status(result)) for plugin, result in results.items()],
        )
    else:
        rows = [(*cells(plugin), _additions(plugin, settings)) for plugin in found]
        print_table(("NAME", "GROUP", "FROM", "ADDS"), rows)
    for problem in problems(found, settings, are_loaded=check):
        app.warn(problem)


def _additions(plugin: Plugin, settings: Settings | None) -> str:
    from tinyagent_cli.plugins.additions import declared_additions, in_one_line
    from tinyagent_cli.plugins.problems import is_disabled

    if is_disabled(plugin, settings):
        return "disabled in config.toml"
    return in_one_line(plugin, declared_additions(plugin))


def _status(result: CheckResult) -> str:
    """Return the status, and for a plugin that does not work also the error and the hint."""
    if result.message is None:
        return result.status
    return f"{result.status}: {result.message} {'; '.join((result.hint or '').splitlines())}"


def with_additions(plugin: Plugin, result: CheckResult | None) -> dict[str, object]:
    """Return a plugin for JSON, with what it adds, and with its problem.

    Args:
        plugin: The plugin.
        result: The result of loading it; None if it was not loaded.
    """
    from tinyagent_cli.plugins.additions import declared_additions
    from tinyagent_cli.plugins.compatibility import hooks_misfit, version_misfit

    misfit = version_misfit(plugin) or (hooks_misfit(plugin) if result is None else None)
    additions = result.additions if result is not None else declared_additions(plugin)
    shown: dict[str, object] = {**plain(plugin), "adds": [addition._asdict() for addition in additions]}
    if result is not None and result.message is not None:
        return {**shown, "status": result.status, "error": result.message, "hint": result.hint}
    return {
        **shown,
        "status": "not loaded" if result is None else result.status,
        "error": None if misfit is None else f"It {misfit.why}.",
        "hint": None if misfit is None else misfit.hint,
    }
