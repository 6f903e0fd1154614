"""Which model: `-m`, TINYAGENT_MODEL, project file, user file, then the first provider with a key."""

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
    """A provider's name, its id for the model (of `replay`, the file), and who chose."""

    provider: str
    model_id: str
    source: str


def choose(flag: str | None, settings: Settings) -> Choice:
    """The model that this run is to use.

    Raises:
        NotConfiguredError: nothing was chosen, and no provider has a key.
        ConfigurationError: what was chosen names no provider.
    """
    text, source = (flag, "-m") if flag is not None else (settings.run.model, settings.model_source)
    if text is not None:
        choice = Choice(*split_model(text), source)
        if not choice.provider:
            raise ConfigurationError(
                f"{source} names no provider.", hint="Write PROVIDER/ID, for example openai/gpt-5."
            )
        return choice
    for name, server in SERVERS.items():
        variable = server.api_key_env
        if not variable or not server.default_model or name in settings.providers:
            continue
        if settings.api_key(name, variable):
            return Choice(name, server.default_model, variable)
    raise NotConfiguredError(
        "No model was chosen.",
        hint="Three ways to go on:\n"
        '  tinyagent run -m demo "Hello"          offline and scripted: no key, no account\n'
        "  export OPENROUTER_API_KEY=…            or OPENAI_API_KEY, GROQ_API_KEY …\n"
        "  tinyagent run -m ollama/MODEL …        a server on this machine\n"
        f'To keep a choice: model = "PROVIDER/ID" under [run] in {settings.directory / "config.toml"}',
    )


def parse_options(pairs: Iterable[str]) -> JsonObject:
    """`-O KEY=VALUE`; a value that is JSON is taken as such, everything else as a string."""
    options: JsonObject = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise InputError(f"-O {pair}: write it as KEY=VALUE.")
        try:
            options[name.strip()] = _json.decode(value)
        except (ValueError, RecursionError):
            options[name.strip()] = value
    return options
