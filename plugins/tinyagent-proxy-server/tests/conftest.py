"""Fixtures: a proxy in this process, on its own loopback port."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tinyagent import Context, Model, stream_proxy
from tinyagent_proxy_server import _server
from tinyagent_proxy_server._app import Proxy
from tinyagent_proxy_server._callers import Callers
from tinyagent_proxy_server._config import ProviderTable, ServerTable, Token, TokenTable
from tinyagent_proxy_server._upstreams import Upstreams

TOKEN = "caller-token-CANARY-0001"
KEY = "upstream-key-CANARY-0002"


@pytest.fixture(autouse=True)
def only_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove all keys and tokens from the environment, except those of the tests."""
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_PROXY", "_proxy")) or name.startswith("TINYAGENT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UP_KEY", KEY)


@dataclass
class Served:
    """The running proxy, as a caller uses it."""

    proxy: Proxy
    url: str = ""
    lines: list[str] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None

    async def ask(self, model: str = "up/m", *messages: Any, token: str = TOKEN, **options: Any) -> Any:
        """Start a reply with our own client."""
        settings = {"auth_token": token, "proxy_url": self.url, "timeout": 60, **options}
        context_messages = list(messages) or [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
        context = Context("Be brief.", context_messages, options.get("tools"))
        return await stream_proxy(Model("proxy", model, "proxy"), context, settings)

    async def message(self, model: str = "up/m", *messages: Any, **options: Any) -> Any:
        """Return the complete message of a reply."""
        return await (await self.ask(model, *messages, **options)).result()

    async def http(
        self, method: str, path: str, *, token: str | None = TOKEN, **request: Any
    ) -> httpx.Response:
        """Send a plain HTTP request."""
        headers = {"authorization": f"Bearer {token}"} if token is not None else {}
        headers |= request.pop("headers", {})
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            return await client.request(method, self.url + path, headers=headers, **request)

    async def idle(self) -> None:
        """Wait until no reply is active."""
        async with asyncio.timeout(60):
            while self.proxy.streams:
                await asyncio.sleep(0.01)


Serving = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serving() -> Serving:
    """Return a context manager that runs a proxy: `async with serving(upstream_url) as served`."""

    @asynccontextmanager
    async def serve(
        base_url: str = "",
        *,
        api: Any = None,
        providers: dict[str, ProviderTable] | None = None,
        tokens: dict[str, TokenTable] | None = None,
        **settings: Any,
    ) -> AsyncIterator[Served]:
        tables = dict(providers or {"demo": ProviderTable()})
        if base_url:
            tables["up"] = ProviderTable(base_url=base_url, api=api, api_key_env="UP_KEY")
        known = tokens or {"alice": TokenTable(env="-")}
        secrets = [TOKEN, *(f"{TOKEN}-{n}" for n in range(1, len(known)))]
        callers = Callers(
            Token(name, secret, table) for (name, table), secret in zip(known.items(), secrets, strict=True)
        )
        lines: list[str] = []
        proxy = Proxy(ServerTable(**settings), callers, Upstreams(tables), lines.append, secrets=secrets)
        served = Served(proxy, lines=lines)
        ready = asyncio.Event()

        def announce(url: str) -> None:
            served.url = url
            ready.set()

        with _server.listen("127.0.0.1", 0) as bound:
            server = _server.make_server(proxy, bound, announce)
            running = asyncio.create_task(server.serve([bound]))
            served.stop = lambda: setattr(server, "should_exit", True)
            try:
                await asyncio.wait_for(ready.wait(), 60)
                yield served
            finally:
                served.stop()
                await running

    return serve
