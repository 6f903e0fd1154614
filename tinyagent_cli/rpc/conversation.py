"""One conversation that a client controls by commands.

A run starts with a `prompt` and is a task of its own, so the commands that follow reach it. All lines of a
run have the `id` of its prompt. Only a connected client can approve a tool call: if it has ended its input,
or has left, open questions are refused.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import UNSET

from tinyagent import Agent, _json
from tinyagent._cancel import run_in_thread
from tinyagent.agent_types import AgentEvent, MessageEndEvent, UserMessage
from tinyagent.errors import AgentStateError, TinyAgentError
from tinyagent.jsonl import Encoder, ResultRecord, SessionRecord
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.exit_codes import InputError, describe, plugin_exit
from tinyagent_cli.run.agent import make_agent, make_guards, prompt, time_limit
from tinyagent_cli.run.approvals import Asked
from tinyagent_cli.run.form_fields import problem_of
from tinyagent_cli.run.outcome import add_cost, in_terms_of_options, missing_answer, model_name
from tinyagent_cli.run.plan import Plan
from tinyagent_cli.run.progress import Progress
from tinyagent_cli.run.record_lines import header, result
from tinyagent_cli.terminal.output import Output

from .prompts import TemplatePrompt, message_of, template_prompt
from .protocol import (
    Abort,
    Approve,
    Command,
    CommandError,
    Compact,
    Follow,
    Id,
    Messages,
    Prompt,
    Respond,
    SetModel,
    SetReadOnly,
    SetTools,
    State,
    Steer,
    decode,
    failure,
    success,
    with_id,
)
from .questions import ClientQuestions, OpenQuestions

if TYPE_CHECKING:
    from tinyagent_cli.run.schema_argument import WantedAnswer

__all__ = ["Conversation"]


class _Run(NamedTuple):
    """The run or the compaction under way."""

    id: Id
    task: asyncio.Task[None]
    compacts: bool = False


class Conversation:
    """The agent, its session, and the client that controls them.

    Args:
        app: Shows notes and warnings on standard error.
        plan: The plan, without a prompt.

    Attributes:
        agent: The agent, for the listeners of plugins.
    """

    def __init__(self, app: AppContext, plan: Plan) -> None:
        self._app = app
        self._plan = plan
        self._header = header(plan)
        self._output: Output | None = None
        self._can_ask = False
        numbers = itertools.count(1)
        self._approvals: OpenQuestions[str] = OpenQuestions("approval", numbers, self._send_question)
        self._inputs: OpenQuestions[Respond] = OpenQuestions("input", numbers, self._send_question)
        self._answers_input = False
        self._run: _Run | None = None
        self._encoder = Encoder()
        self._progress = Progress()
        self._queued: list[UserMessage] = []
        self._cause: BaseException | None = None
        self._names = plan.tool_names
        self._guards = make_guards(app, plan, ask=self._ask)
        questions = ClientQuestions(self._ask_user, lambda: self._plan)
        self.agent: Agent = make_agent(
            plan, self._guards, on_retry=app.note, on_note=app.detail_once, interaction=questions
        )
        if plan.session is not None:
            # First, as in `run`: what the client has seen is saved.
            plan.session.begin(self._header, plan.history)
            self.agent.subscribe(plan.session)
        self.agent.subscribe(self._on_event)

    # ---- the client ----------------------------------------------------------------------------------------

    def connect(self, output: Output) -> None:
        """Send all lines to this client from now on, beginning with the header."""
        self._output, self._can_ask = output, True
        model = header(self._plan)["model"]
        first = {**self._header, "model": model, "tools": self._tool_names()}
        output.write(Encoder().encode(msgspec.convert(first, SessionRecord)))

    async def end_of_input(self) -> None:
        """Refuse what would need an answer, and wait for the run under way."""
        self._can_ask = False
        self._approvals.refuse()
        self._inputs.refuse()
        if self._run is not None:
            await self._run.task

    def disconnect(self) -> None:
        """Send nothing more."""
        if self._output is not None:
            self._output.flush()
        self._output = None

    def stop(self, cause: BaseException) -> None:
        """End the run under way, which then has failed with `cause`."""
        if self._run is not None:
            self._cause = self._cause or cause
            self.agent.abort()

    def _send(self, line: dict[str, object]) -> None:
        if self._output is not None:
            self._output.write(_json.encode_lossy(line) + b"\n")

    # ---- commands ------------------------------------------------------------------------------------------

    async def handle(self, line: bytes) -> None:
        """Carry out the command of a line, and reply to it."""
        try:
            command = decode(line)
        except CommandError as error:
            self._send(failure(error.id, error.command, describe(InputError(str(error)))))
            return
        try:
            await self._carry_out(command)
        except Exception as error:  # noqa: BLE001 - the client gets it as the reply
            self._send(failure(command.id, command.type, describe(error)))

    def reply_to_long_line(self, limit: int) -> None:
        """Reply to a line that was not read, because it has more than `limit` bytes."""
        error = InputError(f"A line has more than {limit >> 20} MiB, and was skipped.")
        self._send(failure(None, "parse", describe(error)))

    async def _carry_out(self, command: Command) -> None:
        match command:
            case Prompt():
                await self._prompt(command)
                return
            case Steer():
                self._queue(command, self.agent.steer)
            case Follow():
                self._queue(command, self.agent.follow_up)
            case Abort():
                self.agent.abort()
            case Compact(instructions=text):
                await self._compact(command, text)
                return
            case SetModel(model=name):
                self._set_model(name)
                self._send(success(command, {"model": model_name(self._plan)}))
                return
            case SetTools(tools=names):
                self._use_tools(names)
                self._send(success(command, {"tools": self._tool_names()}))
                return
            case SetReadOnly(enabled=enabled):
                self._guards.read_only = enabled
            case Approve(request=name, answer=answer):
                self._approve(name, answer)
            case Respond():
                self._respond(command)
            case State():
                self._send(success(command, self._state()))
                return
            case Messages():
                self._send(success(command, {"messages": self.agent.state["messages"]}))
                return
        self._send(success(command))

    async def _prompt(self, command: Prompt) -> None:
        self._check_idle()
        if command.template is not UNSET:
            read = partial(template_prompt, self._app, command.template, command.parameters, command.message)
            template = await run_in_thread(read, "tinyagent template")  # a plugin may have to start a server
            message = message_of(template.text, command.images)
            restore, answer = self._use_template(template), template.answer
        elif command.parameters:
            raise InputError("The parameters are for a template, and there is no template.")
        else:
            message, restore, answer = message_of(command.message, command.images), (lambda: None), None
        self._cause = None
        self._answers_input = command.answers_input
        self._send(success(command))
        task = asyncio.get_running_loop().create_task(self._drive(command.id, message, answer, restore))
        self._run = _Run(command.id, task)
        await asyncio.sleep(0)  # the run has started when the next command is read

    async def _compact(self, command: Compact, instructions: str) -> None:
        self._check_idle()
        self._cause = None
        task = asyncio.get_running_loop().create_task(self._summarise(command, instructions))
        self._run = _Run(command.id, task, compacts=True)
        await asyncio.sleep(0)

    async def _summarise(self, command: Compact, instructions: str) -> None:
        """Compact the conversation, and reply to the command."""
        self._encoder = Encoder()
        try:
            with time_limit(self._plan.timeout, self.stop):
                end = await self.agent.compact(instructions)
            data = {"replaced": end.replaced, "tokens": end.tokens, "usage": end.usage}
            reply = success(command, data)
        except Exception as error:  # noqa: BLE001 - the client gets it as the reply
            reply = failure(command.id, command.type, describe(self._cause or error))
        self._run = None
        self._send(reply)

    def _check_idle(self) -> None:
        if self._run is not None and self._run.compacts:
            raise AgentStateError("The conversation is being compacted.", hint="Wait for the response.")
        if self._run is not None:
            raise AgentStateError(
                "A run is under way.",
                hint="Send a message to it with steer or follow_up, or wait for its result.",
            )

    def _queue(self, command: Steer | Follow, add: Callable[[UserMessage], None]) -> None:
        if self._run is None or self._run.compacts:
            raise AgentStateError("No run is under way.", hint="Send the message as a prompt.")
        message = message_of(command.message, command.images)
        self._queued.append(message)
        add(message)

    def _set_model(self, name: str) -> None:
        """Choose the model of the next runs. A run under way keeps its model, and so its key."""
        provider, model, key = self._plan.load_model(name)
        self._use_plan(msgspec.structs.replace(self._plan, provider=provider, model=model, api_key=key))

    def _use_plan(self, plan: Plan) -> None:
        self._plan = plan
        self.agent.set_model(plan.model)
        self.agent.options.stream_fn = plan.provider.stream_fn
        self.agent.options.get_api_key = lambda _: plan.api_key

    def _use_tools(self, names: Sequence[str]) -> None:
        self.agent.set_tools(self._plan.load_tools(names))
        self._names = names

    def _use_template(self, template: TemplatePrompt) -> Callable[[], None]:
        """Apply the settings of a template. Return a function that restores those that are still its own."""
        plan, names, system = self._plan, self._names, self.agent.state["system_prompt"]
        if template.tools is not None:
            self._use_tools(template.tools)
        if template.model is not None:
            try:
                self._set_model(template.model)
            except Exception:
                self._use_tools(names)
                raise
        if template.system is not None:
            self.agent.set_system_prompt(template.system)
        used_plan, used_names = self._plan, self._names

        def restore() -> None:
            if self._plan is used_plan is not plan:
                self._use_plan(plan)
            if self._names is used_names is not names:
                self._use_tools(names)
            self.agent.set_system_prompt(system)

        return restore

    def _state(self) -> dict[str, object]:
        state, session, run = self.agent.state, self._plan.session, self._run
        return {
            "model": model_name(self._plan),
            "thinking_level": str(state["thinking_level"]),
            "tools": self._tool_names(),
            "read_only": self._guards.read_only,
            "messages": len(state["messages"]),
            "is_streaming": run is not None,
            "run": None if run is None else run.id,
            "queued": len(self._queued),
            "pending_tool_calls": sorted(state["pending_tool_calls"]),
            "approval_requests": self._approvals.lines,
            "input_requests": self._inputs.lines,
            "session": session.id if session is not None and session.started else None,
        }

    def _tool_names(self) -> list[str]:
        return [tool.name for tool in self.agent.state["tools"]]

    # ---- questions -----------------------------------------------------------------------------------------

    def _send_question(self, line: dict[str, object]) -> None:
        if self._run is not None and self._run.id is not None:
            line["id"] = self._run.id
        self._send(line)

    async def _ask(self, asked: Asked) -> str | None:
        """Ask the client about a tool call. Return None if it cannot answer."""
        if not self._can_ask:
            return None
        call = asked.call
        return await self._approvals.ask(
            {
                "tool_call_id": call.tool_call_id,
                "tool_name": call.tool.name,
                "args": call.arguments,
                "answers": [*asked.answers, "no"],
                "sandbox": asked.sandbox,
            }
        )

    def _approve(self, name: str, answer: str) -> None:
        answers = _json.as_list(self._approvals.line(name)["answers"])
        if answer == "project" and answer not in answers and "always" in answers:
            raise InputError("This call cannot be approved for the project, because its code is not known.")
        if answer not in answers:
            raise InputError(
                f"{answer!r} is not an answer to {name}. Its answers: {', '.join(map(str, answers))}."
            )
        self._approvals.answer(name, answer)

    async def _ask_user(self, fields: Mapping[str, object]) -> Respond | None:
        """Ask the client for a tool. Return None if it cannot answer."""
        return await self._inputs.ask(fields) if self._can_ask and self._answers_input else None

    def _respond(self, command: Respond) -> None:
        schema = self._inputs.line(command.request).get("schema")
        if command.accept and isinstance(schema, dict):
            problem = problem_of(schema, command.values)
            if problem is not None:
                raise InputError(f"The values do not fit the schema of the form: {problem}.")
        self._inputs.answer(command.request, command)

    # ---- a run ---------------------------------------------------------------------------------------------

    async def _drive(
        self, id: Id, message: UserMessage, answer: WantedAnswer | None, restore: Callable[[], None]
    ) -> None:
        """Run the agent to its end, restore the settings, and send the result."""
        plan = self._plan
        self._encoder = Encoder()
        progress = self._progress = Progress()
        self._guards.refused.clear()
        failed: BaseException | None = None
        try:
            with time_limit(plan.timeout, self.stop):
                await prompt(self.agent, message, answer, progress)
        except (SystemExit, KeyboardInterrupt) as error:
            failed = plugin_exit(error)  # the loop ends, too; see `drive`
        except Exception as error:  # noqa: BLE001 - the client gets it as the result
            failed = error
            if answer is not None and isinstance(error, TinyAgentError):
                failed = in_terms_of_options(error, plan, tools_refused=bool(self._guards.refused))
        finally:
            self._restore(restore)
            add_cost(plan, progress)
            reason = self._cause or failed
            if reason is None:
                reason = missing_answer(plan, progress, tools_refused=bool(self._guards.refused))
            self._end(id, progress, reason)
            self._run = None

    def _restore(self, restore: Callable[[], None]) -> None:
        """Restore the settings from before a template."""
        try:
            restore()
        except TinyAgentError as error:
            self._app.warn(f"The tools from before the template cannot be loaded again: {error}")

    def _end(self, id: Id, progress: Progress, error: BaseException | None) -> None:
        session = self._plan.session
        saved = session.id if session is not None and session.started else None
        last = result(progress, error, saved, progress.seconds)
        if session is not None:
            session.end_run(last)
        if self._output is not None:
            self._output.write(with_id(self._encoder.encode(msgspec.convert(last, ResultRecord)), id))

    def _on_event(self, event: AgentEvent) -> None:
        line = self._encoder.encode(event)
        if line and self._output is not None:
            self._output.write(with_id(line, None if self._run is None else self._run.id))
        self._progress(event)
        if type(event) is MessageEndEvent and event.message in self._queued:
            self._queued = [message for message in self._queued if message != event.message]

    def close(self) -> None:
        """Close the session."""
        if self._plan.session is not None:
            self._plan.session.end()
