"""What workers on other machines need from this one: the key of the model, and the user's settings."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tinyagent._stream.servers import SERVERS
from tinyagent.agent_types import Provider
from tinyagent_cli.config.environment import variable
from tinyagent_cli.config.files import ProviderTable
from tinyagent_cli.config.settings import SETTINGS_VARIABLE, Settings, encode_settings

__all__ = ["worker_environment"]

KEY_VARIABLE = "TINYAGENT_WORKER_KEY"
"""Has the key of a provider that reads none from the environment, but has a stored one."""

PASSED_ON = ("OPENAI_API_VERSION", "TINYAGENT_PLUGINS", "TINYAGENT_PROXY_URL")


class _Secrets(dict[str, str]):
    """Variables that are not shown."""

    def __repr__(self) -> str:
        return f"<{len(self)} variables>"


def worker_environment(settings: Settings, provider: Provider, api_key: str | None) -> Mapping[str, str]:
    """Return the environment variables for workers: the settings, and the key of this provider alone.

    Args:
        settings: The user's settings.
        provider: The provider of the batch's model.
        api_key: Its key.
    """
    found = _Secrets()
    providers = dict(settings.providers)
    if api_key is not None:
        key_variable = provider.api_key_env
        if key_variable is None:
            key_variable = KEY_VARIABLE
            table = providers.get(provider.name, ProviderTable())
            providers[provider.name] = msgspec.structs.replace(table, api_key_env=KEY_VARIABLE)
        found[key_variable] = api_key
    found[SETTINGS_VARIABLE] = encode_settings(settings._replace(providers=providers))
    server = SERVERS.get(provider.name)
    for name in (*PASSED_ON, server.url_env if server is not None else None):
        value = variable(name) if name is not None else None
        if name is not None and value is not None:
            found[name] = value
    return found
