"""How tools ask the user of a run or chat: for values, to open an address, and to ask the model.

The questions are asked like those about tool calls: on the controlling terminal, one at a time, and never on
standard input. Without a terminal they are declined. Each text comes from elsewhere, so it is shown with a
mark before each line and without characters that a terminal would interpret.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from tinyagent.agent_types import (
    Completion,
    CompletionRequest,
    Form,
    FormAnswer,
    JsonDict,
    Link,
)
from tinyagent_cli.terminal.sanitise import exact, visible_line

from .approvals import Approvals, Scope
from .form_fields import ask_value, described, form_fields
from .model_questions import ModelQuestions, request_text
from .terminal_questions import Question, confirm, opened_terminal, read_answer, shortened

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["UserQuestions"]

T = TypeVar("T")

_YES = ("y", "yes")

NO_TERMINAL = "there is no terminal to ask the user on"


class UserQuestions:
    """Asks the user on the terminal; see `tinyagent.interaction.Interaction`.

    Args:
        approvals: Has the terminal, and asks about tool calls on it.
        note: Tells the user what was declined or used.
        get_plan: Returns the model and the limits; None if there is no model.
        scope: What an answer with `always` is for.
    """

    def __init__(
        self,
        approvals: Approvals,
        note: Callable[[str], None],
        get_plan: Callable[[], Plan] | None,
        scope: Scope = "run",
    ) -> None:
        self._approvals = approvals
        self._note = note
        self._get_plan = get_plan
        self._scope: Scope = scope
        self._always: set[str] = set()
        self._model = ModelQuestions()

    # ---- values -------------------------------------------------------------------------------------

    async def fill_in(self, form: Form) -> FormAnswer:
        """Ask for the values of a form, one by one, and whether to send them."""
        answer = await self._on_terminal(lambda fd: self._fill_in(fd, form))
        return answer or self._declined(form.source, "for values")

    async def _fill_in(self, fd: int, form: Form) -> FormAnswer:
        fields = form_fields(form.schema)
        required = form.schema.get("required")
        needed = {str(name) for name in required} if isinstance(required, list) else set()
        shown = [described(name, field, optional=name not in needed) for name, field in fields.items()]
        if not fields:
            question = _question(
                f"{_capital(form.source)} asks you:",
                form.message,
                "[y] yes  [n] no: ",
                f"Only {form.source} gets the answer.",
            )
            return FormAnswer(accepted=await confirm(fd, question) in _YES)
        warning = f"Only {form.source} gets the values. Do not type passwords or keys."
        question = _question(
            f"{_capital(form.source)} asks you for values:",
            form.message,
            "Answer it? [y] yes  [n] no: ",
            *shown,
            warning,
        )
        if await confirm(fd, question) not in _YES:
            return FormAnswer(accepted=False)
        while True:
            values: JsonDict = {}
            for name, field in fields.items():
                if not await ask_value(fd, name, field, values, optional=name not in needed):
                    return FormAnswer(accepted=False)
            sent = exact(json.dumps(values, ensure_ascii=False))
            answer = await read_answer(fd, f"Send {sent} to {form.source}? [y] yes  [e] edit  [n] no: ")
            match (answer or "").strip().lower():
                case "y" | "yes":
                    return FormAnswer(accepted=True, values=values)
                case "e" | "edit":
                    continue
            return FormAnswer(accepted=False)

    # ---- addresses ----------------------------------------------------------------------------------

    async def open_link(self, link: Link) -> FormAnswer:
        """Show an address for the user to open. It is never opened here."""
        question = _question(
            f"{_capital(link.source)} asks you to open an address in your browser:",
            link.message,
            "[y] I have opened it, go on  [n] no: ",
            f"  {visible_line(link.url)}",
            "Open it only if you trust this address.",
        )
        answer = await self._on_terminal(lambda fd: confirm(fd, question))
        if answer is None:
            return self._declined(link.source, "to open an address")
        return FormAnswer(accepted=answer in _YES)

    # ---- the model ----------------------------------------------------------------------------------

    async def complete(self, request: CompletionRequest) -> Completion:
        """Show the question, ask the model, and show the reply before it is passed on."""
        if self._get_plan is None:
            return Completion(text=None, reason="there is no model in this command")
        plan = self._get_plan()
        reached = self._model.reached_limit(plan)
        if reached is not None:
            return Completion(text=None, reason=reached)
        if request.source in self._always:
            done: Completion | None = await self._model.ask(plan, request)
        else:
            done = await self._on_terminal(lambda fd: self._complete(fd, plan, request))
        if done is None:
            return Completion(
                text=None, reason=self._declined(request.source, "for a reply of the model").reason
            )
        if done.model:
            self._note(f"{_capital(request.source)} asked the model {plan.model.provider}/{plan.model.id}.")
        return done

    async def _complete(self, fd: int, plan: Plan, request: CompletionRequest) -> Completion:
        model = f"{plan.model.provider}/{plan.model.id}"
        answer = await confirm(fd, self._model_question(request, model))
        if answer in ("a", "always"):
            self._always.add(request.source)
        elif answer not in _YES:
            return Completion(text=None)
        done = await self._model.ask(plan, request)
        if done.text is None or request.source in self._always:
            return done
        choices = f"Send it to {request.source}? [y] yes  [n] no: "
        if await confirm(fd, _question(f"The reply of {model}:", done.text, choices)) in _YES:
            return done
        return Completion(text=None, model=done.model)

    async def _on_terminal(self, ask: Callable[[int], Awaitable[T]]) -> T | None:
        """Ask when the terminal is free. Return None without a terminal."""
        async with self._approvals.surface():
            with opened_terminal() as fd:
                if fd is None:
                    return None
                try:
                    return await ask(fd)
                except OSError:
                    return None

    def _model_question(self, request: CompletionRequest, model: str) -> Question:
        context = ["It has also asked for this conversation, and does not get it."]
        return _question(
            f"{_capital(request.source)} wants to ask {model} for at most {request.max_tokens:,} tokens:",
            request_text(request),
            f"Ask the model? [y] yes  [a] always for {request.source} in this {self._scope}  [n] no: ",
            *(context if request.wants_context else []),
        )

    def _declined(self, source: str, what: str) -> FormAnswer:
        self._note(f"{_capital(source)} asked you {what}. This was declined, because {NO_TERMINAL}.")
        return FormAnswer(accepted=False, reason=NO_TERMINAL)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _question(title: str, message: str, choices: str, *more: str) -> Question:
    """Return a question with a foreign text. A long one can be viewed."""
    text = "\n".join(f"  │ {line}" for line in exact(message).split("\n"))
    short = shortened(text)
    if short is None:
        return Question("\n".join([title, text, *more, choices]), None, choices)
    asked = "Not all of it is shown. [v] view it  [yes] go on anyway  [n] no: "
    return Question("\n".join([title, short, *more, asked]), f"{title}\n{text}", choices)
