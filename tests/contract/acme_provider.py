"""A provider of another author: its own protocol, httpx, and only public names of tinyagent."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import httpx

from tinyagent import AuthenticationError, Context, InvalidReplyError, Model, ProviderError, RateLimitError
from tinyagent.testing import Wire

# The protocol: one JSON array on each line. ["say", delta], ["end"], ["broken", why].


@dataclass
class AcmeModel(Model):
    """A model of Acme."""

    provider: str = "acme"
    api: str = "acme-lines"
    base_url: str = ""


class AcmeReply:
    """An active reply."""

    def __init__(
        self, client: httpx.AsyncClient, reply: httpx.Response | None, model: Model, signal: Any
    ) -> None:
        self._client = client
        self._reply = reply
        self._signal = signal
        self._message: dict[str, Any] = {
            "role": "assistant", "content": [], "stop_reason": "stop", "timestamp": time.time_ns() // 10**6,
            "api": model.api, "provider": model.provider, "model": model.id, "usage": None,
        }  # fmt: skip
        self._events = self._run()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._events

    async def result(self) -> Any:
        async for _ in self._events:
            pass
        return self._message

    async def aclose(self) -> None:
        await self._events.aclose()
        await self._client.aclose()

    async def _run(self) -> Any:
        words: list[str] = []
        yield {"type": "start"}
        try:
            if self._reply is None:
                raise Aborted
            async with aclosing(self._lines(self._reply)) as lines:
                async for kind, *rest in lines:
                    if kind == "say":
                        if not words:
                            yield {"type": "text_start", "content_index": 0}
                        words += rest
                        yield {"type": "text_delta", "content_index": 0, "delta": rest[0]}
                    elif kind == "broken":
                        yield self._failed(words, "error", "provider", f"acme: {rest[0]}")
                        return
                    elif kind == "end":
                        break
                else:
                    yield self._failed(words, "error", "stream_interrupted", "acme: the reply broke off")
                    return
        except TimeoutError:
            yield self._failed(words, "error", "timeout", "acme: no more data")
        except httpx.HTTPError:
            yield self._failed(words, "error", "stream_interrupted", "acme: the connection broke")
        except ValueError:
            yield self._failed(words, "error", "invalid_reply", "acme: the reply is not of the protocol")
        except Aborted:
            yield self._failed(words, "aborted", None, "aborted")
        else:
            text = "".join(words)
            self._message["content"] = [{"type": "text", "text": text}]
            yield {"type": "text_end", "content_index": 0, "content": text}
            yield {"type": "done", "reason": "stop", "message": self._message}
        finally:
            await self._client.aclose()

    async def _lines(self, reply: httpx.Response) -> AsyncGenerator[list[Any], None]:
        rest = b""
        async with aclosing(cast(Any, reply.aiter_bytes())) as chunks:
            while chunk := await unless(self._signal, anext(chunks, b"")):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)

    def _failed(self, words: list[str], reason: str, kind: str | None, why: str) -> dict[str, Any]:
        content = [{"type": "text", "text": "".join(words)}] if words else []
        self._message |= {"content": content, "stop_reason": reason, "error_message": why, "error_kind": kind}
        return {"type": "error", "reason": reason, "error": self._message}


class Aborted(Exception):
    """The signal was set."""


async def unless(signal: asyncio.Event | None, waiting: Any) -> Any:
    """Wait for an awaitable, unless the signal is set first."""
    task = asyncio.ensure_future(waiting)
    stop = asyncio.ensure_future((signal or asyncio.Event()).wait())
    try:
        await asyncio.wait([task, stop], return_when="FIRST_COMPLETED")
        if not task.done():
            raise Aborted
        return task.result()
    finally:
        for each in (task, stop):
            each.cancel()
        await asyncio.wait([task, stop])


async def stream_acme(model: Any, context: Context, options: Mapping[str, Any]) -> AcmeReply:
    """Send a request to Acme."""
    client = httpx.AsyncClient(timeout=10, trust_env=False)
    talk: list[Any] = [
        [part["role"], block["text"]] for part in context.messages for block in part["content"]
    ]
    body = {
        "limit": options.get("max_tokens"), "heat": options.get("temperature"),
        "rules": context.system_prompt, "talk": talk,
        "tools": [[tool.name, tool.description, tool.parameters] for tool in context.tools or ()],
    }  # fmt: skip
    request = client.build_request(
        "POST", model.base_url, json=body, headers={"X-Acme-Key": options.get("api_key") or ""}
    )
    signal = options.get("signal")
    try:
        reply = await unless(signal, client.send(request, stream=True))
        if reply.status_code == 200:
            return AcmeReply(client, reply, model, signal)
        words = (
            json.loads(await reply.aread())["error"]["message"] if reply.status_code >= 400 else "redirect"
        )
    except Aborted:
        return AcmeReply(client, None, model, signal)
    except BaseException:
        await client.aclose()
        raise
    await client.aclose()
    words = words.replace(options["api_key"], "[redacted]")
    kinds: dict[int, Any] = {401: AuthenticationError, 429: RateLimitError, 302: InvalidReplyError}
    raise kinds.get(reply.status_code, ProviderError)(f"acme: HTTP {reply.status_code}: {words}")


class AcmeWire(Wire):
    """The server's side of Acme's protocol."""

    signs = False

    def say(self, content: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Return each word as an event."""
        words = [word for block in content for word in block["text"].split(" ")]
        return [_line("say", word if n == 0 else f" {word}") for n, word in enumerate(words)]

    def end(self, stop_reason: str, usage: Mapping[str, int] | None) -> list[bytes]:
        """Return the end."""
        return [_line("end")]

    def error(self, message: str) -> list[bytes]:
        """Return an error inside the stream."""
        return [_line("broken", message.replace("sk-test-CANARY-0123456789abcdef", "***"))]


def _line(*words: str) -> bytes:
    return json.dumps(words).encode() + b"\n"
