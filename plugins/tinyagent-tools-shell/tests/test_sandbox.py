"""`bash` in the sandbox: what it holds together with the supervisor, time limits and results."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyagent import AgentToolResult, ToolError, sandbox
from tinyagent.errors import ConfigurationError
from tinyagent.sandbox import Sandbox, SandboxSettings, find_sandbox
from tinyagent.testing.contract import advance_clock
from tinyagent_tools_shell import shell_tool

Bash = Callable[..., Awaitable[AgentToolResult]]

LIMIT_S = 60

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is a sandbox only on Linux")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the working directory, next to an empty home folder. It is not in /tmp, which is private."""
    base = Path(tempfile.mkdtemp(prefix="tinyagent-shell-", dir="/var/tmp")).resolve()
    (base / "here/sub").mkdir(parents=True)
    (base / "home").mkdir()
    monkeypatch.setenv("HOME", str(base / "home"))
    yield base / "here"
    shutil.rmtree(base)


@pytest.fixture(params=["bubblewrap", "landlock"])
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return a mechanism, which is the only one here."""
    if request.param == "landlock":
        which = shutil.which
        monkeypatch.setattr(sandbox.shutil, "which", lambda name: None if name == "bwrap" else which(name))
    sandbox._working_mechanism.cache_clear()
    found = find_sandbox().mechanism
    if found != request.param:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{request.param} does not work, and CI must test the sandbox")
        pytest.skip(f"{request.param} does not work here")
    yield found
    sandbox._working_mechanism.cache_clear()


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine have no sandbox."""
    monkeypatch.setattr(sandbox, "_working_mechanism", lambda: ("none", "bubblewrap is not installed", ()))


def bash(here: Path, settings: SandboxSettings | None = None, *, can_leave: bool = True) -> Bash:
    """Return a function that runs a command."""
    execute = shell_tool(here, sandbox=settings, can_leave_sandbox=can_leave).execute
    assert execute is not None

    async def run(command: str, *, stop: asyncio.Event | None = None, **more: Any) -> AgentToolResult:
        arguments = {"command": command, "timeout": LIMIT_S, **more}
        return await execute("call", arguments, stop, lambda partial: None)

    return run


def text(result: AgentToolResult) -> str:
    """Return the text that the model gets."""
    part = result.content[0]
    assert part["type"] == "text"
    return part["text"]


def left(mark: str) -> list[str]:
    """Return the command lines of the processes that have `mark` in them."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if mark in line:
                found.append(line)
    return found


# ---- results --------------------------------------------------------------------------------------------


async def test_a_command_works_in_its_folder_and_nowhere_else(here: Path, mechanism: str) -> None:
    """It changes the working directory, and the result says what held."""
    result = await bash(here)("echo x > new; cat new; echo x > ../outside", cwd="sub")
    assert (here / "sub/new").exists()
    assert text(result).startswith("x\n")
    assert (here / "outside").exists()  # `..` of `sub` is the working directory
    result = await bash(here)("echo x > ../outside")
    assert not (here.parent / "outside").exists()
    assert mechanism == result.details["sandbox"]["mechanism"]
    assert result.details["sandbox"]["network"] is False
    assert str(here) in result.details["sandbox"]["text"]


async def test_a_failure_that_the_sandbox_may_have_caused_says_so(here: Path, mechanism: str) -> None:
    """The note quotes the message, says what holds and how to ask. Other failures have no such note."""
    result = text(await bash(here)("echo x > ../outside"))
    assert f"may be due to the sandbox. In a sandbox ({mechanism}): writes only in {here}" in result
    assert "call bash again with without_sandbox=true; the user is then asked.]" in result
    assert "sandbox" not in text(await bash(here)("echo problem; exit 3"))
    assert "sandbox" not in text(await bash(here)("echo Permission denied"))
    assert "tell the user.]" in text(await bash(here, can_leave=False)("echo x > ../outside"))


async def test_the_exit_code_and_the_output_are_those_of_the_command(here: Path, mechanism: str) -> None:
    """With its standard error, and with what a process substitution writes at the end."""
    result = await bash(here)("echo one; echo two >&2; echo three > >(sleep 0.1; cat); exit 5")
    assert ["one", "two", "three"] == sorted(text(result).split("\n")[:3], key="one two three".index)
    assert 5 == result.details["exit_code"]


async def test_new_repositories_are_reported(here: Path, mechanism: str) -> None:
    """Also one that is made by pieces, because Git runs programs that its configuration names."""
    made = text(await bash(here)("mkdir -p sub/.git/objects sub/.git/refs; echo > sub/.git/HEAD"))
    assert (
        f"[the command has created {here}/sub/.git; Git runs programs that its configuration names]" in made
    )
    again = text(await bash(here)("echo x > sub/.git/config; true"))
    assert "has created" not in again
    assert not (here / "sub/.git/config").exists()


async def test_temporary_files_last_and_the_real_ones_are_out_of_sight(here: Path, mechanism: str) -> None:
    """The commands of a tool share a private folder."""
    run = bash(here)
    await run('echo kept > "$TMPDIR/note"')
    assert text(await run('cat "$TMPDIR/note"')) == "kept\n"
    assert "note" not in text(await bash(here)('ls "$TMPDIR"')).split()


async def test_saved_output_can_be_read_by_the_next_command(here: Path, mechanism: str) -> None:
    """The file lies in the real `/tmp`, and later commands see it at its path."""
    run = bash(here)
    saved = await run("seq 3", save_output=True)
    path = saved.details["output_file"]
    try:
        assert "1\n2\n3\n" == text(await run(f"cat {path}"))
        await run(f"echo x >> {path}")
        assert "1\n2\n3\n" == Path(path).read_text()
    finally:
        Path(path).unlink()


async def test_the_environment_has_no_secrets(
    here: Path, mechanism: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without a sandbox; neither do the environments of other processes have them."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-CANARY-0123456789")
    seen = text(await bash(here)("env; cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"))
    assert "PATH=" in seen
    assert "CANARY" not in seen


# ---- settings -------------------------------------------------------------------------------------------


async def test_further_folders_and_the_network(here: Path, mechanism: str) -> None:
    """`writable` and `network` of the settings."""
    more = here.parent / "more"
    more.mkdir()
    settings = SandboxSettings(writable=(str(more),), network=True)
    result = await bash(here, settings)("echo x > ../more/file")
    assert (more / "file").exists()
    assert result.details["sandbox"]["network"] is True
    assert "; network;" in result.details["sandbox"]["text"]


async def test_without_the_sandbox(here: Path, mechanism: str) -> None:
    """A call that leaves the sandbox has no limits, and its result says so."""
    result = await bash(here)("echo x > ../outside", without_sandbox=True)
    assert (here.parent / "outside").exists()
    assert {"mechanism": "none", "text": "left for this call"} == result.details["sandbox"]


async def test_a_program_that_uses_the_tool_decides_whether_calls_may_leave(
    here: Path, mechanism: str
) -> None:
    """Without `can_leave_sandbox` the argument is not offered, and it has no effect."""
    assert "without_sandbox" not in shell_tool(here).parameters["properties"]
    await bash(here, can_leave=False)("echo x > ../outside", without_sandbox=True)
    assert not (here.parent / "outside").exists()


def test_what_confines_a_call(here: Path, mechanism: str) -> None:
    """Approvals learn whether a call leaves the sandbox, and with which arguments it would."""
    tool = shell_tool(here, can_leave_sandbox=True)
    assert tool.sandbox is not None
    inside = tool.sandbox({"command": "make"})
    assert (True, False) == (inside.active, inside.leaves)
    assert {"command": "make", "without_sandbox": True} == inside.outside
    outside = tool.sandbox({"command": "make", "without_sandbox": True})
    assert (False, True, None) == (outside.active, outside.leaves, outside.outside)
    assert "all your permissions" in outside.text


async def test_a_machine_without_a_sandbox(here: Path, nothing: None) -> None:
    """Commands run, the first result says so, and no call has anything to leave."""
    run = bash(here)
    assert "[There is no sandbox: bubblewrap is not installed]" in text(await run("true"))
    assert "sandbox" not in text(await run("true"))
    tool = shell_tool(here, can_leave_sandbox=True)
    assert tool.sandbox is not None
    confined = tool.sandbox({"command": "make", "without_sandbox": True})
    assert (False, False) == (confined.active, confined.leaves)
    assert "There is no sandbox: bubblewrap is not installed." in confined.text


def test_a_required_sandbox(here: Path, nothing: None) -> None:
    """Without one there is no tool."""
    with pytest.raises(ConfigurationError, match="A sandbox is required") as raised:
        shell_tool(here, sandbox=SandboxSettings("required"))
    assert "Install bubblewrap" in str(raised.value.hint)


async def test_the_sandbox_is_turned_off(here: Path) -> None:
    """The argument is not offered, and nothing is said."""
    tool = shell_tool(here, sandbox=SandboxSettings("off"), can_leave_sandbox=True)
    assert "without_sandbox" not in tool.parameters["properties"]
    assert tool.sandbox is None
    result = await bash(here, SandboxSettings("off"))("echo x > ../outside")
    assert (here.parent / "outside").exists()
    assert "sandbox" not in text(result)


async def test_a_sandbox_that_cannot_be_started_runs_nothing(
    here: Path, mechanism: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example if the folder for temporary files cannot be created."""

    def fail(self: Sandbox) -> str:
        raise OSError(28, "No space left on device")

    run = bash(here)
    await run("true")
    monkeypatch.setattr(Sandbox, "_private_folder", fail)
    with pytest.raises(ToolError, match="No space left on device"):
        await run("touch started")
    assert not (here / "started").exists()


# ---- the end --------------------------------------------------------------------------------------------

DETACHED = (
    "(setsid nohup sh -c 'trap \"\" TERM HUP; echo > ready1; sleep {mark}' >/dev/null 2>&1 &) ; "
    "( ( sleep {mark} & ) & ) ; sleep {mark} & until [ -e ready1 ]; do sleep 0.01; done"
)
"""A command that leaves processes behind: in another session, after a double fork, and in the background."""


async def test_nothing_outlives_a_command(here: Path, mechanism: str) -> None:
    """Processes in another session, after a double fork and in the background end, and are listed."""
    mark = "987.25"
    result = await bash(here)(DETACHED.format(mark=mark))
    assert [] == left(mark)
    assert result.details["killed"]
    assert "bwrap" not in {process["name"] for process in result.details["killed"]}


@pytest.mark.parametrize("how", ["timeout", "aborted", "cancelled"])
async def test_nothing_outlives_an_early_end(here: Path, mechanism: str, how: str) -> None:
    """After a time-out, an abort and a cancellation."""
    mark, stop = f"98{['timeout', 'aborted', 'cancelled'].index(how)}.5", asyncio.Event()
    command = DETACHED.format(mark=mark) + f"; touch ready; sleep {mark}"
    running = asyncio.ensure_future(bash(here)(command, stop=stop))
    while not (here / "ready").exists():
        await asyncio.sleep(0.01)
    if how == "timeout":
        advance_clock(LIMIT_S)
    elif how == "aborted":
        stop.set()
    else:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    if how != "cancelled":
        assert how == (await running).details["ended_by"]
    assert [] == left(mark)


async def test_commands_do_not_outlive_an_agent_that_is_killed(here: Path, mechanism: str) -> None:
    """After SIGKILL of the agent, all processes of its command end."""
    mark = "986.75"
    program = (
        "import asyncio, shutil, sys\nfrom tinyagent import sandbox\n"
        "from tinyagent_tools_shell import shell_tool\n"
        "which = shutil.which\n"
        "sandbox.shutil.which = lambda name: None if name == sys.argv[1] else which(name)\n"
        "asyncio.run(shell_tool().execute('c', {'command': sys.argv[2]}, None, lambda partial: None))\n"
    )
    hidden = "bwrap" if mechanism == "landlock" else "-"
    command = DETACHED.format(mark=mark) + f"; touch ready; sleep {mark}"
    agent = subprocess.Popen([sys.executable, "-c", program, hidden, command], cwd=here)
    while not (here / "ready").exists():
        await asyncio.sleep(0.01)
    agent.kill()
    agent.wait()
    while left(mark):
        await asyncio.sleep(0.01)


async def test_the_supervisor_cannot_be_killed_by_its_command(here: Path, mechanism: str) -> None:
    """A signal to the parent does not arrive, and the command goes on."""
    result = await bash(here)('kill -9 "$PPID" || true; echo "still here"')
    assert "still here" in text(result)
    assert 0 == result.details["exit_code"]
