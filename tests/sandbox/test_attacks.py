"""Scripts that try to leave the sandbox, as an ordinary user and as root, with bubblewrap and with Landlock.

Each attack also runs without a sandbox, where it must succeed. So no attack passes because it is broken.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tinyagent._sandbox import launcher

from .conftest import CANARY, ESCAPED, World


class Attack(NamedTuple):
    """An attack.

    Attributes:
        script: A script of bash. It succeeds if it prints `ESCAPED` or the canary, or changes a protected
            file.
        by: The users for whom it succeeds outside the sandbox.
        mechanisms: The mechanisms that stop it; docs/sandbox.md names those that do not.
        landlock: The version of Landlock that stops it.
    """

    script: str
    by: tuple[str, ...] = ("ordinary", "root")
    mechanisms: tuple[str, ...] = ("bubblewrap", "landlock")
    landlock: int = 1


def python(code: str) -> str:
    """Return a script of bash that runs Python code."""
    return f"$PYTHON - <<'END'\nimport ctypes, errno, os, socket\n{code}\nEND"


def refused(number: str) -> str:
    """Return code that prints `ESCAPED` unless a system call is refused by a filter."""
    return python(
        "import platform\n"
        f"number = {number}[platform.machine()]\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.syscall(number, 0, 0, 0, 0, 0)\n"
        "if ctypes.get_errno() != errno.EPERM: print('ESCAPED')"
    )


ATTACKS = {
    # ---- files outside
    "overwrite a file": Attack('echo x > "$OUTSIDE/file"'),
    "append to a file": Attack('echo x >> "$OUTSIDE/file"'),
    "create a file": Attack('echo x > "$OUTSIDE/new"'),
    "leave by ..": Attack("echo x > ../outside/file"),
    "leave by a link to a folder": Attack('ln -s "$OUTSIDE" link; echo x > link/new'),
    "leave by a link to a file": Attack('ln -s "$OUTSIDE/file" link; echo x > link'),
    "leave by /proc/self/cwd": Attack("echo x > /proc/self/cwd/../outside/file"),
    "leave by /proc/self/root": Attack('echo x > "/proc/self/root$OUTSIDE/file"'),
    "write by a hard link": Attack('ln "$OUTSIDE/file" here; echo x >> here'),
    "move a file into the project": Attack('mv "$OUTSIDE/file" here'),
    "move a file out of the project": Attack('mv main.py "$OUTSIDE/"'),
    "remove files": Attack('rm -rf "$OUTSIDE"/*'),
    "truncate by path": Attack(python("os.truncate(os.environ['OUTSIDE'] + '/file', 0)")),
    "write from a shell in another session": Attack('setsid bash -c \'echo x > "$OUTSIDE/file"\' & wait'),
    "write after a double fork": Attack('( ( sleep 0.2; echo x > "$OUTSIDE/file" ) & ) ; sleep 1'),
    "change the mode of a file": Attack(
        'chmod 600 "$OUTSIDE/file" && test "$(stat -c %a "$OUTSIDE/file")" = 600 && echo ESCAPED',
        mechanisms=("bubblewrap",),
    ),
    # ---- programs that run by themselves
    "change a start-up file": Attack("echo x >> ~/.profile"),
    "create a start-up file": Attack(
        "echo x > ~/.zshenv; mkdir -p ~/.config/autostart; echo x > ~/.config/autostart/x"
    ),
    "change a start-up file that is a link into the project": Attack("echo x >> dotfiles/bashrc"),
    "replace a start-up file in the project": Attack("echo x > other; mv -f other dotfiles/bashrc"),
    "add a Git hook": Attack("mkdir -p .git/hooks; echo x > .git/hooks/pre-commit"),
    "configure a program in Git": Attack("git config core.fsmonitor ./x"),
    "redirect a repository": Attack("echo ../evil > .git/commondir"),
    "replace the repository": Attack("mv .git old && mkdir .git && echo x > .git/config"),
    "configure a repository below": Attack("echo x >> sub/inner/.git/config"),
    "replace a folder with a repository": Attack(
        "mv sub old && mkdir -p sub/inner/.git && echo x > sub/inner/.git/config"
    ),
    "add a hook to the repository of worktrees": Attack("echo x > layout/.bare/hooks/pre-commit"),
    "configure a bare repository": Attack("git -C mirror.git config core.fsmonitor ./x"),
    "configure a repository with separate data": Attack("git -C apart config core.fsmonitor ./x"),
    # ---- secrets
    "read a key": Attack("cat ~/.ssh/id_test"),
    "read a password": Attack("cat ~/.netrc"),
    "read the keys of tinyagent": Attack("cat ~/.config/tinyagent/keys.toml"),
    "read a key by a link": Attack("ln -s ~/.ssh keys; cat keys/id_test"),
    "read a key by a hard link": Attack("ln ~/.ssh/id_test key; cat key"),
    "read a key by /proc": Attack("cat /proc/self/root/$HOME/.ssh/id_test"),
    "copy the home folder": Attack("cp -r ~ copied 2>/dev/null; cat copied/.ssh/id_test"),
    "move the folder of keys": Attack("mv ~/.ssh ~/old; cat ~/old/id_test"),
    "read other temporary files": Attack("cat /tmp/tinyagent-attack-$PLANTED"),
    # ---- other processes
    "read the environment of a process": Attack('cat "/proc/$VICTIM/environ" | tr "\\0" "\\n"'),
    "read every environment": Attack("cat /proc/[0-9]*/environ | tr '\\0' '\\n'"),
    "read the files of a process": Attack('cat "/proc/$VICTIM/cwd/id_test"'),
    "read by the root of a process": Attack('cat "/proc/$VICTIM/root$HOME/.ssh/id_test"'),
    "read the memory of a process": Attack(
        python("open(f'/proc/{os.environ[\"VICTIM\"]}/mem', 'rb').close(); print('ESCAPED')")
    ),
    "kill a process": Attack('kill -9 "$VICTIM"', landlock=6),
    "kill a group of processes": Attack('kill -TERM -- "-$VICTIM"', landlock=6),
    "limit a process": Attack(
        python(
            "import resource\n"
            "resource.prlimit(int(os.environ['VICTIM']), resource.RLIMIT_NOFILE, (9, 9))\n"
            "print('ESCAPED')"
        )
    ),
    "attach shared memory": Attack(
        python(
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "libc.shmat.restype = ctypes.c_ssize_t\n"
            "if libc.shmat(int(os.environ['SEGMENT']), None, 0o10000) != -1: print('ESCAPED')"
        )
    ),
    "trace a process": Attack(
        python(
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "if libc.ptrace(16, int(os.environ['VICTIM']), 0, 0) == 0: print('ESCAPED')"
        )
    ),
    # ---- the network
    "connect by TCP": Attack(
        python(
            "socket.create_connection(('127.0.0.1', int(os.environ['TCP_PORT'])), 5)\n"
            "print('ESCAPED')"
        ),
        landlock=4,
    ),
    "send by UDP": Attack(
        python(
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', "
            "int(os.environ['UDP_PORT'])))"
        )
    ),
    "connect to a socket with a path": Attack(
        python("socket.socket(socket.AF_UNIX).connect(os.environ['OUTSIDE'] + '/daemon')\nprint('ESCAPED')")
    ),
    "connect to a socket in the project": Attack(
        python("socket.socket(socket.AF_UNIX).connect('daemon')\nprint('ESCAPED')")
    ),
    "send a datagram to a socket with a path": Attack(
        python(
            "pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "pair[0].sendto(b'x', os.environ['OUTSIDE'] + '/log')"
        )
    ),
    "connect to an abstract socket": Attack(
        python("socket.socket(socket.AF_UNIX).connect('\\0' + os.environ['ABSTRACT'])\nprint('ESCAPED')")
    ),
    # ---- the kernel
    "create a user namespace": Attack("unshare -Ur true && echo ESCAPED"),
    "create a user namespace by clone": Attack(
        python(
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "if libc.unshare(0x10000000) == 0: print('ESCAPED')"
        )
    ),
    "gain rights by a setuid program": Attack("grep -q 'NoNewPrivs:.*0' /proc/self/status && echo ESCAPED"),
    "keep the rights of root": Attack(
        python("caps = int([l for l in open('/proc/self/status') if l[:7] == 'CapEff:'][0].split()[1], 16)\n"
               "if caps & ~0b11011: print('ESCAPED')"),
        by=("root",),
    ),
    "mount": Attack('mount --bind "$OUTSIDE" sub && echo ESCAPED; umount sub', by=("root",)),
    "create a device": Attack("mknod disk b 7 0 && echo ESCAPED", by=("root",)),
    "write to kernel settings": Attack("exec 3>>/proc/sys/kernel/core_pattern && echo ESCAPED", by=("root",)),
    "open a terminal of the machine": Attack('exec 3<"$TERMINAL" && echo ESCAPED'),
    "type into a terminal": Attack(
        python(
            "import fcntl\n"
            "try: fcntl.ioctl(open('/dev/null'), 0x5412, b'x')\n"
            "except OSError as error:\n"
            "    if error.errno != errno.EPERM: print('ESCAPED')"
        )
    ),
    "use io_uring": Attack(refused("{'x86_64': 425, 'aarch64': 425}")),
    "use the kernel's keyrings": Attack(refused("{'x86_64': 250, 'aarch64': 219}")),
}  # fmt: skip


@contextmanager
def peers(world: World, script: str) -> Iterator[tuple[dict[str, str], list[socket.socket]]]:
    """Start the sockets and the process that an attack is aimed at. Yield variables, and datagram sockets."""
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as daemon,
        socket.socket(socket.AF_UNIX) as near,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        world.services = []
        udp.bind(("127.0.0.1", 0))
        name = f"tinyagent-{world.base.name}"
        for listener, path in (
            (daemon, world.outside / "daemon"),
            (near, world.project / "daemon"),
            (log, world.outside / "log"),
        ):
            listener.bind(str(path))
            if path.name in script:
                world.services.append(path)
        abstract.bind(f"\0{name}")
        for listener in (daemon, near, abstract):
            listener.listen()
        for waiting in (udp, log):
            waiting.setblocking(False)
        planted = Path(f"/tmp/tinyagent-attack-{world.base.name}")
        planted.write_text(CANARY)
        planted.chmod(0o644)
        libc = ctypes.CDLL(None, use_errno=True)
        segment = libc.shmget(0, 4096, 0o1666)  # IPC_PRIVATE, IPC_CREAT
        assert segment != -1
        master, terminal = os.openpty()
        os.chown(os.ttyname(terminal), world.uid, -1)
        victim = subprocess.Popen(
            ["cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"SECRET": CANARY},
            cwd=world.home / ".ssh",
            start_new_session=True,
            **world.identity(),
        )
        world.give()
        try:
            yield (
                {
                    "TCP_PORT": str(tcp.getsockname()[1]),
                    "UDP_PORT": str(udp.getsockname()[1]),
                    "ABSTRACT": name,
                    "VICTIM": str(victim.pid),
                    "SEGMENT": str(segment),
                    "PLANTED": world.base.name,
                    "TERMINAL": os.ttyname(terminal),
                },
                [udp, log],
            )
            if not _answers(victim):
                raise _KilledError
        finally:
            libc.shmctl(segment, 0, None)  # IPC_RMID
            victim.kill()
            victim.communicate()
            for descriptor in (master, terminal):
                os.close(descriptor)
            planted.unlink()


class _KilledError(Exception):
    """The victim has ended."""


def _answers(victim: subprocess.Popen[bytes]) -> bool:
    """Return whether the victim is alive. A signal that was sent to it is delivered before it can answer."""
    assert victim.stdin is not None
    assert victim.stdout is not None
    victim.send_signal(signal.SIGCONT)  # a tracer may have stopped it
    try:
        os.write(victim.stdin.fileno(), b"?")
    except BrokenPipeError:
        return False
    return os.read(victim.stdout.fileno(), 1) == b"?"


def succeeds(world: World, mechanism: str, attack: Attack) -> tuple[bool, str]:
    """Run an attack. Return whether it succeeded, and its output."""
    output = ""
    try:
        with peers(world, attack.script) as (variables, waiting):
            before = world.state()
            ended = world.run(mechanism, attack.script + "\necho; echo tried", **variables)
            output = ended.output
            assert "tried" in output, output
            if ESCAPED in output or CANARY in output or world.state() != before:
                return True, output
            return any(map(_has_data, waiting)), output
    except _KilledError:
        return True, output


def _has_data(waiting: socket.socket) -> bool:
    try:
        return bool(waiting.recv(16))
    except BlockingIOError:
        return False


def name_of(world: World) -> str:
    """Return the kind of the world's user."""
    return "root" if world.uid == 0 else "ordinary"


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fails(world: World, mechanism: str, name: str) -> None:
    """Nothing outside changes, no secret is read, no peer is reached, and no process is harmed."""
    attack = ATTACKS[name]
    if mechanism not in attack.mechanisms:
        pytest.skip(f"{mechanism} does not stop this: see docs/sandbox.md")
    if mechanism == "landlock" and launcher.landlock_version() < attack.landlock:
        pytest.skip(f"needs version {attack.landlock} of Landlock")
    escaped, output = succeeds(world, mechanism, attack)
    assert not escaped, output


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_succeeds_without_a_sandbox(world: World, name: str) -> None:
    """So the test above shows what the sandbox does, and not a mistake in the attack."""
    attack = ATTACKS[name]
    if name_of(world) not in attack.by:
        pytest.skip("this needs other rights")
    escaped, output = succeeds(world, "none", attack)
    assert escaped, output
