"""One run of `tinyagent run`: prepare, drive the agent, and finish the record on every way out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tinyagent import Agent, AgentOptions
from tinyagent._answer import answer_error
from tinyagent._stream.message_checks import is_assistant
from tinyagent.agent_types import AgentEndEvent, AgentEvent, AgentMessage, AssistantMessage, RunLimit, Usage
from tinyagent.errors import (
    EmptyReplyError,
    OutputTruncatedError,
    RunLimitError,
    TinyAgentError,
)
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config.environment import APPROVALS_FILE, config_directory
from tinyagent_cli.exit_codes import ToolsRefusedError, WriteError, describe, plugin_exit
from tinyagent_cli.sinks.output import Output, take_stdin, take_stdout
from tinyagent_cli.sinks.plugin import PluginSinks
from tinyagent_cli.terminal.activity import ActivityRenderer
from tinyagent_cli.terminal.text import TextRenderer

from .approvals import Approvals
from .lifetime import Lifetime
from .plan import Plan, RunOptions, prepare
from .process_exit import runner_closed_at_exit
from .prompt_input import StandardInput
from .tool_guards import ToolGuards

if TYPE_CHECKING:
    from tinyagent_cli.sinks.jsonl import JsonlSink
    from tinyagent_cli.sinks.record_file import RecordFile

    from .approval_store import ApprovalStore

__all__ = ["Progress", "Records", "execute", "record_failure"]


class Progress:
    """The state of the run so far, from which the result line is made."""

    def __init__(self, lifetime: Lifetime | None = None) -> None:
        self.messages: list[AgentMessage] = []
        self.limit: RunLimit | None = None
        self.usage: Usage | None = None
        self._lifetime = lifetime

    def __call__(self, event: AgentEvent) -> None:
        if type(event) is AgentEndEvent:
            self.messages, self.limit, self.usage = event.messages, event.limit, event.usage

    @property
    def replies(self) -> list[AssistantMessage]:
        """The assistant's messages."""
        return [message for message in self.messages if is_assistant(message)]

    @property
    def seconds(self) -> float:
        """Return the seconds since the command started."""
        return self._lifetime.seconds if self._lifetime is not None else 0.0


def execute(app: AppContext, options: RunOptions, lifetime: Lifetime) -> int:
    """Run the agent. Return 0, or raise the error after the record is complete."""
    progress = Progress(lifetime)
    if options.timeout is not None:
        lifetime.limit(options.timeout, "--timeout")
    stdin, stdout = take_stdin(), take_stdout()
    runner = runner_closed_at_exit()
    with Records(stdout if options.jsonl else None, progress, lifetime) as records:
        lifetime.at_last_resort(lambda cause: app.error(describe(cause).message))
        lifetime.release()
        if options.output is not None:
            records.open_file(options.output, [*_inputs(options), ("standard input", stdin)], stdout)
        plan = prepare(app, options, StandardInput(stdin, app.note), lifetime)
        records.begin(plan)
        run = _Run(app, plan, lifetime, stdout, records.sinks)
        run.run(runner, progress)
        run.conclude(progress)
        stdout.flush()
        if stdout.error is not None:
            raise stdout.error
    return 0


def _inputs(options: RunOptions) -> Iterator[tuple[str, str]]:
    """Return the files that the run reads, each with the option or setting that names it."""
    if options.history is not None:
        yield "--history", options.history
    for file in options.files:
        yield f"-f {file}", str(Path(file).expanduser())
    if options.system is not None and options.system.startswith("@"):
        yield f"-s {options.system}", str(Path(options.system[1:]).expanduser())
    for found in (*config_directory().glob("*.toml"), config_directory() / APPROVALS_FILE):
        yield f"the configuration {found.name}", str(found)
    yield "the configuration tinyagent.toml", "tinyagent.toml"


class Records:
    """The JSON lines of a run: on standard output, in the file of `-o`, or both.

    Each ends with a result line, however the block is left. If the main thread is stuck, `lifetime` ends them
    from another thread.
    """

    def __init__(self, stdout: Output | None, progress: Progress, lifetime: Lifetime | None = None) -> None:
        self.sinks: list[JsonlSink] = []
        self._progress = progress
        self._path = ""
        self._file: RecordFile | None = None
        self._started = False
        self._ended = threading.Lock()
        if stdout is not None:
            self._add(stdout)
        if lifetime is not None:
            lifetime.at_last_resort(self.end)

    def _add(self, output: Output) -> None:
        from tinyagent_cli.sinks.jsonl import (
            JsonlSink,  # its types take a while to make, and plain text needs none
        )

        self.sinks.append(JsonlSink(output))

    def open_file(
        self,
        path: str,
        inputs: Iterable[tuple[str, str | int | None]] = (),
        stdout: Output | None = None,
        *,
        wait: bool = True,
    ) -> None:
        """Also write to this file. It must not be one of `inputs` or standard output.

        A FIFO is opened when it has a reader. Without `wait`, a FIFO without a reader is refused.
        """
        from tinyagent_cli.sinks.record_file import RecordFile, refuse_inputs, refuse_standard_output

        refuse_standard_output(path, stdout.fd if stdout is not None else None)
        refuse_inputs(path, inputs)
        self._path, self._file = path, RecordFile(path, wait=wait)
        self._add(self._file.output)

    def begin(self, plan: Plan) -> None:
        """Write the header. From now on the file replaces an older record."""
        if self._file is not None:
            from tinyagent_cli.sinks.record_file import refuse_inputs

            refuse_inputs(self._path, plan.inputs)
            self._file.start()
        self._started = True
        for sink in self.sinks:
            sink.begin(plan)

    def end(self, error: BaseException | None) -> BaseException | None:
        """Write the result lines, once. Return `error`, or the error of writing."""
        if not self._ended.acquire(blocking=False):
            return error
        file = self._file
        keep = file is None or self._started or not file.has_older_record
        for sink in self.sinks:
            if keep or file is None or sink.output is not file.output:
                sink.end(self._progress, error or sink.output.error)
                error = error or sink.output.error
        if file is not None:
            try:
                file.finish(keep)
            except WriteError as failed:
                error = failed if error is None or error is file.output.error else error
        return error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = self.end(error)
        if failed is not None and failed is not error:
            raise failed


def record_failure(as_jsonl: bool, path: str | None, error: BaseException) -> None:
    """Write the record of a run with invalid options. Errors in writing it are ignored."""
    try:
        with Records(take_stdout() if as_jsonl else None, Progress()) as records:
            if path is not None:
                records.open_file(path, wait=False)
            raise error
    except Exception:  # noqa: BLE001 - the caller raises `error`
        pass


class _Run:
    """The agent with its listeners and everything that can end the run early."""

    def __init__(
        self, app: AppContext, plan: Plan, lifetime: Lifetime, stdout: Output, sinks: list[JsonlSink]
    ) -> None:
        self._app = app
        self._plan = plan
        self._lifetime = lifetime
        self._outputs = {stdout, *(sink.output for sink in sinks)}
        self._cause: BaseException | None = None
        self._notes: set[str] = set()
        self._as_text = not any(sink.output is stdout for sink in sinks)
        text = TextRenderer(stdout) if self._as_text else None
        to_terminal = text is not None and stdout.is_terminal

        def end_line() -> None:
            if text is not None and to_terminal:
                text.end_line()

        def remembered() -> ApprovalStore:
            from .approval_store import ApprovalStore

            return ApprovalStore(plan.approvals_file, app.warn)

        self._guards = ToolGuards(
            Approvals(
                allow=plan.allow,
                deny=plan.deny,
                yes=plan.yes,
                note=app.note,
                before=end_line,
                remembered=remembered,
                sources=plan.sources,
            ),
            plan.before_hooks,
            plan.after_hooks,
            timeout=plan.hook_timeout,
            log=app.detail,
            max_output=plan.max_output,
        )
        self._agent = self._make_agent()
        for sink in sinks:
            self._agent.subscribe(sink)
        if text is not None:
            self._agent.subscribe(text)
        if not app.quiet and (app.verbosity or app.stderr_is_terminal):
            self._agent.subscribe(ActivityRenderer(app, end_line))

    def _note_once(self, text: str) -> None:
        """Show a note with -v, once: each request of a run repeats it."""
        if text not in self._notes:
            self._notes.add(text)
            self._app.detail(text)

    def _make_agent(self) -> Agent:
        plan = self._plan
        return Agent(
            AgentOptions(
                initial_state={
                    "system_prompt": plan.system,
                    "model": plan.model,
                    "thinking_level": plan.thinking,
                    "tools": plan.tools,
                    "messages": plan.history,
                },
                stream_fn=plan.provider.stream_fn,
                get_api_key=lambda _: plan.api_key,
                get_tools=plan.changed_tools,
                temperature=plan.temperature,
                max_tokens=plan.max_tokens,
                max_turns=plan.max_turns,
                max_repeats=plan.max_repeats,
                max_cost=plan.max_cost,
                before_tool_call=self._guards.before_tool_call,
                after_tool_call=self._guards.after_tool_call,
                on_retry=self._app.note,
                on_note=self._note_once,
            )
        )

    def run(self, runner: asyncio.Runner, progress: Progress) -> None:
        """Drive the agent in the loop of `runner`.

        `SystemExit` and `KeyboardInterrupt` end an event loop. Here they come from a plugin only, since
        signals call a function of ours. The run is then ended in that loop like any other, as a failure.

        Raises:
            PluginError: a plugin has tried to end the process, with whatever exit code.
        """
        loop = runner.get_loop()
        task = loop.create_task(self.drive(progress))
        try:
            loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            cause = plugin_exit(error)
            if not task.done():
                self._stop(cause)
                loop.run_until_complete(task)
            raise cause from error

    async def drive(self, progress: Progress) -> None:
        """Prompt the agent. A signal, the time limit or a failed output aborts it, and is then raised."""
        plan, loop = self._plan, asyncio.get_running_loop()
        self._agent.subscribe(progress)
        self._lifetime.attach(loop, self._stop)
        for output in self._outputs:
            if output.error is not None:
                raise output.error
            output.on_error = self._stop
        try:
            with PluginSinks(plan.sinks, self._agent.subscribe, self._app.warn):
                await self._agent.prompt(plan.message)
        finally:
            self._add_cost(progress)
            self._lifetime.detach()
            for output in self._outputs:
                output.flush()
                output.on_error = None
        if self._cause is not None:
            raise self._cause

    def _add_cost(self, progress: Progress) -> None:
        """Estimate the cost if the provider does not report it and it is shown or recorded."""
        usage = progress.usage
        recorded = self._app.verbosity or len(self._outputs) > 1 or not self._as_text
        if usage is None or usage.get("cost") is not None or not recorded:
            return
        from tinyagent._prices import estimate_cost

        cost = estimate_cost(self._plan.model, usage)
        if cost is not None:
            progress.usage = {**usage, "cost": cost, "cost_estimated": True}

    def _stop(self, cause: BaseException) -> None:
        self._cause = self._cause or cause
        self._agent.abort()

    def conclude(self, progress: Progress) -> None:
        """Show a summary with -v. Raise an error if the run ended without an answer."""
        self._app.detail(_summary(self._plan, progress))
        if self._plan.max_cost is not None and progress.replies and progress.usage is None:
            self._app.warn("The provider reported no usage, so --max-cost could not be enforced.")
        error = answer_error(progress.messages, progress.limit)
        if isinstance(error, EmptyReplyError) and error.content_types:
            # The answer has no text; the record contains it.
            self._app.note(f"{error} {error.hint}")
        elif error is not None:
            raise self._in_terms_of_flags(error)

    def _in_terms_of_flags(self, error: TinyAgentError) -> TinyAgentError:
        plan = self._plan
        match error:
            case RunLimitError(limit="max_turns"):
                return RunLimitError(
                    f"The run was ended after {plan.max_turns} turns (--max-turns) without a final answer.",
                    limit="max_turns",
                )
            case RunLimitError(limit="repeat"):
                return RunLimitError(
                    f"The run was ended because {plan.max_repeats} times in a row (--max-repeats) the model "
                    "made the same tool call, or all its tool calls failed.",
                    limit="repeat",
                )
            case RunLimitError(limit="budget"):
                return RunLimitError(
                    f"The run reached its budget of ${plan.max_cost:g} (--max-cost) without a final answer.",
                    limit="budget",
                )
            case OutputTruncatedError():
                error.hint = "Allow more with --max-tokens, or ask for less."
            case EmptyReplyError() if self._guards.refused:
                return ToolsRefusedError(
                    "The model gave no answer after its tool calls were refused.",
                    hint="Allow a tool with --allow NAME, or all of them with -y.",
                )
        return error


def _summary(plan: Plan, progress: Progress) -> str:
    usage: Usage = progress.usage or {}
    names = dict.fromkeys((plan.model.provider, plan.model.id))
    parts = ["/".join(filter(None, names))]
    if usage:
        parts.append(f"{usage.get('input', 0)} tokens in, {usage.get('output', 0)} out")
    cost = usage.get("cost")
    if cost:
        about = "about " if usage.get("cost_estimated") else ""
        parts.append(f"{about}${cost:.6f}".rstrip("0"))
    elif usage and cost is None and hasattr(plan.model, "base_url"):
        parts.append("cost unknown")
    turns = len(progress.replies)
    parts.append(f"{turns} turn{'s' if turns != 1 else ''}")
    parts.append(f"{progress.seconds:.1f} s")
    return " · ".join(parts)
