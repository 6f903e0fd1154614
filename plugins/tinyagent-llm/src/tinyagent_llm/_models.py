"""Find the models of `llm`, by their ids and aliases."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import llm  # pyright: ignore[reportMissingImports] - it is not in .venv
from pydantic import ValidationError

from tinyagent import Model
from tinyagent.agent_types import JsonDict, JsonValue, ModelInfo
from tinyagent.errors import ConfigurationError, PluginError

from ._plugins import load_plugins

__all__ = ["LlmModel", "find_model", "list_models", "make_model"]

AnyModel: TypeAlias = "llm.Model | llm.KeyModel | llm.AsyncModel | llm.AsyncKeyModel"


@dataclass
class LlmModel(Model):
    """A model of `llm`.

    Attributes:
        options: The options of `-O`, as `llm -o` takes them.
    """

    provider: str = "llm"
    api: str = "llm"
    options: JsonDict = field(default_factory=dict)


def make_model(model_id: str, options: Mapping[str, JsonValue]) -> LlmModel:
    """Return a model, after a check of its name and its options.

    Raises:
        ConfigurationError: There is no such model, or it does not take an option.
    """
    model = find_model(model_id)
    try:
        model.Options(**options)
    except ValidationError as error:
        known = ", ".join(model.Options.model_fields) or "none"
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigurationError(
            f"llm/{model_id} does not take -O {name}: {first['msg']}.", hint=f"Its options: {known}."
        ) from None
    return LlmModel(id=model_id, options=dict(options))


def find_model(model_id: str) -> AnyModel:
    """Return the model of an id or an alias: the async one if there is one, because it can be cancelled.

    Raises:
        ConfigurationError: There is no such model.
        PluginError: A plugin of `llm` cannot be loaded.
    """
    found = _models()
    for entry in found:
        if model_id == entry.model.model_id or model_id in entry.aliases:
            return entry.async_model or entry.model
    names = [name for entry in found for name in (entry.model.model_id, *entry.aliases)]
    near = difflib.get_close_matches(model_id, names, 3, 0.5)
    similar = f" Did you mean {' or '.join(f'llm/{name}' for name in near)}?" if near else ""
    raise ConfigurationError(
        f"llm has no model {model_id!r}.{similar}",
        hint="List them: tinyagent models list llm. Models of other plugins: llm install NAME",
    )


def _models() -> list[llm.ModelWithAliases]:
    """Return the models of all plugins.

    Raises:
        PluginError: A plugin cannot be loaded, or register its models.
    """
    load_plugins()
    try:
        found: list[llm.ModelWithAliases] = llm.get_models_with_aliases()
    except Exception as error:
        raise PluginError(
            f"A plugin of llm cannot register its models: {type(error).__name__}: {error}",
            hint="List the plugins: llm plugins. Remove one: llm uninstall NAME",
        ) from error
    return found


async def list_models() -> list[ModelInfo]:
    """Return the models of all plugins. Their names are their aliases.

    Raises:
        PluginError: A plugin of `llm` cannot be used.
    """
    return [
        ModelInfo(
            id=entry.model.model_id,
            name=", ".join(entry.aliases),
            abilities=tuple(_abilities(entry.model)),
        )
        for entry in _models()
    ]


def _abilities(model: AnyModel) -> list[str]:
    found = []
    if model.supports_tools:
        found.append("tools")
    if any(kind.startswith("image/") for kind in model.attachment_types):
        found.append("images")
    if any(kind.startswith("audio/") for kind in model.attachment_types):
        found.append("audio")
    if model.supports_schema:
        found.append("json_schema")
    return found
