"""Check that the imported package `tinyagent` is the one of the distribution tinyagent-core.

On the public index, `tinyagent` is another project, whose package is named `tinyagent`, too. In one
environment each distribution overwrites files of the other, and deletes them when it is uninstalled.

This module imports nothing of the library, which may be broken.
"""

from __future__ import annotations

import json
import shlex
import sys
from importlib import metadata, util
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tinyagent_cli.version import DISTRIBUTION

__all__ = ["NAMESAKE", "fault", "installed_from"]

NAMESAKE = "tinyagent"
"""The distribution of the other project."""


def fault() -> tuple[str, str] | None:
    """Return a defect of the installation and its repair; None if it has no defect."""
    ours = Path(__file__).resolve().parents[2] / "tinyagent"
    spec = util.find_spec("tinyagent")
    found = next(iter(spec.submodule_search_locations or ()), None) if spec else None
    is_ours = found is not None and Path(found).resolve() == ours
    other = _distribution(NAMESAKE)
    if other is not None and (not is_ours or Path(str(other.locate_file("tinyagent"))).resolve() == ours):
        return (
            f"The distribution {NAMESAKE!r} {other.version} is installed beside {DISTRIBUTION}. It is "
            "another project whose package has the same name, so that one overwrites files of the other.",
            _repair(uninstall=True),
        )
    if found is not None and not is_ours:
        return (
            f"The package tinyagent is imported from {found}, which does not belong to {DISTRIBUTION}.",
            "Rename or remove that folder, or remove its parent from PYTHONPATH.",
        )
    missing = _missing_files()
    if missing or not is_ours:
        example = f", such as {missing[0]}" if missing else ""
        return f"Files of {DISTRIBUTION} are missing{example}.", _repair(uninstall=False)
    return None


def _distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _missing_files() -> list[str]:
    """Return the files of our distribution that are missing."""
    ours = _distribution(DISTRIBUTION)
    files = (ours.files or []) if ours is not None else []
    return [str(file) for file in files if file.suffix == ".py" and not Path(str(file.locate())).exists()]


def _repair(*, uninstall: bool) -> str:
    """Return the commands that repair the installation."""
    python, source = shlex.quote(sys.executable), installed_from(DISTRIBUTION)
    if util.find_spec("pip") is not None:
        remove = f"{python} -m pip uninstall --yes {NAMESAKE} && "
        restore = f"{python} -m pip install --force-reinstall --no-deps {source}"
    else:
        remove = f"uv pip uninstall --python {python} {NAMESAKE} && "
        restore = f"uv pip install --python {python} --no-deps --reinstall-package {DISTRIBUTION} {source}"
    return f"Repair it: {remove if uninstall else ''}{restore}"


def installed_from(distribution: str) -> str:
    """Return the argument with which an installer installs the distribution again.

    It is the folder or wheel that the distribution was installed from, quoted for a shell, or else its name.
    """
    found = _distribution(distribution)
    try:
        recorded = json.loads((found and found.read_text("direct_url.json")) or "{}")
        url = urlsplit(recorded["url"])
        editable = bool(recorded.get("dir_info", {}).get("editable"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return distribution
    if url.scheme != "file":
        return distribution
    return f"{'--editable ' if editable else ''}{shlex.quote(unquote(url.path))}"
