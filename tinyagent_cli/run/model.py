"""The provider, the model and the key of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from tinyagent.agent_types import JsonValue, Model, Provider
from tinyagent.errors import PluginError, TinyAgentError
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config import model_choice
from tinyagent_cli.config.endpoints import endpoint_note
from tinyagent_cli.config.files import split_model
from tinyagent_cli.config.settings import Settings
from tinyagent_cli.plugins import builtin as builtin_plugins
from tinyagent_cli.plugins.failures import missing_key
from tinyagent_cli.plugins.registry import PluginLoader

from .options import RunOptions

if TYPE_CHECKING:
    from .template_choice import ChosenTemplate

__all__ = ["LoadedModel", "ModelLoader", "check_price"]

_CHOSEN = ("TINYAGENT_MODEL", "the session")
"""The sources of a model that the user has chosen, besides options and files."""


class LoadedModel(NamedTuple):
    """A model, its provider, and the key for its requests."""

    provider: Provider
    model: Model
    api_key: str | None


class ModelLoader:
    """Loads the model of a run, and others that replace it later.

    Args:
        app: Shows notes and warnings.
        options: The options of the run.
        settings: The environment and the configuration files.
        plugins: Loads the plugin of the provider.
    """

    def __init__(
        self, app: AppContext, options: RunOptions, settings: Settings, plugins: PluginLoader
    ) -> None:
        self._app = app
        self._options = options
        self._settings = settings
        self._plugins = plugins

    def choose(self, session_model: str | None, template: ChosenTemplate | None) -> LoadedModel:
        """Load the model of the run. Report a choice that the user has not made.

        A session goes on with the model of its last reply, unless `-m` or a template names another. The
        errors are those of `load`.
        """
        wanted, source = self._options.model, "-m"
        if wanted is None and template is not None:
            wanted, source = template.template.content.model, template.label
        if wanted is None and session_model is not None:
            choice = model_choice.Choice(*split_model(session_model), "the session")
            self._app.detail(f"Using {session_model}, the model of the session.")
        else:
            choice = self._find(wanted, source)
        if wanted is None and choice.source not in _CHOSEN and not self._settings.run.model:
            self._app.note(
                f"Using {choice.provider}/{choice.model_id}, because {choice.source} is set. "
                "Choose another model with -m."
            )
        try:
            return self._load(choice)
        except TinyAgentError as error:
            if choice.source == "the session":
                other = (
                    f"The last reply is from {session_model}. "
                    "A session can go on with another: -m PROVIDER/ID"
                )
                error.hint = f"{error.hint}\n{other}" if error.hint else other
            raise

    def load(self, name: str) -> LoadedModel:
        """Load the model of a name as that of `-m`.

        Raises:
            TinyAgentError: There is no such provider or no key, or the provider cannot make the model.
        """
        return self._load(self._find(name, "-m"))

    def _find(self, name: str | None, source: str) -> model_choice.Choice:
        """Return the model of a name, which may also be a part of it."""
        choice = model_choice.choose(name, self._settings, source)
        providers = self._plugins.provider_names()
        if choice.provider in providers:
            return choice
        from tinyagent_cli.plugins.model_names import complete_choice  # most runs name the provider

        return complete_choice(choice, self._settings, providers, self._app.note)

    def _load(self, choice: model_choice.Choice) -> LoadedModel:
        settings = self._settings
        options = {**settings.run.options, **model_choice.parse_options(self._options.options)}
        if choice.provider == "replay":
            provider = builtin_plugins.replay(choice.model_id, self._app.warn)
        else:
            provider = self._plugins.provider(choice.provider)
        model = _make_model(provider, choice.model_id, options)
        key = settings.api_key(provider.name, provider.api_key_env)
        if key is None and provider.api_key_env is not None:
            missing = missing_key(provider.name, provider.api_key_env)
            missing.hint = f"{missing.hint}   Or try without a key: -m demo"
            raise missing
        self._set_transport(model)
        moved = endpoint_note(choice.provider, settings.providers.get(choice.provider), options)
        if moved is not None:
            self._app.detail(moved)
        return LoadedModel(provider, model, key)

    def _set_transport(self, model: Model) -> None:
        """Set the HTTP engine of a model, if the option or the configuration names one."""
        option = self._options.transport
        choice = option or self._settings.run.transport
        if choice is None:
            return
        from tinyagent._stream.model import HttpModel

        if isinstance(model, HttpModel):
            model.transport = choice
        elif option is not None:
            name = f"{model.provider}/{model.id}"
            self._app.note(f"--transport has no effect on {name}, which does not use HTTP.")


def _make_model(provider: Provider, model_id: str, options: Mapping[str, JsonValue]) -> Model:
    try:
        return provider.make_model(model_id, options)
    except TinyAgentError:
        raise
    except Exception as error:
        raise PluginError(
            f"The provider {provider.name!r} cannot make a model with the id {model_id!r}: "
            f"{type(error).__name__}: {error}"
        ) from error


def check_price(app: AppContext, model: Model) -> None:
    """Warn if the budget depends on the cost that the provider reports."""
    from tinyagent._prices import has_price

    if model.provider not in ("demo", "replay") and not has_price(model):
        app.warn(
            f"No price is known for {model.provider}/{model.id}: --max-cost works only if the provider "
            "reports the cost."
        )
