"""What a one-shot run imports, which is most of what it costs beyond the answer of the model."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Cli, FakeReply, Serve
from .test_main import MODULES

ROOT = Path(__file__).resolve().parent.parent.parent

OUR_MODULES = {
    "app app_context commands commands.options commands.run config config.endpoints config.environment",
    "config.files config.keys config.model_choice config.settings dispatch exit_codes main plugins",
    "plugins.builtin plugins.discovery plugins.failures plugins.loading plugins.log_warnings",
    "plugins.registrations plugins.registry plugins.selection plugins.tool_sources run run.agent",
    "run.approval_rules run.approvals run.driver run.garbage run.kernel_guards run.lifetime run.model",
    "run.options run.outcome run.plan run.process_exit run.progress run.prompt_input run.record_lines",
    "run.records run.terminal_questions run.tool_guards run.tools",
    "sessions sessions.files sessions.writer shell_completion sinks sinks.plugin terminal",
    "terminal.display terminal.output terminal.sanitise terminal.signals terminal.standard_output",
    "terminal.text version",
}
"""The modules of the command line in a run that prints text."""

NOT_IN_THE_LIBRARY = {
    "_docstrings _jsonl _prices alchemy_provider anthropic_provider demo_provider jsonl openrouter_provider",
    "proxy proxy_event_handlers replay_provider responses_provider testing _net.httpx_engine",
}
"""What a request to a server with the default protocol does not need."""

OTHER_PACKAGES = {
    *("cython_runtime", "_distutils_hack", "sitecustomize"),  # of httptools, the venv, Debian
    *("click", "httptools", "msgspec", "pluggy", "typing_extensions"),
}

NOT_IN_PYTHON = {
    *(
        "argparse",
        "configparser",
        "email",
        "hashlib",
        "http.client",
        "importlib.metadata",
        "importlib.resources",
    ),
    *("hashlib", "multiprocessing", "random", "shutil", "tempfile", "unittest", "urllib.request", "xml"),
    "zipfile",
}

PUBLIC_DATACLASSES = {
    "tinyagent/_stream/model.py",
    "tinyagent/agent.py",
    "tinyagent/agent_types.py",
    "tinyagent/openai_wire.py",
    "tinyagent/tools.py",
}
"""Their classes are made at the start, because they are part of the public interface."""


@pytest.fixture
def modules(cli: Cli, serve: Serve) -> set[str]:
    """The modules that a one-shot run with a loopback server has imported at its end."""
    serve(FakeReply.text("Hello."))
    script = cli.file("modules.py", MODULES.format(args=["run", "-m", "local/model", "Hi"]))
    done = cli.shell(f'"$PYTHON" -P {script}')
    assert (0, "Hello.\n") == (done.code, done.out), done.err
    return set(done.err.splitlines()[-1].split(" "))


def _names(lines: set[str]) -> set[str]:
    return {name for line in lines for name in line.split()}


def test_a_run_imports_only_what_it_uses_of_the_command_line(modules: set[str]) -> None:
    """Neither records nor approvals, the installer, other commands or lists are imported."""
    prefix = "tinyagent_cli."
    assert _names(OUR_MODULES) == {name.removeprefix(prefix) for name in modules if name.startswith(prefix)}


def test_a_run_imports_only_what_it_uses_of_the_library(modules: set[str]) -> None:
    """Neither other protocols, JSON lines nor the test tools are imported."""
    unused = {f"tinyagent.{name}" for name in _names(NOT_IN_THE_LIBRARY)}
    assert set() == modules & unused


def test_a_run_imports_few_other_packages(modules: set[str]) -> None:
    """httpx, rich and the metadata of distributions stay out."""
    tops = {name.partition(".")[0] for name in modules}
    files = {name for name in tops if name not in sys.stdlib_module_names and not name.startswith("_")}
    ours = {"tinyagent", "tinyagent_cli"}
    assert set() == files - ours - OTHER_PACKAGES
    assert set() == modules & NOT_IN_PYTHON


def _made_at_import(tree: ast.Module) -> Iterator[str]:
    """Return the patterns and dataclasses that a module makes when it is imported."""
    for statement in tree.body:
        match statement:
            case ast.Assign(value=ast.Call(func=ast.Attribute(value=ast.Name("re"), attr="compile"))):
                yield f"line {statement.lineno}: re.compile"
            case ast.ClassDef(decorator_list=decorators):
                if any("dataclass" in ast.unparse(decorator) for decorator in decorators):
                    yield f"line {statement.lineno}: dataclass"


def test_a_run_makes_no_pattern_and_no_private_dataclass_at_its_start(modules: set[str]) -> None:
    """Patterns are compiled by their first use. A private class of values is a NamedTuple or a Struct."""
    found: dict[str, list[str]] = {}
    for name in modules:
        path = ROOT / (name.replace(".", "/") + ".py")
        if name.split(".")[0] in ("tinyagent", "tinyagent_cli") and path.is_file():
            made = list(_made_at_import(ast.parse(path.read_text(encoding="utf-8"))))
            relative = str(path.relative_to(ROOT))
            if relative in PUBLIC_DATACLASSES:
                made = [what for what in made if not what.endswith("dataclass")]
            if made:
                found[relative] = made
    assert {} == found
