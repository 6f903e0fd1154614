"""How tools ask the client of a conversation; see `tinyagent.interaction`.

The client gets an `input_request` and answers with `respond`. Before the model is asked, the client sees the
prompt, and before its reply is passed on, the reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Generic, TypeAlias, TypeVar

from tinyagent.agent_types import Completion, CompletionRequest, Form, FormAnswer, Link
from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.run.model_questions import ModelQuestions, request_text
from tinyagent_cli.run.plan import Plan

from .protocol import Respond

__all__ = ["AskClient", "ClientQuestions", "OpenQuestions"]

T = TypeVar("T")

AskClient: TypeAlias = Callable[[Mapping[str, object]], Awaitable[Respond | None]]
"""Sends the fields of an `input_request`, and returns the answer; None if no client can answer."""

NO_CLIENT = "the client of this run does not ask the user"


class OpenQuestions(Generic[T]):
    """Questions of one kind that wait for the client's answers.

    Args:
        kind: `approval` or `input`.
        numbers: The numbers of the questions.
        send: Sends a line. It may add the id of the run.
    """

    def __init__(self, kind: str, numbers: Iterator[int], send: Callable[[dict[str, object]], None]) -> None:
        self._kind = kind
        self._numbers = numbers
        self._send = send
        self._open: dict[str, tuple[dict[str, object], asyncio.Future[T | None]]] = {}

    @property
    def lines(self) -> list[dict[str, object]]:
        """The lines of the open questions."""
        return [line for line, _ in self._open.values()]

    async def ask(self, fields: Mapping[str, object]) -> T | None:
        """Send a question with these fields, and wait for its answer; None if it is refused."""
        name = f"{self._kind}-{next(self._numbers)}"
        line = {"type": f"{self._kind}_request", "request": name, **fields}
        answer: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        self._open[name] = line, answer
        self._send(line)
        try:
            return await answer
        finally:
            del self._open[name]

    def line(self, name: str) -> dict[str, object]:
        """Return the line of an open question.

        Raises:
            InputError: It is not open.
        """
        if name not in self._open or self._open[name][1].done():
            raise InputError(f"No {self._kind} request {name!r} is open.")
        return self._open[name][0]

    def answer(self, name: str, answer: T) -> None:
        """Answer an open question."""
        self._open[name][1].set_result(answer)

    def refuse(self) -> None:
        """Answer all open questions with None: the client has left."""
        for _, answer in self._open.values():
            if not answer.done():
                answer.set_result(None)


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
                "message": request_text(request),
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
