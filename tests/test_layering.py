"""Who may import whom. The table is the architecture; a module that is not in it is a failure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module imports only from lower levels, and from its own level only the shared pieces.
LEVELS = {
    "agent_types": 0,
    "child_environment": 0,
    "errors": 0,
    "hookspecs": 0,
    "_chat_types": 1,
    "_chunks": 0,
    "_citations": 1,
    "_finish_reasons": 0,
    "_interrupt": 0,
    "_json": 0,
    "_process_child": 0,
    "_sse": 0,
    "_version": 0,
    "text_files": 0,
    "_answer": 1,
    "_docstrings": 1,
    "_event_stream": 1,
    "_fake_server": 1,
    "_handover": 1,
    "_http": 1,
    "_message_builder": 1,
    "_message_checks": 1,
    "_model_families": 1,
    "_prices": 1,
    "_process": 1,
    "_network": 1,
    "_provider_errors": 1,
    "_response": 1,
    "_tool_schemas": 1,
    "_usage": 1,
    "_wire": 1,
    "agent_tool_execution": 1,
    "alchemy_provider": 1,
    "anthropic_provider": 1,
    "demo_provider": 1,
    "jsonl": 1,
    "openai_wire": 1,
    "openrouter_provider": 1,
    "proxy_event_handlers": 1,
    "replay_provider": 1,
    "responses_provider": 1,
    "_servers": 0,
    "_server_wires": 2,
    "agent_loop": 2,
    "proxy": 2,
    "_provider_contract": 3,
    "agent": 3,
    "pytest_plugin": 4,
    "testing": 3,
    "tools": 3,
}
SHARED = {
    *("agent_types", "errors", "_finish_reasons", "_interrupt", "_json", "_servers"),
    *(
        "_answer",
        "_citations",
        "_chat_types",
        "_event_stream",
        "_handover",
        "_http",
        "_message_builder",
        "_message_checks",
        "_model_families",
        "_network",
        "_provider_errors",
        "_response",
        "_tool_schemas",
        "_usage",
        "_wire",
        "anthropic_provider",  # by alchemy_provider, which sends the same requests another way
        "jsonl",
        "openai_wire",
    ),
    *("_provider_contract", "testing"),  # the parts of tinyagent.testing
}

# Each of these is used behind one door, so that replacing it is one file's work.
ONLY_USERS = {
    "httpx": {"tinyagent._http"},
    "jsonschema_rs": {"tinyagent._tool_schemas"},
    "pluggy": {"tinyagent.hookspecs", "tinyagent_cli.plugin_manager"},
}
NOT_IN_THE_LIBRARY = {"click", "platformdirs", "prompt_toolkit", "rich", "tinyagent_cli"}

# The library's providers read the one variable that holds their key (the proxy: URL and token), and
# the HTTP client where the platform says its CA certificates are.
ENVIRONMENT_READERS = {
    "pytest_plugin",  # takes keys out of it
    "_process",  # passes a small part of it on
    *("_network", "_wire", "alchemy_provider", "openai_wire", "openrouter_provider", "proxy"),
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """All imports, those inside functions and under TYPE_CHECKING included."""
    return grimp.build_graph("tinyagent", "tinyagent_cli", include_external_packages=True, cache_dir=None)


@pytest.fixture(scope="module")
def runtime_graph() -> grimp.ImportGraph:
    """The imports that are carried out."""
    return grimp.build_graph(
        "tinyagent",
        "tinyagent_cli",
        include_external_packages=True,
        exclude_type_checking_imports=True,
        cache_dir=None,
    )


def _library_modules(graph: grimp.ImportGraph) -> set[str]:
    return {name.removeprefix("tinyagent.") for name in graph.modules if name.startswith("tinyagent.")}


def test_every_module_of_the_library_has_a_level(graph: grimp.ImportGraph) -> None:
    """A new module is put into the table on purpose."""
    assert set() == _library_modules(graph) - set(LEVELS)


def test_library_modules_import_downwards(graph: grimp.ImportGraph) -> None:
    """L3 -> L2 -> L1 -> L0; inside a level only the shared pieces; nobody imports the package itself."""
    wrong = []
    for importer in sorted(_library_modules(graph) & set(LEVELS)):
        for imported in graph.find_modules_directly_imported_by(f"tinyagent.{importer}"):
            if imported == "tinyagent":
                wrong.append(f"{importer} -> the package itself")
            elif (name := imported.removeprefix("tinyagent.")) in LEVELS:
                down = LEVELS[importer] - LEVELS[name]
                if down < 0 or (down == 0 and name not in SHARED):
                    wrong.append(f"{importer} (L{LEVELS[importer]}) -> {name} (L{LEVELS[name]})")
    assert [] == wrong


def test_the_library_stands_alone(runtime_graph: grimp.ImportGraph) -> None:
    """The library knows nothing of the command line and of what only terminals need."""
    wrong = [
        f"{importer} -> {imported}"
        for importer in runtime_graph.modules
        if importer.split(".")[0] == "tinyagent"
        for imported in runtime_graph.find_modules_directly_imported_by(importer)
        if imported.split(".")[0] in NOT_IN_THE_LIBRARY
    ]
    assert [] == sorted(wrong)


@pytest.mark.parametrize("package", sorted(ONLY_USERS))
def test_one_door_to_each_dependency(runtime_graph: grimp.ImportGraph, package: str) -> None:
    """What may be replaced one day is imported in one place."""
    users: set[str] = set()
    if package in runtime_graph.modules:
        users = runtime_graph.find_modules_that_directly_import(package)
    assert set() == users - ONLY_USERS[package]


def _reads_environment(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "environb" | "getenv" | "getenvb"):
                yield node.lineno
            case ast.ImportFrom(module="os", names=names):
                if any(alias.name in ("environ", "environb", "getenv", "getenvb") for alias in names):
                    yield node.lineno


@pytest.mark.parametrize(
    ("package", "allowed"), [("tinyagent", ENVIRONMENT_READERS), ("tinyagent_cli", {"settings"})]
)
def test_the_environment_is_read_in_one_place(package: str, allowed: set[str]) -> None:
    """In the command line only `settings` reads the environment; in the library, providers do."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.stem not in allowed
        for line in _reads_environment(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert [] == wrong


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module


@pytest.mark.parametrize("folder", ["plugins", "examples"])
def test_plugins_use_the_public_library_only(folder: str) -> None:
    """A plugin needs nothing but public names of `tinyagent`, so anybody can write one."""
    wrong = [
        f"{path.relative_to(ROOT)} -> {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in _imported(ast.parse(path.read_text(encoding="utf-8")))
        if name.split(".")[0] == "tinyagent_cli" or (name.startswith("tinyagent.") and "._" in name)
    ]
    assert [] == wrong
