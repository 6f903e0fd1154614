"""Send the access token of a stored sign-in with each request, and renew it when it ends.

A run never signs in: that takes a browser, and is `tinyagent mcp login NAME`. Renewing takes one request, in
a thread, because it waits for the lock of the file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from urllib.parse import quote

import httpx2
import msgspec

from tinyagent import ConfigurationError

from ._config import ServerConfig
from ._sign_in import SignIn, load, locked_file, remove, save

__all__ = ["TokenAuth", "revoke"]

RENEW_SECONDS = 8.0
"""The limit of a request for a new token. It is shorter than the time for which others wait for the lock."""


class _Token(msgspec.Struct, frozen=True):
    """The answer of a token endpoint."""

    access_token: str
    refresh_token: str | None = None
    expires_in: float | None = None
    scope: str | None = None


class TokenAuth(httpx2.Auth):
    """Adds the access token to each request.

    Attributes:
        problem: Why there is no valid token, as a sentence; empty if there is one.
    """

    def __init__(self, config: ServerConfig, sign_in: SignIn) -> None:
        self._config = config
        self._sign_in: SignIn | None = sign_in
        self._renewing = asyncio.Lock()
        self.problem = ""

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Send the request with the token; after a refusal once more, with a new one."""
        if self._sign_in is not None and self._sign_in.has_ended:
            await self._renew(self._sign_in)
        used = self._sign_in
        if used is not None:
            request.headers["Authorization"] = f"Bearer {used.access_token}"
        response = yield request
        if response.status_code != 401 or used is None:
            return
        await self._renew(used)
        if self._sign_in is not None and self._sign_in.access_token != used.access_token:
            request.headers["Authorization"] = f"Bearer {self._sign_in.access_token}"
            yield request

    def redacted(self, text: str) -> str:
        """Remove the tokens from a text of the server."""
        return text if self._sign_in is None else self._sign_in.redacted(text)

    async def _renew(self, used: SignIn) -> None:
        async with self._renewing:
            if self._sign_in is not used:
                return  # another request has renewed it
            again = f"Sign in again: tinyagent mcp login {self._config.name}"
            try:
                renewed, reason = await asyncio.to_thread(_renewed, self._config, used)
            except ConfigurationError as error:
                renewed, reason = None, str(error)
            self.problem = f"{reason} {again}" if reason else ""
            if renewed is not None or reason:
                self._sign_in = renewed


def _renewed(config: ServerConfig, used: SignIn) -> tuple[SignIn | None, str]:
    """Return the new sign-in, or why the sign-in cannot be renewed."""
    with locked_file(config.name):
        stored = load(config)
        if stored is None:
            return None, "You have signed out."
        if stored.access_token != used.access_token and not stored.has_ended:
            return stored, ""  # another process has renewed it
        if stored.refresh_token is None:
            return None, "The sign-in has ended."
        form = {"grant_type": "refresh_token", "refresh_token": stored.refresh_token}
        try:
            response = _client_request(stored, stored.token_endpoint, form)
        except httpx2.HTTPError as error:
            return None, f"The sign-in cannot be renewed: {type(error).__name__}."
        if response.status_code != 200:
            reason = _reason_of(response)
            if response.status_code in (400, 401):
                remove(config.name)  # it is not valid any more
                return None, f"The sign-in has ended, because the server refuses to renew it ({reason})."
            return None, f"The sign-in cannot be renewed ({reason})."
        try:
            token = msgspec.json.decode(response.content, type=_Token)
        except msgspec.DecodeError:
            return None, "The sign-in cannot be renewed: the answer of the server is malformed."
        now = time.time()
        renewed = msgspec.structs.replace(
            stored,
            access_token=token.access_token,
            refresh_token=token.refresh_token or stored.refresh_token,
            expires_at=None if token.expires_in is None else now + token.expires_in,
            scope=token.scope or stored.scope,
        )
        save(config.name, renewed)
        return renewed, ""


def revoke(sign_in: SignIn) -> str | None:
    """Revoke the tokens at the authorization server. Return why that was not possible."""
    token = sign_in.refresh_token or sign_in.access_token
    try:
        response = _client_request(sign_in, sign_in.revocation_endpoint or "", {"token": token})
    except httpx2.HTTPError as error:
        return type(error).__name__
    return None if response.status_code == 200 else _reason_of(response)


def _client_request(sign_in: SignIn, url: str, form: dict[str, str]) -> httpx2.Response:
    """Send a form to the authorization server, with the credentials of the client.

    Raises:
        httpx2.HTTPError: The server cannot be reached.
    """
    resource = {} if sign_in.resource is None else {"resource": sign_in.resource}
    data = {**form, **resource, "client_id": sign_in.client_id}
    auth: httpx2.BasicAuth | None = None
    if sign_in.client_secret and sign_in.auth_method == "client_secret_basic":
        auth = httpx2.BasicAuth(quote(sign_in.client_id, safe=""), quote(sign_in.client_secret, safe=""))
    elif sign_in.client_secret:
        data["client_secret"] = sign_in.client_secret
    with httpx2.Client(timeout=RENEW_SECONDS, auth=auth) as client:
        return client.post(url, data=data)


def _reason_of(response: httpx2.Response) -> str:
    """Return the error of an authorization server in a few words."""
    try:
        code = msgspec.json.decode(response.content, type=_Refusal).error
    except msgspec.DecodeError:
        code = ""
    shown = "".join(character for character in code[:60] if character.isprintable())
    return shown or f"HTTP {response.status_code}"


class _Refusal(msgspec.Struct, frozen=True):
    """An error of an authorization server (RFC 6749, section 5.2)."""

    error: str = ""
