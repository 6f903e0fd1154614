"""Every hook is documented with its signature, and used by a plugin of ours."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from tests.cli.documents import blocks
from tinyagent import hookspecs

ROOT = Path(__file__).resolve().parent.parent
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("tinyagent_"))


def _signature(node: ast.FunctionDef) -> str:
    returns = ast.unparse(node.returns) if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}) -> {returns}"


def _functions(source: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def _specified(name: str) -> str:
    return _signature(_functions(inspect.getsource(hookspecs))[name])


def _documented() -> dict[str, str]:
    return {
        name: _signature(node)
        for block in blocks(ROOT / "docs" / "hooks.md")
        for name, node in _functions(block.text).items()
    }  # fmt: skip


def test_every_hook_is_documented_with_its_signature() -> None:
    """docs/hooks.md has exactly the specified hooks and signatures."""
    assert {name: _specified(name) for name in HOOKS} == _documented()


def _implements(path: Path) -> set[str]:
    """Return the names of the functions that are marked with @hookimpl."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(ast.unparse(mark).startswith("hookimpl") for mark in node.decorator_list)
    }


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_used(hook: str) -> None:
    """Each hook is used by one of our plugins."""
    sources = [*ROOT.glob("plugins/*/src/**/*.py"), *ROOT.glob("bindings/*/python/**/*.py")]
    assert [] != [path for path in sources if hook in _implements(path)]
