"""The code of all documents can be read, and its names, commands and options exist.

Blocks whose output is shown are run by the tests of their documents, such as test_readme.py.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import signal
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tinyagent_cli.app import root
from tinyagent_cli.exit_codes import EXIT_CODES

from .conftest import ROOT, Cli
from .documents import Block, blocks, run_block

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "cli.md"),
    *sorted((ROOT / "plugins").glob("*/README.md")),
    ROOT / "examples" / "README.md",
]
UNCHECKED = {"text", "", "lua", "ts", "yaml"}
"""Output, settings of other programs, and generated types, which tests/peers/test_generators.py makes."""
OTHER_ENVIRONMENTS = {"llm", "greet", "review"}
"""Commands of plugins that are not installed in .venv, or that a page writes."""


def all_blocks(*languages: str) -> list[object]:
    """Return the blocks in these languages, as parameters with the document and the number as their id."""
    return [
        pytest.param(block, id=f"{path.relative_to(ROOT)}:{number}")
        for path in DOCUMENTS
        for number, block in enumerate(blocks(path), 1)
        if block.language in languages
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_is_checked(path: Path) -> None:
    """Each block has a language that a test below checks, or one that has a reason not to."""
    known = {"json", "toml", "python", "sh", "bash", "console", *UNCHECKED}
    assert set() == {block.language for block in blocks(path)} - known


@pytest.mark.parametrize("block", all_blocks("json"))
def test_json_can_be_read(block: Block) -> None:
    """A block is one value, or one value per line."""
    try:
        json.loads(block.text)
    except ValueError:
        for line in block.text.splitlines():
            json.loads(line)


@pytest.mark.parametrize("block", all_blocks("toml"))
def test_toml_can_be_read(block: Block) -> None:
    """A block is a file with at least one key."""
    assert tomllib.loads(block.text)


@pytest.mark.parametrize("block", all_blocks("python"))
def test_python_compiles_and_imports_what_exists(block: Block) -> None:
    """A block is valid, also with `await` outside a function, and imports only names that exist."""
    tree = ast.parse(block.text)
    compile(tree, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tinyagent":
            module = importlib.import_module(node.module or "")
            assert [] == [name.name for name in node.names if not hasattr(module, name.name)]


def statements(block: Block) -> Iterator[str]:
    """Yield the command lines of a block, without the texts of here-documents."""
    end, waiting = "", ""
    for line in block.text.replace("\\\n", " ").splitlines():
        if end:
            end = "" if line.strip() == end else end
            continue
        if block.language == "console" and not waiting:
            if not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ")
        waiting += line + "\n"
        try:
            shlex.split(waiting, comments=True)
        except ValueError:
            continue  # a quoted text goes on in the next line
        yield waiting
        found = re.search(r"<<-?\s*['\"]?(\w+)", waiting)
        end, waiting = found[1] if found else "", ""
    assert waiting == "", f"the quote is not closed: {waiting}"


def programs(statement: str) -> Iterator[list[str]]:
    """Yield the words of each program in a command line."""
    lexer = shlex.shlex(statement, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("();|&"):
            yield words
            words = []
        else:
            words.append(word)


def check_commands(statement: str) -> None:
    """Fail if a command line calls `tinyagent` with a command or an option that does not exist."""
    for words in programs(statement):
        if "tinyagent" in words:
            check_call(words[words.index("tinyagent") + 1 :])


def check_call(words: list[str]) -> None:
    """Fail if a command or an option of `tinyagent` does not exist."""
    command: click.Command = root
    context = click.Context(root, info_name="tinyagent")
    while words:
        word = words.pop(0)
        if isinstance(command, click.Group) and not word.startswith("-"):
            if command is root and word in OTHER_ENVIRONMENTS:
                return
            found = command.get_command(context, word)
            assert found is not None, f"{context.command_path} has no command {word}"
            command = found
            context = click.Context(found, parent=context, info_name=word, **found.context_settings)
        elif word == "--":
            return
        elif re.match(r"--?[A-Za-z]", word):
            name = word.partition("=")[0] if word.startswith("--") else word[:2]
            options = {
                text: option
                for option in command.get_params(context)
                for text in [*option.opts, *option.secondary_opts]
            }
            assert name in options, f"{context.command_path} has no option {name}"
            option = options[name]
            if isinstance(option, click.Option) and not option.is_flag and not option.count and word == name:
                words[: option.nargs] = []
        elif not context.allow_interspersed_args and not isinstance(command, click.Group):
            return


@pytest.mark.parametrize("block", all_blocks("sh", "bash", "console"))
def test_commands_and_options_exist(block: Block) -> None:
    """Each call of `tinyagent` names a command that exists, with options that it has."""
    for statement in statements(block):
        check_commands(statement)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo a | tinyagent rum x", "tinyagent has no command rum"),
        ("tinyagent run -m demo --jsonlines x", "tinyagent run has no option --jsonlines"),
        ("X=1 tinyagent sessions list \\\n  --nonsense", "tinyagent sessions list has no option --nonsense"),
    ],
)
def test_wrong_commands_are_found(text: str, message: str) -> None:
    """A misspelt command or option is reported."""
    [statement] = statements(Block("sh", "", text))
    with pytest.raises(AssertionError, match=message):
        check_commands(statement)


def test_all_exit_codes_are_listed() -> None:
    """docs/running.md has the exit codes of all errors and signals, and no other."""
    section = (ROOT / "docs" / "running.md").read_text("utf-8").partition("## Exit codes\n")[2]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", section.partition("\n## ")[0], re.MULTILINE)}
    signals = {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    assert listed == {0, *EXIT_CODES.values(), *signals}


def test_the_guide_to_tests_in_ci_can_be_followed(cli: Cli) -> None:
    """The commands of docs/testing.md record and replay a run; another request fails as shown."""
    bash, console = blocks(ROOT / "docs" / "testing.md")
    run_block(cli, bash)
    [(command, expected)] = console.commands()
    done = cli.shell(f'tinyagent() {{ $T "$@"; }}\n{command}')
    assert (1, expected) == (done.code, done.out)
