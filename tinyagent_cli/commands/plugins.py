"""`tinyagent plugins`: install, list, show and uninstall plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.plugins.discovery import Plugin, find
from tinyagent_cli.shell_completion import complete_files, complete_plugins
from tinyagent_cli.terminal.sanitise import one_line
from tinyagent_cli.terminal.tables import print_json, print_table, table_lines

from .options import CONTEXT, LazyGroup, common_options, need_command

if TYPE_CHECKING:
    from tinyagent_cli.plugins.check import CheckResult
    from tinyagent_cli.plugins.installer import Changes

__all__ = ["plugins"]


class PluginsGroup(LazyGroup):
    """The group `plugins`."""

    late: Mapping[str, str] = {
        "search": "tinyagent_cli.commands.search_plugins",
        "new": "tinyagent_cli.commands.new_plugin",
        "doctor": "tinyagent_cli.commands.doctor",
    }


@click.group(
    cls=PluginsGroup,
    invoke_without_command=True,
    context_settings=CONTEXT,
)
@common_options
@click.pass_context
def plugins(ctx: click.Context) -> None:
    """Find, install, create and check plugins."""
    need_command(ctx)


@plugins.command("list", short_help="List the installed plugins, with what each adds.")
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
@click.option("--check", is_flag=True, help="Load each plugin to see whether it works.")
@common_options
@click.pass_obj
def list_plugins(app: AppContext, as_json: bool, check: bool) -> None:
    """List the installed plugins, with what each adds and may do.

    They are not imported: the list has what their metadata and source declare. A broken plugin shows only
    with --check and in `plugins doctor`. `plugins show NAME` loads one.
    """
    from tinyagent_cli.plugins.additions import declared_additions, in_one_line

    found = find()
    results = _check(found) if check else {}
    if as_json:
        print_json([_as_json(plugin, results.get(plugin)) for plugin in found])
        return
    if not found:
        app.note("No plugins are installed.")
    elif check:
        print_table(
            ("NAME", "GROUP", "FROM", "STATUS"),
            [(*_cells(plugin), _status(result)) for plugin, result in results.items()],
        )
    else:
        print_table(
            ("NAME", "GROUP", "FROM", "ADDS"),
            [(*_cells(plugin), in_one_line(plugin, declared_additions(plugin))) for plugin in found],
        )
    for problem in _problems(found):
        app.warn(problem)


def _problems(found: Sequence[Plugin]) -> Iterator[str]:
    """Yield what the metadata shows: plugins that do not fit this version, and names that several claim."""
    from tinyagent.errors import TinyAgentError
    from tinyagent_cli.config.settings import load_settings
    from tinyagent_cli.plugins.builtin import provider_plugins
    from tinyagent_cli.plugins.compatibility import version_misfit
    from tinyagent_cli.plugins.selection import Preferences

    for plugin in found:
        misfit = version_misfit(plugin)
        if misfit is not None:
            yield f"The plugin {plugin} {misfit.why}. {misfit.hint}"
    try:
        settings = load_settings()
    except TinyAgentError:  # `doctor` and each run report it
        preferences, providers = Preferences(), []
    else:
        preferences, providers = Preferences.from_settings(settings), list(settings.providers)
    plugins = [plugin for plugin in found if plugin.group != "providers"]
    for conflict in preferences.conflicts([*plugins, *provider_plugins(providers)]):
        yield f"{conflict.error} {conflict.error.hint}"


def _check(found: Sequence[Plugin]) -> dict[Plugin, CheckResult]:
    from tinyagent_cli.plugins.check import check_all

    return dict(check_all(found))


def _as_json(plugin: Plugin, result: CheckResult | None) -> dict[str, object]:
    from tinyagent_cli.plugins.additions import declared_additions
    from tinyagent_cli.plugins.compatibility import version_misfit

    misfit = version_misfit(plugin)
    additions = result.additions if result is not None else declared_additions(plugin)
    shown: dict[str, object] = {**_plain(plugin), "adds": [addition._asdict() for addition in additions]}
    if result is not None and result.message is not None:
        return {**shown, "status": result.status, "error": result.message, "hint": result.hint}
    return {
        **shown,
        "status": "not loaded" if result is None else result.status,
        "error": None if misfit is None else f"It {misfit.why}.",
        "hint": None if misfit is None else misfit.hint,
    }


def _status(result: CheckResult) -> str:
    """Return the status, and for a plugin that does not work also the error and the hint."""
    if result.message is None:
        return result.status
    return f"{result.status}: {result.message} {result.hint or ''}"


@plugins.command("show", short_help="Show what a plugin adds and may do.")
@click.argument("name", shell_complete=complete_plugins)
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
@common_options
@click.pass_obj
def show_plugin(app: AppContext, name: str, as_json: bool) -> int:
    """Show what the plugin NAME adds and may do: a distribution, or a name that it offers.

    It is loaded in a separate process. The exit code is 3 if it cannot be used.
    """
    from tinyagent_cli.plugins.installer import plugins_named

    results = _check(plugins_named(name))
    if as_json:
        print_json([_as_json(plugin, result) for plugin, result in results.items()])
    else:
        for number, (plugin, result) in enumerate(results.items()):
            if number:
                click.echo()
            _print_plugin(plugin, result)
        for problem in _problems(list(results)):
            app.warn(problem)
    return max(result.code for result in results.values())


def _print_plugin(plugin: Plugin, result: CheckResult) -> None:
    from importlib import metadata

    from tinyagent_cli.plugins.additions import what_it_may, when_loaded
    from tinyagent_cli.terminal.wrapping import indented, terminal_width

    width = terminal_width(1)
    click.echo("  ".join(one_line(cell, 200) for cell in _cells(plugin)))
    texts = [metadata.metadata(plugin.distribution)["Summary"] or "", f"Loaded for {when_loaded(plugin)}"]
    texts += [result.message or "", *(result.hint or "").splitlines()]
    for text in filter(None, texts):
        for line in indented(one_line(text, 1000), width, "  ", "  "):
            click.echo(line)
    rows = [
        [one_line(cell, 500) for cell in (each.name, what_it_may(each), each.description)]
        for each in result.additions
    ]
    for line in table_lines(rows, None if width is None else width - 4):
        click.echo(f"    {line}")


@plugins.command()
@click.argument("what", nargs=-1, required=True, shell_complete=complete_files)
@click.option("-e", "--editable", is_flag=True, help="WHAT is a folder; later changes in it take effect.")
@click.option("-U", "--upgrade", is_flag=True, help="Install the newest version, even if one is installed.")
@click.option("--dry-run", is_flag=True, help="Only show the command.")
@click.option("--json", "as_json", is_flag=True, help="Print the new plugins as an object.")
@common_options
@click.pass_obj
def install(
    app: AppContext, what: tuple[str, ...], editable: bool, upgrade: bool, dry_run: bool, as_json: bool
) -> None:
    """Install plugins into the environment that tinyagent runs in.

    WHAT is anything that pip accepts: a name, a wheel, a folder, a URL. The installer's command is shown,
    and then the new plugins. The version of tinyagent itself does not change.

    \b
      tinyagent plugins install tinyagent-dice
      tinyagent plugins install -e ./tinyagent-weather
    """
    from tinyagent_cli.plugins import installer

    changes = installer.install(app, what, editable=editable, upgrade=upgrade, dry_run=dry_run)
    if not dry_run:
        _show_gained(app, changes, as_json)


def _show_gained(app: AppContext, changes: Changes, as_json: bool) -> None:
    gained = changes.gained
    if as_json:
        print_json(
            {
                "gained": [_plain(plugin) for plugin in gained],
                "lost": [_plain(plugin) for plugin in changes.lost],
                "distributions": changes.installed,
            }
        )
    else:
        print_table(("GAINED", "GROUP", "FROM"), [_cells(plugin) for plugin in gained])
    others = sorted(set(changes.installed) - {entry.distribution for entry in gained})
    if not gained:
        if others:
            app.warn(f"{', '.join(others)} is not a plugin: it has no entry point in a group tinyagent.*")
        else:
            app.note("No new plugins: it was installed already.")
    elif others:
        app.note("Also installed: " + ", ".join(f"{name} {changes.installed[name]}" for name in others))
    for entry in gained:
        rivals = [
            e for e in find(entry.group) if e.name == entry.name and e.distribution != entry.distribution
        ]
        if rivals and entry.group != "hooks":
            app.warn(
                f"{entry.name!r} is also the name of {rivals[0]}. Choose one: "
                f'[plugins] prefer = {{{entry.name} = "{entry.distribution}"}} in config.toml'
            )
    if any(entry.group == "hooks" for entry in gained):
        app.note("A plugin of the group tinyagent.hooks is loaded for every run from now on.")


def _plain(plugin: Plugin) -> dict[str, str]:
    return {
        "name": plugin.name,
        "group": f"tinyagent.{plugin.group}",
        "distribution": plugin.distribution,
        "version": plugin.version,
    }


def _cells(plugin: Plugin) -> tuple[str, str, str]:
    return (plugin.name, f"tinyagent.{plugin.group}", f"{plugin.distribution} {plugin.version}")


@plugins.command(short_help="Uninstall a plugin.")
@click.argument("name", shell_complete=complete_plugins)
@click.option("--dry-run", is_flag=True, help="Only show the command.")
@common_options
@click.pass_obj
def uninstall(app: AppContext, name: str, dry_run: bool) -> None:
    """Uninstall the plugin NAME: a distribution, or a name that it offers.

    Distributions that are not plugins of tinyagent are refused.
    """
    from tinyagent_cli.plugins import installer

    entries = installer.plugins_named(name)
    changes = installer.uninstall(app, entries[0].distribution, dry_run=dry_run)
    if not dry_run:
        print_table(("LOST", "GROUP", "FROM"), [_cells(plugin) for plugin in changes.lost])
