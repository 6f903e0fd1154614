"""Processes of the command line that `fork_server.py` forks."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

HERE = Path(__file__).parent
NUMBER = struct.Struct("i")


class Fork:
    """A started process, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, connection: socket.socket) -> None:
        self.stdin: BinaryIO | None = None
        self.stdout: BinaryIO | None = None
        self.stderr: BinaryIO | None = None
        self.returncode: int | None = None
        self._connection = connection
        self.pid = self._number()

    def _number(self) -> int:
        data = self._connection.recv(NUMBER.size, socket.MSG_WAITALL)
        assert data, "the fork server has ended"
        number: int = NUMBER.unpack(data)[0]
        return number

    def poll(self) -> int | None:
        """Return the exit code if the process has ended, negative for a signal."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended. Return its exit code."""
        if self.returncode is None:
            self._within(timeout, [self._connection])
            self._end()
        assert self.returncode is not None
        return self.returncode

    def _end(self) -> None:
        self.returncode = self._number()
        self._connection.close()

    @staticmethod
    def _within(timeout: float | None, sources: Sequence[socket.socket | BinaryIO]) -> list[BinaryIO]:
        ready: list[BinaryIO] = select.select(sources, [], [], timeout)[0]
        if not ready:
            raise subprocess.TimeoutExpired("tinyagent", timeout or 0)
        return ready

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, input: bytes = b"", timeout: float = 60) -> tuple[bytes, bytes]:
        """Write to standard input and close it, and read the output to its end. Return the output."""
        if self.stdin is not None and not self.stdin.closed:
            self.stdin.write(input)
            self.stdin.close()
        deadline = time.monotonic() + timeout
        read: dict[BinaryIO, bytes] = {
            stream: b"" for stream in (self.stdout, self.stderr) if stream is not None
        }
        unread = [*read]
        while unread:
            for stream in self._within(max(0, deadline - time.monotonic()), unread):
                data = stream.read1(65536)  # type: ignore[attr-defined]
                read[stream] += data
                if not data:
                    unread.remove(stream)
        self.wait(max(0, deadline - time.monotonic()))
        out, err = (b"" if stream is None else read[stream] for stream in (self.stdout, self.stderr))
        return out, err


class ForkServer:
    """The process that forks."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="forks")
        self.address = f"{self._folder.name}/s"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.address)
            listener.listen(100)
            self._process = subprocess.Popen(
                [sys.executable, HERE / "fork_server.py", str(listener.fileno())],
                pass_fds=[listener.fileno()], stdin=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
            )  # fmt: skip

    def start(
        self,
        args: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        streams: Sequence[int],
        *,
        terminal: bool = False,
    ) -> Fork:
        """Start a command with these standard streams; with `terminal`, the last one is its terminal."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.address)
        fields = ["012", "1" if terminal else "0", str(len(args)), *args]
        fields += [f"{name}={value}" for name, value in environment.items()]
        body = b"\0".join(map(os.fsencode, fields))
        fd = os.open(folder, os.O_RDONLY)
        try:
            socket.send_fds(connection, [NUMBER.pack(len(body))], [fd, *streams])
        finally:
            os.close(fd)
        connection.sendall(body)
        return Fork(connection)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._folder.cleanup()
