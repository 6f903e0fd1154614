"""A session of an editor: a conversation in a `tinyagent rpc`, its mode, and the prompt under way."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from acp import RequestError, update_agent_message_text
from acp.interfaces import Client
from acp.schema import (
    CurrentModeUpdate,
    ElicitationCapabilities,
    PromptResponse,
    SessionConfigOptionSelect,
    SessionInfoUpdate,
    SessionModeState,
    StopReason,
    Usage,
)

from tinyagent import AgentStateError, TinyAgentError

from ._approvals import CANCELLED, ask_permission
from ._catalogue import Template
from ._errors import invalid_params, request_error
from ._modes import MODES, READ_ONLY, accepts
from ._options import COMPACT, commands_update, config_options, mode_state
from ._prompt import PromptBlock, message_of, slash_command
from ._questions import DECLINED, ask_user
from ._rpc import Failure, Line, Message, Rpc, failure
from ._servers import ServerFile
from ._updates import CallIds, RunUpdates, Update, history_updates

__all__ = ["Session", "SessionSettings"]

_STOP_REASONS: dict[str, StopReason] = {
    "aborted": "cancelled",
    "output_truncated": "max_tokens",
    "max_turns": "max_turn_requests",
    "content_filter": "refusal",
}
"""The ends of a run that the protocol has a name for, by the kind of error. All others are errors."""


class SessionSettings(NamedTuple):
    """What a session is started with.

    Attributes:
        arguments: The options of `tinyagent rpc`.
        folder: The working directory.
        servers: The MCP servers of the editor.
        templates: The templates that are offered as commands.
        can_elicit: What the editor can ask the user, beside permissions.
    """

    arguments: Sequence[str]
    folder: str
    servers: ServerFile
    templates: Sequence[Template]
    can_elicit: ElicitationCapabilities | None


class _Turn:
    """The prompt under way."""

    def __init__(self, updates: RunUpdates) -> None:
        self.updates = updates
        self.result: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        self.cancelled = False


class Session:
    """A session.

    Args:
        client: The editor.
        settings: What it is started with.
        mode: The mode at first.
    """

    def __init__(self, client: Client, settings: SessionSettings, mode: str) -> None:
        self.id = ""
        self.folder = settings.folder
        self.needs_title = False
        self._client = client
        self._settings = settings
        self._rpc: Rpc | None = None
        self._turn: _Turn | None = None
        self._busy = False
        self._mode = mode
        self._model = ""
        self._models: list[str] = []
        self._saved = False
        self._ids = CallIds()
        self._questions: set[asyncio.Task[None]] = set()

    # ---- its process ---------------------------------------------------------------------------------------

    async def start(self, saved: str | None = None) -> None:
        """Start the process, with the session of this id if it is given.

        Raises:
            TinyAgentError: It cannot be started.
        """
        arguments = [*self._settings.arguments]
        if saved is not None:
            arguments += ["--session", saved]
            self._saved = True
        self._rpc = await Rpc.start(arguments, self.folder, self._settings.servers.environment, self._on_line)
        self.id = self.id or self._rpc.id
        if self._mode == READ_ONLY:
            await self._rpc.call("set_read_only", enabled=True)
        if self._model:
            await self._rpc.call("set_model", model=self._model)
        else:
            state = msgspec.json.decode(await self._rpc.call("state"), type=_State)
            self._model = state.model

    async def _running(self) -> Rpc:
        """Return the process. One that has ended is started again."""
        if self._rpc is None or not self._rpc.is_running:
            await self.start(self.id if self._saved else None)
        assert self._rpc is not None
        return self._rpc

    async def close(self) -> None:
        """End the run under way and the process."""
        self._cancel_questions()
        if self._turn is not None:
            self._turn.cancelled = True
        if self._rpc is not None:
            await self._rpc.close()
        self._settings.servers.remove()

    # ---- its settings --------------------------------------------------------------------------------------

    @property
    def provider(self) -> str:
        """The provider of the model."""
        return self._model.partition("/")[0]

    def offer_models(self, names: Sequence[str]) -> None:
        """Set the models that the editor can choose from, beside the present one."""
        self._models = list(names)

    @property
    def modes(self) -> SessionModeState:
        """The modes, for the editor."""
        return mode_state(self._mode)

    @property
    def config_options(self) -> list[SessionConfigOptionSelect]:
        """The settings that the editor shows."""
        return config_options(self._mode, self._model, self._models)

    async def set_mode(self, mode: str) -> None:
        """Choose a mode. It holds from the next tool call on, also in a run.

        Raises:
            RequestError: There is no such mode.
        """
        if mode not in [known.id for known in MODES]:
            raise invalid_params(f"There is no mode {mode!r}.")
        rpc = await self._running()
        await rpc.call("set_read_only", enabled=mode == READ_ONLY)
        self._mode = mode
        await self._update(CurrentModeUpdate(session_update="current_mode_update", current_mode_id=mode))

    async def set_model(self, model: str) -> None:
        """Choose the model of the next prompts.

        Raises:
            TinyAgentError: There is no such model, or it has no key.
        """
        rpc = await self._running()
        self._model = msgspec.json.decode(await rpc.call("set_model", model=model), type=_State).model

    async def announce_commands(self) -> None:
        """Tell the editor which commands begin with a slash."""
        await self._update(commands_update(self._settings.templates))

    async def announce_title(self, title: str | None) -> None:
        """Tell the editor the title."""
        await self._update(SessionInfoUpdate(session_update="session_info_update", title=title))

    async def replay(self) -> None:
        """Show the conversation to the editor again."""
        rpc = await self._running()
        found = msgspec.json.decode(await rpc.call("messages"), type=_Messages)
        for update in history_updates(found.messages, self.folder, self._ids):
            await self._update(update)

    # ---- a prompt ------------------------------------------------------------------------------------------

    async def prompt(self, blocks: Sequence[PromptBlock]) -> PromptResponse:
        """Run the agent, and return how the run ended.

        Raises:
            RequestError: The run failed, or another one is under way.
        """
        if self._busy:
            raise request_error(
                AgentStateError(
                    "A prompt is under way in this session.", hint="Cancel it, or wait for its end."
                )
            )
        self._busy = True
        self._turn = turn = _Turn(RunUpdates(self._update, self.folder, self._ids))
        try:
            rpc = await self._running()
            if turn.cancelled:
                return PromptResponse(stop_reason="cancelled")
            command = slash_command(blocks)
            if command is not None and command[0] == COMPACT:
                return await self._compact(rpc, command[1])
            await self._begin(rpc, command, blocks)
            return _response(await turn.result)
        except TinyAgentError as error:
            if turn.cancelled and error.kind == "aborted":
                return PromptResponse(stop_reason="cancelled")
            raise request_error(error) from None
        finally:
            self._cancel_questions()
            with contextlib.suppress(ConnectionError):  # the editor has left
                await turn.updates.close()
            self._turn, self._busy = None, False

    async def _begin(self, rpc: Rpc, command: tuple[str, str] | None, blocks: Sequence[PromptBlock]) -> None:
        message = message_of(blocks, self.folder)
        if command is not None and command[0] in [template.name for template in self._settings.templates]:
            name = command[0]
            text = message.text.removeprefix(f"/{name}").strip()
            await rpc.call("prompt", template=name, message=text, images=message.images, answers_input=True)
        else:
            await rpc.call("prompt", message=message.text, images=message.images, answers_input=True)

    async def _compact(self, rpc: Rpc, instructions: str) -> PromptResponse:
        data = msgspec.json.decode(await rpc.call("compact", instructions=instructions), type=_Compacted)
        text = (
            f"A summary has replaced {data.replaced} messages."
            if data.replaced
            else "Nothing to replace yet."
        )
        await self._update(update_agent_message_text(text))
        return PromptResponse(stop_reason="end_turn")

    async def cancel(self) -> None:
        """End the run under way. Its prompt then returns `cancelled`."""
        if self._turn is None or self._rpc is None:
            return
        self._turn.cancelled = True
        self._cancel_questions()
        await self._rpc.notify("abort")

    async def _on_line(self, line: Line) -> None:
        """Take a line of the process."""
        turn = self._turn
        try:
            if line.type in ("approval_request", "input_request"):
                ask = self._ask if line.type == "approval_request" else self._ask_user
                task = asyncio.create_task(ask(line))
                self._questions.add(task)
                task.add_done_callback(self._questions.discard)
            elif line.type in ("result", "end"):
                self._saved = self._saved or line.session is not None
                if turn is not None and not turn.result.done():
                    turn.result.set_result(line)
            elif turn is not None:
                await turn.updates.take(line)
        except ConnectionError:
            pass  # the editor has left, so that the session will be closed

    async def _update(self, update: Update) -> None:
        await self._client.session_update(self.id, update)

    # ---- approvals -----------------------------------------------------------------------------------------

    async def _ask(self, line: Line) -> None:
        """Answer a question of the process, by the mode or by the editor. Without an answer it is no."""
        assert self._rpc is not None
        answer = "yes"
        if not accepts(self._mode, line.tool_name):
            call = line.tool_call_id if self._turn is None else self._turn.updates.id_of(line.tool_call_id)
            try:
                answer = await ask_permission(self._client, self.id, line, call, self.folder)
            except (
                RequestError,
                ConnectionError,
                ValueError,
            ):  # it refuses the request, or its reply is wrong
                answer = "no"
        if answer == CANCELLED:
            await self.cancel()
        else:
            await self._rpc.notify("approve", request=line.request, answer=answer)

    async def _ask_user(self, line: Line) -> None:
        """Answer a question of a tool or an MCP server by the editor. Without an answer it is declined."""
        assert self._rpc is not None
        id = self._ids.new(line.request)
        can = self._settings.can_elicit
        try:
            answer = await ask_user(self._client, self.id, line, can, id, self._update)
        except (RequestError, ConnectionError, ValueError):
            answer = DECLINED
        if answer.cancelled:
            await self.cancel()
            return
        try:
            await self._rpc.call("respond", request=line.request, accept=answer.accept, values=answer.values)
        except TinyAgentError as error:  # the values do not fit the form, or the run has ended
            print(f"An answer to {line.source} is not used: {error}", file=sys.stderr)  # noqa: T201
            await self._rpc.notify("respond", request=line.request, accept=False)

    def _cancel_questions(self) -> None:
        for task in self._questions:
            task.cancel()


class _State(msgspec.Struct, frozen=True):
    model: str = ""


class _Messages(msgspec.Struct, frozen=True):
    messages: list[Message] = []


class _Compacted(msgspec.Struct, frozen=True):
    replaced: int = 0


def _response(line: Line) -> PromptResponse:
    """Return how a run ended.

    Raises:
        TinyAgentError: It failed in a way that the protocol has no stop reason for.
    """
    if line.ok:
        return PromptResponse(stop_reason="end_turn", usage=_usage(line))
    error = line.error if isinstance(line.error, Failure) else Failure(message="The run failed.")
    if error.kind in _STOP_REASONS:
        return PromptResponse(stop_reason=_STOP_REASONS[error.kind], usage=_usage(line))
    raise failure(error.message, error.kind, error.hint)


def _usage(line: Line) -> Usage | None:
    def count(key: str) -> int:
        value = (line.usage or {}).get(key)
        return value if isinstance(value, int) and value > 0 else 0

    if not line.usage:
        return None
    return Usage(
        input_tokens=count("input"),
        output_tokens=count("output"),
        total_tokens=count("total"),
        cached_read_tokens=count("cache_read") or None,
        cached_write_tokens=count("cache_write") or None,
    )
