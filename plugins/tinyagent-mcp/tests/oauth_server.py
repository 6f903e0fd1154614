"""An MCP server that needs a sign-in, and its authorization server, with the server side of the SDK."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from mcp.server import Server
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    ProviderTokenVerifier,
    RefreshToken,
    TokenError,
    construct_redirect_uri,
)
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions, RevocationOptions
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool
from pydantic import AnyHttpUrl

from .conftest import eventually


class Accounts:
    """The clients and tokens of the authorization server.

    Attributes:
        lifetime: Seconds for which an access token is valid.
        refuses: Whether the user refuses each sign-in.
        renews: Whether refresh tokens are accepted.
        renewals: How often a token was renewed.
        revoked: The tokens that were revoked.
    """

    def __init__(self) -> None:
        self.lifetime = 3600
        self.refuses = False
        self.renews = True
        self.renewals = 0
        self.revoked: list[str] = []
        self.clients: dict[str, OAuthClientInformationFull] = {}
        self.codes: dict[str, AuthorizationCode] = {}
        self.access: dict[str, AccessToken] = {}
        self.refresh: dict[str, RefreshToken] = {}
        self.resources: dict[str, str | None] = {}

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        """Return a client."""
        return self.clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        """Register a client."""
        self.clients[client_info.client_id or ""] = client_info

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        """Sign in at once, and return where the browser goes."""
        uri = str(params.redirect_uri)
        if self.refuses:
            return construct_redirect_uri(uri, error="access_denied", state=params.state)
        code = secrets.token_urlsafe(24)
        self.codes[code] = AuthorizationCode(
            code=code,
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            client_id=client.client_id or "",
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
        )
        return construct_redirect_uri(uri, code=code, state=params.state)

    async def load_authorization_code(self, client: Any, authorization_code: str) -> AuthorizationCode | None:
        """Return a code."""
        return self.codes.get(authorization_code)

    async def exchange_authorization_code(
        self, client: Any, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        """Return tokens for a code, once."""
        del self.codes[authorization_code.code]
        return self._tokens(client, authorization_code.resource)

    async def load_refresh_token(self, client: Any, refresh_token: str) -> RefreshToken | None:
        """Return a refresh token that was not used."""
        return self.refresh.get(refresh_token) if self.renews else None

    async def exchange_refresh_token(
        self, client: Any, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        """Return new tokens; the old refresh token is then not valid."""
        if self.refresh.pop(refresh_token.token, None) is None:
            raise TokenError("invalid_grant")
        self.renewals += 1
        return self._tokens(client, self.resources[refresh_token.token])

    async def load_access_token(self, token: str) -> AccessToken | None:
        """Return a valid access token."""
        found = self.access.get(token)
        return None if found is None or (found.expires_at or 0) < time.time() else found

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        """Revoke a token."""
        self.revoked.append(token.token)
        self.refresh.pop(token.token, None)

    async def exchange_identity_assertion(self, client: Any, params: Any) -> OAuthToken:
        """Refuse this grant."""
        raise TokenError("unsupported_grant_type")

    def _tokens(self, client: Any, resource: str | None) -> OAuthToken:
        access, refresh = (f"planted-{kind}-{secrets.token_urlsafe(16)}" for kind in ("access", "refresh"))
        ends = int(time.time()) + self.lifetime
        self.access[access] = AccessToken(
            token=access, client_id=client.client_id, scopes=[], expires_at=ends, resource=resource
        )
        self.refresh[refresh] = RefreshToken(token=refresh, client_id=client.client_id, scopes=[])
        self.resources[refresh] = resource
        return OAuthToken(access_token=access, expires_in=self.lifetime, refresh_token=refresh)


async def list_tools(ctx: Any, params: Any) -> ListToolsResult:
    """Return one tool."""
    return ListToolsResult(tools=[Tool(name="hello", input_schema={"type": "object", "properties": {}})])


async def call_tool(ctx: Any, params: Any) -> CallToolResult:
    """Greet."""
    return CallToolResult(content=[TextContent(text="Hello, you are signed in.")])


@contextmanager
def running(accounts: Accounts, *, registration: bool = True) -> Iterator[str]:
    """Run both servers at one address. Yield the URL of the MCP server."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{bound.getsockname()[1]}"
        server: Server[Any] = Server(
            "signed in", version="1", on_list_tools=list_tools, on_call_tool=call_tool
        )
        settings = AuthSettings(
            issuer_url=AnyHttpUrl(origin),
            resource_server_url=AnyHttpUrl(f"{origin}/mcp"),
            client_registration_options=ClientRegistrationOptions(enabled=registration),
            validate_token_resource=True,
            revocation_options=RevocationOptions(enabled=True),
        )
        app = server.streamable_http_app(
            auth=settings, auth_server_provider=accounts, token_verifier=ProviderTokenVerifier(accounts)
        )
        serving = uvicorn.Server(
            uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            assert eventually(lambda: serving.started)
            yield f"{origin}/mcp"
        finally:
            serving.should_exit = True
            thread.join(20)
