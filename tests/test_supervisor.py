"""`tinyagent.supervisor`: a program ends together with every process that it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tinyagent.supervisor import supervised_command

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no supervisor for this system")

PATIENCE_S = 60
SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
COMMAND = f"[sys.executable, '-c', {SLEEPER!r}]"
PARENT = f"import subprocess, sys; subprocess.run({COMMAND}, start_new_session=True)"


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


@contextmanager
def stand_in(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program below a supervisor that replaces it."""
    command = supervised_command(python(code))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("code", "exit_code"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 128 + 9)]
)
def test_the_exit_code_is_that_of_the_program(code: str, exit_code: int) -> None:
    """Without a status pipe, the supervisor exits like the program, with 128 + N for a signal."""
    with stand_in(code) as process:
        assert exit_code == process.wait(PATIENCE_S)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can adopt orphans")
@pytest.mark.parametrize("how", ["lifeline", "signal"])
def test_processes_in_other_sessions_end_too(how: str) -> None:
    """The end of the lifeline, or SIGTERM, ends a grandchild that left the session."""
    with stand_in(PARENT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert b"up\n" == process.stdout.readline()
        if how == "lifeline":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        # The grandchild has the pipe open, so the output ends when it ends.
        assert b"" == process.stdout.read()


def test_the_status_pipe_gets_the_process_id_and_the_exit_code() -> None:
    """A supervisor with a status pipe reports, and ends when the lifeline closes."""
    lifeline, our_end = os.pipe()
    status, status_end = os.pipe()
    command = supervised_command(python("raise SystemExit(7)"), lifeline=lifeline, status=status_end)
    with subprocess.Popen(command, pass_fds=(lifeline, status_end), start_new_session=True) as process:
        os.close(lifeline)
        os.close(status_end)
        with os.fdopen(status) as lines:
            assert int(lines.readline()) > 0
            assert "7\n" == lines.readline()
            assert process.poll() is None
            os.close(our_end)
        assert 0 == process.wait(PATIENCE_S)


def test_an_unknown_program_is_an_error_of_the_program() -> None:
    """A program that cannot be started has the exit code 127, and the reason is on standard error."""
    done = subprocess.run(
        supervised_command(["/nowhere/program"]),
        stdin=subprocess.PIPE, capture_output=True, check=False, timeout=PATIENCE_S, start_new_session=True,
    )  # fmt: skip
    assert (127, b"/nowhere/program: No such file or directory\n") == (done.returncode, done.stderr)


def test_without_a_supervisor_the_command_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no Python executable is known, the program is started without a supervisor."""
    monkeypatch.setattr(sys, "executable", "")
    assert ["program", "x"] == supervised_command(("program", "x"))
