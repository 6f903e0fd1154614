"""Install and uninstall plugins, with the installer of the environment that tinyagent runs in."""

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
    """The changes of an installation.

    Attributes:
        gained: The new plugins.
        lost: The plugins that were removed.
        installed: The name and version of each distribution that is new or has a new version.
    """

    gained: list[Plugin]
    lost: list[Plugin]
    installed: dict[str, str]


class Installer(NamedTuple):
    """The installer of an environment.

    Attributes:
        kind: `venv`, `pipx`, `uv tool` or `python` (no virtual environment).
        program: `pip` or `uv`.
        command: The command of the program for this environment, without a sub-command.
        pipx: The command of pipx, if pipx made the environment and is installed. It is then the installer.
    """

    kind: str
    program: str
    command: tuple[str, ...]
    pipx: tuple[str, ...] = ()

    @classmethod
    def of_this_environment(cls) -> Installer:
        """Return pip of this interpreter, or uv if uv made the environment or there is no pip.

        Raises:
            ConfigurationError: There is neither pip nor uv.
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
            # -P: a folder named pip in the working directory must not be run.
            command = (sys.executable, "-P", "-m", "pip", "--disable-pip-version-check")
            return cls(kind, "pip", command, pipx)
        hints = {
            "python": own_environment(["PLUGIN"]),
            "uv tool": "uv made this environment: put uv on the PATH.",
        }
        ensure = f"Install pip: {shlex.quote(sys.executable)} -m ensurepip"
        raise ConfigurationError(
            f"There is neither pip nor uv for {sys.executable}.", hint=hints.get(kind, ensure)
        )

    def install_command(
        self, what: Sequence[str], pin: Sequence[str], *, editable: bool, upgrade: bool
    ) -> list[str]:
        """Return the command that installs `what`.

        Args:
            what: Names, folders, wheels or URLs.
            pin: Requirements that keep installed versions. pipx gets none: it would record them, and
                prevent an upgrade of tinyagent.
            editable: Whether to install folders as editable.
            upgrade: Whether to install the newest version.
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
        """Return the command that uninstalls a distribution."""
        prefix = Path(sys.prefix)
        if self.pipx and normalised(distribution) in _injected(prefix):
            return [*self.pipx, "uninject", prefix.name, distribution]
        options = ["--python", sys.executable] if self.program == "uv" else ["--yes"]
        return [*self.command, "uninstall", *options, distribution]

    def check_command(self) -> list[str]:
        """Return the command that reports version conflicts."""
        return [*self.command, "check", *(["--python", sys.executable] if self.program == "uv" else [])]

    def upgrade_command(self) -> str:
        """Return the command that upgrades tinyagent itself."""
        if self.kind in ("pipx", "uv tool"):
            return f"{self.kind} upgrade {DISTRIBUTION}"
        return f"{'uv pip' if self.program == 'uv' else 'pip'} install --upgrade {DISTRIBUTION}"

    def to_make_it_last(self, what: Sequence[str]) -> str | None:
        """Return the command that lets the plugin survive an upgrade of tinyagent; None if it does anyway."""
        if self.kind == "pipx" and not self.pipx:
            return f"pipx inject {shlex.quote(Path(sys.prefix).name)} {shlex.join(what)}"
        if self.kind == "uv tool":
            base, others = _uv_requirements(Path(sys.prefix) / "uv-receipt.toml")
            plugins = [part for item in [*others, *what] for part in ("--with", item)]
            return shlex.join(["uv", "tool", "install", *plugins, base])
        return None


_PIPX_METADATA = "pipx_metadata.json"


def _pipx(prefix: Path) -> tuple[str, ...]:
    """Return the command of pipx for the environment at `prefix`; empty if there is no pipx."""
    program = shutil.which("pipx")
    if program is None:
        return ()
    home = [f"PIPX_HOME={prefix.parent.parent}"] if prefix.parent.name == "venvs" else []
    return (*(("env", *home) if home else ()), program)


def _injected(prefix: Path) -> set[str]:
    """Return the distributions that `pipx inject` has installed."""
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


# ---- running it --------------------------------------------------------------------------------------------


def install(app: AppContext, what: Sequence[str], *, editable: bool, upgrade: bool, dry_run: bool) -> Changes:
    """Show the command, install, and return the changes.

    The version of tinyagent is pinned, so that a plugin neither upgrades nor downgrades it.

    Raises:
        TinyAgentError: An argument is an option of the installer, or the installer failed.
    """
    for item in what:
        if item.startswith("-"):
            raise InputError(f"{item!r} is an option of the installer, which is not accepted here.")
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
    changes = _run(app, installer, command, what)
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
    """Return the requirement for the running version; empty if tinyagent is not installed."""
    try:
        return [f"{DISTRIBUTION}=={metadata.version(DISTRIBUTION)}"]
    except metadata.PackageNotFoundError:
        return []


def uninstall(app: AppContext, distribution: str, *, dry_run: bool) -> Changes:
    """Show the command, uninstall the distribution of a plugin, and return the changes."""
    installer = Installer.of_this_environment()
    command = installer.uninstall_command(distribution)
    app.note(f"Running: {shlex.join(command)}")
    return Changes([], [], {}) if dry_run else _run(app, installer, command, [distribution])


def plugins_named(name: str) -> list[Plugin]:
    """Return the plugins of a distribution.

    Args:
        name: The name of the distribution, or of one of its plugins.

    Raises:
        InputError: Several distributions have a plugin of that name.
        ConfigurationError: No distribution or plugin has that name.
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
            f"{name!r} is {'installed, but ' if is_there else ''}not a plugin of tinyagent. "
            f"Plugins: {', '.join(known) or 'none'}."
        )
    return [e for e in everything if e.distribution in owners]


def distributions() -> dict[str, str]:
    """Return all distributions in this environment, with their versions."""
    return {
        normalised(found.metadata["Name"]): found.version
        for found in metadata.distributions()
        if found.metadata["Name"]
    }


def _run(app: AppContext, installer: Installer, command: Sequence[str], what: Sequence[str]) -> Changes:
    """Run the installer, and compare the plugins and distributions before and after.

    Raises:
        TinyAgentError: The installer failed.
    """
    before, versions = set(installed()), distributions()
    code, output = _run_and_show(command, quiet=app.quiet)
    if code:
        name = "pipx" if installer.pipx else installer.program
        known = explain(output, what, installer.upgrade_command())
        if known is None:
            raise TinyAgentError(f"{name} failed (exit code {code}); see its messages above.")
        raise TinyAgentError(f"{name} failed on {', '.join(what)}: {known[0]}.", hint=known[1])
    after, now = set(installed()), distributions()
    return Changes(
        sorted(after - before),
        sorted(before - after),
        {name: version for name, version in now.items() if versions.get(name) != version},
    )


def _run_and_show(command: Sequence[str], *, quiet: bool) -> tuple[int, str]:
    """Run a command and copy its output to standard error. Return the exit code and the end of the output.

    If `quiet`, only the end of the output is shown, and only after a failure.
    """
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    end = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0) as process:
        assert process.stdout is not None
        try:
            while chunk := process.stdout.read(4096):
                text = decode(chunk)
                if not quiet:
                    _show(text)
                end = (end + text)[-_OUTPUT_CHARACTERS:]
            code = process.wait()
        except BaseException:
            process.terminate()
            raise
    if quiet and code:
        _show(end)
    return code, end


def _show(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


_OUTPUT_CHARACTERS = 64 * 1024
"""The cause of a failure is searched in this many characters at the end of the output."""
