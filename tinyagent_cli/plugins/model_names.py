"""Find the model that a user means by a part of its name, among the models that providers have listed.

Only the stored lists are read, so this needs no request. A name with a known provider before the slash is
always taken as it is, because a list may be old or incomplete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from tinyagent._stream.servers import SERVERS
from tinyagent.errors import ConfigurationError
from tinyagent_cli.config import catalogue
from tinyagent_cli.config.files import split_model
from tinyagent_cli.config.model_choice import Choice
from tinyagent_cli.terminal.sanitise import one_line

from .builtin import key_variable, provider_plugins
from .discovery import BUILT_IN, CONFIGURED

if TYPE_CHECKING:
    from tinyagent_cli.config.settings import Settings

__all__ = ["complete_choice", "full_name", "known_models", "similar", "usable_providers"]

_MOST_SHOWN = 10


def usable_providers(settings: Settings) -> list[str]:
    """Return the providers that have a key, that the user has configured, or that are plugins."""
    usable = []
    for plugin in provider_plugins(settings.providers):
        table = settings.providers.get(plugin.name)
        variable = key_variable(plugin.name, table)
        if plugin.distribution == BUILT_IN:
            # A server on this machine that the user has not configured may not run.
            is_usable = variable is not None and _has_key(settings, plugin.name, variable)
        elif plugin.distribution == CONFIGURED:
            is_usable = variable is None or _has_key(settings, plugin.name, variable)
        else:
            is_usable = True
        if is_usable:
            usable.append(plugin.name)
    return list(dict.fromkeys(usable))


def _has_key(settings: Settings, provider: str, variable: str | None) -> bool:
    try:
        return settings.find_key(provider, variable) is not None
    except ConfigurationError:
        return False


def known_models(settings: Settings) -> list[str]:
    """Return `PROVIDER/ID` of the listed models and the default models, of providers that can be used."""
    usable = {
        *usable_providers(settings),
        *(name for name, server in SERVERS.items() if server.api_key_env is None),
    }
    names = [
        f"{listing.provider}/{info.id}"
        for listing in catalogue.read_all()
        if listing.provider in usable
        for info in listing.models
    ]
    names += [
        f"{name}/{server.default_model}"
        for name, server in SERVERS.items()
        if server.default_model and name in usable and name not in settings.providers
    ]
    return list(dict.fromkeys(names))


def matching(text: str, names: Iterable[str]) -> list[str]:
    """Return the names that a text means: those with this id, or else with this last part, or else those that
    contain all of its words.
    """
    wanted = text.strip().lower()
    lower = {name: name.lower() for name in names}
    exact = [name for name, low in lower.items() if wanted in (low, low.partition("/")[2])]
    last = [name for name, low in lower.items() if low.rpartition("/")[2] == wanted]
    words = wanted.split()
    return exact or last or [name for name, low in lower.items() if all(word in low for word in words)]


def similar(text: str, names: Sequence[str]) -> list[str]:
    """Return the names that a text with a typo may mean, the most similar one first."""
    wanted = text.lower()
    by_text = {part: name for name in names for part in _parts(name.lower())}
    near = get_close_matches(wanted, list(by_text), 3, 0.75)
    return list(dict.fromkeys(by_text[part] for part in near))


def _parts(name: str) -> Iterator[str]:
    """Yield what a user may type of a name: also without the provider, the author and the tag."""
    last = name.rpartition("/")[2]
    yield last.partition(":")[0]
    yield last
    yield name.partition("/")[2]
    yield name


def complete_choice(
    choice: Choice, settings: Settings, providers: Iterable[str], note: Callable[[str], None]
) -> Choice:
    """Return the model that a choice without a known provider means. `note` gets a sentence that names it.

    Raises:
        ConfigurationError: Several models fit; or none, and some are similar or the text has no slash.
    """
    typed = "/".join(filter(None, (choice.provider, choice.model_id)))
    names = known_models(settings)
    found = matching(typed, names)
    if len(found) == 1:
        note(f"Using {found[0]} for {typed!r}.")
        return Choice(*split_model(found[0]), choice.source)
    if found:
        more = f"\n  … {len(found) - _MOST_SHOWN} more: tinyagent models search {typed}"
        raise ConfigurationError(
            f"{typed!r} ({choice.source}) fits {len(found)} models. Write more of the name.",
            hint="\n  ".join(["One of:", *sorted(found)[:_MOST_SHOWN]])
            + (more if len(found) > _MOST_SHOWN else ""),
        )
    near = similar(typed, [*names, *settings.aliases])
    is_typo = bool(get_close_matches(choice.provider, list(providers), 1))
    if near and not is_typo:
        raise ConfigurationError(
            f"There is no model {typed!r} ({choice.source}).",
            hint=f"Did you mean {' or '.join(near)}?   All models: tinyagent models search",
        )
    priced = None if choice.model_id else _with_a_price(typed)
    if priced or not (choice.model_id or is_typo):
        meant = f"Did you mean {priced}?\n" if priced else ""
        raise ConfigurationError(
            f"{one_line(typed, 60)!r} ({choice.source}) is not a provider, and no listed model has this "
            "name.",
            hint=meant
            + "A model is PROVIDER/ID. To find one: tinyagent models list, tinyagent models search",
        )
    return choice  # the provider is unknown, and the error of its look-up says so


def _with_a_price(model_id: str) -> str | None:
    """Return `PROVIDER/ID` for the first server that has a list price for a model."""
    from tinyagent._prices import model_facts  # takes a third of a second

    return next((f"{name}/{model_id}" for name in SERVERS if model_facts(name, model_id)), None)


def full_name(text: str, settings: Settings, note: Callable[[str], None]) -> str:
    """Return `PROVIDER/ID` for an alias, a full name or a part of a name.

    Raises:
        ConfigurationError: There is no such provider, no model fits, or several do.
    """
    name = settings.aliases.get(text.strip(), text.strip())
    provider, model_id = split_model(name)
    providers = {plugin.name for plugin in provider_plugins(settings.providers)}
    if provider in providers and (model_id or provider == "demo"):
        return name
    choice = complete_choice(Choice(provider, model_id, "the argument"), settings, providers, note)
    if choice.provider not in providers:
        raise ConfigurationError(
            f"There is no model {name!r}.",
            hint="A model is PROVIDER/ID. To find one: tinyagent models search",
        )
    return f"{choice.provider}/{choice.model_id}"
