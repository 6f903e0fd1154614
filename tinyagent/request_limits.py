"""Limits that several agents share: requests in flight, requests a minute, and tokens a minute.

    limits = RequestLimits(ProviderLimits(max_concurrency=50, requests_per_minute=500))
    agents = [Agent(AgentOptions(stream_fn=limits.wrap(stream_openrouter))) for _ in range(200)]

Each model request waits for its turn, so a run does not hold a place while its tools run. If a provider
refuses requests because of its limits or its load (HTTP 429, 503, 529), fewer are sent at a time, and the
refused ones are repeated; `Retry-After` pauses all requests to this provider. Each event loop has its own
`RequestLimits`; `ProviderLimits.divide` makes the shares of several processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ._cancel import CancelScope, invoke, require_asyncio
from ._limits.backoff import Backoff
from ._limits.estimate import OutputEstimate, input_tokens
from ._limits.gate import Clock, Gate, LimitState, Permit, Refusal, Timer
from ._net.errors import format_duration
from ._net.retry import random_fraction, short_reason
from ._stream.builder import StreamEvent
from ._stream.generator_reply import GeneratorReply
from .agent_types import (
    AssistantMessage,
    AssistantMessageEvent,
    Context,
    ModelIdentity,
    SimpleStreamOptions,
    StreamFn,
    StreamResponse,
)
from .errors import AgentStateError, TinyAgentError, as_amount, error_fields, error_from_message

__all__ = ["Clock", "LimitState", "ProviderLimits", "RequestLimits", "Timer"]

CONGESTED = (429, 503, 529)
"""The statuses of a provider that has too many requests. 529 and 503 are Anthropic's and others' overload."""


@dataclass(frozen=True)
class ProviderLimits:
    """The limits of the requests to one provider.

    Attributes:
        max_concurrency: The most requests in flight.
        requests_per_minute: The most requests in a minute, spread evenly; None for no limit.
        tokens_per_minute: The most input and output tokens in a minute; None for no limit. They are estimated
            before a request, and corrected by the usage that the provider reports.
    """

    max_concurrency: int = 16
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        if type(self.max_concurrency) is not int or self.max_concurrency < 1:
            raise ValueError(
                f"max_concurrency is {self.max_concurrency!r}; it must be a whole number from 1."
            )
        for name in ("requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not as_amount(value):
                raise ValueError(f"{name} is {value!r}; it must be a number above 0, or None for no limit.")

    def divide(self, parts: int) -> list[ProviderLimits]:
        """Return the shares of several processes. Their sum is these limits.

        Raises:
            ValueError: There are more parts than `max_concurrency`.
        """
        if not 1 <= parts <= self.max_concurrency:
            raise ValueError(f"{self.max_concurrency} requests in flight cannot be divided by {parts}.")
        each, more = divmod(self.max_concurrency, parts)
        rpm, tpm = self.requests_per_minute, self.tokens_per_minute
        share = replace(
            self,
            requests_per_minute=None if rpm is None else rpm / parts,
            tokens_per_minute=None if tpm is None else tpm / parts,
        )
        return [replace(share, max_concurrency=each + (part < more)) for part in range(parts)]


class _Retries(NamedTuple):
    """When a request is repeated; see `RequestLimits`."""

    retries: int
    refusals: int
    longest_asked: float
    backoff: Backoff


class RequestLimits:
    """The limits that all agents with this object share. All times are in seconds.

    Args:
        limits: The limits for each provider.
        providers: Other limits for some providers, by name.
        retries: How often a request is repeated after temporary failures, such as HTTP 500.
        refusals: How often it is repeated after refusals because of the provider's limits or load. Of
            refusals that come together, only the first one counts, because the others are about the number of
            requests and not about one of them.
        first_wait: The wait before a request is repeated. It doubles for each further time, and a random part
            is taken off, up to a half.
        longest_wait: The upper limit of this wait.
        longest_asked: If the provider asks for a longer wait than this, the request fails instead.
        clock: The time; that of the event loop if None.
        random: A random number from 0 to 1.

    Raises:
        AgentStateError: The limits are used in two event loops at the same time.
    """

    def __init__(
        self,
        limits: ProviderLimits | None = None,
        *,
        providers: Mapping[str, ProviderLimits] | None = None,
        retries: int = 4,
        refusals: int = 8,
        first_wait: float = 0.5,
        longest_wait: float = 60.0,
        longest_asked: float = 900.0,
        clock: Clock | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        self._limits = limits or ProviderLimits()
        self._providers = dict(providers or {})
        backoff = Backoff(first_wait, longest_wait, random or random_fraction)
        self._retries = _Retries(retries, refusals, longest_asked, backoff)
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gates: dict[str, _ProviderGate] = {}

    def wrap(self, stream_fn: StreamFn) -> StreamFn:
        """Return a stream function whose requests have these limits.

        It repeats requests itself, so `stream_fn` is called with `max_retries` 0.
        """

        async def stream(
            model: ModelIdentity, context: Context, options: SimpleStreamOptions
        ) -> StreamResponse:
            gate = self._gate(model.provider)
            request = _LimitedRequest(gate, self._retries, stream_fn, model, context, options)
            return GeneratorReply(request.events())

        return stream

    def state(self, provider: str) -> LimitState:
        """Return the state of a provider's limits, for display."""
        if provider not in self._gates:
            return LimitState(self._providers.get(provider, self._limits).max_concurrency, 0, 0, 0.0)
        return self._gates[provider].state()

    def _gate(self, provider: str) -> _ProviderGate:
        loop = require_asyncio()
        if loop is not self._loop:
            if self._loop is not None and not self._loop.is_closed():
                raise AgentStateError(
                    "These RequestLimits are used in another event loop.",
                    hint="Create one object for each event loop, with ProviderLimits.divide.",
                )
            self._loop = loop
            self._gates.clear()  # What was in flight ended with its loop.
        if provider not in self._gates:
            limits = self._providers.get(provider, self._limits)
            self._gates[provider] = _ProviderGate(limits, self._clock or loop, self._retries.backoff)
        return self._gates[provider]


class _ProviderGate(Gate):
    """The gate of a provider, with the estimate of its outputs."""

    def __init__(self, limits: ProviderLimits, clock: Clock, backoff: Backoff) -> None:
        super().__init__(
            limits.max_concurrency, limits.requests_per_minute, limits.tokens_per_minute, clock, backoff
        )
        self.output = OutputEstimate()

    def estimate(self, context: Context, options: SimpleStreamOptions) -> float:
        """Return the estimated tokens of a request and its reply."""
        return input_tokens(context) + self.output.tokens(options) if self.counts_tokens else 0.0


class _LimitedRequest:
    """One model request, with its repetitions."""

    def __init__(
        self,
        gate: _ProviderGate,
        retries: _Retries,
        stream_fn: StreamFn,
        model: ModelIdentity,
        context: Context,
        options: SimpleStreamOptions,
    ) -> None:
        self._gate = gate
        self._policy = retries
        self._stream_fn = stream_fn
        self._model = model
        self._context = context
        self._options: SimpleStreamOptions = {**options, "max_retries": 0}
        self._signal = options.get("signal")
        self._ticket = gate.new_ticket()
        self._failures = self._refusals = 0

    async def events(self) -> AsyncGenerator[StreamEvent, None]:
        """Yield the events of the reply. A failed attempt without output is not seen."""
        while True:
            attempt = _Attempt(self._gate, await self._enter(), self._policy.longest_asked)
            events = attempt.events(self._stream_fn, self._model, self._context, self._options)
            try:
                async for event in events:
                    yield event
            finally:
                await events.aclose()
            if attempt.failure is None:
                return
            if not await self._wait_to_retry(attempt):
                if attempt.cause is not None:
                    raise attempt.cause
                for event in attempt.withheld:
                    yield event
                return

    async def _enter(self) -> Permit:
        tokens = self._gate.estimate(self._context, self._options)
        permit: Permit | None = None
        try:
            async with CancelScope(self._signal):
                permit = await self._gate.enter(self._ticket, tokens)
            return permit
        except BaseException:
            if permit is not None:  # The signal was set when the request was admitted.
                self._gate.give_back(permit)
            raise

    async def _wait_to_retry(self, attempt: _Attempt) -> bool:
        """Wait until the request may be repeated. Return whether it may."""
        error, refusal, policy = attempt.failure, attempt.refusal, self._policy
        assert error is not None
        if refusal is None:
            self._failures += 1
        else:
            self._refusals += refusal.is_first
        if not _is_retryable(error) or (error.retry_after or 0) > policy.longest_asked:
            return False
        if self._failures > policy.retries or self._refusals > policy.refusals:
            return False
        seconds = error.retry_after or policy.backoff.wait(max(self._failures + self._refusals - 1, 0))
        pauses = refusal is not None and refusal.pauses
        if pauses and not error.retry_after:
            seconds = self._gate.state().paused_s
        self._note_retry(error, seconds)
        if not pauses:  # After a pause, the gate knows the order of the requests.
            async with CancelScope(self._signal):
                await self._gate.sleep(seconds)
        return True

    def _note_retry(self, error: TinyAgentError, seconds: float) -> None:
        if (on_retry := self._options.get("on_retry")) is not None:
            reason = short_reason(error, self._model.provider)
            on_retry(f"Retrying in {format_duration(seconds)}: {reason}")


class _Attempt:
    """One attempt of a request.

    Args:
        gate: The gate of its provider.
        permit: Its permit.
        longest_asked: If the provider asks for a longer wait, the others do not wait for that.

    Attributes:
        failure: Why it failed without output, so that the request may be repeated; None if it did not.
        refusal: What the failure means, if it is a refusal because of a limit or the load.
        cause: The exception of the failure, if it was raised.
        withheld: The events of the failure, if it was in the reply.
    """

    def __init__(self, gate: _ProviderGate, permit: Permit, longest_asked: float) -> None:
        self._gate = gate
        self._permit = permit
        self._longest_asked = longest_asked
        self.failure: TinyAgentError | None = None
        self.refusal: Refusal | None = None
        self.cause: Exception | None = None
        self.withheld: list[AssistantMessageEvent] = []

    async def events(
        self, stream_fn: StreamFn, model: ModelIdentity, context: Context, options: SimpleStreamOptions
    ) -> AsyncGenerator[StreamEvent, None]:
        """Send the request, and yield the events of its reply from its first output on."""
        shown = False
        opened: list[object] = []
        try:
            response: StreamResponse = await invoke(stream_fn, model, context, options)
            events = response.__aiter__()
            opened = [events, response]
            async for event in events:
                if event["type"] == "start" and not shown:
                    self.withheld = [event]
                    continue
                if event["type"] == "error":
                    failure = self._report(error_from_message(event["error"]))
                    if not shown:
                        self.withheld.append(event)
                        self.failure = failure
                        return
                elif event["type"] == "done":
                    self._report_done(event["message"])
                if not shown:
                    shown = True
                    for withheld in self.withheld:
                        yield withheld
                yield event
            if not shown:
                for withheld in self.withheld:
                    yield withheld
        except Exception as error:
            failure = self._report(error_from_message(error_fields(error)))
            if shown:
                raise
            self.failure, self.cause = failure, error
        finally:
            self._gate.leave(self._permit)
            for stream in opened:
                if (close := getattr(stream, "aclose", None)) is not None:
                    await invoke(close)

    def _report(self, error: TinyAgentError) -> TinyAgentError:
        """Report a failure to the gate."""
        if _is_congestion(error):
            asked = error.retry_after or None  # 0 s asks for nothing
            if asked is not None and asked > self._longest_asked:
                asked = None
            self.refusal = self._gate.refused(self._permit, asked)
        self._gate.leave(self._permit)
        return error

    def _report_done(self, message: AssistantMessage) -> None:
        """Report a complete reply to the gate. It is not read again, so the next request need not wait."""
        usage = message.get("usage") or {}
        output = as_amount(usage.get("output"))
        if output is not None:
            self._gate.output.add(output)
        self._gate.answered(self._permit, as_amount(usage.get("total")))


def _is_congestion(error: TinyAgentError) -> bool:
    return error.status in CONGESTED and error.retryable is not False


def _is_retryable(error: TinyAgentError) -> bool:
    return error.retryable is True or _is_congestion(error)
