"""Answer the questions of a server during a tool call: elicitation and sampling.

They go to the user through `tinyagent.interaction`. A server can ask only while one of its tools is called,
and only a limited number of times in a call. What cannot be asked is declined with a reason, which is also in
the result of the call. Values of the user go to the server, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from mcp.client import ClientRequestContext
from mcp_types import (
    INVALID_PARAMS,
    CreateMessageRequestParams,
    CreateMessageResult,
    CreateMessageResultWithTools,
    ElicitRequestFormParams,
    ElicitRequestParams,
    ElicitRequestURLParams,
    ElicitResult,
    ErrorData,
    SamplingMessage,
    TextContent,
)

from tinyagent import Message
from tinyagent.agent_types import JsonDict
from tinyagent.interaction import CompletionRequest, Form, FormAnswer, Interaction, Link

from ._config import is_this_machine
from ._forms import UnsupportedFormError, checked_form, checked_values
from ._repair import shortened

__all__ = ["CallQuestions", "Questions"]

MAX_QUESTIONS = 10
"""Questions of each kind in one tool call. A server that loops is declined after that."""

MAX_TOKENS = 8_192
"""The most tokens of a reply of the model for a server."""

MAX_PROMPT = 100_000
"""Characters of all texts of a sampling request."""

REFUSED = -1
"""The code of a sampling request that the user refused, as in the specification."""


class CallQuestions:
    """The questions during one tool call.

    Attributes:
        notes: Why questions were declined without asking the user.
        asked: The kind and the outcome of each question.
    """

    def __init__(self, interaction: Interaction | None) -> None:
        self.interaction = interaction
        self.notes: list[str] = []
        self.asked: list[JsonDict] = []

    def count(self, kind: str) -> int:
        """Return how many questions of a kind there were."""
        return sum(entry["kind"] == kind for entry in self.asked)

    def refusal(self, kind: str) -> str:
        """Return why a question of this kind cannot be asked; empty if it can."""
        if self.interaction is None:
            return "this run cannot ask the user"
        if self.count(kind) >= MAX_QUESTIONS:
            return f"it is more than {MAX_QUESTIONS} in one tool call"
        return ""

    def record(self, kind: str, outcome: str, reason: str = "") -> None:
        """Record a question, without what was asked and answered."""
        self.asked.append({"kind": kind, "outcome": outcome, **({"reason": reason} if reason else {})})
        if reason:
            self.notes.append(f"The server's {kind} request was declined: {reason}.")


class Questions:
    """The callbacks of a connection for requests of its server.

    Args:
        server: The name of the server.
        elicitation: Whether it may ask the user.
        sampling: Whether it may ask the model.
    """

    def __init__(self, server: str, *, elicitation: bool, sampling: bool) -> None:
        self.source = f"the MCP server {server!r}"
        self.elicitation = elicitation
        self.sampling = sampling
        self._calls: list[CallQuestions] = []

    @property
    def methods(self) -> frozenset[str]:
        """The requests of the server that are answered."""
        offered = (("elicitation/create", self.elicitation), ("sampling/createMessage", self.sampling))
        return frozenset(method for method, is_offered in offered if is_offered)

    @contextmanager
    def during(self, call: CallQuestions) -> Iterator[None]:
        """Answer the questions of the server with the interaction of this call."""
        self._calls.append(call)
        try:
            yield
        finally:
            self._calls.remove(call)

    def _current(self, kind: str) -> tuple[CallQuestions, Interaction | None, str]:
        """Return the call that a question belongs to, its interaction, and else the reason without one.

        Over standard input and output a request does not say which call it belongs to, so it is the latest.
        """
        if not self._calls:
            return CallQuestions(None), None, "no tool of the server is being called"
        call = self._calls[-1]
        reason = call.refusal(kind)
        return call, None if reason else call.interaction, reason

    # ---- elicitation --------------------------------------------------------------------------------

    async def elicit(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult | ErrorData:
        """Answer `elicitation/create`."""
        call, interaction, reason = self._current("elicitation")
        if interaction is None:
            call.record("elicitation", "declined", reason)
            return ElicitResult(action="decline")
        if isinstance(params, ElicitRequestURLParams):
            answer = await self._open(interaction, params)
        else:
            assert isinstance(params, ElicitRequestFormParams)
            try:
                schema = checked_form(params.requested_schema)
            except UnsupportedFormError as error:
                call.record("elicitation", "declined", f"its form cannot be shown ({error})")
                return ErrorData(code=INVALID_PARAMS, message=f"The form cannot be shown: {error}.")
            form = Form(source=self.source, message=shortened(params.message, 4_000), schema=schema)
            answer = await interaction.fill_in(form)
            if answer.accepted and (problem := checked_values(schema, answer.values)) is not None:
                answer = FormAnswer(accepted=False, reason=f"the values do not fit its form ({problem})")
        if not answer.accepted:
            call.record("elicitation", "declined", answer.reason)
            return ElicitResult(action="decline")
        call.record("elicitation", "accepted")
        if isinstance(params, ElicitRequestURLParams):
            return ElicitResult(action="accept")
        return ElicitResult(action="accept", content=answer.values)

    async def open_all(self, call: CallQuestions, links: Iterable[ElicitRequestURLParams]) -> bool:
        """Ask the user to open addresses before a call is repeated. Return whether all were opened."""
        for link in links:
            reason = call.refusal("elicitation")
            if reason or call.interaction is None:
                call.record("elicitation", "declined", reason)
                return False
            answer = await self._open(call.interaction, link)
            call.record("elicitation", "accepted" if answer.accepted else "declined", answer.reason)
            if not answer.accepted:
                return False
        return True

    async def _open(self, interaction: Interaction, params: ElicitRequestURLParams) -> FormAnswer:
        parts = urlsplit(params.url)
        is_local = parts.scheme == "http" and is_this_machine(parts.hostname or "")
        if not (parts.hostname and (parts.scheme == "https" or is_local)):
            return FormAnswer(accepted=False, reason="its address is not https")
        link = Link(source=self.source, message=shortened(params.message, 4_000), url=params.url[:4_000])
        return await interaction.open_link(link)

    # ---- sampling -----------------------------------------------------------------------------------

    async def sample(
        self, context: ClientRequestContext, params: CreateMessageRequestParams
    ) -> CreateMessageResult | CreateMessageResultWithTools | ErrorData:
        """Answer `sampling/createMessage` with the model of the run."""
        call, interaction, reason = self._current("sampling")
        if interaction is not None:
            reason = _problem(params)
        if interaction is None or reason:
            call.record("sampling", "declined", reason)
            return ErrorData(code=REFUSED, message=f"The request was declined: {reason}.")
        request = CompletionRequest(
            source=self.source,
            messages=[_message(message) for message in params.messages],
            system_prompt=params.system_prompt or "",
            max_tokens=min(params.max_tokens, MAX_TOKENS),
            temperature=params.temperature,
            wants_context=params.include_context not in (None, "none"),
        )
        reply = await interaction.complete(request)
        if reply.text is None:
            call.record("sampling", "declined", reply.reason)
            why = f": {reply.reason}" if reply.reason else ""
            return ErrorData(code=REFUSED, message=f"The user declined the request{why}.")
        call.record("sampling", "accepted")
        return CreateMessageResult(
            role="assistant",
            content=TextContent(text=reply.text),
            model=reply.model,
            stop_reason="endTurn" if reply.is_complete else "maxTokens",
        )


def _problem(params: CreateMessageRequestParams) -> str:
    """Return why a sampling request is declined; empty if it can be asked."""
    if params.tools:
        return "it needs tools, which are not supported in sampling"
    blocks = [block for message in params.messages for block in message.content_as_list]
    if not all(isinstance(block, TextContent) for block in blocks):
        return "it has content other than text"
    size = len(params.system_prompt or "") + sum(
        len(block.text) for block in blocks if isinstance(block, TextContent)
    )
    if size > MAX_PROMPT:
        return f"it has more than {MAX_PROMPT:,} characters"
    if not params.messages or params.messages[-1].role != "user":
        return "its last message is not the user's"
    return "" if params.max_tokens > 0 else "it asks for no tokens"


def _message(message: SamplingMessage) -> Message:
    text = "\n".join(block.text for block in message.content_as_list if isinstance(block, TextContent))
    if message.role == "user":
        return {"role": "user", "content": [{"type": "text", "text": text}], "timestamp": 0}
    return {
        "role": "assistant",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "stop",
        "timestamp": 0,
        "api": "mcp",
        "provider": "mcp",
        "model": "mcp",
        "usage": None,
    }
