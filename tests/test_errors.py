"""Failures as data: exceptions are preserved in assistant messages, JSONL and replays."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from tinyagent import Agent, AgentOptions, Model, jsonl
from tinyagent.errors import (
    AuthenticationError,
    ConfigurationError,
    EmptyReplyError,
    MissingKeyError,
    ProviderError,
    RateLimitError,
    RunAbortedError,
    RunLimitError,
    TinyAgentError,
    error_fields,
    error_from_message,
    error_text,
)
from tinyagent.replay_provider import replay_provider
from tinyagent.testing import Reply, ScriptedProvider, check_grammar, collect

MODEL = Model(provider="scripted", id="scripted", api="scripted")


class QuotaError(RateLimitError):
    """A plugin's own error class with its own constructor."""

    kind = "acme_quota"

    def __init__(self, account: int, left: float) -> None:
        super().__init__(f"account {account} has {left} left", hint="Pay.", status=429, retryable=True)
        self.retry_after = 2.5


class LoginError(AuthenticationError):
    """A plugin's own class for a missing setting."""

    kind = "acme_login"

    def __init__(self) -> None:
        super().__init__("log in first", status=401)


class ForeignError(Exception):
    """A class of another tree that speaks our words."""

    kind = "acme_down"
    status = 503
    retryable = True
    retry_after = 7


class OddError(Exception):
    """A class whose attributes have unexpected types or raise."""

    status = "200 OK"
    retryable = 1
    retry_after = float("nan")
    hint = 3

    @property
    def kind(self) -> str:
        raise ZeroDivisionError

    def __str__(self) -> str:
        raise ZeroDivisionError


CASES: list[tuple[BaseException, dict[str, Any], type[TinyAgentError]]] = [
    (
        QuotaError(7, 0.0),
        {
            "error_message": "account 7 has 0.0 left",
            "error_kind": "acme_quota",
            "error_category": "rate_limit",
            "error_hint": "Pay.",
            "error_status": 429,
            "error_retryable": True,
            "error_retry_after": 2.5,
        },
        RateLimitError,
    ),
    (
        LoginError(),
        {
            "error_message": "log in first",
            "error_kind": "acme_login",
            "error_category": "authentication",
            "error_status": 401,
        },
        AuthenticationError,
    ),
    (
        ForeignError("the engine is cold"),
        {
            "error_message": "ForeignError: the engine is cold",
            "error_kind": "acme_down",
            "error_category": "provider",
            "error_status": 503,
            "error_retryable": True,
            "error_retry_after": 7,
        },
        ProviderError,
    ),
    (OddError(), {"error_message": "OddError", "error_kind": "internal"}, TinyAgentError),
    (
        ProviderError("no", status=400),
        {
            "error_message": "no",
            "error_kind": "provider",
            "error_status": 400,
            "error_retryable": False,
        },
        ProviderError,
    ),
    (
        ConfigurationError("x", hint="y"),
        {"error_message": "x", "error_kind": "configuration", "error_hint": "y"},
        ConfigurationError,
    ),
]


@pytest.mark.parametrize(("error", "fields", "kind"), CASES, ids=lambda value: type(value).__name__)
def test_an_exception_and_its_fields(
    error: BaseException, fields: dict[str, Any], kind: type[TinyAgentError]
) -> None:
    """The fields have everything that is known, and reading them gives the nearest class of our tree."""
    assert fields == error_fields(error)
    again = error_from_message({**fields, "stop_reason": "error", "provider": "acme"})
    assert kind is type(again)
    assert fields == error_fields(again)


def test_fields_with_wrong_types_are_ignored() -> None:
    """Fields of a third-party record may have any type."""
    message = {
        "stop_reason": "error",
        "error_message": 3,
        "error_kind": ["x"],
        "error_hint": {},
        "error_status": True,
        "error_retryable": "yes",
        "error_retry_after": -1,
    }
    error = error_from_message(message)
    assert (ProviderError, "provider") == (type(error), error.kind)
    assert (None, None, None, None) == (error.hint, error.status, error.retryable, error.retry_after)


def test_an_aborted_message_is_an_abort() -> None:
    """An aborted message has no kind; its text is the reason."""
    error = error_from_message({"stop_reason": "aborted", "error_message": "The run was aborted."})
    assert (RunAbortedError, "aborted") == (type(error), error.kind)


@pytest.mark.parametrize(("error", "fields", "kind"), CASES, ids=lambda value: type(value).__name__)
async def test_a_failure_is_the_same_after_a_replay(
    error: BaseException, fields: dict[str, Any], kind: type[TinyAgentError], tmp_path: Path
) -> None:
    """A provider's error has the same fields in the run, in JSONL and in `replay:FILE`."""

    def agent(stream_fn: Any) -> Agent:
        return Agent(AgentOptions(initial_state={"model": MODEL}, stream_fn=stream_fn))

    events = await collect(agent(ScriptedProvider(error)).stream("Hi"))
    check_grammar(events)
    record = tmp_path / "run.jsonl"
    record.write_bytes(b"".join(jsonl.write(events)))
    replayed = await agent(replay_provider(record).stream_fn).prompt("Hi")
    assert fields == {key: value for key, value in replayed.items() if key.startswith("error_")}
    with pytest.raises(kind) as raised:
        await agent(replay_provider(record).stream_fn).prompt_text("Hi")
    assert fields["error_kind"] == raised.value.kind


async def test_a_key_is_in_no_field() -> None:
    """The key is removed from the message and the hint of a failure."""

    def fail(context: Any, options: Any) -> Any:
        raise ProviderError("refused sk-test-secret", hint="replace sk-test-secret")

    options = AgentOptions(
        initial_state={"model": MODEL},
        stream_fn=ScriptedProvider(fail),
        get_api_key=lambda _: "sk-test-secret",
    )
    message = await Agent(options).prompt("Hi")
    assert ("refused [key]", "replace [key]") == (message["error_message"], message["error_hint"])


async def test_a_failure_that_a_provider_reports_itself() -> None:
    """The fields of an `error` event are unchanged."""
    reply = Reply("Half", error="busy", error_kind="acme_busy", error_category="rate_limit", error_status=529)
    agent = Agent(AgentOptions(initial_state={"model": MODEL}, stream_fn=ScriptedProvider(reply)))
    with pytest.raises(RateLimitError, match="busy") as raised:
        await agent.prompt_text("Hi")
    assert ("acme_busy", 529, "Half") == (raised.value.kind, raised.value.status, raised.value.partial_text)


def test_every_error_can_be_pickled() -> None:
    """Pickled errors keep all attributes."""
    limit = RunLimitError("too many", limit="max_turns", hint="raise it")
    empty = EmptyReplyError("only a picture", content_types=["image"])
    busy = RateLimitError("busy", status=429, retryable=True, retry_after=2.0, provider="acme")
    busy.partial_text = "half"
    for error in (limit, empty, busy, MissingKeyError("no key")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(error), str(error), vars(error)) == (type(again), str(again), vars(again))


def test_an_unknown_retryable_stays_unknown() -> None:
    """`retryable` is None if the failure does not set it, for every class."""

    class ForeignError(Exception):
        status_code = 503

    fields = error_fields(ForeignError("busy"))
    error = error_from_message({"stop_reason": "error", **fields})
    assert (ProviderError, 503, None) == (type(error), error.status, error.retryable)


def test_the_text_of_a_failure_is_truncated() -> None:
    """The text of an exception has a limit in records and on the terminal."""
    text = error_text(ValueError("x" * 1_000_000))
    assert text.startswith("ValueError: xxx")
    assert text.endswith("(1000000 characters)")
    assert 11_000 > len(text)
