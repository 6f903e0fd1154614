"""The agent of a plan, and how `run`, `chat`, `rpc` and `batch` drive it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from tinyagent import Agent, AgentOptions
from tinyagent.errors import TinyAgentError
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.config.environment import approvals_file, sessions_directory
from tinyagent_cli.exit_codes import plugin_exit
from tinyagent_cli.terminal.signals import RunTimeoutError

from .approvals import Approvals, Asker, Scope
from .plan import Plan
from .progress import Progress
from .tool_guards import ToolGuards

if TYPE_CHECKING:
    from tinyagent.agent_types import Interaction, UserMessage

    from .approval_store import ApprovalStore
    from .schema_argument import WantedAnswer

__all__ = ["drive", "make_agent", "make_guards", "prompt", "prune_sessions", "time_limit"]


def make_guards(
    app: AppContext,
    plan: Plan,
    *,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
    ask: Asker | None = None,
    terminal: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    scope: Scope = "run",
) -> ToolGuards:
    """Return the guards of tool calls: the plugins' hooks, the rules and the approvals.

    Args:
        app: Shows refusals and warnings.
        plan: The plan of the run.
        before: Called before a question to the user.
        after: Called after a question.
        ask: Asks the user; on the terminal if None.
        terminal: Returns a context in which the terminal is free for the question.
        scope: What the rules and answers are for.
    """

    def open_store() -> ApprovalStore:
        from .approval_store import ApprovalStore

        return ApprovalStore(approvals_file(), app.warn)

    approvals = Approvals(
        allow=plan.allow,
        deny=plan.deny,
        yes=plan.yes,
        note=app.note,
        before=before,
        after=after,
        paint=app.paint,
        open_store=open_store,
        sources=plan.sources,
        ask=ask,
        terminal=terminal,
        scope=scope,
    )
    return ToolGuards(
        approvals,
        plan.before_hooks,
        plan.after_hooks,
        timeout=plan.hook_timeout,
        log=app.detail,
        max_output=plan.max_output,
    )


def make_agent(
    plan: Plan,
    guards: ToolGuards,
    *,
    on_retry: Callable[[str], None],
    on_note: Callable[[str], None],
    interaction: Interaction | None = None,
) -> Agent:
    """Return the agent of a plan.

    Args:
        plan: The model, the tools, the conversation and the limits.
        guards: Decide about tool calls.
        on_retry: Called with the reason of a retry.
        on_note: Called when a part of a request is changed or left out.
        interaction: How tools can ask the user.
    """
    return Agent(
        AgentOptions(
            initial_state={
                "system_prompt": plan.system,
                "model": plan.model,
                "thinking_level": plan.thinking,
                "tools": plan.tools,
                "messages": plan.history,
            },
            stream_fn=plan.provider.stream_fn,
            get_api_key=lambda _: plan.api_key,
            get_tools=plan.changed_tools,
            temperature=plan.temperature,
            max_tokens=plan.max_tokens,
            max_turns=plan.max_turns,
            max_repeats=plan.max_repeats,
            max_cost=plan.max_cost,
            max_total_tokens=plan.max_total_tokens,
            compaction=plan.compaction,
            before_tool_call=guards.before_tool_call,
            after_tool_call=guards.after_tool_call,
            interaction=interaction,
            on_retry=on_retry,
            on_note=on_note,
        )
    )


async def prompt(agent: Agent, message: UserMessage, answer: WantedAnswer | None, progress: Progress) -> None:
    """Prompt an agent. The value of an answer with a schema is stored in `progress`."""
    if answer is None:
        await agent.prompt(message)
    else:
        progress.value = await agent.prompt_as(answer.form, message)


@contextmanager
def time_limit(seconds: float | None, stop: Callable[[RunTimeoutError], object]) -> Iterator[None]:
    """Call `stop` with an error after some seconds in this context; None is no limit."""
    timer = None
    if seconds is not None:
        late = RunTimeoutError(f"The run took longer than {seconds:g} s.")
        timer = asyncio.get_running_loop().call_later(seconds, stop, late)
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


def drive(
    runner: asyncio.Runner, coroutine: Coroutine[object, object, None], stop: Callable[[BaseException], None]
) -> None:
    """Run `coroutine` in the loop of `runner`.

    `SystemExit` and `KeyboardInterrupt` end an event loop. Here they come from a plugin only, since
    signals call a function of ours. `stop` then has to end the coroutine in that loop, as a failure.

    Raises:
        PluginError: A plugin has tried to end the process, with any exit code.
    """
    loop = runner.get_loop()
    task = loop.create_task(coroutine)
    try:
        loop.run_until_complete(task)
    except (SystemExit, KeyboardInterrupt) as error:
        cause = plugin_exit(error)
        if not task.done():
            stop(cause)
            loop.run_until_complete(task)
        raise cause from error


def prune_sessions(app: AppContext, plan: Plan) -> None:
    """Remove old sessions, once a day, when the output of the run is complete."""
    if plan.session is None:
        return
    from tinyagent_cli.sessions.files import is_pruning_due

    directory = sessions_directory()
    if is_pruning_due(directory):
        import time

        from tinyagent_cli.sessions.store import SessionStore

        limits = plan.sessions
        try:
            SessionStore(directory).prune(limits.max_days, limits.max_count, time.time())
        except TinyAgentError as error:
            app.warn(f"Old sessions are not removed: {error}")
