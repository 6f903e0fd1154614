"""Tools ask the user of an application through `tinyagent.interaction`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tinyagent import Agent, AgentEvent, AgentOptions, AgentTool, AgentToolResult, Model, ToolError, tool
from tinyagent.interaction import (
    Completion,
    CompletionRequest,
    Form,
    FormAnswer,
    Interaction,
    Link,
    current_interaction,
)
from tinyagent.testing import Reply, ScriptedProvider, call, check_grammar

T = TypeVar("T")

MODEL = Model(provider="scripted", id="scripted", api="scripted")
FORM = Form(source="a test", message="Choose.", schema={"type": "object", "properties": {}})


class Answers:
    """An application whose user answers at once, or never."""

    def __init__(self, *, never: bool = False) -> None:
        self.asked: list[object] = []
        self.threads: set[int] = set()
        self.began = asyncio.Event()
        self.withdrawn = asyncio.Event()
        self._never = never

    async def fill_in(self, form: Form) -> FormAnswer:
        """Accept the form."""
        return await self._answer(form, FormAnswer(accepted=True, values={"a": 1}))

    async def open_link(self, link: Link) -> FormAnswer:
        """Accept the link."""
        return await self._answer(link, FormAnswer(accepted=True))

    async def complete(self, request: CompletionRequest) -> Completion:
        """Reply."""
        return await self._answer(request, Completion(text="four"))

    async def _answer(self, asked: object, answer: T) -> T:
        self.asked.append(asked)
        self.threads.add(threading.get_ident())
        self.began.set()
        if self._never:
            try:
                await asyncio.Event().wait()
            finally:
                self.withdrawn.set()
        return answer


async def run_tool(
    body: Callable[[Interaction | None], Awaitable[str]],
    interaction: Interaction | None,
    *,
    timeout: float | None = None,
    abort: Callable[[Agent], Awaitable[None]] | None = None,
) -> str:
    """Run an agent that calls one tool with this body. Return the text of its result."""

    async def execute(*given: object) -> AgentToolResult:
        return AgentToolResult(content=[{"type": "text", "text": await body(current_interaction())}])

    made = AgentTool("ask", "Ask.", execute=execute, timeout=timeout)
    replies = [Reply(call("ask"))] if abort is not None else [Reply(call("ask")), Reply("Done.")]
    agent = Agent(
        AgentOptions(
            initial_state={"model": MODEL, "tools": [made]},
            stream_fn=ScriptedProvider(*replies),
            interaction=interaction,
        )
    )
    events: list[AgentEvent] = []
    agent.subscribe(events.append)
    running = asyncio.create_task(agent.prompt("Go."))
    if abort is not None:
        await abort(agent)
    await running
    check_grammar(events)
    [result] = [event for event in events if event.type == "tool_execution_end"]
    return "".join(part["text"] for part in result.result.content if part["type"] == "text")


async def test_a_tool_asks_the_user() -> None:
    """It gets the answer of the application; without one, there is no interaction."""
    answers = Answers()

    async def body(interaction: Interaction | None) -> str:
        assert interaction is not None
        form = await interaction.fill_in(FORM)
        link = await interaction.open_link(Link(source="a test", message="", url="https://a.example"))
        request = CompletionRequest(source="a test", messages=[], max_tokens=5)
        return f"{form.values} {link.accepted} {(await interaction.complete(request)).text}"

    assert "{'a': 1} True four" == await run_tool(body, answers)
    assert 3 == len(answers.asked)

    async def without(interaction: Interaction | None) -> str:
        return str(interaction)

    assert "None" == await run_tool(without, None)
    assert current_interaction() is None


async def test_another_thread_asks_the_user() -> None:
    """An event loop in another thread may use the interaction; the application is called in its own."""
    answers = Answers()

    async def body(interaction: Interaction | None) -> str:
        assert interaction is not None
        return str((await asyncio.to_thread(asyncio.run, interaction.fill_in(FORM))).values)

    assert "{'a': 1}" == await run_tool(body, answers)
    assert {threading.get_ident()} == answers.threads


async def test_the_time_limit_stands_still_while_the_user_is_asked() -> None:
    """The user may take longer than the limit of the call; the rest of the call still has it."""

    class Slow(Answers):
        async def fill_in(self, form: Form) -> FormAnswer:
            await asyncio.sleep(0.2)
            return await super().fill_in(form)

    async def body(interaction: Interaction | None) -> str:
        assert interaction is not None
        await interaction.fill_in(FORM)
        return "answered"

    assert "answered" == await run_tool(body, Slow(), timeout=0.1)

    async def hangs(interaction: Interaction | None) -> str:
        assert interaction is not None
        await interaction.fill_in(FORM)
        await asyncio.Event().wait()
        return ""

    assert "The tool 'ask' timed out after 0.1 s." == await run_tool(hangs, Answers(), timeout=0.1)


async def test_a_question_ends_with_the_call() -> None:
    """A question that a tool leaves open is withdrawn, and a later one is declined."""
    answers = Answers(never=True)
    kept: list[Interaction] = []

    async def body(interaction: Interaction | None) -> str:
        assert interaction is not None
        kept.append(interaction)
        kept_tasks.append(asyncio.create_task(interaction.fill_in(FORM)))
        await answers.began.wait()
        return "left"

    kept_tasks: list[asyncio.Task[FormAnswer]] = []
    assert "left" == await run_tool(body, answers)
    await answers.withdrawn.wait()
    ended = FormAnswer(accepted=False, reason="The tool call has ended.")
    assert [ended, ended] == [await kept_tasks[0], await kept[0].fill_in(FORM)]
    assert (await kept[0].complete(CompletionRequest(source="", messages=[], max_tokens=1))).text is None
    assert not (await kept[0].open_link(Link(source="", message="", url=""))).accepted


async def test_an_abort_withdraws_the_question() -> None:
    """The run ends although the user does not answer."""
    answers = Answers(never=True)

    async def body(interaction: Interaction | None) -> str:
        assert interaction is not None
        return str(await interaction.fill_in(FORM))

    async def abort(agent: Agent) -> None:
        await answers.began.wait()
        agent.abort()

    assert "Operation aborted" == await run_tool(body, answers, abort=abort)
    assert answers.withdrawn.is_set()


async def test_a_sync_tool_can_tell_that_it_cannot_ask() -> None:
    """Also in the thread of a sync tool."""

    @tool
    def seat() -> str:
        """Choose a seat."""
        if current_interaction() is None:
            raise ToolError("There is no user to ask.")
        return "seat"

    provider = ScriptedProvider(Reply(call("seat")), Reply("Done."))
    agent = Agent(AgentOptions(initial_state={"model": MODEL, "tools": [seat]}, stream_fn=provider))
    await agent.prompt("Go.")
    assert "There is no user to ask." in str(agent.state["messages"])
