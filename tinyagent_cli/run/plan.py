"""Read and check the inputs of a run, before the first request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from tinyagent import _json
from tinyagent._net.transport import TransportChoice
from tinyagent._stream.message_checks import checked_messages
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
from tinyagent.errors import ConfigurationError, RecordError, TinyAgentError
from tinyagent.text_files import MAX_RECORD_BYTES, decode_text, detect_encoding
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config import model_choice
from tinyagent_cli.config.endpoints import endpoint_note
from tinyagent_cli.config.environment import APPROVALS_FILE, has_home, sessions_directory, set_variable
from tinyagent_cli.config.files import SessionsTable, split_model
from tinyagent_cli.config.settings import DEFAULT_MAX_REPEATS, DEFAULT_MAX_TURNS, Settings, load_settings
from tinyagent_cli.exit_codes import InputError, how_it_ended
from tinyagent_cli.plugins.discovery import find
from tinyagent_cli.plugins.loading import Hook, SinkFactory
from tinyagent_cli.plugins.registry import PluginLoader, Registry
from tinyagent_cli.plugins.tool_sources import ToolSource

from .approval_rules import parse_rule
from .lifetime import Lifetime
from .model import resolve_model
from .prompt_input import (
    StandardInput,
    build_prompt,
    find_mentions,
    note_missing_files,
    read_file,
    read_files,
)
from .tool_limits import output_limits, with_timeouts

if TYPE_CHECKING:
    from tinyagent_cli.sessions.writer import SessionWriter

    from .project_context import ProjectContext
    from .schema_argument import WantedAnswer
    from .session_choice import SessionChoice
    from .template_choice import ChosenTemplate

__all__ = ["Plan", "RunOptions", "prepare", "read_system"]

_CHOSEN = ("TINYAGENT_MODEL", "the session")
"""The sources of a model that the user has chosen, besides options and files."""

T = TypeVar("T")
D = TypeVar("D")


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `tinyagent run`."""

    prompt: str | None
    template: str | None
    parameters: tuple[str, ...]
    model: str | None
    system: str | None
    tools: tuple[str, ...]
    mcp: tuple[str, ...]
    files: tuple[str, ...]
    history: str | None
    schema: str | None
    schema_multi: str | None
    plain: bool
    jsonl: bool
    json: bool
    extract: int
    output: str | None
    record: str | None = None
    options: tuple[str, ...]
    temperature: float | None
    max_tokens: int | None
    thinking: str | None
    max_turns: int | None
    max_repeats: int | None
    max_cost: float | None
    max_total_tokens: int | None
    compact: bool | None
    context_window: int | None
    timeout: float | None
    transport: TransportChoice | None
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    yes: bool
    no_stdin: bool
    session: str | None
    continues: bool
    no_session: bool
    context: bool | None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The settings and inputs of a run, from the options, the environment and the files.

    Attributes:
        load_model: Returns the provider, the model and the key for a name as that of `-m`.
        load_tools: Returns the tools for names as those of `-t`. `changed_tools` is then about these.
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
    load_model: Callable[[str], tuple[Provider, Model, str | None]]
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
    approvals_file: Path
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


class _Tools(NamedTuple):
    """The tools of the run, and the guards of their calls."""

    tools: list[AgentTool]
    names: Sequence[str]
    sources: dict[str, ToolSource]
    changed: Callable[[], Awaitable[list[AgentTool] | None]]
    load: Callable[[Sequence[str]], list[AgentTool]]
    registry: Registry


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
        _use_servers(options.mcp)
    template = _choose_template(app, options)
    piped = not prompts_follow and _stdin_is_prompt(options, stdin, template)
    answer = _wanted_answer(options, template)
    found = _load_settings(app, options, None if prompts_follow else lifetime)
    plugins, run = PluginLoader.from_settings(found), found.run
    chosen = _choose_session(options)
    provider, model, api_key = _choose_model(app, options, found, plugins, chosen, template)
    max_cost = _first(options.max_cost, run.max_cost)
    if max_cost is not None:
        _check_price(app, model)
    tools = _load_tools(app, options, found, plugins, template)
    if not prompts_follow:  # else other tools may follow, too
        _check_rules(options, tools.tools)
    sinks = tools.registry.sinks()
    context = _read_context(app, options, found)

    def read_url(url: str) -> bytes:
        from .web_page import read_page

        return read_page(app, plugins, lifetime, url)

    def read_input(path: str) -> list[bytes] | None:
        name, colon, argument = path.partition(":")
        if not colon or name not in plugins.input_names() or Path(path).exists():
            return None
        app.detail(f"Reading {path}")
        return plugins.read_input(name, argument)

    conversation = _read_conversation(
        app,
        options,
        found,
        chosen,
        stdin,
        None if prompts_follow else piped,
        template,
        context,
        lambda paths: read_files(paths, stdin, read_url, read_input),
    )
    if provider.name == "demo":
        from tinyagent.demo_provider import NOTICE

        app.note(NOTICE)
    return Plan(
        provider=provider,
        model=model,
        api_key=api_key,
        system=conversation.system,
        tools=tools.tools,
        changed_tools=tools.changed,
        load_model=lambda name: _load_model(
            app, options, found, plugins, _complete(model_choice.choose(name, found), app, found, plugins)
        ),
        load_tools=tools.load,
        tool_names=tools.names,
        history=conversation.history,
        message=conversation.message,
        answer=answer,
        empty_stdin=stdin.was_empty,
        thinking=ThinkingLevel(options.thinking or run.thinking or "off"),
        temperature=_first(options.temperature, run.temperature),
        max_tokens=_first(options.max_tokens, run.max_tokens),
        max_turns=_first(_first(options.max_turns, run.max_turns), DEFAULT_MAX_TURNS),
        max_repeats=_first(_first(options.max_repeats, run.max_repeats), DEFAULT_MAX_REPEATS),
        max_cost=max_cost,
        max_total_tokens=_first(options.max_total_tokens, run.max_total_tokens),
        compaction=_compaction(options, found),
        timeout=_first(options.timeout, run.timeout),
        allow=_valid_rules([*options.allow, *(run.allow or ())]),
        deny=_valid_rules([*options.deny, *(run.deny or ())]),
        yes=options.yes,
        before_hooks=tools.registry.hooks("tinyagent_before_tool_call"),
        after_hooks=tools.registry.hooks("tinyagent_after_tool_call"),
        hook_timeout=found.hook_timeout,
        max_output=output_limits(found.tools),
        sources=tools.sources,
        approvals_file=found.directory / APPROVALS_FILE,
        sinks=sinks,
        session=conversation.session,
        sessions=found.sessions,
        context=context,
    )


def _compaction(options: RunOptions, found: Settings) -> Compaction | None:
    """Return how the conversation is compacted; None if it is not."""
    if not _first(_first(options.compact, found.run.compact), True):
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


def _choose_model(
    app: AppContext,
    options: RunOptions,
    found: Settings,
    plugins: PluginLoader,
    session: SessionChoice | None,
    template: ChosenTemplate | None,
) -> tuple[Provider, Model, str | None]:
    """Return the provider, the model and the key. Report a choice that the user has not made.

    A session goes on with the model of its last reply, unless `-m` or a template names another.
    """
    run = found.run
    session_model = session.model if session is not None else None
    wanted, source = options.model, "-m"
    if wanted is None and template is not None:
        wanted, source = template.template.content.model, template.label
    if wanted is None and session_model is not None:
        choice = model_choice.Choice(*split_model(session_model), "the session")
        app.detail(f"Using {session_model}, the model of the session.")
    else:
        choice = _complete(model_choice.choose(wanted, found, source), app, found, plugins)
    if wanted is None and choice.source not in _CHOSEN and not run.model:
        app.note(
            f"Using {choice.provider}/{choice.model_id}, because {choice.source} is set. "
            "Choose another model with -m."
        )
    try:
        return _load_model(app, options, found, plugins, choice)
    except TinyAgentError as error:
        if choice.source == "the session":
            other = (
                f"The last reply is from {session_model}. A session can go on with another: -m PROVIDER/ID"
            )
            error.hint = f"{error.hint}\n{other}" if error.hint else other
        raise


def _load_model(
    app: AppContext,
    options: RunOptions,
    found: Settings,
    plugins: PluginLoader,
    choice: model_choice.Choice,
) -> tuple[Provider, Model, str | None]:
    """Return the provider, the model and the key of a choice."""
    run = found.run
    model_options = {**run.options, **model_choice.parse_options(options.options)}
    provider, model, api_key = resolve_model(choice, found, plugins, model_options, app.warn)
    _set_transport(app, model, options.transport, run.transport)
    moved = endpoint_note(choice.provider, found.providers.get(choice.provider), model_options)
    if moved is not None:
        app.detail(moved)
    return provider, model, api_key


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


def _complete(
    choice: model_choice.Choice, app: AppContext, found: Settings, plugins: PluginLoader
) -> model_choice.Choice:
    """Return the model that a part of a name means, if it does not begin with a provider."""
    providers = plugins.provider_names()
    if choice.provider in providers:
        return choice
    from tinyagent_cli.plugins.model_names import complete_choice  # most runs name the provider

    return complete_choice(choice, found, providers, app.note)


def _load_tools(
    app: AppContext,
    options: RunOptions,
    found: Settings,
    plugins: PluginLoader,
    template: ChosenTemplate | None,
) -> _Tools:
    """Load the guards and the requested tools."""
    plugins.load_guards()
    chosen = None if template is None else template.template.content.tools
    names = _tool_names(options, _first(chosen, found.run.tools or ()))
    requested = plugins.tools(names)
    tools, sources = with_timeouts(requested.tools, found.tools), requested.sources
    registry = plugins.registry()

    def load(others: Sequence[str]) -> list[AgentTool]:
        nonlocal names
        requested = plugins.tools(others)
        names = others
        sources.update(requested.sources)
        return with_timeouts(requested.tools, found.tools)

    async def changed() -> list[AgentTool] | None:
        try:
            if not await registry.tools_have_changed():
                return None
            now = plugins.tools(names)
        except TinyAgentError as error:
            app.warn(f"The tools stay as they are: {error}")
            return None
        sources.update(now.sources)
        return with_timeouts(now.tools, found.tools)

    return _Tools(tools, names, sources, changed, load, registry)


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
    if not _first(options.context, found.run.context or False):
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
    history = _history(app, options.history, stdin)
    given = None if options.system is None else read_system(options.system, stdin)
    prompt, mentioned = find_mentions(_prompt(options) or "")
    if "@" in prompt:
        note_missing_files(prompt, app.note)
    for name in mentioned:
        app.note(f"Added the file {name} to the prompt, which has @{name}. For the text alone: @@{name}")
    files = read((*options.files, *mentioned))
    piped_text = stdin.read() if piped else None
    if template is not None:
        filled = template.fill_in(prompt, piped_text)
        prompt, piped_text = filled.prompt or "", filled.stdin
        given = _first(given, filled.system)
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


def _tool_names(options: RunOptions, configured: Sequence[str]) -> Sequence[str]:
    """Return the names of the requested tools; `--mcp` adds the tools of its servers."""
    names = options.tools or tuple(configured)
    if not options.mcp or any(name.split(".")[0] == "mcp" for name in names):
        return names
    return (*names, "mcp")


def _use_servers(commands: Sequence[str]) -> None:
    """Use the servers of `--mcp` in place of the configured ones.

    Raises:
        ConfigurationError: The plugin is not installed.
    """
    if "mcp" not in (entry.name for entry in find("tools")):
        raise ConfigurationError(
            "--mcp needs the plugin tinyagent-mcp, which is not installed.",
            hint="Install it: tinyagent plugins install tinyagent-mcp",
        )
    set_variable("TINYAGENT_MCP", "\n".join(commands))


def _first(value: T | None, default: D) -> T | D:
    return default if value is None else value


def _set_transport(
    app: AppContext, model: Model, option: TransportChoice | None, configured: TransportChoice | None
) -> None:
    """Set the HTTP engine of a model, if the option or the configuration names one."""
    choice = option or configured
    if choice is None:
        return
    from tinyagent._stream.model import HttpModel

    if isinstance(model, HttpModel):
        model.transport = choice
    elif option is not None:
        app.note(f"--transport has no effect on {model.provider}/{model.id}, which does not use HTTP.")


def _check_price(app: AppContext, model: Model) -> None:
    """Warn if the budget depends on the cost that the provider reports."""
    from tinyagent._prices import has_price

    if model.provider not in ("demo", "replay") and not has_price(model):
        app.warn(
            f"No price is known for {model.provider}/{model.id}: --max-cost works only if the provider "
            "reports the cost."
        )


def _valid_rules(rules: list[str]) -> list[str]:
    """Return the rules.

    Raises:
        ConfigurationError: One of them is malformed.
    """
    for rule in rules:
        parse_rule(rule)
    return rules


def _check_rules(options: RunOptions, tools: list[AgentTool]) -> None:
    """Refuse rules for unknown tools, which are probably misspelt."""
    tools_by_name = {tool.name: tool for tool in tools}
    known = set(tools_by_name)
    for flag, rules in (("--deny", options.deny), ("--allow", options.allow)):
        for text in rules:
            rule = parse_rule(text)
            name = rule.name
            tool = tools_by_name.get(name)
            if rule.words is not None and tool and "command" not in tool.parameters.get("properties", {}):
                raise InputError(f"{flag} {text}: the tool {name} has no argument 'command'.")
            if name not in known and not set(name) & set("*?["):
                raise InputError(
                    f"{flag} {name}: this run has no tool of that name; "
                    f"it has: {', '.join(sorted(known)) or 'none'}."
                )


def _history(app: AppContext, path: str | None, stdin: StandardInput) -> list[AgentMessage]:
    if path is None:
        return []
    from tinyagent import jsonl

    name = "standard input" if path == "-" else path
    if path == "-":
        data = stdin.read(MAX_RECORD_BYTES, "Waiting for the conversation on standard input …")
    else:
        data = read_file(path, stdin, MAX_RECORD_BYTES)
    if not data or data.isspace():
        raise InputError(f"--history {path} is empty.")
    if detect_encoding(data)[0] != "utf-8":
        data = decode_text(data, f"--history {path}", error=RecordError).encode()
    try:
        messages = jsonl.messages(data, on_warning=lambda text: app.warn(f"{name}: {text}"))
    except RecordError as error:
        raise RecordError(f"--history {path}: {error}", hint=error.hint) from None
    last = _json.decode_object(_last_line(data).decode("utf-8", "replace")) or {}
    if last.get("type") == "result" and last.get("ok") is False:
        failure = _json.as_dict(last.get("error"))
        end = how_it_ended(str(failure.get("kind")), str(failure.get("message", "")))
        app.warn(f"The run in --history {path} {end}")
    return checked_messages(messages, f"--history {path}: ")


def _last_line(data: bytes) -> bytes:
    """Return the last line that is not blank. The data may be large, so it is not copied."""
    end = len(data)
    while end > 0 and data[end - 1 : end].isspace():
        end -= 1
    return data[data.rfind(b"\n", 0, end) + 1 : end]


def read_system(text: str, stdin: StandardInput) -> str:
    """Return the system prompt of `-s`: the text, or that of `@FILE`.

    Raises:
        InputError: The file cannot be read.
    """
    if not text.startswith("@"):
        return text
    path = text[1:]
    return decode_text(read_file(path, stdin), path, error=InputError).strip()
