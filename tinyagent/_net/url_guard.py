"""Checks of URLs, keys and headers, before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from tinyagent.errors import AuthenticationError, ConfigurationError

from .errors import redact
from .network import is_loopback

__all__ = ["check_headers", "check_key", "check_url"]

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FORBIDDEN = r"[\x00-\x08\x0a-\x1f\x7f]"


def check_key(key: str, provider: str) -> str:
    """Return a key without the white space around it.

    Raises:
        AuthenticationError: The key is empty, or has characters that no key has.
    """
    key = key.strip()
    if not key:
        raise AuthenticationError(f"the API key for {provider or 'the provider'!r} is empty")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AuthenticationError(
            f"the API key for {provider or 'the provider'!r} has characters that no key has",
            hint="Copy it again: a line break, a space or a typographic character came with it.",
        )
    return key


def check_headers(headers: Mapping[str, object] | None, provider: str = "") -> dict[str, str]:
    """Check headers: names are tokens, values are one line of Latin-1, and the engine sets the length.

    Raises:
        ConfigurationError: A header is not valid. The message has its name, never its value.
    """
    checked: dict[str, str] = {}
    for name, value in (headers or {}).items():
        where = f"header {name!r} of {provider or 'the provider'!r}"
        if re.fullmatch(_TOKEN, name) is None:
            raise ConfigurationError(f"{where} is not a valid header name")
        if name.lower() in ("content-length", "transfer-encoding"):
            raise ConfigurationError(f"{where} cannot be set: it depends on the body of each request")
        if not isinstance(value, str):
            raise ConfigurationError(f"{where} must be text, not {type(value).__name__}")
        value = value.strip(" \t")
        if re.search(_FORBIDDEN, value):
            raise ConfigurationError(f"{where} has a line break or another control character")
        try:
            value.encode("latin-1")
        except UnicodeEncodeError:
            raise ConfigurationError(f"{where} has characters beyond Latin-1") from None
        checked[name] = value
    return checked


_URL_EXAMPLE = "For example https://api.example.com/v1 or http://127.0.0.1:8080/v1."


def check_url(url: str, *, provider: str = "", allow_http: bool = False) -> str:
    """Check a URL: http or https, a host, no credentials, and http:// only for this machine.

    Args:
        url: The URL.
        provider: The name of the provider, for the message.
        allow_http: Whether http:// to other machines is allowed.

    Raises:
        ConfigurationError: The URL is not valid. The message has the reason.
    """
    where = f"base URL of {provider or 'the provider'!r}"
    if not url.isascii() or re.search(_FORBIDDEN, url) or " " in url:
        raise ConfigurationError(f"the {where} has a space, a control or a non-ASCII character")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"the {where} is malformed: {redact(url)}", hint=_URL_EXAMPLE) from None
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError(
            f"the {where} must begin with https:// or http://: {redact(url)}",
            hint=_URL_EXAMPLE,
        )
    if not host or port == 0:
        raise ConfigurationError(f"the {where} has no host: {redact(url)}", hint=_URL_EXAMPLE)
    if "@" in parts.netloc:
        raise ConfigurationError(
            f"the {where} has a user name or password",
            hint="Put credentials into the key or a header; URLs end up in logs.",
        )
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise ConfigurationError(
            f"the {where} is not encrypted: {redact(url)}",
            hint="Use https://, or set allow_http for this provider if you trust the network between.",
        )
    return url
