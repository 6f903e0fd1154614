"""The source of a tool, and a hash of its code: stored approvals are bound to both."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from .discovery import Plugin, normalised

__all__ = ["ToolFile", "ToolSource", "import_file", "module_name", "source_of"]

MAX_FILE_BYTES = 16 << 20
"""The size limit of a tool file."""

_file_hashes: dict[str, str] = {}
"""The hash of each tool file that was run, by module name."""


class ToolFile(NamedTuple):
    """A Python file that `-t` names.

    Attributes:
        path: The file, resolved.
        argument: The file as the user has typed it.
    """

    path: Path
    argument: str

    def __str__(self) -> str:
        return f"{self.path.stem!r} (file {self.argument})"


class ToolSource(NamedTuple):
    """A tool's file or distribution.

    Attributes:
        name: The path of the file, or the name of the distribution.
        module: The module that the tool was loaded from.
        is_file: Whether it is a file of `-t FILE`.
    """

    name: str
    module: str
    is_file: bool

    def content(self) -> str | None:
        """Return a hash that changes with the code of the tool; None if the code cannot be found.

        For a file it is the hash of the text that was run. For a distribution it covers its RECORD, which
        has the hashes of all installed files, and the present files of the tool's package, so editable
        installs and later edits change it, too.
        """
        if self.is_file:
            return _file_hashes.get(self.module)
        return _hash_of_distribution(self.name, self.module)


def source_of(plugin: Plugin | ToolFile) -> ToolSource:
    """Return the source of the tools of a plugin."""
    if isinstance(plugin, ToolFile):
        return ToolSource(str(plugin.path), module_name(plugin.path), is_file=True)
    return ToolSource(normalised(plugin.distribution), plugin.module, is_file=False)


def import_file(path: Path) -> ModuleType:
    """Run a Python file as a module. Its text is read once, and no byte code of it is used.

    Raises:
        ImportError: The file is not a Python file.
        ConfigurationError: The file cannot be read, or is longer than 16 MiB.
        Exception: Any error that its code raises.
    """
    from importlib.util import module_from_spec, spec_from_file_location

    from tinyagent._sandbox.places import loaded_files

    name = module_name(path)
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[name] = module  # type hints are resolved through here
    loaded_files.add(str(path.absolute()))  # a program in the sandbox must not change what runs outside
    try:
        if path.suffix == ".py":
            _run(path, module)
        else:
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def module_name(path: Path) -> str:
    """Return the module name of a tool file."""
    return f"tinyagent_file_{re.sub(r'[^A-Za-z0-9]', '_', str(path))}"


def _run(path: Path, module: ModuleType) -> None:
    import hashlib

    from tinyagent.text_files import decode_text, detect_encoding, read_bytes

    source = read_bytes(path, limit=MAX_FILE_BYTES)
    _file_hashes[module.__name__] = hashlib.sha256(source).hexdigest()
    if detect_encoding(source)[0] != "utf-8":
        source = decode_text(source, str(path)).encode()
    # If the source is bytes, Python handles byte order marks and coding comments (PEP 263).
    exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))


@cache
def _hash_of_distribution(name: str, module: str) -> str | None:
    import hashlib
    from importlib import metadata

    digest = hashlib.sha256()
    try:
        digest.update((metadata.distribution(name).read_text("RECORD") or "").encode())
    except metadata.PackageNotFoundError:
        pass
    try:
        files = sorted(_files_of(module))
        for path in files:
            with path.open("rb") as file:
                digest.update(f"\0{path}\0{hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    except OSError:
        return None
    return digest.hexdigest() if files else None


def _files_of(module: str) -> Iterator[Path]:
    """Return the files of the outermost package of a module that is not a namespace package."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        loaded = sys.modules.get(".".join(parts[:count]))
        spec = None if loaded is None else loaded.__spec__
        if spec is None or not spec.has_location or spec.origin is None:
            continue  # a namespace package
        if spec.submodule_search_locations is None:
            yield Path(spec.origin)
            return
        for root in spec.submodule_search_locations:
            for folder, folders, names in os.walk(root):
                folders[:] = [name for name in folders if name != "__pycache__"]
                yield from (Path(folder, name) for name in names)
        return
