"""Choose the model: `-m`, TINYAGENT_MODEL, project file, user file, or the first provider with a key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tinyagent import _json
from tinyagent._stream.servers import SERVERS
from tinyagent.agent_types import JsonObject
from tinyagent.errors import (
    ConfigurationError,
    NotConfiguredError,
)
from tinyagent_cli.exit_codes import InputError

from .files import split_model
from .settings import Settings

__all__ = ["Choice", "choose", "parse_options"]


class Choice(NamedTuple):
    """The chosen provider, the id of the model (for `replay`, the file), and the option or setting."""

    provider: str
    model_id: str
    source: str


def choose(flag: str | None, settings: Settings, flag_source: str = "-m") -> Choice:
    """Choose the model of this run.

    Args:
        flag: The value of `-m`.
        settings: The environment and the configuration files.
        flag_source: What has named `flag`, if it is not `-m`.

    Raises:
        NotConfiguredError: No model is chosen, and no provider has a key.
        ConfigurationError: The choice has no provider.
    """
    text, source = (flag, flag_source) if flag is not None else (settings.run.model, settings.model_source)
    if text is not None:
        choice = Choice(*split_model(settings.aliases.get(text.strip(), text)), source)
        if not choice.provider:
            raise ConfigurationError(
                f"{source} names no provider.", hint="Write PROVIDER/ID, for example openai/gpt-5."
            )
        return choice
    for name, server in SERVERS.items():
        variable = server.api_key_env
        if not variable or not server.default_model or name in settings.providers:
            continue
        key = settings.find_key(name, variable)
        if key is not None:
            source = variable if key.source == variable else f"a key of {name}"
            return Choice(name, server.default_model, source)
    raise NotConfiguredError(
        "No model was chosen.",
        hint="Do one of these:\n"
        '  tinyagent run -m demo "Hello"          offline and scripted: no key, no account\n'
        "  tinyagent keys set openrouter          or openai, groq …; export OPENROUTER_API_KEY=… works, too\n"
        "  tinyagent run -m ollama/MODEL …        a server on this machine\n"
        "To set a default: tinyagent config set run.model PROVIDER/ID",
    )


def parse_options(pairs: Iterable[str], option: str = "-O") -> JsonObject:
    """Parse `KEY=VALUE`, as in `-O KEY=VALUE`. A value that is JSON is decoded; other values are strings."""
    options: JsonObject = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise InputError(f"{option} {pair}: write it as KEY=VALUE.")
        try:
            options[name.strip()] = _json.decode(value)
        except (ValueError, RecursionError):
            options[name.strip()] = value
    return options
