"""The tools of plugins of `llm`: functions, and toolboxes, which are classes with several tools."""

from __future__ import annotations

import ast
import asyncio
import base64
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeAlias

import llm  # pyright: ignore[reportMissingImports] - it is not in .venv

from tinyagent.agent_types import (
    AgentTool,
    AgentToolResult,
    AgentToolUpdateCallback,
    ImageContent,
    JsonDict,
    TextContent,
)
from tinyagent.errors import ConfigurationError, ToolError

from ._plugins import load_plugins

__all__ = ["all_tools"]

Offer: TypeAlias = "llm.Tool | type[llm.Toolbox]"
"""What a plugin of `llm` registers."""

TOOLBOXES = "TINYAGENT_LLM_TOOLBOXES"
"""Has toolboxes with their arguments, as `llm -T` takes them: `SQLite("data.db")`; several on lines."""


def all_tools() -> list[AgentTool]:
    """Return all tools. Toolboxes that need arguments are those of TINYAGENT_LLM_TOOLBOXES.

    Raises:
        ConfigurationError: The variable is malformed, or a toolbox cannot be made.
        PluginError: A plugin of `llm` cannot be loaded.
    """
    found: dict[str, AgentTool] = {}
    load_plugins()
    offered = llm.get_tools()
    configured = dict(_configured(offered))
    for name, tool in offered.items():
        if isinstance(tool, llm.Tool):
            found[_safe(name)] = _convert(tool, name, None)
            continue
        box = configured.get(name) or _without_arguments(tool)
        for each in box.toolbox.tools() if box is not None else ():
            found[_safe(each.name)] = _convert(each, each.name, box)
    return list(found.values())


class _Box:
    """A toolbox with its own thread, because some have objects that only the thread that made them can use.

    Args:
        make: Makes the toolbox.
    """

    def __init__(self, make: Callable[[], llm.Toolbox]) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="llm toolbox")
        self.toolbox = self.thread.submit(make).result()
        self._is_prepared = False

    async def prepare(self) -> None:
        """Prepare the toolbox before its first call, as llm does."""
        if self._is_prepared:
            return
        self._is_prepared = True
        await asyncio.get_running_loop().run_in_executor(self.thread, self.toolbox.prepare)
        await self.toolbox.prepare_async()


def _configured(offered: dict[str, Offer]) -> Iterator[tuple[str, _Box]]:
    """Make the toolboxes of the environment variable."""
    for text in filter(None, map(str.strip, os.environ.get(TOOLBOXES, "").splitlines())):
        name, arguments, keywords = _parse(text)
        kind = offered.get(name)
        if kind is None or isinstance(kind, llm.Tool):
            boxes = ", ".join(name for name, tool in offered.items() if not isinstance(tool, llm.Tool))
            raise ConfigurationError(f"{TOOLBOXES}: llm has no toolbox {name!r}. It has: {boxes or 'none'}.")
        make: Callable[..., llm.Toolbox] = kind
        try:
            yield name, _Box(partial(make, *arguments, **keywords))
        except Exception as error:
            raise ConfigurationError(f"{TOOLBOXES}: {text}: {type(error).__name__}: {error}") from error


def _parse(text: str) -> tuple[str, list[object], dict[str, object]]:
    """Read `Name(arguments)`. The arguments are literals of Python, so no code can run.

    Raises:
        ConfigurationError: It is something else.
    """
    try:
        call = ast.parse(text, mode="eval").body
        if isinstance(call, ast.Name):
            return call.id, [], {}
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("it is no call")
        keywords = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
        return call.func.id, [ast.literal_eval(value) for value in call.args], keywords
    except (SyntaxError, ValueError) as error:
        raise ConfigurationError(
            f"{TOOLBOXES}: {text!r} is malformed: {error}.", hint='Write it as SQLite("data.db").'
        ) from None


def _without_arguments(kind: type[llm.Toolbox]) -> _Box | None:
    """Return a toolbox that needs no arguments; None if it needs some."""
    try:
        inspect.signature(kind).bind()
    except TypeError:
        return None
    return _Box(kind)


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]


def _convert(tool: llm.Tool, name: str, box: _Box | None) -> AgentTool:
    implementation = tool.implementation
    if implementation is None:
        raise ConfigurationError(f"The tool {name!r} of llm has no implementation.")
    schema = dict(tool.input_schema) or {"type": "object", "properties": {}}

    async def execute(
        tool_call_id: str,
        arguments: JsonDict,
        signal: asyncio.Event | None,
        on_update: AgentToolUpdateCallback,
    ) -> AgentToolResult:
        if box is not None:
            await box.prepare()
        if _wants_call(implementation):
            arguments = {**arguments, "llm_tool_call": llm.ToolCall(tool.name, arguments, tool_call_id)}
        try:
            if inspect.iscoroutinefunction(implementation):
                output = await implementation(**arguments)
            else:
                thread = None if box is None else box.thread
                call = partial(implementation, **arguments)
                output = await asyncio.get_running_loop().run_in_executor(thread, call)
        except llm.CancelToolCall as error:
            raise ToolError(f"Cancelled: {error}") from error
        except Exception as error:
            raise ToolError(f"{type(error).__name__}: {error}") from error
        return _result(output)

    return AgentTool(
        name=_safe(name), description=tool.description or "", parameters=schema, execute=execute,
        label=name, origin=str(tool.plugin or ""),
    )  # fmt: skip


def _wants_call(implementation: Callable[..., object]) -> bool:
    """Return whether a tool asks for its call, as llm allows."""
    try:
        return "llm_tool_call" in inspect.signature(implementation).parameters
    except (TypeError, ValueError):
        return False


def _result(output: object) -> AgentToolResult:
    """Return what a tool has returned: text, or JSON of other values, and images."""
    answer: llm.ToolOutput = output if isinstance(output, llm.ToolOutput) else llm.ToolOutput(output)
    text = answer.output if isinstance(answer.output, str) else json.dumps(answer.output, default=repr)
    content: list[TextContent | ImageContent] = [{"type": "text", "text": text}]
    for attachment in answer.attachments:
        kind = attachment.resolve_type()
        if kind and kind.startswith("image/"):
            data = base64.b64encode(attachment.content_bytes()).decode()
            content.append({"type": "image", "url": f"data:{kind};base64,{data}", "mime_type": kind})
        else:
            content.append({"type": "text", "text": f"[an attachment of type {kind} was left out]"})
    return AgentToolResult(content=content)
