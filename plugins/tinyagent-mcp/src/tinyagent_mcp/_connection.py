"""A connection to one server through the `mcp` SDK, opened on first use and reopened if the server died.

All of this runs in the loop of the `Host`. One task opens and closes a connection, because the SDK's contexts
must be left by the task that entered them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Protocol, TypeVar

import httpx2
import msgspec
from mcp import Client, InputRequiredRoundsExceededError, MCPError
from mcp.client import ClientRequestContext, Transport
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp_types import (
    CONNECTION_CLOSED,
    URL_ELICITATION_REQUIRED,
    CallToolResult,
    Implementation,
    ListRootsResult,
    Prompt,
    Resource,
    ResourceTemplate,
    Root,
)
from mcp_types import Tool as McpTool
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import FileUrl, ValidationError

from tinyagent import AgentToolResult, ToolError
from tinyagent.agent_types import ImageContent, JsonObject, TextContent
from tinyagent.interaction import Interaction

from . import _quiet_sdk
from ._config import ServerConfig
from ._content import as_result, prompt_text, resource_parts, text_of
from ._inbound import Inbound
from ._listing import ListedArgument, ListedPrompt, ListedTool, Listing, remember
from ._oauth import TokenAuth
from ._questions import CallQuestions, Questions
from ._sign_in import load
from ._stdio import MAX_LINE, stdio_transport
from ._streams import BoundedStream, repaired

__all__ = ["Connection"]

STDERR_LINES = 20
MAX_PAGES = 100
MAX_LISTED = 2_000
"""Tools, or resources, of one server."""

CLOSE_SECONDS = 6.0
REFRESH_SECONDS = 10.0
"""Seconds that a server may take to list its tools again in the middle of a run."""

T = TypeVar("T")

_quiet_sdk.apply()


class _Died(Exception):
    """The server ended the connection before it answered."""


class _SessionExpiredError(ToolError):
    """The HTTP server has ended the session."""


class _LinksRequiredError(ToolError):
    """The user has to open addresses before the server can answer (URL_ELICITATION_REQUIRED).

    Attributes:
        links: The addresses; empty if the server has sent none that can be read.
    """

    def __init__(self, text: str, error: MCPError) -> None:
        super().__init__(text)
        try:
            self.links = UrlElicitationRequiredError.from_error(error.error).elicitations
        except (ValidationError, AttributeError, TypeError):  # the data is of another form
            self.links = []


class _Page(Protocol):
    next_cursor: str | None


P = TypeVar("P", bound=_Page)


class _Live:
    """The state of an open connection.

    Attributes:
        lost: Whether the server ended the connection.
        changed: Whether the server announced a change of its tools or resources that was not yet read.
        status: The HTTP status of the last answer if it is an error.
        auth: Adds the tokens of a sign-in to requests.
    """

    def __init__(self, answered: frozenset[str]) -> None:
        self.client: Client | None = None
        self.task: asyncio.Task[None] | None = None
        self.leave = asyncio.Event()
        self.lost = False
        self.changed = False
        self.status: int | None = None
        self.auth: TokenAuth | None = None
        self.stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self.inbound = Inbound(self._announced, answered)

    def end(self) -> None:
        """Record that the server ended the connection."""
        self.lost = True

    def over(self, task: asyncio.Task[None]) -> None:
        """Record the end of the task. Its error is raised in the requests that wait for it."""
        self.lost = True
        if not task.cancelled():
            task.exception()

    def _announced(self) -> None:
        self.changed = True


class Connection:
    """A server, and the connection to it from the first request on."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.listing: Listing | None = None
        self._live: _Live | None = None
        self._lock = asyncio.Lock()
        self._roots = config.root_directories()
        self._questions = Questions(config.name, elicitation=config.elicitation, sampling=config.sampling)
        self._answered = self._questions.methods | ({"roots/list"} if self._roots else frozenset())

    @property
    def changed(self) -> bool:
        """Whether the server announced a change of its tools that was not yet read. Thread-safe."""
        return self._live is not None and self._live.changed and not self._live.lost

    async def discover(self) -> Listing:
        """Return the current list of tools and resources."""
        await self._connected()
        assert self.listing is not None
        return self.listing

    async def refresh(self) -> None:
        """Read the list again if the server announced a change."""
        live = self._live
        if live is None or live.client is None or not self.changed:
            return
        live.changed = False
        try:
            async with asyncio.timeout(REFRESH_SECONDS):
                self.listing = await self._list(live, live.client)
        except (TimeoutError, MCPError, ValidationError, OSError, httpx2.HTTPError):
            return  # keep the old list; the next tool call reports the problem
        remember(self.config, self.listing)

    async def call_tool(
        self,
        tool: ListedTool,
        arguments: JsonObject,
        on_progress: ProgressFnT,
        interaction: Interaction | None = None,
    ) -> AgentToolResult:
        """Call a tool that was listed.

        Args:
            tool: The tool.
            arguments: Its arguments.
            on_progress: Called for each progress notification.
            interaction: How the server can ask the user and the model.
        """
        await self._connected()
        assert self.listing is not None
        now = self.listing.tool(tool.name)
        if now is None:
            raise ToolError(f"The MCP server {self.config.name!r} no longer offers {tool.name!r}.")
        if self.config.trust_read_only and tool.read_only and not now.read_only:
            # It was approved without a question, because it was read-only.
            raise ToolError(
                f"The MCP server {self.config.name!r} no longer marks {tool.name!r} as read-only, so it "
                "was not run. In the next run it needs approval."
            )
        questions = CallQuestions(interaction)
        try:
            with self._questions.during(questions):
                answer = await self._answer(tool.name, arguments, on_progress, questions)
        except ToolError as error:
            raise ToolError("\n".join([str(error), *questions.notes])) from error.__cause__
        result = as_result(answer)
        self._note_links()
        if answer.is_error:
            text = text_of(result) or f"{tool.name!r} failed without an error message."
            raise ToolError("\n".join([text, *questions.notes]))
        for note in questions.notes:
            result.content.append({"type": "text", "text": f"[{note}]"})
        if questions.asked:
            result.details["questions"] = questions.asked
        return result

    async def _answer(
        self, tool: str, arguments: JsonObject, on_progress: ProgressFnT, questions: CallQuestions
    ) -> CallToolResult:
        """Call a tool, again after the user has opened the addresses that the server requires."""
        while True:
            try:
                return await self._ask(
                    lambda client: client.call_tool(tool, arguments, progress_callback=on_progress),
                    f"{tool!r}",
                )
            except _LinksRequiredError as error:
                if not (error.links and await self._questions.open_all(questions, error.links)):
                    raise

    def _note_links(self) -> None:
        """Offer to read resources after the first link to one: a server need not list what it links to."""
        live, listing = self._live, self.listing
        if live is None or listing is None or listing.resources or not live.inbound.has_links:
            return
        if live.client is not None and live.client.server_capabilities.resources is not None:
            self.listing = msgspec.structs.replace(listing, resources=True)
            remember(self.config, self.listing)

    async def get_prompt(self, name: str, arguments: Mapping[str, str]) -> str:
        """Return the text of a prompt. A conversation becomes one text with the speaker of each message."""
        answer = await self._ask(
            lambda client: client.get_prompt(name, dict(arguments)), f"the prompt {name!r}"
        )
        return prompt_text(answer)

    async def list_resources(self) -> list[JsonObject]:
        """Return resources and resource templates as plain data."""

        async def both(client: Client) -> list[JsonObject]:
            found: list[Resource | ResourceTemplate] = []
            async for page in _pages(lambda cursor: client.list_resources(cursor=cursor)):
                found += page.resources
            try:
                async for more in _pages(lambda cursor: client.list_resource_templates(cursor=cursor)):
                    found += more.resource_templates
            except MCPError as error:
                if error.code == CONNECTION_CLOSED:
                    raise
                # The server has no templates.
            keep = {"uri", "uri_template", "name", "title", "description", "mime_type", "size"}
            return [entry.model_dump(include=keep, exclude_none=True) for entry in found[:MAX_LISTED]]

        return await self._ask(both, "its list of resources")

    async def read_resource(self, uri: str) -> list[TextContent | ImageContent]:
        """Return the content of a resource."""
        answer = await self._ask(lambda client: client.read_resource(uri, cache_mode="bypass"), uri)
        return resource_parts(answer.contents)

    async def close(self) -> None:
        """End the server, and wait until it has ended."""
        live, self._live = self._live, None
        if live is not None and live.task is not None:
            live.leave.set()
            done, _ = await asyncio.wait({live.task}, timeout=CLOSE_SECONDS)
            if not done:
                live.task.cancel()
                await asyncio.wait({live.task}, timeout=1)
            _forget_failure(live.task)

    async def _ask(self, ask: Callable[[Client], Awaitable[T]], what: str) -> T:
        try:
            return await self._ask_once(ask, what)
        except _SessionExpiredError:
            # The server did not process the request: repeat it in a new session.
            return await self._ask_once(ask, what)

    async def _ask_once(self, ask: Callable[[Client], Awaitable[T]], what: str) -> T:
        name = self.config.name
        live = await self._connected()
        assert live.client is not None
        try:
            return await ask(live.client)
        except MCPError as error:
            if _is_expired(error):
                live.lost = True
                raise _SessionExpiredError(
                    f"The MCP server {name!r} ended its session twice before it answered {what}."
                ) from None
            if error.code == CONNECTION_CLOSED:
                live.lost = True
                raise ToolError(
                    f"The MCP server {name!r} ended before it had answered {what}. The next call starts it "
                    f"again.{self._last_output(live)}"
                ) from None
            text = f"{name}: {self._text(error, live) or error.code}"
            if error.code == URL_ELICITATION_REQUIRED and self.config.elicitation:
                raise _LinksRequiredError(text, error) from None
            raise ToolError(text) from None
        except ValidationError as error:
            raise ToolError(f"The MCP server {name!r} answered {what} with an invalid message.") from error
        except InputRequiredRoundsExceededError:
            raise ToolError(f"The MCP server {name!r} asks again and again, and never answers.") from None
        except (OSError, httpx2.HTTPError) as error:
            live.lost = True
            raise ToolError(f"The MCP server {name!r} cannot be reached: {self._text(error, live)}") from None

    def _text(self, error: BaseException, live: _Live) -> str:
        """Return the text of an error with the HTTP status, and without secrets of the configuration."""
        text = str(error) or type(error).__name__
        if live.status is not None and text in _STATUS_ONLY:
            text = f"HTTP {live.status}"
            if live.auth is not None and live.auth.problem:
                text += f". {live.auth.problem}"
            elif live.status in (401, 403):
                text += (
                    f", so it needs credentials. Sign in: tinyagent mcp login {self.config.name}. "
                    "Or add them to `headers` of the server in mcp.toml"
                )
        return self.config.redacted(text if live.auth is None else live.auth.redacted(text))

    def _last_output(self, live: _Live) -> str:
        """Return the last lines of standard error. The command line makes them safe for a terminal."""
        lines = "\n".join(list(live.stderr)[-5:])
        return f" Its last output:\n{self.config.redacted(lines)}\n" if lines else ""

    # ---- connecting -------------------------------------------------------------------------------------

    async def _connected(self) -> _Live:
        async with self._lock:
            live = self._live
            if live is not None and not live.lost:
                return live
            await self.close()
            try:
                return await self._connect("auto")
            except _Died:
                # Some older servers exit when they get an unknown request.
                try:
                    return await self._connect("legacy")
                except _Died as died:
                    raise ToolError(f"The MCP server {self.config.name!r} failed to start.{died}") from None

    async def _connect(self, mode: str) -> _Live:
        live = _Live(self._answered)
        ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        live.task = asyncio.create_task(self._hold(live, mode, ready))
        live.task.add_done_callback(live.over)
        try:
            async with asyncio.timeout(self.config.start_timeout):
                either: tuple[asyncio.Future[None], asyncio.Future[Client]] = (live.task, ready)
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not ready.done():
                    await live.task  # raises its error
                client = await ready
                self.listing = await self._list(live, client)
        except TimeoutError:
            await self._abandon(live)
            raise ToolError(
                f"The MCP server {self.config.name!r} did not answer within "
                f"{self.config.start_timeout:g} s.{self._last_output(live)}"
            ) from None
        except BaseException as error:  # noqa: BLE001 - it is converted and raised
            await self._abandon(live)
            raise self._start_error(live, _first(error)) from None
        live.client, self._live = client, live
        remember(self.config, self.listing)
        return live

    def _start_error(self, live: _Live, reason: BaseException) -> BaseException:
        name, words = self.config.name, self._last_output(live)
        if isinstance(reason, MCPError) and reason.code == CONNECTION_CLOSED:
            return _Died(words)
        if isinstance(reason, MCPError | OSError | httpx2.HTTPError):
            return ToolError(f"The MCP server {name!r} cannot be used: {self._text(reason, live)}.{words}")
        if isinstance(reason, ValidationError):
            return ToolError(
                f"The MCP server {name!r} violates the MCP protocol: {reason.error_count()} errors, "
                f"the first at {reason.errors()[0]['loc']}.{words}"
            )
        if isinstance(reason, RuntimeError):  # no common protocol version
            return ToolError(f"The MCP server {name!r} cannot be used: {self._text(reason, live)}.{words}")
        return reason

    @staticmethod
    async def _abandon(live: _Live) -> None:
        assert live.task is not None
        live.leave.set()
        live.task.cancel()
        await asyncio.wait({live.task}, timeout=CLOSE_SECONDS)
        _forget_failure(live.task)

    async def _hold(self, live: _Live, mode: str, ready: asyncio.Future[Client]) -> None:
        """Keep the connection open until `live.leave` is set."""
        async with AsyncExitStack() as stack:
            transport = repaired(await self._transport(live, stack), live.inbound, live.end)
            client = await stack.enter_async_context(
                Client(
                    transport,
                    mode=mode,
                    client_info=Implementation(name="tinyagent", version="0.1"),
                    cache=None,
                    raise_exceptions=False,
                    elicitation_callback=self._questions.elicit if self.config.elicitation else None,
                    sampling_callback=self._questions.sample if self.config.sampling else None,
                    list_roots_callback=self._list_roots if self._roots else None,
                )
            )
            listening = asyncio.create_task(_listen(client))
            try:
                ready.set_result(client)
                await live.leave.wait()
            finally:
                listening.cancel()
                await asyncio.wait({listening}, timeout=1)

    async def _list_roots(self, context: ClientRequestContext) -> ListRootsResult:
        return ListRootsResult(
            roots=[Root(uri=FileUrl(path.as_uri()), name=path.name or str(path)) for path in self._roots]
        )

    async def _transport(self, live: _Live, stack: AsyncExitStack) -> Transport:
        config = self.config
        if config.url is None:
            environment = config.environment()
            command = config.program(environment)
            directory = config.start_directory()
            launch = await asyncio.to_thread(config.launch, command, environment, directory)
            return stdio_transport(launch, directory, live.stderr, live.end)

        async def on_answer(response: httpx2.Response) -> None:
            live.status = response.status_code if response.status_code >= 400 else None
            is_events = response.headers.get("content-type", "").lower().startswith("text/event-stream")
            if isinstance(response.stream, httpx2.AsyncByteStream) and not is_events:
                response.stream = BoundedStream(response.stream)

        sign_in = load(config)
        if sign_in is not None:
            live.auth = TokenAuth(config, sign_in)
        client = httpx2.AsyncClient(
            auth=live.auth,
            headers=config.expanded(config.headers, "headers"),
            timeout=httpx2.Timeout(30, read=None),  # each request has its own limit
            event_hooks={"response": [on_answer]},
        )
        await stack.enter_async_context(client)
        return streamable_http_client(config.url, http_client=client, max_sse_event_size=MAX_LINE)

    async def _list(self, live: _Live, client: Client) -> Listing:
        tools: dict[str, ListedTool] = {}
        live.inbound.problems.clear()
        if client.server_capabilities.tools is not None:
            async for page in _pages(lambda cursor: client.list_tools(cursor=cursor, cache_mode="bypass")):
                for tool in page.tools:
                    listed = _listed(tool)
                    if tools.setdefault(tool.name, listed) != listed:
                        live.inbound.problems.append(f"a second tool named {tool.name!r} was omitted")
                if len(tools) >= MAX_LISTED:
                    live.inbound.problems.append(f"only the first {MAX_LISTED} tools are used")
                    break
        prompts = await self._prompts(live, client)
        resources = await self._has_resources(client)
        info = client.server_info
        return Listing(
            fingerprint=self.config.fingerprint(),
            server=f"{info.name} {info.version}" if info is not None else "",
            tools=list(tools.values())[:MAX_LISTED],
            prompts=prompts,
            resources=resources,
            problems=[problem for problem in live.inbound.problems if " resource" not in problem][:MAX_PAGES],
        )

    @staticmethod
    async def _prompts(live: _Live, client: Client) -> list[ListedPrompt]:
        """Return the prompts of the server. If it cannot list them, its tools still work."""
        if client.server_capabilities.prompts is None:
            return []
        found: dict[str, ListedPrompt] = {}
        try:
            async for page in _pages(lambda cursor: client.list_prompts(cursor=cursor, cache_mode="bypass")):
                for prompt in page.prompts:
                    found.setdefault(prompt.name, _listed_prompt(prompt))
                if len(found) >= MAX_LISTED:
                    break
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                raise
            live.inbound.problems.append(f"its prompts cannot be listed: {error}")
        return list(found.values())[:MAX_LISTED]

    @staticmethod
    async def _has_resources(client: Client) -> bool:
        """Return whether the server has resources. Many servers declare the capability without any."""
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


_STATUS_ONLY = ("Server returned an error response", "Not Found")
"""Messages of the SDK that contain only an HTTP status."""


def _is_expired(error: MCPError) -> bool:
    """Return whether the session of an HTTP server has expired (404); the SDK has no code for it."""
    return error.message == "Session terminated"


async def _pages(fetch: Callable[[str | None], Awaitable[P]]) -> AsyncIterator[P]:
    """Return the pages of a list. A repeated cursor ends it."""
    cursor: str | None = None
    seen: set[str | None] = set()
    while cursor not in seen and len(seen) < MAX_PAGES:
        seen.add(cursor)
        page = await fetch(cursor)
        yield page
        cursor = page.next_cursor
        if cursor is None:
            return


async def _listen(client: Client) -> None:
    """Subscribe to changes of tools. Before the protocol of 2026, servers announce them unasked."""
    tools = client.server_capabilities.tools
    if client.protocol_version in MODERN_PROTOCOL_VERSIONS and tools is not None and tools.list_changed:
        # `Inbound` reads the announcements. Servers without this feature work, too.
        with contextlib.suppress(Exception):
            async with client.listen(tools_list_changed=True) as events:
                async for _ in events:
                    pass


def _listed(tool: McpTool) -> ListedTool:
    notes = tool.annotations
    return ListedTool(
        name=tool.name,
        title=tool.title or (notes.title if notes is not None else None) or "",
        description=tool.description or "",
        input_schema=tool.input_schema,
        # A request to the outside world can carry data away, so the user must approve it.
        read_only=notes is not None and notes.read_only_hint is True and notes.open_world_hint is not True,
    )


def _listed_prompt(prompt: Prompt) -> ListedPrompt:
    return ListedPrompt(
        name=prompt.name,
        description=prompt.description or prompt.title or "",
        arguments=[
            ListedArgument(
                name=argument.name, description=argument.description or "", required=argument.required is True
            )
            for argument in prompt.arguments or ()
        ],
    )


def _forget_failure(task: asyncio.Task[None]) -> None:
    """Mark a failure as handled, because it was already reported to the caller."""
    if task.done() and not task.cancelled():
        task.exception()


def _first(error: BaseException) -> BaseException:
    """Return the first error of nested exception groups, which task groups raise."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error
