"""A server, and its connection through the `mcp` SDK: opened on first use, and again if the server has ended.

All of this runs in the loop of the `Host`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import httpx2
import msgspec
from mcp import Client, InputRequiredRoundsExceededError, MCPError
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp_types import CONNECTION_CLOSED, URL_ELICITATION_REQUIRED, CallToolResult
from pydantic import ValidationError

from tinyagent import AgentToolResult, ToolError
from tinyagent.agent_types import ImageContent, JsonObject, TextContent
from tinyagent.interaction import Interaction

from ._config import ServerConfig
from ._content import as_result, prompt_text, resource_parts, text_of
from ._discovery import discover, list_resources
from ._listing import ListedTool, Listing, remember
from ._live import Live
from ._questions import CallQuestions, Questions

__all__ = ["Connection"]

REFRESH_SECONDS = 10.0
"""Seconds that a server may take to list its tools again in the middle of a run."""

T = TypeVar("T")


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


class Connection:
    """A server, and the connection to it from the first request on."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.listing: Listing | None = None
        self._live: Live | None = None
        self._lock = asyncio.Lock()
        self._roots = config.root_directories()
        self._questions = Questions(config.name, elicitation=config.elicitation, sampling=config.sampling)

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
        if live is None or not self.changed:
            return
        live.changed = False
        try:
            async with asyncio.timeout(REFRESH_SECONDS):
                self.listing = await discover(self.config, live.client, live.inbound)
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
        if live.client.server_capabilities.resources is not None:
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
        return await self._ask(list_resources, "its list of resources")

    async def read_resource(self, uri: str) -> list[TextContent | ImageContent]:
        """Return the content of a resource."""
        answer = await self._ask(lambda client: client.read_resource(uri, cache_mode="bypass"), uri)
        return resource_parts(answer.contents)

    async def close(self) -> None:
        """End the server, and wait until it has ended."""
        live, self._live = self._live, None
        if live is not None:
            await live.close()

    async def _ask(self, ask: Callable[[Client], Awaitable[T]], what: str) -> T:
        try:
            return await self._ask_once(ask, what)
        except _SessionExpiredError:
            # The server did not process the request: repeat it in a new session.
            return await self._ask_once(ask, what)

    async def _ask_once(self, ask: Callable[[Client], Awaitable[T]], what: str) -> T:
        name = self.config.name
        live = await self._connected()
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
                    f"again.{live.last_output()}"
                ) from None
            text = f"{name}: {live.text_of(error) or error.code}"
            if error.code == URL_ELICITATION_REQUIRED and self.config.elicitation:
                raise _LinksRequiredError(text, error) from None
            raise ToolError(text) from None
        except ValidationError as error:
            raise ToolError(f"The MCP server {name!r} answered {what} with an invalid message.") from error
        except InputRequiredRoundsExceededError:
            raise ToolError(f"The MCP server {name!r} asks again and again, and never answers.") from None
        except (OSError, httpx2.HTTPError) as error:
            live.lost = True
            raise ToolError(f"The MCP server {name!r} cannot be reached: {live.text_of(error)}") from None

    # ---- connecting -------------------------------------------------------------------------------------

    async def _connected(self) -> Live:
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

    async def _connect(self, mode: str) -> Live:
        live = Live(self.config, self._questions, self._roots)
        try:
            async with asyncio.timeout(self.config.start_timeout):
                await live.open(mode)
                self.listing = await discover(self.config, live.client, live.inbound)
        except TimeoutError:
            await live.abandon()
            raise ToolError(
                f"The MCP server {self.config.name!r} did not answer within "
                f"{self.config.start_timeout:g} s.{live.last_output()}"
            ) from None
        except BaseException as error:  # noqa: BLE001 - it is converted and raised
            await live.abandon()
            raise self._start_error(live, _first(error)) from None
        self._live = live
        remember(self.config, self.listing)
        return live

    def _start_error(self, live: Live, reason: BaseException) -> BaseException:
        name, output = self.config.name, live.last_output()
        if isinstance(reason, MCPError) and reason.code == CONNECTION_CLOSED:
            return _Died(output)
        if isinstance(reason, ValidationError):
            return ToolError(
                f"The MCP server {name!r} violates the MCP protocol: {reason.error_count()} errors, "
                f"the first at {reason.errors()[0]['loc']}.{output}"
            )
        # RuntimeError: there is no common version of the protocol.
        if isinstance(reason, MCPError | OSError | httpx2.HTTPError | RuntimeError):
            return ToolError(f"The MCP server {name!r} cannot be used: {live.text_of(reason)}.{output}")
        return reason


def _is_expired(error: MCPError) -> bool:
    """Return whether the session of an HTTP server has expired (404); the SDK has no code for it."""
    return error.message == "Session terminated"


def _first(error: BaseException) -> BaseException:
    """Return the first error of nested exception groups, which task groups raise."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error
