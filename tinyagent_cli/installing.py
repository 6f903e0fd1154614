"""Installing and uninstalling plugins, with the installer of the environment that tinyagent runs in."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple

from tinyagent.errors import ConfigurationError, TinyAgentError

from . import entry_points
from .app_context import AppContext
from .entry_points import EntryPoint, normalised
from .failures import InputError
from .version import DISTRIBUTION

__all__ = ["Changes", "Installer", "distributions", "plugins_named"]


class Changes(NamedTuple):
    """What an installation changed: our entry points and all distributions, before and after."""

    gained: list[EntryPoint]
    lost: list[EntryPoint]
    installed: dict[str, str]
    """Name and version of every distribution that is new or has another version."""


class Installer(NamedTuple):
    """How packages get into this environment, and what keeps them there.

    Attributes:
        kind: `venv`, `pipx`, `uv tool` or `python` (no virtual environment).
        command: pip, or uv's.
        uses_uv: Which of the two.
    """

    kind: str
    command: tuple[str, ...]
    uses_uv: bool

    @classmethod
    def of_this_environment(cls) -> Installer:
        """pip of this interpreter; uv where the environment is uv's, or has no pip."""
        prefix = Path(sys.prefix)
        if (prefix / "uv-receipt.toml").is_file():
            kind = "uv tool"
        elif (prefix / "pipx_metadata.json").is_file():
            kind = "pipx"
        else:
            kind = "venv" if sys.prefix != sys.base_prefix else "python"
        uv, has_pip = shutil.which("uv"), util.find_spec("pip") is not None
        if uv is not None and (kind == "uv tool" or _made_by_uv(prefix) or not has_pip):
            return cls(kind, (uv, "pip"), True)
        if has_pip:
            # -P: a folder named pip in the working directory is not the pip that is meant.
            return cls(kind, (sys.executable, "-P", "-m", "pip", "--disable-pip-version-check"), False)
        raise ConfigurationError(
            f"There is neither pip nor uv for {sys.executable}.",
            hint=f"Get pip with: {shlex.quote(sys.executable)} -m ensurepip",
        )

    def install_command(
        self, what: Sequence[str], pin: Sequence[str], *, editable: bool, upgrade: bool
    ) -> list[str]:
        """The command that installs `what`, and keeps what is pinned."""
        options = ["--python", sys.executable] if self.uses_uv else []
        options += ["--upgrade"] if upgrade else []
        wanted = [part for item in what for part in (["--editable", item] if editable else [item])]
        return [*self.command, "install", *options, *pin, *wanted]

    def uninstall_command(self, distribution: str) -> list[str]:
        """The command that uninstalls."""
        options = ["--python", sys.executable] if self.uses_uv else ["--yes"]
        return [*self.command, "uninstall", *options, distribution]

    def check_command(self) -> list[str]:
        """The command that looks for version conflicts."""
        return [*self.command, "check", *(["--python", sys.executable] if self.uses_uv else [])]

    def to_make_it_last(self, what: Sequence[str]) -> str | None:
        """What to run so that an upgrade or a new installation of tinyagent keeps the plugin."""
        if self.kind == "pipx":
            return f"pipx inject {shlex.quote(Path(sys.prefix).name)} {shlex.join(what)}"
        if self.kind == "uv tool":
            base, others = _uv_requirements(Path(sys.prefix) / "uv-receipt.toml")
            given = [part for item in [*others, *what] for part in ("--with", item)]
            return shlex.join(["uv", "tool", "install", *given, base])
        return None


def _made_by_uv(prefix: Path) -> bool:
    try:
        lines = (prefix / "pyvenv.cfg").read_text("utf-8").splitlines()
    except OSError:
        return False
    return any(line.partition("=")[0].strip() == "uv" for line in lines)


def _uv_requirements(receipt: Path) -> tuple[str, list[str]]:
    """What the tool was installed from, and what else was asked for, as `uv tool install` takes it."""
    try:
        listed: list[dict[str, Any]] = tomllib.loads(receipt.read_text("utf-8"))["tool"]["requirements"]
    except (OSError, ValueError, KeyError):
        listed = []
    base, others = DISTRIBUTION, []
    for entry in listed:
        source = next(
            (entry[key] for key in ("directory", "editable", "path", "url", "git") if key in entry), None
        )
        text = f"git+{source}" if "git" in entry else source or entry["name"] + entry.get("specifier", "")
        if normalised(entry["name"]) == DISTRIBUTION:
            base = text
        else:
            others.append(text)
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
    installer = Installer.of_this_environment()
    command = installer.install_command(what, _pin(), editable=editable, upgrade=upgrade)
    app.note(f"Running: {shlex.join(command)}")
    if dry_run:
        return Changes([], [], {})
    changes = _run(app, command, None)
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
    return Changes([], [], {}) if dry_run else _run(app, command, None)


def plugins_named(name: str) -> list[EntryPoint]:
    """All that the plugin of this name offers: the name of its distribution, or one that it goes by.

    Raises:
        InputError: no plugin, or several, have that name.
    """
    everything = entry_points.installed()
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


def _run(app: AppContext, command: Sequence[str], hint: str | None) -> Changes:
    """Run the installer, which talks to standard error, and see what it changed."""
    before, versions = set(entry_points.installed()), distributions()
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if code:
        raise TinyAgentError(f"{Path(command[0]).name} failed (exit code {code}); see above.", hint=hint)
    after, now = set(entry_points.installed()), distributions()
    return Changes(
        sorted(after - before),
        sorted(before - after),
        {name: version for name, version in now.items() if versions.get(name) != version},
    )
