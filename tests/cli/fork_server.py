"""Run the command line in forks of one process that has imported all modules.

Otherwise a test would spend most of its time on the start of Python. Tests of imports, signals, pipes and
terminals use new processes instead.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from importlib import import_module

from tinyagent_cli.main import main  # noqa: TID251 - the process is made for it

PRELOADED = [
    "jsonschema_rs",
    "tinyagent.anthropic_provider",
    "tinyagent.demo_provider",
    "tinyagent.jsonl",
    "tinyagent.replay_provider",
    "tinyagent.responses_provider",
    "tinyagent_cli.commands.approvals",
    "tinyagent_cli.commands.completion",
    "tinyagent_cli.commands.models",
    "tinyagent_cli.commands.plugins",
    "tinyagent_cli.commands.run",
    "tinyagent_cli.commands.schema",
    "tinyagent_cli.commands.sessions",
    "tinyagent_cli.commands.tools",
    "tinyagent_cli.run.driver",
    "tinyagent_cli.sinks.jsonl",
    "tinyagent_cli.run.session_choice",
    "tinyagent_cli.run.tool_call",
    "tinyagent_cli.sessions.index",
    "tinyagent_cli.sessions.writer",
]


def serve(channel: socket.socket) -> None:
    """Serve requests: one line of JSON with three descriptors. The answer is the exit code."""
    while True:
        data, fds, _, _ = socket.recv_fds(channel, 1 << 20, 3)
        if not data:
            return
        child = os.fork()
        if child == 0:
            channel.close()
            work(json.loads(data), fds)
        for fd in fds:
            os.close(fd)
        channel.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        channel.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def work(request: dict[str, object], fds: list[int]) -> None:
    """Run the requested command in this process."""
    code = 70
    try:
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
            os.close(fd)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
        os.chdir(str(request["cwd"]))
        os.environ.clear()
        os.environ.update(request["env"])  # type: ignore[call-overload]
        sys.path[:0] = request["path"]  # type: ignore[misc]
        code = main(request["args"])  # type: ignore[arg-type]
    except BaseException:  # noqa: BLE001
        traceback.print_exc(file=sys.__stderr__)
    os._exit(code)


if __name__ == "__main__":
    for name in PRELOADED:
        import_module(name)
    serve(socket.socket(fileno=int(sys.argv[1])))
