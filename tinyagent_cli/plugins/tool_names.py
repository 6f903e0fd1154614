"""The names of tools as their source declares them, for completion in the shell: no code of a plugin runs.

`@tool` functions and `AgentTool(name="…")` are found. Names that are made at run time, such as those of MCP
servers, are not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from .discovery import find

__all__ = ["declared_tools"]

MAX_FILES = 100
"""How many files of a package are read."""

MAX_BYTES = 1 << 20
"""Larger files are left out."""


def declared_tools(request: str) -> list[str]:
    """Return the tools that `-t REQUEST` means: those of a plugin or of a file, or a single one."""
    if ".py:" in request:
        return [request.rpartition(":")[2]]
    if request.endswith(".py") or "/" in request:
        return _names_in(Path(request).expanduser())
    plugins = [plugin for plugin in find("tools") if plugin.name == request]
    if not plugins and "." in request:
        return [request.rpartition(".")[2]]
    modules = {plugin.value.partition(":")[0].partition(".")[0] for plugin in plugins}
    return sorted({name for module in modules for path in _files_of(module) for name in _names_in(path)})


def _files_of(module: str) -> Iterator[Path]:
    from importlib.util import find_spec

    try:
        spec = find_spec(module)  # of a module that is not in a package: nothing is imported
    except (ImportError, ValueError):
        return
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        yield Path(spec.origin or "")
    for folder in spec.submodule_search_locations or ():
        yield from islice(sorted(Path(folder).rglob("*.py")), MAX_FILES)


def _names_in(path: Path) -> list[str]:
    """Return the names in a file, in their order; nothing if it cannot be read."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return []
        data = path.read_bytes()
        if b"tool" not in data and b"AgentTool" not in data:
            return []
        tree = ast.parse(data)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    return [name for node in ast.walk(tree) for name in _names_of(node)]


def _names_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            if _last_name(call.func if call else decorator) == "tool":
                yield _name_argument(call) or node.name
    elif isinstance(node, ast.Call) and _last_name(node.func) == "AgentTool":
        first = node.args[0] if node.args else None
        name = _name_argument(node) or (first.value if isinstance(first, ast.Constant) else None)
        if isinstance(name, str):
            yield name


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _name_argument(call: ast.Call | None) -> str | None:
    for keyword in call.keywords if call else ():
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    return None
