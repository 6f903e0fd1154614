"""Run programs in a sandbox: they change only some folders, have no network, and cannot read keys.

    from tinyagent.sandbox import Policy, find_sandbox

    sandbox = find_sandbox()
    policy = Policy(writable=["/home/me/project"])
    with sandbox.launch(["/usr/bin/make"], policy) as launch:
        subprocess.run(launch.command, env=launch.environment, pass_fds=launch.descriptors)

On Linux it uses bubblewrap, or Landlock where bubblewrap cannot be used. On other systems there is no
sandbox, and `Sandbox.mechanism` is `none`. docs/sandbox.md lists what each mechanism holds and does not hold.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, TypeAlias

from ._sandbox import launcher
from ._sandbox.bubblewrap import bubblewrap_arguments, user_namespaces
from ._sandbox.layout import Layout, make_layout
from ._sandbox.places import is_inside, repositories
from ._sandbox.seccomp import seccomp_filter
from .child_environment import child_environment
from .errors import ConfigurationError

__all__ = [
    "Launch",
    "Mechanism",
    "Mode",
    "Policy",
    "Sandbox",
    "SandboxSettings",
    "find_sandbox",
    "repositories",
    "sandbox_settings",
]

Mechanism: TypeAlias = Literal["bubblewrap", "landlock", "none"]
Mode: TypeAlias = Literal["auto", "required", "off"]

PROBE_TIMEOUT_S = 10.0
"""Seconds in which a mechanism must start a program to be used."""

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
_MODES: dict[str, Mode] = {"auto": "auto", "required": "required", "off": "off"}
_INSTALL = "Install bubblewrap, for example: apt install bubblewrap"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a program may do.

    Attributes:
        writable: Folders that it may change. A folder stays read-only if that would let the program change
            what runs outside: a folder that contains the home folder, that has keys, or that is the data of a
            Git repository. `Launch.text` says so.
        readable: Folders that it may read, besides those of the system; None for all folders. Files with
            keys, the data of tinyagent and the files in `/tmp` cannot be read in any case.
        network: Whether it may use the network.
        environment: Its environment variables; None for those of `child_environment`.
        protected: Files and folders that it may not change, although they are in a writable folder. `.git`,
            start-up files of shells and the running Python always are.
        hidden: Further files and folders that it may not read.
        visible: Files and folders that it may read, although they are hidden or in `/tmp`.
    """

    writable: Sequence[str | Path] = ()
    readable: Sequence[str | Path] | None = None
    network: bool = False
    environment: Mapping[str, str] | None = None
    protected: Sequence[str | Path] = ()
    hidden: Sequence[str | Path] = ()
    visible: Sequence[str | Path] = ()

    def layout(self) -> Layout:
        """Return the paths without links, as they are now."""
        return make_layout(
            readable=None if self.readable is None else map(str, self.readable),
            writable=map(str, self.writable),
            protected=map(str, self.protected),
            hidden=map(str, self.hidden),
            visible=map(str, self.visible),
            network=self.network,
        )


@dataclass
class Launch:
    """How to start a program in the sandbox. Close it when the program has started.

    Attributes:
        command: The command.
        environment: The environment variables.
        descriptors: File descriptors that the command needs (`pass_fds`).
        mechanism: The mechanism.
        text: What holds, for the user, in one or two sentences.
    """

    command: list[str]
    environment: dict[str, str]
    descriptors: tuple[int, ...]
    mechanism: Mechanism
    text: str

    def close(self) -> None:
        """Close the descriptors."""
        descriptors, self.descriptors = self.descriptors, ()
        for descriptor in descriptors:
            os.close(descriptor)

    def __enter__(self) -> Launch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class Sandbox:
    """A mechanism that works on this machine, and a private folder for temporary files.

    The programs of one `Sandbox` share this folder, as `/tmp` with bubblewrap and by `TMPDIR` with Landlock.
    It is removed when the object or the process ends.

    Attributes:
        mechanism: The mechanism; `none` if programs run without a sandbox.
        problem: Why a better mechanism is not used; empty if this is the best.
    """

    mechanism: Mechanism
    problem: str = ""
    _program: tuple[str, ...] = ()
    _temporary: str | None = field(default=None, init=False, repr=False)

    def launch(
        self, command: Sequence[str], policy: Policy, *, cwd: str | Path | None = None, die: bool = True
    ) -> Launch:
        """Return how to start a program under a policy.

        Args:
            command: The program, as a path, and its arguments.
            policy: What it may do.
            cwd: The folder to start in; that of this process if None.
            die: With bubblewrap: whether everything in the sandbox ends at once when the program ends. Use
                False only below `tinyagent.supervisor`, which ends it, too.

        Raises:
            OSError: The private folder cannot be created.
        """
        environment = dict(
            child_environment(os.environ) if policy.environment is None else policy.environment
        )
        if self.mechanism == "none":
            return Launch(list(command), environment, (), "none", self.describe(policy))
        cwd = Path.cwd() if cwd is None else cwd
        layout = policy.layout()
        temporary = self._private_folder()
        text = _describe(self.mechanism, layout)
        if self.mechanism == "landlock":
            environment |= _moved_folders(temporary)
            rules = json.dumps(_landlock_rules(layout, temporary))
            start = [sys.executable, "-I", "-S", launcher.__file__, rules]
            return Launch([*start, *command], environment, (), "landlock", text)
        environment |= _moved_folders("/tmp")
        name, *namespaces = self._program
        layout = _with_directory(layout, os.path.realpath(cwd))
        arguments = bubblewrap_arguments(layout, temporary, namespaces=namespaces, die=die)
        arguments += ["--chdir", str(cwd)]
        families = [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK]
        descriptors: tuple[int, ...] = ()
        if (program := seccomp_filter(map(int, families))) is not None:
            reading, writing = os.pipe()
            os.write(writing, program)  # fits into the pipe
            os.close(writing)
            descriptors = (reading,)
            arguments += ["--seccomp", str(reading)]
        return Launch([name, *arguments, "--", *command], environment, descriptors, "bubblewrap", text)

    def describe(self, policy: Policy) -> str:
        """Return what holds for a program under a policy, for the user, in one or two sentences."""
        if self.mechanism == "none":
            return f"There is no sandbox: {self.problem}." if self.problem else "There is no sandbox."
        return _describe(self.mechanism, policy.layout())

    def _private_folder(self) -> str:
        if self._temporary is None:
            self._temporary = os.path.realpath(tempfile.mkdtemp(prefix="tinyagent-sandbox-"))
            weakref.finalize(self, shutil.rmtree, self._temporary, ignore_errors=True)
        Path(self._temporary, ".cache").mkdir(mode=0o700, exist_ok=True)
        return self._temporary


def find_sandbox(mode: Mode = "auto") -> Sandbox:
    """Return the best sandbox of this machine: bubblewrap, else Landlock, else none.

    A mechanism is chosen only if it starts a program here. This is tried once in a process and takes about
    50 ms.

    Args:
        mode: `required` raises if there is no sandbox; `off` returns one that does nothing.

    Raises:
        ConfigurationError: A sandbox is required, but not available.
    """
    if mode == "off":
        return Sandbox("none", "it is turned off")
    mechanism, problem, program = _working_mechanism()
    if mode == "required" and mechanism == "none":
        raise ConfigurationError(
            f"A sandbox is required, but not available: {problem}.",
            hint=_INSTALL
            if sys.platform == "linux"
            else "Run tinyagent in a container or a virtual machine.",
        )
    return Sandbox(mechanism, problem, program)


class SandboxSettings(NamedTuple):
    """The user's settings for tools that run programs.

    Attributes:
        mode: Whether a sandbox is used if there is one (`auto`), must be there (`required`), or is not used.
        network: Whether programs in the sandbox may use the network.
        writable: Folders that they may change, besides the working directory.
    """

    mode: Mode = "auto"
    network: bool = False
    writable: tuple[str, ...] = ()


def sandbox_settings(environment: Mapping[str, str]) -> SandboxSettings:
    """Read the settings from environment variables. The command line sets them from its configuration.

    `TINYAGENT_SANDBOX` is the mode, `TINYAGENT_SANDBOX_NETWORK` is 0 or 1, and `TINYAGENT_SANDBOX_WRITABLE`
    has folders with `:` between them.

    Raises:
        ConfigurationError: A variable has another value.
    """
    text = environment.get("TINYAGENT_SANDBOX") or "auto"
    mode = _MODES.get(text)
    if mode is None:
        raise ConfigurationError(f"TINYAGENT_SANDBOX is {text!r}; it can be auto, required or off.")
    network = environment.get("TINYAGENT_SANDBOX_NETWORK") or "0"
    if network not in ("0", "1"):
        raise ConfigurationError(f"TINYAGENT_SANDBOX_NETWORK is {network!r}; it can be 0 or 1.")
    folders = environment.get("TINYAGENT_SANDBOX_WRITABLE", "").split(os.pathsep)
    return SandboxSettings(mode, network == "1", tuple(filter(None, folders)))


# ---- what holds -----------------------------------------------------------------------------------------


def _describe(mechanism: str, layout: Layout) -> str:
    writes = "a private /tmp" if mechanism == "bubblewrap" else "a private TMPDIR"
    if layout.writable:
        others = len(layout.writable) - 3
        folders = ", ".join(layout.writable[:3]) + (f", {others} more" if others > 0 else "")
        writes = f"{folders} and {writes}"
    network = "network" if layout.network else _closed_network(mechanism)
    text = f"In a sandbox ({mechanism}): writes only in {writes}; {network}; no access to stored keys."
    if mechanism == "landlock" and (split := layout.split_folders()):
        more = f" and {len(split) - 1} folders in it" if len(split) > 1 else ""
        inside = [path for path in (*layout.protected, *layout.hidden) if is_inside(path, split[0])]
        name = os.path.basename(inside[0])  # noqa: PTH119 - a text
        text += f" No new files directly in {split[0]}{more}, because Landlock could not protect {name} then."
    for folder, reason in layout.refused:
        text += f" {folder} is read-only, because {reason}."
    return text


def _closed_network(mechanism: str) -> str:
    if mechanism == "bubblewrap" or seccomp_filter(()) is not None:
        return "no network"
    return "no TCP" if launcher.landlock_version() >= 4 else "network"


def _moved_folders(temporary: str) -> dict[str, str]:
    """Return the variables for temporary files and caches, which are read-only in the home folder."""
    cache = f"{temporary}/.cache"
    return {
        **dict.fromkeys(("TMPDIR", "TMP", "TEMP"), temporary),
        "XDG_CACHE_HOME": cache,
        "npm_config_cache": f"{cache}/npm",
        "GOCACHE": f"{cache}/go-build",
        "UV_CACHE_DIR": f"{cache}/uv",
        "GIT_OPTIONAL_LOCKS": "0",
    }


def _with_directory(layout: Layout, cwd: str) -> Layout:
    """Let a program see its working directory, if only the private `/tmp` hides it."""
    if cwd == "/tmp" or not is_inside(cwd, "/tmp"):
        return layout
    if any(is_inside(cwd, path) for path in (*layout.writable, *layout.hidden)):
        return layout
    return replace(layout, visible=[*layout.visible, cwd])


def _landlock_rules(layout: Layout, temporary: str) -> launcher.Rules:
    version = launcher.landlock_version()
    # Sockets with a path are not under Landlock's control, so no Unix socket can be opened.
    families = [socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK] if layout.network else []
    program = seccomp_filter(map(int, families), namespaces=False, truncate=version >= 3)
    writable = [*layout.writable, temporary]
    others = [os.path.realpath(path) for path in ("/dev", "/run", "/tmp", tempfile.gettempdir())]
    resolver = [os.path.realpath("/etc/resolv.conf")] if layout.network else []
    return {
        "readable": ["/"] if layout.readable is None else [*layout.readable, "/proc"],
        "writable": writable,
        "hidden": [*layout.hidden, *(path for path in others if path not in writable)],
        "protected": list(layout.protected),
        "visible": [*layout.visible, *resolver],
        "devices": _DEVICES,
        "network": layout.network,
        "filter": "" if program is None else program.hex(),
    }


# ---- the choice -----------------------------------------------------------------------------------------


@functools.cache
def _working_mechanism() -> tuple[Mechanism, str, tuple[str, ...]]:
    """Return the mechanism, why there is no better one, and the start of its command."""
    if sys.platform != "linux":
        system = {"darwin": "macOS", "win32": "Windows"}.get(sys.platform, sys.platform)
        return "none", f"tinyagent has none for {system}", ()
    problem = "bubblewrap is not installed"
    bwrap = shutil.which("bwrap")
    if bwrap is not None:
        bwrap = os.path.realpath(bwrap)
        for namespaces in user_namespaces(os.geteuid()):
            candidate = Sandbox("bubblewrap", "", (bwrap, *namespaces))
            if (failure := _try(candidate)) is None:
                return "bubblewrap", "", (bwrap, *namespaces)
        problem = f"bubblewrap cannot start a program here ({failure})"
    if launcher.landlock_version() < 1:
        return "none", f"{problem}, and this kernel has no Landlock", ()
    failure = _try(Sandbox("landlock"))
    if failure is not None:
        return "none", f"{problem}, and neither can Landlock ({failure})", ()
    return "landlock", problem, ()


def _try(candidate: Sandbox) -> str | None:
    """Start a program in a sandbox. Return why it failed; None if it worked."""
    program = shutil.which("true") or "/bin/true"
    try:
        with candidate.launch([program], Policy(), cwd="/") as launch:
            ended = subprocess.run(
                launch.command,
                env=launch.environment,
                pass_fds=launch.descriptors,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_TIMEOUT_S,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if ended.returncode == 0:
        return None
    lines = ended.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {ended.returncode}"
