"""`tinyagent models`: the providers and their models."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from tinyagent_cli.app_context import AppContext
from tinyagent_cli.shell_completion import complete_aliases, complete_models, complete_providers
from tinyagent_cli.terminal.sanitise import one_line
from tinyagent_cli.terminal.tables import print_json, print_table

from .options import command_group, common_options, json_option

if TYPE_CHECKING:
    from tinyagent.agent_types import ModelInfo
    from tinyagent_cli.config.catalogue import Listing
    from tinyagent_cli.config.settings import Settings
    from tinyagent_cli.plugins.registry import PluginLoader
    from tinyagent_cli.terminal.output import Output

__all__ = ["models"]

_FRESH_S = 24 * 3600.0
"""`models search` asks a provider again when its stored list is older."""

_ANSWER_S = 15.0
"""The time that a provider has to answer `models search`."""


@command_group()
def models() -> None:
    """Show providers and the models they offer."""


@models.command("list")
@click.argument("provider", required=False, shell_complete=complete_providers)
@click.option("--cached", is_flag=True, help="Show the stored list, without a request.")
@json_option
@common_options
@click.pass_obj
def list_models(app: AppContext, provider: str | None, cached: bool, as_json: bool) -> None:
    """List the models of PROVIDER, by a request to it. Without PROVIDER, list the providers."""
    from tinyagent_cli.config import catalogue
    from tinyagent_cli.config.settings import load_settings
    from tinyagent_cli.exit_codes import InputError
    from tinyagent_cli.plugins.model_lists import ask_provider
    from tinyagent_cli.plugins.registry import PluginLoader
    from tinyagent_cli.run.kernel_guards import protect_memory

    protect_memory()
    found = load_settings()
    loader = PluginLoader.from_settings(found)
    if provider is None:
        rows = _providers(found)
        if as_json:
            print_json(rows)
        else:
            print_table(("PROVIDER", "FROM", "KEY"), [(r["name"], r["from"], r["key"]) for r in rows])
        return
    from tinyagent_cli.terminal.output import take_stdin, take_stdout

    take_stdin()
    output = take_stdout()  # a plugin may print
    if cached:
        listing = catalogue.read(provider)
        if listing is None:
            raise InputError(
                f"No list of {provider!r} is stored.", hint=f"Ask it: tinyagent models list {provider}"
            )
        app.note(f"{provider} returned this list {_ago(listing)}.")
        infos = listing.models
    else:
        infos = asyncio.run(ask_provider(loader, provider))
    if as_json:
        print_json(infos, output)
    else:
        _print_models([(provider, info) for info in infos], output)


@models.command("search", short_help="Search the models of all providers that you can use.")
@click.argument("words", nargs=-1, metavar="WORD...")
@click.option("--refresh", is_flag=True, help="Ask the providers, even if their stored lists are new.")
@click.option("--cached", is_flag=True, help="Search the stored lists only, without a request.")
@json_option
@common_options
@click.pass_obj
def search_models(
    app: AppContext, words: tuple[str, ...], refresh: bool, cached: bool, as_json: bool
) -> None:
    """Search the models of all providers that you can use, by name and ability.

    A provider that has a key, or that you have configured, is asked for its models if its stored list is
    older than a day. Every WORD must be a part of the name, or an ability: tools, images, files, audio,
    reasoning, json_schema.
    """
    from msgspec import to_builtins

    from tinyagent_cli.config import catalogue
    from tinyagent_cli.config.settings import load_settings
    from tinyagent_cli.plugins.model_names import usable_providers
    from tinyagent_cli.plugins.registry import PluginLoader
    from tinyagent_cli.run.kernel_guards import protect_memory
    from tinyagent_cli.terminal.output import take_stdin, take_stdout

    protect_memory()
    found = load_settings()
    take_stdin()
    output = take_stdout()  # a plugin may print
    usable = usable_providers(found)
    if not cached:
        listings = {listing.provider: listing for listing in catalogue.read_all()}
        old = [n for n in usable if refresh or n not in listings or listings[n].age_s > _FRESH_S]
        asyncio.run(_refresh(app, PluginLoader.from_settings(found), old))
    listings = {listing.provider: listing for listing in catalogue.read_all()}
    rows = [
        (listing.provider, info)
        for listing in listings.values()
        for info in listing.models
        if all(_fits(word, listing.provider, info) for word in words)
    ]
    if as_json:
        print_json([{"provider": name, **to_builtins(info)} for name, info in rows], output)
    elif rows:
        _print_models(rows, output)
    if not listings:
        app.note(
            "No lists are stored. Store a key (tinyagent keys set NAME), or ask: tinyagent models list NAME"
        )
    elif not rows:
        app.note(
            f"No model fits. These providers are listed: {', '.join(listings)}.\n"
            "Others are searched when their key is stored (tinyagent keys set NAME), or after: "
            "tinyagent models list NAME"
        )
    oldest = max(listings.values(), key=lambda listing: listing.age_s, default=None)
    if rows and oldest is not None and oldest.age_s > _FRESH_S:
        app.note(
            f"The list of {oldest.provider} is from {_ago(oldest)}: tinyagent models list {oldest.provider}"
        )


@models.command("show", short_help="Show what is known of a model.")
@click.argument("model", shell_complete=complete_models)
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
@common_options
@click.pass_obj
def show_model(app: AppContext, model: str, as_json: bool) -> None:
    """Show what is known of MODEL: an alias, PROVIDER/ID, or a part of a name.

    The facts come from the stored list of its provider and from the list prices of the package genai-prices.
    """
    from tinyagent._stream.model_families import family_of
    from tinyagent.agent_types import ModelInfo
    from tinyagent_cli.config import catalogue
    from tinyagent_cli.config.settings import load_settings
    from tinyagent_cli.plugins.model_lists import with_facts
    from tinyagent_cli.plugins.model_names import full_name

    found = load_settings()
    name = full_name(model, found, app.note)
    provider, _, model_id = name.partition("/")
    listing = catalogue.read(provider)
    listed = [] if listing is None else [info for info in listing.models if info.id == model_id]
    info = with_facts(provider, listed[0] if listed else ModelInfo(model_id))
    family = family_of(model_id)
    facts: dict[str, object] = {
        "model": name,
        "name": info.name,
        "context_window": info.context_window,
        "max_tokens": info.max_tokens,
        "input_price": info.input_price,
        "output_price": info.output_price,
        "abilities": list(info.abilities),
        "reasons": family.reasons,
        "efforts": list(family.efforts) if family.reasons else [],
        "aliases": sorted(alias for alias, target in found.aliases.items() if target == name),
        "age_s": round(listing.age_s) if listing is not None and listed else None,
    }
    if as_json:
        print_json(facts)
        return
    facts["listed"] = _ago(listing) if listing is not None and listed else "not by its provider"
    del facts["age_s"]
    labels = {"input_price": "$/M in", "output_price": "$/M out", "max_tokens": "max output"}
    rows = []
    for key, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
        text = {"True": "yes", "False": "no"}.get(text, text)
        if key.endswith("_price"):
            text = _price(info.input_price if key == "input_price" else info.output_price)
        if text:
            rows.append((labels.get(key, key.replace("_", " ")), text))
    print_table(("FACT", "VALUE"), rows)


@models.command("default", short_help="Print or set the model of a run without -m.")
@click.argument("model", required=False, shell_complete=complete_models)
@common_options
@click.pass_obj
def default_model(app: AppContext, model: str | None) -> None:
    """Print the model of a run without -m, or set it to MODEL in your config.toml.

    MODEL is an alias, PROVIDER/ID, or a part of a name.
    """
    from tinyagent_cli.config import model_choice
    from tinyagent_cli.config.environment import user_file
    from tinyagent_cli.config.settings import load_settings
    from tinyagent_cli.config.toml_file import change_user_file
    from tinyagent_cli.plugins.model_names import full_name

    found = load_settings()
    if model is None:
        choice = model_choice.choose(None, found)
        separator = ":" if choice.provider == "replay" else "/"
        click.echo(one_line(separator.join(filter(None, (choice.provider, choice.model_id))), 500))
        app.note(f"From {choice.source}.")
        return
    name = model if model in found.aliases else full_name(model, found, app.note)
    change_user_file(["run", "model"], name)
    app.note(f"The default model is {name}, set in {user_file()}.")
    source = load_settings().model_source
    if source != str(user_file()):
        app.warn(f"Here {source} takes precedence.")


@command_group()
def alias() -> None:
    """Give names to models, for -m. They are stored in your config.toml, under [aliases]."""


models.add_command(alias)


@alias.command("list")
@json_option
@common_options
@click.pass_obj
def list_aliases(app: AppContext, as_json: bool) -> None:
    """List the aliases and their models."""
    from tinyagent_cli.config.settings import load_settings

    found = sorted(load_settings().aliases.items())
    if as_json:
        print_json([{"name": name, "model": model} for name, model in found])
    elif not found:
        app.note("There are no aliases. To add one: tinyagent models alias set NAME MODEL")
    else:
        print_table(("NAME", "MODEL"), found)


@alias.command("set")
@click.argument("name", shell_complete=complete_aliases)
@click.argument("model", shell_complete=complete_models)
@common_options
@click.pass_obj
def set_alias(app: AppContext, name: str, model: str) -> None:
    """Let NAME mean MODEL: an alias, PROVIDER/ID, or a part of a name."""
    from tinyagent_cli.config.settings import load_settings
    from tinyagent_cli.config.toml_file import change_user_file
    from tinyagent_cli.exit_codes import InputError
    from tinyagent_cli.plugins.builtin import provider_plugins
    from tinyagent_cli.plugins.model_names import full_name

    found = load_settings()
    if name in {plugin.name for plugin in provider_plugins(found.providers)}:
        raise InputError(f"{name!r} is a provider.", hint="Choose another name for the alias.")
    target = full_name(model, found, app.note)
    change_user_file(["aliases", name], target)
    app.note(f"-m {one_line(name, 60)} means {target}.")


@alias.command("remove")
@click.argument("name", shell_complete=complete_aliases)
@common_options
@click.pass_obj
def remove_alias(app: AppContext, name: str) -> None:
    """Remove the alias NAME."""
    from tinyagent_cli.config.settings import load_settings
    from tinyagent_cli.config.toml_file import change_user_file
    from tinyagent_cli.exit_codes import InputError

    found = load_settings()
    if not change_user_file(["aliases", name], None):
        raise InputError(
            f"There is no alias {one_line(name, 60)!r}.", hint="All aliases: tinyagent models alias list"
        )
    app.note(f"The alias {name} is removed.")
    if found.run.model == name:
        app.warn(f"{found.model_source} still has {name!r} as the model.")


def _fits(word: str, provider: str, info: ModelInfo) -> bool:
    word = word.lower()
    return word in info.abilities or word in f"{provider}/{info.id} {info.name}".lower()


def _ago(listing: Listing) -> str:
    """Return the age of a list in words."""
    minutes = int(listing.age_s // 60)
    if minutes < 1:
        return "less than a minute ago"
    if minutes < 120:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 2880 else f"{minutes // 1440} days ago"


async def _refresh(app: AppContext, loader: PluginLoader, names: list[str]) -> None:
    """Ask these providers for their models at the same time, and store the lists. Failures are warnings."""
    from tinyagent.errors import TinyAgentError
    from tinyagent_cli.plugins.model_lists import ask_provider, reason

    async def ask(name: str) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                await ask_provider(loader, name)
        except TimeoutError:
            app.warn(f"{name} did not answer within {_ANSWER_S:g} s.")
        except TinyAgentError as error:
            if name in loader.provider_names() and "cannot list its models" not in str(error):
                app.warn(f"{name} could not be asked: {reason(error, name)}")

    await asyncio.gather(*map(ask, names))


def _print_models(rows: list[tuple[str, ModelInfo]], output: Output) -> None:
    print_table(
        ("MODEL", "CONTEXT", "$/M IN", "$/M OUT", "ABILITIES", "NAME"),
        [
            (
                f"{provider}/{info.id}",
                str(info.context_window or ""),
                _price(info.input_price),
                _price(info.output_price),
                ",".join(info.abilities),
                info.name,
            )
            for provider, info in rows
        ],
        output,
    )


def _price(dollars: float | None) -> str:
    return "" if dollars is None else f"{dollars:.4f}".rstrip("0").rstrip(".")


def _providers(found: Settings) -> list[dict[str, str]]:
    from tinyagent.errors import ConfigurationError
    from tinyagent_cli.plugins.builtin import key_state, key_variable, provider_plugins
    from tinyagent_cli.plugins.discovery import BUILT_IN, CONFIGURED

    rows = []
    for entry in provider_plugins(found.providers):
        table = found.providers.get(entry.name)
        variable = key_variable(entry.name, table)
        if entry.distribution not in (BUILT_IN, CONFIGURED):
            key = "see the plugin"
        else:
            try:
                key = key_state(found.find_key(entry.name, variable), variable)
            except ConfigurationError as error:
                key = str(error)
        rows.append({"name": entry.name, "from": entry.origin, "key": key})
    return rows
