"""The guards of conftest.py guard."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "host.invalid"])
def test_connections_off_this_machine_fail(host: str) -> None:
    """Neither an address nor a name leads away from this machine."""
    with pytest.raises(AssertionError, match="only loopback is allowed"):
        socket.create_connection((host, 80), timeout=1)


async def test_asyncio_is_cut_off_too() -> None:
    """asyncio looks names up and connects by the same two doors."""
    with pytest.raises(AssertionError, match="only loopback is allowed"):
        await asyncio.open_connection("192.0.2.1", 80)


async def test_loopback_is_open() -> None:
    """A server of the test's own can be reached."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert b"" == await reader.read()
        writer.close()
        await writer.wait_closed()


def test_home_is_empty_and_no_key_is_set(isolated_environment: Path) -> None:
    """Nothing that the developer has set up is seen."""
    assert isolated_environment == Path.home()
    assert [] == list(isolated_environment.iterdir())
    assert [] == [name for name in os.environ if name.endswith(("_API_KEY", "_TOKEN"))]
