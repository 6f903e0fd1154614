"""A plugin of `llm`: models that stream slowly, fail, or keep what they are asked; tools and fragments."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import llm
from llm.parts import StreamEvent

SEEN: list[llm.Prompt] = []
"""The prompts that the models have got."""
CONVERSATIONS: list[Any] = []
"""The conversations, as older plugins read them."""
GO = threading.Semaphore(0)
"""A slow model sends a piece for each release."""
CLOSED = threading.Event()
"""Set when a model's generator is closed."""

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)


class Slow(llm.Model):
    model_id = "slow"
    can_stream = True

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> Iterator[str]:
        try:
            for piece in ("one ", "two ", "three"):
                GO.acquire()
                yield piece
        finally:
            CLOSED.set()


class SlowAsync(llm.AsyncModel):
    model_id = "slow-async"
    can_stream = True

    async def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any = None
    ) -> AsyncIterator[str]:
        try:
            yield "one "
            await asyncio.Event().wait()
        finally:
            CLOSED.set()


class SlowAsyncSync(Slow):
    model_id = "slow-async"


class Memory(llm.Model):
    """Keeps what it is asked, as a present plugin and as an older one read it."""

    model_id = "memory"
    supports_tools = True
    supports_schema = True
    attachment_types = frozenset({"image/png"})

    class Options(llm.Options):
        temperature: float | None = None

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> Iterator[Any]:
        SEEN.append(prompt)
        CONVERSATIONS.append(conversation)
        yield StreamEvent(type="reasoning", chunk="Hm.", provider_metadata={"signature": "abc"})
        if "call" in prompt.prompt:
            response.add_tool_call(llm.ToolCall("look", {"at": "it"}, "call-1"))
            response.add_tool_call(llm.ToolCall("look", {}, None))
        else:
            yield StreamEvent(type="text", chunk="Yes.")
        response.set_usage(input=7, output=3)
        response.response_json = {"finish_reason": "length" if "long" in prompt.prompt else "stop"}


class Broken(llm.Model):
    model_id = "broken"

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any = None) -> Iterator[str]:
        if "empty" in prompt.prompt:
            return
        if "at once" not in prompt.prompt:
            yield "Half an ans"
        if "limit" in prompt.prompt:
            error = RuntimeError("slow down")
            error.status_code = 429  # type: ignore[attr-defined]
            raise error
        raise llm.ModelError("the server went away")


class Keyed(llm.KeyModel):
    model_id = "keyed"
    needs_key = "acme"
    key_env_var = "ACME_TEST_KEY"

    def execute(
        self, prompt: Any, stream: bool, response: Any, conversation: Any, key: str | None
    ) -> Iterator[str]:
        yield f"the key has {len(key or '')} characters"


class Shelf(llm.Toolbox):
    """A toolbox without arguments."""

    prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def count(self, item: str) -> dict[str, Any]:
        """Count an item."""
        return {"item": item, "prepared": self.prepared}


def picture() -> llm.ToolOutput:
    """Draw."""
    return llm.ToolOutput("a picture", [llm.Attachment(type="image/png", content=PNG)])


async def slowly(text: str) -> str:
    """Answer asynchronously."""
    await asyncio.sleep(0)
    return text.upper()


def fails() -> str:
    """Fail."""
    raise ValueError("no such shelf")


@llm.hookimpl
def register_models(register: Any) -> None:
    register(Slow())
    register(SlowAsyncSync(), SlowAsync(), aliases=("sa",))
    for model in (Memory, Broken, Keyed):
        register(model())


@llm.hookimpl
def register_tools(register: Any) -> None:
    for tool in (Shelf, picture, slowly, fails):
        register(tool)


@llm.hookimpl
def register_fragment_loaders(register: Any) -> None:
    register("shelf", lambda argument: llm.Fragment(f"The shelf has {argument}.", source="shelf"))
    drawing = [llm.Attachment(type="image/png", content=PNG), llm.Fragment("drawn", "x")]
    register("drawing", lambda argument: drawing)
