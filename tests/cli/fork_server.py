"""Run the command line in forks of one process that has imported all modules.

Otherwise a test would spend most of its time on the start of Python. `forks.ForkServer` starts this process.

A client connects to the socket, and sends one message: its length, and its fields with a zero byte between
them: the standard streams that are open, such as `012`, whether the process gets a terminal of its own (`1`),
the number of arguments, the arguments, and the environment. With the first byte come the descriptors of the
working directory and of the streams. It receives two numbers, the id of the process and later its exit code,
which is negative for a signal.
"""

from __future__ import annotations

import array
import fcntl
import io
import os
import pkgutil
import select
import socket
import struct
import sys
import termios
import traceback
from collections.abc import Iterable
from importlib import import_module

import tinyagent
import tinyagent_cli
from tinyagent_cli.main import main  # noqa: TID251 - the process is made for it

NUMBER = struct.Struct("i")

PACKAGES = (tinyagent, tinyagent_cli)
"""All their modules are imported, except programs, which act when they are imported, and the HTTP engine that
a run must not import without need.
"""

OTHERS = [
    "email.parser",
    "genai_prices.data",
    "httpx",
    "idna",
    "jiter",
    "jsonschema_rs",
    "pydantic.plugin._loader",
    "pygments.lexers.python",
    "pygments.styles.monokai",
    "rich.syntax",
    "tomlkit",
]
"""What many commands import late."""


def serve(listener: socket.socket, lifeline: int) -> None:
    """Serve requests until the other end of `lifeline` is closed."""
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        ready, _, _ = select.select([listener, lifeline, *running], [], [])
        if lifeline in ready:
            return
        if listener in ready:
            connection, _ = listener.accept()
            child = start(connection)
            running[os.pidfd_open(child)] = child, connection
            tell(connection, child)
        for process in running.keys() & ready:
            child, connection = running.pop(process)
            os.close(process)
            _, status = os.waitpid(child, 0)
            with connection:
                tell(connection, os.waitstatus_to_exitcode(status))


def tell(connection: socket.socket, number: int) -> None:
    """Send a number to a client, which may have been killed."""
    try:
        connection.sendall(NUMBER.pack(number))
    except BrokenPipeError:
        pass


def start(connection: socket.socket) -> int:
    """Receive a request, and start its process. Return the id of the process."""
    fds = array.array("i")
    head, given, _, _ = connection.recvmsg(NUMBER.size, socket.CMSG_SPACE(4 * fds.itemsize))
    for _, _, data in given:
        fds.frombytes(data)
    [length] = NUMBER.unpack(head)
    fields = connection.recv(length, socket.MSG_WAITALL).split(b"\0")
    child = os.fork()
    if child == 0:
        work(fields, fds.tolist())
    for fd in fds:
        os.close(fd)
    return child


def work(fields: list[bytes], fds: list[int]) -> None:
    """Run the requested command in this process."""
    code = 70
    try:
        streams = dict(zip(map(int, fields[0].decode()), fds[1:], strict=True))
        count = int(fields[2])
        os.fchdir(fds[0])
        place(streams)
        if fields[1] == b"1":
            os.setsid()
            fcntl.ioctl(2, termios.TIOCSCTTY, 0)
        args = [os.fsdecode(field) for field in fields[3 : 3 + count]]
        os.environb.clear()
        os.environb.update(field.split(b"=", 1) for field in fields[3 + count :])
        open_streams(streams)
        sys.argv[1:] = args
        sys.path[:0] = [
            path for path in os.environ.get("PYTHONPATH", "").split(":") if path and path not in sys.path
        ]
        code = main(args)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    os._exit(code)


def place(streams: dict[int, int]) -> None:
    """Give the descriptors of the standard streams their numbers, and close all others."""
    for number in range(3):
        if number in streams:
            os.dup2(streams[number], number)
        else:
            os.close(number)
    os.closerange(3, 1024)


def open_streams(given: Iterable[int]) -> None:
    """Make `sys.stdin`, `sys.stdout` and `sys.stderr` as Python does at its start."""
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = None
        if number in given:
            file = open(  # noqa: SIM115
                number, "wb" if number else "rb", buffering=0 if number and unbuffered else -1, closefd=False
            )
            stream = io.TextIOWrapper(
                file, "utf-8", "backslashreplace" if name == "stderr" else "strict",
                line_buffering=name == "stderr" or file.isatty(), write_through=unbuffered,
            )  # fmt: skip
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def preload() -> None:
    """Import what the commands import."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(("__main__", ".main", ".httpx_engine", ".pytest_plugin")):
                import_module(module.name)
    for name in OTHERS:
        import_module(name)


if __name__ == "__main__":
    preload()
    serve(socket.socket(fileno=int(sys.argv[1])), 0)
