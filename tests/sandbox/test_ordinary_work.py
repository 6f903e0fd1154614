"""What a program in the sandbox can do: the work for which agents run commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tinyagent.sandbox import Policy

from .conftest import CANARY, World

WORK = {
    "change a file": "echo changed >> main.py && grep changed main.py",
    "create and remove files below": "cd work && mkdir new && echo x > new/a && mv new old && rm -r old",
    "link in the project": "cd work && ln -s notes.txt a && ln notes.txt b && cat a && rm a b",
    "use temporary files": 'f=$(mktemp) && echo x > "$f" && cat "$f" && rm "$f"',
    "read the system": "cat /etc/passwd > /dev/null && ls / > /dev/null && cat /proc/self/status > /dev/null",
    "read the home folder": "cat ~/notes.txt",
    "use pipes and processes": "seq 3 | sort -r | (read first; test $first = 3) && cat <(echo x) > /dev/null",
    "read the state of a repository": "git status --short && git diff --stat",
    "run Python": "$PYTHON main.py && $PYTHON -c \"import subprocess; subprocess.run(['true'], check=True)\"",
    "use a database": "$PYTHON -c \"import sqlite3; sqlite3.connect('work/x').execute('create table t(a)')\"",
    "use threads": '$PYTHON -c "import threading; t = threading.Thread(target=print); t.start(); t.join()"',
    "use an event loop": '$PYTHON -c "import asyncio; asyncio.run(asyncio.sleep(0))"',
    "write caches": 'mkdir -p "$XDG_CACHE_HOME/x" && echo x > "$XDG_CACHE_HOME/x/y"',
    "signal its own processes": "sleep 100 & kill $! && ! wait $!",
    "use devices": "head -c 8 /dev/urandom > /dev/null && head -c 1 /dev/zero > /dev/null",
}


@pytest.mark.parametrize("name", WORK)
def test_ordinary_work_goes_on(world: World, mechanism: str, name: str) -> None:
    """A command ends with exit code 0."""
    ended = world.run(mechanism, f"set -e\n{WORK[name]}")
    assert 0 == ended.code, ended.output


def test_a_program_is_compiled(world: World, mechanism: str) -> None:
    """A compiler writes its temporary files and its result."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    ended = world.run(
        mechanism, "cd work && echo 'int main(void){return 7;}' > x.c && cc -o x x.c && ./x; test $? = 7"
    )
    assert 0 == ended.code, ended.output


def test_new_files_directly_in_a_folder(world: World, mechanism: str) -> None:
    """Bubblewrap permits them everywhere. With Landlock they need a folder in which nothing is protected."""
    ended = world.run(mechanism, "echo x > new")
    assert (mechanism == "bubblewrap") == (ended.code == 0), ended.output
    for name in (".git", "sub", "layout", "apart", "apart-data", "mirror.git"):
        shutil.rmtree(world.project / name)
    (world.home / ".bashrc").unlink()
    ended = world.run(mechanism, "echo x > newer")
    assert 0 == ended.code, ended.output


def test_the_exit_code_is_that_of_the_program(world: World, mechanism: str) -> None:
    """A signal is reported as by a shell or by the kernel."""
    assert 7 == world.run(mechanism, "exit 7").code
    assert world.run(mechanism, "kill -9 $$").code in (137, -9)


def test_the_working_directory_and_the_variables(world: World, mechanism: str) -> None:
    """A program starts where it should, and has the variables of the policy and no others."""
    ended = world.run(mechanism, "pwd; env", MARK="here")
    lines = ended.output.splitlines()
    assert str(world.project) == lines[0]
    assert "MARK=here" in lines
    names = {line.partition("=")[0] for line in lines[1:]}
    assert not names & {name for name in os.environ if "PYTEST" in name}


def test_no_descriptor_is_inherited(world: World, mechanism: str) -> None:
    """A program has standard input, output and error, and nothing else that was open."""
    with (world.outside / "file").open() as file:
        os.set_inheritable(file.fileno(), True)
        ended = world.run(mechanism, "ls -l /proc/self/fd")
    opened = [line for line in ended.output.splitlines() if "->" in line]
    assert 4 == len(opened), ended.output  # the fourth is that of `ls`
    assert str(world.outside) not in ended.output


def test_temporary_files_last_between_commands(world: World, mechanism: str) -> None:
    """The programs of one sandbox share a private folder, which is removed with it."""
    made = world.sandbox(mechanism)
    policy = Policy(writable=[world.project], environment=world.environment())
    for script in ('echo kept > "$TMPDIR/note"', 'grep kept "$TMPDIR/note"'):
        with made.launch(["/bin/bash", "-c", script], policy, cwd=world.project) as launch:
            world.give()
            subprocess.run(
                launch.command,
                env=launch.environment,
                pass_fds=launch.descriptors,
                cwd=world.project,
                check=True,
                **world.identity(),
            )
    left = list(Path(tempfile.gettempdir()).iterdir())
    assert 1 == len(left)
    world._made.clear()
    del made, launch
    assert [] == list(Path(tempfile.gettempdir()).iterdir())


def test_readable_folders(world: World, mechanism: str) -> None:
    """With a list of readable folders, the rest of the machine is out of sight, and the system works."""
    policy = Policy(writable=[world.project], readable=[world.outside], environment=world.environment())
    ended = world.run(mechanism, "cat main.py ../outside/file; cat ~/notes.txt", policy)
    assert "outside\n" in ended.output
    assert "notes\n" not in ended.output


def test_visible_files(world: World, mechanism: str) -> None:
    """A file in a hidden folder is readable if the policy says so."""
    key = world.home / ".ssh/id_test"
    policy = Policy(visible=[key], environment=world.environment())
    assert CANARY in world.run(mechanism, f"cat {key}", policy).output


def test_hidden_and_protected_paths(world: World, mechanism: str) -> None:
    """Further paths can be hidden and protected."""
    policy = Policy(
        writable=[world.project],
        hidden=[world.home / "notes.txt"],
        protected=[world.project / "main.py"],
        environment=world.environment(),
    )
    ended = world.run(mechanism, "cat ~/notes.txt; echo x >> main.py; cat main.py", policy)
    assert "notes\n" not in ended.output
    assert "print('main')" == (world.project / "main.py").read_text().strip()


def test_the_network_can_be_permitted(world: World, mechanism: str) -> None:
    """With `network`, a program reaches a server."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        policy = Policy(writable=[world.project], network=True, environment=world.environment())
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5); print('connected')"
        ended = world.run(mechanism, f'$PYTHON -c "{code}"', policy)
    assert "connected" in ended.output


def test_a_read_only_working_directory_in_tmp(world: World) -> None:
    """Bubblewrap starts in it, although `/tmp` is private; a key in it stays hidden."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        Path(folder, "notes.txt").write_text("notes in /tmp\n")
        Path(folder, "key").write_text(CANARY)
        policy = Policy(environment=world.environment(), hidden=[f"{folder}/key"])
        script = f"cd {folder}; cat notes.txt; cat key; touch new"
        made = world.sandbox("bubblewrap")
        with made.launch(["/bin/bash", "-c", script], policy, cwd=folder) as launch:
            world.give()
            ended = subprocess.run(
                launch.command,
                env=launch.environment,
                pass_fds=launch.descriptors,
                capture_output=True,
                text=True,
                check=False,
                **world.identity(),
            )
        assert "notes in /tmp\n" == ended.stdout
        assert "Read-only file system" in ended.stderr
