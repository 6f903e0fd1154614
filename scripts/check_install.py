"""Check that the `tinyagent` of this environment is the one in this checkout.

The distribution name belongs to somebody else on the public index, so an install that resolved it
from there would put foreign code behind our import name. Every `make` set-up ends with this check
(run with `python -P`, so that only what is installed counts).
"""

import sys
from importlib import metadata, util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def faults() -> list[str]:
    """Say what is wrong with the installed `tinyagent`, nothing if it is ours."""
    try:
        ours = metadata.distribution("tinyagent")
    except metadata.PackageNotFoundError:
        return ["distribution 'tinyagent' is not installed"]
    found = []
    scripts = {(point.name, point.value) for point in ours.entry_points if point.group == "console_scripts"}
    if ("tinyagent", "tinyagent_cli.main:main") not in scripts:
        found.append("distribution 'tinyagent' does not provide our `tinyagent` command")
    for package in ("tinyagent", "tinyagent_cli"):
        spec = util.find_spec(package)
        where = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if where != ROOT / package:
            found.append(f"package {package!r} is imported from {where}, not from this checkout")
    return found


if __name__ == "__main__":
    for fault in (wrong := faults()):
        print(f"check_install: {fault}", file=sys.stderr)
    if wrong:
        print("check_install: run `make clean` and start again", file=sys.stderr)
    sys.exit(bool(wrong))
