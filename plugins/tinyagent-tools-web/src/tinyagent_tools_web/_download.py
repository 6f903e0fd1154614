"""Download a page over HTTP, with limits on size and time, without cookies and credentials.

Proxies from the environment are not used, because a proxy resolves names itself, without the check of the
addresses. The size is limited while reading, both before and after decompression.
"""

from __future__ import annotations

import os
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Callable
from urllib.parse import urljoin, urlsplit, urlunsplit

import certifi
import httpcore
import idna

from tinyagent import ToolError, __version__

from ._connect import CheckedBackend
from ._page import Page

__all__ = ["MAX_BYTES", "default_ssl_context", "download", "normalized"]

MAX_BYTES = 5_000_000
"""The limit of a page in bytes, before and after decompression."""

MAX_REDIRECTS = 5
MAX_URL = 4_000
TIMEOUTS = {"connect": 10.0, "read": 20.0, "write": 10.0, "pool": 10.0}
_MAX_ERROR_BYTES = 20_000
_REDIRECTS = {301, 302, 303, 307, 308}
_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029]")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?|[0-9a-f:.]+(%[\w.-]+)?", re.ASCII)


def default_ssl_context() -> ssl.SSLContext:
    """Return a context that verifies with SSL_CERT_FILE and SSL_CERT_DIR, or else with `certifi`."""
    if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context()
    return ssl.create_default_context(cafile=certifi.where())


def normalized(url: str) -> str:
    """Normalise a URL and remove its fragment.

    Raises:
        ToolError: It is not an http(s) URL, or has invalid characters or credentials.
    """
    url = url.strip(" \t\r\n")
    if len(url) > MAX_URL:
        raise ToolError(f"The URL is longer than {MAX_URL} characters.")
    if _NOT_IN_A_URL.search(url):
        raise ToolError("The URL has spaces, backslashes or control characters; write them as %20 etc.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ToolError(f"{url!r} is not a URL: {error}.") from None
    if parts.scheme not in ("http", "https"):
        raise ToolError(f"Only http:// and https:// URLs are fetched, not {url[:200]!r}.")
    if "@" in parts.netloc:
        raise ToolError("The URL has a user name or password. Credentials are never sent; remove them.")
    try:
        host = host if host.isascii() else idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ToolError(f"The host name in {url[:200]!r} is not valid: {error}.") from None
    if not _HOST.fullmatch(host):
        raise ToolError(f"{url[:200]!r} has no valid host name.")
    netloc = f"[{host}]" if ":" in host else host
    if port is not None and port != {"http": 80, "https": 443}[parts.scheme]:
        netloc += f":{port}"
    path = _escaped(parts.path or "/")
    return urlunsplit((parts.scheme, netloc, path, _escaped(parts.query), ""))


def _escaped(text: str) -> str:
    """Percent-encode the characters that are not ASCII, as UTF-8."""
    return "".join(c if c.isascii() else "".join(f"%{b:02X}" for b in c.encode()) for c in text)


async def download(
    url: str,
    backend: CheckedBackend,
    ssl_context: Callable[[], ssl.SSLContext],
    on_step: Callable[[str], None] = lambda url: None,
) -> Page:
    """Download a page. Redirects are followed, and checked like the first URL.

    Raises:
        ToolError: The page cannot be read.
    """
    at = normalized(url)
    for _ in range(MAX_REDIRECTS + 1):
        on_step(at)
        try:
            context = ssl_context() if at.startswith("https:") else None
            found = await _get(at, backend, context)
        except httpcore.TimeoutException as error:
            raise ToolError(f"{at} did not answer in time ({type(error).__name__}).") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError) as error:
            raise ToolError(f"{at} cannot be read: {str(error) or type(error).__name__}.") from None
        if isinstance(found, Page):
            return found
        if at.startswith("https:") and found.startswith("http:"):
            raise ToolError(f"{at} redirects to {found}, which is not encrypted. Fetch that URL to continue.")
        at = found
    raise ToolError(f"{url} redirects more than {MAX_REDIRECTS} times, last to {at}.")


async def _get(url: str, backend: CheckedBackend, ssl_context: ssl.SSLContext | None) -> Page | str:
    """Return the page, or the URL of a redirect."""
    headers = [
        ("Host", urlsplit(url).netloc),
        ("User-Agent", f"tinyagent-tools-web/{__version__} (a person's agent, one page at a time)"),
        ("Accept", "text/markdown, text/html, application/json;q=0.9, text/*;q=0.8, */*;q=0.1"),
        ("Accept-Encoding", "gzip, deflate"),
        ("Connection", "close"),
    ]
    async with (
        httpcore.AsyncConnectionPool(ssl_context=ssl_context, network_backend=backend) as pool,
        pool.stream("GET", url, headers=headers, extensions={"timeout": dict(TIMEOUTS)}) as reply,
    ):
        received = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
        if reply.status in _REDIRECTS and received.get("location"):
            return _target(url, _as_text(received["location"]))
        limit = MAX_BYTES if reply.status < 400 else _MAX_ERROR_BYTES
        body, complete = await _read(
            reply.aiter_stream(), received.get("content-encoding", "").strip().lower(), limit
        )
        return Page(
            url=url,
            status=reply.status,
            reason=bytes(reply.extensions.get("reason_phrase", b"")).decode("latin-1"),
            content_type=received.get("content-type", ""),
            retry_after=received.get("retry-after"),
            body=body,
            complete=complete,
        )


def _target(url: str, location: str) -> str:
    """Return the URL of a redirect."""
    try:
        joined = urljoin(url, location)
    except ValueError as error:
        raise ToolError(f"{url} redirects to {location[:200]!r}, which is not a URL: {error}.") from None
    return normalized(joined)


def _as_text(header: str) -> str:
    """Decode a Location header. If it is not ASCII, it is usually UTF-8."""
    try:
        return header.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return header


async def _read(chunks: AsyncIterator[bytes], encoding: str, limit: int) -> tuple[bytes, bool]:
    """Read and decompress at most `limit` bytes of a body. Return them, and whether they are complete."""
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise ToolError(f"The server compressed the page as {encoding[:40]!r}, which was not requested.")
    decoder = None
    body, received = bytearray(), 0
    async for chunk in chunks:
        received += len(chunk)
        if encoding in ("", "identity"):
            body += chunk
        else:
            if decoder is None:
                decoder = _decoder(encoding, chunk)
            try:
                body += decoder.decompress(chunk, limit + 1 - len(body))
            except zlib.error as error:
                raise ToolError(f"The page is not valid {encoding}: {error}.") from None
        if len(body) > limit or received > limit:
            return bytes(body[:limit]), False
    if decoder is not None and not decoder.eof:
        return bytes(body), False
    return bytes(body), True


def _decoder(encoding: str, start: bytes) -> zlib._Decompress:
    if encoding != "deflate":
        return zlib.decompressobj(16 + zlib.MAX_WBITS)
    # The standard requires a zlib header, but some servers omit it.
    has_header = len(start) >= 2 and start[0] & 0x0F == 8 and (start[0] << 8 | start[1]) % 31 == 0
    return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
