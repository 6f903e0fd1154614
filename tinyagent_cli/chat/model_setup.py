"""Choose a model step by step, for a user who has not configured one."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output as TerminalOutput

from tinyagent._stream.servers import SERVERS
from tinyagent.agent_types import ModelInfo
from tinyagent.errors import AuthenticationError, TinyAgentError
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config import catalogue
from tinyagent_cli.config.keys import check_key
from tinyagent_cli.config.settings import Settings, load_settings
from tinyagent_cli.config.toml_file import change_user_file
from tinyagent_cli.plugins.model_lists import ask_provider, reason
from tinyagent_cli.plugins.registry import PluginLoader
from tinyagent_cli.terminal.hints import suggestion
from tinyagent_cli.terminal.sanitise import one_line
from tinyagent_cli.terminal.signals import raise_on_sigint
from tinyagent_cli.terminal.wrapping import indented

__all__ = ["choose_model"]

OFFERED = ("openrouter", "openai", "anthropic", "gemini", "groq", "mistral", "ollama", "llamacpp")
"""The providers in the list; the others can be typed."""

ANSWER_S = 10.0
"""The time that a provider has to list its models, in seconds."""

MOST_SHOWN = 12
"""How many of its models are shown."""


def choose_model(app: AppContext, settings: Settings, terminal: tuple[Input, TerminalOutput]) -> str | None:
    """Ask for a provider, its key and a model. Return the model; None if the user leaves.

    The key is stored like that of `tinyagent keys set`, and the model becomes the default if the user agrees.
    """
    ask = _Asker(terminal)
    app.show("No model is chosen yet. Which provider do you want to use? Ctrl-D leaves.")
    names = ["demo", *settings.providers]
    names += [name for name in OFFERED if name in SERVERS and name not in names]
    for number, name in enumerate(names, 1):
        _show_indented(app, f"{number:>3}  ", f"{one_line(name, 100)}: {_needs(settings, name)}")
    others = {*SERVERS, *settings.providers}.difference(names)
    if others:
        _show_indented(app, "  ", f"or a name: {', '.join(sorted(others))}")
    try:
        provider = _provider(app, ask, names, others)
        if provider == "demo":
            return "demo"
        name = f"{provider}/{_model_id(app, ask, provider, _known(app, ask, settings, provider))}"
        _default(app, ask, name)
    except EOFError:
        return None
    return name


def _needs(settings: Settings, provider: str) -> str:
    """Return what the user needs for a provider."""
    if provider == "demo":
        return "offline and scripted, to try the program without a key"
    if provider in settings.providers:
        return "from your configuration"
    variable = SERVERS[provider].api_key_env
    if variable is None:
        return "a server on this machine"
    try:
        has_key = settings.find_key(provider, variable) is not None
    except TinyAgentError:
        has_key = False
    return "has a key" if has_key else "needs a key"


def _show_indented(app: AppContext, first: str, text: str) -> None:
    app.show("\n".join(indented(text, app.columns, first, " " * 5)))


class _Asker:
    """Asks one question after the other, each on its own line."""

    def __init__(self, terminal: tuple[Input, TerminalOutput]) -> None:
        self._input, self._output = terminal

    def __call__(self, text: str, *, words: Sequence[str] = (), hidden: bool = False) -> str:
        session: PromptSession[str] = PromptSession(
            input=self._input,
            output=self._output,
            completer=WordCompleter(list(words), sentence=True) if words else None,
            is_password=hidden,
            key_bindings=_leaving_keys(),
        )
        return session.prompt(f"{text}: ").strip()


def _leaving_keys() -> KeyBindings:
    """Return keys with which Ctrl-D leaves, also beside a half-typed answer."""
    keys = KeyBindings()

    @keys.add("c-d")
    def _(event: KeyPressEvent) -> None:
        event.app.exit(exception=EOFError)

    return keys


def _provider(app: AppContext, ask: _Asker, names: list[str], others: set[str]) -> str:
    while True:
        answer = ask("Provider (number or name)", words=[*names, *sorted(others)])
        if answer.isdigit() and 1 <= int(answer) <= len(names):
            return names[int(answer) - 1]
        if answer in (*names, *others):
            return answer
        if answer:
            meant = suggestion(answer, [*names, *sorted(others)])
            app.error(f"Type a number from 1 to {len(names)}, or a name of the list.{meant}")


def _known(app: AppContext, ask: _Asker, settings: Settings, provider: str) -> list[str]:
    """Ask for the key, if it is missing or refused, and then the provider. Return the ids of its models."""
    is_new = _key(app, ask, settings, provider)
    while True:
        try:
            return _ask_provider(app, provider)
        except AuthenticationError as error:
            app.error(str(error), None if is_new else error.hint)
            if not is_new:
                return []
            _store_key(app, ask, settings, provider)


def _ask_provider(app: AppContext, provider: str) -> list[str]:
    """Return the ids of the provider's models; the stored ones if it does not answer.

    Raises:
        AuthenticationError: The key is refused.
    """
    listing = catalogue.read(provider)
    known = [] if listing is None else [info.id for info in listing.models]
    before = signal.getsignal(signal.SIGINT)
    raise_on_sigint()
    try:
        app.show(f"Asking {provider} for its models. Ctrl-C skips this.")
        return [info.id for info in asyncio.run(_listed(provider))]
    except AuthenticationError:
        raise
    except KeyboardInterrupt:
        app.show("\rSkipped.")  # over the ^C of the terminal
    except TimeoutError:
        app.warn(f"{provider} did not answer within {ANSWER_S:g} s.")
    except TinyAgentError as error:
        app.warn(f"{provider} does not list its models: {reason(error, provider)}")
        if error.hint:
            app.show(error.hint)
    finally:
        signal.signal(signal.SIGINT, before)
    return known


async def _listed(provider: str) -> list[ModelInfo]:
    loader = PluginLoader.from_settings(load_settings())  # with the key that was stored now
    async with asyncio.timeout(ANSWER_S):
        return await ask_provider(loader, provider)


def _key(app: AppContext, ask: _Asker, settings: Settings, provider: str) -> bool:
    """Ask for the key of a provider, if it needs one and has none, and store it. Return whether it did."""
    server = SERVERS.get(provider)
    if server is None or server.api_key_env is None or provider in settings.providers:
        return False
    if settings.find_key(provider, server.api_key_env) is not None:
        return False
    _store_key(app, ask, settings, provider)
    return True


def _store_key(app: AppContext, ask: _Asker, settings: Settings, provider: str) -> None:
    while True:
        key = ask(f"Key of {provider} (it is not shown)", hidden=True)
        if not key:
            continue
        try:
            check_key(key, provider, "the input")
            place = settings.key_store.store(provider, key)
        except TinyAgentError as error:
            app.error(str(error), error.hint)
        else:
            app.show(f"The key is stored in {place}. Remove it: tinyagent keys remove {provider}")
            return


def _model_id(app: AppContext, ask: _Asker, provider: str, known: list[str]) -> str:
    """Ask for a model: its number or name in the list, a part of a name that fits one, or any other id."""
    server = SERVERS.get(provider)
    default = server.default_model or "" if server is not None else ""
    if default not in known:
        default = default if not known else known[0] if len(known) == 1 else ""
    offered = known[:MOST_SHOWN]
    for number, name in enumerate(offered, 1):
        app.show(f"  {number}  {one_line(name, 100)}")
    if len(known) > len(offered):
        app.show(f"  … {len(known):,} models in all. A part of a name finds one; Tab shows the names.")
    elif not known:
        app.show("Type the id of a model, from the documentation of the provider.")
    question = "Model (number or name)" if known else "Model"
    if default:
        question += f" [{one_line(default, 100)}]"
    while True:
        answer = (ask(question, words=known) or default).removeprefix(f"{provider}/")
        if answer.isdigit() and 1 <= int(answer) <= len(offered) and answer not in known:
            return offered[int(answer) - 1]
        fitting = [name for name in known if answer.lower() in name.lower()]
        if answer in known or (answer and not fitting and len(answer.split()) == 1):
            return answer
        if answer and len(fitting) == 1:
            return fitting[0]
        if answer and not fitting:
            app.error("The id of a model has no blanks.")
        elif answer:
            more = f" and {len(fitting) - MOST_SHOWN} more" if len(fitting) > MOST_SHOWN else ""
            names = ", ".join(one_line(name, 100) for name in fitting[:MOST_SHOWN])
            app.show(f"Several models fit: {names}{more}.")


def _default(app: AppContext, ask: _Asker, name: str) -> None:
    """Store the model as the default, if the user agrees."""
    answer = ""
    while answer not in ("y", "yes", "n", "no"):
        answer = ask(f"Use {name} from now on? [Y/n]").lower() or "y"
    if answer in ("n", "no"):
        return
    try:
        change_user_file(["run", "model"], name)
    except TinyAgentError as error:
        app.error(str(error), error.hint)
    else:
        app.show("It is the default now. Change it: tinyagent models default MODEL")
