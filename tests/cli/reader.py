"""A reader of a document, who does what its blocks say, from the first one to the last one."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from . import formats
from .conftest import ROOT, SECONDS, Cli, Done
from .documents import SHELL, Block, matches, python_programs
from .internet import Internet

__all__ = ["Reader", "internet", "new_reader", "reader_of"]

OPTIONAL = ("jq",)
"""Programs that a developer may not have. CI has them."""

MCP_SERVER = Path(__file__).with_name("mcp_server_of_the_reader.py")
LOCAL_SERVERS = ("llamacpp", "lmstudio", "vllm")
"""Servers of this machine with a fixed port, which no test can use."""


class Reader:
    """A reader with an empty working directory and an empty home.

    Variables, the working directory and processes in the background remain from one block to the next.

    Args:
        folder: A folder for all files of the reader.
        environment: The variables.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.home, self.work, self._scratch = (folder / name for name in ("home", "work", "scratch"))
        for path in (self.home, self.work, self._scratch):
            path.mkdir(parents=True, exist_ok=True)
        self.environment = {**environment, "HOME": str(self.home), "PWD": str(self.work)}
        self._groups: list[int] = []

    def follow(self, page: Sequence[Block]) -> None:
        """Do what the blocks say, without those that the page excepts.

        Raises:
            AssertionError: Something else happens than the page says. The message names the block.
        """
        for block in page:
            if block.runs:
                self.do(block)
        for block, program in python_programs(page):
            if block.runs and not block.file:
                self._run_program(block, program)

    def do(self, block: Block) -> None:
        """Save, run or decode a block."""
        if block.file:
            path = self.path(block.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        if kind := formats.kind_of(block):
            folder = self._scratch / str(block.line)
            folder.mkdir()
            try:
                formats.check(kind, block.text, folder)
            except Exception as error:
                raise AssertionError(f"{block} is no {kind}: {error}") from error
        elif block.language in SHELL:
            self._type(block)

    def _run_program(self, block: Block, program: str) -> None:
        file = self._scratch / f"program_{block.line}.py"
        file.write_text(program, encoding="utf-8")
        done = self.run(f"python {shlex.quote(str(file))}")
        assert 0 == done.code, f"{block}: {done.err}"

    def path(self, name: str) -> Path:
        """Return the path of a file that a page names."""
        return self.home / name[2:] if name.startswith("~/") else Path(self.environment["PWD"]) / name

    def _type(self, block: Block) -> None:
        for program in OPTIONAL:
            if program in block.text.split() and shutil.which(program) is None and "CI" not in os.environ:
                pytest.skip(f"{program} is not installed")
        commands = list(block.commands()) if block.language == "console" else [(block.text, "...")]
        for number, (command, expected) in enumerate(commands, 1):
            both = "stderr" in block.words
            if block.language != "console":
                command = f"set -o pipefail\n{command}"  # the output of others is compared
            done = self.run(command, stdin=block.words.get("input", ""), both=both)
            failed = f"{block}: {command} exits with {done.code}: {done.out}{done.err}"
            if "exit" in block.words and number == len(commands):
                assert int(block.words["exit"]) == done.code, failed
            else:
                assert (done.code != 0) == bool(re.search("^Error: ", expected, re.MULTILINE)), failed
            assert matches(expected, done.out), f"{block}: {command} prints {done.out!r} {done.err}"

    def run(self, script: str, *, stdin: str = "", both: bool = False) -> Done:
        """Run a script of bash. Its exported variables and its last working directory remain.

        Args:
            script: The script.
            stdin: Its standard input.
            both: Whether its standard error is a part of its output.
        """
        after = self._scratch / "environment"
        script = f"trap 'env -0 > {shlex.quote(str(after))}' EXIT\n{script}"
        # Files, because a process in the background would hold a pipe open.
        with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
            given.write(stdin.encode())
            given.seek(0)
            process = subprocess.Popen(
                ["bash", "-e", "-c", script],
                cwd=self.environment["PWD"], env=self.environment, start_new_session=True,
                stdin=given if stdin else subprocess.DEVNULL, stdout=out, stderr=out if both else err,
            )  # fmt: skip
            self._groups.append(process.pid)
            code = process.wait(SECONDS)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode().replace(str(self.home), "~"))
        if after.exists():
            lines = after.read_text(encoding="utf-8").split("\0")
            self.environment = dict(line.split("=", 1) for line in lines if line)
        return Done(code, *texts)

    def close(self) -> None:
        """End the processes in the background."""
        for group in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)


def reader_of(cli: Cli, internet: Internet, page: Sequence[Block]) -> Reader:
    """Return a reader with `tinyagent`, Python, a key of OpenAI, and a fake internet.

    A pip of the tests installs our plugins beside the environment, without an index.
    """
    folder = cli.work.parent / "reader"
    programs, site = folder / "bin", folder / "site"
    for path in (programs, site):
        path.mkdir(parents=True)
    python = [sys.executable]
    server = [*python, "-I", "-S", str(MCP_SERVER)]
    commands = {
        "tinyagent": cli.forking_command(),
        "python": python,
        "python3": python,
        "pip": [*python, "-m", "pip"],
        # All servers of MCP.
        "uvx": server,
        "npx": server,
    }
    for name, command in commands.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        (programs / name).chmod(0o755)
    shutil.copy(Path(__file__).with_name("pip_of_the_reader.py"), site / "pip.py")
    environment = {
        **os.environ,
        **internet.environment,
        "COLUMNS": "100",
        "OPENAI_API_KEY": "sk-test-reader",
        "PLUGINS_OF_TINYAGENT": str(ROOT / "plugins"),
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(site),
    }
    del environment["TINYAGENT_HOME"]
    made = Reader(folder, environment)
    texts = "".join(block.text for block in page)
    if local := [name for name in LOCAL_SERVERS if f"{name}/" in texts]:
        config = made.path("~/.config/tinyagent/config.toml")
        config.parent.mkdir(parents=True)
        config.write_text(
            "".join(f'[providers.{name}]\nbase_url = "{internet.address}/v1"\n' for name in local)
        )
    return made


@pytest.fixture
def internet(tmp_path: Path) -> Iterator[Internet]:
    """A fake internet, in which every model replies."""
    with Internet(tmp_path) as started:
        yield started


@pytest.fixture
def new_reader(cli: Cli, internet: Internet) -> Iterator[Callable[[Sequence[Block]], Reader]]:
    """Make a reader of these blocks."""
    made: list[Reader] = []

    def make(page: Sequence[Block]) -> Reader:
        made.append(reader_of(cli, internet, page))
        return made[-1]

    yield make
    for reader in made:
        reader.close()
