"""One run of `tinyagent run`: prepare, drive the agent, and finish the record on every way out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyagent import Agent, AgentOptions, extract_text
from tinyagent.agent_types import AgentEndEvent, AgentEvent
from tinyagent.errors import OutputTruncatedError, ProviderError, error_class

from .app_context import AppContext
from .approvals import Approvals
from .failures import IncompleteError, InputError, RunTimeoutError
from .output import Output, open_file, private_stdout
from .renderers.activity import ActivityRenderer
from .renderers.text import TextRenderer
from .run_plan import Plan, RunOptions, prepare
from .signals import Interrupted, Signals
from .sinks.plugin import PluginSinks
from .tool_guards import ToolGuards

if TYPE_CHECKING:
    from .remembered import Remembered
    from .sinks.jsonl import JsonlSink

__all__ = ["execute", "record_failure"]


class Progress:
    """What is known of the run so far: the result line is made of it."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.limit: str | None = None
        self._began = time.monotonic()

    def __call__(self, event: AgentEvent) -> None:
        if type(event) is AgentEndEvent:
            self.messages, self.limit = event.messages, event.limit

    @property
    def replies(self) -> list[Any]:
        """The assistant's messages."""
        return [message for message in self.messages if message.get("role") == "assistant"]

    @property
    def usage(self) -> dict[str, Any] | None:
        """Tokens and cost of all turns together; None if nobody said."""
        total: dict[str, Any] = {}
        for reply in self.replies:
            for name, value in (reply.get("usage") or {}).items():
                if isinstance(value, int | float):
                    total[name] = total.get(name, 0) + value
        return total or None

    @property
    def seconds(self) -> float:
        """Since the command began."""
        return time.monotonic() - self._began


def execute(app: AppContext, options: RunOptions) -> int:
    """Run. Returns 0, or raises what went wrong once the record is finished."""
    progress = Progress()
    with (
        Signals() as signals,
        private_stdout() as stdout,
        record(stdout if options.jsonl else None, options.output, progress, options.history) as sinks,
    ):
        plan = prepare(app, options)
        for sink in sinks:
            sink.begin(plan)
        run = _Run(app, plan, signals, stdout, sinks)
        asyncio.run(run.drive(progress))
        run.conclude(progress)
        stdout.flush()
        if stdout.error is not None:
            raise stdout.error
    return 0


@contextmanager
def record(
    stdout: Output | None, path: str | None, progress: Progress, history: str | None = None
) -> Iterator[list[JsonlSink]]:
    """The JSONL sinks of a run; each gets its result line, however the block is left."""
    sinks: list[JsonlSink] = []
    if path is not None or stdout is not None:
        from .sinks.jsonl import JsonlSink  # its types take a while to make, and plain text needs none

        if stdout is not None:
            sinks.append(JsonlSink(stdout))
    error: BaseException | None = None
    try:
        if path is not None:
            _check_output(path, history)
            sinks.append(JsonlSink(open_file(path)))
        yield sinks
    except BaseException as raised:  # noqa: BLE001 - raised again below
        error = raised
    for sink in sinks:
        sink.end(progress, error or sink.output.error)
        if sink.output is not stdout:
            sink.output.close()
        error = error or sink.output.error
    if error is not None:
        raise error


def record_failure(as_jsonl: bool, path: str | None, history: str | None, error: BaseException) -> None:
    """The record of a run whose options could not even be read; whatever else fails here is not said."""
    try:
        with private_stdout() as stdout, record(stdout if as_jsonl else None, path, Progress(), history):
            raise error
    except Exception:  # noqa: BLE001 - `error` is reported by who called
        pass


def _check_output(output: str, history: str | None) -> None:
    if output == "-":
        raise InputError("-o writes to a file.", hint="For JSON lines on standard output: --jsonl")
    if history not in (None, "-"):
        try:
            same = Path(output).samefile(str(history))
        except OSError:
            same = False
        if same:
            raise InputError("-o would overwrite the file that --history reads.", hint="Name another file.")


class _Run:
    """The agent with everybody who listens to it, and everything that may end it early."""

    def __init__(
        self, app: AppContext, plan: Plan, signals: Signals, stdout: Output, sinks: list[JsonlSink]
    ) -> None:
        self._app = app
        self._plan = plan
        self._signals = signals
        self._outputs = {stdout, *(sink.output for sink in sinks)}
        self._cause: BaseException | None = None
        self._notes: set[str] = set()
        as_text = not any(sink.output is stdout for sink in sinks)
        text = TextRenderer(stdout) if as_text else None
        to_terminal = text is not None and stdout.is_terminal

        def end_line() -> None:
            if text is not None and to_terminal:
                text.end_line()

        def remembered() -> Remembered:
            from .remembered import Remembered

            return Remembered(plan.approvals_file, app.warn)

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
        """Show a provider's note with -v; the requests of a run repeat theirs."""
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
                temperature=plan.temperature,
                max_tokens=plan.max_tokens,
                max_turns=plan.max_turns,
                before_tool_call=self._guards.before_tool_call,
                after_tool_call=self._guards.after_tool_call,
                on_retry=self._app.note,
                on_note=self._note_once,
            )
        )

    async def drive(self, progress: Progress) -> None:
        """Prompt the agent; a signal, the time limit or an output that fails ends it cleanly, then raises."""
        plan, loop = self._plan, asyncio.get_running_loop()
        self._agent.subscribe(progress)
        self._signals.attach(loop, lambda signum: self._stop(Interrupted(signum)))
        late = RunTimeoutError(f"The run took longer than {plan.timeout} s (--timeout).")
        timer = None if plan.timeout is None else loop.call_later(plan.timeout, self._stop, late)
        for output in self._outputs:
            if output.error is not None:
                raise output.error
            output.on_error = self._stop
        try:
            with PluginSinks(plan.sinks, self._agent.subscribe, self._app.warn):
                await self._agent.prompt(plan.message)
        finally:
            if timer is not None:
                timer.cancel()
            self._signals.detach()
            for output in self._outputs:
                output.flush()
                output.on_error = None
        if self._cause is not None:
            raise self._cause

    def _stop(self, cause: BaseException) -> None:
        self._cause = self._cause or cause
        self._agent.abort()

    def conclude(self, progress: Progress) -> None:
        """Raise if the run ended without an answer; with -v, say what it took."""
        self._app.detail(_summary(self._plan, progress))
        last = progress.replies[-1]
        if last["stop_reason"] in ("error", "aborted"):
            kind = last.get("error_kind")
            failure = error_class(kind) if kind else ProviderError
            raise failure(last.get("error_message") or "The run was aborted.", hint=last.get("error_hint"))
        if progress.limit is not None:
            raise IncompleteError(_LIMITS[progress.limit].format(plan=self._plan), kind=progress.limit)
        if last["stop_reason"] == "length":
            raise OutputTruncatedError(
                "The reply reached the output limit and is not complete.",
                hint="Allow more with --max-tokens, or ask for less.",
            )
        if self._guards.refused and not extract_text(last).strip():
            raise IncompleteError(
                "The model gave no answer after its tool calls were refused.",
                kind="tool_refused",
                hint="Allow a tool with --allow NAME, or all of them with -y.",
            )


_LIMITS = {
    "max_turns": "The run was ended after {plan.max_turns} turns (--max-turns) without a final answer.",
    "budget": "The run was ended because its budget is used up.",
    "repeat": "The run was ended because the model kept making the same tool call with the same result.",
}


def _summary(plan: Plan, progress: Progress) -> str:
    usage = progress.usage or {}
    names = dict.fromkeys((plan.model.provider, plan.model.id))
    parts = ["/".join(filter(None, names))]
    if usage:
        parts.append(f"{usage.get('input', 0)} tokens in, {usage.get('output', 0)} out")
    if usage.get("cost"):
        parts.append(f"${usage['cost']:.6f}".rstrip("0"))
    turns = len(progress.replies)
    parts.append(f"{turns} turn{'s' if turns != 1 else ''}")
    parts.append(f"{progress.seconds:.1f} s")
    return " · ".join(parts)
