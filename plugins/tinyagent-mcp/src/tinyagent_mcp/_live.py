"""An open connection: its transport, the client of the SDK, and the task that holds both open.

One task opens and closes a connection, because the SDK's contexts must be left by the task that entered them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
from mcp import Client
from mcp.client import ClientRequestContext, Transport
from mcp.client.streamable_http import streamable_http_client
from mcp_types import Implementation, ListRootsResult, Root
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import FileUrl

from tinyagent import __version__

from . import _quiet_sdk
from ._config import ServerConfig
from ._inbound import Inbound
from ._oauth import TokenAuth
from ._questions import Questions
from ._sign_in import load
from ._stdio import MAX_LINE, stdio_transport
from ._streams import BoundedStream, repaired

__all__ = ["Live"]

STDERR_LINES = 20
CLOSE_SECONDS = 6.0

_STATUS_ONLY = ("Server returned an error response", "Not Found")
"""Messages of the SDK that contain only an HTTP status."""

_quiet_sdk.apply()


class Live:
    """An open connection to a server.

    Args:
        config: The server.
        questions: Answers its questions.
        roots: The directories for a server that asks for them.

    Attributes:
        inbound: Its messages.
        lost: Whether the server ended the connection.
        changed: Whether the server announced a change of its tools or resources that was not yet read.
    """

    def __init__(self, config: ServerConfig, questions: Questions, roots: Sequence[Path]) -> None:
        self.lost = False
        self.changed = False
        self.inbound = Inbound(
            self._announce_change, questions.methods | ({"roots/list"} if roots else frozenset())
        )
        self._config = config
        self._questions = questions
        self._roots = roots
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()
        self._status: int | None = None  # of the last response over HTTP, if it is an error
        self._auth: TokenAuth | None = None
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)

    @property
    def client(self) -> Client:
        """The client of the SDK, after `open`."""
        assert self._client is not None
        return self._client

    async def open(self, mode: str) -> None:
        """Open the connection. Its errors are those of the SDK and of the transport.

        Args:
            mode: Which versions of the protocol the client tries.
        """
        ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(mode, ready))
        self._task.add_done_callback(self._end_of_task)
        either: tuple[asyncio.Future[None], asyncio.Future[Client]] = (self._task, ready)
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await self._task  # raises its error
        self._client = await ready

    async def close(self) -> None:
        """Close the connection. A server gets some time to end."""
        assert self._task is not None
        self._leave.set()
        done, _ = await asyncio.wait({self._task}, timeout=CLOSE_SECONDS)
        if not done:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1)

    async def abandon(self) -> None:
        """Close a connection that could not be opened."""
        assert self._task is not None
        self._leave.set()
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=CLOSE_SECONDS)

    def text_of(self, error: BaseException) -> str:
        """Return the text of an error with the HTTP status, and without secrets of the configuration."""
        text = str(error) or type(error).__name__
        if self._status is not None and text in _STATUS_ONLY:
            text = f"HTTP {self._status}"
            if self._auth is not None and self._auth.problem:
                text += f". {self._auth.problem}"
            elif self._status in (401, 403):
                text += (
                    f", so it needs credentials. Sign in: tinyagent mcp login {self._config.name}. "
                    "Or add them to `headers` of the server in mcp.toml"
                )
        return self._config.redacted(text if self._auth is None else self._auth.redacted(text))

    def last_output(self) -> str:
        """Return the last lines of standard error. The command line makes them safe for a terminal."""
        lines = "\n".join(list(self._stderr)[-5:])
        return f" Its last output:\n{self._config.redacted(lines)}\n" if lines else ""

    def _announce_change(self) -> None:
        self.changed = True

    def _end(self) -> None:
        self.lost = True

    def _end_of_task(self, task: asyncio.Task[None]) -> None:
        self.lost = True
        if not task.cancelled():
            task.exception()  # raised in the requests that wait for it

    async def _hold(self, mode: str, ready: asyncio.Future[Client]) -> None:
        """Keep the connection open until `_leave` is set."""
        config = self._config
        async with AsyncExitStack() as stack:
            transport = repaired(await self._transport(stack), self.inbound, self._end)
            client = await stack.enter_async_context(
                Client(
                    transport,
                    mode=mode,
                    client_info=Implementation(name="tinyagent", version=__version__),
                    cache=None,
                    raise_exceptions=False,
                    elicitation_callback=self._questions.elicit if config.elicitation else None,
                    sampling_callback=self._questions.sample if config.sampling else None,
                    list_roots_callback=self._list_roots if self._roots else None,
                )
            )
            listening = asyncio.create_task(_listen(client))
            try:
                ready.set_result(client)
                await self._leave.wait()
            finally:
                listening.cancel()
                await asyncio.wait({listening}, timeout=1)

    async def _list_roots(self, context: ClientRequestContext) -> ListRootsResult:
        return ListRootsResult(
            roots=[Root(uri=FileUrl(path.as_uri()), name=path.name or str(path)) for path in self._roots]
        )

    async def _transport(self, stack: AsyncExitStack) -> Transport:
        config = self._config
        if config.url is None:
            environment = config.environment()
            command = config.program(environment)
            directory = config.start_directory()
            launch = await asyncio.to_thread(config.launch, command, environment, directory)
            return stdio_transport(launch, directory, self._stderr, self._end)

        async def on_response(response: httpx2.Response) -> None:
            self._status = response.status_code if response.status_code >= 400 else None
            is_events = response.headers.get("content-type", "").lower().startswith("text/event-stream")
            if isinstance(response.stream, httpx2.AsyncByteStream) and not is_events:
                response.stream = BoundedStream(response.stream)

        sign_in = load(config)
        if sign_in is not None:
            self._auth = TokenAuth(config, sign_in)
        client = httpx2.AsyncClient(
            auth=self._auth,
            headers=config.expanded(config.headers, "headers"),
            timeout=httpx2.Timeout(30, read=None),  # each request has its own limit
            event_hooks={"response": [on_response]},
        )
        await stack.enter_async_context(client)
        return streamable_http_client(config.url, http_client=client, max_sse_event_size=MAX_LINE)


async def _listen(client: Client) -> None:
    """Subscribe to changes of tools. Before the protocol of 2026, servers announce them unasked."""
    tools = client.server_capabilities.tools
    if client.protocol_version in MODERN_PROTOCOL_VERSIONS and tools is not None and tools.list_changed:
        # `Inbound` reads the announcements. Servers without this feature work, too.
        with contextlib.suppress(Exception):
            async with client.listen(tools_list_changed=True) as events:
                async for _ in events:
                    pass
