"""The input of OpenAI's batch API: an object with `custom_id` and the `body` of a chat/completions request.

What a run does not support is an error. It is never ignored, because the answer would belong to another
request. Fields without an option of ours, such as `seed`, are sent as they are.
"""

from __future__ import annotations

from tinyagent import _json
from tinyagent.agent_types import JsonDict, JsonValue
from tinyagent.executors import BatchItem

__all__ = ["is_openai_request", "openai_item"]

_URL = "/v1/chat/completions"

_REFUSED = {
    **dict.fromkeys(("tools", "tool_choice", "functions", "function_call"), "name the tools with -t"),
    "parallel_tool_calls": "name the tools with -t",
    **dict.fromkeys(("logprobs", "top_logprobs"), "a result has no log probabilities"),
    **dict.fromkeys(("audio", "modalities"), "a result has only text"),
    **dict.fromkeys(("stream", "stream_options"), "a result is one line"),
    "n": "an item has one answer",
}
"""Fields that would change what a result contains, and what to do instead."""

_WITHOUT_EFFECT: dict[str, JsonValue] = {"n": 1, "modalities": ["text"]}
"""Values of these fields that ask for nothing else than their absence."""

_CONVERTED = ("model", "messages", "temperature", "max_tokens", "max_completion_tokens", "response_format")

_MESSAGE_FIELDS = {
    **dict.fromkeys(("system", "developer", "user"), ("role", "content")),
    "assistant": ("role", "content", "tool_calls"),
    "tool": ("role", "content", "tool_call_id"),
}


def is_openai_request(fields: JsonDict) -> bool:
    """Whether an object has this format, and is not an item with variables of these names."""
    return "custom_id" in fields and "body" in fields and "prompt" not in fields


def openai_item(fields: JsonDict, number: int) -> BatchItem:
    """Return the item of a line. The last message is the prompt.

    Args:
        fields: The object.
        number: The number of its line.

    Raises:
        ValueError: The request is invalid, or has something that a run does not support.
    """
    item_id, body = fields["custom_id"], fields["body"]
    if not isinstance(item_id, str) or not item_id:
        raise ValueError("custom_id is not a text")
    if fields.get("method", "POST") != "POST" or fields.get("url", _URL) != _URL:
        raise ValueError(f"only requests to POST {_URL} are supported")
    if not isinstance(body, dict):
        raise ValueError("body is not an object")
    for name, instead in _REFUSED.items():
        if body.get(name) and body[name] != _WITHOUT_EFFECT.get(name):
            raise ValueError(f"body.{name} is not supported: {instead}")
    system, turns = _conversation(body.get("messages"))
    last = turns[-1]["content"]
    prompt = last if isinstance(last, str) else None
    model = body.get("model")
    if model is not None and (not isinstance(model, str) or not model):
        raise ValueError("body.model is not a text")
    return BatchItem(
        id=item_id,
        line=number,
        prompt=prompt,
        system=system,
        model=model if model is None or "/" in model else f"openai/{model}",
        history=tuple(turns if prompt is None else turns[:-1]),
        settings=_settings(body),
    )


# ---- messages -------------------------------------------------------------------------------------------


def _conversation(messages: JsonValue) -> tuple[str | None, list[JsonDict]]:
    """Return the system prompt, and the other messages in our format."""
    if not isinstance(messages, list) or not messages:
        raise ValueError("body.messages is not a list of messages")
    system: list[str] = []
    turns: list[JsonDict] = []
    for number, message in enumerate(messages):
        where = f"body.messages[{number}]"
        fields, role = _json.as_dict(message), _json.as_str(_json.as_dict(message).get("role"))
        if role not in _MESSAGE_FIELDS:
            raise ValueError(f"{where} has no role that is supported")
        more = [name for name, value in fields.items() if value and name not in _MESSAGE_FIELDS[role]]
        if more:
            raise ValueError(f"{where}.{more[0]} is not supported")
        if role not in ("system", "developer"):
            turns.append(_turn(role, fields, where))
        elif turns:
            raise ValueError(f"{where} is a {role} message after the first turn, which is not supported")
        else:
            system.append(_text(fields.get("content"), where))
    if not turns or turns[-1]["role"] != "user":
        raise ValueError("the last message is not from the user")
    return "\n\n".join(system) if system else None, turns


def _turn(role: str, fields: JsonDict, where: str) -> JsonDict:
    content = fields.get("content")
    if role == "tool":
        call_id = fields.get("tool_call_id")
        if not isinstance(call_id, str) or not call_id:
            raise ValueError(f"{where}.tool_call_id is not a text")
        return {"role": "tool_result", "tool_call_id": call_id, "content": _text(content, where)}
    if role == "user":
        return {"role": role, "content": content if isinstance(content, str) else _blocks(content, where)}
    calls: list[JsonValue] = [
        _call(call, f"{where}.tool_calls[{number}]")
        for number, call in enumerate(_json.as_list(fields.get("tool_calls")))
    ]
    text = "" if content is None and calls else _text(content, where)
    return {"role": role, "content": [*([{"type": "text", "text": text}] if text else []), *calls]}


def _text(content: object, where: str) -> str:
    """Return a content that has only text."""
    if isinstance(content, str):
        return content
    parts = _blocks(content, where)
    if any(_json.as_dict(part)["type"] != "text" for part in parts):
        raise ValueError(f"{where}.content has more than text")
    return "".join(str(_json.as_dict(part)["text"]) for part in parts)


def _blocks(content: object, where: str) -> list[JsonValue]:
    if not isinstance(content, list) or not content:
        raise ValueError(f"{where}.content is neither a text nor a list")
    return [_block(_json.as_dict(part), f"{where}.content[{number}]") for number, part in enumerate(content)]


def _block(part: JsonDict, where: str) -> JsonDict:
    match part.get("type"):
        case "text" if isinstance(part.get("text"), str):
            return {"type": "text", "text": part["text"]}
        case "image_url":
            image = _json.as_dict(part.get("image_url"))
            url = image.get("url")
            if not isinstance(url, str) or not url.startswith(("https://", "http://", "data:image/")):
                raise ValueError(f"{where}.image_url.url is not the address of an image")
            if image.get("detail") not in (None, "auto"):
                raise ValueError(f"{where}.image_url.detail is not supported")
            return {"type": "image", "url": url}
        case kind:
            raise ValueError(f"{where} has the type {kind!r}; only text and image_url are supported")


def _call(call: object, where: str) -> JsonDict:
    fields = _json.as_dict(call)
    function, call_id = _json.as_dict(fields.get("function")), fields.get("id")
    name, text = function.get("name"), function.get("arguments")
    if not (isinstance(call_id, str) and isinstance(name, str) and isinstance(text, str)):
        raise ValueError(f"{where} is not the call of a function")
    try:
        arguments = _json.decode(text)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise ValueError(f"{where}.function.arguments is not a JSON object")
    return {"type": "tool_call", "id": call_id, "name": name, "arguments": arguments}


# ---- settings -------------------------------------------------------------------------------------------


def _settings(body: JsonDict) -> JsonDict:
    """Return the settings of the request. Fields without an option of ours are sent as they are."""
    own = {*_CONVERTED, *_REFUSED}
    extra = {name: value for name, value in body.items() if name not in own and value is not None}
    settings: JsonDict = {}
    kind = _json.as_dict(body.get("response_format"))
    match kind.get("type"):
        case "json_schema":
            schema = _json.as_dict(kind.get("json_schema")).get("schema")
            if not isinstance(schema, dict):
                raise ValueError("body.response_format.json_schema has no schema")
            settings["schema"] = schema
        case "json_object":
            extra["response_format"] = kind
        case "text":
            pass
        case found if found is not None or body.get("response_format") is not None:
            raise ValueError("body.response_format has no type that is supported")
    temperature = body.get("temperature")
    if temperature is not None:
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or temperature < 0:
            raise ValueError("body.temperature is not a number from 0")
        settings["temperature"] = temperature
    limits = [body[name] for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None]
    if limits:
        if not all(isinstance(limit, int) and limit >= 1 and limit is not True for limit in limits):
            raise ValueError("the token limit of body is not a whole number from 1")
        settings["max_tokens"] = limits[0]
    if extra:
        settings["extra_body"] = extra
    return settings
