"""One run of `tinyagent run` in four steps: open the streams, prepare, drive the agent, conclude."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from tinyagent._answer import answer_error, extract_text
from tinyagent.errors import EmptyReplyError, TinyAgentError
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config.environment import approvals_file, config_directory
from tinyagent_cli.exit_codes import NoCodeBlockError, describe
from tinyagent_cli.sessions.files import SHOWN_ID
from tinyagent_cli.sinks.plugin import PluginSinks
from tinyagent_cli.terminal.display import RunDisplay
from tinyagent_cli.terminal.output import Output, take_stdin, take_stdout
from tinyagent_cli.terminal.sanitise import clean
from tinyagent_cli.terminal.signals import Interrupted, StopRun
from tinyagent_cli.terminal.text import text_bytes

from .agent import drive, make_agent, make_guards, prompt, prune_sessions
from .garbage import collect_from_now_on
from .lifetime import Lifetime
from .options import RunOptions
from .outcome import PriceLoader, add_cost, in_terms_of_options, model_name, summary
from .plan import Plan, prepare
from .process_exit import runner_closed_at_exit
from .progress import Progress
from .prompt_input import StandardInput, find_mentions
from .records import Records

if TYPE_CHECKING:
    from tinyagent.agent_types import Completion, CompletionRequest, Form, FormAnswer, Interaction, Link
    from tinyagent_cli.sinks.jsonl import JsonlSink


__all__ = ["execute"]


def execute(app: AppContext, options: RunOptions, lifetime: Lifetime) -> int:
    """Run the agent. Return 0, or raise the error after the record is complete."""
    if options.timeout is not None:
        lifetime.limit(options.timeout, "--timeout")
    stdin, stdout = take_stdin(), take_stdout()
    runner, progress = runner_closed_at_exit(), Progress(lifetime)
    as_json = options.jsonl or options.json
    with Records(stdout if as_json else None, progress, lifetime, only_result=options.json) as records:
        lifetime.at_last_resort(lambda cause: app.error(describe(cause).message))
        lifetime.release()
        path = options.output if options.record is None else options.record
        if path is not None:
            inputs = [*_inputs(options), ("standard input", stdin)]
            records.open_file(path, inputs, stdout, for_tests=options.record is not None)
        plan = prepare(app, options, StandardInput(stdin, app.note), lifetime)
        records.begin(plan)
        run = _Run(
            app,
            plan,
            progress,
            lifetime,
            stdout,
            records.sinks,
            as_text=not (as_json or options.extract),
            plain=options.plain,
        )
        collect_from_now_on()
        run.drive(runner)
        run.conclude(extract=options.extract)
        stdout.flush_or_raise()
    prune_sessions(app, plan)
    return 0


def _inputs(options: RunOptions) -> Iterator[tuple[str, str]]:
    """Return the files that the run reads, each with the option or setting that names it."""
    if options.history is not None:
        yield "--history", options.history
    for file in options.files:
        yield f"-f {file}", str(Path(file).expanduser())
    for file in find_mentions(options.prompt or "")[1]:
        yield f"the prompt by @{file}", str(Path(file).expanduser())
    if options.system is not None and options.system.startswith("@"):
        yield f"-s {options.system}", str(Path(options.system[1:]).expanduser())
    if options.template is not None:
        from tinyagent_cli.config.templates import lookup_template

        place = lookup_template(options.template)
        if place is not None:
            yield f"the template {place.name}", str(place.path)
    for option, schema in (("--schema", options.schema), ("--schema-multi", options.schema_multi)):
        if schema is not None:
            yield option, schema
    for found in (*config_directory().glob("*.toml"), approvals_file()):
        yield f"the configuration {found.name}", str(found)
    yield "the configuration tinyagent.toml", "tinyagent.toml"


def _print_code(app: AppContext, stdout: Output, progress: Progress, *, last: bool) -> TinyAgentError | None:
    """Print the first or the last fenced code block of the answer.

    Without one, show the answer on standard error, and return the error of the run.
    """
    from tinyagent_cli.terminal.code_blocks import extract_code

    text = extract_text(progress.replies[-1])
    code = extract_code(text, last=last)
    if code is None:
        app.note(text)
        return NoCodeBlockError(
            "The reply has no fenced code block.", hint="Ask for one in the prompt, or run it without -x."
        )
    stdout.write_now(text_bytes(clean(code) if stdout.is_terminal else code))
    return None


class _LateQuestions:
    """An interaction that is made when a tool asks for the first time, which most runs never do."""

    def __init__(self, make: Callable[[], Interaction]) -> None:
        self._make = make
        self._made: Interaction | None = None

    def _questions(self) -> Interaction:
        self._made = self._made or self._make()
        return self._made

    async def fill_in(self, form: Form) -> FormAnswer:
        return await self._questions().fill_in(form)

    async def open_link(self, link: Link) -> FormAnswer:
        return await self._questions().open_link(link)

    async def complete(self, request: CompletionRequest) -> Completion:
        return await self._questions().complete(request)


class _Run:
    """The agent with its listeners, and everything that can end the run early."""

    def __init__(
        self,
        app: AppContext,
        plan: Plan,
        progress: Progress,
        lifetime: Lifetime,
        stdout: Output,
        sinks: list[JsonlSink],
        *,
        as_text: bool,
        plain: bool,
    ) -> None:
        self._app = app
        self._plan = plan
        self._progress = progress
        self._lifetime = lifetime
        self._stdout = stdout
        self._outputs = {stdout, *(sink.output for sink in sinks)}
        self._prints_value = as_text and plan.answer is not None
        as_text = as_text and plan.answer is None
        self._display = RunDisplay(app, stdout, model_name(plan), shows_text=as_text, plain=plain)
        self._shows_cost = bool(self._display.shows_summary or app.verbosity or sinks)
        self._cause: BaseException | None = None
        self._failure: TinyAgentError | None = None
        self._guards = make_guards(app, plan, before=self._display.pause, after=self._display.resume)
        self._agent = make_agent(
            plan,
            self._guards,
            on_retry=app.note if self._display.activity is None else self._display.activity.retry,
            on_note=app.detail_once,
            interaction=_LateQuestions(self._make_questions),
        )
        self._subscribe(sinks)

    def _make_questions(self) -> Interaction:
        from .user_questions import UserQuestions

        return UserQuestions(self._guards.approvals, self._app.note, lambda: self._plan)

    def _subscribe(self, sinks: list[JsonlSink]) -> None:
        """Subscribe what records and shows the events, in this order."""
        if self._plan.session is not None:
            # First: what a reader of the output has seen is saved, even if the process is killed now.
            self._agent.subscribe(self._plan.session)
        for sink in sinks:
            self._agent.subscribe(sink)
        for listener in self._display.listeners:
            self._agent.subscribe(listener)
        self._agent.subscribe(self._progress)
        if self._shows_cost:
            self._agent.subscribe(PriceLoader(self._plan.model))

    def drive(self, runner: asyncio.Runner) -> None:
        """Prompt the agent in the loop of `runner`. The errors are those of `drive`."""
        drive(runner, self._prompt(), self._stop)

    async def _prompt(self) -> None:
        """Prompt the agent. A signal, the time limit or a failed output aborts it, and is then raised."""
        plan = self._plan
        self._lifetime.attach(asyncio.get_running_loop(), self._stop)
        for output in self._outputs:
            if output.error is not None:
                raise output.error
            output.on_error = self._stop
        try:
            with PluginSinks(plan.sinks, self._agent, self._app.warn, plan.session_id):
                await self._ask()
        finally:
            self._display.close()
            if self._shows_cost:
                add_cost(plan, self._progress)
            self._lifetime.detach()
            for output in self._outputs:
                output.flush()
                output.on_error = None
        if self._cause is not None:
            self._show_stop(self._cause)
            raise self._cause

    def _show_stop(self, cause: BaseException) -> None:
        """Show the summary of a run that was stopped, and say how to continue it."""
        session = self._plan.session
        if isinstance(cause, StopRun) and self._display.shows_summary:
            self._app.dim(summary(self._plan, self._progress, self._app))
            if isinstance(cause, Interrupted) and session is not None and session.started:
                cause.hint = "To continue: tinyagent run -c"

    async def _ask(self) -> None:
        plan = self._plan
        assert plan.message is not None
        try:
            await prompt(self._agent, plan.message, plan.answer, self._progress)
        except TinyAgentError as error:
            if plan.answer is None:
                raise
            self._failure = error

    def _stop(self, cause: BaseException) -> None:
        self._cause = self._cause or cause
        self._agent.abort()

    def conclude(self, *, extract: int) -> None:
        """Print the value or the code, and show a summary. Raise an error if the run ended without an answer.

        Args:
            extract: 1 to print the first code block of the answer, 2 to print the last one.
        """
        app, plan, progress = self._app, self._plan, self._progress
        if plan.answer is not None and self._prints_value and progress.value is not UNSET:
            printed = plan.answer.printed(progress.value, terminal=self._stdout.is_terminal)
            self._stdout.write_now(printed)
        error = self._failure if plan.answer is not None else answer_error(progress.messages, progress.limit)
        if extract and error is None:
            error = _print_code(app, self._stdout, progress, last=extract > 1)
        if self._display.shows_summary:
            app.dim(summary(plan, progress, app))
        if plan.session is not None and plan.session.started:
            app.detail(f"Session {plan.session.id[:SHOWN_ID]}, to continue: tinyagent run -c")
        if progress.replies and progress.usage is None:
            limits = (("--max-cost", plan.max_cost), ("--max-total-tokens", plan.max_total_tokens))
            for option, limit in limits:
                if limit is not None:
                    app.warn(f"The provider reported no usage, so {option} could not be enforced.")
        only_text = plan.answer is not None or bool(extract)
        if not only_text and isinstance(error, EmptyReplyError) and error.content_types:
            # The answer has no text; the record contains it.
            app.note(f"{error} {error.hint}")
        elif error is not None:
            raise in_terms_of_options(error, plan, tools_refused=bool(self._guards.refused))
