"""`tinyagent config`: show and change settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.shell_completion import complete_setting_values, complete_settings
from tinyagent_cli.terminal.tables import print_json, print_table

from .options import TextArgument, command_group, common_options, json_option

if TYPE_CHECKING:
    from tinyagent.agent_types import JsonValue
    from tinyagent_cli.config.effective import Value

__all__ = ["config"]


@command_group()
def config() -> None:
    """Show and change settings. docs/configuration.md describes each of them."""


@config.command("show", short_help="Show the settings that hold, and where each comes from.")
@click.argument("key", required=False, shell_complete=complete_settings)
@click.option("-a", "--all", "everything", is_flag=True, help="Show settings that are not set, too.")
@json_option
@common_options
@click.pass_obj
def show_config(app: AppContext, key: str | None, everything: bool, as_json: bool) -> None:
    """Show the settings that hold in this folder, and the file or variable that each comes from.

    With KEY, show this setting, or all settings of this table. Options of a command, such as -m, take
    precedence over all of them. Secrets are hidden.
    """
    from tinyagent_cli.config.effective import effective_settings
    from tinyagent_cli.config.settings import load_settings

    found = load_settings()
    rows = effective_settings(found, defaults=everything or key is not None)
    if key is not None:
        rows = _below(key, rows)
    if as_json:
        print_json([_described(row) for row in rows])
    elif not rows:
        app.note("Nothing is set. All settings: tinyagent config show --all")
    else:
        print_table(("KEY", "VALUE", "FROM"), [(row.key, _shown(row.value), row.source) for row in rows])


@config.command("set")
@click.argument("key", shell_complete=complete_settings)
@click.argument("value", type=TextArgument(), shell_complete=complete_setting_values)
@common_options
@click.pass_obj
def set_config(app: AppContext, key: str, value: str) -> None:
    """Set KEY to VALUE in your config.toml. Comments in the file stay.

    \b
      tinyagent config set run.model openai/gpt-5
      tinyagent config set run.tools calc,fs
      tinyagent config set providers.local.base_url http://127.0.0.1:8080/v1

    A list is written a,b or as TOML. A value that begins with a dash comes after --.
    """
    from tinyagent_cli.config.effective import hidden_if_secret
    from tinyagent_cli.config.environment import user_file
    from tinyagent_cli.config.files import UserFile
    from tinyagent_cli.config.key_types import parse_value, type_at
    from tinyagent_cli.config.toml_file import change_user_file
    from tinyagent_cli.exit_codes import InputError

    keys = _split(key)
    kind = type_at(keys, UserFile)
    if kind is None or _is_table(keys):
        _unknown(key, keys)
    parsed = parse_value(value, kind)
    if parsed is None:
        raise InputError(f"{key} cannot be null.", hint=f"To remove it: tinyagent config unset {key}")
    path = user_file()
    change_user_file(keys, parsed)
    app.note(f"{key} = {_shown(hidden_if_secret(keys, parsed))} is set in {path}.")
    _warn_if_overridden(app, key, path)


@config.command("unset")
@click.argument("key", shell_complete=complete_settings)
@common_options
@click.pass_obj
def unset_config(app: AppContext, key: str) -> None:
    """Remove KEY from your config.toml, so that its default applies."""
    from tinyagent_cli.config.environment import user_file
    from tinyagent_cli.config.toml_file import change_user_file
    from tinyagent_cli.exit_codes import InputError

    path = user_file()
    if not change_user_file(_split(key), None):
        raise InputError(f"{key} is not set in {path}.", hint="What is set: tinyagent config show")
    app.note(f"{key} is removed from {path}.")


@config.command("path")
@common_options
def show_path() -> None:
    """Print the path of config.toml, whether it exists or not."""
    from tinyagent_cli.config.environment import user_file

    click.echo(user_file())


def _split(key: str) -> list[str]:
    from tinyagent_cli.config.key_types import split_key
    from tinyagent_cli.exit_codes import InputError
    from tinyagent_cli.terminal.sanitise import one_line

    keys = split_key(key)
    if keys is None:
        raise InputError(
            f"{one_line(key, 60)!r} is not a key.",
            hint="Write it like run.model, and the value after it.",
        )
    return keys


def _is_table(keys: Sequence[str]) -> bool:
    """Return whether the key names a table of settings, as opposed to a setting."""
    return bool(_names(keys) or _names([*keys, "NAME"]))


def _names(keys: Sequence[str]) -> list[str]:
    """Return the names of the settings in a table; empty if it is not a table of settings."""
    from tinyagent_cli.config.files import UserFile
    from tinyagent_cli.config.key_types import children

    return children(keys, UserFile)


def _unknown(key: str, keys: Sequence[str]) -> NoReturn:
    from tinyagent_cli.config.reference import all_settings
    from tinyagent_cli.exit_codes import InputError
    from tinyagent_cli.terminal.hints import suggestion
    from tinyagent_cli.terminal.sanitise import one_line

    known = _names(keys) or _names([*keys, "NAME"])
    if known:
        name = "" if _names(keys) else ".NAME"
        raise InputError(
            f"{key} is a table, not a setting.",
            hint=f"Its settings: {', '.join(f'{key}{name}.{child}' for child in known)}.",
        )
    if keys[0] == "providers" and keys[-1] in ("api_key", "key"):
        raise InputError(
            f"There is no setting {one_line(key, 60)!r}.",
            hint=f"To store a key: tinyagent keys set {keys[1]}",
        )
    meant = suggestion(key, [setting.key for setting in all_settings()])
    raise InputError(
        f"There is no setting {one_line(key, 60)!r}.{meant}", hint="All settings: tinyagent config show --all"
    )


def _below(key: str, rows: list[Value]) -> list[Value]:
    """Return the rows of a setting or of a table."""
    from tinyagent_cli.config.files import UserFile
    from tinyagent_cli.config.key_types import dotted, type_at

    keys = _split(key)
    name = dotted(keys)
    found = [row for row in rows if row.key == name or row.key.startswith(f"{name}.")]
    if not found and type_at(keys, UserFile) is None:
        _unknown(key, keys)
    return found


def _shown(value: JsonValue) -> str:
    from tinyagent import _json

    return "" if value is None else value if isinstance(value, str) else _json.encode(value).decode()


def _described(row: Value) -> dict[str, JsonValue]:
    from tinyagent_cli.config.reference import all_settings

    description = next((setting.description for setting in all_settings() if setting.key == row.key), "")
    return {"key": row.key, "value": row.value, "from": row.source, "description": description}


def _warn_if_overridden(app: AppContext, key: str, path: Path) -> None:
    """Say so if a variable or the project file takes precedence over the file."""
    from tinyagent.errors import ConfigurationError
    from tinyagent_cli.config.effective import effective_settings
    from tinyagent_cli.config.key_types import dotted
    from tinyagent_cli.config.settings import load_settings

    try:
        rows = effective_settings(load_settings(), defaults=False)
    except ConfigurationError:
        return  # the next run reports it
    name = dotted(_split(key))
    for row in rows:
        if row.key == name and not row.source.startswith(str(path)):
            app.warn(f"Here {row.source} takes precedence: {key} = {_shown(row.value)}.")
