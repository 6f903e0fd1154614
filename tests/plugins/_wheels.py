"""Make wheels for tests: small ones from text, and installed distributions packed again."""

from __future__ import annotations

import re
import zipfile
from importlib import metadata
from pathlib import Path

__all__ = ["repack", "write_wheel"]


def write_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    headers: str = "",
    files: dict[str, str] | None = None,
    tag: str = "py3-none-any",
) -> Path:
    """Write the wheel of a pure distribution; `headers` are lines of its METADATA, `files` its contents.

    A file named `entry_points.txt` goes beside the metadata.
    """
    stem = f"{re.sub(r'[-_.]+', '_', name)}-{version}"
    info = f"{stem}.dist-info"
    content = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{headers}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    for file, text in (files or {}).items():
        content[f"{info}/{file}" if file == "entry_points.txt" else file] = text
    content[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*content, f"{info}/RECORD"])
    path = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in content.items():
            archive.writestr(file, text)
    return path


def repack(folder: Path, name: str) -> Path:
    """Pack an installed distribution, without its scripts, into a wheel, so that tests need no index."""
    distribution = metadata.distribution(name)
    tag = next(
        line.partition(":")[2].strip()
        for line in (distribution.read_text("WHEEL") or "").splitlines()
        if line.startswith("Tag:")
    )
    stem = f"{re.sub(r'[-_.]+', '_', distribution.metadata['Name'])}-{distribution.version}"
    path = folder / f"{stem}-{tag}.whl"
    left_out = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
    kept = [
        file
        for file in distribution.files or []
        if ".." not in file.parts and file.suffix != ".pyc" and file.name not in left_out
    ]
    [info] = {file.parts[0] for file in kept if file.parts[0].endswith(".dist-info")}
    with zipfile.ZipFile(path, "w") as archive:
        for file in kept:
            archive.write(str(file.locate()), str(file))
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*kept, f"{info}/RECORD"]))
    return path
