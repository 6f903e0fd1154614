"""The guards of conftest.py work."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "host.invalid"])
def test_connections_off_this_machine_fail(host: str) -> None:
    """Addresses and names of other machines are refused."""
    with pytest.raises(AssertionError, match="only loopback is allowed"):
        socket.create_connection((host, 80), timeout=1)


async def test_asyncio_is_guarded() -> None:
    """asyncio uses the guarded functions for look-ups and connections."""
    with pytest.raises(AssertionError, match="only loopback is allowed"):
        await asyncio.open_connection("192.0.2.1", 80)


async def test_loopback_is_allowed() -> None:
    """A test can connect to its own server."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert b"" == await reader.read()
        writer.close()
        await writer.wait_closed()


def test_home_is_empty_and_no_key_is_set(isolated_environment: Path) -> None:
    """Tests do not use the developer's settings."""
    assert isolated_environment == Path.home()
    assert [] == list(isolated_environment.iterdir())
    assert [] == [name for name in os.environ if name.endswith(("_API_KEY", "_TOKEN"))]
