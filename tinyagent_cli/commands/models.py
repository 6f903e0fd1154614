"""`tinyagent models`: the providers and their models."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from tinyagent_cli.shell_completion import complete_providers
from tinyagent_cli.terminal.tables import print_json, print_table

from .options import CONTEXT, common_options, need_command

if TYPE_CHECKING:
    from tinyagent.agent_types import ModelInfo
    from tinyagent_cli.config.settings import Settings
    from tinyagent_cli.plugins.registry import PluginLoader

__all__ = ["models"]


@click.group(invoke_without_command=True, context_settings=CONTEXT)
@common_options
@click.pass_context
def models(ctx: click.Context) -> None:
    """Show providers and the models they offer."""
    need_command(ctx)


@models.command("list")
@click.argument("provider", required=False, shell_complete=complete_providers)
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
@common_options
def list_models(provider: str | None, as_json: bool) -> None:
    """List the models of PROVIDER, by a request to it. Without PROVIDER, list the providers."""
    from tinyagent_cli.config.settings import load_settings
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
    from tinyagent_cli.config import catalogue
    from tinyagent_cli.terminal.output import take_stdin, take_stdout

    take_stdin()
    output = take_stdout()  # a plugin may print
    infos = sorted(asyncio.run(_ask(found, loader, provider)), key=lambda info: info.id)
    infos = [_with_facts(provider, info) for info in infos]
    catalogue.write(provider, [info.id for info in infos])
    if as_json:
        print_json(infos, output)
        return
    print_table(
        ("MODEL", "CONTEXT", "$/M IN", "$/M OUT", "NAME"),
        [
            (
                f"{provider}/{info.id}",
                str(info.context_window or ""),
                _price(info.input_price),
                _price(info.output_price),
                info.name,
            )
            for info in infos
        ],
        output,
    )


def _price(dollars: float | None) -> str:
    return "" if dollars is None else f"{dollars:.4f}".rstrip("0").rstrip(".")


def _with_facts(provider: str, info: ModelInfo) -> ModelInfo:
    """Return the model with the context window and the prices that its provider does not list."""
    from tinyagent._prices import model_facts

    if None not in (info.context_window, info.input_price, info.output_price):
        return info
    facts = model_facts(provider, info.id)
    if facts is None:
        return info
    window = info.context_window if info.context_window is not None else facts.context_window
    if info.input_price is not None:
        return replace(info, context_window=window)
    return replace(
        info, context_window=window, input_price=facts.input_price, output_price=facts.output_price
    )


def _providers(found: Settings) -> list[dict[str, str]]:
    from tinyagent.errors import ConfigurationError
    from tinyagent_cli.plugins.builtin import key_state, key_variable, provider_plugins
    from tinyagent_cli.plugins.discovery import BUILT_IN, CONFIGURED

    rows = []
    for entry in provider_plugins(found.providers):
        table = found.providers.get(entry.name)
        if table is not None and entry.distribution == BUILT_IN:
            continue  # the configured provider replaces it
        origin = f"{entry.distribution} {entry.version}".strip()
        variable = key_variable(entry.name, table)
        if entry.distribution not in (BUILT_IN, CONFIGURED):
            key = "see the plugin"
        else:
            try:
                key = key_state(found.find_key(entry.name, variable), variable)
            except ConfigurationError as error:
                key = str(error)
        rows.append({"name": entry.name, "from": origin, "key": key})
    return rows


async def _ask(found: Settings, loader: PluginLoader, name: str) -> list[ModelInfo]:
    from tinyagent.errors import ConfigurationError, PluginError, TinyAgentError

    provider = loader.provider(name)
    if provider.list_models is None:
        raise ConfigurationError(
            f"The provider {name!r} cannot list its models.",
            hint=f"Use the id of a model from its documentation: -m {name}/MODEL-ID",
        )
    try:
        return await provider.list_models()
    except TinyAgentError:
        raise
    except Exception as error:
        raise PluginError(
            f"The models of {name!r} could not be listed: {type(error).__name__}: {error}"
        ) from error
