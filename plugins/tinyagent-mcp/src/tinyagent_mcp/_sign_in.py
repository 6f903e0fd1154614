"""The stored sign-in at a server with OAuth: its tokens, and how to renew them.

Each server has a file of its own with mode 0600, in the directory `mcp-sign-in` beside `mcp.toml`. It is
replaced atomically. Tokens are renewed while the file is locked: a refresh token can often be used only once,
so two processes must not use the same one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tinyagent import ConfigurationError
from tinyagent.text_files import read_config, write_private
from tinyagent.toml_files import locked

from ._config import ServerConfig
from ._paths import config_file

__all__ = ["SignIn", "load", "locked_file", "remove", "save"]

EARLY_S = 30.0
"""Seconds before the end of a token at which it is renewed."""


class SignIn(msgspec.Struct, frozen=True, kw_only=True):
    """A sign-in.

    Attributes:
        url: The URL of the server. The tokens are sent only to it.
        token_endpoint: Where tokens are renewed.
        revocation_endpoint: Where they are revoked.
        client_id: The client that was registered.
        client_secret: Its secret, if it has one.
        auth_method: How the secret is sent to `token_endpoint`.
        resource: The resource of the tokens (RFC 8707).
        expires_at: When the access token ends, in seconds since 1970; None if that is not known.
    """

    version: int = 1
    url: str
    token_endpoint: str
    revocation_endpoint: str | None = None
    client_id: str
    client_secret: str | None = None
    auth_method: str | None = None
    resource: str | None = None
    scope: str | None = None
    access_token: str
    refresh_token: str | None = None
    expires_at: float | None = None

    def __repr__(self) -> str:
        return f"SignIn(url={self.url!r})"  # the other fields are secret

    @property
    def has_ended(self) -> bool:
        """Whether the access token has ended, or is about to."""
        return self.expires_at is not None and time.time() > self.expires_at - EARLY_S

    def redacted(self, text: str) -> str:
        """Remove the secrets from a text of the server."""
        for secret in (self.access_token, self.refresh_token, self.client_secret):
            if secret:
                text = text.replace(secret, "…")
        return text


def _file(name: str) -> Path:
    return config_file().parent / "mcp-sign-in" / f"{name}.json"


def load(config: ServerConfig) -> SignIn | None:
    """Return the sign-in at a server; None without one, or if it belongs to another URL.

    Raises:
        ConfigurationError: The file can be read by others, or is malformed.
    """
    path = _file(config.name)
    text = read_config(path, private=True)
    if text is None:
        return None
    try:
        found = msgspec.json.decode(text, type=SignIn)
    except msgspec.DecodeError:  # its message may quote a token
        raise ConfigurationError(
            f"{path} is malformed.", hint=f"Sign in again: tinyagent mcp login {config.name}"
        ) from None
    return found if found.version == 1 and found.url == config.url else None


def save(name: str, sign_in: SignIn) -> None:
    """Store a sign-in.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    path = _file(name)
    try:
        write_private(path, msgspec.json.encode(sign_in))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from None


def remove(name: str) -> bool:
    """Remove the sign-in at a server. Return whether there was one.

    Raises:
        ConfigurationError: The file cannot be removed.
    """
    path = _file(name)
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be removed: {error.strerror}.") from None
    return True


@contextmanager
def locked_file(name: str) -> Iterator[None]:
    """Lock the sign-in at a server against other processes.

    Raises:
        ConfigurationError: Another process holds the lock for too long.
    """
    with locked(_file(name)):
        yield
