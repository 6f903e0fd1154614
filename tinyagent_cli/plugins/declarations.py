"""What the source of a plugin declares: its tools and hooks. No code of a plugin runs.

Completion in the shell and `plugins list` use it. `@tool` functions, `AgentTool(name="…", execute=…)` and
functions with `@hookimpl` are found. Names that are made at run time, such as those of MCP servers, are not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tinyagent_cli.config.files import names_a_file

from .discovery import Plugin, find

__all__ = ["DeclaredTool", "declared_hooks", "declared_tools", "tools_in_source"]

MAX_FILES = 100
"""How many files of a package are read."""

MAX_BYTES = 1 << 20
"""Larger files are left out."""


class DeclaredTool(NamedTuple):
    """A tool in the source of a plugin; `read_only` is None if only running it would tell."""

    name: str
    read_only: bool | None


def declared_tools(request: str) -> list[str]:
    """Return the tools that `-t REQUEST` means: those of a plugin or of a file, or a single one."""
    if ".py:" in request:
        return [request.rpartition(":")[2]]
    if names_a_file(request):
        return [tool.name for tool in _tools_in(_parsed(Path(request).expanduser(), b"ool"))]
    plugins = [plugin for plugin in find("tools") if plugin.name == request]
    if not plugins and "." in request:
        return [request.rpartition(".")[2]]
    return sorted({tool.name for plugin in plugins for tool in tools_in_source(plugin)})


def tools_in_source(plugin: Plugin) -> list[DeclaredTool]:
    """Return the tools of a plugin, sorted by name."""
    found: dict[str, bool | None] = {}
    for path in _files_of(plugin):
        for tool in _tools_in(_parsed(path, b"ool")):
            # Two of one name are alternatives, of which one is chosen at run time.
            same = found.setdefault(tool.name, tool.read_only) is tool.read_only
            found[tool.name] = tool.read_only if same else None
    return [DeclaredTool(*item) for item in sorted(found.items(), key=lambda item: item[0])]


def declared_hooks(plugin: Plugin) -> dict[str, list[str]]:
    """Return the hooks that a plugin implements, sorted, with their arguments."""
    return dict(sorted(hook for path in _files_of(plugin) for hook in _hooks_in(_parsed(path, b"hookimpl"))))


def _files_of(plugin: Plugin) -> Iterator[Path]:
    from importlib.util import find_spec

    module = plugin.module.partition(".")[0]
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


def _parsed(path: Path, mark: bytes) -> Iterator[ast.AST]:
    """Yield the nodes of a file that contains `mark`; nothing if it cannot be read."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return
        data = path.read_bytes()
        if mark in data:
            yield from ast.walk(ast.parse(data))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return


def _tools_in(nodes: Iterator[ast.AST]) -> Iterator[DeclaredTool]:
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                call = decorator if isinstance(decorator, ast.Call) else None
                if _last_name(call.func if call else decorator) == "tool":
                    yield DeclaredTool(_argument(call, "name") or node.name, _read_only(call))
        elif isinstance(node, ast.Call) and _last_name(node.func) == "AgentTool":
            first = node.args[0] if node.args else None
            name = _argument(node, "name") or (first.value if isinstance(first, ast.Constant) else None)
            if isinstance(name, str) and _can_run(node):
                yield DeclaredTool(name, _read_only(node))


def _can_run(call: ast.Call) -> bool:
    """Return whether a call of `AgentTool` has a function to run. Others only describe a tool."""
    return any(keyword.arg in ("execute", None) for keyword in call.keywords)


def _hooks_in(nodes: Iterator[ast.AST]) -> Iterator[tuple[str, list[str]]]:
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                call = decorator if isinstance(decorator, ast.Call) else None
                is_hook = _last_name(call.func if call else decorator) == "hookimpl"
                if is_hook and _argument(call, "optionalhook") != "True":
                    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
                    hook = _argument(call, "specname") or node.name
                    yield hook, names[1:] if names[:1] == ["self"] else names


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _argument(call: ast.Call | None, name: str) -> str | None:
    """Return a keyword argument that is a text in the source."""
    for keyword in call.keywords if call else ():
        if keyword.arg == name and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    return None


def _read_only(call: ast.Call | None) -> bool | None:
    for keyword in call.keywords if call else ():
        if keyword.arg == "read_only":
            return keyword.value.value is True if isinstance(keyword.value, ast.Constant) else None
    return False
