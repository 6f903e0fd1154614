"""The permitted imports. The table is the architecture; a module that is missing in it is an error."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from tests.cli.documents import blocks

ROOT = Path(__file__).resolve().parent.parent

# The floors of the library, from the lowest to the highest. A module imports from its own floor and from
# lower ones. Packages stand for all of their modules.
FLOORS = [
    {"agent_types", "errors", "hookspecs", "text_files", "toml_files", "child_environment", "supervisor"}
    | {"sandbox", "_sandbox", "tool_sandbox"}
    | {"_supervisor", "_json", "_docstrings", "_version", "_executors.interface"},
    {"_cancel", "_process", "_process_request", "_process_child", "_tool_child", "interaction"}
    | {"executors", "_executors"},
    {"_net"},
    {"_stream", "_schema_repair", "_tool_schemas", "_tool_checks"},
    {"jsonl", "_jsonl", "_answer", "_answer_form", "_event_stream", "_prices"}
    | {"openai_wire", "openrouter_provider", "anthropic_provider", "responses_provider", "alchemy_provider"}
    | {"_alchemy", "_alchemy_request", "proxy", "proxy_event_handlers", "demo_provider", "_arithmetic"}
    | {"replay_provider", "request_limits", "_limits", "reply_builder"},
    {"_tool_call", "agent_tool_execution", "_loop", "agent_loop"},
    {"_agent", "agent", "tools", "_tool_arguments"},
    {"testing"},
]

# The floors of the command line. A package stands for its modules, unless a module is listed itself.
CLI_FLOORS = [
    {"version", "config.environment", "terminal.sanitise", "terminal.signals", "terminal.standard_output"}
    | {"terminal.wrapping"},
    {"exit_codes", "app_context"},
    {"config", "terminal"},
    {"plugins"},
    {"sinks", "sessions", "events"},
    {"run"},
    {"rpc", "chat", "batch"},
    {"shell_completion", "completion_scripts"},
    {"commands", "how_to_begin"},
    {"app"},
    {"dispatch"},
    {"main"},
    {"__main__"},
]

# Each of these is imported in one place, so that it can be replaced by changing one file.
ONLY_USERS = {
    "httptools": {"tinyagent._net.http1"},
    "httpx": {"tinyagent._net.httpx_engine"},
    "jinja2": {"tinyagent_cli.events.page_template"},
    "jsonschema_rs": {"tinyagent._tool_schemas"},
    "keyring": {"tinyagent_cli.config.system_keyring"},
    "tomlkit": {"tinyagent.toml_files"},
    "prompt_toolkit": {
        f"tinyagent_cli.chat.{name}" for name in ("chat", "model_setup", "output", "prompt", "start")
    },
    "pluggy": {"tinyagent.hookspecs", "tinyagent_cli.plugins.loading"},
}
NOT_IN_THE_LIBRARY = {"click", "jinja2", "platformdirs", "prompt_toolkit", "rich", "tinyagent_cli"}

ENVIRONMENT_READERS = {
    "testing.pytest_plugin",  # takes keys out of it
    "testing.executors",  # checks that it reaches workers
    "_process",  # passes a small part of it on
    "sandbox",  # passes a part of it on
    "tool_sandbox",  # reads whether the user wants one
    "_sandbox.places",  # finds our own folders, to hide them
    "_net.network",  # finds the CA certificates of the platform
    "_stream.request",  # reads the key of a provider
    "proxy",  # reads its URL and token
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Return all imports, including those in functions and under TYPE_CHECKING."""
    return grimp.build_graph("tinyagent", "tinyagent_cli", include_external_packages=True, cache_dir=None)


@pytest.fixture(scope="module")
def runtime_graph() -> grimp.ImportGraph:
    """Return the imports that are executed."""
    return grimp.build_graph(
        "tinyagent",
        "tinyagent_cli",
        include_external_packages=True,
        exclude_type_checking_imports=True,
        cache_dir=None,
    )


def _floor(module: str) -> int | None:
    """Return the floor of a module, by its own name or its package; None if it has none."""
    package, _, name = module.partition(".")
    floors = FLOORS if package == "tinyagent" else CLI_FLOORS
    for wanted in (name, name.split(".")[0]):
        for number, floor in enumerate(floors):
            if wanted in floor:
                return number
    return None


def _modules(graph: grimp.ImportGraph, package: str) -> list[str]:
    return sorted(name for name in graph.modules if name.startswith(f"{package}."))


@pytest.mark.parametrize("package", ["tinyagent", "tinyagent_cli"])
def test_every_module_has_a_floor(graph: grimp.ImportGraph, package: str) -> None:
    """A new module must be added to the table."""
    assert [] == [name for name in _modules(graph, package) if _floor(name) is None]


@pytest.mark.parametrize("package", ["tinyagent", "tinyagent_cli"])
def test_modules_import_downwards(graph: grimp.ImportGraph, package: str) -> None:
    """A module imports from its own and lower floors; library modules never import the package."""
    wrong = [
        f"{importer} -> {imported}"
        for importer in _modules(graph, package)
        for imported in sorted(graph.find_modules_directly_imported_by(importer))
        if imported == package
        or (imported.startswith(f"{package}.") and (_floor(imported) or 0) > (_floor(importer) or 0))
    ]
    assert [] == wrong


def test_imports_form_no_circle(graph: grimp.ImportGraph) -> None:
    """No modules import each other, even in functions or for type checking."""
    sorter = graphlib.TopologicalSorter(
        {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    )
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def test_the_library_stands_alone(runtime_graph: grimp.ImportGraph) -> None:
    """The library imports neither the command line nor packages for terminals."""
    wrong = [
        f"{importer} -> {imported}"
        for importer in runtime_graph.modules
        if importer.split(".")[0] == "tinyagent"
        for imported in runtime_graph.find_modules_directly_imported_by(importer)
        if imported.split(".")[0] in NOT_IN_THE_LIBRARY
    ]
    assert [] == sorted(wrong)


@pytest.mark.parametrize("package", sorted(ONLY_USERS))
def test_each_dependency_is_imported_in_one_place(runtime_graph: grimp.ImportGraph, package: str) -> None:
    """A dependency that may be replaced has one importing module."""
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
    ("package", "allowed"), [("tinyagent", ENVIRONMENT_READERS), ("tinyagent_cli", {"config.environment"})]
)
def test_the_environment_is_read_in_one_place(package: str, allowed: set[str]) -> None:
    """In the command line only `config.environment` reads the environment; in the library, providers do."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / package).rglob("*.py"))
        if ".".join(path.relative_to(ROOT / package).with_suffix("").parts) not in allowed
        for line in _reads_environment(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert [] == wrong


def test_the_architecture_names_every_module() -> None:
    """The diagram in ARCHITECTURE.md has all modules of the library and all packages of the command line."""
    [modules_shown, _] = blocks(ROOT / "ARCHITECTURE.md")
    named = set(re.findall(r"\w+", modules_shown.text))
    modules = {path.stem for path in (ROOT / "tinyagent").rglob("*.py") if "contract" not in path.parts}
    packages = {path.parent.name for path in (ROOT / "tinyagent_cli").glob("*/__init__.py")}
    assert set() == (modules | packages) - named - {"__init__", "_version"}


def test_the_architecture_names_files_that_exist() -> None:
    """Each file that ARCHITECTURE.md names is there."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    folders = ("tinyagent", "tinyagent_cli", "plugins", "tests")
    files = {str(path) for folder in folders for path in (ROOT / folder).rglob("*.py")}
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert [] == sorted(name for name in named if not any(file.endswith(f"/{name}") for file in files))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module


@pytest.mark.parametrize("folder", ["plugins", "examples"])
def test_plugins_use_the_public_library_only(folder: str) -> None:
    """Plugins import only public names of `tinyagent`."""
    wrong = [
        f"{path.relative_to(ROOT)} -> {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in _imported(ast.parse(path.read_text(encoding="utf-8")))
        if name.split(".")[0] == "tinyagent_cli" or (name.startswith("tinyagent.") and "._" in name)
    ]
    assert [] == wrong
