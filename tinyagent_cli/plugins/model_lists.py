"""Ask a provider for its models, and store the list."""

from __future__ import annotations

from dataclasses import replace

from tinyagent._stream.model_families import family_of
from tinyagent.agent_types import ModelInfo
from tinyagent.errors import ConfigurationError, MissingKeyError, PluginError, TinyAgentError
from tinyagent_cli.config import catalogue

from .failures import missing_key
from .registry import PluginLoader

__all__ = ["ask_provider", "reason", "with_facts"]


async def ask_provider(loader: PluginLoader, name: str) -> list[ModelInfo]:
    """Return the models of a provider by their ids, after storing the list.

    Raises:
        ConfigurationError: The provider is unknown, has no key, or cannot list its models.
        TinyAgentError: It cannot be asked.
    """
    provider = loader.provider(name)
    if provider.list_models is None:
        raise ConfigurationError(
            f"The provider {name!r} cannot list its models.",
            hint=f"Use the id of a model from its documentation: -m {name}/MODEL-ID",
        )
    try:
        found = await provider.list_models()
    except MissingKeyError as error:
        raise error if provider.api_key_env is None else missing_key(name, provider.api_key_env) from None
    except TinyAgentError:
        raise
    except Exception as error:
        raise PluginError(
            f"The models of {name!r} could not be listed: {type(error).__name__}: {error}"
        ) from error
    infos = [with_facts(name, info) for info in sorted(found, key=lambda info: info.id)]
    catalogue.write(name, infos)
    return infos


def with_facts(provider: str, info: ModelInfo) -> ModelInfo:
    """Return the model with what its provider does not list: context window, prices and reasoning."""
    from tinyagent._prices import model_facts  # takes a third of a second

    if family_of(info.id).reasons and "reasoning" not in info.abilities:
        info = replace(info, abilities=(*info.abilities, "reasoning"))
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


def reason(error: TinyAgentError, provider: str) -> str:
    """Return why a provider has no list, for a message that begins with the name of the provider."""
    return str(error).removeprefix(f"{provider}: ")
