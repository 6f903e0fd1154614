"""The executor on a real cluster: the same results as on one machine, also if a node is lost."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.state import list_actors, list_runtime_envs, list_tasks

from tinyagent.errors import ConfigurationError
from tinyagent.executors import BatchItem, Executor, ItemResult, WorkerSpec
from tinyagent.testing import ExecutorContract, FakeReply, FakeServer
from tinyagent_ray import RayExecutor, RayOptions
from tinyagent_ray._node import find_problems

TINYAGENT = Path(sys.executable).with_name("tinyagent")
KEY = "sk-test-CANARY-0123456789"
SECONDS = 120.0

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="session")
def address(cluster: Any) -> str:
    """Return the address of the cluster."""
    return str(cluster.address)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a working directory with 40 items, of which one fails."""
    lines = [json.dumps({"id": f"i{number}", "prompt": f"Say {number}."}) for number in range(40)]
    lines.append('{"id": "bad", "prompt": "x", "files": ["missing"]}')
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


@contextmanager
def started(work: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start a batch in its own process group, as a shell does. End it after the test."""
    command = [TINYAGENT, "batch", "in.jsonl", *arguments]
    own = {**os.environ, "TINYAGENT_HOME": str(work / "home"), **environment}
    process = subprocess.Popen(
        command, cwd=work, env=own, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, process_group=0,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def batch(work: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run a batch. Return its exit code and standard error."""
    with started(work, *arguments, **environment) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert "" == out
    return process.returncode, err


def on_ray(address: str, *options: str) -> list[str]:
    """Return the arguments for the cluster."""
    pairs = [f"address={address}", *options]
    return ["--executor", "ray", *(part for pair in pairs for part in ("--executor-option", pair))]


def results(path: Path) -> dict[str, dict[str, Any]]:
    """Return the lines by id, without their duration. Each id has one."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = {line["id"]: {**line, "duration_ms": 0} for line in lines}
    assert len(lines) == len(found)
    return found


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_lines(path: Path, number: int) -> bool:
    """Return whether a file has this many lines."""
    return path.exists() and path.read_bytes().count(b"\n") >= number


def test_the_results_are_those_of_one_machine(work: Path, address: str) -> None:
    """The lines of OUT and the records are the same, and the same command has nothing left to do."""
    assert 1 == batch(work, "-m", "demo", "-o", "local.jsonl", "--records", "records")[0]
    command = ("-m", "demo", "-o", "ray.jsonl", "--records", "shared", *on_ray(address))
    code, err = batch(work, *command)
    assert 1 == code, err
    assert results(work / "local.jsonl") == results(work / "ray.jsonl")
    assert 40 == len(list((work / "shared").iterdir()))
    assert "40 had an answer before" in batch(work, *command)[1]


def test_a_node_is_lost(work: Path, cluster: Any, address: str) -> None:
    """If a node is killed in the middle, its items are done by the other one, and none is done twice."""
    node = cluster.add_node(num_cpus=2)
    assert 1 == batch(work, "-m", "demo", "-o", "local.jsonl")[0]
    arguments = ("-m", "demo", "-o", "out.jsonl", "-j", "8", "-O", "delay=0.02")
    with started(work, *arguments, *on_ray(address, "workers=4")) as process:
        wait_for(lambda: has_lines(work / "out.jsonl", 8))
        assert not has_lines(work / "out.jsonl", 41)
        cluster.remove_node(node, allow_graceful=False)
        _, err = process.communicate(timeout=SECONDS)
    assert 1 == process.returncode, err
    assert "Its items are run again." in err
    assert "state-dump" not in err
    local, there = results(work / "local.jsonl"), results(work / "out.jsonl")
    assert {name: line["text"] for name, line in local.items()} == {
        name: line["text"] for name, line in there.items()
    }


def test_a_node_was_lost_before(work: Path, cluster: Any, address: str) -> None:
    """A batch that starts before Ray has noticed the loss of a node runs on the other one."""
    cluster.remove_node(cluster.add_node(num_cpus=2), allow_graceful=False)
    code, err = batch(work, "-m", "demo", "-o", "out.jsonl", *on_ray(address))
    assert (1, 41) == (code, len(results(work / "out.jsonl"))), err


def test_the_key_is_in_no_log(work: Path, address: str, ray_folder: Path) -> None:
    """Workers have the key of the model. Ray's logs, its state and its dashboard do not show it."""
    with FakeServer(*[FakeReply.text("Yes.")] * 41) as server:
        environment = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url}
        code, err = batch(work, "-m", "openai/m", "-o", "out.jsonl", *on_ray(address), **environment)
    assert 1 == code, err
    assert {f"Bearer {KEY}"} == {request.headers["authorization"] for request in server.requests}
    dashboard = ray.init(address=address, log_to_driver=False).dashboard_url
    try:
        shown = repr([list_actors(detail=True), list_tasks(detail=True), list_runtime_envs(detail=True)])
    finally:
        ray.shutdown()
    for path in ("/nodes?view=summary", "/logical/actors"):
        with urllib.request.urlopen(f"http://{dashboard}{path}", timeout=SECONDS) as response:
            shown += response.read().decode()
    assert shown.count("WorkerActor") > 2
    logs = b"".join(path.read_bytes() for path in ray_folder.rglob("*") if path.is_file())
    assert b"WorkerActor" in logs
    for text in (shown, logs.decode(errors="replace"), err):
        assert KEY not in text


def test_interrupted(work: Path, address: str) -> None:
    """Ctrl-C finishes what is in flight, and the same command goes on; no actor stays behind."""
    arguments = ("-m", "demo", "-o", "out.jsonl", "-j", "2", *on_ray(address, "workers=2"))
    with started(work, *arguments, "-O", "delay=0.1") as process:
        wait_for(lambda: has_lines(work / "out.jsonl", 2))
        os.killpg(process.pid, signal.SIGINT)
        assert 130 == process.wait(SECONDS)
    done = len(results(work / "out.jsonl"))
    assert 2 <= done < 41
    code, err = batch(work, *arguments)
    assert (1, 41) == (code, len(results(work / "out.jsonl"))), err
    ray.init(address=address, log_to_driver=False)
    try:
        wait_for(lambda: not list_actors(filters=[("state", "=", "ALIVE")]))
    finally:
        ray.shutdown()


def test_killed(work: Path, address: str) -> None:
    """After kill -9 of the command, Ray ends the actors, and the same command goes on."""
    arguments = ("-m", "demo", "-o", "out.jsonl", "-j", "2", *on_ray(address, "workers=2"))
    with started(work, *arguments, "-O", "delay=0.1"):
        wait_for(lambda: has_lines(work / "out.jsonl", 2))
    ray.init(address=address, log_to_driver=False)
    try:
        wait_for(lambda: not list_actors(filters=[("state", "=", "ALIVE")]))
    finally:
        ray.shutdown()
    code, err = batch(work, *arguments)
    assert (1, 41) == (code, len(results(work / "out.jsonl"))), err


def test_interrupted_twice(work: Path, address: str) -> None:
    """The second Ctrl-C ends the batch at once, and what was in flight has no line."""
    arguments = ("-m", "demo", "-o", "out.jsonl", "-j", "2", "-O", "delay=0.1")
    with started(work, *arguments, *on_ray(address, "workers=2")) as process:
        wait_for(lambda: has_lines(work / "out.jsonl", 2))
        os.killpg(process.pid, signal.SIGINT)
        stderr = process.stderr
        assert stderr is not None
        wait_for(lambda: "Ctrl-C again" in stderr.readline())
        os.killpg(process.pid, signal.SIGINT)
        assert 130 == process.wait(SECONDS)
    assert 2 <= len(results(work / "out.jsonl")) < 41


def test_interrupted_while_ray_starts(work: Path, ray_folder: Path) -> None:
    """Ctrl-C ends a batch that starts Ray, and no process of Ray stays behind."""
    folder = ray_folder / "start"
    arguments = ("-m", "demo", "-o", "out.jsonl", "--executor", "ray")
    with started(work, *arguments, RAY_TMPDIR=str(folder)) as process:
        wait_for(lambda: _processes_with(str(folder)))
        os.killpg(process.pid, signal.SIGINT)
        assert 130 == process.wait(SECONDS)
    wait_for(lambda: not _processes_with(str(folder)))


def test_the_head_is_lost(work: Path, cluster: Any) -> None:
    """If the head of a cluster ends, so does the batch. It says what to do, and the results are there."""
    other = type(cluster)(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    address = str(other.address)
    arguments = ("-m", "demo", "-o", "out.jsonl", "-j", "2", "-O", "delay=0.1")
    with started(work, *arguments, *on_ray(address)) as process:
        wait_for(lambda: has_lines(work / "out.jsonl", 2))
        other.shutdown()
        _, err = process.communicate(timeout=SECONDS)
    assert (1, True) == (process.returncode, f"at {address} is lost" in err), err
    assert "the same command again" in err
    assert 2 <= len(results(work / "out.jsonl")) < 41


@pytest.mark.skipif(shutil.which("jq") is None and "CI" not in os.environ, reason="jq is not installed")
def test_a_cluster_of_its_own(tmp_path: Path, ray_folder: Path) -> None:
    """Without an address, Ray runs on this machine for the batch only: the first step of README.md."""
    page = Path(__file__).parent.parent.joinpath("README.md").read_text("utf-8")
    [block] = re.findall(r"^```console \S+\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    script = "".join(re.findall(r"^\$ (.*\n)", block, re.MULTILINE))
    output = re.sub(r"^\$ .*\n", "", block, flags=re.MULTILINE)
    folder = str(ray_folder / "own")  # a short path, because it contains sockets
    own = {"PATH": f"{TINYAGENT.parent}{os.pathsep}{os.environ['PATH']}", "RAY_TMPDIR": folder}
    done = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env={**os.environ, **own, "TINYAGENT_HOME": str(tmp_path / "home")}, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert (0, output) == (done.returncode, done.stdout), done.stderr
    wait_for(lambda: not _processes_with(folder))


def _processes_with(text: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            pass  # it has ended
    return found


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["address=127.0.0.1:1"], 3, "There is no Ray cluster at 127.0.0.1:1"),
        (["adress=auto"], 3, "unknown field `adress`"),
        (["workers=0"], 3, "Expected `int` >= 1"),
        (["working_dir=nowhere"], 3, "working_dir: nowhere is not a folder."),
    ],
)
def test_wrong_options(work: Path, options: list[str], code: int, message: str) -> None:
    """A wrong option and an address without a cluster are errors, and OUT has no lines."""
    pairs = [part for option in options for part in ("--executor-option", option)]
    ended, err = batch(work, "-m", "demo", "-o", "out.jsonl", "--executor", "ray", *pairs)
    assert (code, True) == (ended, message in err), err
    assert not has_lines(work / "out.jsonl", 1)


def test_a_copied_working_directory(work: Path, address: str) -> None:
    """`working_dir` copies a folder to the nodes, with the tools and files that items use."""
    (work / "project").mkdir()
    (work / "project/note.txt").write_text("a note")
    (work / "in.jsonl").write_text('{"id": "a", "prompt": "x", "files": ["note.txt"]}\n')
    (work / "note.txt").write_text("not this one")
    code, err = batch(work, "-m", "demo", "-o", "out.jsonl", *on_ray(address, "working_dir=project"))
    assert 0 == code, err


@pytest.fixture(scope="module")
def connected(address: str) -> Iterator[None]:
    """Connect this process to the cluster."""
    ray.init(address=address, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("connected")
class TestRay(ExecutorContract):
    """What every executor does."""

    def make_executor(self) -> Executor:
        return RayExecutor(RayOptions(workers=2))


class _Job:
    """A job without items."""

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.draining, self.aborted = asyncio.Event(), asyncio.Event()

    async def done(self, result: ItemResult) -> None:
        raise AssertionError(result)

    async def failed(self, item: BatchItem, error: Exception) -> None:
        raise AssertionError(error)

    def note(self, text: str) -> None:
        raise AssertionError(text)


async def _no_items() -> AsyncIterator[BatchItem]:
    return
    yield


@pytest.mark.usefixtures("connected")
def test_a_node_that_lacks_a_plugin(tmp_path: Path) -> None:
    """Each node is checked first: the error names the node, what it lacks, and what to do."""
    spec = WorkerSpec(
        factory="m:f", recipe={}, concurrency=1, directory=str(tmp_path / "nowhere"),
        requirements={"tinyagent-core": "99.0", "tinyagent-weather": "1.0"},
    )  # fmt: skip
    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(RayExecutor(RayOptions()).run(spec, _no_items(), _Job()))
    message = str(caught.value)
    assert f"has tinyagent-core {version('tinyagent-core')}, and this machine has 99.0." in message
    assert "lacks tinyagent-weather 1.0." in message
    assert f"has no folder {tmp_path / 'nowhere'}, the working directory of the batch." in message
    assert "pip install tinyagent-core==99.0 tinyagent-weather==1.0" in (caught.value.hint or "")


def test_a_folder_that_is_not_shared(tmp_path: Path) -> None:
    """A node shows that it shares a folder by the file that the command has written into it."""
    (tmp_path / "marker").touch()
    python = sys.version_info[:2]
    assert [] == find_problems("Node n", python, {}, str(tmp_path), [str(tmp_path / "marker")])
    assert [f"Node n does not share the folder {tmp_path} with this machine."] == find_problems(
        "Node n", python, {}, None, [str(tmp_path / "missing")]
    )
    assert ["Node n has Python 3.11, and this machine has 2.7. Ray needs the same version."] == [
        problem.replace(f"Python {python[0]}.{python[1]}", "Python 3.11")
        for problem in find_problems("Node n", (2, 7), {}, None, [])
    ]
