"""How tools ask the client of a conversation; see `tinyagent.interaction`.

The client gets an `input_request` and answers with `respond`. Before the model is asked, the client sees the
prompt, and before its reply is passed on, the reply.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from tinyagent._tool_checks import schema_problems
from tinyagent._tool_schemas import tool_schema
from tinyagent.agent_types import Completion, CompletionRequest, Form, FormAnswer, JsonDict, Link, Tool
from tinyagent_cli.run.model_questions import ModelQuestions, prompt_text
from tinyagent_cli.run.plan import Plan

from .protocol import Respond

__all__ = ["AskClient", "ClientQuestions", "problem_of"]

AskClient: TypeAlias = Callable[[Mapping[str, object]], Awaitable[Respond | None]]
"""Sends the fields of an `input_request`, and returns the answer; None if no client can answer."""

NO_CLIENT = "the client of this run does not ask the user"


def problem_of(schema: JsonDict, values: JsonDict) -> str | None:
    """Return which rule of a form the values violate; None if they fit it."""
    problems = schema_problems(tool_schema(Tool("form", parameters=schema)).encoded, values)
    return problems[0] if problems else None


class ClientQuestions:
    """Asks the client.

    Args:
        ask: Asks it.
        get_plan: Returns the model and the limits.
    """

    def __init__(self, ask: AskClient, get_plan: Callable[[], Plan]) -> None:
        self._ask = ask
        self._get_plan = get_plan
        self._model = ModelQuestions()

    async def fill_in(self, form: Form) -> FormAnswer:
        """Ask for values. They fit the schema, because the command is refused otherwise."""
        line = {"kind": "form", "source": form.source, "message": form.message, "schema": form.schema}
        return _as_form_answer(await self._ask(line))

    async def open_link(self, link: Link) -> FormAnswer:
        """Ask to open an address."""
        line = {"kind": "link", "source": link.source, "message": link.message, "url": link.url}
        return _as_form_answer(await self._ask(line))

    async def complete(self, request: CompletionRequest) -> Completion:
        """Ask whether to ask the model, and whether to pass on its reply."""
        plan = self._get_plan()
        reached = self._model.reached_limit(plan)
        if reached is not None:
            return Completion(text=None, reason=reached)
        asked = await self._ask(
            {
                "kind": "completion",
                "source": request.source,
                "message": prompt_text(request),
                "max_tokens": request.max_tokens,
            }
        )
        if asked is None or not asked.accept:
            return Completion(text=None, reason=NO_CLIENT if asked is None else "")
        done = await self._model.ask(plan, request)
        if done.text is None:
            return done
        shown = await self._ask({"kind": "reply", "source": request.source, "message": done.text})
        if shown is None or not shown.accept:
            return Completion(text=None, model=done.model, reason=NO_CLIENT if shown is None else "")
        return done


def _as_form_answer(answer: Respond | None) -> FormAnswer:
    if answer is None:
        return FormAnswer(accepted=False, reason=NO_CLIENT)
    return FormAnswer(accepted=answer.accept, values=answer.values if answer.accept else {})
