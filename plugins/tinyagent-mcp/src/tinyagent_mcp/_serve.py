"""Offer tinyagent's tools to other agents.

Each call is a separate run, `tinyagent run --jsonl`, whose model replays one tool call. So deny rules,
policies and validation apply to it; it can be ended with everything that it started; and the output of a tool
cannot mix with the messages of the protocol. The costs are a start of Python per call, and that tools keep no
state between calls.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

import tinyagent
from tinyagent.agent_types import JsonObject
from tinyagent.supervisor import supervised_command
from tinyagent.tools import tool_schema

from ._offer import TINYAGENT, Offered

__all__ = ["run"]

MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_PARALLEL = 4

Report = Callable[[float, float | None, str | None], Awaitable[None]]


async def run(tools: Sequence[Offered]) -> None:
    """Serve until standard input ends."""
    offered = {tool.name: tool for tool in tools}
    several, alone = asyncio.Semaphore(MAX_PARALLEL), asyncio.Lock()

    async def list_tools(
        ctx: ServerRequestContext[object], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(
            tools=[
                Tool(
                    name=tool.name,
                    description=tool.description,
                    input_schema=tool_schema(tinyagent.Tool(tool.name, parameters=tool.parameters)).rules,
                    annotations=ToolAnnotations(read_only_hint=tool.read_only),
                )
                for tool in tools
            ]
        )

    async def call_tool(ctx: ServerRequestContext[object], params: CallToolRequestParams) -> CallToolResult:
        tool = offered.get(params.name)
        if tool is None:
            known = ", ".join(sorted(offered))
            return _failed(f"There is no tool {params.name!r}. Available tools: {known}.")
        # As in a run, only read-only tools run in parallel.
        async with several if tool.read_only else alone:
            return await _call(tool, params.arguments or {}, ctx.session.report_progress)

    server: Server[object] = Server(
        "tinyagent", version=tinyagent.__version__, on_list_tools=list_tools, on_call_tool=call_tool
    )
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


async def _call(tool: Offered, arguments: JsonObject, report: Report) -> CallToolResult:
    with _script(tool.name, arguments) as path:
        command = [
            *TINYAGENT,
            "run",
            "-q",
            "-m",
            f"replay:{path}",
            "--jsonl",
            "--no-stdin",
            "-t",
            tool.source,
        ]
        if tool.allowed:
            command += ["--allow", tool.name]
        process = await asyncio.create_subprocess_exec(
            *supervised_command([*command, "--", "A call over MCP."]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
        try:
            result = await _result(process, report)
        except BaseException:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)  # the supervisor ends the rest within a second
            raise
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
        return result


async def _result(process: asyncio.subprocess.Process, report: Report) -> CallToolResult:
    assert process.stdout is not None
    result: CallToolResult | None = None
    updates = 0
    problem = "The run ended without a result."
    try:
        async for line in process.stdout:
            event = json.loads(line)
            match event.get("type"):
                case "tool_execution_update":
                    updates += 1
                    await report(updates, None, _texts(event["partial_result"]["content"])[-2_000:])
                case "tool_execution_end":
                    result = CallToolResult(
                        content=[_content(part) for part in event["result"]["content"]],
                        is_error=event["is_error"],
                    )
                case "result" if event.get("error"):
                    problem = str(event["error"].get("message") or problem)
    except ValueError as error:  # a line that is too long, or not JSON
        problem = f"The run wrote something unexpected: {error}"
    return result or _failed(problem)


def _content(part: tinyagent.TextContent | tinyagent.ImageContent) -> TextContent | ImageContent:
    if part["type"] != "image":
        return TextContent(text=part["text"])
    head, comma, data = part["url"].partition(";base64,")
    if not comma or not head.startswith("data:"):
        return TextContent(text=f"[Picture: {part['url'][:2_000]}]")
    return ImageContent(data=data, mime_type=part.get("mime_type") or head.removeprefix("data:"))


def _texts(content: list[tinyagent.TextContent | tinyagent.ImageContent]) -> str:
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _failed(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=text)], is_error=True)


@contextmanager
def _script(name: str, arguments: JsonObject) -> Iterator[Path]:
    """Write a recording of a model that calls this tool and then ends. Only this user can read it."""
    call: JsonObject = {"type": "tool_call", "id": "call_1", "name": name, "arguments": arguments}
    done: JsonObject = {"type": "text", "text": "Done."}
    header: JsonObject = {
        "type": "session",
        "version": 1,
        "id": "mcp",
        "created": "1970-01-01T00:00:00Z",
        "model": {"provider": "replay", "id": "mcp", "api": "replay"},
        "system_prompt": "",
        "thinking_level": "off",
        "tools": [name],
        "tinyagent": tinyagent.__version__,
    }
    lines: list[JsonObject] = [header]
    for content, reason in ((call, "tool_use"), (done, "stop")):
        message: JsonObject = {
            "role": "assistant",
            "content": [content],
            "stop_reason": reason,
            "timestamp": 0,
            "api": "replay",
            "provider": "replay",
            "model": "mcp",
            "usage": None,
        }
        lines.append({"type": "message_start", "role": "assistant"})
        lines.append({"type": "message_end", "role": "assistant", "message": message})
    descriptor, path = tempfile.mkstemp(prefix="tinyagent-mcp-", suffix=".jsonl")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        yield Path(path)
    finally:
        Path(path).unlink(missing_ok=True)
