"""The provider, the model and the key of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tinyagent.agent_types import JsonValue, Model, Provider
from tinyagent.errors import PluginError, TinyAgentError
from tinyagent_cli.config.model_choice import Choice
from tinyagent_cli.config.settings import Settings
from tinyagent_cli.plugins import builtin as builtin_plugins
from tinyagent_cli.plugins.failures import missing_key
from tinyagent_cli.plugins.registry import PluginLoader

__all__ = ["resolve_model"]


def resolve_model(
    choice: Choice,
    settings: Settings,
    plugins: PluginLoader,
    options: Mapping[str, JsonValue],
    warn: Callable[[str], None],
) -> tuple[Provider, Model, str | None]:
    """Return the provider, its model and its key.

    Args:
        choice: The chosen provider and model.
        settings: The environment and the configuration files.
        plugins: Loads the plugin of the provider.
        options: The options of the model.
        warn: Called with problems of a recorded run.

    Raises:
        TinyAgentError: There is no such provider or no key, or the provider cannot make the model.
    """
    if choice.provider == "replay":
        provider = builtin_plugins.replay(choice.model_id, warn)
    else:
        provider = plugins.provider(choice.provider)
    try:
        model = provider.make_model(choice.model_id, options)
    except TinyAgentError:
        raise
    except Exception as error:
        raise PluginError(
            f"The provider {provider.name!r} cannot make a model with the id {choice.model_id!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    key = settings.api_key(provider.name, provider.api_key_env)
    if key is None and provider.api_key_env is not None:
        missing = missing_key(provider.name, provider.api_key_env)
        missing.hint = f"{missing.hint}   Or try without a key: -m demo"
        raise missing
    return provider, model, key
