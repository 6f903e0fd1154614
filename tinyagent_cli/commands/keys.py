"""`tinyagent keys`: store, list and remove the keys of providers. No command shows a key."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.shell_completion import complete_providers, complete_stored_keys
from tinyagent_cli.terminal.tables import print_json, print_table

from .options import command_group, common_options, json_option

if TYPE_CHECKING:
    from tinyagent_cli.config.settings import Settings

__all__ = ["keys"]

_LONGEST_KEY = 1 << 16
"""The size limit of a key on standard input, in bytes. Some keys are long tokens."""


@command_group()
def keys() -> None:
    """Store, list and remove the keys of providers.

    The environment variable of a provider takes precedence over a stored key.
    """


@keys.command("set")
@click.argument("name", shell_complete=complete_providers)
@click.argument("extra", nargs=-1, metavar="")
@common_options
@click.pass_obj
def set_key(app: AppContext, name: str, extra: tuple[str, ...]) -> None:
    """Store the key of the provider NAME.

    The key is asked for on the terminal, without echo. Without a terminal, it is read from standard input:

    \b
      pass show openai | tinyagent keys set openai

    It is stored in keys.toml, which only you can read, or in the keyring of the system if keys.store is
    "keyring" (tinyagent config set keys.store keyring).
    """
    from tinyagent_cli.config.keys import check_key
    from tinyagent_cli.config.settings import load_settings
    from tinyagent_cli.exit_codes import InputError
    from tinyagent_cli.run.kernel_guards import protect_memory

    protect_memory()
    if extra:
        # The message does not quote it: it is probably the key.
        raise InputError(
            "A key is not an argument: other users and the history of the shell would see it.",
            hint="tinyagent keys set NAME asks for the key, or reads it from a pipe.",
        )
    found = load_settings()
    if name not in _providers(found):
        _unknown(name, found)
    key = _read_key(name)
    check_key(key, name, "the input")
    place = found.key_store.store(name, key)
    app.note(f"The key of {name!r} is stored in {place}.")
    variable = _set_variable(name, found)
    if variable is not None:
        app.note(f"{variable} is set, too, and takes precedence.")


@keys.command("list")
@json_option
@common_options
@click.pass_obj
def list_keys(app: AppContext, as_json: bool) -> None:
    """List the providers that have a key, and where each key comes from."""
    from tinyagent_cli.config.settings import load_settings
    from tinyagent_cli.run.kernel_guards import protect_memory

    protect_memory()
    rows = _rows(load_settings())
    if as_json:
        print_json([{"name": row.name, "from": row.source, "note": row.note} for row in rows])
    elif not rows:
        app.note("There are no keys. To store one: tinyagent keys set NAME")
    else:
        print_table(("NAME", "FROM", "NOTE"), [(row.name, row.source, row.note) for row in rows])


@keys.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_stored_keys)
@common_options
@click.pass_obj
def remove_keys(app: AppContext, names: tuple[str, ...]) -> None:
    """Remove the stored keys of these providers. Environment variables stay as they are."""
    from tinyagent_cli.config.settings import load_settings
    from tinyagent_cli.exit_codes import InputError
    from tinyagent_cli.run.kernel_guards import protect_memory
    from tinyagent_cli.terminal.sanitise import one_line

    protect_memory()
    found = load_settings()
    missing = []
    for name in names:
        places = found.key_store.remove(name)
        if places:
            app.note(f"The key of {name!r} is removed from {' and '.join(places)}.")
        else:
            missing.append(repr(one_line(name, 60)))
        variable = _set_variable(name, found)
        if variable is not None:
            app.note(f"{variable} is still set.")
    if missing:
        raise InputError(
            f"There is no stored key for {', '.join(missing)}.", hint="All keys: tinyagent keys list"
        )


@keys.command("path")
@common_options
def show_path() -> None:
    """Print the path of keys.toml, whether it exists or not."""
    from tinyagent_cli.config.environment import keys_file

    click.echo(keys_file())


class _Row(NamedTuple):
    """A key in the list.

    Attributes:
        source: The variable, file or keyring that it is taken from.
        note: What else the user should know about it.
    """

    name: str
    source: str
    note: str


def _rows(found: Settings) -> list[_Row]:
    """Return all keys without their values, by the name of the provider."""
    from tinyagent_cli.config import system_keyring
    from tinyagent_cli.config.files import read_keys

    path, uses_keyring = found.key_store
    stored, known = read_keys(path), _providers(found)
    rows = []
    for name in sorted({*known, *stored}):
        places = [variable] if (variable := _set_variable(name, found)) else []
        if name in stored:
            places.append(str(path))
        if uses_keyring and system_keyring.read(name):
            places.append(system_keyring.PLACE)
        if not places:
            continue
        note = f"also in {' and '.join(places[1:])}, which is not used" if len(places) > 1 else ""
        if name not in known:
            note = "not used: there is no such provider"
        rows.append(_Row(name, places[0], note))
    return rows


def _providers(found: Settings) -> set[str]:
    """Return the providers that can have a key."""
    from tinyagent_cli.plugins.builtin import provider_plugins

    return {plugin.name for plugin in provider_plugins(found.providers)} - {"demo", "replay"}


def _unknown(name: str, found: Settings) -> NoReturn:
    from tinyagent_cli.config.environment import user_file
    from tinyagent_cli.exit_codes import InputError
    from tinyagent_cli.terminal.hints import suggestion
    from tinyagent_cli.terminal.sanitise import one_line

    meant = suggestion(name, sorted(_providers(found)))
    if not meant and len(name) > 30:
        raise InputError("NAME is not a provider.", hint="Write: tinyagent keys set PROVIDER")
    raise InputError(
        f"There is no provider {one_line(name, 60)!r} that takes a key.{meant}",
        hint=f"All providers: tinyagent models list. Your own go into [providers.NAME] in {user_file()}.",
    )


def _set_variable(name: str, found: Settings) -> str | None:
    """Return the environment variable of a provider's key if it is set."""
    from tinyagent_cli.config.environment import variable
    from tinyagent_cli.plugins.builtin import key_variable

    env_name = key_variable(name, found.providers.get(name))
    return env_name if env_name and variable(env_name) else None


def _read_key(name: str) -> str:
    """Ask for a key, or read it from standard input.

    Raises:
        InputError: There is no key, or more than one line.
    """
    from tinyagent.text_files import decode_text, read_descriptor
    from tinyagent_cli.exit_codes import InputError

    if sys.stdin is None:
        raise InputError("Standard input is closed.", hint="Run it on a terminal, or pipe the key into it.")
    if sys.stdin.isatty():
        key: str = click.prompt(f"Key for {name} (not shown)", hide_input=True, err=True)
    else:
        data = read_descriptor(0, limit=_LONGEST_KEY, name="standard input", error=InputError)
        key = decode_text(data, "standard input", error=InputError)
    key = key.strip()
    if not key:
        raise InputError(
            "There is no key on standard input.",
            hint=f"Enter the key on a terminal, or pipe it into the command: … | tinyagent keys set {name}",
        )
    if "\n" in key:
        raise InputError(
            f"Standard input has {key.count(chr(10)) + 1} lines, but a key is one line.",
            hint="Pass the key alone.",
        )
    return key
