"""`-o FILE`: only a complete record replaces an older one, and inputs are never replaced."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until
from tinyagent.testing.server import Hold, chat_chunk, sse

from .conftest import Cli, FakeReply, Serve, read_lines

OLDER = b'{"type":"session"}\n{"type":"result","ok":true}\n'


def result(path: Path) -> dict[str, Any]:
    """Return the last line of a record."""
    return read_lines(path)[-1]


def left_over(cli: Cli) -> list[str]:
    """Return the partial files that exist."""
    return [path.name for path in cli.work.glob("*.partial")]


def test_the_record_replaces_the_older_one_when_it_is_complete(cli: Cli) -> None:
    """A new file is private, an older one keeps its mode, and no other file is left."""
    assert 0 == cli("run", "-m", "demo", "-o", "run.jsonl", "Hi").code
    record = cli.work / "run.jsonl"
    assert (True, 0o600) == (result(record)["ok"], stat.S_IMODE(record.stat().st_mode))
    record.write_bytes(OLDER)
    record.chmod(0o644)
    assert 0 == cli("run", "-m", "demo", "-o", record, "Hi").code
    assert ("result", 0o644) == (result(record)["type"], stat.S_IMODE(record.stat().st_mode))
    assert record.read_bytes().count(b'"type":"session"') == 1
    assert [] == left_over(cli)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--max-turns", "none"], 2),
        (["-f", "missing"], 2),
        (["--history", "missing"], 2),
        (["-t", "missing"], 3),
        (["-m", "openai/gpt-4o"], 3),
        (["-m", "nowhere/model"], 3),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_a_run_that_does_not_start_keeps_the_older_record(cli: Cli, args: list[str], code: int) -> None:
    """Usage errors and missing settings keep the older record; a new file gets the record of the error."""
    older = cli.file("older.jsonl", OLDER)
    model = [] if "-m" in args else ["-m", "demo"]
    assert code == cli("run", *model, *args, "-o", older, "Hi").code
    assert OLDER == older.read_bytes()
    assert code == cli("run", *model, *args, "-o", "new.jsonl", "Hi").code
    assert code == result(cli.work / "new.jsonl")["exit_code"]
    assert [] == left_over(cli)


def test_a_run_that_fails_replaces_the_older_record(cli: Cli, serve: Serve) -> None:
    """A run that fails after its start replaces the older record."""
    older = cli.file("older.jsonl", OLDER)
    serve(FakeReply.error(400, "bad request"))
    assert 1 == cli("run", "-m", "local/m", "-o", older, "Hi").code
    assert 1 == result(older)["exit_code"]


def test_a_killed_run_leaves_a_partial_record(cli: Cli, serve: Serve) -> None:
    """After SIGKILL the older record is unchanged, and FILE.PID.partial has the lines so far."""
    older = cli.file("older.jsonl", OLDER)
    serve(FakeReply([sse(chat_chunk("one ")), Hold()]))
    process = cli.start("run", "-m", "local/m", "-o", older, "Hi")
    partial = cli.work / f"older.jsonl.{process.pid}.partial"
    wait_until(lambda: partial.exists() and b"text_delta" in partial.read_bytes())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert OLDER == older.read_bytes()
    assert "session" == json.loads(partial.read_bytes().splitlines()[0])["type"]


@pytest.mark.usefixtures("new_processes")
def test_a_full_disk_keeps_the_older_record(cli: Cli) -> None:
    """A write error gives exit code 1, and the hint names the partial record."""
    older = cli.file("older.jsonl", OLDER)
    # Python 3.11 does not notice that byte code, which it writes at an import, was cut.
    line = "ulimit -f 1; export PYTHONDONTWRITEBYTECODE=1; $T run -m demo -o older.jsonl Hi > /dev/null"
    done = cli.shell(line, PYTHONDONTWRITEBYTECODE="1")
    assert (1, OLDER) == (done.code, older.read_bytes())
    assert "Error: Cannot write to older.jsonl: File too large." in done.err
    [partial] = left_over(cli)
    assert f"The incomplete record is in {cli.work / partial}." in done.err
    assert "session" == json.loads((cli.work / partial).read_bytes().splitlines()[0])["type"]


INPUTS = {
    "-f": ["-f", "{path}", "Hi"],
    "--history": ["--history", "{path}", "Hi"],
    "-s": ["-s", "@{path}", "Hi"],
    "-t": ["-t", "{path}", "look"],
    "standard input": ["Hi"],
    "replay": ["-m", "replay:{path}", "Hi"],
}


@pytest.mark.parametrize("link", ["same", "hard", "symbolic"])
@pytest.mark.parametrize("kind", INPUTS)
def test_what_the_run_reads_is_not_replaced(cli: Cli, kind: str, link: str) -> None:
    """An input is not replaced, also under the name of a hard or symbolic link."""
    made = cli("run", "--jsonl", "-m", "demo", "Hi").out.encode()
    tool = (
        b"from tinyagent import tool\n@tool(read_only=True)\ndef look() -> str:\n    'Look.'\n    return ''\n"
    )
    source = cli.file("input.py" if kind == "-t" else "input.jsonl", tool if kind == "-t" else made)
    target = source if link == "same" else cli.work / "other"
    if link == "hard":
        target.hardlink_to(source)
    elif link == "symbolic":
        target.symlink_to(source)
    before = source.read_bytes()
    args = [arg.format(path=f"./{source.name}") for arg in INPUTS[kind]]
    model = [] if kind == "replay" else ["-m", "demo"]
    if kind == "standard input":
        done = cli.shell(f"$T run -m demo -o {target} Hi < {source}")
    else:
        done = cli("run", *model, *args, "-o", target)
    assert (2, True) == (done.code, "would replace the file" in done.err)
    assert before == source.read_bytes()
    assert [] == left_over(cli)


def test_configuration_is_not_replaced(cli: Cli) -> None:
    """Files of the configuration, of plugins and of the project are not replaced."""
    cli.config("[run]\nmodel = 'demo'\n")
    project = cli.file("tinyagent.toml", "[run]\nmax_turns = 3\n")
    for name in ("keys.toml", "mcp.toml", "some-plugin.toml"):
        (cli.home / name).touch(0o600)
    for path in (*cli.home.glob("*.toml"), project):
        before = path.read_bytes()
        assert 2 == cli("run", "-o", path, "Hi").code
        assert before == path.read_bytes()


def test_a_symbolic_link_stays(cli: Cli) -> None:
    """The target of a symbolic link is replaced or created."""
    target = cli.work / "target.jsonl"
    link = cli.work / "link.jsonl"
    link.symlink_to("target.jsonl")
    for _ in range(2):
        assert 0 == cli("run", "-m", "demo", "-o", link, "Hi").code
        assert (True, True) == (link.is_symlink(), result(target)["ok"])


@pytest.mark.usefixtures("new_processes")
@pytest.mark.parametrize("target", ["/dev/stderr", ">(cat >&2)", "/dev/fd/3 3>&2"])
def test_descriptors_are_written_as_they_are(cli: Cli, target: str) -> None:
    """/dev/stderr, /dev/fd/N and process substitution are written directly."""
    done = cli.shell(f"$T run -q -m demo -o {target} Hi")
    assert "result" == json.loads(done.err.splitlines()[-1])["type"]


def test_devices_and_pipes_are_written_as_they_are(cli: Cli) -> None:
    """A FIFO gets the lines, /dev/null is unchanged, and a folder is refused."""
    os.mkfifo(cli.work / "fifo")
    done = cli.shell("cat fifo & $T run -q -m demo -o fifo Hi > /dev/null; wait")
    assert "result" == done.lines[-1]["type"]
    assert stat.S_ISFIFO((cli.work / "fifo").stat().st_mode)
    assert 0 == cli.shell("$T run -m demo -o /dev/null Hi > /dev/null").code
    assert Path("/dev/null").is_char_device()
    done = cli("run", "-m", "demo", "-o", ".", "Hi")
    assert (2, "Error: Cannot write to .: Is a directory.\n") == (done.code, done.err)


@pytest.mark.parametrize("option", ["--max-turns none", "--no-such-option"])
def test_a_usage_error_does_not_wait_for_a_pipe(cli: Cli, option: str) -> None:
    """With invalid options, a FIFO without a reader is not opened."""
    os.mkfifo(cli.work / "fifo")
    process = cli.start("run", "-m", "demo", "-o", "fifo", *option.split(), "Hi")
    process.communicate(timeout=60)
    assert 2 == process.returncode


def test_standard_output_is_not_the_record(cli: Cli) -> None:
    """-o on standard output is refused, and the hint names `--jsonl`."""
    for line in ("-o /dev/stdout | cat", "-o - | cat", "-o out > out"):
        done = cli.shell(f"$T run -m demo {line.replace('-o', 'Hi -o', 1)}")
        assert (2, True) == (done.code, "--jsonl" in done.err), line


def test_names_that_are_not_text(cli: Cli, serve: Serve) -> None:
    """File names that are not UTF-8 can be read and written."""
    server = serve(FakeReply.text("ok"))
    done = cli.shell("printf data > $'in\\351'; $T run -m local/m -f $'in\\351' -o $'out\\351' Hi")
    assert 0 == done.code, done.err
    assert (cli.work / os.fsdecode(b"out\xe9")).exists()
    assert "data" in server.requests[0].json["messages"][0]["content"]


def test_a_long_name_leaves_room_for_the_partial_files(cli: Cli) -> None:
    """The longest file name of the file system can be written."""
    name = "n" * 255
    assert 0 == cli("run", "-m", "demo", "-o", name, "Hi").code
    assert result(cli.work / name)["ok"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_file_in_a_folder_that_is_not_writable(cli: Cli) -> None:
    """The file is written in place once the run has started."""
    folder = cli.work / "folder"
    folder.mkdir()
    (folder / "run.jsonl").write_bytes(OLDER)
    folder.chmod(0o500)
    try:
        assert 2 == cli("run", "-m", "demo", "-f", "missing", "-o", folder / "run.jsonl", "Hi").code
        assert OLDER == (folder / "run.jsonl").read_bytes()
        assert 0 == cli("run", "-m", "demo", "-o", folder / "run.jsonl", "Hi").code
        assert result(folder / "run.jsonl")["ok"]
    finally:
        folder.chmod(0o700)
