"""One server, talked to through the `mcp` SDK: started when it is needed, again when it has died.

All of this runs in the loop of the `Host`. A connection is opened and closed by one task, since the SDK's
contexts must be left by the task that entered them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TextIO, TypeVar

import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import CONNECTION_CLOSED, Implementation
from pydantic import ValidationError

from tinyagent import AgentToolResult, ToolError

from ._config import ServerConfig
from ._content import as_result, resource_parts, text_of
from ._listing import ListedTool, Listing, remember

__all__ = ["Connection"]

KEEPER = Path(__file__).with_name("_keeper.py")
STDERR_LINES = 20
MAX_PAGES = 100
CLOSE_SECONDS = 6.0

T = TypeVar("T")

# A server that prints what is not MCP is the server's business; where nobody listens, nothing is printed.
for _logger in ("mcp", "client"):
    logging.getLogger(_logger).addHandler(logging.NullHandler())


class _Died(Exception):
    """The connection ended before there was an answer."""


class _Live:
    """A connection while it lasts: the task that holds it, and what ends it."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.task: asyncio.Task[None] | None = None
        self.leave = asyncio.Event()
        self.lost = False
        self.stderr: deque[str] = deque(maxlen=STDERR_LINES)


class Connection:
    """A server and, from the first request on, the connection to it."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.listing: Listing | None = None
        self._live: _Live | None = None
        self._lock = asyncio.Lock()

    async def discover(self) -> Listing:
        """What the server offers now."""
        await self._connected()
        assert self.listing is not None
        return self.listing

    async def call_tool(
        self, tool: ListedTool, arguments: dict[str, Any], on_progress: ProgressFnT
    ) -> AgentToolResult:
        """Call a tool that was listed."""
        client = await self._connected()
        assert self.listing is not None
        now = self.listing.tool(tool.name)
        if now is None:
            raise ToolError(f"The MCP server {self.config.name!r} does not offer {tool.name!r} any more.")
        if tool.read_only and not now.read_only:
            # It was let through without a question, on a promise that is not made any more.
            raise ToolError(
                f"The MCP server {self.config.name!r} does not call {tool.name!r} read-only any more, so it "
                "was not run. In the next run the user is asked."
            )
        answer = await self._ask(
            lambda: client.call_tool(tool.name, arguments, progress_callback=on_progress), f"{tool.name!r}"
        )
        result = as_result(answer)
        if answer.is_error:
            raise ToolError(text_of(result) or f"{tool.name!r} failed and did not say why.")
        return result

    async def list_resources(self) -> list[dict[str, Any]]:
        """Resources and templates of resources, as plain data."""
        client = await self._connected()

        async def both() -> list[dict[str, Any]]:
            found: list[Any] = []
            cursor: str | None = None
            for _ in range(MAX_PAGES):
                page = await client.list_resources(cursor=cursor)
                found += page.resources
                if (cursor := page.next_cursor) is None:
                    break
            try:
                found += (await client.list_resource_templates()).resource_templates
            except MCPError as error:
                if error.code == CONNECTION_CLOSED:
                    raise
                # It has none.
            keep = {"uri", "uri_template", "name", "title", "description", "mime_type", "size"}
            return [entry.model_dump(include=keep, exclude_none=True) for entry in found]

        return await self._ask(both, "its list of resources")

    async def read_resource(self, uri: str) -> list[Any]:
        """The content of a resource."""
        client = await self._connected()
        answer = await self._ask(lambda: client.read_resource(uri, cache_mode="bypass"), uri)
        return resource_parts(answer.contents)

    async def close(self) -> None:
        """End the server; returns when it is gone."""
        live, self._live = self._live, None
        if live is not None and live.task is not None:
            live.leave.set()
            done, _ = await asyncio.wait({live.task}, timeout=CLOSE_SECONDS)
            if not done:
                live.task.cancel()
                await asyncio.wait({live.task}, timeout=1)

    async def _ask(self, ask: Callable[[], Awaitable[T]], what: str) -> T:
        live, name = self._live, self.config.name
        try:
            return await ask()
        except MCPError as error:
            gone = error.code == CONNECTION_CLOSED or "Session terminated" in error.message
            if live is not None and (live.lost or gone):
                live.lost = True
                raise ToolError(
                    f"The MCP server {name!r} ended before it had answered {what}. It is started again with "
                    f"the next call.{_tail(live)}"
                ) from None
            raise ToolError(f"{name}: {self._words(error) or error.code}") from None
        except ValidationError as error:
            raise ToolError(
                f"The MCP server {name!r} answered {what} with something that MCP forbids."
            ) from error
        except (OSError, httpx2.HTTPError) as error:
            if live is not None:
                live.lost = True
            raise ToolError(f"The MCP server {name!r} cannot be reached: {self._words(error)}") from None

    def _words(self, error: BaseException) -> str:
        """What an error says; errors of HTTP quote the URL, whose query may hold a key."""
        said = str(error) or type(error).__name__
        query = (self.config.url or "").partition("?")[2]
        return said.replace(query, "…") if query else said

    # ---- connecting -------------------------------------------------------------------------------------

    async def _connected(self) -> Client:
        async with self._lock:
            live = self._live
            if live is not None and live.client is not None and not live.lost:
                return live.client
            await self.close()
            try:
                return await self._connect("auto")
            except _Died:
                # Some older servers end when they are asked for what they do not know, instead of saying so.
                try:
                    return await self._connect("legacy")
                except _Died as died:
                    raise ToolError(f"The MCP server {self.config.name!r} ended at once.{died}") from None

    async def _connect(self, mode: str) -> Client:
        live = _Live()
        ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        live.task = asyncio.create_task(self._hold(live, mode, ready))
        try:
            async with asyncio.timeout(self.config.start_timeout):
                either: set[asyncio.Future[Any]] = {live.task, ready}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not ready.done():
                    await live.task  # raises what went wrong
                client = await ready
                self.listing = await self._list(client)
        except TimeoutError:
            await self._abandon(live)
            raise ToolError(
                f"The MCP server {self.config.name!r} did not answer within "
                f"{self.config.start_timeout:g} s.{_tail(live)}"
            ) from None
        except BaseException as error:
            await self._abandon(live)
            reason = _first(error)
            if isinstance(reason, MCPError) and (live.lost or reason.code == CONNECTION_CLOSED):
                raise _Died(_tail(live)) from None
            if isinstance(reason, MCPError | OSError | httpx2.HTTPError):
                raise ToolError(
                    f"The MCP server {self.config.name!r} cannot be used: {self._words(reason)}.{_tail(live)}"
                ) from None
            if isinstance(reason, ValidationError):
                raise ToolError(
                    f"The MCP server {self.config.name!r} does not speak MCP as we know it: "
                    f"{reason.error_count()} faults, the first at {reason.errors()[0]['loc']}.{_tail(live)}"
                ) from None
            raise
        live.client, self._live = client, live
        remember(self.config, self.listing)
        return client

    @staticmethod
    async def _abandon(live: _Live) -> None:
        assert live.task is not None
        live.leave.set()
        live.task.cancel()
        await asyncio.wait({live.task}, timeout=CLOSE_SECONDS)

    async def _hold(self, live: _Live, mode: str, ready: asyncio.Future[Client]) -> None:
        """Be inside the connection until it is to be left."""
        async with AsyncExitStack() as stack:
            transport = _watched(await self._transport(live, stack), live)
            client = await stack.enter_async_context(
                Client(
                    transport,
                    mode=mode,
                    client_info=Implementation(name="tinyagent", version="0.1"),
                    cache=None,
                    raise_exceptions=False,
                )
            )
            ready.set_result(client)
            await live.leave.wait()

    async def _transport(self, live: _Live, stack: AsyncExitStack) -> Any:
        config = self.config
        if config.url is not None:
            client = httpx2.AsyncClient(
                headers=config.expanded(config.headers, "headers"),
                timeout=httpx2.Timeout(30, read=config.timeout),
            )
            await stack.enter_async_context(client)
            return streamable_http_client(config.url, http_client=client)
        environment = config.environment()
        command = config.program(environment)
        if os.name == "posix" and sys.executable:
            command = [sys.executable, "-I", "-S", str(KEEPER), *command]
        errors = await stack.enter_async_context(_collecting(live.stderr))
        return stdio_client(
            StdioServerParameters(
                command=command[0], args=command[1:], env=environment, cwd=config.directory()
            ),
            errlog=errors,
        )

    async def _list(self, client: Client) -> Listing:
        tools: list[ListedTool] = []
        if client.server_capabilities.tools is not None:
            cursor: str | None = None
            for _ in range(MAX_PAGES):
                page = await client.list_tools(cursor=cursor, cache_mode="bypass")
                tools += [_listed(tool) for tool in page.tools]
                if (cursor := page.next_cursor) is None:
                    break
        info = client.server_info
        return Listing(
            fingerprint=self.config.fingerprint(),
            server=f"{info.name} {info.version}" if info is not None else "",
            tools=tools,
            resources=await self._has_resources(client),
        )

    @staticmethod
    async def _has_resources(client: Client) -> bool:
        """Whether there is anything to read; many servers say so of themselves without having anything."""
        if client.server_capabilities.resources is None:
            return False
        try:
            if (await client.list_resources()).resources:
                return True
            return bool((await client.list_resource_templates()).resource_templates)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                raise
            return False


def _listed(tool: Any) -> ListedTool:
    notes = tool.annotations
    return ListedTool(
        name=tool.name,
        title=tool.title or (notes.title if notes is not None else None) or "",
        description=tool.description or "",
        input_schema=tool.input_schema,
        # Reading the world outside takes what is asked for there: that is a question for the user.
        read_only=notes is not None and notes.read_only_hint is True and notes.open_world_hint is not True,
    )


class _Watched:
    """The stream of a transport, which takes note of its end."""

    def __init__(self, stream: Any, live: _Live) -> None:
        self._stream = stream
        self._live = live

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except BaseException:
            self._live.lost = True
            raise

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        self._live.lost = True
        return await self._stream.__aexit__(*error)


@asynccontextmanager
async def _watched(transport: Any, live: _Live) -> AsyncIterator[Any]:
    async with transport as (read, write):
        yield _Watched(read, live), write


@asynccontextmanager
async def _collecting(lines: deque[str]) -> AsyncIterator[TextIO]:
    """A file for a server's standard error, of which the last lines are kept for messages."""
    if sys.platform == "win32":  # its loop cannot watch a pipe
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: ASYNC230, PTH123
            yield nowhere
        return
    readable, writable = os.pipe()
    loop = asyncio.get_running_loop()
    os.set_blocking(readable, False)
    rest = b""

    def read() -> None:
        nonlocal rest
        try:
            data = os.read(readable, 65_536)
        except BlockingIOError:
            return
        if not data:
            loop.remove_reader(readable)
            return
        *whole, rest = (rest + data).split(b"\n")
        rest = rest[-2_000:]
        lines.extend(line[-500:].decode("utf-8", "replace") for line in whole if line.strip())

    loop.add_reader(readable, read)
    try:
        with os.fdopen(writable, "w", encoding="utf-8") as file:
            yield file
    finally:
        read()  # what was written last is often why
        loop.remove_reader(readable)
        os.close(readable)


def _tail(live: _Live) -> str:
    """The server's last words; what a terminal must not get is taken out where it is shown."""
    said = "\n".join(list(live.stderr)[-5:])
    return f" Its last words:\n{said}\n" if said else ""


def _first(error: BaseException) -> BaseException:
    """The one error inside groups of one, which is how task groups hand it over."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error
