"""The provider `demo`: offline and scripted, for a first run without a key, and for tests.

It is a script, not a model, and its answers say so. It streams word by word and calls real tools: a tool with
an `expression` parameter gets the arithmetic in the prompt, and a tool that the prompt names gets its
arguments from the prompt (`key=value`, quoted text, numbers). The answer contains the results of the tools.
If the answer has a JSON Schema, it is an example that fits, filled in the same way.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from . import _json
from ._arithmetic import find_arithmetic
from ._cancel import Aborted, CancelScope
from ._json import as_dict, as_int, as_list, as_str
from ._schema_repair import resolve
from ._stream.builder import MessageBuilder, StreamEvent
from ._stream.compaction import SYSTEM_PROMPT
from ._stream.generator_reply import GeneratorReply
from ._tool_schemas import tool_schema
from .agent_types import (
    AgentTool,
    Context,
    JsonDict,
    JsonValue,
    Message,
    Model,
    ModelIdentity,
    ModelInfo,
    Provider,
    SimpleStreamOptions,
    StreamResponse,
    ToolResultMessage,
)
from .errors import ConfigurationError

__all__ = ["NOTICE", "DemoModel", "demo_provider"]

NOTICE = "demo: a script answers here, not a model; tools are real. Choose a model with -m PROVIDER/ID."
"""The notice that a program shows on standard error when it uses the demo."""

_SET_UP = """\
What you can do next:

- use a hosted model: `export OPENROUTER_API_KEY=…`, then `tinyagent run -m openrouter/MODEL "…"`
- use a model of your own server, such as Ollama: `tinyagent run -m ollama/MODEL "…"`
- see a tool at work: `tinyagent run -m demo -t calc "What is 6 * 7?"`"""
"""Markdown, because a terminal renders it."""

_SHOWN = 200
"""How many characters of a text the answer repeats."""


@dataclass
class DemoModel(Model):
    """The model of the demo. `delay` is the time before each word, in seconds."""

    provider: str = "demo"
    id: str = "demo"
    api: str = "demo"
    delay: float = 0.0


def demo_provider() -> Provider:
    """Return the provider. With `-O delay=0.05` its words arrive slowly."""
    return Provider(name="demo", stream_fn=_stream, make_model=_make_model, list_models=_list_models)


def _make_model(model_id: str, options: Mapping[str, JsonValue]) -> DemoModel:
    if "base_url" in options:
        raise ConfigurationError("demo has no base_url, because it sends no requests.")
    given = options.get("delay", 0.0)
    try:
        delay = float(given) if isinstance(given, int | float | str) else -1.0
    except ValueError:
        delay = -1.0
    if not 0 <= delay <= 10:
        raise ConfigurationError(f"demo: delay is seconds from 0 to 10, not {given!r}.")
    return DemoModel(id=model_id or "demo", delay=delay)


async def _list_models() -> list[ModelInfo]:
    return [ModelInfo("demo", "a script, offline; no model")]


async def _stream(model: ModelIdentity, context: Context, options: SimpleStreamOptions) -> StreamResponse:
    return GeneratorReply(_speak(model, context, options.get("signal"), options.get("response_schema")))


async def _speak(
    model: ModelIdentity, context: Context, signal: asyncio.Event | None, schema: JsonDict | None
) -> AsyncGenerator[StreamEvent, None]:
    builder = MessageBuilder(model)
    delay = getattr(model, "delay", 0.0)
    yield builder.start()
    sent_words = 0
    try:
        for block in _reply(context, schema):
            match block:
                case _Call(name=name, arguments=arguments):
                    index, event = builder.open_tool_call("", name)
                    pieces = _split(_json.encode(arguments).decode(), 8)
                case _Thought(text=text):
                    index, event = builder.open_thinking()
                    pieces = re.findall(r"\s*\S+", text)
                case str():
                    index, event = builder.open_text()
                    pieces = re.findall(r"\s*\S+", block)
            yield event
            for piece in pieces:
                async with CancelScope(signal):
                    await asyncio.sleep(delay)
                sent_words += 1
                yield builder.delta(index, piece)
            yield builder.close(index)
    except Aborted:
        yield builder.fail("aborted", "The call was aborted.")
        return
    words = _count_words(context)  # it has no tokens
    usage = {"input": words, "output": sent_words, "total": words + sent_words, "cost": 0.0}
    has_calls = any(block["type"] == "tool_call" for block in builder.message()["content"])
    yield builder.done("tool_use" if has_calls else "stop", usage=usage, finish_reason="scripted")


def _split(text: str, length: int) -> list[str]:
    return [text[begin : begin + length] for begin in range(0, len(text), length)]


def _count_words(context: Context) -> int:
    texts = [context.system_prompt, *(_text(message) for message in context.messages)]
    return sum(len(text.split()) for text in texts)


# ---- the answer -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Thought:
    """A thinking block."""

    text: str


@dataclass(frozen=True)
class _Call:
    """A tool call."""

    name: str
    arguments: dict[str, object]


_Block: TypeAlias = str | _Thought | _Call


def _reply(context: Context, schema: JsonDict | None) -> list[_Block]:
    messages = list(context.messages)
    asked = max((n for n, message in enumerate(messages) if message["role"] == "user"), default=-1)
    prompt = _text(messages[asked]) if asked >= 0 else ""
    if context.system_prompt == SYSTEM_PROMPT:
        return [_summary(prompt)]
    results = [message for message in messages[asked + 1 :] if message["role"] == "tool_result"]
    if results:
        report = _report(messages, results)
        return [report if schema is None else _Example(schema, f"{prompt}\n{report}", report).text()]
    tools = list(context.tools or [])
    expressions = list(find_arithmetic(prompt))
    calls = _calculations(expressions, tools) or _named_calls(prompt, tools)
    if calls:
        names = " and ".join(dict.fromkeys(call.name for call in calls))
        return [_Thought(f"The prompt can be answered by a tool: {names}."), *calls]
    if schema is not None:
        return [_Example(schema, prompt, prompt).text()]
    return [_explain(prompt, messages[: max(asked, 0)], tools, expressions)]


def _summary(prompt: str) -> str:
    """Return the summary of a conversation that the prompt contains: the earlier one, and the prompts."""
    earlier = re.findall(r"(?m)^Summary of the part before: (.*(?:\n- .*)*)", prompt)
    asked = [f"- {text[:80]}" for text in re.findall(r"(?m)^User: (.+)", prompt)]
    return "\n".join(
        [*(earlier or ["This is a script, not a model. The user has sent these prompts:"]), *asked]
    )


def _report(messages: Sequence[Message], results: Sequence[ToolResultMessage]) -> str:
    """Return the results of the tools as text."""
    calls = {
        block["id"]: block["arguments"]
        for message in messages
        if message["role"] == "assistant"
        for block in message["content"]
        if block["type"] == "tool_call"
    }
    reports = []
    for result in results:
        name, text = result["tool_name"], _text(result) or "nothing that can be shown as text"
        expression = calls.get(result["tool_call_id"], {}).get("expression")
        subject = expression if isinstance(expression, str) else None
        if result["is_error"]:
            reports.append(f"{name} failed{f' on {subject}' if subject else ''}: {text}")
        elif subject:
            reports.append(f"{subject} = {text}")
        else:
            reports.append(f"{name}: {text}")
    return (" and " if all("\n" not in text for text in reports) else "\n").join(reports)


def _explain(
    prompt: str, before: Sequence[Message], tools: Sequence[AgentTool], expressions: Sequence[str]
) -> str:
    parts = [f"You said: {_shorten(prompt)}" if prompt else "You said nothing that I can read."]
    if before:
        answers = [_text(message) for message in before if message["role"] == "assistant"]
        last = next((text for text in reversed(answers) if text), "")
        count = f"{len(before)} earlier message{'s' if len(before) != 1 else ''}"
        parts.append(f"I see {count}" + (f"; the last answer was: {_shorten(last)}" if last else "."))
    parts.append("I am the demo: a script, not a model. I can only repeat this, and call tools.")
    if expressions:
        parts.append(f"To work out {expressions[0]} I would need a tool: add `-t calc`.")
    elif tools:
        names = ", ".join(tool.name for tool in tools)
        parts.append(
            f"I can call a tool that you name, with key=value for its arguments. There are: {names}."
        )
    parts.append(_SET_UP)
    return "\n\n".join(parts)


def _shorten(text: str) -> str:
    """Return the beginning of a text in one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _text(message: Message) -> str:
    """Return the text of a message."""
    content = message.get("content") or []
    return "\n".join(block["text"] for block in content if block["type"] == "text")


# ---- the tool calls ---------------------------------------------------------------------------


def _calculations(expressions: Sequence[str], tools: Sequence[AgentTool]) -> list[_Call]:
    """Return calls that calculate the expressions, if a tool can do that; `calc` is preferred."""
    names = [tool.name for tool in tools if "expression" in _properties(tool)]
    if not names:
        return []
    name = "calc" if "calc" in names else names[0]
    return [_Call(name, {"expression": text}) for text in expressions]


def _named_calls(prompt: str, tools: Sequence[AgentTool]) -> list[_Call]:
    """Return a call of each tool that the prompt names."""
    calls = []
    for tool in tools:
        words = re.escape(tool.name).replace("_", "[_ ]")
        named = re.search(rf"(?<![\w.]){words}(?![\w=])", prompt, re.IGNORECASE)
        if named:
            after = prompt[named.end() :].strip(" \t\n:,.?!")
            calls.append(_Call(tool.name, _arguments(tool, prompt, after)))
    return calls


def _arguments(tool: AgentTool, prompt: str, after: str) -> dict[str, object]:
    """Find the arguments in the prompt. If a required one is missing, the call fails its validation.

    Args:
        tool: The tool.
        prompt: The complete prompt.
        after: The prompt after the name of the tool.
    """
    pairs, quoted, numbers = _pairs(prompt), _quoted(prompt), _numbers(prompt)
    required = tool_schema(tool).parameters.get("required", [])
    arguments: dict[str, object] = {}
    for key, rule in _properties(tool).items():
        kind = rule.get("type") if isinstance(rule, Mapping) else None
        if key in pairs:
            arguments[key] = _typed(pairs[key], kind)
        elif key not in required:
            continue
        elif kind in ("integer", "number"):
            if (number := next(numbers, None)) is not None:
                arguments[key] = _typed(number, kind)
        elif kind in ("string", None):
            arguments[key] = next(quoted, after or prompt)
    return arguments


def _pairs(text: str) -> dict[str, str]:
    """Return each `key=value` of a text."""
    return dict(re.findall(r"(\w+)=(\"[^\"]*\"|'[^']*'|[^\s,;]+)", text))


def _quoted(text: str) -> Iterator[str]:
    return iter([a or b for a, b in re.findall(r"\"([^\"]*)\"|(?<!\w)'([^']*)'", text)])


def _numbers(text: str) -> Iterator[str]:
    return iter(re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", text))


def _typed(value: str, kind: object) -> object:
    """Convert a text from the prompt to the JSON type of a parameter."""
    text = value[1:-1] if value[:1] in "\"'" and value[-1:] == value[:1] and len(value) > 1 else value
    if kind in ("integer", "number", "boolean", "array", "object", "null"):
        try:
            return _json.decode(text)
        except ValueError:
            return text  # the validation of the call reports the fault
    return text


def _properties(tool: AgentTool) -> Mapping[str, object]:
    return as_dict(tool_schema(tool).parameters["properties"])


# ---- an answer with a schema ----------------------------------------------------------------------------

_FORMATS = {
    "date-time": "2000-01-01T00:00:00Z",
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "duration": "PT0S",
    "email": "demo@example.org",
    "uuid": "00000000-0000-0000-0000-000000000000",
    "uri": "https://example.org/",
}
_EXAMPLE_DEPTH = 4
"""Levels of an example. Below, optional properties and the items of arrays are left out."""
_MAX_REFERENCES = 64


class _Example:
    """A value that fits a JSON Schema, with the values of a text.

    Args:
        schema: The schema.
        source: The text with `key=value`, quoted texts and numbers.
        default: The text for properties without a value.
    """

    def __init__(self, schema: JsonDict, source: str, default: str) -> None:
        self._schema = schema
        self._pairs, self._quoted, self._numbers = _pairs(source), _quoted(source), _numbers(source)
        self._default = _shorten(default) or "demo"

    def text(self) -> str:
        """Return the value as JSON."""
        return _json.encode(self._value(self._schema, "", 0)).decode()

    def _value(self, schema: object, name: str, depth: int) -> object:
        rule = as_dict(schema)
        for _ in range(_MAX_REFERENCES):
            parts = [resolve(self._schema, as_str(rule.get("$ref")))] if "$ref" in rule else []
            parts += next((as_list(rule[key]) for key in ("anyOf", "oneOf", "allOf") if rule.get(key)), [])
            if not parts:
                break
            deep = depth >= _EXAMPLE_DEPTH and {"type": "null"} in parts
            rule = {"type": "null"} if deep else as_dict(parts[0])
        kinds = rule.get("type")
        kind = next(iter(kinds), None) if isinstance(kinds, list) else kinds
        typed = _typed(self._pairs[name], kind) if name in self._pairs else None
        if "const" in rule:
            return rule["const"]
        if as_list(rule.get("enum")):
            return typed if typed in as_list(rule["enum"]) else as_list(rule["enum"])[0]
        if kind == "object":
            required = as_list(rule.get("required"))
            return {
                key: self._value(part, key, depth + 1)
                for key, part in as_dict(rule.get("properties")).items()
                if key in required or depth < _EXAMPLE_DEPTH
            }
        if kind == "array" and not isinstance(typed, list):
            least = as_int(rule.get("minItems")) or 0
            count = max(least, 1 if depth < _EXAMPLE_DEPTH else 0)
            return [self._value(rule.get("items"), name, depth + 1) for _ in range(count)]
        return self._scalar(rule, kind) if typed is None else typed

    def _scalar(self, rule: Mapping[str, object], kind: object) -> object:
        match kind:
            case "integer" | "number":
                number = next(self._numbers, None)
                return rule.get("minimum", 0) if number is None else _typed(number, kind)
            case "boolean":
                return False
            case "null":
                return None
        return _FORMATS.get(as_str(rule.get("format"))) or next(self._quoted, self._default)
