"""Protected paths inside the working directory: tinyagent's own files, and the code that it runs."""

# Paths are compared as text here.
# ruff: noqa: PTH118
from __future__ import annotations

import functools
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Places", "known_places"]


@dataclass(frozen=True)
class Places:
    """Absolute paths of protected files and folders. A folder protects everything in it.

    Attributes:
        secret: Neither read nor written: keys, configuration, sessions.
        fixed: Not written: code that this tinyagent loads.
    """

    secret: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()


def known_places(root: str) -> Places:
    """Return the places of this tinyagent. A virtual environment around `root` is not protected."""
    return Places(
        secret=tuple(sorted({os.path.realpath(path) for path in _own_files()})),
        fixed=tuple(sorted({os.path.realpath(path) for path in _code(root)})),
    )


def _own_files() -> Iterator[str]:
    import platformdirs  # late, because the process of a search does not call this

    home = os.environ.get("TINYAGENT_HOME", "").strip()
    if home:
        yield str(Path(home).expanduser())
    for place in ("config", "data", "state", "cache"):
        yield str(getattr(platformdirs, f"user_{place}_dir")("tinyagent", appauthor=False))
    if Path("/proc/self/environ").exists():
        yield "/proc"  # readable if the working directory is `/`; it shows the keys in the environment


def _code(root: str) -> Iterator[str]:
    paths = sysconfig.get_paths()
    yield from (paths[name] for name in ("stdlib", "purelib", "platlib"))
    yield site.getusersitepackages()
    inside = os.path.join(os.path.realpath(root), "")
    if Path(sys.prefix, "pyvenv.cfg").exists() and not inside.startswith(
        os.path.join(os.path.realpath(sys.prefix), "")
    ):
        yield sys.prefix
    yield from _installed()
    for name, module in list(sys.modules.items()):
        if name.startswith("tinyagent_file_") and (path := getattr(module, "__file__", None)):
            yield path  # loaded by `-t ./mytools.py`


@functools.cache
def _installed() -> tuple[str, ...]:
    """Return the paths of tinyagent and its plugins, including editable installations."""
    from importlib import metadata  # late, as above

    modules = {"tinyagent", "tinyagent_cli"}
    for distribution in metadata.distributions():
        for point in distribution.entry_points:
            if point.group.startswith("tinyagent."):
                modules.add(point.module.split(".")[0])
    return tuple(path for module in sorted(modules) for path in _sources(module))


def _sources(module: str) -> Iterator[str]:
    """Return the folders of a package, or the file of a module, without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return
    if spec is not None:
        yield from spec.submodule_search_locations or ([spec.origin] if spec.origin else [])
