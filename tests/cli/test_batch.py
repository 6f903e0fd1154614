"""`tinyagent batch`: items in, results out, and going on after any end."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until
from tinyagent.agent_types import Model, Provider
from tinyagent.executors import BatchItem, ItemResult, WorkerSpec
from tinyagent.request_limits import ProviderLimits
from tinyagent.testing import FakeServer, ScriptedProvider, chat_chunk
from tinyagent.testing.server import FakeReply, Wait
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.batch import progress
from tinyagent_cli.batch.environment import worker_environment
from tinyagent_cli.batch.items import read_items
from tinyagent_cli.batch.progress import Counts, ProgressDisplay
from tinyagent_cli.batch.worker import provider_limits
from tinyagent_cli.config.files import LimitsTable
from tinyagent_cli.config.settings import load_settings

from .conftest import ROOT, SECONDS, Cli, as_openai, read_lines
from .documents import blocks

MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
KILLS = """
import os, shutil, signal, sys
from pathlib import Path
from tinyagent_cli.batch.output import Before, ResultFile

folder = Path(sys.argv[1])
start, out, answers = folder / "start", folder / "out.jsonl", folder / "answers"
line = '{"type":"result","id":"%s","ok":%s}\\n'
start.write_text(line % ("a", "false") + line % ("b", "true") + line % ("c", "false") + '{"type":"res')

def run(at):
    count = 0
    def patch(name):
        real = getattr(os, name)
        def call(*args):
            nonlocal count
            count += 1
            if count == at:
                if name == "write":
                    real(args[0], args[1][:9])
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args)
            if count == at - 1 and name == "replace":
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        setattr(os, name, call)
    for name in ("open", "write", "ftruncate", "fchmod", "fsync", "replace"):
        patch(name)
    results = ResultFile(str(out))
    for item in "abcd":
        if results.before(item) is not Before.DONE:
            results.write(item, (line % (item, "true")).encode(), ok=True)
    results.remove_replaced()
    results.close()

def child(at):
    process = os.fork()
    if not process:
        run(at)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

at = 0
while True:
    at += 1
    assert at < 100
    shutil.copy(start, out)
    code = child(at)
    answered = [text for text in out.read_text().splitlines() if text.endswith('"ok":true}')]
    assert 0 == child(0)
    text = out.read_text()
    assert sorted(text.splitlines()) == sorted((line % (item, "true")).strip() for item in "abcd"), (at, text)
    assert set(answered) <= set(text.splitlines()) and len(answered) == len(set(answered))
    if code == 0:
        break
    assert code == -signal.SIGKILL
print(at)
"""
DEMO = ("-m", "demo")


def results(path: Path) -> dict[str, dict[str, Any]]:
    """Return the lines of a file by id. Each id has one."""
    lines = read_lines(path)
    found = {line["id"]: line for line in lines}
    assert len(lines) == len(found)
    return found


def wait_for_results(path: Path, number: int) -> None:
    """Wait until a file has so many lines."""
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= number)


def write_items(path: Path, number: int) -> set[str]:
    """Write items, and return their ids."""
    lines = [json.dumps({"id": f"i{n}", "prompt": f"Say {n}."}) for n in range(number)]
    path.write_text("\n".join(lines) + "\n")
    return {f"i{n}" for n in range(number)}


def test_plain_text_needs_an_option(cli: Cli) -> None:
    """The warning about the first line names it."""
    cli.file("in.txt", "One?\nTwo?\n")
    done = cli("batch", "in.txt", *DEMO, "-o", "out.jsonl")
    assert (1, 1) == (done.code, " ".join(done.err.split()).count("if each line is a prompt, use --lines"))


def test_items_have_results_and_bad_lines_are_skipped(cli: Cli) -> None:
    """Each item has one result line, and a bad line is reported with its number."""
    (cli.work / "in.jsonl").write_text(
        '{"id": "a", "prompt": "one", "color": "red"}\n'
        "no JSON\n\n"
        '{"prompt": "two"}\n'
        '{"id": "a", "prompt": "again"}\n'
        '{"id": "b", "prompt": 3}\n'
        '{"id": "secret", "prompt": "x", "files": ["../secret"]}\n'
    )
    done = cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", "--keep", "color", "--records", "records")
    found = results(cli.work / "out.jsonl")
    assert 1 == done.code
    assert {"a", "line-4", "secret"} == set(found)
    assert ("result", True, {"color": "red"}) == tuple(found["a"][key] for key in ("type", "ok", "variables"))
    assert found["a"]["text"].startswith("You said: one")
    assert "outside the working directory" in found["secret"]["error"]["message"]
    assert ["Line 2", "Line 5", "Line 6"] == re.findall(r"Line \d+", done.err)
    assert {"a.jsonl", "line-4.jsonl"} == {path.name for path in (cli.work / "records").iterdir()}
    record = read_lines(cli.work / "records/a.jsonl")
    assert ("session", "result") == (record[0]["type"], record[-1]["type"])


def test_formats(cli: Cli) -> None:
    """Tables and plain lines are inputs, too; a template gets the columns."""
    (cli.work / "t.csv").write_bytes('\ufeffname;note\nAda;"a\nb"\nBob\nMax;ü\n'.encode())
    table = cli(
        "batch",
        "t.csv",
        *DEMO,
        "-o",
        "t.jsonl",
        "--id",
        "name",
        "--keep",
        "note",
        "--prompt",
        "{{ note }} for {{ name }}",
    )
    lines = cli("batch", "-", "--lines", *DEMO, "-o", "l.jsonl", stdin=b"one\n\ntwo\n")
    assert (1, 0) == (table.code, lines.code)
    assert "Line 4 is skipped: it has 1 cells, and the header has 2." in table.err
    found = results(cli.work / "t.jsonl")
    # The demo writes each blank as a space.
    assert {"Ada": "a b for Ada", "Max": "ü for Max"} == {
        name: line["text"].split("\n\n")[0].removeprefix("You said: ") for name, line in found.items()
    }
    assert {"note": "a\nb"} == found["Ada"]["variables"]
    assert {"line-1", "line-3"} == set(results(cli.work / "l.jsonl"))


def test_each_field_of_an_item_can_be_kept(cli: Cli) -> None:
    """The result repeats the id and the prompt, too; a column that the table does not have is an error."""
    (cli.work / "t.csv").write_text("id,prompt,note\n7,Hi,x\n")
    command = ("batch", "t.csv", *DEMO, "-o", "out.jsonl")
    done = cli(*command, "--keep", "note,prompt")
    assert 2 == done.code
    assert "--keep note,prompt: the table has the columns id, prompt, note." in done.err
    assert 0 == cli(*command, "--keep", "id", "--keep", "prompt", "--keep", "note").code
    kept = results(cli.work / "out.jsonl")["7"]["variables"]
    assert {"id": "7", "prompt": "Hi", "note": "x"} == kept


def test_encodings_of_tables() -> None:
    """A table may be UTF-8 with or without a BOM, or UTF-16, with any line ends."""
    text = 'id,note\r\na,"ä\nb"\r\nb,c\r\n'
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        items = list(read_items(io.BytesIO(text.encode(encoding)), "csv"))
        notes = [(item.id, item.line, item.variables) for item in items if isinstance(item, BatchItem)]
        assert [("a", 2, {"note": "ä\nb"}), ("b", 4, {"note": "c"})] == notes


def test_input_without_items(cli: Cli) -> None:
    """What would fail for each row of a table is one error, and binary data are bad lines."""
    cli.file("t.csv", "id,note\na,b\n")
    cli.file("empty.csv", "")
    cli.file("empty.jsonl", "")
    cli.file("binary.jsonl", b"\0\xff\x80\n{\x80}\n\n" + b'{"id": "a"}\n')
    for arguments, code, message in (
        (("t.csv",), 2, "The table has no column 'prompt', and there is no --prompt."),
        (
            ("t.csv", "--prompt", "{{ name }}"),
            2,
            "The table has no column 'name', which --prompt needs.",
        ),
        (("empty.csv", "--prompt", "x"), 2, "The table has no header."),
        (("empty.jsonl",), 0, "The input has no items."),
        (("binary.jsonl",), 1, "Line 4 is skipped: it has no prompt."),
    ):
        done = cli("batch", *arguments, *DEMO, "-o", "out.jsonl")
        assert (code, True) == (done.code, message in done.err), done.err
        assert b"" == (cli.work / "out.jsonl").read_bytes()


def test_an_input_without_end(cli: Cli) -> None:
    """An item on standard input is done before the next one arrives."""
    out = cli.work / "out.jsonl"
    process = cli.start("batch", "-", *DEMO, "-o", "out.jsonl", stdin=subprocess.PIPE)
    for number in (1, 2):
        process.stdin.write(b'{"prompt": "x"}\n')
        process.stdin.flush()
        wait_for_results(out, number)
    process.send_signal(signal.SIGHUP)
    assert 129 == process.wait(SECONDS)
    process.stdin.close()


def test_a_full_disk(cli: Cli) -> None:
    """If OUT cannot grow, the batch ends with whole lines in it, and goes on later."""
    ids = write_items(cli.work / "in.jsonl", 60)
    command = cli.command("batch", "in.jsonl", *DEMO, "-o", "out.jsonl")
    # A fork of the server would not have this limit. Byte code must not be cut by it.
    limited = f"ulimit -f 8; PYTHONDONTWRITEBYTECODE=1 exec {shlex.join(command)}"
    process = cli.start(program=["bash", "-c", limited])
    shown = process.communicate(timeout=SECONDS)[1]
    assert (1, True) == (process.returncode, b"Cannot write to out.jsonl: File too large." in shown)
    done = results(cli.work / "out.jsonl")
    assert 0 < len(done) < 60
    assert 0 == cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl").code
    assert ids == set(results(cli.work / "out.jsonl"))


def test_killed_at_each_system_call(tmp_path: Path) -> None:
    """After a kill at any change of OUT, the next command leaves what an uninterrupted one does."""
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)],
        cwd=ROOT,
        timeout=SECONDS,
        capture_output=True,
        text=True,
    )
    assert ("", 0) == (done.stderr, done.returncode)
    assert int(done.stdout) > 10


def test_failures_that_cannot_be_removed(cli: Cli) -> None:
    """If the folder refuses a new file, the results are in OUT, after the failures that they replace."""
    cli.file("in.jsonl", '{"id": "a", "prompt": "x"}\n')
    out = cli.file("out.jsonl", '{"type": "result", "id": "a", "ok": false}\n')
    (cli.work / "out.jsonl.partial").mkdir()
    done = cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl")
    assert (1, True) == (done.code, "1 answered" in done.err)
    assert "out.jsonl.partial: Is a directory.\nAll results are in the file." in done.err
    assert [False, True] == [line["ok"] for line in read_lines(out)]


def test_own_fields_and_a_slow_item(cli: Cli) -> None:
    """An item has its own system prompt, model, history and files. An item that waits delays no other."""
    cli.file("notes.txt", "Bring milk.")
    items = [
        {"id": "slow", "prompt": "x"},
        {"id": "own", "prompt": "What?", "system": "Be brief.", "model": "openai/big", "files": ["notes.txt"],
         "history": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]},
        *[{"id": f"i{number}", "prompt": "x"} for number in range(4)],
    ]  # fmt: skip
    cli.file("in.jsonl", "".join(json.dumps(item) + "\n" for item in items))
    slow = FakeReply.chunks(Wait(), chat_chunk("Late."), chat_chunk({}, "stop"))
    with FakeServer(slow, *[FakeReply.text("Yes.")] * 4, FakeReply.error(400, "Too\nbad.")) as server:
        environment = as_openai(server)
        options = ("-m", "openai/m", "-s", "Be kind.", "-j", "2")
        process = cli.start("batch", "in.jsonl", "-o", "out.jsonl", *options, environment=environment)
        out = cli.work / "out.jsonl"
        wait_for_results(out, 5)
        assert "slow" not in results(out)
        server.release()
        assert 1 == process.wait(SECONDS)
        sent = {request.json["model"]: request.json["messages"] for request in server.requests[:2]}
    assert "Late." == results(out)["slow"]["text"]
    assert "  provider: 1, such as i3: openai: HTTP 400: Too bad." in process.stderr.read().decode()
    assert ["system", "user", "assistant", "user"] == [message["role"] for message in sent["big"]]
    assert ["Be kind.", "Be brief."] == [sent[model][0]["content"] for model in ("m", "big")]
    assert "Bring milk." in sent["big"][-1]["content"]


def test_all_items_fail(cli: Cli) -> None:
    """A refused key ends the batch at once, and any other failure if the first 50 items have it."""
    write_items(cli.work / "in.jsonl", 60)
    command = ("batch", "in.jsonl", "-m", "openai/m", "-j", "1", "-o")
    replies = [FakeReply.error(401, "No such key."), *[FakeReply.error(404, "No such model.")] * 110]
    with FakeServer(*replies) as server:
        environment = as_openai(server)
        refused = cli(*command, "refused.jsonl", **environment)
        assert (3, 1) == (refused.code, len(server.requests))
        assert "Error: openai: HTTP 401: No such key.\nCorrect the cause" in refused.err
        stopped = cli(*command, "out.jsonl", **environment)
        assert (1, 51, 50) == (stopped.code, len(server.requests), len(results(cli.work / "out.jsonl")))
        assert "The first 50 items failed in the same way: openai: HTTP 404: No such model." in stopped.err
        assert 1 == cli(*command, "out.jsonl", "--keep-going", **environment).code
    assert 60 == len(results(cli.work / "out.jsonl"))


def test_schema(cli: Cli) -> None:
    """With a schema each result has the validated value."""
    write_items(cli.work / "in.jsonl", 2)
    assert 0 == cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", "--schema", "name, age int").code
    assert [{"age", "name"}] * 2 == [set(line["value"]) for line in results(cli.work / "out.jsonl").values()]


def test_killed_many_times(cli: Cli) -> None:
    """After kills at any point nothing is lost, done again or torn."""
    ids, out = write_items(cli.work / "in.jsonl", 60), cli.work / "out.jsonl"
    out.touch()
    command = ("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", "-j", "4", "-O", "delay=0.002")
    for number in range(1, 7):
        before = out.read_bytes()
        process = cli.start(*command)
        wait_for_results(out, 8 * number)
        process.kill()
        process.wait(SECONDS)
        assert out.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
        finished = re.findall(rb'"id":"(i\d+)"', out.read_bytes())
        assert len(finished) == len(set(finished))  # no answer is done again
        with out.open("ab") as file:
            file.write(b'{"type": "result", "id": "i5')  # what a torn write leaves
    assert 0 == cli(*command).code
    assert ids == set(results(out))


def test_one_command_at_a_time(cli: Cli) -> None:
    """A file that another process writes is refused, and so is one with other lines."""
    write_items(cli.work / "in.jsonl", 1)
    with (cli.work / "out.jsonl").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        locked = cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl")
    assert (2, True) == (locked.code, "Another process writes to out.jsonl" in locked.err)
    (cli.work / "notes.txt").write_text("mine\n")
    foreign = cli("batch", "in.jsonl", *DEMO, "-o", "notes.txt")
    assert (2, "mine\n") == (foreign.code, (cli.work / "notes.txt").read_text())
    assert 2 == cli("batch", "in.jsonl", *DEMO, "-o", "in.jsonl").code


def test_failures_are_done_again(cli: Cli) -> None:
    """A failure is replaced by the answer of a later command. --retry-failed does nothing else."""
    (cli.work / "in.jsonl").write_text('{"id": "a", "files": ["f"], "prompt": "x"}\n')
    assert 1 == cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl").code
    (cli.work / "f").write_text("text")
    with (cli.work / "in.jsonl").open("a") as file:
        file.write('{"id": "b", "prompt": "y"}\n')
    assert 0 == cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", "--retry-failed").code
    assert {"a": True} == {key: line["ok"] for key, line in results(cli.work / "out.jsonl").items()}


@pytest.mark.parametrize("executor", ["local", "processes"])
def test_interrupted(cli: Cli, executor: str) -> None:
    """Ctrl-C finishes what is in flight; a second one ends it. Both leave a file to go on with."""
    ids, out = write_items(cli.work / "in.jsonl", 40), cli.work / "out.jsonl"
    command = ("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", "-j", "2", "-O", "delay=0.01")
    command = (*command, "--executor", executor)
    for again in (False, True):
        process = cli.start(*command)
        wait_for_results(out, 1 + (len(results(out)) if again else 0))
        process.send_signal(signal.SIGINT)
        assert any(b"Ctrl-C again" in line for line in process.stderr)
        if again:
            process.send_signal(signal.SIGINT)
        assert 130 == process.wait(SECONDS)
    assert 0 == cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl").code
    assert ids == set(results(out))


@pytest.mark.parametrize("limit", ["rpm", "tpm"])
@pytest.mark.parametrize("place", ["option", "configuration"])
def test_limits_of_a_minute(cli: Cli, limit: str, place: str) -> None:
    """With one request or one token in a minute, the second item waits until the batch is ended."""
    write_items(cli.work / "in.jsonl", 20)
    options = (f"--{limit}", "1") if place == "option" else ()
    if not options:
        assert 0 == cli("config", "set", f"batch.limits.demo.{limit}", "1").code
    out = cli.work / "out.jsonl"
    process = cli.start("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", *options)
    wait_for_results(out, 1)
    process.send_signal(signal.SIGTERM)
    assert 143 == process.wait(SECONDS)
    assert 1 == len(results(out))


def test_limits_of_one_provider() -> None:
    """The lower limit of the options and the configuration applies; each worker has its part of both."""
    tables = {"a": LimitsTable(rpm=60, concurrency=4), "b": LimitsTable(rpm=900, tpm=80), "c": LimitsTable()}
    spec = WorkerSpec(factory="m:f", recipe={}, concurrency=16, rpm=200, most_workers=4)
    found = [provider_limits(part, tables) for part in spec.divide(2)]
    of_providers = {
        "a": ProviderLimits(2, 30),
        "b": ProviderLimits(8, 100, 40),
        "c": ProviderLimits(8, 100),
    }
    assert [(ProviderLimits(8, 100), of_providers)] * 2 == found


def _worker_processes(pid: int) -> list[int]:
    """Return the worker processes of a batch."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child) for child in children if b"process_worker" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def test_processes_have_the_same_results(cli: Cli) -> None:
    """Whatever executor runs the items, the answers, the failures and the records are the same."""
    write_items(cli.work / "in.jsonl", 20)
    with (cli.work / "in.jsonl").open("a") as file:
        file.write('{"id": "bad", "prompt": "x", "files": ["missing"]}\n')
        file.write(f'{{"id": "number", "prompt": "x", "n": {10**30}, "text": "\\ud800\\u0000"}}\n')
    found = {}
    for executor in ("local", "processes"):
        command = ("batch", "in.jsonl", *DEMO, "-o", f"{executor}.jsonl", "--records", executor)
        done = cli(*command, "--keep", "n", "--keep", "text", "--executor", executor)
        assert (1, True) == (done.code, "21 answered · 1 failed" in done.err)
        lines = results(cli.work / f"{executor}.jsonl")
        found[executor] = {name: {**line, "duration_ms": 0} for name, line in lines.items()}
        assert 21 == len(list((cli.work / executor).iterdir()))  # the last one has no run
    assert {"n": 10**30, "text": "\ufffd\0"} == found["local"]["number"]["variables"]
    assert found["local"] == found["processes"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_worker_process(cli: Cli) -> None:
    """If a worker process is killed, its items are run again by a new one."""
    ids, out = write_items(cli.work / "in.jsonl", 60), cli.work / "out.jsonl"
    options = ("--executor", "processes", "--executor-option", "workers=2", "-O", "delay=0.01", "-j", "4")
    process = cli.start("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", *options)
    wait_for_results(out, 1)
    os.kill(_worker_processes(process.pid)[0], signal.SIGKILL)
    assert 0 == process.wait(SECONDS)
    assert (
        b"was ended by SIGKILL, as happens when memory runs out. Its items are run again."
        in process.stderr.read()
    )
    assert ids == set(results(out))


@pytest.mark.parametrize("start", ["subprocess.Popen(['sleep', '60']).pid", "fork()"])
def test_a_killed_worker_process_with_a_child(cli: Cli, start: str) -> None:
    """The end of a worker is noticed while a process that its tool has left holds the pipes open."""
    (cli.work / "tools.py").write_text(
        "import os, signal, subprocess, time\nfrom tinyagent.tools import tool\n\n"
        "def fork():\n    child = os.fork()\n    if not child:\n        time.sleep(60)\n    return child\n\n"
        "@tool\ndef end() -> str:\n    '''End the process once.'''\n"
        "    if os.path.exists('child'):\n        return 'done'\n"
        f"    with open('child', 'w') as file:\n        file.write(str({start}))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (cli.work / "in.jsonl").write_text('{"id": "a", "prompt": "end"}\n{"id": "b", "prompt": "hello"}\n')
    options = ("-t", "./tools.py", "-y", "--executor", "processes", "--executor-option", "workers=1")
    try:
        done = cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", *options)
    finally:
        os.kill(int((cli.work / "child").read_text()), signal.SIGKILL)
    assert (0, True) == (done.code, "SIGKILL" in done.err)
    assert "end: done" == results(cli.work / "out.jsonl")["a"]["text"]


def test_what_worker_processes_print(cli: Cli) -> None:
    """What tools print is shown as notes of their process, up to 20 lines, and not in the results."""
    (cli.work / "tools.py").write_text(
        "from tinyagent.tools import tool\n\n@tool\ndef say() -> str:\n"
        "    '''Print.'''\n    print('hello')\n    return 'said'\n"
    )
    (cli.work / "in.jsonl").write_text('{"prompt": "say"}\n' * 30)
    options = (
        "-t",
        "tools.py",
        "-y",
        "--executor",
        "processes",
        "--executor-option",
        "workers=64",
        "-j",
        "1",
    )
    done = cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", *options)
    assert {"say: said"} == {line["text"] for line in results(cli.work / "out.jsonl").values()}
    assert 20 == len(re.findall(r"Worker process \d+: hello", done.err))
    assert 1 == done.err.count("prints more, which is not shown.")
    assert "1 worker, not 64: -j and batch.limits.NAME.concurrency allow no more requests" in done.err


def test_the_limit_of_another_provider(cli: Cli) -> None:
    """A limit of a provider does not reduce the workers of a batch with another one. Its own items fail."""
    items = ({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x", "model": "ollama/m"})
    (cli.work / "in.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items))
    assert 0 == cli("config", "set", "batch.limits.ollama.concurrency", "1").code
    options = ("--executor", "processes", "--executor-option", "workers=2")
    done = cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", *options)
    found = results(cli.work / "out.jsonl")
    assert (1, False) == (done.code, "1 worker, not 2" in done.err)
    assert (True, False) == (found["a"]["ok"], found["b"]["ok"])
    assert found["b"]["error"]["message"].startswith("2 workers cannot share the limit of ollama")


def test_a_worker_process_that_dies_at_its_start(cli: Cli) -> None:
    """The error has what to do next."""
    (cli.work / "tools.py").write_text(
        "import os, sys\nfrom tinyagent.tools import tool\n\n"
        "if 'process_worker' in sys.argv[0]:\n    os._exit(7)\n\n"
        "@tool\ndef say() -> str:\n    '''Say.'''\n    return 'said'\n"
    )
    write_items(cli.work / "in.jsonl", 1)
    options = ("-t", "tools.py", "--executor", "processes", "--executor-option", "workers=1")
    done = cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", *options)
    assert (1, "") == (done.code, (cli.work / "out.jsonl").read_text())
    assert "ended with exit code 7." in done.err
    assert "To see the cause in this process: --executor local" in done.err


def test_an_item_that_ends_its_workers(cli: Cli) -> None:
    """After the third worker it fails, and no message says that it is run again."""
    (cli.work / "tools.py").write_text(
        "import os, signal\nfrom tinyagent.tools import tool\n\n"
        "@tool\ndef end() -> str:\n    '''End the process.'''\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (cli.work / "in.jsonl").write_text('{"id": "a", "prompt": "end"}\n')
    options = ("-t", "./tools.py", "-y", "--executor", "processes", "--executor-option", "workers=1")
    done = cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", *options)
    message = results(cli.work / "out.jsonl")["a"]["error"]["message"]
    assert (1, "3 workers ended while they ran this item.") == (done.code, message)
    assert (3, 2) == (done.err.count("was ended by SIGKILL"), done.err.count("Its items are run again."))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_command_leaves_no_process(cli: Cli) -> None:
    """If the command is killed, its worker processes end, and the same command goes on."""
    ids, out = write_items(cli.work / "in.jsonl", 40), cli.work / "out.jsonl"
    command = ("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", "--executor", "processes", "-O", "delay=0.01")
    process = cli.start(*command)
    wait_for_results(out, 1)
    workers = _worker_processes(process.pid)
    process.kill()
    process.wait(SECONDS)
    assert [] != workers
    wait_until(lambda: not any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers))
    assert 0 == cli(*command).code
    assert ids == set(results(out))


def test_worker_processes_share_the_limits(cli: Cli) -> None:
    """A provider that allows one request at a time gets no second one from another process."""
    write_items(cli.work / "in.jsonl", 6)
    assert 0 == cli("config", "set", "batch.limits.openai.concurrency", "1").code
    with FakeServer(*[FakeReply.text("Yes.")] * 6) as server:
        environment = as_openai(server)
        command = ("batch", "in.jsonl", "-m", "openai/m", "-o", "out.jsonl", "--executor", "processes")
        assert 0 == cli(*command, **environment).code
        assert 1 == len({request.connection for request in server.requests})


def test_an_unknown_executor(cli: Cli) -> None:
    """The error names the executors and how to get others; OUT is not created."""
    write_items(cli.work / "in.jsonl", 1)
    done = cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", "--executor", "proceses")
    assert 3 == done.code
    assert "Unknown executor 'proceses'. Did you mean 'processes'? Installed: local, processes." in done.err
    assert "tinyagent plugins install tinyagent-ray" in done.err
    assert not (cli.work / "out.jsonl").exists()


def test_options_of_an_executor(cli: Cli) -> None:
    """An option of the command line takes precedence over the configuration; a wrong one is an error."""
    write_items(cli.work / "in.jsonl", 1)
    assert 0 == cli("config", "set", "executors.processes.workers", "0").code
    command = ("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", "--executor", "processes")
    assert (3, True) == ((done := cli(*command)).code, "Expected `int` >= 1" in done.err)
    assert 0 == cli(*command, "--executor-option", "workers=1").code
    wrong = cli(*command, "--executor-option", "workers")
    assert (2, True) == (wrong.code, "--executor-option workers: write it as KEY=VALUE." in wrong.err)


def test_workers_elsewhere_need_no_files(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment for workers has the settings and the key of the batch's provider, and shows neither."""
    monkeypatch.setenv("TINYAGENT_HOME", str(cli.work))
    (cli.work / "config.toml").write_text(
        '[run]\nmax_turns = 7\n[providers.mine]\nbase_url = "http://127.0.0.1:1/v1"\n'
        '[aliases]\nfast = "mine/m"\n[plugins]\ndisable = ["audit"]\n'
    )
    settings = load_settings()
    keyless = Provider("mine", ScriptedProvider(), lambda model_id, options: Model(id=model_id))
    found = worker_environment(settings, keyless, "sk-test-CANARY")
    assert "sk-test-CANARY" not in repr(found)
    monkeypatch.setenv("TINYAGENT_HOME", str(cli.work / "nothing"))
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    there = load_settings()
    assert (7, {"fast": "mine/m"}) == (there.run.max_turns, there.aliases)
    assert settings.disabled_plugins == there.disabled_plugins
    assert "sk-test-CANARY" == there.api_key("mine", there.providers["mine"].api_key_env)


async def test_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal the progress is a line every 10 s, until the end."""
    assert 10.0 == progress.LINE_S
    monkeypatch.setattr(progress, "LINE_S", 0.001)
    counts = Counts()
    counts.total = 3
    counts.add(ItemResult(id="a", line=b"", ok=True))
    display = ProgressDisplay(AppContext(()), counts)
    display.start()
    shown = ""
    while shown.count("1 answered · 2 left") < 3:
        await asyncio.sleep(0.001)
        shown += capsys.readouterr().err
    display.stop()
    capsys.readouterr()
    await asyncio.sleep(0.01)
    assert "" == capsys.readouterr().err


def test_the_budget_of_the_batch(cli: Cli) -> None:
    """--max-cost starts no more items; the same command goes on with the rest."""
    ids, out = write_items(cli.work / "in.jsonl", 3), cli.work / "out.jsonl"
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.6}
    reply = FakeReply.chunks(chat_chunk({"content": "Yes."}), chat_chunk({}, "stop", usage=usage))
    with FakeServer(*[reply] * 3) as server:
        environment = as_openai(server)
        command = ("batch", "in.jsonl", "-m", "openai/m", "-o", "out.jsonl", "-j", "1", "--max-cost", "1")
        stopped = cli(*command, **environment)
        assert (4, 2) == (stopped.code, len(results(out)))
        assert "The batch reached its budget of $1 (--max-cost)." in stopped.err
        assert (0, ids) == (cli(*command, **environment).code, set(results(out)))
        assert 3 == len(server.requests)


@pytest.mark.parametrize("status", [429, 503, 529])
def test_refused_requests_are_repeated(cli: Cli, status: int) -> None:
    """Requests that the provider refuses are repeated later, so all items have an answer."""
    ids = write_items(cli.work / "in.jsonl", 8)
    refusals = [FakeReply.error(status, "Too many requests.", **{"retry-after": "0"})] * 4
    with FakeServer(*refusals, *[FakeReply.text("Yes.")] * 8) as server:
        environment = as_openai(server)
        limits = ("--rpm", "60000", "--tpm", "1e9", "-j", "4")
        done = cli("batch", "in.jsonl", "-m", "openai/m", "-o", "out.jsonl", *limits, **environment)
        assert 12 == len(server.requests)
    found = results(cli.work / "out.jsonl")
    assert (0, ids, {True}) == (done.code, set(found), {line["ok"] for line in found.values()})


def test_progress_on_a_terminal(cli: Cli) -> None:
    """A terminal shows a bar, which the summary replaces; bad lines are shown above it."""
    write_items(cli.work / "in.jsonl", 20)
    with (cli.work / "in.jsonl").open("a") as file:
        file.write("bad\n")
    terminal = cli.on_terminal(
        "batch", "in.jsonl", *DEMO, "-o", "out.jsonl", "-j", "1", "-O", "delay=0.0005", columns=120
    )
    terminal.expect(" left · ")
    assert 1 == terminal.end()
    shown = terminal.screen(120)
    assert [] == [line for line in shown if "left" in line]
    assert "Warning: Line 21 is skipped: it is not JSON" in " ".join(shown[-4:-1])
    assert shown[-2].startswith("20 answered · 1 failed · ")
    assert "bad_line: 1" == shown[-1].strip()


def test_progress_of_any_width() -> None:
    """On a narrow terminal the bar and the speed make room for what is left."""
    counts = Counts()
    counts.total = 2_000
    for number in range(100):
        counts.add(ItemResult(id=str(number), line=b"", ok=number > 2, kind="timeout", output_tokens=9))
    display = ProgressDisplay(AppContext(()), counts)
    shown = {width: display.line(width) for width in (200, 70, 55, 20)}
    assert ["█", "█", "9", "9"] == [line[0] for line in shown.values()]
    assert [True, False, False, False] == [" tokens/s · about " in line for line in shown.values()]
    assert all("97 answered · 3 failed · 1,900 left · " in line for line in list(shown.values())[:3])
    assert (20, "…") == (len(shown[20]), shown[20][-1])


def test_stored_template(cli: Cli) -> None:
    """A template is the prompt of all items, with its schema. An item without a value is a bad line."""
    template = cli.work / ".tinyagent/templates/person.md"
    template.parent.mkdir(parents=True)
    head = '+++\nschema = "name, age int"\nsystem = "For {{ name }}"\n+++\n'
    template.write_text(head + "name={{ name }} age={{ age }}")
    (cli.work / "in.jsonl").write_text('{"id": "a", "name": "Ada", "age": 36}\n{"id": "b", "name": "Bob"}\n')
    options = ("-p", "person", "--records", "records")
    done = cli("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", *options)
    assert (1, True) == (done.code, "Line 2 is skipped: there is no value for age." in done.err)
    assert {"a": {"name": "Ada", "age": 36}} == {
        name: line["value"] for name, line in results(cli.work / "out.jsonl").items()
    }
    header = read_lines(cli.work / "records/a.jsonl")[0]
    assert "For Ada" == header["system_prompt"]
    assert 2 == cli("batch", "in.jsonl", *DEMO, "-o", "x.jsonl", "-p", "person", "--prompt", "x").code


def test_memory_does_not_grow_with_the_file(cli: Cli) -> None:
    """A line of the input or of the results takes less memory than it has bytes."""
    answer = '{{"type":"result","id":"i{}","ok":true,"text":"{}"}}\n'
    most: list[int] = []
    for number in (1_000, 40_000):
        write_items(cli.work / "in.jsonl", number)
        (cli.work / "out.jsonl").write_text("".join(answer.format(n, "x" * 400) for n in range(number)))
        command = cli.command("batch", "in.jsonl", *DEMO, "-o", "out.jsonl", "-q")
        # The kernel counts the memory of the process that forks, too, so a small one does that.
        process = cli.start(program=[sys.executable, "-c", MEASURE, *command])
        most.append(int(process.communicate(timeout=SECONDS)[0]))
        assert 0 == process.returncode
    assert (most[1] - most[0]) * 1024 < 39_000 * 300


def test_the_lines_for_openai(cli: Cli) -> None:
    """A command of docs/batch.md makes the lines of OpenAI's batch API from the results."""
    commands, conversion = (block for block in blocks(ROOT / "docs" / "batch.md") if block.language == "sh")
    for block in (commands, conversion):
        done = cli.shell(block.text.replace("tinyagent", "$T"))
        assert 0 == done.code, done.err
    converted = [json.loads(line) for line in done.out.splitlines()]
    assert {"7", "8", "9"} == {line["custom_id"] for line in converted}
    assert {"name": "Ada", "age": 36} in [
        json.loads(line["response"]["body"]["choices"][0]["message"]["content"]) for line in converted
    ]
