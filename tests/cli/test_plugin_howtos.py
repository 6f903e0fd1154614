"""The pages about writing each kind of plugin: they can be followed, and their code passes the linters."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tinyagent.testing import FakeReply, FakeServer
from tinyagent_cli.plugins.scaffold import KINDS, Project

from .conftest import ROOT, Cli
from .documents import Block, blocks
from .reader import Reader, internet, new_reader

__all__ = ["internet", "new_reader"]

PAGES = sorted((ROOT / "docs").glob("write-a*.md"))
NEW = r"tinyagent plugins new (\S+)(?: --kind (\w+))? -q"
SETTINGS = {
    "COLUMNS": "80",
    # Plugins of pytest that only our own tests need would take most of the time.
    "PYTEST_ADDOPTS": "-p no:asyncio -p no:xdist -p no:hypothesispytest -p no:syrupy -p no:cacheprovider",
}

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)  # that of the providers runs the contract twice
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_can_be_followed(new_reader: Callable[[Sequence[Block]], Reader], page: Path) -> None:
    """Each block does what the page says, and the code of a new project is as shown."""
    found = blocks(page)
    reader = new_reader(found)
    reader.environment |= SETTINGS
    shown_as_written = []
    for block in found:
        path = reader.path(block.file)
        if block.file and path.exists() and path.read_text(encoding="utf-8") == block.text:
            shown_as_written.append(block.file)
        reader.do(block)
    assert 1 <= len(shown_as_written), "no block is the code that `plugins new` writes"


def test_each_kind_has_a_page() -> None:
    """Each kind of `plugins new` is the beginning of one page."""
    found = [
        re.findall(NEW, command)[0][1] or "tool"
        for page in PAGES
        for block in blocks(page)
        if block.language == "console"
        for command, _ in block.commands()
        if re.match(NEW, command)
    ]
    assert set(KINDS) == set(found)


def test_a_new_snippet_is_a_tool_at_once(cli: Cli, serve: Callable[..., FakeServer]) -> None:
    """The tool page promises it for `snippets.py`; here a tool of `notes.py` writes the snippet."""
    files = {block.file: block.text for block in blocks(ROOT / "docs" / "write-a-tool.md") if block.file}
    for name in ("snippets.py", "notes.py"):
        cli.file(name, files[name])
    (cli.work / "snippets").mkdir()
    cli.file("snippets/closing.txt", "Kind regards")
    server = serve(
        FakeReply.tool_calls(("add_note", {"name": "opening", "text": "Dear Ada"})),
        FakeReply.tool_calls(("opening", {})),
        FakeReply.text("Done."),
    )
    tools = ("-t", "./snippets.py", "-t", "./notes.py", "-y")
    assert 0 == cli("run", "-m", "local/m", *tools, "Begin", NOTES_FOLDER="snippets").code
    assert "Dear Ada" == server.requests[2].json["messages"][-1]["content"]


def python_files() -> Iterator[tuple[Path, Block]]:
    """Yield the Python files of all pages."""
    for page in PAGES:
        for block in blocks(page):
            if block.language == "python":
                assert block.file, f"{page.name} has Python code that is not a file"
                yield page, block


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python files of all pages, in a folder for each page. The last version of a file counts."""
    folder = tmp_path_factory.mktemp("pages")
    for page, block in python_files():
        path = folder / page.stem / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("program", ["mypy", "pyright", "ruff check", "ruff format"])
def test_the_code_passes_the_linters(code: Path, program: str) -> None:
    """mypy in its strict mode, pyright and ruff accept the code, as they accept that of a new project."""
    roots = [str(path) for path in (*code.glob("*"), *code.glob("*/*/src"))]
    (code / "pyrightconfig.json").write_text(json.dumps({"extraPaths": roots}))
    line = ("--isolated", "--line-length=110")
    commands = {
        "mypy": ["mypy", "--strict", "--config-file=", *map(str, code.rglob("*.py"))],
        "pyright": ["pyright"],
        "ruff check": ["ruff", "check", *line, "--select=B,D1,E,F,SIM,UP,W", "--ignore=D107"],
        "ruff format": ["ruff", "format", "--diff", *line],
    }
    done = subprocess.run(
        commands[program],
        env={
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(code),
            "MYPYPATH": ":".join(roots),
            "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache" / "of-templates"),
            "RUFF_NO_CACHE": "true",
        },
        cwd=code, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr


def test_replaced_files_are_those_of_new_projects() -> None:
    """Only the code of `plugins new` is replaced later in a page, so the linters see all other code."""
    new = {
        (page, f"tinyagent-{name}/{path}"): text
        for page in PAGES
        for block in blocks(page)
        if block.language == "console"
        for command, _ in block.commands()
        for name, kind in re.findall(NEW, command)
        for path, text in Project(name, kind or "tool").files().items()
    }
    seen: dict[tuple[Path, str], str] = {}
    for page, block in python_files():
        earlier = seen.get((page, block.file))
        assert earlier in (None, new.get((page, block.file))), f"{page.name} replaces {block.file}"
        seen[page, block.file] = block.text
