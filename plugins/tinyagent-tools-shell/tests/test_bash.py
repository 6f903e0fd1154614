"""`bash`: results, output, environment, and the end of all processes. Each command ends by itself."""

# ruff: noqa: PTH208
from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import tinyagent_tools_shell
from tinyagent import AgentTool, AgentToolResult, ToolError
from tinyagent.sandbox import SandboxSettings
from tinyagent.testing.contract import advance_clock
from tinyagent_tools_shell import _output, _run, _saving, shell_tool
from tinyagent_tools_shell._environment import MARK, command_environment
from tinyagent_tools_shell._output import Output

Bash = Callable[..., Awaitable[AgentToolResult]]

LIMIT_S = 60
"""No command takes this long, unless the test moves the clock of the loop: see `timed_out`."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return the working directory."""
    folder = tmp_path / "here"
    (folder / "sub").mkdir(parents=True)
    return folder.resolve()


@pytest.fixture
def bash(here: Path) -> Bash:
    """Return a function that runs a command, with a time limit of `LIMIT_S` seconds by default."""
    execute = shell_tool(here, sandbox=SandboxSettings("off")).execute
    assert execute is not None

    async def run(
        command: str,
        *,
        stop: asyncio.Event | None = None,
        updates: list[AgentToolResult] | None = None,
        **more: Any,
    ) -> AgentToolResult:
        update = (lambda partial: None) if updates is None else updates.append
        return await execute("call", {"command": command, "timeout": LIMIT_S, **more}, stop, update)

    return run


def text(result: AgentToolResult) -> str:
    """Return the text that the model gets."""
    part = result.content[0]
    assert part["type"] == "text"
    return part["text"]


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    while not condition():
        await asyncio.sleep(0.01)


def state_of(pid: int) -> str:
    """Return the letter of a process's state, or nothing if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # The second if it ends while it is read.
        return ""


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    return state_of(pid) not in ("", "Z")


def pid_in(file: Path) -> int:
    """Return the process id that a command writes, or 0 if it has not yet done so."""
    return int((file.exists() and file.read_text()) or 0)


async def timed_out(running: asyncio.Task[AgentToolResult], ready: Callable[[], object]) -> AgentToolResult:
    """Let the time limit of a command expire as soon as the condition is true."""
    await until(ready)
    advance_clock(LIMIT_S)
    return await running


# ---- the plugin -------------------------------------------------------------------------------------


def test_the_plugin_registers_bash() -> None:
    """The tool needs approval."""
    registered: list[AgentTool] = []
    tinyagent_tools_shell.tinyagent_register_tools(registered.append)
    assert [("bash", False)] == [(tool.name, tool.read_only) for tool in registered]


def test_the_entry_point_names_the_module() -> None:
    """`-t shell` finds this package by its metadata."""
    [point] = metadata.entry_points(group="tinyagent.tools", name="shell")
    assert tinyagent_tools_shell is point.load()


# ---- results ----------------------------------------------------------------------------------------


async def test_both_streams_in_order(bash: Bash) -> None:
    """Standard output and error are one text, as on a terminal."""
    result = await bash("echo one; echo two >&2; echo three")
    assert "one\ntwo\nthree\n" == text(result)
    assert (0, None, "exit") == tuple(result.details[key] for key in ("exit_code", "signal", "ended_by"))


@pytest.mark.parametrize(
    ("command", "said", "code", "name"),
    [
        ("exit 3", "[no output]\n[exit code 3]", 3, None),
        ("echo x; false", "x\n[exit code 1]", 1, None),
        ("printf x; exit 2", "x\n[exit code 2]", 2, None),
        ("kill -KILL $$", "[no output]\n[killed by signal SIGKILL]", None, "SIGKILL"),
        ("exit 137", "[no output]\n[exit code 137 (128 + SIGKILL)]", 137, None),
    ],
)
async def test_how_a_command_ended_is_reported(
    command: str, said: str, code: int | None, name: str | None, bash: Bash
) -> None:
    """They are in the text and in the details."""
    result = await bash(f"ulimit -c 0; {command}")
    assert (said, code, name) == (text(result), result.details["exit_code"], result.details["signal"])


async def test_it_is_bash(bash: Bash) -> None:
    """Bash features work, and the user's start-up files are not read."""
    assert "b 2\n" == text(await bash("a=(a b); [[ ${a[1]} == b ]] && echo ${a[1]} $((1+1))"))


async def test_sh_is_the_fallback(bash: Bash, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bash, commands run in sh."""
    monkeypatch.setattr(_run.shutil, "which", lambda name: None if name == "bash" else f"/bin/{name}")
    assert "ok\n" == text(await bash("echo ok"))


async def test_there_is_no_input(bash: Bash) -> None:
    """Standard input is empty, and there is no terminal."""
    result = await bash('cat; read x; echo "$?"; tty; (: < /dev/tty) 2>/dev/null || echo none')
    assert "1\nnot a tty\nnone\n" == text(result)


async def test_the_folder(bash: Bash, here: Path) -> None:
    """`cwd` is the working directory or a folder below it. All else is an error that names the folder."""
    (here / "out").symlink_to(here.parent)
    assert f"{here}\n" == text(await bash("pwd"))
    assert f"{here / 'sub'}\n{here / 'sub'}\n" == text(await bash("pwd; echo $PWD", cwd="sub"))
    for path in ("..", "/", "out", "sub/../..", str(here) + "x", "/proc/self/root"):
        with pytest.raises(ToolError, match="outside the working directory"):
            await bash("pwd", cwd=path)
    for path in ("nowhere", "a\0b", "n" * 300):
        with pytest.raises(ToolError, match=r"no folder|cannot be resolved"):
            await bash("pwd", cwd=path)


async def test_commands_that_cannot_be_started(bash: Bash) -> None:
    """A command that cannot be started is a tool error."""
    for command in ("echo a\0b", "echo \udc80\ud800", ": " + "é" * 99_000):
        with pytest.raises(ToolError):
            await bash(command)


# ---- the environment --------------------------------------------------------------------------------


async def test_no_secret_reaches_a_command(bash: Bash, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets are removed by name and by value, even if they are requested."""
    canary = "sk-test-CANARY-0123456789"
    for name in (
        *("OPENAI_API_KEY", "OPENROUTER_API_KEY", "ANTHROPIC_API_KEY", "GROQ_API_KEY", "LOCAL_KEY"),
        *("GITHUB_TOKEN", "NPM_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "PGPASSWORD", "my_secret"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "SSH_AUTH_SOCK", "LC_TOKEN", "UNRELATED"),
    ):
        monkeypatch.setenv(name, canary)
    monkeypatch.setenv("MAKEFLAGS", f"X={canary}")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:pass@proxy.example:8080")
    monkeypatch.setenv("BASH_ENV", "/dev/null")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:8080")
    said = text(await bash("env"))
    assert "CANARY" not in said
    assert "user:pass" not in said
    assert "BASH_ENV" not in said
    assert "HTTP_PROXY=http://proxy.example:8080\n" in said
    assert "LC_ALL=C.UTF-8\n" in said
    assert f"PATH={os.environ['PATH']}\n" in said


def test_requested_variables_are_passed_on() -> None:
    """Requested variables are passed on, unless their names are like those of secrets."""
    given = {"MY_PROJECT": "x", "MY_TOKEN": "y", "OTHER": "z"}
    kept = command_environment(given, frozenset(given) - {"OTHER"})
    assert {"MY_PROJECT": "x"} == {name: kept[name] for name in kept.keys() & given.keys()}


async def test_names_are_added_by_the_environment(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TINYAGENT_SHELL_ENV adds variables."""
    monkeypatch.chdir(here)
    monkeypatch.setenv("TINYAGENT_SHELL_ENV", "MY_PROJECT, ,MY_KEY")
    monkeypatch.setenv("MY_PROJECT", "one")
    monkeypatch.setenv("MY_KEY", "two")
    registered: list[AgentTool] = []
    tinyagent_tools_shell.tinyagent_register_tools(registered.append)
    execute = registered[0].execute
    assert execute is not None
    result = await execute("call", {"command": "echo $MY_PROJECT $MY_KEY"}, None, lambda partial: None)
    assert "one\n" == text(result)


# ---- output -----------------------------------------------------------------------------------------


async def test_output_is_reported_while_it_runs(bash: Bash, here: Path) -> None:
    """Updates arrive before the command ends, each piece once."""
    updates: list[AgentToolResult] = []
    running = asyncio.create_task(
        bash("echo one; until [ -e go ]; do sleep 0.02; done; echo two", updates=updates)
    )
    await until(lambda: updates)
    assert "one\n" == text(updates[0])
    assert not running.done()
    (here / "go").touch()
    assert "one\ntwo\n" == text(await running)
    assert "one\ntwo\n".startswith("".join(map(text, updates)))


async def test_endless_output_ends_the_command(bash: Bash, monkeypatch: pytest.MonkeyPatch) -> None:
    """`yes` ends at the limit; the stored output and the updates stay small."""
    monkeypatch.setattr(_run, "LIMIT", 20_000_000)
    updates: list[AgentToolResult] = []
    result = await bash("yes", updates=updates)
    assert ("output", 20_000_000, True) == tuple(
        result.details[key] for key in ("ended_by", "bytes", "truncated")
    )
    assert "characters, " in text(result)
    assert "[ended after " in text(result)
    assert len(text(result)) < _output.HEAD_CHARACTERS + _output.TAIL_CHARACTERS + 500
    assert all(len(text(update)) < 2_100 for update in updates)


async def test_an_endless_line_ends_the_command(bash: Bash, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output without a line end also ends the command at the limit."""
    monkeypatch.setattr(_run, "LIMIT", 5_000_000)
    result = await bash("while :; do printf '%65536s' x; done")
    assert "output" == result.details["ended_by"]
    assert len(text(result)) < _output.HEAD_CHARACTERS + _output.TAIL_CHARACTERS + 500


async def test_the_middle_of_long_output_is_omitted(bash: Bash) -> None:
    """The mark shows how many characters and lines are omitted."""
    result = await bash("seq 1 20000")
    whole = "".join(f"{number}\n" for number in range(1, 20_001))
    head, mark, tail = text(result).partition("\n[… ")
    note, _, tail = tail.partition(" …]\n")
    missing = int(note.split(" ")[0].replace(",", ""))
    assert mark
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert len(whole) == len(head) + missing + len(tail)
    assert f"{whole.count(chr(10)) - head.count(chr(10)) - tail.count(chr(10)):,} lines omitted" in note


async def test_the_complete_output_is_saved_on_request(
    bash: Bash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is private and complete, and the result shows its path."""
    monkeypatch.setattr(_saving.tempfile, "tempdir", str(tmp_path))
    await bash("seq 1 20000")
    assert [] == list(tmp_path.glob("tinyagent-*"))
    result = await bash("seq 1 20000", save_output=True)
    [saved] = tmp_path.glob("tinyagent-*")
    assert str(saved) == result.details["output_file"]
    assert str(saved) in text(result)
    assert 0o600 == saved.stat().st_mode & 0o777
    assert "".join(f"{number}\n" for number in range(1, 20_001)) == saved.read_text()


async def test_a_full_disk_loses_no_result(here: Path) -> None:
    """The output is shown as usual; a note explains why there is no file, and no partial file remains."""
    script = here / "script.py"
    script.write_text(
        "import asyncio, resource, sys, tempfile\nfrom tinyagent_tools_shell import shell_tool\n"
        "from tinyagent.sandbox import SandboxSettings\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "arguments = {'command': 'seq 1 100000', 'save_output': True}\n"
        "tool = shell_tool(sandbox=SandboxSettings('off'))\n"
        "result = asyncio.run(tool.execute('c', arguments, None, lambda partial: None))\n"
        "print(result.content[0]['text'][-200:], result.details)\n"
    )
    (here / "tmp").mkdir()
    for folder, problem in (
        (here / "tmp", "File too large"),
        (here / "nowhere", "No such file or directory"),
    ):
        done = await asyncio.create_subprocess_exec(
            *(sys.executable, str(script), str(here / folder)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        shown = (await done.communicate())[0].decode()
        assert f"100000\n[the full output could not be saved: {problem}]" in shown
        assert "'exit_code': 0" in shown
        assert "'output_file': None" in shown
    assert [] == list((here / "tmp").iterdir())


async def test_invalid_utf_8_is_replaced(bash: Bash) -> None:
    """A character that arrives in two pieces is not replaced."""
    assert "a\ufffdb\ufffd" == text(await bash(r"printf 'a\377b\303'"))
    assert "é日\n" == text(
        await bash(r"printf '\303'; sleep 0.05; printf '\251\346'; sleep 0.05; printf '\227\245\n'")
    )


def test_stored_output_is_limited() -> None:
    """The stored output is limited and the counts are correct, however the output is split."""
    output = Output()
    for _ in range(300):
        output.feed("日本語\n".encode() * 500)
    held = sum(len(value) for value in vars(output).values() if isinstance(value, str))
    assert held <= _output.HEAD_CHARACTERS + 2 * _output.TAIL_CHARACTERS + 2_000
    assert 300 * 500 * 10 == output.bytes
    assert "564,000 characters, 141,000 lines omitted" in output.text()
    news = output.news()
    assert news.startswith("[… 598,000 characters …]")
    assert "" == output.news()


# ---- the end ----------------------------------------------------------------------------------------


async def test_the_time_limit(bash: Bash, here: Path) -> None:
    """The result has the output so far and explains the time-out."""
    running = asyncio.create_task(bash("echo begun; touch ready; sleep 600"))
    result = await timed_out(running, (here / "ready").exists)
    assert "begun\n[timed out after 60 s and was ended; timeout can be up to 600]" == text(result)
    assert ("timeout", "SIGTERM") == (result.details["ended_by"], result.details["signal"])


def test_the_time_limit_has_a_default_and_a_maximum() -> None:
    """The schema shows both to the model."""
    timeout = shell_tool().parameters["properties"]["timeout"]
    assert (120, 600, 0) == (timeout["default"], timeout["maximum"], timeout["exclusiveMinimum"])


@linux
async def test_a_command_that_ignores_sigterm_is_killed(bash: Bash, here: Path) -> None:
    """SIGKILL follows SIGTERM."""
    command = "trap '' TERM INT HUP; echo $$ > pid; while :; do sleep 0.05; done"
    result = await timed_out(asyncio.create_task(bash(command)), lambda: pid_in(here / "pid"))
    assert ("timeout", "SIGKILL") == (result.details["ended_by"], result.details["signal"])
    assert not alive(int((here / "pid").read_text()))


@linux
async def test_a_stopped_process_is_ended(bash: Bash, here: Path) -> None:
    """A stopped process is killed."""
    running = asyncio.create_task(bash("echo $$ > pid; kill -STOP $$"))
    result = await timed_out(running, lambda: "T" == state_of(pid_in(here / "pid")))
    assert "timeout" == result.details["ended_by"]
    assert not alive(int((here / "pid").read_text()))


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the grace periods, because these processes are killed in any case."""
    monkeypatch.setattr(_run, "EXIT_GRACE_S", 0.02)
    monkeypatch.setattr(_run, "TERM_GRACE_S", 0.05)


@linux
@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize(
    "start",
    [
        "sleep 600 & echo $! > pid",
        "sleep 600 >/dev/null 2>&1 & echo $! > pid",
        "nohup sleep 600 >/dev/null 2>&1 & echo $! > pid",
        "sleep 600 & echo $! > pid; disown",
        "(sh -c 'echo $$ > pid; exec sleep 600' &)",
        "setsid sh -c 'echo $$ > pid; exec sleep 600' &",
        "(setsid sh -c 'echo $$ > pid; exec sleep 600' >/dev/null 2>&1 &)",
        "setsid sh -c 'trap \"\" TERM; echo $$ > pid; while :; do sleep 0.1; done' &",
    ],
)
async def test_background_processes_are_killed(start: str, bash: Bash, here: Path) -> None:
    """Background jobs, orphans and other sessions are killed and listed in the result."""
    result = await bash(f"{start}\nuntil [ -s pid ]; do sleep 0.01; done; echo begun")
    pid = int((here / "pid").read_text())
    assert not alive(pid)
    assert text(result).startswith("begun\n[")
    assert "still running, killed: " in text(result)
    assert pid in [entry["pid"] for entry in result.details["killed"]]
    assert 0 == result.details["exit_code"]


@linux
@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("how", ["timeout", "abort", "cancel"])
async def test_all_descendants_are_killed(how: str, bash: Bash, here: Path) -> None:
    """A time-out, an abort and a cancellation kill the shell, its children and other sessions."""
    command = (
        "echo $$ > pid1; sleep 600 & echo $! > pid2;"
        " (setsid sh -c 'trap \"\" TERM; echo $$ > pid3; sleep 600; :' &);"
        " until [ -s pid3 ]; do sleep 0.01; done; echo begun; touch ready; wait; sleep 600"
    )
    stop = asyncio.Event()
    running = asyncio.create_task(bash(command, stop=stop))
    await until((here / "ready").exists)
    if how == "cancel":
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    else:
        if how == "abort":
            stop.set()
        else:
            advance_clock(LIMIT_S)
        result = await running
        assert text(result).startswith("begun\n")
        assert {"timeout": "timeout", "abort": "aborted"}[how] == result.details["ended_by"]
    pids = [int((here / f"pid{number}").read_text()) for number in (1, 2, 3)]
    assert [] == [pid for pid in pids if alive(pid)]


@linux
@pytest.mark.usefixtures("short_grace")
async def test_many_processes_are_killed(bash: Bash, here: Path) -> None:
    """Many processes are killed, and so is one that starts new processes until the end."""
    command = (
        "for i in $(seq 40); do sleep 600 & done;"
        ' (setsid sh -c \'trap "" TERM; while [ $(ls made | wc -l) -lt 400 ]; do'
        ' sh -c "touch made/\\$\\$; exec sleep 600" & sleep 0.01; done\' &);'
        " until [ $(ls made | wc -l) -gt 3 ]; do sleep 0.01; done"
    )
    (here / "made").mkdir()
    result = await bash(command)
    assert "exit" == result.details["ended_by"]
    assert [] == [path.name for path in (here / "made").iterdir() if alive(int(path.name))]


@linux
@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize(
    "start",
    [
        "(env -i setsid sh -c 'echo $$ > pid; exec sleep 600' &)",
        "(env -i setsid sh -c 'echo $$ > pid; exec sleep 600 > /dev/null 2>&1' > /dev/null 2>&1 &)",
        "env -i setsid sh -c '(setsid sh -c \"echo \\$\\$ > pid; exec sleep 600\" &) &'",
        'python3 -c "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n'
        "os.environ.clear(); open('pid', 'w').write(str(os.getpid())); time.sleep(600)\"",
    ],
)
async def test_a_daemon_is_killed(start: str, bash: Bash, here: Path) -> None:
    """A daemon without environment and parent, in another session, is still found and killed."""
    result = await bash(f"{start}\nuntil [ -s pid ]; do sleep 0.01; done; echo begun")
    pid = int((here / "pid").read_text())
    assert not alive(pid)
    assert pid in [entry["pid"] for entry in result.details["killed"]]
    assert "has detached itself" not in text(result)


@linux
@pytest.mark.usefixtures("short_grace")
async def test_a_command_that_kills_its_supervisor_ends_too(bash: Bash, here: Path) -> None:
    """The kernel kills the shell; marked processes are found and killed."""
    command = (
        "setsid sh -c 'echo $$ > pid; exec sleep 600' & until [ -s pid ]; do sleep 0.01; done; kill -9 $PPID"
    )
    result = await bash(f"{command}; sleep 600")
    assert ("exit", "SIGKILL") == (result.details["ended_by"], result.details["signal"])
    assert not alive(int((here / "pid").read_text()))


@linux
@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize(
    "stop",
    [
        pytest.param("kill -STOP $PPID", id="once"),
        pytest.param('(setsid sh -c "while kill -STOP $PPID; do :; done" &)', id="again and again"),
    ],
)
async def test_a_command_that_stops_its_supervisor_ends_too(stop: str, bash: Bash, here: Path) -> None:
    """A stopped supervisor is continued, or killed after all its descendants."""
    command = (
        "echo $$ > pid; (env -i setsid sh -c 'echo $$ > daemon; exec sleep 600' &); "
        "until [ -s daemon ]; do :; done; echo $PPID > supervisor"
    )
    running = asyncio.create_task(bash(f"{command}; {stop}; sleep 600"))
    result = await timed_out(running, lambda: "T" == state_of(pid_in(here / "supervisor")))
    assert "timeout" == result.details["ended_by"]
    assert "may go on" not in text(result)
    assert [] == [name for name in ("pid", "daemon") if alive(int((here / name).read_text()))]


@linux
async def test_a_command_that_writes_to_its_supervisor_loses_no_result(bash: Bash) -> None:
    """Invalid bytes in the pipes of the supervisor are ignored."""
    result = await bash('echo x; for pipe in /proc/$PPID/fd/*; do echo nonsense > "$pipe"; done; exit 3')
    assert text(result).startswith("x\n")
    assert ("exit", 3) == (result.details["ended_by"], result.details["exit_code"])


LIBC_SIGNALS = 0b11 << 31
"""Signals 32 and 33 belong to the C library, which lets no program set them; GNU make ignores them."""


@linux
async def test_a_command_gets_the_usual_signals(
    bash: Bash, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals have their default actions in a command, and SIGTERM arrives once."""
    ignored = int(text(await bash("grep SigIgn /proc/self/status | cut -f2")), 16)
    assert 0 == ignored & ~LIBC_SIGNALS
    monkeypatch.setattr(_run, "TERM_GRACE_S", LIMIT_S)
    command = "trap 'echo term; exit 3' TERM; touch ready; while :; do sleep 0.05; done"
    result = await timed_out(asyncio.create_task(bash(command)), (here / "ready").exists)
    assert (1, 3) == (text(result).count("term"), result.details["exit_code"])


@linux
async def test_commands_do_not_outlive_an_agent_that_is_killed(here: Path) -> None:
    """After SIGKILL of the agent, all processes of its command end."""
    program = """
import asyncio
from tinyagent.sandbox import SandboxSettings
from tinyagent_tools_shell import shell_tool

command = (
    "echo $$ > pid1; sleep 600 & echo $! > pid2; (setsid sh -c 'echo $$ > pid3; exec sleep 600' &);"
    " until [ -s pid3 ]; do sleep 0.01; done; touch ready; wait"
)
tool = shell_tool(sandbox=SandboxSettings("off"))
asyncio.run(tool.execute("call", {"command": command}, None, lambda partial: None))
"""
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=here)
    try:
        await until((here / "ready").exists)
        pids = [int((here / f"pid{number}").read_text()) for number in (1, 2, 3)]
        assert pids == [pid for pid in pids if alive(pid)]
    finally:
        agent.kill()
        await agent.wait()
    await until(lambda: not any(map(alive, pids)))


async def test_short_background_processes_may_finish(
    bash: Bash, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process substitution that ends shortly after the shell is not killed."""
    monkeypatch.setattr(_run, "EXIT_GRACE_S", LIMIT_S)
    result = await bash("echo text > >(sleep 0.05; cat > copy; echo copied)")
    assert "copied\n" == text(result)
    assert [] == result.details["killed"]
    assert "text\n" == (here / "copy").read_text()


async def test_output_closed_is_not_the_end(bash: Bash, here: Path) -> None:
    """A command that closes its output continues, and its exit code is reported."""
    result = await bash("echo x; exec >&- 2>&-; sleep 0.2; touch done; exit 7")
    assert ("x\n[exit code 7]", True) == (text(result), (here / "done").exists())


async def test_an_abort_before_the_start(bash: Bash) -> None:
    """The call ends at once."""
    stop = asyncio.Event()
    stop.set()
    assert "aborted" == (await bash("sleep 600", stop=stop)).details["ended_by"]


@linux
async def test_other_processes_are_not_killed(bash: Bash, here: Path) -> None:
    """Processes of other programs and of parallel commands continue."""
    bystander = await asyncio.create_subprocess_exec("sleep", "60", env={MARK: "somebody else's"})
    other = asyncio.create_task(bash("until [ -e go ]; do sleep 0.01; done; echo through"))
    try:
        await bash("sleep 600 &")
        await bash("sleep 600", timeout=0.1)
        assert bystander.returncode is None
        (here / "go").touch()
        assert "through\n" == text(await other)
    finally:
        bystander.kill()
        await bystander.wait()


@linux
async def test_a_command_in_a_command_keeps_the_outer_mark(
    bash: Bash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ending the command of an outer agent finds the processes of an inner agent."""
    monkeypatch.setenv(MARK, "outer")
    said = text(await bash(f"echo ${MARK}")).strip()
    assert said.startswith("outer,")
    assert len("outer,") + 32 == len(said)


def children() -> set[str]:
    """Return the child processes of this process that are not reaped."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {number for task in tasks for number in task.read_text().split()}


@pytest.mark.usefixtures("short_grace")
async def test_no_descriptor_and_no_zombie_remain(bash: Bash) -> None:
    """All descriptors are closed and all children are reaped."""
    await bash("true")
    before, processes = set(os.listdir("/dev/fd")), children()
    for _ in range(2):
        await bash("echo x; sleep 600 &")
        await bash("sleep 600", timeout=0.05)
    assert len(before) == len(set(os.listdir("/dev/fd")))
    assert processes == children()


async def test_endless_output_does_not_block_the_loop(bash: Bash, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tasks run while a command prints endlessly."""
    monkeypatch.setattr(_run, "LIMIT", 20_000_000)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await bash("yes")
    counting.cancel()
    assert turns > 100
