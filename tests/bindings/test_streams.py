"""The real wheel: cancelling, many streams, memory, threads, forks and exit."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tinyagent import (
    Agent,
    AgentOptions,
    ConfigurationError,
    ConnectionFailedError,
    InvalidMessageError,
    tool,
)
from tinyagent.agent_types import Context
from tinyagent.alchemy_provider import OpenAICompatModel, stream_alchemy_openai_completions
from tinyagent.anthropic_provider import AnthropicModel, stream_anthropic
from tinyagent.openai_wire import stream_openai_completions
from tinyagent.testing import check_grammar, collect, user
from tinyagent.testing.server import DONE, FakeReply, FakeServer, Hold, chat_chunk, sse

from .conftest import ROOT, SITE

HELLO = {"messages": [user("Hi")]}
HANG_S = 60.0
"""How long anything may take; nothing waits this long unless it hangs."""


def model(url: str) -> OpenAICompatModel:
    return OpenAICompatModel(provider="acme", id="m", base_url=url)


async def ask(url: str, **options: Any) -> Any:
    return await stream_alchemy_openai_completions(model(url), Context(messages=[user("Hi")]), options)


def rss() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


# ---- replies ------------------------------------------------------------------------------------------


async def test_all_data_for_the_next_request_is_preserved() -> None:
    """The message is equal to that of the default provider."""
    signed = {"google": {"thought_signature": "s"}}
    call = {
        "index": 0,
        "id": "c",
        "function": {"name": "w", "arguments": "{}", "sig": "f"},
        "extra_content": signed,
    }
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    end = {**chat_chunk({}, "tool_calls"), "citations": ["https://a.example"]}
    end["choices"][0]["usage"] = {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1}
    chunks = [
        chat_chunk({"content": "hm", "extra_content": {"google": {"thought": True}}}),
        chat_chunk({"content": "Hi", "reasoning_opaque": "op", "images": [image]}),
        chat_chunk({"tool_calls": [call]}),
        end,
    ]
    reply = FakeReply([sse(chunk) for chunk in chunks] + [DONE])
    async with FakeServer(reply, reply) as server:
        replies = [
            await stream(model(f"{server.origin}/v1"), Context(messages=[user("Hi")]), {})
            for stream in (stream_openai_completions, stream_alchemy_openai_completions)
        ]
        default, ours = [{**await reply.result(), "timestamp": 0} for reply in replies]
    assert default == ours


async def test_citations_and_unknown_fields_of_messages_texts_are_stored() -> None:
    """The message and the next request are those of the default provider."""
    cited = {"type": "web_search_result_location", "url": "https://a.example", "title": "A"}

    def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
        opened = {"type": "text", "text": "", **start}
        return [
            {"type": "content_block_start", "index": index, "content_block": opened},
            *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": index},
        ]

    text, citation = {"type": "text_delta", "text": "Rain."}, {"type": "citations_delta", "citation": cited}
    events = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}},
        *block(0, {"flavour": {"x": 1}}, text, citation),
        *block(1, {}, text),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
    ]
    reply = FakeReply([sse(event) for event in events])
    async with FakeServer(reply, reply) as server:
        replies = [
            await stream(
                AnthropicModel(id="m", base_url=server.origin, api="anthropic-messages"),
                Context(messages=[user("Hi")]),
                {"api_key": "sk-test-1"},
            )
            for stream in (stream_anthropic, stream_alchemy_openai_completions)
        ]
        default, ours = [{**await reply.result(), "timestamp": 0} for reply in replies]
    assert default == ours
    assert {"flavour": {"x": 1}, "citations": [cited]} == json.loads(ours["content"][0]["text_signature"])
    assert "text_signature" not in ours["content"][1]


@pytest.mark.parametrize(
    ("words", "stop"), [(["length", "stop"], "length"), (["not_finished", "stop"], "stop")]
)
async def test_finish_reasons_follow_the_table(words: list[str], stop: str) -> None:
    """Some end no reply, and a later `stop` does not complete an incomplete reply."""
    chunks = [chat_chunk({"content": "Hi"}, word) for word in words]
    async with FakeServer(FakeReply([sse(chunk) for chunk in chunks] + [DONE])) as server:
        message = await (await ask(f"{server.origin}/v1")).result()
    assert stop == message["stop_reason"]


# ---- closing ------------------------------------------------------------------------------------------


class Watch:
    """A server that sends a word and then waits for the end of its connection."""

    def __init__(self) -> None:
        self.url = ""
        self.log: list[str] = []
        self.left = asyncio.Event()
        self.at = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
        self.log.append("request")
        data = sse(chat_chunk("word"))
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        try:
            await reader.read()
        except ConnectionError:
            pass  # a reset is seen as well as an end
        self.log.append("closed")
        self.left.set()
        writer.close()


@asynccontextmanager
async def watch() -> AsyncIterator[Watch]:
    watched = Watch()
    server = await asyncio.start_server(watched.serve, "127.0.0.1", 0)
    watched.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield watched


@pytest.mark.parametrize("how", ["aclose", "signal", "cancel", "forget"])
async def test_closing_a_stream_closes_its_socket(how: str) -> None:
    """However a stream is closed, its socket is closed, and no event follows."""
    async with watch() as watched:
        signal = asyncio.Event()
        response = await ask(watched.url, signal=signal)
        events = [await anext(response) for _ in range(3)]
        assert "word" == events[-1]["delta"]
        if how == "aclose":
            await response.aclose()
        elif how == "signal":
            signal.set()
            assert ["error"] == [event["type"] for event in await collect(response)]
        elif how == "cancel":
            task = asyncio.create_task(collect(response))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        else:
            del response, events
            gc.collect()
        await asyncio.wait_for(watched.left.wait(), HANG_S)
        assert ["request", "closed"] == watched.log
        if how in ("aclose", "cancel"):
            with pytest.raises(StopAsyncIteration):
                await anext(response)


async def test_an_abort_of_the_agent_closes_the_socket() -> None:
    """The run ends as aborted with the text so far."""
    async with watch() as watched:
        agent = Agent(AgentOptions(stream_fn=stream_alchemy_openai_completions))
        agent.set_model(model(watched.url))
        events = []
        async for event in agent.stream("Go"):
            events.append(event)
            if event.type == "message_update":
                agent.abort()
        await asyncio.wait_for(watched.left.wait(), HANG_S)
        check_grammar(events)
        message = events[-1].messages[-1]
        assert ("aborted", "word") == (message["stop_reason"], message["content"][0]["text"])


async def test_an_unanswered_request_can_be_closed() -> None:
    """The socket is closed before the headers arrive."""
    async with FakeServer(FakeReply([Hold()], head=b"")) as server:
        task = asyncio.create_task(ask(server.url))
        await server.wait_requests(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# ---- many ---------------------------------------------------------------------------------------------


async def test_500_streams_at_once() -> None:
    """Each stream gets its own text; there are only the wheel's two threads, and the loop is not blocked."""
    count = 500
    gate, began = asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal began
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        sent = json.loads(await reader.readexactly(int(length.split(b":")[1])))
        said = sent["messages"][0]["content"]
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        writer.write(sse(chat_chunk(f"{said}: ")))
        began += 1
        if began == count:
            gate.set()
        await gate.wait()
        for n in range(20):
            writer.write(sse(chat_chunk(f"{n} ")))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(sse(chat_chunk({}, "stop")) + DONE)
        await writer.drain()
        writer.close()

    async def one(url: str, n: int) -> str:
        context = Context(messages=[user(f"stream {n}")])
        message = await (await stream_alchemy_openai_completions(model(url), context, {})).result()
        return message["content"][0]["text"]  # type: ignore[typeddict-item]

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=count)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        threads = threading.active_count()
        texts = await asyncio.gather(*[one(url, n) for n in range(count)])
        assert threads == threading.active_count()
    numbers = "".join(f"{n} " for n in range(20))
    assert [f"stream {n}: {numbers}" for n in range(count)] == texts
    assert count == began


async def test_memory_is_flat_over_100_000_deltas() -> None:
    """Only the text needs memory, with and without reading the events."""
    body = sse(chat_chunk("word ")) * 500
    async with FakeServer(
        FakeReply([body] * 200 + [sse(chat_chunk({}, "stop")), DONE]), repeat=True
    ) as server:
        await (await ask(server.url)).result()
        before = rss()
        response = await ask(server.url)
        count = 0
        async for event in response:
            count += 1
            del event
        assert 100_004 == count
        assert rss() - before < 15


async def test_a_slow_reader_holds_the_server_back() -> None:
    """What is not read stays in the sockets, not in memory.

    In one turn of the loop, the server can send a hundred times what is read.
    """
    sent = 0
    event = sse(chat_chunk("x" * 1000))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        try:
            while True:
                writer.write(event * 100)
                await writer.drain()
                sent += 100
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        before = rss()
        response = await ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        for _ in range(5_000):
            await anext(response)
            await asyncio.sleep(0)
        assert sent < 100_000
        assert rss() - before < 100
        await response.aclose()


async def test_one_connection_serves_every_turn() -> None:
    """A complete reply leaves its connection usable for the next request."""

    @tool
    def look(n: int) -> str:
        """Look."""
        return str(n)

    function = {"name": "look", "arguments": '{"n": 1}'}
    call = chat_chunk({"tool_calls": [{"index": 0, "id": "c", "function": function}]})
    turn = FakeReply([sse(call), sse(chat_chunk({}, "tool_calls")), DONE])
    async with FakeServer(*[turn] * 5, FakeReply.text("Done")) as server:
        agent = Agent(AgentOptions(stream_fn=stream_alchemy_openai_completions))
        agent.set_model(model(server.url))
        agent.set_tools([look])
        check_grammar(await collect(agent.stream("Go")))
        assert 6 == len(server.requests)
        assert server.connections <= 2


# ---- threads, loops, forks, exit -----------------------------------------------------------------------


def test_event_loops_in_several_threads() -> None:
    """Each loop has its own socket and its own wake-ups."""
    results: dict[int, list[str]] = {}
    with FakeServer(FakeReply.text("Hel", "lo"), repeat=True) as server:

        async def some() -> list[str]:
            found = await asyncio.gather(*[ask(server.url) for _ in range(20)])
            return [(await response.result())["content"][0]["text"] for response in found]

        def run(n: int) -> None:
            results[n] = asyncio.run(some())

        threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG_S)
    assert {n: ["Hello"] * 20 for n in range(4)} == results


def _run(code: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run a separate program with the wheel."""
    lines = ["import asyncio, os, sys, threading", "URL = sys.argv[1]", textwrap.dedent(code)]
    path = os.pathsep.join([str(ROOT), str(SITE)])
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines), url],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip


SETUP = """
from tinyagent.alchemy_provider import *
from tinyagent.agent_types import Context
async def ask():
    return await stream_alchemy_openai_completions(OpenAICompatModel("a", "m", base_url=URL), Context(), {})
def blocking():
    from alchemy_llm_py import openai_completions_stream
    stream = openai_completions_stream({"id": "m", "base_url": URL}, {"messages": []})
    try:
        while stream.next_event()["type"] != "text_delta":
            pass
    finally:
        blocked.set()
    stream.result()
blocked = threading.Event()
async def whole():
    return (await (await ask()).result())["content"][0]["text"]
"""


def test_a_fork_streams_on_its_own() -> None:
    """Streams of child and parent work, and the parent's handle is refused in the child."""
    code = f"""{SETUP}
async def parent():
    first = await ask()
    await anext(first)
    child = os.fork()
    if child == 0:
        os._exit(asyncio_in_child(first))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), (await first.result())["content"][0]["text"], await whole())
def asyncio_in_child(inherited):
    asyncio.events._set_running_loop(None)
    try:
        inherited._response._native.take()
    except RuntimeError as error:
        ok = "fork" in str(error)
    inherited._response._native.close()
    del inherited
    return 0 if ok and asyncio.run(whole()) == "Hello" else 1
asyncio.run(parent())
"""
    with FakeServer(FakeReply.text("Hel", "lo"), repeat=True) as server:
        done = _run(code, server.url)
    assert ("0 Hello Hello\n", "") == (done.stdout, done.stderr)


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "sys.exit(0)",
        "os._exit(0)",
        "del kept[:]",
        "threading.Thread(target=blocking, daemon=True).start(); blocked.wait()",
    ],
)
def test_a_program_ends_with_streams_open(end: str) -> None:
    """The program ends at once and silently, whichever thread or task holds the stream."""
    code = f"""{SETUP}
kept = []
async def leave():
    kept.append(await ask())
    await anext(kept[0])
    print("left", flush=True)
loop = asyncio.new_event_loop()
loop.run_until_complete(leave())
{end}
"""
    with FakeServer(FakeReply([sse(chat_chunk("x")), Hold()]), repeat=True) as server:
        done = _run(code, server.url)
    assert (0, "left\n", "") == (done.returncode, done.stdout, done.stderr)


# ---- the module, blocking -----------------------------------------------------------------------------


def described(url: str) -> dict[str, Any]:
    return {"id": "m", "base_url": url}


def test_next_event_and_result() -> None:
    """Events are dicts with `type`; `partial` can be read and is not serialised; None at the end."""
    from alchemy_llm_py import openai_completions_stream

    with FakeServer(FakeReply.text("Hel", "lo")) as server:
        stream = openai_completions_stream(described(server.url), HELLO, {"temperature": 0.5})
        events = list(iter(stream.next_event, None))
        assert stream.next_event() is None
        assert ["start", "text_start", "text_delta", "text_delta", "text_end", "done"] == [
            event["type"] for event in events
        ]
        assert all(isinstance(event, dict) for event in events)
        assert "Hel" == events[2]["partial"]["content"][0]["text"]
        assert "partial" not in json.loads(json.dumps(events[2]))
        assert "Hello" == stream.result()["content"][0]["text"]
        assert 0.5 == server.requests[0].json["temperature"]


def test_collect() -> None:
    """`collect` returns all events, including a tool call."""
    from alchemy_llm_py import collect_openai_completions

    function = {"name": "sum", "arguments": '{"a": 1}'}
    chunk = chat_chunk({"tool_calls": [{"index": 0, "id": "c", "function": function}]})
    context = {**HELLO, "tools": [{"name": "sum", "description": "Add.", "parameters": {"type": "object"}}]}
    with FakeServer(FakeReply([sse(chunk), sse(chat_chunk({}, "tool_calls")), DONE])) as server:
        whole = collect_openai_completions(described(server.url), context)
        assert {"events", "final_message"} == whole.keys()
        assert "done" == whole["events"][-1]["type"]
        assert {"a": 1} == whole["final_message"]["content"][0]["arguments"]
        assert "sum" == server.requests[0].json["tools"][0]["function"]["name"]


@pytest.mark.parametrize(
    "message",
    [
        "Hi",
        {"content": "Hi"},
        {"role": "user", "content": 5},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "tool_result", "content": []},
    ],
)
def test_malformed_messages_are_refused(message: Any) -> None:
    """Nothing is sent, and the error shows the message."""
    from alchemy_llm_py import openai_completions_stream

    with pytest.raises(InvalidMessageError, match="message 2"):
        openai_completions_stream(
            {"id": "m", "base_url": "http://127.0.0.1:9/v1"}, {"messages": [user("Hi"), message]}
        )


async def test_floats_arrive_as_they_were_sent() -> None:
    """Arguments that are sent as an object keep all digits."""
    chance = random.Random(7)
    numbers = [chance.uniform(-1e6, 1e6) for _ in range(2000)] + [5e-324, 1.7976931348623157e308, 0.1 + 0.2]
    function = {"name": "look", "arguments": {"numbers": numbers}}
    call = {"index": 0, "id": "c", "function": function}
    chunks = [chat_chunk({"tool_calls": [call]}), chat_chunk({}, "tool_calls")]
    reply = FakeReply([*map(sse, chunks), DONE])
    async with FakeServer(reply) as server:
        message = await (await ask(f"{server.origin}/v1")).result()
    assert numbers == message["content"][0]["arguments"]["numbers"]


def test_failures_are_an_error_event() -> None:
    """After two retries a failure is an event; invalid requests raise."""
    from alchemy_llm_py import openai_completions_stream

    with FakeServer(FakeReply([b"oops"], status=500, framing="length"), repeat=True) as server:
        stream = openai_completions_stream(described(server.url), HELLO)
        message = stream.result()
        assert ("error", 3) == (message["stop_reason"], len(server.requests))
        assert "HTTP 500: oops" in message["error_message"]
    with pytest.raises(ConfigurationError, match="base_url"):
        openai_completions_stream({"id": "m"}, HELLO)


def test_the_gil_is_free_while_rust_waits() -> None:
    """Another thread runs while Rust waits, and can end the wait by closing the stream."""
    from alchemy_llm_py import openai_completions_stream

    with FakeServer(FakeReply([sse(chat_chunk("x")), Hold()])) as server:
        stream = openai_completions_stream(described(server.url), HELLO)
        while stream.next_event()["type"] != "text_delta":
            pass  # The text has arrived, and nothing else will.
        counted = 0
        ended = threading.Event()

        def count() -> None:
            nonlocal counted
            while counted < 1_000_000:
                counted += 1
            stream.close()
            ended.set()

        threading.Thread(target=count).start()
        message = stream.result()
        assert ended.wait(HANG_S)
        assert 1_000_000 == counted
        assert ("error", "x") == (message["stop_reason"], message["content"][0]["text"])


async def test_refused_connections_are_reported() -> None:
    """Refused connections are an error after the retries."""
    with pytest.raises(ConnectionFailedError, match="refused"):
        await ask("http://127.0.0.1:9")
