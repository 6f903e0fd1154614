"""Serve one editor on standard input and output, until it leaves or a signal arrives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence

from acp.agent.connection import AgentSideConnection

from ._agent import AcpAgent
from ._stdio import StdioTransport, take_streams

__all__ = ["serve"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(arguments: Sequence[str], tools: Sequence[str], mode: str) -> int:
    """Serve until the end of standard input. Return 0, or 128 plus the number of a signal.

    Raises:
        ConfigurationError: Standard input or output is closed.
    """
    stdin, stdout = take_streams()
    if os.isatty(stdin):
        print("An editor starts 'tinyagent acp', and sends JSON lines. Ctrl-D ends.", file=sys.stderr)  # noqa: T201
    return asyncio.run(_serve(stdin, stdout, AcpAgent(arguments, tools, mode)))


async def _serve(stdin: int, stdout: int, agent: AcpAgent) -> int:
    transport = StdioTransport(stdin, stdout, agent.on_sent)
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        transport.stop()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    connection = AgentSideConnection(agent, transport, listening=False, use_unstable_protocol=True)
    try:
        await connection.listen()
    finally:
        await agent.close()
        with contextlib.suppress(ConnectionError):
            await connection.close()
    return 128 + received[0] if received else 0
