"""An editor for tests: the SDK's client, and `tinyagent acp` as its process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from acp import spawn_agent_process, text_block
from acp.interfaces import Client
from acp.schema import (
    AcceptElicitationResponse,
    AllowedOutcome,
    ClientCapabilities,
    DeclineElicitationResponse,
    DeniedOutcome,
    ElicitationCapabilities,
    ElicitationFormCapabilities,
    ElicitationUrlCapabilities,
    InitializeResponse,
    NewSessionResponse,
    PromptResponse,
    RequestPermissionResponse,
)

from tinyagent.testing import FakeReply, FakeServer

COMMAND = (sys.executable, "-P", "-m", "tinyagent_cli", "acp")
PATIENCE = 60.0
Update = dict[str, Any]
Answer = Callable[[Update], Awaitable[str | None]]


class Editor(Client):
    """The client. It records the updates, and answers questions with `answer`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.updates: list[Update] = []
        self.questions: list[Update] = []
        self.answer: str | None = "yes"
        self.elicitations: list[Update] = []
        self.filled_in: Update | None = None
        self.asked = asyncio.Event()
        self.agent: Any = None
        self.process: Any = None

    def on_connect(self, conn: Any) -> None:
        """Take the connection."""

    async def session_update(self, session_id: str, update: Any, **kwargs: Any) -> None:
        """Record an update."""
        self.updates.append(
            {**update.model_dump(mode="json", by_alias=True, exclude_none=True), "session": session_id}
        )

    async def request_permission(self, session_id: str, tool_call: Any, options: Any, **kwargs: Any) -> Any:
        """Answer with the option `answer`; with None when the prompt is cancelled."""
        self.questions.append(
            {
                **tool_call.model_dump(mode="json", by_alias=True, exclude_none=True),
                "options": {option.option_id: option.kind for option in options},
            }
        )
        self.asked.set()
        if self.answer is None:
            await asyncio.Event().wait()
        if self.answer == "cancelled":
            return RequestPermissionResponse(outcome=DeniedOutcome(outcome="cancelled"))
        return RequestPermissionResponse(outcome=AllowedOutcome(outcome="selected", option_id=self.answer))

    async def create_elicitation(self, message: str, mode: Any, **kwargs: Any) -> Any:
        """Answer with the values `filled_in`; decline if they are None."""
        self.elicitations.append(
            {"message": message, **mode.model_dump(mode="json", by_alias=True, exclude_none=True)}
        )
        self.asked.set()
        if self.filled_in is None:
            return DeclineElicitationResponse(action="decline")
        return AcceptElicitationResponse(action="accept", content=self.filled_in)

    # ---- shorthands ----------------------------------------------------------------------------------------

    async def new(self, **fields: Any) -> NewSessionResponse:
        """Start a session in the folder."""
        return await self.agent.new_session(cwd=str(self.folder), **{"mcp_servers": [], **fields})

    async def ask(self, session: str, text: str) -> PromptResponse:
        """Send a prompt of text."""
        return await self.agent.prompt(session_id=session, prompt=[text_block(text)])

    def text(self, kind: str = "agent_message_chunk") -> str:
        """Return the joined texts of the updates of a kind."""
        return "".join(
            update["content"]["text"] for update in self.updates if update["sessionUpdate"] == kind
        )

    def calls(self) -> dict[str, list[Update]]:
        """Return the updates of each tool call, by its id. The first one must announce it."""
        found: dict[str, list[Update]] = {}
        for update in self.updates:
            if update["sessionUpdate"] in ("tool_call", "tool_call_update"):
                assert (update["sessionUpdate"] == "tool_call") == (update["toolCallId"] not in found)
                found.setdefault(update["toolCallId"], []).append(update)
        return found

    def statuses(self) -> list[list[str]]:
        """Return the statuses of each tool call, without repetitions."""
        return [
            list(dict.fromkeys(u["status"] for u in call if "status" in u)) for call in self.calls().values()
        ]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition of the updates is met."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty home, and no key of the user."""
    path = tmp_path / "home"
    path.mkdir()
    for name in os.environ:
        if name.endswith("_API_KEY") or name.startswith("TINYAGENT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("TINYAGENT_HOME", str(path / "tinyagent"))
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder of the sessions."""
    path = tmp_path / "project"
    path.mkdir()
    return path


def command_line(pid: int) -> str:
    """Return the command line of a process, with NUL characters between its words; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def processes_with(text: str) -> list[int]:
    """Return the processes whose command line has this text. Their own ids may be those of a sandbox."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


Start = Callable[..., Awaitable[Editor]]


@pytest.fixture
async def start(home: Path, project: Path) -> AsyncIterator[Start]:
    """Start `tinyagent acp` with these options, by default with the demo and the tools for files."""
    async with AsyncExitStack() as stack:

        async def begin(*options: str, model: str | None = "demo", tools: str = "fs,calc") -> Editor:
            editor = Editor(project)
            named = [] if model is None else ["-m", model]
            for name in filter(None, tools.split(",")):
                named += ["-t", name]
            editor.agent, editor.process = await stack.enter_async_context(
                spawn_agent_process(
                    editor, *COMMAND, *named, *options, env=dict(os.environ), use_unstable_protocol=True,
                    transport_kwargs={"stderr": None, "shutdown_timeout": PATIENCE},
                )
            )  # fmt: skip
            await initialize(editor)
            return editor

        yield begin


async def initialize(editor: Editor, elicits: bool = False) -> InitializeResponse:
    """Begin the connection, as an editor with or without forms."""
    can = ElicitationCapabilities(form=ElicitationFormCapabilities(), url=ElicitationUrlCapabilities())
    reply: InitializeResponse = await editor.agent.initialize(
        protocol_version=1, client_capabilities=ClientCapabilities(elicitation=can if elicits else None)
    )
    return reply


@pytest.fixture
async def serve(home: Path) -> AsyncIterator[Callable[..., FakeServer]]:
    """Start a server of models with these replies; it is `-m local/MODEL`."""
    servers: list[FakeServer] = []

    def begin(*replies: FakeReply) -> FakeServer:
        server = FakeServer(*replies)
        server.__enter__()
        servers.append(server)
        config = home / "tinyagent" / "config.toml"
        config.parent.mkdir(exist_ok=True)
        config.write_text(f'[providers.local]\nbase_url = "{server.url}"\n')
        return server

    yield begin
    for server in servers:
        server.__exit__(None, None, None)
