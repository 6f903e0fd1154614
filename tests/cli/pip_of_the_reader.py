"""The pip of readers of documents: `pip install` puts plugins of this repository beside it, without an index.

It is copied into the folder `site`, which is on the path.
"""

import os
import sys
import tomllib
from importlib import metadata
from pathlib import Path

PLUGINS = Path(os.environ["PLUGINS_OF_TINYAGENT"])
SITE = Path(__file__).parent


def install(name: str) -> None:
    """Link the packages of a plugin, and write its metadata.

    Args:
        name: The name of one of our plugins, or a folder with a project.
    """
    source = Path(name) if Path(name).is_dir() else PLUGINS / name
    if not source.is_dir():
        raise SystemExit(f"ERROR: No matching distribution found for {name}")
    project = tomllib.loads((source / "pyproject.toml").read_text("utf-8"))["project"]
    name, version = project["name"], project["version"]
    for package in (source / "src").iterdir():
        (SITE / package.name).symlink_to(package.resolve())
    info = SITE / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))


def is_installed(name: str) -> bool:
    """Return whether there is a distribution of this name."""
    try:
        metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):
        return False
    return True


command, *arguments = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
if command != "install":
    raise SystemExit(f"ERROR: the pip of the tests has no command {command}")
for argument in arguments:
    wanted = argument.partition("==")[0].partition("[")[0]
    if not is_installed(wanted):
        install(wanted)
