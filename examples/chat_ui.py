"""A chat on the terminal, made of the events of an agent: python examples/chat_ui.py

The demo answers offline. Set OPENROUTER_API_KEY and MODEL=openai/gpt-4.1-mini for a model.
A line that you enter while a reply arrives steers it. Ctrl-C stops the reply, and Ctrl-D ends the chat.
"""

import asyncio
import os
import signal
import sys
import threading

from tinyagent import Agent, AgentEvent, AgentOptions, OpenRouterModel, extract_text, stream_openrouter, tool
from tinyagent.demo_provider import demo_provider

BOLD, DIM, RED, PLAIN = ("\033[1m", "\033[2m", "\033[31m", "\033[0m") if sys.stdout.isatty() else [""] * 4


@tool(read_only=True)
def letter_count(text: str, letter: str) -> int:
    """Count how often a letter occurs in a text."""
    return text.lower().count(letter.lower())


def make_agent() -> Agent:
    """Return an agent with the demo, or with the model that MODEL names."""
    if model_id := os.environ.get("MODEL"):
        agent = Agent(AgentOptions(stream_fn=stream_openrouter))
        model = OpenRouterModel(id=model_id)
        model.base_url = os.environ.get("BASE_URL", model.base_url)
        agent.set_model(model)
        return agent
    demo = demo_provider()
    agent = Agent(AgentOptions(stream_fn=demo.stream_fn))
    agent.set_model(demo.make_model("", {}))
    return agent


def show(event: AgentEvent) -> None:
    """Print an event: the text as it arrives, tool calls in dim letters, and errors in red."""
    match event.type:
        case "message_update" if event.assistant_message_event["type"] == "text_delta":
            print(event.assistant_message_event["delta"], end="", flush=True)
        case "tool_execution_start":
            print(f"{DIM}{event.tool_name} {event.args}{PLAIN}")
        case "tool_execution_end":
            print(f"{DIM}= {extract_text({'content': event.result.content})}{PLAIN}")
        case "message_end" if event.message["role"] == "assistant":
            if error := event.message.get("error_message"):
                print(f"{RED}{error}{PLAIN}", end="")
            print()


def read_lines(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str | None]) -> None:
    """Put each line of standard input into the queue, and None at its end. It runs in a thread of its own."""
    for line in sys.stdin:
        loop.call_soon_threadsafe(lines.put_nowait, line.strip())
    loop.call_soon_threadsafe(lines.put_nowait, None)


async def main() -> None:
    """Send each line as a prompt, or as a steering message while a reply arrives."""
    agent = make_agent()
    agent.set_tools([letter_count])
    agent.subscribe(show)
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    # A daemon, because a thread that waits for input cannot be stopped.
    threading.Thread(target=read_lines, args=(loop, lines), daemon=True).start()
    signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(agent.abort))
    reply: asyncio.Task[object] | None = None
    print(f"{BOLD}> {PLAIN}", end="", flush=True)
    while (line := await lines.get()) is not None:
        if line and agent.state["is_streaming"]:
            agent.steer(line)
        elif line:
            reply = asyncio.create_task(agent.prompt(line))
            reply.add_done_callback(lambda _: print(f"{BOLD}> {PLAIN}", end="", flush=True))
            await asyncio.sleep(0)  # the run begins, so that the next line steers it
    if reply is not None:
        await reply
    print()


asyncio.run(main())
