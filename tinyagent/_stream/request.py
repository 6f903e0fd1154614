"""The parts of requests that all protocols have: URL, key, headers, the encoded body, the list of models."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias
from urllib.parse import urlsplit, urlunsplit

from tinyagent import _json
from tinyagent._json import as_dict
from tinyagent._net.errors import check_key_variable
from tinyagent._net.request import get_json
from tinyagent._net.url_guard import check_headers, check_key
from tinyagent.agent_types import SimpleStreamOptions
from tinyagent.errors import ConfigurationError, InvalidReplyError, MissingKeyError

from .model import HttpModel, connection_options
from .servers import dialect_of, server_of

__all__ = [
    "EncodedArray",
    "EncodedItems",
    "encode_body",
    "encode_items",
    "endpoint",
    "listed_models",
    "openai_headers",
    "request_headers",
]

EncodedItems: TypeAlias = bytes | memoryview
"""Any number of values as JSON, separated by commas. They can have many MiB, so they are rarely copied."""


class EncodedArray:
    """An array in the body of a request, as its encoded items."""

    def __init__(self, *parts: EncodedItems) -> None:
        self.parts: list[EncodedItems] = [items for items in parts if items]

    def pieces(self) -> list[EncodedItems]:
        """Return the pieces of the JSON text."""
        separated = [piece for items in self.parts for piece in (b",", items)]
        return [b"[", *separated[1:], b"]"]


def encode_items(values: Sequence[object]) -> EncodedItems:
    """Encode values as the items of an array.

    Raises:
        ConfigurationError: A value cannot be represented in JSON.
    """
    return memoryview(_encode(values))[1:-1]


def encode_body(body: Mapping[str, object]) -> bytes:
    """Encode the body of a request as JSON. A field of it may be an `EncodedArray`.

    Raises:
        ConfigurationError: The conversation has a value that JSON cannot represent.
    """
    pieces: list[EncodedItems] = []
    for name, value in body.items():
        pieces += [b"," if pieces else b"{", _encode(name), b":"]
        pieces += value.pieces() if isinstance(value, EncodedArray) else [_encode(value)]
    return b"".join([*pieces, b"}"]) if pieces else b"{}"


def _encode(value: object) -> bytes:
    try:
        return _json.encode(value)
    except TypeError as error:
        raise ConfigurationError(f"the conversation cannot be sent: {error}") from None


_PROTOCOL_PATHS = r"/(?:chat/completions|responses|messages)$"
"""Protocol paths that users copy into a base URL from the documentation of an API."""


def endpoint(base_url: str, path: str) -> str:
    """Return the URL of `path` under a base URL, which may have the path of a protocol and a query."""
    try:
        parts = urlsplit(base_url.strip())
    except ValueError:
        return base_url
    base = re.sub(_PROTOCOL_PATHS, "", parts.path.rstrip("/")).rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, base + path, parts.query, ""))


_SECRET_HEADER = r"(?i)auth|key|token|secret|cookie"


def request_headers(
    model: HttpModel,
    api_key: str | None,
    *,
    variable: str | None,
    header: str = "authorization",
    prefix: str = "Bearer ",
) -> tuple[dict[str, str], list[str]]:
    """Return the headers of a request, including the API key, and the secrets in them.

    Args:
        model: If its own `headers` contain a key, no other key is sent.
        api_key: The key of the call; None to use the variable.
        variable: The environment variable with the key; None if the server needs no key.
        header: The header for the key.
        prefix: Precedes the key in the header.

    Raises:
        MissingKeyError: There is no key. The message names the variable.
    """
    provider = model.provider
    headers = check_headers(model.headers, provider)
    secrets = [value for name, value in headers.items() if re.search(_SECRET_HEADER, name)]
    if any(name.lower() in ("authorization", header) for name in headers):
        return headers, secrets + [value.split(" ", 1)[1] for value in secrets if " " in value]
    if api_key is None and variable:
        api_key = os.environ.get(variable) or None
        if api_key is None:
            check_key_variable(variable, provider)
            raise MissingKeyError(
                f"no API key for {provider!r}: set {variable}, or pass options['api_key']",
                hint=f"export {variable}=…",
            )
    if api_key is not None:
        key = check_key(api_key, provider)
        headers[header] = f"{prefix}{key}"
        secrets.append(key)
    return headers, secrets


def openai_headers(
    model: HttpModel, api_key: str | None, variable: str | None
) -> tuple[dict[str, str], list[str]]:
    """Do the same as `request_headers` for the APIs of OpenAI. Azure has its own header for the key."""
    header = dialect_of(server_of(model.base_url, model.provider)).key_header
    if header:
        return request_headers(model, api_key, variable=variable, header=header, prefix="")
    return request_headers(model, api_key, variable=variable)


async def listed_models(
    url: str,
    *,
    model: HttpModel,
    options: SimpleStreamOptions,
    headers: Mapping[str, str],
    secrets: list[str],
) -> list[dict[str, object]]:
    """Return the server's list of models; an item that is not an object is empty.

    Raises:
        TinyAgentError: The request failed, or returned no list.
    """
    value = await get_json(
        url,
        headers=headers,
        secrets=secrets,
        timeout=options.get("timeout"),
        **connection_options(model, options),
    )
    items = value.get("data", value.get("models")) if isinstance(value, dict) else value
    if not isinstance(items, list):
        name = model.provider
        raise InvalidReplyError(f"{name}: the list of models is not a list", provider=name)
    return [as_dict(item) for item in items]
