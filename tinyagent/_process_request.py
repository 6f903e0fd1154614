"""The request to another process: where a function is, its arguments, and what it needs there.

`_process_child` describes the fields.
"""

from __future__ import annotations

import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from ._process_child import UNTYPED

__all__ = ["answer_types", "encode_request", "files_to_see"]


def encode_request(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    timeout: float | None,
    memory: int | None,
    *,
    confined: bool,
    is_tool: bool = False,
) -> bytes:
    """Return the request to call a function.

    Args:
        function: A function at the top level of a module.
        arguments: Its arguments.
        timeout: The time limit in seconds; None for no limit.
        memory: The limit of the address space in bytes; None for no limit.
        confined: Whether the process runs in a sandbox.
        is_tool: Whether the function is that of a tool.

    Raises:
        TypeError: The function cannot be loaded, or an argument cannot be encoded.
    """
    module, file, name = _address(function)
    try:
        encoded = msgspec.msgpack.encode(arguments)
    except (TypeError, UnicodeEncodeError, OverflowError) as error:
        raise TypeError(f"An argument of {name} cannot be sent to another process: {error}") from error
    return msgspec.msgpack.encode(
        {
            "path": _search_path(function),
            "module": module,
            "file": file,
            "name": name,
            "arguments": encoded,
            "count": len(arguments),
            "memory": memory,
            "seconds": timeout,
            "parent": None if confined else os.getpid(),
            "tool": is_tool,
        }
    )


def _address(function: Callable[..., object]) -> tuple[str, str | None, str]:
    """Return the module, the file (if the module cannot be imported) and the name of a function."""
    if not inspect.isfunction(function) or "<" in function.__qualname__:
        raise TypeError(f"run_in_process needs a function at the top level of a module, not {function!r}.")
    module, name = function.__module__, function.__qualname__
    loaded = sys.modules.get(module)
    spec = getattr(loaded, "__spec__", None)
    if module != "__main__" and spec is not None and _can_be_imported(module):
        return module, None, name
    if module == "__main__" and spec is not None:  # `python -m package.module`
        return str(spec.name), None, name
    file = inspect.getsourcefile(function)
    if file is None or not Path(file).is_file():
        raise TypeError(f"{name} was not loaded from a file, so another process cannot load it.")
    return f"tinyagent_process_{module.strip('_')}", os.path.abspath(file), name  # noqa: PTH100


def _can_be_imported(module: str) -> bool:
    """Return whether a module can be imported by name, not only loaded from a file path."""
    if "." in module:
        return True  # its package is imported and finds it
    if module in sys.builtin_module_names:
        return True
    return any(
        finder.find_spec(module, None) is not None for finder in sys.meta_path if hasattr(finder, "find_spec")
    )


def _search_path(function: Callable[..., object]) -> list[str]:
    """Return the module search path, without the working directory.

    A model can write files there, and such a file must not be imported as a module. If the function's own
    module is in the working directory, the directory is the last entry of the path.
    """
    here = os.path.realpath(Path.cwd())
    needed = {os.path.realpath(Path(name).parent) for name in _files(function)}
    path, last = [], []
    for entry in sys.path:
        real = os.path.realpath(entry) if entry else here
        if real != here:
            path.append(os.path.abspath(entry))  # noqa: PTH100
        elif here in needed and here not in last:
            last.append(here)
    return path + last


def files_to_see(function: Callable[..., object]) -> list[str]:
    """Return what the function needs in a sandbox: its file, and folders in `/tmp`, which is private."""
    import tempfile

    file = inspect.getsourcefile(function)
    folders = [os.getcwd(), *_search_path(function)]  # noqa: PTH109 - texts
    roots = [f"{os.path.realpath(root)}{os.sep}" for root in ("/tmp", tempfile.gettempdir())]
    found = [folder for folder in folders if os.path.realpath(folder).startswith(tuple(roots))]
    return [*found, *([] if file is None else [file])]


def _files(function: Callable[..., object]) -> Iterator[str]:
    """Return the top-level package of the function, and that of this library."""
    for module in (function.__module__.partition(".")[0], __name__.partition(".")[0]):
        loaded = sys.modules.get(module)
        file = getattr(loaded, "__file__", None)
        if file is not None:
            yield os.path.dirname(file) if hasattr(loaded, "__path__") else file  # noqa: PTH120


def answer_types(function: Callable[..., object]) -> tuple[object, object]:
    """Return the types of the items (of a generator) and of the result, from the return annotation."""
    try:
        hint: object = typing.get_type_hints(function).get("return", UNTYPED)
    except NameError as error:
        raise TypeError(
            f"A type hint of {function.__qualname__} cannot be resolved: {error}. "
            "Import or define the type at the top of the module."
        ) from error
    if not inspect.isgeneratorfunction(function):
        return UNTYPED, hint
    parts = typing.get_args(hint)
    return parts[0] if parts else UNTYPED, parts[2] if len(parts) == 3 else UNTYPED
