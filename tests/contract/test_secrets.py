"""A key goes to its server and nowhere else: planted in every failure, it is found in nothing that is shown.

The servers here repeat the key in what they answer, which real ones do. What is searched: messages, events,
JSONL, errors with their hints and tracebacks, retries, log records, warnings, the repr of models, options and
agents. `tests/cli/test_secrets.py` does the same to the command line.
"""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tinyagent import jsonl
from tinyagent._net import request as _http
from tinyagent.agent import Agent, AgentOptions
from tinyagent.agent_types import AgentLoopConfig, Context, Model
from tinyagent.anthropic_provider import AnthropicModel, stream_anthropic
from tinyagent.openai_wire import OpenAICompatModel, list_openai_models, stream_openai_completions
from tinyagent.openrouter_provider import OpenRouterModel, stream_openrouter
from tinyagent.proxy import ProxyStreamOptions, stream_proxy
from tinyagent.responses_provider import OpenAIResponsesModel, stream_openai_responses
from tinyagent.testing import (
    AnthropicWire,
    ChatWire,
    ProxyWire,
    ResponsesWire,
    Script,
    Wire,
    collect,
    user,
)
from tinyagent.testing.server import FakeReply, FakeServer, sse

from .test_wire_cases import CASES, LIMITS, NO_LIMIT, steps_of

KEY = "sk-test-CANARY-0123456789abcdefghijkl"
OPAQUE = "CANARYq7w8e9r0t1y2u3i4o5p6a7s8d9f0"
"""A key that does not look like one."""
FAILING = [case for case in CASES if case["expect"]["outcome"] != "ok"]


class Shown:
    """All texts that a user could see."""

    def __init__(self, log: io.StringIO) -> None:
        self._log = log
        self._seen: list[str] = []

    def add(self, *values: Any) -> None:
        """Add the text, the repr, or an exception with its traceback."""
        for value in values:
            self._seen += [str(value), repr(value)]
            if isinstance(value, BaseException):
                self._seen += [*traceback.format_exception(value), repr(vars(value))]

    def check(self, key: str) -> None:
        """Check that neither the key nor a usable part of it was shown."""
        shown = "\n".join([*self._seen, self._log.getvalue()])
        self._seen.clear()
        self._log.truncate(0)
        at = shown.find(key[:16])
        assert at < 0, f"the key is shown: …{shown[max(at - 200, 0) : at + 60]}…"


@pytest.fixture
def shown() -> Iterator[Shown]:
    """Collect all texts that a user could see, including all log records.

    The exception is httpcore at the level DEBUG: it logs the heads of responses unchanged, and a user must
    enable that explicitly.
    """
    log = io.StringIO()
    handler, root = logging.StreamHandler(log), logging.getLogger()
    handler.addFilter(lambda record: not record.getMessage().startswith("receive_response_"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield Shown(log)
    root.setLevel(level)
    root.removeHandler(handler)


# ---- every failing case of the catalogue --------------------------------------------------------------


def _repeating(step: Any, key: str) -> Any:
    """Return the server's reply, with the key in each message."""
    if not isinstance(step, bytes):
        return step
    for before in (b'"message": "', b'"message":"', b"<h1>", b"error: "):
        step = step.replace(before, before + key.encode() + b" ")
    return step


@pytest.mark.parametrize("case", FAILING, ids=[case["id"] for case in FAILING])
async def test_no_failing_case_shows_the_key(case: dict[str, Any], waits: list[float], shown: Shown) -> None:
    """A run of the agent against any faulty server does not show the key."""
    for key in (KEY, OPAQUE):
        steps = [_repeating(step, key) for step in steps_of(case)]
        headers = {name: value for name, value in case["headers"].items() if name != "content-length"}
        reply = FakeReply(steps, status=case["status"], headers=headers, framing=case["framing"])
        async with FakeServer(reply, repeat=True) as server:
            model = OpenAICompatModel(provider="acme", id="m", base_url=server.url)
            events, agent = await _run(model, stream_openai_completions, key, shown, case["id"])
            sent = server.requests[0].headers["authorization"]
        assert f"Bearer {key}" == sent
        assert agent.state["error"], "it fails"
        shown.add(*events, agent.state, model)
        shown.add(*(line.decode() for line in jsonl.write(events)))
        shown.check(key)


async def _run(model: Any, stream_fn: Any, key: str, shown: Shown, case: str) -> tuple[list[Any], Agent]:
    options = AgentOptions(
        initial_state={"model": model},
        stream_fn=stream_fn,
        get_api_key=lambda provider: key,
        timeout=NO_LIMIT | LIMITS.get(case, {}),
        on_retry=shown.add,
    )
    agent = Agent(options)
    shown.add(options, agent)
    return await collect(agent.stream("Hi")), agent


# ---- every protocol -------------------------------------------------------------------------------------


class _Proxied(Model):
    proxy_url = ""


def _proxied(url: str) -> Model:
    model = _Proxied("acme", "m", "a")
    model.proxy_url = url
    return model


PROVIDERS: dict[str, tuple[Wire, Any, Callable[[str], Any]]] = {
    "chat": (
        ChatWire(),
        stream_openai_completions,
        lambda url: OpenAICompatModel("acme", "m", base_url=url),
    ),
    "openrouter": (ChatWire(), stream_openrouter, lambda url: OpenRouterModel(base_url=url)),
    "anthropic": (AnthropicWire(), stream_anthropic, lambda url: AnthropicModel(base_url=url)),
    "responses": (
        ResponsesWire(),
        stream_openai_responses,
        lambda url: OpenAIResponsesModel(base_url=url),
    ),
    "proxy": (ProxyWire(), stream_proxy, _proxied),
}


def _failures(wire: Wire, key: str) -> Iterator[FakeReply]:
    """Return failures whose texts repeat the key."""
    for status in (400, 401, 402, 403, 404, 429, 500, 503):
        yield wire.refuse(status, f"bad key {key}: Bearer {key}", x_should_retry="false")
    yield FakeReply.json({"detail": [{"input": {"authorization": key}}]}, 422)
    yield FakeReply.json([{"error": key}], 400)
    yield FakeReply([f"plain {key}".encode()], status=400)
    for before in (165, 185, 195, 390, 1990, 64 << 10):
        padding = "x" * before
        yield FakeReply([f"<title>{padding}{key}</title>".encode()], status=400)
        yield FakeReply([f"<html>{padding}{key}</html>".encode()])
        yield FakeReply([f"{padding}{key}".encode()], status=400)
        yield FakeReply([sse(f"{padding}{key}")])
        yield FakeReply([sse(f'"{padding}{key}"')])
        yield FakeReply([sse({"type": 7, "padding": padding, "key": key})])
        yield FakeReply([sse([padding, key])])
    yield FakeReply.json({"error": {"message": f"no {key}"}})
    yield FakeReply.json({"message": f"no {key}"})
    for location in (
        f"http://127.0.0.1:9/{key}",
        f"http://127.0.0.1:9/?k={key}",
        f"http://u:{key}@127.0.0.1:9/",
    ):
        yield FakeReply(status=307, headers={"location": location}, framing="length")
        yield FakeReply(status=302, headers={"location": location}, framing="length")
    yield FakeReply(head=f"HTTP/1.1 200 OK\r\nbroken {key}\r\n\r\n".encode())
    yield FakeReply(head=f"{key}\r\n\r\n".encode())
    yield FakeReply(
        head=b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        steps=[f"{key}\r\n".encode()],
    )
    yield FakeReply([b"data: {}"], headers={"content-encoding": f"br-{key}"})
    for ending in ("error", "cut", "hangup", "reset"):
        content = [{"type": "text", "text": "Half"}] if ending != "error" else []
        yield wire.reply(Script(content, ending=ending, error=f"no, {key}"))


@pytest.mark.parametrize("transport", ["direct", "httpx"])
@pytest.mark.parametrize("name", PROVIDERS)
async def test_no_protocol_shows_the_key(
    name: str, transport: str, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusals, pages, redirects, broken HTTP and broken streams do not show a key at any place in them."""
    wire, stream_fn, make_model = PROVIDERS[name]
    monkeypatch.setattr(_http, "RETRY", _http.RETRY._replace(retries=0))
    for key in (KEY, OPAQUE):
        for number, reply in enumerate(_failures(wire, key)):
            async with FakeServer(reply, repeat=True) as server:
                model = make_model(server.url)
                model.transport = transport
                async for item in _everything(stream_fn, model, {"api_key": key, "timeout": 5.0}):
                    shown.add(item)
                shown.add(model)
                assert key in " ".join(server.requests[0].headers.values()), f"failure {number}"
            try:
                shown.check(key)
            except AssertionError as error:
                raise AssertionError(f"failure {number}, {reply!r:.300}: {error}") from None


async def _everything(stream_fn: Any, model: Any, options: dict[str, Any]) -> AsyncIterator[Any]:
    """Return the events of a failed call, its message and its error."""
    try:
        response = await stream_fn(model, Context("", [user("Hi")]), options)
        async for event in response:
            yield dict(event)
        message = await response.result()
        assert "error" == message["stop_reason"], message
        yield message
    except Exception as error:  # noqa: BLE001 - whatever it is, it is shown
        yield error


# ---- invalid settings --------------------------------------------------------------------------------

BAD_KEYS = [f"{KEY}\nx: y", f"{KEY} two", f"{KEY}\u2019", f"\u202e{KEY}", f"{KEY}\x00"]


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("key", BAD_KEYS)
async def test_a_key_that_cannot_be_sent_is_not_shown(name: str, key: str, shown: Shown) -> None:
    """An invalid key is refused before a request, and the error names only the provider."""
    _, stream_fn, make_model = PROVIDERS[name]
    found = [
        item async for item in _everything(stream_fn, make_model("http://127.0.0.1:9"), {"api_key": key})
    ]
    assert ["AuthenticationError"] == [type(item).__name__ for item in found]
    shown.add(*found)
    shown.check(KEY)


BAD_URLS = [
    f"https://user:{KEY}@models.example/v1",
    f"http://models.example/v1?key={KEY}",
    f"http://models.example:port/?key={KEY}",
    f"ftp://models.example/?key={KEY}",
    f"https:///?key={KEY}",
    f"https://models.example/ ?key={KEY}",
    f"http://127.0.0.1:9/v1?key={KEY}",
]


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("url", BAD_URLS)
async def test_a_url_that_cannot_be_used_is_shown_without_its_secrets(
    name: str, url: str, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error messages do not contain the user names, passwords and queries of URLs."""
    monkeypatch.setattr(_http, "RETRY", _http.RETRY._replace(retries=0))
    _, stream_fn, make_model = PROVIDERS[name]
    found = [item async for item in _everything(stream_fn, make_model(url), {"api_key": "another-key"})]
    assert isinstance(found[0], Exception)
    shown.add(*found)
    shown.check(KEY)


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(
    "headers",
    [{"X-Api-Key": f"{KEY}\r\nx: y"}, {"X-Api-Key": f"{KEY}\u2019"}, {"X-Api-Key": [KEY]}, {"a b": KEY}],
)
async def test_a_header_that_cannot_be_sent_is_named_without_its_value(
    name: str, headers: dict[str, Any], shown: Shown
) -> None:
    """The error for an invalid header contains its name, and not its value."""
    _, stream_fn, make_model = PROVIDERS[name]
    model = make_model("http://127.0.0.1:9")
    model.headers = headers
    found = [item async for item in _everything(stream_fn, model, {"api_key": "another-key"})]
    assert ["ConfigurationError"] == [type(item).__name__ for item in found]
    shown.add(*found)
    shown.check(KEY)


async def test_a_key_in_a_header_of_the_model_is_a_key(shown: Shown, waits: list[float]) -> None:
    """A key in the `headers` of a model is not shown either."""
    headers = {"Authorization": f"Token {OPAQUE}"}
    for name in ("chat", "anthropic", "responses"):
        _, stream_fn, make_model = PROVIDERS[name]
        async with FakeServer(FakeReply.error(500, f"no {OPAQUE}, Token {OPAQUE}"), repeat=True) as server:
            model = make_model(server.url)
            model.headers = headers
            shown.add(model)
            async for item in _everything(stream_fn, model, {"on_retry": shown.add}):
                shown.add(item)
            assert f"Token {OPAQUE}" == server.requests[0].headers["authorization"]
    shown.check(OPAQUE)


async def test_the_list_of_models_shows_no_key(shown: Shown, waits: list[float]) -> None:
    """Errors while listing models do not show the key."""
    for reply in (FakeReply.error(401, f"no {KEY}"), FakeReply([f"<p>{KEY}".encode()])):
        async with FakeServer(reply, repeat=True) as server:
            model = OpenAICompatModel("acme", base_url=server.url)
            with pytest.raises(Exception, match="acme") as caught:
                await list_openai_models(model, {"api_key": KEY})
            shown.add(caught.value)
    shown.check(KEY)


def test_no_repr_has_a_key(shown: Shown) -> None:
    """The repr of models, options and agents does not contain a key."""
    headers = {"Authorization": f"Bearer {KEY}"}
    shown.add(
        OpenAICompatModel("acme", "m", headers=headers),
        OpenRouterModel(headers=headers),
        AnthropicModel(headers=headers),
        OpenAIResponsesModel(headers=headers),
        ProxyStreamOptions(auth_token=KEY),
        AgentLoopConfig(Model(), convert_to_llm=list, api_key=KEY),
    )
    shown.check(KEY)
