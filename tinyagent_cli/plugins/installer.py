"""Installing and uninstalling plugins, with the installer of the environment that tinyagent runs in."""

from __future__ import annotations

import codecs
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

import msgspec

from tinyagent.errors import ConfigurationError, PluginError, TinyAgentError
from tinyagent_cli.app_context import AppContext
from tinyagent_cli.exit_codes import InputError
from tinyagent_cli.version import DISTRIBUTION

from .discovery import Plugin, installed, normalised
from .installer_errors import explain, own_environment
from .namesake import NAMESAKE, fault

__all__ = ["Changes", "Installer", "distributions", "plugins_named"]


class Changes(NamedTuple):
    """What an installation changed: our entry points and all distributions, before and after."""

    gained: list[Plugin]
    lost: list[Plugin]
    installed: dict[str, str]
    """Name and version of every distribution that is new or has another version."""


class Installer(NamedTuple):
    """How packages get into this environment, and what keeps them there.

    Attributes:
        kind: `venv`, `pipx`, `uv tool` or `python` (no virtual environment).
        program: `pip` or `uv`, which `command` runs.
        command: The command of that program for this environment, without a sub-command.
        pipx: The command of pipx, if the environment is pipx's and pipx is at hand; it then installs.
    """

    kind: str
    program: str
    command: tuple[str, ...]
    pipx: tuple[str, ...] = ()

    @classmethod
    def of_this_environment(cls) -> Installer:
        """pip of this interpreter; uv where the environment is uv's, or has no pip.

        Raises:
            ConfigurationError: there is neither.
        """
        prefix = Path(sys.prefix)
        if (prefix / "uv-receipt.toml").is_file():
            kind = "uv tool"
        elif (prefix / _PIPX_METADATA).is_file():
            kind = "pipx"
        else:
            kind = "venv" if sys.prefix != sys.base_prefix else "python"
        pipx = _pipx(prefix) if kind == "pipx" else ()
        uv, has_pip = shutil.which("uv"), util.find_spec("pip") is not None
        if uv is not None and (kind == "uv tool" or _made_by_uv(prefix) or not has_pip):
            return cls(kind, "uv", (uv, "pip"), pipx)
        if has_pip:
            # -P: a folder named pip in the working directory is not the pip that is meant.
            command = (sys.executable, "-P", "-m", "pip", "--disable-pip-version-check")
            return cls(kind, "pip", command, pipx)
        hints = {
            "python": own_environment(["PLUGIN"]),
            "uv tool": "uv made this environment: put uv on the PATH.",
        }
        ensure = f"Get pip: {shlex.quote(sys.executable)} -m ensurepip"
        raise ConfigurationError(
            f"There is neither pip nor uv for {sys.executable}.", hint=hints.get(kind, ensure)
        )

    def install_command(
        self, what: Sequence[str], pin: Sequence[str], *, editable: bool, upgrade: bool
    ) -> list[str]:
        """The command that installs `what`, and keeps what is pinned.

        pipx takes no pin: it would record it, and apply it when tinyagent is upgraded.
        """
        if self.pipx:
            options = ["--editable"] if editable else []
            options += ["--force", "--pip-args=--upgrade"] if upgrade else []
            return [*self.pipx, "inject", *options, Path(sys.prefix).name, *what]
        options = ["--python", sys.executable] if self.program == "uv" else []
        options += ["--upgrade"] if upgrade else []
        wanted = [part for item in what for part in (["--editable", item] if editable else [item])]
        return [*self.command, "install", *options, *pin, *wanted]

    def uninstall_command(self, distribution: str) -> list[str]:
        """The command that uninstalls."""
        prefix = Path(sys.prefix)
        if self.pipx and normalised(distribution) in _injected(prefix):
            return [*self.pipx, "uninject", prefix.name, distribution]
        options = ["--python", sys.executable] if self.program == "uv" else ["--yes"]
        return [*self.command, "uninstall", *options, distribution]

    def check_command(self) -> list[str]:
        """The command that looks for version conflicts."""
        return [*self.command, "check", *(["--python", sys.executable] if self.program == "uv" else [])]

    def upgrade_command(self) -> str:
        """The command that upgrades tinyagent itself."""
        if self.kind in ("pipx", "uv tool"):
            return f"{self.kind} upgrade {DISTRIBUTION}"
        return f"{'uv pip' if self.program == 'uv' else 'pip'} install --upgrade {DISTRIBUTION}"

    def to_make_it_last(self, what: Sequence[str]) -> str | None:
        """What to run so that an upgrade or a new installation of tinyagent keeps the plugin."""
        if self.kind == "pipx" and not self.pipx:
            return f"pipx inject {shlex.quote(Path(sys.prefix).name)} {shlex.join(what)}"
        if self.kind == "uv tool":
            base, others = _uv_requirements(Path(sys.prefix) / "uv-receipt.toml")
            given = [part for item in [*others, *what] for part in ("--with", item)]
            return shlex.join(["uv", "tool", "install", *given, base])
        return None


_PIPX_METADATA = "pipx_metadata.json"


def _pipx(prefix: Path) -> tuple[str, ...]:
    """pipx for the environment at `prefix`, wherever its home is; empty if there is no pipx."""
    program = shutil.which("pipx")
    if program is None:
        return ()
    home = [f"PIPX_HOME={prefix.parent.parent}"] if prefix.parent.name == "venvs" else []
    return (*(("env", *home) if home else ()), program)


def _injected(prefix: Path) -> set[str]:
    """The distributions that `pipx inject` put into the environment."""
    try:
        listed = json.loads((prefix / _PIPX_METADATA).read_bytes())["injected_packages"]
        return {normalised(name) for name in listed}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _made_by_uv(prefix: Path) -> bool:
    try:
        lines = (prefix / "pyvenv.cfg").read_text("utf-8").splitlines()
    except OSError:
        return False
    return any(line.partition("=")[0].strip() == "uv" for line in lines)


class _UvRequirement(msgspec.Struct):
    """A requirement in the receipt of `uv tool install`: a name, and where it comes from."""

    name: str
    specifier: str = ""
    directory: str | None = None
    editable: str | None = None
    path: str | None = None
    url: str | None = None
    git: str | None = None

    def as_argument(self) -> str:
        """Return the requirement as `uv tool install` takes it."""
        if self.git is not None:
            return f"git+{self.git}"
        source = self.directory or self.editable or self.path or self.url
        return source or self.name + self.specifier


class _UvTool(msgspec.Struct):
    requirements: list[_UvRequirement]


class _UvReceipt(msgspec.Struct):
    tool: _UvTool


def _uv_requirements(receipt: Path) -> tuple[str, list[str]]:
    """Return what the tool was installed from, and its other requirements, as arguments of uv."""
    try:
        listed = msgspec.toml.decode(receipt.read_bytes(), type=_UvReceipt).tool.requirements
    except (OSError, msgspec.DecodeError):
        listed = []
    base, others = DISTRIBUTION, []
    for requirement in listed:
        if normalised(requirement.name) == DISTRIBUTION:
            base = requirement.as_argument()
        else:
            others.append(requirement.as_argument())
    return base, others


# ---- what is run -------------------------------------------------------------------------------------------


def install(app: AppContext, what: Sequence[str], *, editable: bool, upgrade: bool, dry_run: bool) -> Changes:
    """Install, after showing the command; returns what changed.

    The running tinyagent is pinned by its version, so that a plugin neither upgrades nor downgrades it.

    Raises:
        TinyAgentError: an argument is an option of the installer, or the installer failed.
    """
    for item in what:
        if item.startswith("-"):
            raise InputError(f"{item!r} is an option of the installer; plugins install takes none of them.")
        if normalised(re.split(r"[\s\[<>=!~@;]", item, maxsplit=1)[0]) == NAMESAKE:
            raise InputError(
                f"{item!r} is another project, which would overwrite files of this one.",
                hint=f"tinyagent itself is the distribution {DISTRIBUTION}, and is installed.",
            )
    installer = Installer.of_this_environment()
    command = installer.install_command(what, _pin(), editable=editable, upgrade=upgrade)
    app.note(f"Running: {shlex.join(command)}")
    if dry_run:
        return Changes([], [], {})
    changes = _run(installer, command, what)
    if NAMESAKE in changes.installed and (found := fault()) is not None:
        raise PluginError(found[0], hint=found[1])
    lasting = installer.to_make_it_last(what)
    if lasting is not None:
        app.note(
            f"This is a {installer.kind} environment: upgrading tinyagent would lose the plugin. "
            f"To make it last: {lasting}"
        )
    return changes


def _pin() -> list[str]:
    """The requirement that keeps the running version; empty if tinyagent runs without being installed."""
    try:
        return [f"{DISTRIBUTION}=={metadata.version(DISTRIBUTION)}"]
    except metadata.PackageNotFoundError:
        return []


def uninstall(app: AppContext, distribution: str, *, dry_run: bool) -> Changes:
    """Uninstall a plugin's distribution, having shown the command; returns what changed."""
    installer = Installer.of_this_environment()
    command = installer.uninstall_command(distribution)
    app.note(f"Running: {shlex.join(command)}")
    return Changes([], [], {}) if dry_run else _run(installer, command, [distribution])


def plugins_named(name: str) -> list[Plugin]:
    """All that the plugin of this name offers: the name of its distribution, or one that it goes by.

    Raises:
        InputError: no plugin, or several, have that name.
    """
    everything = installed()
    owners = {e.distribution for e in everything if normalised(e.distribution) == normalised(name)}
    owners = owners or {e.distribution for e in everything if e.name == name}
    if len(owners) > 1:
        raise InputError(f"{name!r} is offered by {' and by '.join(sorted(owners))}; name one of these.")
    if not owners:
        is_there = normalised(name) in distributions()
        known = sorted({e.distribution for e in everything})
        raise ConfigurationError(
            f"{name!r} is {'installed, but ' if is_there else ''}no plugin of tinyagent. "
            f"Plugins: {', '.join(known) or 'none'}."
        )
    return [e for e in everything if e.distribution in owners]


def distributions() -> dict[str, str]:
    """Every distribution in this environment with its version."""
    return {
        normalised(found.metadata["Name"]): found.version
        for found in metadata.distributions()
        if found.metadata["Name"]
    }


def _run(installer: Installer, command: Sequence[str], what: Sequence[str]) -> Changes:
    """Run the installer, which writes to standard error, and compare before with after.

    Raises:
        TinyAgentError: the installer failed.
    """
    before, versions = set(installed()), distributions()
    code, output = _run_aloud(command)
    if code:
        name = "pipx" if installer.pipx else installer.program
        known = explain(output, what, installer.upgrade_command())
        if known is None:
            raise TinyAgentError(f"{name} failed (exit code {code}); its messages above say why.")
        raise TinyAgentError(f"{name} failed on {', '.join(what)}: {known[0]}.", hint=known[1])
    after, now = set(installed()), distributions()
    return Changes(
        sorted(after - before),
        sorted(before - after),
        {name: version for name, version in now.items() if versions.get(name) != version},
    )


def _run_aloud(command: Sequence[str]) -> tuple[int, str]:
    """Run a command and pass its output on to standard error; its exit code and the end of its output."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    kept = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0) as process:
        assert process.stdout is not None
        try:
            while chunk := process.stdout.read(4096):
                text = decode(chunk)
                sys.stderr.write(text)
                sys.stderr.flush()
                kept = (kept + text)[-_OUTPUT_KEPT:]
            return process.wait(), kept
        except BaseException:
            process.terminate()
            raise


_OUTPUT_KEPT = 64 * 1024
"""Characters at the end of an installer's output in which the cause of a failure is looked for."""
