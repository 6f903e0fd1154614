"""The process of a command: its time limit, its signals, and its end."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.waiting import wait_until
from tinyagent.testing.server import FakeReply, Hold
from tinyagent_cli.run.lifetime import ENDING_S
from tinyagent_cli.run.process_exit import ATEXIT_S, THREADS_S

from .conftest import SECONDS, Cli, Done, Serve, read_lines

pytestmark = pytest.mark.usefixtures("new_processes")

TIMEOUT = 0.4
"""Seconds for `--timeout`. Far longer bounds below fail only on a hang."""
TOOL_TIMEOUTS = (2.5, 30.0)
"""Seconds for `--timeout` if the run must start a tool: less than `ENDING_S`, and for a busy machine."""

SLOW_IMPORT = "import time\ntime.sleep(600)\n"
SWALLOWS = (
    "while True:\n    try:\n        while True:\n            pass\n    except Exception:\n        pass\n"
)
HIDES = """
import time
from tinyagent import tool

while True:
    try:
        time.sleep(600)
    except BaseException:
        break

@tool(read_only=True)
def look() -> str:
    "Look."
    return "looked"
"""
BLOCKS_IN_C = "import ctypes\nwhile True:\n    ctypes.CDLL(None).pause()\n"
BLOCKS_THE_LOOP = """
import time
from tinyagent import tool

@tool(read_only=True)
async def block() -> str:
    "Block the event loop, and ignore everything."
    open("started", "w").close()
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass
"""
KEEPS_THE_LOCK = """
import ctypes
from tinyagent import tool

@tool(read_only=True)
def lock() -> str:
    "Lock a mutex of C for the second time, without letting another thread run."
    wait = ctypes.PyDLL(None).pthread_mutex_lock
    mutex = ctypes.create_string_buffer(256)
    open("started", "w").close()
    return str(wait(mutex) + wait(mutex))
"""


def timed_out(done: Done, timeout: float = TIMEOUT) -> None:
    """Assert that a run with `--jsonl` reports a time-out in its record, message and exit code."""
    assert (124, "run_timeout", False) == (done.code, done.result["error"]["kind"], done.result["ok"])
    assert f"longer than {timeout:g} s (--timeout)" in done.err


def run_limited(cli: Cli, *args: str, prompt: str = "Hi", timeout: float = TIMEOUT) -> Done:
    """Run a new process with a time limit and empty standard input."""
    process = cli.start("run", "--jsonl", "--timeout", str(timeout), "-m", "demo", *args, prompt)
    out, err = process.communicate(timeout=SECONDS)
    return Done(process.returncode, out.decode(), err.decode())


def run_limited_in_tool(cli: Cli, tool: str, name: str) -> tuple[Done, float]:
    """Run a tool that writes the file `started`, with a time limit that it reaches. Return the limit, too."""
    for timeout in TOOL_TIMEOUTS:
        done = run_limited(cli, "-t", tool, "-o", "run.jsonl", prompt=name, timeout=timeout)
        if (cli.work / "started").exists():
            break
    return done, timeout


# ---- one clock ---------------------------------------------------------------------------------------


def test_the_clock_runs_while_standard_input_is_open(cli: Cli) -> None:
    """`--timeout` ends a run that waits for standard input."""
    process = cli.start(
        "run", "--jsonl", "--timeout", str(TIMEOUT), "-m", "demo", "Hi", stdin=subprocess.PIPE
    )
    assert 124 == process.wait(SECONDS)
    timed_out(Done(124, process.stdout.read().decode(), process.stderr.read().decode()))


@pytest.mark.parametrize("args", [["-f", "fifo"], ["-s", "@fifo"], ["--history", "fifo"], ["-o", "fifo"]])
def test_the_clock_runs_while_a_fifo_has_no_other_end(cli: Cli, args: list[str]) -> None:
    """`--timeout` ends a run that waits for the other end of a FIFO, for every option that takes a file."""
    os.mkfifo(cli.work / "fifo")
    timed_out(run_limited(cli, *args))


@pytest.mark.parametrize("source", [SLOW_IMPORT, SWALLOWS, BLOCKS_IN_C], ids=["sleeps", "swallows", "in-c"])
def test_the_clock_runs_while_a_tool_file_is_imported(cli: Cli, source: str) -> None:
    """`--timeout` ends the import of a tool file, even if it catches exceptions or waits in C code."""
    cli.file("slow.py", source)
    timed_out(run_limited(cli, "-t", "./slow.py"))


def test_a_plugin_cannot_hide_the_end(cli: Cli) -> None:
    """The run ends before any request, even if a plugin catches the time-out."""
    cli.file("hides.py", HIDES)
    done = run_limited(cli, "-t", "./hides.py")
    timed_out(done)
    assert 0 == done.result["turns"]


def test_the_clock_runs_while_a_tool_blocks_the_event_loop(cli: Cli) -> None:
    """Another thread completes the record, `ENDING_S` after the limit."""
    cli.file("block.py", BLOCKS_THE_LOOP)
    done, timeout = run_limited_in_tool(cli, "./block.py", "block")
    timed_out(done, timeout)
    assert 1000 * ENDING_S <= done.result["duration_ms"]
    assert done.result["error"] == read_lines(cli.work / "run.jsonl")[-1]["error"]


def test_c_code_that_keeps_the_interpreter_lock_cannot_hold_up_the_exit(cli: Cli) -> None:
    """The exit code is right, and -o leaves a partial file, because no Python code can run."""
    cli.file("locks.py", KEEPS_THE_LOCK)
    done, _ = run_limited_in_tool(cli, "./locks.py", "lock")
    assert 124 == done.code
    assert "tool_execution_start" == done.lines[-1]["type"]
    partial = next(cli.work.glob("run.jsonl.*.partial"))
    assert "session" == json.loads(partial.read_bytes().splitlines()[0])["type"]


def test_the_configured_limit_counts_from_the_start(cli: Cli) -> None:
    """`[run] timeout` includes the preparation, and the message names it."""
    cli.config(f"[run]\ntimeout = {TIMEOUT}\n")
    cli.file("slow.py", SLOW_IMPORT)
    done = cli("run", "-m", "demo", "-t", "./slow.py", "Hi")
    assert (124, True) == (done.code, "timeout under [run]" in done.err)


@pytest.mark.parametrize("seconds", ["inf", "1e300", "1e9"])
def test_a_limit_that_is_never_reached(cli: Cli, seconds: str) -> None:
    """Infinity and very long times are no limit."""
    assert 0 == cli("run", "-m", "demo", "--timeout", seconds, "Hi").code


def test_limits_that_make_no_sense(cli: Cli, serve: Serve) -> None:
    """NaN, zero and negative limits are usage errors; a millisecond is a limit."""
    assert [2, 2, 2] == [
        cli("run", "-m", "demo", "--timeout", text, "Hi").code for text in ("nan", "0", "-1")
    ]
    serve(FakeReply([Hold()]))
    assert 124 == cli("run", "-m", "local/m", "--timeout", "0.001", "Hi").code


# ---- signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_tool_file_is_imported(cli: Cli, signum: int, code: int) -> None:
    """The record is complete, and there is no traceback."""
    cli.file("slow.py", "open('started', 'w').close()\n" + SLOW_IMPORT)
    process = cli.start("run", "--jsonl", "-m", "demo", "-t", "./slow.py", "Hi")
    wait_until((cli.work / "started").exists)
    process.send_signal(signum)
    out, err = process.communicate(timeout=SECONDS)
    done = Done(process.returncode, out.decode(), err.decode())
    assert (code, code, "interrupted") == (done.code, done.result["exit_code"], done.result["error"]["kind"])
    assert "Traceback" not in done.err


def test_two_signals_kill_while_c_code_keeps_the_interpreter_lock(cli: Cli) -> None:
    """A second signal kills the process, even if no Python code can run."""
    cli.file("locks.py", KEEPS_THE_LOCK)
    process = cli.start("run", "-m", "demo", "-t", "./locks.py", "lock")
    wait_until((cli.work / "started").exists)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    assert -signal.SIGINT == process.returncode


INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupts:
    "Sends SIGINT when a module of this name is about to be imported."
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
sys.argv = ["tinyagent", "run", "--jsonl", "-m", "demo", "Hi"]
from tinyagent_cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "name",
    ["tinyagent_cli.dispatch", "click", "tinyagent_cli.commands.run", "tinyagent_cli.run.driver", "msgspec"],
)
def test_ctrl_c_while_modules_are_imported(cli: Cli, name: str) -> None:
    """Ctrl-C during imports exits with 130, without a traceback.

    Once the options of a run are parsed, its record is complete, too.
    """
    script = cli.file("interrupted.py", INTERRUPTED_IMPORT.format(name=name))
    done = cli.shell(f'"$PYTHON" -P {script}')
    assert 130 == done.code
    if name in ("tinyagent_cli.run.driver", "msgspec"):
        assert ("interrupted", "Interrupted.\n") == (done.result["error"]["kind"], done.err)
    else:
        assert ("", "") == (done.out, done.err)


FORKS = """
import os, signal, time
from tinyagent import tool

@tool(read_only=True)
def fork() -> str:
    "End a child process by SIGTERM."
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(1)
    os.kill(child, signal.SIGTERM)
    return f"ended by {os.WTERMSIG(os.waitpid(child, 0)[1])}"
"""


def test_signals_of_a_tools_children_are_their_own(cli: Cli) -> None:
    """SIGTERM ends a child process of a tool, and the run continues."""
    cli.file("forks.py", FORKS)
    done = cli.shell("$T run -m demo -t ./forks.py fork")
    assert (0, "fork: ended by 15\n") == (done.code, done.out)


# ---- the end of the process -----------------------------------------------------------------------------

LEFT_RUNNING = '''
import asyncio, atexit, concurrent.futures, multiprocessing, sys, threading, time
from tinyagent import tool

pool = concurrent.futures.ThreadPoolExecutor(1)
forks = multiprocessing.get_context("fork")
atexit.register(lambda: open("atexit", "w").close())

@tool(read_only=True)
def submit() -> str:
    """Leave a pool's thread running."""
    pool.submit(time.sleep, 600)
    return "done"

@tool(read_only=True)
def thread() -> str:
    """Leave a thread running that is no daemon."""
    threading.Thread(target=time.sleep, args=(600,), daemon=False).start()
    return "done"

@tool(read_only=True)
async def executor() -> str:
    """Leave a thread of the event loop's own pool running."""
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
    return "done"

@tool(read_only=True)
async def task() -> str:
    """Leave a task running in the loop."""
    global left
    left = asyncio.ensure_future(asyncio.sleep(600))
    return "done"
'''


@pytest.mark.parametrize("name", ["submit", "thread", "executor", "task"])
def test_what_a_tool_left_running_does_not_hold_up_the_exit(cli: Cli, name: str) -> None:
    """The process exits with its code after the `atexit` functions, even if threads still run."""
    cli.file("left.py", LEFT_RUNNING)
    process = cli.start("run", "--jsonl", "-m", "demo", "-t", f"./left.py:{name}", name)
    out, err = process.communicate(timeout=SECONDS)
    done = Done(process.returncode, out.decode(), err.decode())
    assert (0, f"{name}: done") == (done.code, done.result["text"])
    assert (cli.work / "atexit").exists()


def test_the_interpreter_is_not_taken_apart(cli: Cli) -> None:
    """The process exits after the `atexit` functions. A thread that wakes up later could crash Python."""
    cli.file(
        "end.py",
        "import atexit, sys\nfrom tinyagent import tool\n"
        "class Last:\n    def __del__(self): open('taken apart', 'w').close()\n"
        "last = Last()\natexit.register(print, 'atexit', file=sys.stderr)\n" + LOOK,
    )
    done = cli.start("run", "-q", "-m", "demo", "-t", "./end.py", "look")
    _, err = done.communicate(timeout=SECONDS)
    assert (0, b"atexit\n") == (done.returncode, err)
    assert not (cli.work / "taken apart").exists()


@pytest.mark.parametrize("command", ["run -q -m demo -t ./bye.py look", "tools call ./bye.py:look"])
def test_an_atexit_function_that_hangs_is_given_up(cli: Cli, command: str) -> None:
    """The process exits `ATEXIT_S` later, with the same exit code."""
    cli.file("bye.py", HIDES.split("while")[0] + "import atexit\natexit.register(time.sleep, 600)\n" + LOOK)
    done = cli.shell(f"$T {command}")
    assert (0, True) == (done.code, "looked" in done.out)
    assert THREADS_S + ATEXIT_S < SECONDS


LOOK = """
@tool(read_only=True)
def look() -> str:
    "Look."
    return "looked"
"""

CHILD = """
import multiprocessing, time
from tinyagent import tool

@tool(read_only=True)
def work() -> str:
    "Start a worker process."
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    child.start()
    open("child", "w").write(str(child.pid))
    return "started"
"""


def test_worker_processes_do_not_outlive_the_run(cli: Cli) -> None:
    """Worker processes of `multiprocessing` are killed at the end."""
    cli.file("child.py", CHILD)
    assert (0, "work: started\n") == cli.shell("$T run -m demo -t ./child.py work")[:2]
    child = int((cli.work / "child").read_text())
    state = Path(f"/proc/{child}/stat")

    def runs() -> bool:
        try:
            return ") Z " not in state.read_text()
        except (FileNotFoundError, ProcessLookupError):  # The second if it ends while it is read.
            return False

    wait_until(lambda: not runs(), "the end of the worker process")  # Init may take a moment to collect it.


# ---- memory ------------------------------------------------------------------------------------------

LOOKS_AT_ITSELF = """
import ctypes, resource, subprocess, sys
from tinyagent import tool

@tool(read_only=True)
def look() -> str:
    "How this process, and a child process, are protected."
    child = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"
    shown = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout.strip()
    return f"{ctypes.CDLL(None).prctl(3)} {resource.getrlimit(resource.RLIMIT_CORE)[0]} {shown}"
"""


@pytest.mark.parametrize("command", ["run -m demo -t ./looks.py look", "tools call ./looks.py"])
def test_memory_with_keys_is_not_dumped(cli: Cli, command: str) -> None:
    """The process is not dumpable (3: PR_GET_DUMPABLE), and children write no core files by default."""
    cli.file("looks.py", LOOKS_AT_ITSELF)
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    done = cli.shell(f"$T {command}")
    assert f"0 0 (0, {most})" == done.out.strip().removeprefix("look: ")
