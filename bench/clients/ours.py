"""Our own layers: the stream function, the agent, a listener, a JSONL file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from bench.clients import Ask, Body, Reply
from tinyagent import Agent, AgentOptions, AgentTool, AgentToolResult, Context, stream_openai_completions
from tinyagent.agent_types import AgentEvent
from tinyagent.openai_wire import OpenAICompatModel

DELTAS = ("text_delta", "thinking_delta", "tool_call_delta")


def _model(url: str, name: str) -> OpenAICompatModel:
    return OpenAICompatModel(provider="bench", id=name, base_url=f"{url}/chat/completions")


def new_agent(url: str, name: str, *tools: AgentTool) -> Agent:
    agent = Agent(AgentOptions(stream_fn=stream_openai_completions, get_api_key=lambda _: "none"))
    agent.set_model(_model(url, name))
    agent.set_tools(list(tools))
    return agent


@asynccontextmanager
async def stream(url: str) -> AsyncIterator[Ask]:
    """`stream_openai_completions` without an agent."""

    async def ask(body: Body) -> Reply:
        reply = Reply()
        context = Context(messages=body["messages"])
        response = await stream_openai_completions(_model(url, body["model"]), context, {"api_key": "none"})
        async for event in response:
            if event["type"] in DELTAS:
                reply.count += 1
        message = await response.result()
        if message["stop_reason"] == "error":
            raise RuntimeError(message.get("error_message"))
        return reply

    yield ask


async def _run(agent: Agent, on_event: Callable[[AgentEvent], object] | None = None) -> Reply:
    reply = Reply()
    async for event in agent.stream("Say something."):
        if event.type == "message_update" and event.assistant_message_event["type"] in DELTAS:
            reply.count += 1
        if on_event is not None:
            on_event(event)
    if agent.state["error"]:
        raise RuntimeError(agent.state["error"])
    return reply


async def _keep(_id: str, _args: dict[str, Any], _signal: Any, _update: Any) -> AgentToolResult:
    return AgentToolResult(content=[{"type": "text", "text": "stored"}], terminate=True)


KEEP = AgentTool("keep", "Keep a text.", execute=_keep)


@asynccontextmanager
async def agent(url: str) -> AsyncIterator[Ask]:
    """`Agent.stream()` with a reader of every event."""

    async def ask(body: Body) -> Reply:
        return await _run(new_agent(url, body["model"], KEEP))

    yield ask


@asynccontextmanager
async def agent_on_httpx(url: str) -> AsyncIterator[Ask]:
    """The same with the httpx transport."""

    async def ask(body: Body) -> Reply:
        running = new_agent(url, body["model"], KEEP)
        model = _model(url, body["model"])
        model.transport = "httpx"
        running.set_model(model)
        return await _run(running)

    yield ask


@asynccontextmanager
async def agent_with_listener(url: str) -> AsyncIterator[Ask]:
    """The same with a subscribed listener."""

    async def ask(body: Body) -> Reply:
        running = new_agent(url, body["model"], KEEP)
        events = 0

        def listen(event: AgentEvent) -> None:
            nonlocal events
            events += 1

        running.subscribe(listen)
        reply = await _run(running)
        if events < reply.count:
            raise RuntimeError(f"the listener got {events} events of {reply.count}")
        return reply

    yield ask


@asynccontextmanager
async def agent_recorded(url: str) -> AsyncIterator[Ask]:
    """The same with every event written to a file as JSONL."""
    from tinyagent import jsonl

    async def ask(body: Body) -> Reply:
        with tempfile.TemporaryFile() as file:
            encode, write = jsonl.Encoder().encode, file.write
            return await _run(new_agent(url, body["model"], KEEP), lambda event: write(encode(event)))

    yield ask


async def tool_turns(url: str, count: int, tool: dict[str, Any], result: str) -> list[float]:
    """Run `count` tool turns, and return the CPU clock at the start and after each turn."""

    async def execute(_id: str, args: dict[str, Any], _signal: Any, _update: Any) -> AgentToolResult:
        assert args["path"]
        return AgentToolResult(content=[{"type": "text", "text": result}])

    marks = [time.process_time()]
    running = new_agent(url, f"turns-{count}", AgentTool(**tool, execute=execute))
    async for event in running.stream("Say something."):
        if event.type == "turn_end" and event.tool_results:
            marks.append(time.process_time())
    if running.state["error"]:
        raise RuntimeError(running.state["error"])
    return marks
