"""The process of a command: one clock, standard streams that plugins do not have, and an end in time."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tinyagent_cli.run.lifetime import ENDING_S
from tinyagent_cli.run.process_exit import ATEXIT_S, THREADS_S

from .conftest import SECONDS, Cli, Done

TIMEOUT = 0.4
"""Seconds for `--timeout`. Far longer bounds below fail only on a hang."""

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
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass
"""
KEEPS_THE_LOCK = """
import re
from tinyagent import tool

@tool(read_only=True)
def match() -> str:
    "Match a pattern that takes for ever, without letting another thread run."
    return str(re.match(r"(a+)+$", "a" * 64 + "b"))
"""


def timed_out(done: Done) -> None:
    """Assert that a run with `--jsonl` says in every way that its time was over."""
    assert (124, "run_timeout", False) == (done.code, done.result["error"]["kind"], done.result["ok"])
    assert f"longer than {TIMEOUT} s (--timeout)" in done.err


def run_limited(cli: Cli, *args: str, prompt: str = "Hi") -> Done:
    """A real process with a time limit; standard input is empty."""
    process = cli.start("run", "--jsonl", "--timeout", str(TIMEOUT), "-m", "demo", *args, prompt)
    out, err = process.communicate(timeout=SECONDS)
    return Done(process.returncode, out.decode(), err.decode())


# ---- one clock ---------------------------------------------------------------------------------------


def test_the_clock_runs_while_standard_input_is_open(cli: Cli) -> None:
    """`--timeout` ends a run whose standard input nobody closes."""
    process = cli.start(
        "run", "--jsonl", "--timeout", str(TIMEOUT), "-m", "demo", "Hi", stdin=subprocess.PIPE
    )
    assert 124 == process.wait(SECONDS)
    timed_out(Done(124, process.stdout.read().decode(), process.stderr.read().decode()))


@pytest.mark.parametrize("args", [["-f", "fifo"], ["-s", "@fifo"], ["--history", "fifo"], ["-o", "fifo"]])
def test_the_clock_runs_while_a_fifo_has_no_other_end(cli: Cli, args: list[str]) -> None:
    """Opening a FIFO waits for its other end, for every option that takes a file."""
    os.mkfifo(cli.work / "fifo")
    timed_out(run_limited(cli, *args))


@pytest.mark.parametrize("source", [SLOW_IMPORT, SWALLOWS, BLOCKS_IN_C], ids=["sleeps", "swallows", "in-c"])
def test_the_clock_runs_while_a_tool_file_is_imported(cli: Cli, source: str) -> None:
    """Also if the file catches what it can, or waits outside of Python."""
    cli.file("slow.py", source)
    timed_out(run_limited(cli, "-t", "./slow.py"))


def test_a_plugin_cannot_hide_the_end(cli: Cli) -> None:
    """A file that catches everything once and goes on: the run ends all the same, before any request."""
    cli.file("hides.py", HIDES)
    done = run_limited(cli, "-t", "./hides.py")
    timed_out(done)
    assert 0 == done.result["turns"]


def test_the_clock_runs_while_a_tool_blocks_the_event_loop(cli: Cli) -> None:
    """The record gets its result line from another thread, `ENDING_S` after the limit."""
    cli.file("block.py", BLOCKS_THE_LOOP)
    done = run_limited(cli, "-t", "./block.py", "-o", "run.jsonl", prompt="block")
    timed_out(done)
    assert 1000 * ENDING_S <= done.result["duration_ms"]
    assert done.result["error"] == json.loads((cli.work / "run.jsonl").read_bytes().splitlines()[-1])["error"]


def test_c_code_that_keeps_the_interpreter_lock_cannot_hold_up_the_exit(cli: Cli) -> None:
    """No Python can run, so the record stays open; the exit code is right, and -o leaves a partial file."""
    cli.file("match.py", KEEPS_THE_LOCK)
    done = run_limited(cli, "-t", "./match.py", "-o", "run.jsonl", prompt="match")
    assert 124 == done.code
    assert "tool_execution_start" == done.lines[-1]["type"]
    partial = next(cli.work.glob("run.jsonl.*.partial"))
    assert "session" == json.loads(partial.read_bytes().splitlines()[0])["type"]


def test_the_configured_limit_counts_from_the_start(cli: Cli) -> None:
    """`[run] timeout` holds during the preparation, too, and the message names it."""
    cli.config(f"[run]\ntimeout = {TIMEOUT}\n")
    cli.file("slow.py", SLOW_IMPORT)
    done = cli("run", "-m", "demo", "-t", "./slow.py", "Hi")
    assert (124, True) == (done.code, "timeout under [run]" in done.err)


@pytest.mark.parametrize("seconds", ["inf", "1e300", "1e9"])
def test_a_limit_that_is_never_reached(cli: Cli, seconds: str) -> None:
    """Infinity, and what no clock reaches, are no limit."""
    assert 0 == cli("run", "-m", "demo", "--timeout", seconds, "Hi").code


def test_limits_that_make_no_sense(cli: Cli) -> None:
    """Not a number, zero and less are usage errors; a millisecond is over before the run starts."""
    assert [2, 2, 2] == [
        cli("run", "-m", "demo", "--timeout", text, "Hi").code for text in ("nan", "0", "-1")
    ]
    assert 124 == cli("run", "-m", "demo", "--timeout", "0.001", "Hi").code


# ---- signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_tool_file_is_imported(cli: Cli, signum: int, code: int) -> None:
    """The record is closed, and there is no traceback."""
    cli.file("slow.py", "open('started', 'w').close()\n" + SLOW_IMPORT)
    process = cli.start("run", "--jsonl", "-m", "demo", "-t", "./slow.py", "Hi")
    while not (cli.work / "started").exists():
        time.sleep(0.01)
    process.send_signal(signum)
    out, err = process.communicate(timeout=SECONDS)
    done = Done(process.returncode, out.decode(), err.decode())
    assert (code, code, "interrupted") == (done.code, done.result["exit_code"], done.result["error"]["kind"])
    assert "Traceback" not in done.err


def test_two_signals_kill_while_c_code_keeps_the_interpreter_lock(cli: Cli) -> None:
    """No handler of Python can run; the second signal does not need one."""
    cli.file("match.py", KEEPS_THE_LOCK.replace("return str", "open('started', 'w').close()\n    return str"))
    process = cli.start("run", "-m", "demo", "-t", "./match.py", "match")
    while not (cli.work / "started").exists():
        time.sleep(0.01)
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
    """From the first line of `main` on: exit code 130, and never a traceback.

    Once the options of a run are read, its record is closed, too.
    """
    script = cli.file("interrupted.py", INTERRUPTED_IMPORT.format(name=name))
    done = cli.shell(f"{cli.command()[0]} -P {script}")
    assert 130 == done.code
    if name in ("tinyagent_cli.run.driver", "msgspec"):
        assert ("interrupted", "Error: Interrupted.\n") == (done.result["error"]["kind"], done.err)
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
    """A child process that a tool forks dies of SIGTERM, and the run goes on."""
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
    """The process leaves with its exit code, and functions registered with `atexit` have run."""
    cli.file("left.py", LEFT_RUNNING)
    process = cli.start("run", "--jsonl", "-m", "demo", "-t", f"./left.py:{name}", name)
    out, err = process.communicate(timeout=SECONDS)
    done = Done(process.returncode, out.decode(), err.decode())
    assert (0, f"{name}: done") == (done.code, done.result["text"])
    assert (cli.work / "atexit").exists()


@pytest.mark.parametrize("command", ["run -q -m demo -t ./bye.py look", "tools call ./bye.py:look"])
def test_an_atexit_function_that_hangs_is_given_up(cli: Cli, command: str) -> None:
    """After `ATEXIT_S` the process exits, with the code that was decided."""
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
    """A process of `multiprocessing` that still works when the time to exit is over is killed."""
    cli.file("child.py", CHILD)
    assert (0, "work: started\n") == cli.shell("$T run -m demo -t ./child.py work")[:2]
    child = int((cli.work / "child").read_text())
    for _ in range(100):  # init may take a moment to collect it
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or ") Z " in state.read_text():
            return
        time.sleep(0.05)
    pytest.fail("the worker process is still there")


# ---- standard streams ------------------------------------------------------------------------------------

READS_STDIN = """
import subprocess, sys
from tinyagent import tool

imported = sys.stdin.read() + subprocess.run(["cat"], capture_output=True, text=True).stdout

@tool(read_only=True)
def read() -> str:
    "Read standard input, here and in a child process."
    child = subprocess.run(["cat"], capture_output=True, text=True).stdout
    return repr(imported + sys.stdin.read() + child)
"""


@pytest.mark.parametrize("command", ["run -q --no-stdin -m demo -t ./reads.py read", "tools call ./reads.py"])
def test_plugins_have_no_standard_input(cli: Cli, command: str) -> None:
    """Neither a plugin nor its children read ours, so a shell's `while read` loop keeps its lines."""
    cli.file("reads.py", READS_STDIN)
    done = cli.shell(f"printf 'a\\nb\\n' | while read line; do $T {command} > \"$line\"; done; cat a b")
    assert (0, 2) == (done.code, done.out.count("''"))


def test_a_plugin_that_reads_while_it_is_imported_takes_nothing_of_the_prompt(cli: Cli) -> None:
    """Standard input still stands before the prompt, whole."""
    cli.file("reads.py", READS_STDIN)
    done = cli.shell("printf 'from the pipe' | $T run -q -m demo -t ./reads.py 'Say it.'")
    assert "You said: from the pipe Say it." in done.out


PRINTS = """
import atexit, os, subprocess
from tinyagent import tool

def shout(text):
    print(text)
    os.write(1, text.encode() + b"\\n")
    subprocess.run(["echo", text])

shout("at import")
atexit.register(shout, "at exit")

@tool(read_only=True)
def look() -> str:
    "Look."
    shout("in a call")
    return "looked"
"""


@pytest.mark.parametrize(
    "command",
    [
        "run --jsonl -m demo -t ./prints.py look",
        "run -m demo -t ./prints.py look",
        "tools call ./prints.py:look",
        "tools call --json ./prints.py:look",
        "tools show ./prints.py",
        "tools show --json ./prints.py",
    ],
)
def test_what_plugins_print_goes_to_standard_error(cli: Cli, command: str) -> None:
    """At import, in a call and at exit; by Python, by descriptor and by a child process."""
    cli.file("prints.py", PRINTS)
    done = cli.shell(f"$T {command}")
    assert (0, 0, 0) == (done.code, done.out.count("at import"), done.out.count("at exit"))
    assert (3, 3) == (done.err.count("at import"), done.err.count("at exit"))
    assert "in a call" not in done.out


EVERY_COMMAND = [
    "--version",
    "--help",
    "run --help",
    "models list",
    "models list --json",
    "tools list",
    "tools show ./mytools.py",
    "tools show --json ./mytools.py",
    "tools call ./mytools.py:look",
    "plugins list",
    "plugins list --check --json",
    "approvals list",
    "doctor",
    "schema events",
    "completion bash",
    "run -q -m demo Hi",
    "run -q --jsonl -m demo Hi",
]


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_a_full_disk_is_one_clear_error(cli: Cli, command: str) -> None:
    """Exit code 1 and one message, also where Python does not buffer, as in most containers."""
    cli.file("mytools.py", "from tinyagent import tool\n" + LOOK)
    done = cli.shell(f"$T {command} > /dev/full", PYTHONUNBUFFERED="1")
    if command == "approvals list" and not done.err.startswith("Error"):
        return  # nothing to write
    assert 1 == done.code, done.err
    assert "annot write to standard output: No space left on device" in done.err
    assert 1 == done.err.count("Error")


@pytest.mark.parametrize("command", ["approvals list", "tools", "schema", "models", "run -m demo Hi"])
def test_messages_that_cannot_be_written_change_no_exit_code(cli: Cli, command: str) -> None:
    """What standard error would show is no output of the command: a full disk there is no failure."""
    code = cli.shell(f"$T {command} > /dev/null 2> /dev/null").code
    assert code == cli.shell(f"$T {command} > /dev/null 2> /dev/full", PYTHONUNBUFFERED="1").code


CLOSES = """
import sys
from tinyagent import tool

@tool(read_only=True)
def work() -> str:
    "Close the standard streams."
    sys.stdout.close()
    sys.stderr.close()
    return "closed"
"""


def test_a_plugin_that_closes_the_standard_streams_changes_no_exit_code(cli: Cli) -> None:
    """The reply was written to a stream of our own, and the record says the same as the exit code."""
    cli.file("closes.py", CLOSES)
    done = cli.shell("$T run --jsonl -m demo -t ./closes.py work")
    assert (0, 0, True) == (done.code, done.result["exit_code"], done.result["ok"])


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_closed_standard_streams_cause_no_traceback(cli: Cli, command: str) -> None:
    """Standard output closed is an error, never a silent success; the others are not needed."""
    cli.file("mytools.py", "from tinyagent import tool\n" + LOOK)
    done = cli.shell(f"$T {command} >&-")
    assert (2, "Error: Standard output is closed.") == (done.code, done.err.splitlines()[0])
    for closed in ("2>&-", "<&-", "<&- 2>&-"):
        done = cli.shell(f"$T {command} {closed}")
        assert done.code in ((0, 1, 3) if command == "doctor" else (0,)), done.err
        assert "Error" not in done.err


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_a_reader_that_left_causes_no_message(cli: Cli, command: str) -> None:
    """As `tinyagent … | true`: quiet, also where Python does not buffer."""
    cli.file("mytools.py", "from tinyagent import tool\n" + LOOK)
    done = cli.shell(f"set +o pipefail; (sleep 0.05; $T {command}) | true", PYTHONUNBUFFERED="1")
    assert "Error" not in done.err
    assert "Traceback" not in done.err


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
    """The process is not dumpable (3: PR_GET_DUMPABLE). Children write no core files unless they ask to."""
    cli.file("looks.py", LOOKS_AT_ITSELF)
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    done = cli.shell(f"$T {command}")
    assert f"0 0 (0, {most})" == done.out.strip().removeprefix("look: ")
