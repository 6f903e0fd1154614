"""Sign in at a server with OAuth: the flow of the SDK, a browser, and a redirect to this machine.

The SDK finds the authorization server, registers a client, and uses PKCE and a state. Here are the address
that the browser is redirected to, the checks of the addresses that the server names, and the store.

Format: https://modelcontextprotocol.io/specification/2025-11-25/basic/authorization
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
from mcp.client.auth import OAuthClientProvider, OAuthFlowError, OAuthRegistrationError, OAuthTokenError
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthToken,
)
from pydantic import AnyUrl, ValidationError

from tinyagent import ConfigurationError

from . import _quiet_sdk
from ._config import ServerConfig, is_this_machine
from ._sign_in import SignIn

__all__ = ["LoginError", "sign_in_at"]

_quiet_sdk.apply()

PATH = "/callback"
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
HEADERS = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}
PAGE = (
    "<!doctype html><meta charset=utf-8><title>tinyagent</title>"
    "<p>{text} You can close this window and go back to the terminal."
)


class LoginError(ConfigurationError):
    """The sign-in failed."""


class _Callback(NamedTuple):
    """What the browser was redirected with, or the error in it."""

    code: str
    state: str | None
    issuer: str | None
    error: str


async def sign_in_at(
    config: ServerConfig, show: Callable[[str], Awaitable[None]], *, port: int = 0, timeout: float = 300
) -> SignIn:
    """Sign in, and return the tokens.

    Args:
        config: The server.
        show: Called with the address that the user has to open.
        port: The port on 127.0.0.1 that the browser is redirected to; 0 for any.
        timeout: Seconds for all of it.

    Raises:
        LoginError: The server does not ask for it, it was refused, or it took too long.
    """
    assert config.url is not None
    arrived: asyncio.Future[_Callback] = asyncio.get_running_loop().create_future()
    try:
        listener = await asyncio.start_server(
            lambda reader, writer: _answer_browser(reader, writer, arrived), "127.0.0.1", port
        )
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error  # asyncio's text has the address, too
        raise LoginError(
            f"The port {port} of this machine cannot be used: {reason}.",
            hint="Choose another one: --port PORT. A client that you have registered needs its own.",
        ) from None
    is_shown = False

    async def show_address(address: str) -> None:
        nonlocal is_shown
        is_shown = True
        await show(address)

    try:
        async with asyncio.timeout(timeout):
            redirect = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}{PATH}"
            return await _flow(config, config.url, redirect, show_address, arrived)
    except TimeoutError:
        if not is_shown:
            raise LoginError(
                f"{config.url} did not answer within {timeout:g} s.",
                hint=f"To try the server: tinyagent mcp test {config.name}",
            ) from None
        raise LoginError(
            f"You have not signed in at {config.name!r} within {timeout:g} s.",
            hint=f"To try it again: tinyagent mcp login {config.name}. --timeout gives you more time.",
        ) from None
    finally:
        listener.close()


async def _flow(
    config: ServerConfig,
    url: str,
    redirect: str,
    show: Callable[[str], Awaitable[None]],
    arrived: asyncio.Future[_Callback],
) -> SignIn:
    store = _Memory(config, redirect)

    async def open_browser(address: str) -> None:
        metadata = provider.context.oauth_metadata
        endpoints = [address, *([str(metadata.token_endpoint)] if metadata is not None else [])]
        for endpoint in endpoints:
            _check_address(endpoint)
        await show(address)

    async def wait_for_browser() -> AuthorizationCodeResult:
        found = await arrived
        if found.error:
            raise OAuthFlowError(f"it was refused ({found.error})")
        return AuthorizationCodeResult(code=found.code, state=found.state, iss=found.issuer)

    provider = OAuthClientProvider(
        url,
        OAuthClientMetadata(
            redirect_uris=[AnyUrl(redirect)],
            client_name="tinyagent",
            grant_types=["authorization_code", "refresh_token"],
            token_endpoint_auth_method="none",
        ),
        store,
        open_browser,
        wait_for_browser,
    )
    failed = f"You could not sign in at {config.name!r}"
    headers = {**config.expanded(config.headers, "headers"), **HEADERS}
    async with httpx2.AsyncClient(auth=provider, headers=headers, timeout=30) as client:
        try:
            async with client.stream("POST", url, json=PING) as response:
                status = response.status_code
        except (OAuthFlowError, OAuthRegistrationError, OAuthTokenError) as error:
            hint = None
            if isinstance(error, OAuthRegistrationError):
                hint = (
                    "The server may need a client that you register there yourself: "
                    "client_id and redirect_port in mcp.toml"
                )
            raise LoginError(f"{failed}: {_short(error)}.", hint=hint) from None
        except (httpx2.HTTPError, ValidationError) as error:
            raise LoginError(f"{failed}: {_short(error)}.") from None
    if store.tokens is None:
        if status == 401:
            raise LoginError(f"{config.name!r} refuses the request, but has no sign-in with OAuth.")
        raise LoginError(f"{config.name!r} does not ask you to sign in (HTTP {status}).")
    return _result(url, provider, store.tokens)


def _result(url: str, provider: OAuthClientProvider, tokens: OAuthToken) -> SignIn:
    context = provider.context
    metadata, client = context.oauth_metadata, context.client_info
    assert client is not None
    origin = context.get_authorization_base_url(url)
    revocation = metadata.revocation_endpoint if metadata is not None else None
    needs_resource = context.should_include_resource_param(HEADERS["MCP-Protocol-Version"])
    return SignIn(
        url=url,
        token_endpoint=str(metadata.token_endpoint) if metadata is not None else urljoin(origin, "/token"),
        revocation_endpoint=None if revocation is None else str(revocation),
        client_id=client.client_id or "",
        client_secret=client.client_secret,
        auth_method=client.token_endpoint_auth_method,
        resource=context.get_resource_url() if needs_resource else None,
        scope=tokens.scope,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_at=None if tokens.expires_in is None else time.time() + tokens.expires_in,
    )


def _check_address(address: str) -> None:
    """Refuse an address that is not encrypted, or not one of the web: the server chooses it.

    Raises:
        OAuthFlowError: It cannot be used.
    """
    parts = urlsplit(address)
    is_local = parts.scheme == "http" and is_this_machine(parts.hostname or "")
    if not parts.hostname or not (parts.scheme == "https" or is_local):
        raise OAuthFlowError("the server names an address for it that is not https")


def _short(error: BaseException) -> str:
    """Return the text of an error, short and printable. The SDK may quote what the server has answered."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return "".join(character for character in text if character.isprintable()).rstrip(".")


class _Memory:
    """The store of the SDK's flow. It begins with the client that the user has registered, if any."""

    def __init__(self, config: ServerConfig, redirect: str) -> None:
        self.tokens: OAuthToken | None = None
        self._client: OAuthClientInformationFull | None = None
        if config.client_id is not None:
            secret = config.expanded({"": config.client_secret or ""}, "client_secret")[""] or None
            self._client = OAuthClientInformationFull(
                client_id=config.client_id,
                client_secret=secret,
                redirect_uris=[AnyUrl(redirect)],
                token_endpoint_auth_method="none" if secret is None else "client_secret_post",
            )

    async def get_tokens(self) -> OAuthToken | None:
        return None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info


async def _answer_browser(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, arrived: asyncio.Future[_Callback]
) -> None:
    """Answer one request of the browser."""
    try:
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
        status, text = _read_redirect(head, arrived)
        page = PAGE.format(text=text).encode()
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(page)}\r\n"
            "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n".encode()
            + page
        )
        await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # it was not the browser
    finally:
        writer.close()


def _read_redirect(head: bytes, arrived: asyncio.Future[_Callback]) -> tuple[str, str]:
    """Take the answer out of the request of the browser. Return the status and the text of the page."""
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    target = urlsplit(words[1]) if len(words) == 3 and words[0] == "GET" else None
    if target is None or target.path != PATH:
        return "404 Not Found", "There is nothing here."
    query = {key: values[0] for key, values in parse_qs(target.query).items()}
    error = query.get("error", "")
    if not error and "code" not in query:
        return "400 Bad Request", "The code is missing."
    if not arrived.done():
        described = " ".join(filter(None, (error, query.get("error_description", ""))))[:200]
        shown = "".join(character for character in described if character.isprintable())
        arrived.set_result(_Callback(query.get("code", ""), query.get("state"), query.get("iss"), shown))
    return "200 OK", "The sign-in was refused." if error else "The answer has arrived."
