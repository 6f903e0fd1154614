"""Every code block of every document does what the document says.

A reader follows each page from its first block to its last one: commands and programs are run, their output
is compared, and files are decoded by the code that reads them. The words after the fence of a block say what
it needs; see `documents.py`. A block that cannot be run has a reason; its commands and options are checked.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import pytest

from tinyagent_cli.app import root
from tinyagent_cli.exit_codes import EXIT_CODES

from .conftest import ROOT
from .documents import DOCUMENTS, REASONS, SHELL, WORDS, Block, anchors, blocks, links, python_programs
from .formats import KINDS, kind_of
from .reader import Reader, internet, new_reader

__all__ = ["internet", "new_reader"]

OTHER_ENVIRONMENTS = {"llm", "greet", "review"}
"""Commands of plugins that are not installed in .venv, or that a page writes."""

BLOCKS = {page: blocks(page) for page in DOCUMENTS}
ALL = [block for page in BLOCKS.values() for block in page]


def name(path: Path) -> str:
    """Return the path in the repository."""
    return str(path.relative_to(ROOT))


# ---- the blocks are run ------------------------------------------------------------------------------

ELSEWHERE = {
    "README.md": "tests/cli/test_readme.py",
    "docs/plugins.md": "tests/plugins/test_guide.py",
    "docs/publish-a-plugin.md": "tests/plugins/test_publishing.py",
    **{
        name(page): "tests/cli/test_plugin_howtos.py"
        for page in DOCUMENTS
        if page.name.startswith(("write-a-", "write-an-"))
    },
}
"""Pages whose readers need more, with their tests."""
FOLLOWED = [
    page
    for page, found in BLOCKS.items()
    if name(page) not in ELSEWHERE and any(block.runs for block in found)
]


@pytest.mark.parametrize("page", FOLLOWED, ids=name)
def test_the_page_can_be_followed(new_reader: Callable[[Sequence[Block]], Reader], page: Path) -> None:
    """Each block does what the page says, after those before it."""
    new_reader(BLOCKS[page]).follow(BLOCKS[page])


@pytest.mark.parametrize("page", BLOCKS, ids=name)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    """A block is run, decoded or saved, or is output, or says which test runs it, or why it is not run."""
    for block in BLOCKS[page]:
        assert set() == block.words.keys() - WORDS, f"{block} has words that mean nothing"
        if test := block.words.get("test"):
            assert page.name in (ROOT / test).read_text("utf-8"), f"{test} does not run {block}"
        elif "skip" in block.words:
            assert block.words["skip"] in REASONS, block
        elif block.language in ("toml", "json"):
            assert kind_of(block), f"{block} must say what it is: as=KIND, one of {', '.join(KINDS)}"
        elif block.language == "text":
            # Its commands would be checked by nothing.
            assert not re.search(r"^\$ ", block.text, re.MULTILINE), f"{block} has commands: use `console`"
        else:
            known = block.language in (*SHELL, "python") or block.file
            assert known, f"{block} is not run: use file=, skip= or test="
        assert block.words.get("as") in (None, *KINDS), block


def test_few_blocks_are_not_run() -> None:
    """These are all exceptions."""
    assert {
        "account": 1, "heavy": 5, "install": 1, "internet": 2, "make": 5, "other-program": 5, "rust": 2,
        "transcript": 11,
    } == Counter(block.words["skip"] for block in ALL if "skip" in block.words)  # fmt: skip


def test_types(tmp_path: Path) -> None:
    """mypy accepts each Python block in its strict mode."""
    for page, found in BLOCKS.items():
        if ELSEWHERE.get(name(page)) == "tests/cli/test_plugin_howtos.py":
            continue  # it runs pyright and ruff, too
        for block, program in python_programs(found):
            if not block.runs:
                continue
            path = Path(block.file)
            if path.name.startswith("test_"):
                program = f"# mypy: allow-untyped-defs, allow-untyped-calls\n{program}"
            module = path.parent.name if path.name == "__init__.py" else path.stem
            if not module or (tmp_path / f"{module}.py").exists():
                module = re.sub(r"\W+", "_", f"{name(page)}_{block.line}")
            (tmp_path / f"{module}.py").write_text(program, "utf-8")
    # An example may leave out the body of a function. The cache is that of `make check`.
    options = ["--disable-error-code", "empty-body", "--cache-dir", ROOT / ".mypy_cache"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *tmp_path.iterdir()],
        cwd=ROOT, env={**os.environ, "MYPYPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr


# ---- links -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", DOCUMENTS, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link is a file or folder of the repository, and its fragment a heading of that page."""
    wrong = []
    for link in links(page):
        path, _, fragment = link.partition("#")
        if not re.match(r"https?:|mailto:", link):
            target = page.parent / path if path else page
            known = anchors(target) if fragment and target.suffix == ".md" and target.exists() else {fragment}
            if not target.exists() or fragment not in known:
                wrong.append(link)
    assert [] == wrong


# ---- commands -----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "page", [page for page in BLOCKS if page.name == "plugins.md" or "write-a" in page.name]
)
def test_a_page_with_tests_says_what_they_need(page: Path) -> None:
    """Nothing of tinyagent installs pytest, so a page that runs it says that before."""
    before, runs, _ = page.read_text("utf-8").partition("$ python -m pytest")
    assert not runs or re.search("pip install .*pytest", before)


SHELL_BLOCKS = [pytest.param(block, id=str(block)) for block in ALL if block.language in SHELL]


@pytest.mark.parametrize("block", SHELL_BLOCKS)
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
    [statement] = statements(Block("sh", text))
    with pytest.raises(AssertionError, match=message):
        check_commands(statement)


def test_all_exit_codes_are_listed() -> None:
    """docs/running.md has the exit codes of all errors and signals, and no other."""
    section = (ROOT / "docs" / "running.md").read_text("utf-8").partition("## Exit codes\n")[2]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", section.partition("\n## ")[0], re.MULTILINE)}
    signals = {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    assert listed == {0, *EXIT_CODES.values(), *signals}
