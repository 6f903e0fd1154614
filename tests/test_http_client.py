"""Clients and transports of httpx that a user passes."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx

from tests.cli.documents import blocks
from tinyagent import Agent, AgentOptions
from tinyagent._cancel import Aborted, AbortSignal
from tinyagent._net import request as _request
from tinyagent._net.request import HttpRequest
from tinyagent._net.retry import RetryPolicy
from tinyagent.agent_types import Context
from tinyagent.anthropic_provider import AnthropicModel, stream_anthropic
from tinyagent.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    ProviderError,
    ProviderTimeoutError,
    StreamInterruptedError,
)
from tinyagent.openai_wire import OpenAICompatModel, list_openai_models, stream_openai_completions
from tinyagent.proxy import stream_proxy
from tinyagent.responses_provider import OpenAIResponsesModel, stream_openai_responses
from tinyagent.testing import AnthropicWire, ProxyWire, ResponsesWire, Script
from tinyagent.testing.server import FakeReply, FakeServer, Hangup, Hold

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without waiting."""

    async def no_wait(seconds: float) -> None: ...

    monkeypatch.setattr(_request, "RETRY", RetryPolicy(sleep=no_wait))


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Return a client that the user closes."""
    async with httpx.AsyncClient(trust_env=False) as made:
        yield made


def chat_body(*pieces: str) -> bytes:
    return b"".join(step for step in FakeReply.text(*pieces).steps if isinstance(step, bytes))


def agent(
    model: OpenAICompatModel, http_client: httpx.AsyncClient | httpx.AsyncBaseTransport | None
) -> Agent:
    return Agent(
        AgentOptions(
            initial_state={"model": model},
            stream_fn=stream_openai_completions,
            get_api_key=lambda provider: KEY,
            http_client=http_client,
        )
    )


def request_to(server: FakeServer, client: object, **options: object) -> HttpRequest:
    return HttpRequest(f"{server.origin}/x", body=b"{}", provider="acme", http_client=client, **options)  # type: ignore[arg-type]


async def body_of(request: HttpRequest) -> bytes:
    async with request as response:
        return await response.read_all(1 << 20)


# ---- what a user can pass -----------------------------------------------------------------------------


async def test_respx_answers_for_the_server(client: httpx.AsyncClient) -> None:
    """Tests of users can answer requests with respx, without a server, and see what was sent."""
    model = OpenAICompatModel(provider="acme", id="m", base_url="https://models.example/v1")
    with respx.mock(base_url="https://models.example") as mocked:
        route = mocked.post("/v1/chat/completions").respond(
            content=chat_body("Hel", "lo"), content_type="text/event-stream"
        )
        assert "Hello" == await agent(model, client).prompt_text("Hi")
    sent = route.calls.last.request
    assert f"Bearer {KEY}" == sent.headers["authorization"]
    assert b'"content":"Hi"' in sent.content


class SignedAuth(httpx.Auth):
    """An authentication that signs the body of each request, as some gateways require."""

    requires_request_body = True

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        digest = hmac.new(b"secret", request.content, hashlib.sha256).hexdigest()
        request.headers["x-signature"] = digest
        yield request


async def test_a_custom_authentication_that_signs() -> None:
    """`httpx.Auth` gets the body and adds the gateway's header."""
    async with (
        FakeServer(FakeReply.text("Hello")) as server,
        httpx.AsyncClient(auth=SignedAuth(), trust_env=False) as client,
    ):
        model = OpenAICompatModel(provider="acme", id="m", base_url=server.url, http_client=client)
        assert "Hello" == await agent(model, None).prompt_text("Hi")
        request = server.requests[0]
        assert hmac.new(b"secret", request.body, "sha256").hexdigest() == request.headers["x-signature"]


class RefreshingAuth(httpx.Auth):
    """An authentication that gets a new token if the server refuses the old one."""

    token = "old"

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers["authorization"] = f"Bearer {self.token}"
        response = yield request
        if response.status_code == 401:
            self.token = "new"
            request.headers["authorization"] = f"Bearer {self.token}"
            yield request


async def test_a_custom_authentication_that_tries_again() -> None:
    """A second request of `httpx.Auth` is part of the same call: the first response is not an error."""
    replies = [FakeReply.error(401, "expired"), FakeReply.text("Hello")]
    async with (
        FakeServer(*replies) as server,
        httpx.AsyncClient(auth=RefreshingAuth(), trust_env=False) as client,
    ):
        model = OpenAICompatModel(provider="acme", id="m", base_url=server.url)
        assert "Hello" == await agent(model, client).prompt_text("Hi")
        assert ["Bearer old", "Bearer new"] == [item.headers["authorization"] for item in server.requests]


async def test_a_transport_instead_of_a_client() -> None:
    """An `httpx.AsyncBaseTransport`, such as `MockTransport` or `ASGITransport`, is enough."""
    paths = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return httpx.Response(200, content=chat_body("Hello"), headers={"content-type": "text/event-stream"})

    transport = httpx.MockTransport(answer)
    model = OpenAICompatModel(provider="acme", id="m", base_url="https://models.example/v1")
    assert "Hello" == await agent(model, transport).prompt_text("Hi")
    assert ["/v1/chat/completions"] == paths


async def test_a_response_that_was_read_before() -> None:
    """An event hook may read the response, for example to log it. It is streamed from memory then."""

    async def read(response: httpx.Response) -> None:
        await response.aread()

    packed = FakeReply([gzip.compress(b"hello")], headers={"content-encoding": "gzip"})
    async with (
        FakeServer(packed, packed) as server,
        httpx.AsyncClient(event_hooks={"response": [read]}, trust_env=False) as client,
    ):
        assert b"hello" == await body_of(request_to(server, client))
        async with request_to(server, client):
            pass  # the connection is the client's again, so leaving the response does not close it
        assert (1, 1) == (server.connections, server.open_connections)


async def test_what_the_client_adds() -> None:
    """The client's own headers, cookies and event hooks apply. Headers of the model take precedence."""
    seen = []

    async def hook(request: httpx.Request) -> None:
        seen.append(request.method)

    async with (
        FakeServer(FakeReply([b"hello"])) as server,
        httpx.AsyncClient(
            headers={"x-team": "red", "x-app": "client"},
            cookies={"session": "1"},
            event_hooks={"request": [hook]},
            trust_env=False,
        ) as client,
    ):
        assert b"hello" == await body_of(request_to(server, client, headers={"x-app": "model"}))
        sent = server.requests[0].headers
        assert ("red", "model", "session=1") == (sent["x-team"], sent["x-app"], sent["cookie"])
        assert ["POST"] == seen


@pytest.mark.parametrize("protocol", ["anthropic", "responses", "proxy", "list of models"])
async def test_every_provider_uses_the_client(client: httpx.AsyncClient, protocol: str) -> None:
    """`http_client` of the options takes precedence over the model's, whatever the protocol."""
    script = Script([{"type": "text", "text": "Hello"}])
    requests = []

    async def hook(request: httpx.Request) -> None:
        requests.append(request)

    client.event_hooks = {"request": [hook]}
    unused = httpx.MockTransport(lambda request: httpx.Response(500))
    replies = {
        "anthropic": AnthropicWire().reply(script),
        "responses": ResponsesWire().reply(script),
        "proxy": ProxyWire().reply(script),
        "list of models": FakeReply.json({"data": [{"id": "m"}]}),
    }
    context = Context(
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}], "timestamp": 0}]
    )
    async with FakeServer(replies[protocol]) as server:
        options = {"api_key": KEY, "http_client": client}
        if protocol == "list of models":
            chat = OpenAICompatModel(id="m", base_url=server.url, http_client=unused)
            assert ["m"] == [item.id for item in await list_openai_models(chat, options)]  # type: ignore[arg-type]
        elif protocol == "anthropic":
            claude = AnthropicModel(id="m", base_url=server.url, http_client=unused)
            await (await stream_anthropic(claude, context, options)).result()  # type: ignore[arg-type]
        elif protocol == "responses":
            gpt = OpenAIResponsesModel(id="m", base_url=server.url, http_client=unused)
            await (await stream_openai_responses(gpt, context, options)).result()  # type: ignore[arg-type]
        else:
            behind = OpenAICompatModel(id="m", http_client=unused)
            options["proxy_url"] = server.origin
            await (await stream_proxy(behind, context, options)).result()  # type: ignore[arg-type]
        assert 1 == len(requests) == len(server.requests)


async def test_the_example_of_the_documentation() -> None:
    """The example in docs/models.md runs unchanged."""
    page = Path(__file__).parent.parent / "docs" / "models.md"
    [example] = [block.text for block in blocks(page) if block.language == "python"]
    names: dict[str, Any] = {"__name__": "example"}
    exec(example, names)
    with respx.mock(base_url="https://models.example") as mocked:
        route = mocked.post("/v1/chat/completions").respond(
            content=chat_body("Hello"), content_type="text/event-stream"
        )
        assert "Hello" == await names["main"]()
    assert "x-gateway-token" in route.calls.last.request.headers


# ---- what remains ours --------------------------------------------------------------------------------


async def test_the_client_is_never_closed(client: httpx.AsyncClient) -> None:
    """It remains open after a success and a failure, and its connections are not shared."""
    replies = [FakeReply.text("one"), FakeReply.error(400, "no"), FakeReply.text("two")]
    async with FakeServer(*replies) as server:
        model = OpenAICompatModel(provider="acme", id="m", base_url=server.url)
        mine = agent(model, client)
        assert "one" == await mine.prompt_text("Hi")
        with pytest.raises(ProviderError):
            await mine.prompt_text("Hi")
        assert "two" == await mine.prompt_text("Hi")
        assert not client.is_closed
        assert 1 == server.connections


@pytest.mark.parametrize("way", ["left", "cancelled", "signal", "timeout"])
async def test_a_response_that_is_not_read_to_its_end(client: httpx.AsyncClient, way: str) -> None:
    """Its connection is closed at once; the client still works."""
    async with FakeServer(FakeReply([b"a", Hold()]), FakeReply([b"b"])) as server:
        signal = AbortSignal()
        request = request_to(
            server, client, signal=signal, timeout={"first_event": 0.2 if way == "timeout" else 60}
        )
        reading = asyncio.Event()

        async def run() -> None:
            async with request as response:
                assert b"a" == await response.read()
                if way != "left":
                    reading.set()
                    await response.read()

        task = asyncio.create_task(run())
        if way != "left":
            await reading.wait()
        if way == "cancelled":
            task.cancel()
        elif way == "signal":
            signal.set()
        expected = {"cancelled": asyncio.CancelledError, "signal": Aborted, "timeout": ProviderTimeoutError}
        if way == "left":
            await task
        else:
            with pytest.raises(expected[way]):
                await task
        await server.wait_closed()
        assert not client.is_closed
        assert b"b" == await body_of(request_to(server, client))


async def test_time_outs_are_ours() -> None:
    """The client's own time-outs do not apply: a reply may take longer between two reads."""
    async with (
        FakeServer(FakeReply([Hold()], head=b"")) as server,
        httpx.AsyncClient(timeout=0.01, trust_env=False) as client,
    ):
        with pytest.raises(ProviderTimeoutError, match=r"no first event within 0.2 s"):
            await body_of(request_to(server, client, timeout={"first_event": 0.2}))


async def test_redirects_are_ours() -> None:
    """A redirect to another server is refused, even if the client follows redirects."""
    async with FakeServer(FakeReply([b"x"])) as other:
        move = FakeReply(status=307, headers={"location": f"{other.origin}/y"}, framing="length")
        async with (
            FakeServer(move) as server,
            httpx.AsyncClient(follow_redirects=True, trust_env=False) as client,
        ):
            with pytest.raises(ProviderError, match="redirects to another server"):
                await body_of(request_to(server, client))
        assert [] == other.requests


async def test_retries_and_errors_are_ours(client: httpx.AsyncClient) -> None:
    """A busy server is retried, a broken body is an interrupted stream, and no key is shown."""
    told: list[str] = []
    async with FakeServer(FakeReply.error(503, "busy"), FakeReply([b"ok"])) as server:
        assert b"ok" == await body_of(request_to(server, client, on_retry=told.append))
        assert 1 == len(told)
    async with FakeServer(FakeReply([b"a", Hangup()])) as server:
        with pytest.raises(StreamInterruptedError, match="broke in the middle of the reply"):
            await body_of(request_to(server, client))
    async with FakeServer(FakeReply.error(401, f"bad key {KEY}")) as server:
        with pytest.raises(AuthenticationError) as caught:
            await body_of(request_to(server, client, secrets=[KEY]))
        assert KEY not in str(caught.value)
    with pytest.raises(ConnectionFailedError, match="connection refused"):
        await body_of(request_to(server, client))


async def test_a_transport_that_fails() -> None:
    """Errors of a user's transport are connection errors and are retried."""
    attempts = 0

    def fail(request: httpx.Request) -> httpx.Response:
        nonlocal attempts
        attempts += 1
        raise httpx.ConnectError("no route")

    with pytest.raises(ConnectionFailedError, match="no route"):
        await body_of(HttpRequest("https://models.example/v1", http_client=httpx.MockTransport(fail)))
    assert 3 == attempts


# ---- what cannot be used ------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [object(), httpx.Client, "client"], ids=["object", "class", "text"])
async def test_other_objects_are_refused(wrong: object) -> None:
    """An invalid client is an error before anything is sent."""
    with pytest.raises(ConfigurationError, match=r"http_client must be an httpx\.AsyncClient"):
        await HttpRequest("https://models.example", http_client=wrong).open()


async def test_a_synchronous_client() -> None:
    """A client for blocking code is refused, with the name of the right class."""
    with (
        httpx.Client(trust_env=False) as blocking,
        pytest.raises(ConfigurationError, match=r"must be an httpx\.AsyncClient .*, not Client"),
    ):
        await HttpRequest("https://models.example", http_client=blocking).open()


async def test_a_client_that_was_closed(client: httpx.AsyncClient) -> None:
    """A closed client is a configuration error and is not retried."""
    await client.aclose()
    with pytest.raises(ConfigurationError, match="http_client is closed"):
        await HttpRequest("https://models.example", http_client=client).open()


def test_a_client_and_the_direct_engine() -> None:
    """Using both is an error."""
    with pytest.raises(ConfigurationError, match="http_client needs httpx") as caught:
        HttpRequest(
            "https://models.example", transport="direct", http_client=httpx.AsyncClient(trust_env=False)
        )
    assert "'auto'" in str(caught.value.hint)
