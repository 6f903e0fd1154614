"""The agent as the SDK calls it: the requests of an editor, and the sessions that they are about."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from acp import PROTOCOL_VERSION, RequestError
from acp.interfaces import Client
from acp.schema import (
    AgentCapabilities,
    AuthenticateResponse,
    AuthMethodAgent,
    ClientCapabilities,
    CloseSessionResponse,
    ConfigOptionUpdate,
    ElicitationCapabilities,
    ForkSessionResponse,
    Implementation,
    InitializeResponse,
    ListSessionsResponse,
    LoadSessionResponse,
    McpCapabilities,
    NewSessionResponse,
    PromptCapabilities,
    PromptResponse,
    ResumeSessionResponse,
    SessionCapabilities,
    SessionCloseCapabilities,
    SessionForkCapabilities,
    SessionInfo,
    SessionListCapabilities,
    SessionResumeCapabilities,
    SetSessionConfigOptionResponse,
    SetSessionModeResponse,
)

from tinyagent import TinyAgentError

from . import _catalogue
from ._errors import invalid_params, request_error
from ._options import MODE, MODEL
from ._prompt import PromptBlock
from ._servers import McpServer, ServerFile, can_use_servers
from ._session import Session, SessionSettings

__all__ = ["AcpAgent"]

T = TypeVar("T")

_KEYS = "keys"


class AcpAgent:
    """Answers the requests of one editor.

    Args:
        arguments: The options for each `tinyagent rpc`.
        tools: The names of the tools; those of the configuration if it is empty.
        mode: The mode of new sessions.
    """

    def __init__(self, arguments: Sequence[str], tools: Sequence[str], mode: str) -> None:
        self._arguments = arguments
        self._tools = tools
        self._mode = mode
        self._client: Client | None = None
        self._can_elicit: ElicitationCapabilities | None = None
        self._sessions: dict[str, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def on_connect(self, conn: Client) -> None:
        """Take the connection to the editor."""
        self._client = conn

    async def close(self) -> None:
        """Close all sessions."""
        await asyncio.gather(*(session.close() for session in self._sessions.values()))
        self._sessions.clear()

    def on_sent(self, message: dict[str, object]) -> None:
        """Announce the commands of a new session, after the editor has learned its id."""
        result = message.get("result")
        session = self._sessions.get(str(result.get("sessionId"))) if isinstance(result, dict) else None
        if session is not None:
            self._spawn(session.announce_commands())

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except (ConnectionError, TinyAgentError):
                pass  # the editor has left

        task = asyncio.ensure_future(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- the connection ------------------------------------------------------------------------------------

    async def initialize(
        self,
        protocol_version: int,
        client_capabilities: ClientCapabilities | None = None,
        client_info: Implementation | None = None,
        **kwargs: object,
    ) -> InitializeResponse:
        """Tell the editor what the agent can do."""
        self._can_elicit = None if client_capabilities is None else client_capabilities.elicitation
        return InitializeResponse(
            protocol_version=PROTOCOL_VERSION,
            agent_info=Implementation(name="tinyagent", title="tinyagent", version=version("tinyagent-acp")),
            agent_capabilities=AgentCapabilities(
                load_session=True,
                prompt_capabilities=PromptCapabilities(image=True, audio=False, embedded_context=True),
                mcp_capabilities=McpCapabilities(http=can_use_servers(), sse=False),
                session_capabilities=SessionCapabilities(
                    list=SessionListCapabilities(),
                    resume=SessionResumeCapabilities(),
                    close=SessionCloseCapabilities(),
                    fork=SessionForkCapabilities(),
                ),
            ),
            auth_methods=[
                AuthMethodAgent(
                    id=_KEYS,
                    name="Store a key in a terminal",
                    description="Run 'tinyagent keys set PROVIDER', and choose a model with "
                    "'tinyagent config set run.model PROVIDER/ID'. Then try again.",
                )
            ],
        )

    async def authenticate(self, method_id: str, **kwargs: object) -> AuthenticateResponse:
        """Check whether a session could be started now. Keys are stored by the user, in a terminal."""
        if method_id != _KEYS:
            raise invalid_params(f"There is no authentication method {method_id!r}.")
        session = await _answered(self._start(Path.cwd().anchor, [], ["--no-session"]))
        await session.close()
        return AuthenticateResponse()

    # ---- sessions ------------------------------------------------------------------------------------------

    async def new_session(
        self,
        cwd: str,
        additional_directories: list[str] | None = None,
        mcp_servers: list[McpServer] | None = None,
        **kwargs: object,
    ) -> NewSessionResponse:
        """Start a session in a folder."""
        session = await _answered(self._start(cwd, mcp_servers or [], []))
        session.needs_title = True
        self._sessions[session.id] = session
        return NewSessionResponse(
            session_id=session.id, modes=session.modes, config_options=[*session.config_options]
        )

    async def load_session(
        self,
        cwd: str,
        session_id: str,
        mcp_servers: list[McpServer] | None = None,
        additional_directories: list[str] | None = None,
        **kwargs: object,
    ) -> LoadSessionResponse:
        """Continue a saved session, and show its conversation again."""
        session = await self._continue(cwd, session_id, mcp_servers or [])
        await _answered(session.replay())
        await session.announce_commands()
        return LoadSessionResponse(modes=session.modes, config_options=[*session.config_options])

    async def resume_session(
        self,
        session_id: str,
        cwd: str,
        additional_directories: list[str] | None = None,
        mcp_servers: list[McpServer] | None = None,
        **kwargs: object,
    ) -> ResumeSessionResponse:
        """Continue a saved session, which the editor shows by itself."""
        session = await self._continue(cwd, session_id, mcp_servers or [])
        await session.announce_commands()
        return ResumeSessionResponse(modes=session.modes, config_options=[*session.config_options])

    async def fork_session(
        self,
        session_id: str,
        cwd: str,
        additional_directories: list[str] | None = None,
        mcp_servers: list[McpServer] | None = None,
        **kwargs: object,
    ) -> ForkSessionResponse:
        """Continue a copy of a saved session, which the editor shows by itself."""
        _check_folder(cwd)
        await _check_saved(session_id)
        copy = await _answered(_catalogue.copy_session(cwd, session_id))
        try:
            session = await self._continue(cwd, copy, mcp_servers or [])
        except Exception:
            await _answered(_catalogue.remove_session(cwd, copy))  # the editor does not know of the copy
            raise
        return ForkSessionResponse(
            session_id=session.id, modes=session.modes, config_options=[*session.config_options]
        )

    async def list_sessions(
        self, cwd: str | None = None, cursor: str | None = None, **kwargs: object
    ) -> ListSessionsResponse:
        """Return the saved sessions, of a folder or of all. There is one page."""
        found = [
            SessionInfo(
                session_id=entry.id,
                cwd=entry.cwd,
                title=entry.shown_title,
                updated_at=datetime.fromtimestamp(entry.used / 1000, UTC).isoformat(),
            )
            for entry in await _answered(_catalogue.sessions())
            if Path(entry.cwd).is_absolute() and cwd in (None, entry.cwd)
        ]
        return ListSessionsResponse(sessions=found)

    async def close_session(self, session_id: str, **kwargs: object) -> CloseSessionResponse:
        """End a session. It stays saved."""
        session = self._session(session_id)
        del self._sessions[session_id]
        await session.close()
        return CloseSessionResponse()

    async def _start(
        self, cwd: str, servers: Sequence[McpServer], arguments: Sequence[str], saved: str | None = None
    ) -> Session:
        _check_folder(cwd)
        assert self._client is not None
        file = ServerFile(servers)
        try:
            templates, tools = await asyncio.gather(_catalogue.templates(cwd), _tools(self._tools, cwd))
            names = [*tools, *(["mcp"] if file and "mcp" not in tools else [])]
            options = [*self._arguments, *(part for name in names for part in ("-t", name)), *arguments]
            commands = [item for item in templates if item.needs_only_a_prompt and not item.hidden]
            settings = SessionSettings(options, cwd, file, commands, self._can_elicit)
            session = Session(self._client, settings, self._mode)
            await session.start(saved)
        except BaseException:
            file.remove()
            raise
        try:
            session.offer_models(await _catalogue.models(cwd, session.provider))
        except TinyAgentError:
            pass  # no list is stored
        return session

    async def _continue(self, cwd: str, id: str, servers: Sequence[McpServer]) -> Session:
        await _check_saved(id)
        if (open_one := self._sessions.pop(id, None)) is not None:
            await open_one.close()
        session = await _answered(self._start(cwd, servers, [], id))
        self._sessions[id] = session
        return session

    def _session(self, id: str) -> Session:
        session = self._sessions.get(id)
        if session is None:
            raise RequestError(-32002, f"No session {id!r} is open. Load it first.", {"sessionId": id})
        return session

    # ---- requests of a session -----------------------------------------------------------------------------

    async def prompt(self, session_id: str, prompt: list[PromptBlock], **kwargs: object) -> PromptResponse:
        """Run the agent."""
        session = self._session(session_id)
        try:
            return await session.prompt(prompt)
        finally:
            if session.needs_title:
                session.needs_title = False
                self._spawn(self._announce_title(session))

    async def cancel(self, session_id: str, **kwargs: object) -> None:
        """End the run under way."""
        if (session := self._sessions.get(session_id)) is not None:
            await session.cancel()

    async def set_session_mode(
        self, session_id: str, mode_id: str, **kwargs: object
    ) -> SetSessionModeResponse:
        """Choose a mode."""
        session = self._session(session_id)
        await _answered(session.set_mode(mode_id))
        await self._show_options(session)
        return SetSessionModeResponse()

    async def set_config_option(
        self, config_id: str, session_id: str, value: str | bool, **kwargs: object
    ) -> SetSessionConfigOptionResponse:
        """Choose a mode or a model."""
        session = self._session(session_id)
        setters: dict[str, Callable[[str], Awaitable[None]]] = {
            MODE: session.set_mode,
            MODEL: session.set_model,
        }
        if config_id not in setters or not isinstance(value, str):
            raise invalid_params(f"There is no setting {config_id!r} with the value {value!r}.")
        await _answered(setters[config_id](value))
        return SetSessionConfigOptionResponse(config_options=[*session.config_options])

    async def ext_method(self, method: str, params: dict[str, object]) -> dict[str, object]:
        """Refuse: there are no extensions."""
        raise RequestError.method_not_found(f"_{method}")

    async def ext_notification(self, method: str, params: dict[str, object]) -> None:
        """Ignore an extension, as the protocol asks for."""

    async def _announce_title(self, session: Session) -> None:
        """Tell the editor the title of a new session, which is the one in the list of sessions."""
        for entry in await _catalogue.sessions():
            if entry.id == session.id and session.id in self._sessions:
                await session.announce_title(entry.shown_title)

    async def _show_options(self, session: Session) -> None:
        assert self._client is not None
        update = ConfigOptionUpdate(
            session_update="config_option_update", config_options=[*session.config_options]
        )
        await self._client.session_update(session.id, update)


def _check_folder(path: str) -> None:
    """Check the working directory of a session.

    Raises:
        RequestError: It is relative, or there is no such folder.
    """
    if not Path(path).is_absolute() or not Path(path).is_dir():
        raise invalid_params(f"The working directory {path!r} is not the full path of a folder.")


async def _check_saved(id: str) -> None:
    """Check that a session is saved.

    Raises:
        RequestError: There is none of this id.
    """
    if id not in [entry.id for entry in await _answered(_catalogue.sessions())]:
        raise RequestError(-32002, f"There is no session {id!r}.", {"sessionId": id})


async def _answered(work: Awaitable[T]) -> T:
    """Await, and make an error of tinyagent the error of the request."""
    try:
        return await work
    except TinyAgentError as error:
        raise request_error(error) from None


async def _tools(names: Sequence[str], folder: str) -> Sequence[str]:
    return names or await _catalogue.default_tools(folder)
