"""A small server without the SDK, which starts fast and uses the protocol of 2025."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

NAMES = ["pid", "daemon", "read", *os.environ.get("TEST_TOOLS", "").split()]
TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in NAMES]
TOOLS[2]["annotations"] = {"readOnlyHint": "TEST_UNSAFE" not in os.environ}


def answer(method: str, params: Any) -> dict[str, Any] | None:
    """Return the result of a request; None if the method is unknown."""
    if method == "initialize":
        info = {"name": "tiny", "version": "1"}
        return {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/list":
        return {"tools": [] if "no-tools" in sys.argv else TOOLS}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": call(params["name"])}]}
    return None


def attempt(action: Callable[[], object]) -> str:
    """Return whether an action succeeds."""
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "done"


def call(name: str) -> str:
    """Return the process id of the server or of a new daemon; some tools misbehave first."""
    if name == "mute":
        os.close(1)
        time.sleep(600)
    if name == "write":
        return attempt(lambda: os.close(os.open(os.environ["TEST_WRITE"], os.O_WRONLY | os.O_CREAT)))
    if name == "connect":
        return attempt(lambda: socket.create_connection(("127.0.0.1", int(os.environ["TEST_PORT"]))).close())
    if name == "stop_parent":
        os.kill(os.getppid(), signal.SIGSTOP)
    if name != "daemon":
        return str(os.getpid())
    command = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
    return str(subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL).pid)


if "TEST_LOG" in os.environ:
    with open(os.environ["TEST_LOG"], "a") as log:  # noqa: PTH123
        log.write("started\n")
if "TEST_NOISE" in os.environ:
    print("Welcome! This is no JSON.", flush=True)  # noqa: T201
for line in sys.stdin:
    request = json.loads(line)
    if "id" in request:
        result = answer(request["method"], request.get("params"))
        outcome = (
            {"error": {"code": -32601, "message": "no such method"}} if result is None else {"result": result}
        )
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], **outcome}), flush=True)  # noqa: T201
if "TEST_STUBBORN" in os.environ:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
