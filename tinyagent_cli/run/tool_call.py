"""Call a tool without a model, through the same pipeline as in a run."""

from __future__ import annotations

from collections.abc import Sequence

from tinyagent import _json
from tinyagent._stream.builder import MessageBuilder
from tinyagent.agent_tool_execution import ToolBatch
from tinyagent.agent_types import (
    AgentTool,
    ImageContent,
    TextContent,
    ToolCallContent,
    ToolResultMessage,
)
from tinyagent.errors import ToolError
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config.settings import load_settings
from tinyagent_cli.exit_codes import InputError, describe
from tinyagent_cli.plugins.registry import PluginLoader
from tinyagent_cli.terminal.output import Output, take_stdin, take_stdout
from tinyagent_cli.terminal.sanitise import clean

from .approvals import Approvals
from .kernel_guards import protect_memory
from .lifetime import Lifetime
from .process_exit import runner_closed_at_exit
from .tool_guards import ToolGuards
from .tools import ToolLoader
from .user_questions import UserQuestions

__all__ = ["call"]


def call(app: AppContext, name: str, arguments: Sequence[str], as_json: bool) -> int:
    """Call a tool and print its result. Return 0, or raise the error of the tool."""
    protect_memory()
    take_stdin()
    stdout = take_stdout()
    runner = runner_closed_at_exit()
    with Lifetime() as lifetime:
        lifetime.at_last_resort(lambda cause: app.error(describe(cause).message))
        lifetime.release()
        found = load_settings()
        plugins = PluginLoader.from_settings(found)
        plugins.load_guards()
        tool = _one(name, ToolLoader(app, plugins, found.tools).load([name]))
        registry = plugins.registry()
        parsed = _arguments(tool, arguments)
        guards = ToolGuards(
            Approvals(deny=found.run.deny or (), yes=True, outside=True),
            registry.hooks("tinyagent_before_tool_call"),
            registry.hooks("tinyagent_after_tool_call"),
            timeout=found.hook_timeout,
        )
        questions = UserQuestions(guards.approvals, app.note, None)
        message = runner.run(_run(tool, parsed, guards, questions, lifetime))
        if as_json:
            shown = {
                "content": message["content"],
                "details": message["details"],
                "is_error": message["is_error"],
            }
            stdout.write_now(_json.encode(shown) + b"\n")
        elif not message["is_error"]:
            _print(stdout, message["content"])
        stdout.flush_or_raise()
        if message["is_error"]:
            raise ToolError(_text(message["content"]))
    return 0


def _one(name: str, tools: list[AgentTool]) -> AgentTool:
    if len(tools) > 1:
        same = [tool for tool in tools if tool.name == name]
        if same:
            return same[0]
        names = ", ".join(sorted(tool.name for tool in tools))
        how = f"{name}:TOOL" if name.endswith(".py") else f"{name}.TOOL"
        raise InputError(f"{name!r} has several tools: {names}.", hint=f"Name one: {how}")
    return tools[0]


def _arguments(tool: AgentTool, arguments: Sequence[str]) -> dict[str, object]:
    if len(arguments) == 1 and arguments[0].lstrip().startswith("{"):
        value = _json.decode_object(arguments[0])
        if value is None:
            raise InputError(f"The arguments are not a JSON object: {arguments[0]}")
        return value
    properties = tool.parameters.get("properties", {})
    parsed: dict[str, object] = {}
    for pair in arguments:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(
                f"{pair!r}: write arguments as KEY=VALUE, or all of them as one JSON object.",
                hint=f"{tool.name} takes: {', '.join(properties)}"
                if properties
                else f"{tool.name} takes none.",
            )
        schema = properties.get(name)
        is_text = isinstance(schema, dict) and schema.get("type") == "string"
        try:
            parsed[name] = text if is_text else _json.decode(text)
        except (ValueError, RecursionError):
            parsed[name] = text
    return parsed


async def _run(
    tool: AgentTool,
    arguments: dict[str, object],
    guards: ToolGuards,
    questions: UserQuestions,
    lifetime: Lifetime,
) -> ToolResultMessage:
    request: ToolCallContent = {
        "type": "tool_call",
        "id": "call_1",
        "name": tool.name,
        "arguments": arguments,
    }
    message = MessageBuilder(None).message()
    message["content"] = [request]
    with lifetime.abort_signal() as signal:
        batch = ToolBatch(
            message,
            [tool],
            lambda event: None,
            signal=signal,
            before=guards.before_tool_call,
            after=guards.after_tool_call,
            interaction=questions,
        )
        await batch.run()
    return batch.results[0]


def _text(content: Sequence[TextContent | ImageContent]) -> str:
    return "\n".join(
        part["text"] if part["type"] == "text" else f"[image {part.get('mime_type', '')}]" for part in content
    )


def _print(stdout: Output, content: Sequence[TextContent | ImageContent]) -> None:
    text = _text(content)
    if stdout.is_terminal:
        text = clean(text)
    stdout.write_now((text if text.endswith("\n") or not text else f"{text}\n").encode("utf-8", "replace"))
