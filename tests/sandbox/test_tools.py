"""Tools that ask for the sandbox: what they still do, and what they cannot do.

Each attack also runs outside of the sandbox, where it must succeed. So no attack passes because it is broken.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from tests.waiting import wait_until
from tinyagent import AgentToolResult, AgentToolUpdateCallback, ToolError, sandbox, tool
from tinyagent._sandbox import launcher
from tinyagent._tool_checks import validate_tool_arguments
from tinyagent.agent_types import ImageContent, ToolCallContent
from tinyagent.errors import ToolArgumentsError
from tinyagent.sandbox import Policy
from tinyagent.testing.contract import advance_clock
from tinyagent.tools import FunctionTool, run_in_process

from .conftest import CANARY, World

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60

# ---- the tools ------------------------------------------------------------------------------------------


class Point(msgspec.Struct):
    """A typed argument."""

    x: int
    y: int = 2


@tool(sandbox=Policy(), read_only=True)
def add(point: Point, *, kind: Literal["sum", "list"] = "sum") -> object:
    """Add the parts of a point."""
    return point.x + point.y if kind == "sum" else [point.x, point.y]


@tool(sandbox=Policy())
async def count(limit: Annotated[int, "a limit"]) -> AsyncIterator[str]:
    """Count in text."""
    for number in range(limit):
        await asyncio.sleep(0)
        yield f"number {number}"


@tool(sandbox=Policy())
async def describe(
    tool_call_id: str, on_update: AgentToolUpdateCallback, signal: asyncio.Event
) -> AgentToolResult:
    """Return everything that a result can have."""
    on_update(AgentToolResult([{"type": "text", "text": "half"}], {"part": 1}))
    details = {"call": tool_call_id, "set": signal.is_set(), "folder": str(Path.cwd())}
    image: ImageContent = {"type": "image", "data": "aGk=", "mime_type": "image/png"}
    return AgentToolResult([{"type": "text", "text": "all"}, image], details, terminate=True)


@tool(sandbox=Policy())
def refuse() -> str:
    """Fail for the model."""
    raise ToolError("Choose another one.")


@tool(sandbox=Policy())
def hold(file: str) -> None:
    """Hold the interpreter lock almost endlessly."""
    Path(file).write_text("started")
    re.match(r"(a+)+$", "a" * 60 + "b")


ATTACKER = '''
import os, socket, subprocess, sys, urllib.request
from pathlib import Path
from tinyagent import tool
from tinyagent.sandbox import Policy

@tool(sandbox=Policy(writable=["."]))
def write(path: str) -> str:
    """Write a file."""
    Path(path).write_text("changed")
    return "DONE"

@tool(sandbox=Policy(writable=["."]))
def read(path: str) -> str:
    """Read a file."""
    return Path(path).read_text(errors="replace").replace(chr(0), " ")

@tool(sandbox=Policy(writable=["."]))
def connect(port: int) -> str:
    """Connect to a port."""
    socket.create_connection(("127.0.0.1", port), 10).close()
    return "DONE"

@tool(sandbox=Policy(writable=["."]))
def signal(pid: int) -> str:
    """Find out whether a signal can be sent."""
    os.kill(pid, 0)
    return "DONE"

@tool(sandbox=Policy(writable=["."]))
def stay(lock: str) -> str:
    """Leave a process that holds a lock."""
    code = f"import fcntl, os, time; f = open({lock!r}, 'a'); fcntl.flock(f, 2); "
    code += "time.sleep(600)"
    null = subprocess.DEVNULL
    command = ["setsid", "sh", "-c", 'exec "$0" "$@" &', sys.executable, "-c", code]
    subprocess.run(command, stdin=null, stdout=null, stderr=null, check=True)
    return "DONE"
'''
"""A tool file. Its tools are attacks, and return `DONE` if they succeed."""

CALL = """
import asyncio, json, runpy, sys
from tinyagent import sandbox
from tinyagent.tools import FunctionTool

mechanism, calls = sys.argv[1:]
if mechanism == "landlock":
    sandbox._working_mechanism = lambda: ("landlock", "", ())
import attacker

def call(name, arguments):
    made = vars(attacker)[name]
    execute = made.execute_here if mechanism == "none" else made.execute
    try:
        result = asyncio.run(execute("call", arguments, None, lambda update: None))
        return result.content[0]["text"]
    except Exception as error:
        return f"FAILED: {type(error).__name__}: {error}"

print(json.dumps([call(*each) for each in json.loads(calls)]))
"""


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch, mechanism: str) -> str:
    """Use one mechanism, and return its name."""
    if mechanism == "landlock":
        monkeypatch.setattr(sandbox, "_working_mechanism", lambda: ("landlock", "", ()))
    return mechanism


@pytest.fixture(autouse=True)
def no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each tool look for its sandbox again."""
    monkeypatch.delenv("TINYAGENT_SANDBOX", raising=False)
    for made in (add, count, describe, refuse, hold):
        assert made.box is not None
        made.box._found = made.box._mode = None


async def call(
    made: FunctionTool[..., object], **arguments: object
) -> tuple[AgentToolResult, list[AgentToolResult]]:
    """Call a tool. Return its result and its updates."""
    assert made.execute is not None
    updates: list[AgentToolResult] = []
    return await made.execute("call-1", dict(arguments), None, updates.append), updates


# ---- what works -----------------------------------------------------------------------------------------


async def test_arguments_and_results(chosen: str) -> None:
    """Typed and named arguments arrive, and the result says what confined the call."""
    result, _ = await call(add, point={"x": 40})
    assert [{"type": "text", "text": "42"}] == result.content
    assert (42, chosen) == (result.details["result"], result.details["sandbox"]["mechanism"])
    result, _ = await call(add, point={"x": 1, "y": 3}, kind="list")
    assert [1, 3] == result.details["result"]
    with pytest.raises(ToolError, match="The arguments of 'add' do not fit"):
        await call(add, point={"x": "no"})


async def test_updates_arrive(chosen: str) -> None:
    """Items of a generator are updates, the last one is the result; other fields of results arrive, too."""
    result, updates = await call(count, limit=3)
    assert ["number 0", "number 1", "number 2"] == [update.content[0].get("text") for update in updates]
    assert {"type": "text", "text": "number 2"} == result.content[0]
    result, updates = await call(describe)
    assert ({"part": 1}, True) == (updates[0].details, result.terminate)
    assert {"type": "image", "data": "aGk=", "mime_type": "image/png"} == result.content[1]
    expected = {"call": "call-1", "set": False, "folder": str(Path.cwd())}
    assert expected == {name: result.details[name] for name in expected}


async def test_failures(chosen: str) -> None:
    """A `ToolError` keeps its message, without a note on the sandbox."""
    with pytest.raises(ToolError) as caught:
        await call(refuse)
    assert "Choose another one." == str(caught.value)


async def test_an_abort_ends_the_process(
    chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abort and a cancellation end a call that Python cannot interrupt."""
    assert hold.box is not None
    monkeypatch.setattr(hold.box, "policy", Policy(writable=[tmp_path]))
    for number, abort in enumerate((True, False)):
        file, signal = tmp_path / str(number), asyncio.Event()
        assert hold.execute is not None
        running = asyncio.ensure_future(hold.execute("1", {"file": str(file)}, signal, lambda update: None))
        async with asyncio.timeout(WAIT_S):
            while not file.exists():
                await asyncio.sleep(0.01)
        if abort:
            signal.set()
        else:
            running.cancel()
        with pytest.raises(ToolError if abort else asyncio.CancelledError):
            await running


async def test_a_function_in_the_sandbox(chosen: str, tmp_path: Path) -> None:
    """`run_in_process` takes a sandbox, and its time limit holds."""
    from tinyagent.tool_sandbox import ToolSandbox

    box = ToolSandbox("hold", Policy(writable=[tmp_path]))
    assert str(Path.cwd()) == await run_in_process(os_folder, sandbox=box)
    running = asyncio.create_task(
        run_in_process(hold.function, str(tmp_path / "f"), timeout=900, sandbox=box)
    )
    async with asyncio.timeout(WAIT_S):
        while not (tmp_path / "f").exists():
            await asyncio.sleep(0.01)
    advance_clock(900)
    with pytest.raises(TimeoutError, match="hold took longer than 900 s"):
        await running


def os_folder() -> str:
    """Return the working directory."""
    return str(Path.cwd())


async def test_a_sandbox_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the message of the program that starts the sandbox."""
    found = sandbox.Sandbox("bubblewrap", "", (sys.executable, "-c", "import sys; sys.exit('no namespaces')"))
    assert add.box is not None
    monkeypatch.setattr(add.box, "_found", found)
    with pytest.raises(
        ToolError, match="add did not answer: its process ended with exit code 1: no namespaces"
    ):
        await call(add, point={"x": 1})


# ---- the settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["off", "auto"])
async def test_without_a_sandbox(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Turned off, or on a machine without one, a call runs in this process; the latter says so once."""
    monkeypatch.setenv("TINYAGENT_SANDBOX", mode)
    monkeypatch.setattr(sandbox, "_working_mechanism", lambda: ("none", "tinyagent has none for macOS", ()))
    result, _ = await call(add, point={"x": 1})
    assert "none" == result.details["sandbox"]["mechanism"]
    notes = ["[There is no sandbox: tinyagent has none for macOS]"] if mode == "auto" else []
    assert notes == [part.get("text") for part in result.content[1:]]
    assert add.sandbox is not None
    assert "The tool has all your permissions." in add.sandbox({}).text


async def test_a_sandbox_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call fails if a sandbox is required, and this machine has none."""
    monkeypatch.setenv("TINYAGENT_SANDBOX", "required")
    monkeypatch.setattr(sandbox, "_working_mechanism", lambda: ("none", "tinyagent has none for macOS", ()))
    with pytest.raises(
        ToolError, match="A sandbox is required, but not available: tinyagent has none for macOS"
    ):
        await call(add, point={"x": 1})


async def test_leaving(chosen: str) -> None:
    """A call leaves the sandbox only if the program permits it, for example after a question."""
    with pytest.raises(ToolError, match="do not fit"):
        await call(add, point={"x": 1}, without_sandbox=True)
    made = tool(sandbox=Policy())(add.function)
    assert made.sandbox is not None
    assert made.sandbox({"point": {"x": 1}}).outside is None
    arguments = {"point": {"x": 1}, "without_sandbox": True}
    call_outside: ToolCallContent = {"type": "tool_call", "id": "1", "name": "add", "arguments": arguments}
    with pytest.raises(ToolArgumentsError, match="without_sandbox"):
        validate_tool_arguments(made, call_outside)
    made.let_calls_leave_sandbox()
    assert validate_tool_arguments(made, call_outside) == arguments
    asked = made.sandbox({"point": {"x": 1}})
    assert (True, False) == (asked.active, asked.leaves)
    assert {"point": {"x": 1}, "without_sandbox": True} == asked.outside
    result, _ = await call(made, **asked.outside or {})
    assert {"mechanism": "none", "text": "left for this call"} == result.details["sandbox"]
    assert made.sandbox(asked.outside or {}).leaves


def test_what_cannot_be_confined() -> None:
    """Another process must be able to load the function."""

    def local() -> None:
        """Do nothing."""

    with pytest.raises(TypeError, match="a function at the top level of a module"):
        tool(sandbox=Policy())(local)


# ---- attacks --------------------------------------------------------------------------------------------


Call = tuple[str, dict[str, object]]
"""The name of a tool, and its arguments."""


class Attacker:
    """Calls the tools of the tool file in the project, as the user of the world."""

    def __init__(self, world: World) -> None:
        self.world = world
        (world.base / "attacker.py").write_text(ATTACKER)
        (world.base / "call.py").write_text(CALL)
        (world.project / "free").mkdir()  # Landlock permits no new files beside .git
        world.give()

    def __call__(self, mechanism: str, *calls: Call) -> list[str]:
        """Call tools one after the other in a process of their own. Return what each of them returns."""
        packages = [path for path in sys.path if path.endswith("site-packages")]
        environment = {
            **self.world.environment(),
            "PYTHONPATH": os.pathsep.join([str(self.world.base), str(ROOT), *packages]),
            "SECRET_API_KEY": CANARY,
            "TMPDIR": str(self.world.temporary),
        }
        ended = subprocess.run(
            [self.world.python, str(self.world.base / "call.py"), mechanism, json.dumps(calls)],
            env=environment, cwd=self.world.project, capture_output=True, text=True,
            timeout=WAIT_S, check=False, **self.world.identity(),
        )  # fmt: skip
        assert 0 == ended.returncode, ended.stderr
        results: list[str] = json.loads(ended.stdout)
        return results


@pytest.fixture
def attacker(world: World) -> Attacker:
    """Return the attacks of a user."""
    return Attacker(world)


def test_attacks_on_files(attacker: Attacker, mechanism: str) -> None:
    """A tool writes in its folder; not outside, and not into `.git`. It cannot read keys."""
    world = attacker.world
    inside = world.project / "free/new.txt"
    targets = [world.outside / "new", world.project / ".git/hooks/pre-commit"]
    keys = [world.home / ".ssh/id_test", world.home / ".config/tinyagent/keys.toml"]
    attacks: list[Call] = [
        *(("write", {"path": str(target)}) for target in targets),
        *(("read", {"path": str(key)}) for key in keys),
    ]
    done, *failed = attacker(mechanism, ("write", {"path": str(inside)}), *attacks)
    assert ("DONE", "changed") == (done, inside.read_text())
    assert [True, True] == ["may be due to the sandbox" in shown for shown in failed[:2]], failed
    assert [False, False] == [target.exists() for target in targets]
    assert [(True, False)] * 2 == [("Errno" in shown, CANARY in shown) for shown in failed[2:]], failed
    shown = attacker("none", *attacks)
    assert (["DONE"] * 2, [True, True]) == (shown[:2], [CANARY in text for text in shown[2:]])


def test_attacks_on_processes(attacker: Attacker, mechanism: str) -> None:
    """A tool has no keys in its own environment, cannot read that of others, and cannot signal them."""
    world = attacker.world
    script = "import time; print('ready', flush=True); time.sleep(600)"
    environment = world.environment() | {"SECRET_API_KEY": CANARY}
    with subprocess.Popen(
        [world.python, "-c", script], env=environment, stdout=subprocess.PIPE, **world.identity()
    ) as victim:
        try:
            assert victim.stdout is not None
            assert b"ready\n" == victim.stdout.readline()
            attacks: list[Call] = [
                ("read", {"path": f"/proc/{victim.pid}/environ"}),
                ("read", {"path": "/proc/self/environ"}),
                ("signal", {"pid": victim.pid}),
            ]
            others, own, signalled = attacker(mechanism, *attacks)
            assert ("Errno" in others, CANARY in others) == (True, False)
            assert ("PATH=" in own, CANARY in own) == (True, False)
            if mechanism == "bubblewrap" or launcher.landlock_version() >= 6:
                assert "Errno" in signalled
            others, own, signalled = attacker("none", *attacks)
            assert (True, True, "DONE") == (CANARY in others, CANARY in own, signalled)
        finally:
            victim.kill()


def test_attacks_on_the_network(attacker: Attacker, mechanism: str) -> None:
    """A tool whose policy has no network cannot connect."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        [refused] = attacker(mechanism, ("connect", {"port": port}))
        assert "Errno" in refused
        assert ["DONE"] == attacker("none", ("connect", {"port": port}))


def test_processes_that_stay(attacker: Attacker, mechanism: str) -> None:
    """A process that a tool leaves behind in a session of its own ends with the call."""
    lock, outside = attacker.world.project / "free/lock", attacker.world.project / "free/other"
    lock.touch()
    outside.touch()
    attacker.world.give()
    assert ["DONE"] == attacker(mechanism, ("stay", {"lock": str(lock)}))
    with lock.open("a") as file:
        wait_until(lambda: _is_free(file.fileno()))
    assert ["DONE"] == attacker("none", ("stay", {"lock": str(outside)}))
    with outside.open("a") as file:
        try:
            wait_until(lambda: not _is_free(file.fileno()))
        finally:
            subprocess.run(["pkill", "-9", "-f", re.escape(str(outside))], check=False)


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True
