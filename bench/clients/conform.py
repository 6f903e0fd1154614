"""Run a client on replies: read one job per line, and write one outcome per line.

    python -m bench.clients.conform CLIENT

A job has the protocol and either a `url` to request or `pieces`, the bytes of a response as the network
delivers them. An outcome has `outcome` (`ok`, the kind of the failure, `crash` for an exception that is not
the client's own, or `hang`), `text`, `reasoning`, `calls`, `finish` and `usage`.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

LONGEST = 30.0
"""Seconds after which a reply counts as hanging, unless the job sets a limit (`longest`)."""
KEY = "sk-test-0123456789abcdef"
Job = dict[str, Any]
Outcome = dict[str, Any]


def _pieces(job: Job) -> list[bytes]:
    return [base64.b64decode(piece) for piece in job["pieces"]]


# ---- ours ---------------------------------------------------------------------------------------------


def ours(job: Job, out: Outcome) -> Any:
    """Our client: the decoders for pieces, and a real request for a URL."""
    return _decode(job, out) if "pieces" in job else _stream(job, out, "python")


def alchemy(job: Job, out: Outcome) -> Any:
    """The Rust provider, with real requests only."""
    return _stream(job, out, "rust")


async def _decode(job: Job, out: Outcome) -> None:
    from tinyagent.agent_types import Model
    from tinyagent.anthropic_provider import AnthropicDecoder
    from tinyagent.openai_wire import ChatDecoder
    from tinyagent.proxy_event_handlers import ProxyDecoder
    from tinyagent.responses_provider import ResponsesDecoder

    decoders: dict[str, Callable[..., Any]] = {
        "chat": ChatDecoder,
        "anthropic": AnthropicDecoder,
        "responses": ResponsesDecoder,
        "proxy": ProxyDecoder,
    }
    decoder = decoders[job["protocol"]](Model("p", "m", "a"))
    events = []
    for piece in _pieces(job):
        events += decoder.feed(piece)
        if decoder.ended:
            break
    events += decoder.close()
    last = decoder.fail() if decoder.error is not None else events[-1]
    _describe(dict(last["message" if last["type"] == "done" else "error"]), out)


async def _stream(job: Job, out: Outcome, way: str) -> None:
    from tinyagent.agent_types import Context
    from tinyagent.errors import TinyAgentError
    from tinyagent.openai_wire import OpenAICompatModel, stream_openai_completions

    stream_fn: Any = stream_openai_completions
    if way == "rust":
        from tinyagent.alchemy_provider import stream_alchemy_openai_completions as stream_fn
    model = OpenAICompatModel(provider="acme", id="m", base_url=job["url"])
    timeout = job.get("timeout") or {"connect": 5.0, "first_event": 1.0, "idle": 0.4}
    context = Context(messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])
    try:
        response = await stream_fn(model, context, {"api_key": KEY, "timeout": timeout})
        async for _ in response:
            pass
        _describe(dict(await response.result()), out)
    except TinyAgentError as error:
        out |= {"outcome": error.kind, "says": str(error)}


def _describe(message: dict[str, Any], out: Outcome) -> None:
    """Write a message as an outcome."""
    calls = [block for block in message["content"] if block["type"] == "tool_call"]
    usage = message.get("usage")
    failed = message["stop_reason"] in ("error", "aborted")
    out |= {
        "outcome": message.get("error_kind") or "error" if failed else "ok",
        "says": message.get("error_message") or "",
        "text": "".join(block["text"] for block in message["content"] if block["type"] == "text"),
        "reasoning": "".join(
            block["thinking"] for block in message["content"] if block["type"] == "thinking"
        ),
        "signatures": [
            block["thinking_signature"]
            for block in message["content"]
            if block["type"] == "thinking" and not block.get("thinking_signature", "{").startswith("{")
        ],
        "calls": [
            [call["id"], call["name"], None if "partial_json" in call else call["arguments"]]
            for call in calls
        ],
        "finish": message.get("finish_reason"),
        "usage": [usage["input"], usage["output"]] if usage else None,
        "cost": usage["cost"] if usage else None,
    }


# ---- the official clients -------------------------------------------------------------------------------


def _http(job: Job) -> dict[str, Any]:
    """Return the client's own HTTP client for a URL, or a fake one that returns the pieces."""
    httpx = _httpx()
    if "pieces" not in job:
        return {"timeout": httpx.Timeout(1.0, connect=5.0)}

    class Given(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            for piece in _pieces(job):
                yield piece

    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Given())

    return {"http_client": httpx.AsyncClient(transport=httpx.MockTransport(answer)), "max_retries": 0}


def _httpx() -> Any:
    """Return the HTTP library of the official clients: httpx, or its successor."""
    try:
        return importlib.import_module("httpx2")
    except ImportError:
        return importlib.import_module("httpx")


async def openai_client(job: Job, out: Outcome) -> None:
    """The official OpenAI client, with its own accumulator of a stream."""
    import openai
    from openai.lib.streaming.chat import ChatCompletionStreamState

    httpx = _httpx()
    state, text, thought = ChatCompletionStreamState(), [], []
    try:
        async with openai.AsyncOpenAI(
            base_url=job.get("url", "http://127.0.0.1/v1"), api_key=KEY, **_http(job)
        ) as client:
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
            )
            async for chunk in stream:
                for choice in chunk.choices or ():
                    delta = choice.delta
                    if choice.index == 0 and delta is not None:
                        text.append(delta.content or getattr(delta, "refusal", None) or "")
                        thought.append(
                            getattr(delta, "reasoning_content", None)
                            or getattr(delta, "reasoning", None)
                            or ""
                        )
                out |= {"text": _joined(text), "reasoning": _joined(thought)}
                state.handle_chunk(chunk)
        out["outcome"] = "ok"
        final = state.current_completion_snapshot
        choices = [choice for choice in final.choices if choice.index == 0]
        out["finish"] = choices[0].finish_reason if choices else None
        calls = (choices[0].message.tool_calls if choices else None) or ()
        out["calls"] = [[call.id, call.function.name, _arguments(call.function.arguments)] for call in calls]
        if final.usage is not None:
            out["usage"] = [final.usage.prompt_tokens, final.usage.completion_tokens]
            out["cost"] = final.usage.model_dump().get("cost")
    except openai.APIStatusError as error:
        out |= {"outcome": "http_error", "says": str(error)}
    except (openai.APIError, httpx.HTTPError) as error:
        out |= {"outcome": "error", "says": str(error)}
    except AssertionError as error:  # no chunk arrived, so the reply is empty
        if text or thought:
            raise
        out |= {"outcome": "ok", "says": str(error)}


async def anthropic_client(job: Job, out: Outcome) -> None:
    """The official Anthropic client, with its own message of a stream."""
    import anthropic

    httpx = _httpx()
    try:
        async with (
            anthropic.AsyncAnthropic(base_url="http://127.0.0.1", api_key=KEY, **_http(job)) as client,
            client.messages.stream(
                model="m", max_tokens=99, messages=[{"role": "user", "content": "Hi"}]
            ) as stream,
        ):
            final = await stream.get_final_message()
        blocks = final.content
        out |= {
            "outcome": "ok",
            "text": "".join(block.text for block in blocks if block.type == "text"),
            "reasoning": "".join(block.thinking for block in blocks if block.type == "thinking"),
            "signatures": [
                block.signature for block in blocks if block.type == "thinking" and block.signature
            ],
            "calls": [
                [block.id, block.name, block.input if isinstance(block.input, dict) else None]
                for block in blocks
                if block.type == "tool_use"
            ],
            "finish": final.stop_reason,
            "usage": [
                final.usage.input_tokens
                + (final.usage.cache_read_input_tokens or 0)
                + (final.usage.cache_creation_input_tokens or 0),
                final.usage.output_tokens,
            ],
        }
    except anthropic.APIStatusError as error:
        out |= {"outcome": "http_error", "says": str(error)}
    except (anthropic.APIError, httpx.HTTPError) as error:
        out |= {"outcome": "error", "says": str(error)}


def _joined(pieces: list[Any]) -> str:
    return "".join(piece for piece in pieces if isinstance(piece, str))


def _arguments(text: Any) -> Any:
    """Read the events as a user of the client does."""
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


# ---- the worker -----------------------------------------------------------------------------------------

CLIENTS: dict[str, Callable[[Job, Outcome], Any]] = {
    "ours": ours,
    "rust": alchemy,
    "openai": openai_client,
    "anthropic": anthropic_client,
}


async def _answer(client: Callable[[Job, Outcome], Any], job: Job) -> Outcome:
    out: Outcome = {"outcome": "hang", "text": "", "reasoning": "", "calls": [], "says": ""}
    begin = time.perf_counter()
    limit = asyncio.timeout(job.get("longest", LONGEST))
    try:
        async with limit:
            await client(job, out)
    except TimeoutError:
        out["outcome"] = "hang" if limit.expired() else "crash"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
        out |= {"outcome": "crash", "says": f"{type(error).__name__}: {error}"}
    return {**out, "seconds": round(time.perf_counter() - begin, 3)}


async def serve(name: str) -> None:
    """Process jobs until the input ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        outcome = await _answer(CLIENTS[name], json.loads(line))
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
