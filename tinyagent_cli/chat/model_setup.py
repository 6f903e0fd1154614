"""Choose a model step by step, for a user who has not configured one."""

from __future__ import annotations

from collections.abc import Sequence

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.input import Input
from prompt_toolkit.output import Output as TerminalOutput

from tinyagent._stream.servers import SERVERS
from tinyagent.errors import TinyAgentError
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config import catalogue
from tinyagent_cli.config.keys import check_key
from tinyagent_cli.config.settings import Settings
from tinyagent_cli.config.toml_file import change_user_file

__all__ = ["choose_model"]

OFFERED = ("openrouter", "openai", "anthropic", "gemini", "groq", "mistral", "ollama", "llamacpp")
"""The providers in the list; the others can be typed."""


def choose_model(app: AppContext, settings: Settings, terminal: tuple[Input, TerminalOutput]) -> str | None:
    """Ask for a provider, its key and a model. Return the model; None if the user leaves.

    The key is stored like that of `tinyagent keys set`, and the model becomes the default if the user agrees.
    """
    ask = _Asker(terminal)
    app.show("No model is chosen yet. Which provider do you want to use? Ctrl-D leaves.")
    app.show("  1  demo: offline and scripted, to try the program without a key")
    offered = [name for name in OFFERED if name in SERVERS]
    for number, name in enumerate(offered, 2):
        needs = "a server on this machine" if SERVERS[name].api_key_env is None else "needs a key"
        app.show(f"  {number}  {name}: {needs}")
    names = ["demo", *offered]
    others = {*SERVERS, *settings.providers}.difference(names)
    if others:
        app.show(f"  or a name: {', '.join(sorted(others))}")
    try:
        provider = _provider(app, ask, names, others)
        if provider == "demo":
            return "demo"
        _key(app, ask, settings, provider)
        name = f"{provider}/{_model_id(app, ask, provider)}"
        _default(app, ask, settings, name)
    except EOFError:
        return None
    return name


class _Asker:
    """Asks one question after the other, each on its own line."""

    def __init__(self, terminal: tuple[Input, TerminalOutput]) -> None:
        self._input, self._output = terminal

    def __call__(
        self, text: str, *, words: Sequence[str] = (), default: str = "", hidden: bool = False
    ) -> str:
        session: PromptSession[str] = PromptSession(
            input=self._input,
            output=self._output,
            completer=WordCompleter(list(words), sentence=True) if words else None,
            is_password=hidden,
        )
        return session.prompt(f"{text}: ", default=default).strip()


def _provider(app: AppContext, ask: _Asker, names: list[str], others: set[str]) -> str:
    while True:
        answer = ask("Provider (number or name)", words=[*names, *sorted(others)])
        if answer.isdigit() and 1 <= int(answer) <= len(names):
            return names[int(answer) - 1]
        if answer in (*names, *others):
            return answer
        if answer:
            app.error(f"Type a number from 1 to {len(names)}, or a name of the list.")


def _key(app: AppContext, ask: _Asker, settings: Settings, provider: str) -> None:
    """Ask for the key of a provider, if it needs one and has none, and store it."""
    server = SERVERS.get(provider)
    if server is None or server.api_key_env is None or provider in settings.providers:
        return
    if settings.find_key(provider, server.api_key_env) is not None:
        return
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


def _model_id(app: AppContext, ask: _Asker, provider: str) -> str:
    server, listing = SERVERS.get(provider), catalogue.read(provider)
    default = server.default_model or "" if server is not None else ""
    known = [] if listing is None else [info.id for info in listing.models]
    app.show(f"Which model? All of them: tinyagent models list {provider}")
    while True:
        answer = ask("Model", words=known, default=default).removeprefix(f"{provider}/")
        if answer:
            return answer


def _default(app: AppContext, ask: _Asker, settings: Settings, name: str) -> None:
    """Store the model as the default, if the user agrees."""
    if ask(f"Use {name} from now on? [Y/n]").lower() not in ("", "y", "yes"):
        return
    path = settings.directory / "config.toml"
    try:
        change_user_file(path, ["run", "model"], name)
    except TinyAgentError as error:
        app.error(str(error), error.hint)
    else:
        app.show("It is the default now. Change it: tinyagent models default MODEL")
