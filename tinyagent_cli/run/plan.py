"""Read and check the inputs of a run, before the first request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tinyagent.agent_types import (
    AgentMessage,
    AgentTool,
    Compaction,
    Model,
    ModelIdentity,
    Provider,
    ThinkingLevel,
    UserMessage,
)
from tinyagent.text_files import decode_text
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config.environment import has_home, sessions_directory
from tinyagent_cli.config.files import SessionsTable
from tinyagent_cli.config.settings import DEFAULT_MAX_REPEATS, DEFAULT_MAX_TURNS, Settings, load_settings
from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.plugins.loading import Hook
from tinyagent_cli.plugins.registrations import SinkFactory
from tinyagent_cli.plugins.registry import PluginLoader
from tinyagent_cli.plugins.tool_sources import ToolSource

from .approval_rules import parse_rule
from .lifetime import Lifetime
from .model import LoadedModel, ModelLoader, check_price
from .options import RunOptions, first
from .prompt_input import (
    StandardInput,
    build_prompt,
    find_mentions,
    note_missing_files,
    read_file,
    read_files,
)
from .tools import ToolLoader, check_rules, output_limits, requested_names, use_servers

if TYPE_CHECKING:
    from tinyagent_cli.sessions.writer import SessionWriter

    from .project_context import ProjectContext
    from .schema_argument import WantedAnswer
    from .session_choice import SessionChoice
    from .template_choice import ChosenTemplate

__all__ = ["Plan", "prepare", "read_system"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The settings and inputs of a run, from the options, the environment and the files.

    Attributes:
        load_model: Loads the model for a name as that of `-m`.
        load_tools: Loads the tools for names as those of `-t`. `changed_tools` is then about these.
        tool_names: The names of the tools as those of `-t`.
        message: The prompt; None if the prompts come later.
        timeout: The limit of a run in seconds, from the options or the configuration.
    """

    provider: Provider
    model: Model
    api_key: str | None
    system: str
    tools: list[AgentTool]
    changed_tools: Callable[[], Awaitable[list[AgentTool] | None]]
    load_model: Callable[[str], LoadedModel]
    load_tools: Callable[[Sequence[str]], list[AgentTool]]
    tool_names: Sequence[str]
    history: list[AgentMessage]
    message: UserMessage | None
    answer: WantedAnswer | None
    empty_stdin: bool
    thinking: ThinkingLevel
    temperature: float | None
    max_tokens: int | None
    max_turns: int
    max_repeats: int
    max_cost: float | None
    max_total_tokens: int | None
    compaction: Compaction | None
    timeout: float | None
    allow: list[str]
    deny: list[str]
    yes: bool
    before_hooks: list[Hook]
    after_hooks: list[Hook]
    hook_timeout: float
    max_output: Callable[[str], int | None]
    sources: dict[str, ToolSource]
    sinks: list[tuple[str, SinkFactory]]
    session: SessionWriter | None
    sessions: SessionsTable
    context: ProjectContext | None

    def session_id(self) -> str | None:
        """Return the id of the session that saves the conversation; None if it is not saved."""
        return None if self.session is None else self.session.id

    @property
    def inputs(self) -> list[tuple[str, str]]:
        """Return the files that `-o` must not replace, each with a description."""
        files = [(f"the tool {name}", source.name) for name, source in self.sources.items() if source.is_file]
        if self.provider.name == "replay":
            files.append(("the recorded run", self.model.id))
        if self.session is not None:
            files.append(("the session", str(self.session.path)))
        if self.context is not None:
            files += [("the context", path) for path in self.context.files]
        return files


class _Conversation(NamedTuple):
    """The initial input of the model, and the session that saves it."""

    history: list[AgentMessage]
    system: str
    message: UserMessage | None
    session: SessionWriter | None


def prepare(
    app: AppContext,
    options: RunOptions,
    stdin: StandardInput,
    lifetime: Lifetime,
    *,
    prompts_follow: bool = False,
) -> Plan:
    """Read all inputs of the run.

    Standard input is read last, because it may take long. The time limit of the configuration applies as
    soon as the configuration is read.

    If `prompts_follow`, there is no prompt yet, standard input is not read, and no time limit starts.

    Raises:
        TinyAgentError: Something is missing, malformed or unknown.
    """
    if options.mcp:
        use_servers(options.mcp)
    template = _choose_template(app, options)
    piped = None if prompts_follow else _stdin_is_prompt(options, stdin, template)
    answer = _wanted_answer(options, template)
    found = _load_settings(app, options, None if prompts_follow else lifetime)
    plugins, run = PluginLoader.from_settings(found), found.run
    chosen = _choose_session(options)
    models = ModelLoader(app, options, found, plugins)
    provider, model, api_key = models.choose(None if chosen is None else chosen.model, template)
    max_cost = first(options.max_cost, run.max_cost)
    if max_cost is not None:
        check_price(app, model)
    plugins.load_guards()
    loader, names = ToolLoader(app, plugins, found.tools), requested_names(options, template, run.tools or ())
    tools, registry = loader.load(names), plugins.registry()
    if not prompts_follow:  # else other tools may follow, too
        check_rules(options, tools)
    sinks = registry.sinks()
    context = _read_context(app, options, found)
    read = partial(_read_paths, app, stdin, plugins, lifetime)
    conversation = _read_conversation(app, options, found, chosen, stdin, piped, template, context, read)
    if provider.name == "demo":
        from tinyagent.demo_provider import NOTICE

        app.note(NOTICE)
    return Plan(
        provider=provider,
        model=model,
        api_key=api_key,
        system=conversation.system,
        tools=tools,
        changed_tools=loader.changed,
        load_model=models.load,
        load_tools=loader.load,
        tool_names=names,
        history=conversation.history,
        message=conversation.message,
        answer=answer,
        empty_stdin=stdin.was_empty,
        thinking=ThinkingLevel(options.thinking or run.thinking or "off"),
        temperature=first(options.temperature, run.temperature),
        max_tokens=first(options.max_tokens, run.max_tokens),
        max_turns=first(first(options.max_turns, run.max_turns), DEFAULT_MAX_TURNS),
        max_repeats=first(first(options.max_repeats, run.max_repeats), DEFAULT_MAX_REPEATS),
        max_cost=max_cost,
        max_total_tokens=first(options.max_total_tokens, run.max_total_tokens),
        compaction=_compaction(options, found),
        timeout=first(options.timeout, run.timeout),
        allow=_valid_rules([*options.allow, *(run.allow or ())]),
        deny=_valid_rules([*options.deny, *(run.deny or ())]),
        yes=options.yes,
        before_hooks=registry.hooks("tinyagent_before_tool_call"),
        after_hooks=registry.hooks("tinyagent_after_tool_call"),
        hook_timeout=found.hook_timeout,
        max_output=output_limits(found.tools),
        sources=loader.sources,
        sinks=sinks,
        session=conversation.session,
        sessions=found.sessions,
        context=context,
    )


def _valid_rules(rules: list[str]) -> list[str]:
    """Return the rules.

    Raises:
        ConfigurationError: One of them is malformed.
    """
    for rule in rules:
        parse_rule(rule)
    return rules


def _read_paths(
    app: AppContext,
    stdin: StandardInput,
    plugins: PluginLoader,
    lifetime: Lifetime,
    paths: Sequence[str],
) -> list[tuple[str, bytes]]:
    """Read files, web pages and the inputs of plugins. The errors are those of `read_files`."""

    def read_url(url: str) -> bytes:
        from .web_page import read_page

        return read_page(app, plugins, lifetime, url)

    def read_input(path: str) -> list[bytes] | None:
        name, colon, argument = path.partition(":")
        if not colon or name not in plugins.input_names() or Path(path).exists():
            return None
        app.detail(f"Reading {path}")
        return plugins.read_input(name, argument)

    return read_files(paths, stdin, read_url, read_input)


def _compaction(options: RunOptions, found: Settings) -> Compaction | None:
    """Return how the conversation is compacted; None if it is not."""
    if not first(first(options.compact, found.run.compact), True):
        return None

    def window(model: ModelIdentity, tokens: int) -> int | None:
        from .context_window import find_context_window

        return find_context_window(model, tokens, found.providers)

    return Compaction(context_window=options.context_window or window)


def _choose_template(app: AppContext, options: RunOptions) -> ChosenTemplate | None:
    """Return the template of `-p`; None without this option."""
    if options.template is None:
        if options.parameters:
            raise InputError(
                f"-P {options.parameters[0]} is for a variable of a template, and there is no -p.",
                hint="All templates: tinyagent templates list",
            )
        return None
    from .template_choice import choose_template, parse_values

    return choose_template(app, options.template, parse_values(options.parameters))


def _stdin_is_prompt(options: RunOptions, stdin: StandardInput, template: ChosenTemplate | None) -> bool:
    """Return whether piped standard input is part of the prompt.

    Raises:
        InputError: Standard input is used twice, there is no prompt, or a variable has no value.
    """
    other_uses = [
        options.history == "-",
        options.system == "@-",
        *(path == "-" for path in options.files),
    ]
    if sum(other_uses) > 1:
        raise InputError("Standard input can be used once: by --history -, by -s @- or by one -f -.")
    piped = not any(other_uses) and not options.no_stdin and stdin.is_piped
    if template is not None:
        template.check(_prompt(options), has_stdin=piped)
    has_prompt = _prompt(options) or (template is not None and template.template.content.prompt)
    if not (has_prompt or options.files or piped):
        build_prompt(None, (), None)  # raises
    return piped


def _prompt(options: RunOptions) -> str | None:
    """Return the prompt; `-` means standard input alone."""
    return None if options.prompt == "-" else options.prompt


def _load_settings(app: AppContext, options: RunOptions, lifetime: Lifetime | None) -> Settings:
    """Read the configuration, and apply its time limit to `lifetime`."""
    found = load_settings()
    for text in found.notes:
        app.detail(text)
    if lifetime is not None and options.timeout is None and found.run.timeout is not None:
        lifetime.limit(found.run.timeout, "timeout under [run] in the configuration")
    return found


def _wanted_answer(options: RunOptions, template: ChosenTemplate | None) -> WantedAnswer | None:
    """Return the answer that `--schema`, `--schema-multi` or the template asks for."""
    if options.schema is None and options.schema_multi is None:
        answer = None if template is None else template.answer()
        if answer is not None and options.extract and template is not None:
            raise InputError(f"-x prints a code block, but {template.label} has a schema, which prints JSON.")
        return answer
    if options.schema is not None and options.schema_multi is not None:
        raise InputError("--schema and --schema-multi cannot be used together. Choose one.")
    if options.extract:
        raise InputError("-x prints a code block and --schema prints JSON. Choose one.")
    from .schema_argument import read_schema

    if options.schema is not None:
        return read_schema("--schema", options.schema)
    return read_schema("--schema-multi", options.schema_multi or "", many=True)


def _choose_session(options: RunOptions) -> SessionChoice | None:
    """Return the session of `--session` or `--continue`, which is opened later; None without these options.

    Raises:
        InputError: Options contradict each other, or there is no such session.
    """
    given = [
        flag
        for flag, is_set in (
            ("--continue", options.continues),
            ("--session", options.session is not None),
            ("--no-session", options.no_session),
        )
        if is_set
    ]
    if len(given) > 1:
        raise InputError(f"{given[0]} and {given[1]} exclude each other.")
    if options.continues and options.history is not None:
        raise InputError("--continue and --history exclude each other: both are the conversation so far.")
    if not given or options.no_session:
        return None
    from .session_choice import choose_session

    return choose_session(sessions_directory(), options.session)


def _new_session(app: AppContext, options: RunOptions, found: Settings) -> SessionWriter | None:
    """Return a new session without a name; None if the run is not saved."""
    if options.no_session or not found.sessions.keep:
        return None
    if not has_home():
        app.detail("The run is not saved, because there is no home directory.")
        return None
    from tinyagent_cli.sessions.writer import new_session

    return new_session(sessions_directory(), app.warn)


def _read_context(app: AppContext, options: RunOptions, found: Settings) -> ProjectContext | None:
    """Return the instructions of the project; None if the user does not want them."""
    if not first(options.context, found.run.context or False):
        return None
    from .project_context import read_context

    return read_context(app, asked=options.context is True)


def _read_conversation(
    app: AppContext,
    options: RunOptions,
    found: Settings,
    chosen: SessionChoice | None,
    stdin: StandardInput,
    piped: bool | None,
    template: ChosenTemplate | None,
    context: ProjectContext | None,
    read: Callable[[Sequence[str]], list[tuple[str, bytes]]],
) -> _Conversation:
    """Read the history, the system prompt, the files and standard input. Open the session at last.

    `piped` is whether standard input is part of the prompt; None if the prompts follow. `read` reads files.
    """
    history: list[AgentMessage] = []
    if options.history is not None:
        from .history import read_history

        history = read_history(app, options.history, stdin)
    given = None if options.system is None else read_system(options.system, stdin)
    prompt, mentioned = find_mentions(_prompt(options) or "")
    if "@" in prompt:
        note_missing_files(prompt, app.note)
    for name in mentioned:
        app.note(f"Added the file {name} to the prompt, which has @{name}. For the text alone: @@{name}")
    files = read((*options.files, *mentioned))
    piped_text = stdin.read() if piped else None
    if template is not None:
        filled, piped_text = template.fill_in(prompt, piped_text)
        prompt = filled.prompt or ""
        given = first(given, filled.system)
    if given is not None:
        system = given
    else:
        earlier = chosen.header.system_prompt if chosen is not None and chosen.header is not None else ""
        system = earlier or found.run.system or ""
    if context is not None:
        system = context.added_to(system)
    message = None if piped is None else build_prompt(prompt, files, piped_text)
    if stdin.was_empty:
        app.warn("Standard input is empty. Did the previous command fail?")
    if chosen is None:
        return _Conversation(history, system, message, _new_session(app, options, found))
    from .session_choice import open_session

    continued = open_session(app, chosen, history)
    return _Conversation(history or continued.messages, system, message, continued.writer)


def read_system(text: str, stdin: StandardInput) -> str:
    """Return the system prompt of `-s`: the text, or that of `@FILE`.

    Raises:
        InputError: The file cannot be read.
    """
    if not text.startswith("@"):
        return text
    path = text[1:]
    return decode_text(read_file(path, stdin), path, error=InputError).strip()
