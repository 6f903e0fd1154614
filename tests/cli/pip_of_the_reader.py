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
    """Link the packages of a plugin, and write its metadata."""
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        pass
    else:
        return  # already installed
    source = PLUGINS / name
    if not source.is_dir():
        raise SystemExit(f"ERROR: No matching distribution found for {name}")
    project = tomllib.loads((source / "pyproject.toml").read_text("utf-8"))["project"]
    for package in (source / "src").iterdir():
        (SITE / package.name).symlink_to(package)
    info = SITE / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))


command, *arguments = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
if command != "install":
    raise SystemExit(f"ERROR: the pip of the tests has no command {command}")
for argument in arguments:
    install(argument.partition("==")[0].partition("[")[0])
