"""`glob` and `grep` have the same results with and without ripgrep."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tinyagent import AgentToolResult, ToolError, tools
from tinyagent.testing.contract import advance_clock
from tinyagent_tools_fs import _ask, _search, _search_tools
from tinyagent_tools_fs._ask import Answer
from tinyagent_tools_fs._glob import compile_glob
from tinyagent_tools_fs._requests import GlobRequest, GrepRequest, Place
from tinyagent_tools_fs._ripgrep import find_ripgrep
from tinyagent_tools_fs._root import Parts, Root
from tinyagent_tools_fs._search import glob, grep
from tinyagent_tools_fs._walk import Ignore, walk

Call = Callable[..., Awaitable[AgentToolResult]]
Text = Callable[..., Awaitable[str]]

RIPGREP = Path(__file__).resolve().parents[3] / ".venv-peers-ripgrep" / "node_modules" / "@vscode"
"""`make environments` installs it; that of a distribution may be too old, and then `grep` does not use it."""


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search in this process, because starting a process for each search is slow."""

    async def ask(
        root: Root, start: Parts, request: GlobRequest | GrepRequest, stop: asyncio.Event | None
    ) -> Answer:
        place = Place(os.fsencode(root.path), os.fsencode("/".join(start)))
        search = grep(place, request) if isinstance(request, GrepRequest) else glob(place, request)
        return Answer(list(search))

    monkeypatch.setattr(_search_tools, "ask", ask)
    monkeypatch.chdir(Path.cwd())  # a search changes it


@pytest.fixture(params=["python", "ripgrep"])
def engine(request: pytest.FixtureRequest, in_this_process: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with ripgrep and without it."""
    monkeypatch.setattr(_search_tools, "find_ripgrep", lambda root: None)
    if request.param == "ripgrep":
        program = _ripgrep()
        monkeypatch.setattr(_search_tools, "find_ripgrep", lambda root: program)
    return str(request.param)


def _ripgrep() -> str:
    """Return the path of ripgrep. Without it the test is skipped; in CI it fails."""
    program = next(RIPGREP.glob("*/bin/rg"), None)
    if program is not None:
        return str(program)
    absent = "ripgrep is not installed: run `make environments`"
    if os.environ.get("CI") == "true":
        pytest.fail(absent)
    pytest.skip(absent)


@pytest.fixture
def project(here: Path) -> Path:
    """Create a project with ignored, hidden and binary files, and several encodings."""
    files: dict[str, str | bytes] = {
        ".gitignore": "*.log\n!keep.log\nbuild/\n/only-top.txt\n# a comment\n\\\n",
        ".git/config": "needle in git\n",
        ".hidden/deep.txt": "needle hidden\n",
        ".env": "needle env\n",
        "a.py": "first\nneedle one\nlast\n",
        "b.log": "needle log\n",
        "keep.log": "needle kept\n",
        "build/out.py": "needle built\n",
        "only-top.txt": "needle top\n",
        "src/only-top.txt": "needle not top\n",
        "src/.gitignore": "gen_*\n!b.log\n",
        "src/b.log": "needle again\n",
        "src/gen_x.py": "needle generated\n",
        "src/lib/util.ts": "x\nNEEDLE upper\n",
        "src/lib/utf16.txt": b"\xff\xfe" + "needle wide\r\n".encode("utf-16-le"),
        "src/lib/latin.txt": "needle caf\xe9\n".encode("latin-1"),
        "src/lib/image.bin": b"needle\0\1\2\3",
    }
    for name, content in files.items():
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return here


# ---- glob -------------------------------------------------------------------------------------------


async def test_glob_finds_in_order(in_this_process: None, project: Path, text: Text) -> None:
    """Paths are sorted; ignored and hidden files and `.git` are omitted."""
    assert ["a.py", "keep.log", "src/b.log"] == (await text("glob", pattern="*.{py,log}")).splitlines()
    assert ["src/lib/"] == (await text("glob", pattern="lib")).splitlines()
    assert ["src/lib/latin.txt", "src/lib/utf16.txt"] == (
        await text("glob", pattern="lib/*.txt", path="src")
    ).splitlines()


async def test_glob_of_hidden_and_ignored(in_this_process: None, project: Path, text: Text) -> None:
    """`.git` is never included."""
    assert ".hidden/deep.txt" in await text("glob", pattern="**/*.txt", hidden=True)
    shown = await text("glob", pattern="*", ignored=True)
    assert {"b.log", "build/", "build/out.py", "only-top.txt", "src/gen_x.py"} <= set(shown.splitlines())
    assert ".git" not in await text("glob", pattern="config", hidden=True, ignored=True)


async def test_glob_has_a_limit(project: Path, call: Call) -> None:
    """A note reports the limit."""
    result = await call("glob", pattern="*", limit=2)
    assert "a.py\nkeep.log\n[stopped at 2 paths; use a narrower pattern]" == result.content[0]["text"]
    assert {"paths": ["a.py", "keep.log"], "truncated": True} == result.details


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.py", ["a.py", "x/y/a.py"], ["a.pyc", "py"]),
        ("/*.py", ["a.py"], ["x/a.py"]),
        ("./*.py", ["a.py"], ["x/a.py"]),
        ("src/*.py", ["src/a.py"], ["src/x/a.py", "x/src/a.py"]),
        ("src/**", ["src/a", "src/a/b"], ["x/src"]),
        ("**/test_*.py", ["test_a.py", "x/y/test_b.py"], ["x/a.py"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["a/xb", "b"]),
        ("**/a/**/b/**", ["x/a/b/c", "a/y/b/c/d"], ["a/c"]),
        ("*.{ts,tsx}", ["a.ts", "a.tsx"], ["a.t"]),
        ("{a,b/{c,d}}.x", ["a.x", "b/c.x", "b/d.x"], ["b/x.x"]),
        ("[ab].x", ["a.x"], ["c.x"]),
        ("[!ab].x", ["c.x"], ["a.x"]),
        ("?.x", ["a.x"], ["aa.x"]),
        ("a**b", ["ab", "axb"], ["a/b"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    """Each pattern matches these paths and no others."""
    matches = compile_glob(pattern)
    assert (yes, []) == tuple([path for path in paths if matches(path.split("/"))] for paths in (yes, no))


@pytest.mark.parametrize("pattern", ["../*", "a/../../b", "  ", "{a,b}" * 7, "x" * 1_001])
def test_invalid_patterns_are_refused(pattern: str) -> None:
    """`..`, empty patterns and patterns with too many alternatives are refused."""
    with pytest.raises(ToolError):
        compile_glob(pattern)


def test_all_patterns_are_fast() -> None:
    """A pattern that causes backtracking in simple matchers is fast."""
    assert not compile_glob("*a" * 200 + "b")(["a" * 250])
    assert not compile_glob("**/a/" * 150 + "b")(["a"] * 200)


# ---- grep -------------------------------------------------------------------------------------------


async def test_searches_run_in_a_process(project: Path, text: Text) -> None:
    """Results and errors are the same from a process."""
    assert "a.py:2:needle one" == await text("grep", pattern="needle one")
    (project / "src" / "lib").rename(project / "moved")
    with pytest.raises(ToolError, match="There is no 'src/lib'"):
        await text("grep", pattern="x", path="src/lib")


async def test_grep_finds(engine: str, project: Path, call: Call) -> None:
    """Matching lines are found in every encoding; ignored, hidden and binary files are skipped."""
    result = await call("grep", pattern="needle")
    assert [
        "a.py:2:needle one",
        "keep.log:1:needle kept",
        "src/b.log:1:needle again",
        "src/lib/latin.txt:1:needle café",
        "src/lib/utf16.txt:1:needle wide",
        "src/only-top.txt:1:needle not top",
    ] == result.content[0]["text"].splitlines()
    assert {"matches": 6, "files": 6, "engine": engine, "truncated": False} == result.details


async def test_grep_in_a_folder(engine: str, project: Path, text: Text) -> None:
    """The rules of parent folders apply, also without a repository and with a glob."""
    assert ["src/b.log:1:needle again"] == (
        await text("grep", pattern="needle", path="src", glob="*.log")
    ).splitlines()
    (project / "src" / "sub").mkdir()
    (project / "src" / "sub" / "c.log").write_text("needle\n")
    (project / "src" / "sub" / "gen_y.py").write_text("needle\n")
    assert "[no line matches]" == await text("grep", pattern="needle", path="src/sub", glob="*")
    (project / ".git" / "config").unlink()
    (project / ".git").rmdir()
    assert "[no line matches]" == await text("grep", pattern="needle", path="src/sub", glob="**")


async def test_grep_of_hidden_and_ignored(engine: str, project: Path, text: Text) -> None:
    """`.git` is searched only if it is the path."""
    shown = await text("grep", pattern="needle", hidden=True, ignored=True)
    for words in ("hidden", "env", "log", "built", "top", "generated"):
        assert f"needle {words}" in shown
    assert "needle in git" not in shown
    assert ".git/config:1:needle in git" == await text("grep", pattern="needle", path=".git/config")
    assert "build/out.py:1:needle built" == await text("grep", pattern="needle", path="build/out.py")


async def test_rules_from_outside_do_not_apply(engine: str, project: Path, text: Text) -> None:
    """Rules above the working directory and other ignore files have no effect."""
    (project.parent / ".gitignore").write_text("*\n")
    (project / ".ignore").write_text("*\n")
    (project / ".rgignore").write_text("*\n")
    assert "a.py:2:needle one" == await text("grep", pattern="needle one")


async def test_grep_with_context(engine: str, here: Path, text: Text) -> None:
    """Lines of context are shown once, with a mark between separate parts."""
    (here / "a.txt").write_text("1\n2 x\n3\n4 x\n5\n6\n7\n8 x\n9\n")
    (here / "b.txt").write_text("x\r\ny\r\n")
    assert [
        *("a.txt-1-1", "a.txt:2:2 x", "a.txt-3-3", "a.txt:4:4 x", "a.txt-5-5", "--"),
        *("a.txt-7-7", "a.txt:8:8 x", "a.txt-9-9", "--", "b.txt:1:x", "b.txt-2-y"),
    ] == (await text("grep", pattern="x$", context=1)).splitlines()


async def test_grep_options(engine: str, project: Path, text: Text) -> None:
    """Case, literal text, and expressions that ripgrep does not support work."""
    assert "src/lib/util.ts:2:NEEDLE upper" in await text("grep", pattern="needle", ignore_case=True)
    (project / "c.txt").write_text("a.b(\naxb\n-v\n")
    assert "c.txt:1:a.b(" == await text("grep", pattern="a.b(", literal=True)
    assert "c.txt:3:-v" == await text("grep", pattern="-v")
    assert "c.txt:2:axb" == await text("grep", pattern="(?<=a)x(?=b)")
    assert "src/lib/latin.txt:1:needle café" == await text("grep", pattern="café")


async def test_grep_has_limits(engine: str, here: Path, call: Call) -> None:
    """Matches, long lines and the complete result are limited."""
    (here / "a.txt").write_text("x\n" * 500)
    result = await call("grep", pattern="x", limit=3)
    assert ["a.txt:1:x", "a.txt:2:x", "a.txt:3:x"] == result.content[0]["text"].splitlines()[:3]
    assert "stopped at 3 matches" in result.content[0]["text"]
    (here / "a.txt").write_text("." * 10_000 + "needle" + "." * 10_000)
    result = await call("grep", pattern="needle")
    assert "needle" in result.content[0]["text"]
    assert len(result.content[0]["text"]) < 500
    (here / "a.txt").write_text(("x" * 300 + "\n") * 2_000)
    result = await call("grep", pattern="x", limit=10_000)
    assert len(result.content[0]["text"]) < 51_000
    assert "more lines do not fit" in result.content[0]["text"]


@pytest.mark.parametrize("pattern", ["(", "*", "[a", "(?P<x>a)(?P<x>b)", "a{99999999999}"])
async def test_an_invalid_expression_is_refused(pattern: str, call: Call) -> None:
    """The error explains the mistake and mentions `literal`."""
    with pytest.raises(ToolError, match=r"is not a regular expression.*set literal"):
        await call("grep", pattern=pattern)


def children() -> set[str]:
    """Return the child processes of this process that are not reaped."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {number for task in tasks for number in task.read_text().split()}


async def test_an_endless_search_is_killed(here: Path, text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the time limit the process is killed; the results so far are shown with a note."""
    (here / "a.txt").write_text("aaaa!\n")
    (here / "b.txt").write_text("a" * 60 + "b\n")
    before, found = children(), asyncio.Event()

    async def run_in_process(*args: Any, on_item: Callable[[Any], None], **options: Any) -> Any:
        def arrived(item: Any) -> None:
            on_item(item)
            if "a.txt" in str(item):
                found.set()

        return await tools.run_in_process(*args, on_item=arrived, **options)

    monkeypatch.setattr(_ask, "run_in_process", run_in_process)
    monkeypatch.setattr(_search_tools, "find_ripgrep", lambda root: None)
    searching = asyncio.create_task(text("grep", pattern=r"^(a+)+!"))
    await found.wait()
    advance_clock(_ask.SEARCH_TIMEOUT_S)
    shown = await searching
    assert "a.txt:1:aaaa!\n[stopped after 30 s; use a simpler pattern or a narrower path]" == shown
    assert before == children()


async def test_an_abort_ends_a_search(here: Path) -> None:
    """An abort raises an error and ends the process."""
    (here / "a.txt").write_text("a" * 60 + "b\n")
    before, stop = children(), asyncio.Event()
    request = GrepRequest(r"^(a+)+!", None, False, False, 0, False, False, 10, None)
    search = asyncio.create_task(_ask.ask(Root(here), (), request, stop))
    while not children() - before:
        assert not search.done()
        await asyncio.sleep(0.01)
    stop.set()
    with pytest.raises(ToolError, match="aborted"):
        await search
    assert before == children()


async def test_a_cancelled_search_leaves_no_process(here: Path, call: Call) -> None:
    """A cancellation ends the process and all tasks."""
    (here / "b.txt").write_text("a" * 60 + "b\n")
    before = children()
    searching = asyncio.create_task(call("grep", pattern=r"^(a+)+!"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching
    assert before == children()


async def test_a_module_in_the_folder_is_not_imported(
    here: Path, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search process never imports modules from the folder."""
    for name in ("pathspec", "json", "re", "sitecustomize", "platformdirs"):
        (here / f"{name}.py").write_text(f"open({str(here / 'tripwire')!r}, 'w')\n")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", ["", str(here), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(here))
    assert "re.py" in await text("glob", pattern="re.py")
    assert not (here / "tripwire").exists()


def test_ripgrep_in_the_folder_is_not_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the project is not used as ripgrep."""
    program = here / "bin" / "rg"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_ripgrep(Root(here)) is None
    (here / "elsewhere").mkdir()
    assert str(program) == find_ripgrep(Root(here / "elsewhere"))


# ---- skipped files -----------------------------------------------------------------------------------


async def test_skipped_files_are_counted(here: Path, text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are too large and folders that are nested too deeply are counted."""
    monkeypatch.setattr(_search_tools, "find_ripgrep", lambda root: None)
    (here / "large.txt").write_text("needle\n" * 1_600_000)
    (here / "small.txt").write_text("needle\n")
    deep = here / "deep"
    for _ in range(205):
        deep /= "d"
    deep.mkdir(parents=True)
    (deep / "x.txt").write_text("needle\n")
    assert [
        "small.txt:1:needle",
        "[folders nested too deeply, skipped: 1; search below them; files over 10 MiB, not searched: 1]",
    ] == (await text("grep", pattern="needle")).splitlines()
    assert "nested too deeply" in await text("glob", pattern="*.txt")
    assert "files over 10 MiB, not searched: 1" in await text("grep", pattern="needle", path="large.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_unreadable_paths_are_counted(engine: str, here: Path, text: Text) -> None:
    """A folder and a file without permission are counted."""
    (here / "closed").mkdir(mode=0)
    (here / "closed.txt").write_text("needle\n")
    (here / "closed.txt").chmod(0)
    (here / "open.txt").write_text("needle\n")
    assert ["open.txt:1:needle", "[files or folders that could not be read: 2]"] == (
        await text("grep", pattern="needle")
    ).splitlines()


def test_a_folder_that_cannot_be_opened_is_counted(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is searched, also when root runs the test."""
    (here / "closed").mkdir()
    (here / "open.txt").write_text("")
    folder = Root.folder

    def closed(self: Root, parts: Parts, **options: Any) -> Any:
        if parts:
            raise PermissionError(13, "Permission denied")
        return folder(self, parts, **options)

    monkeypatch.setattr(Root, "folder", closed)
    found = list(glob(Place(os.fsencode(here), b""), GlobRequest("*", False, False, 10)))
    assert [{"path": "closed/"}, {"path": "open.txt"}, {"unreadable": 1}] == found


async def test_a_search_has_a_memory_limit(
    in_this_process: None, here: Path, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search stops when it has more results than a call can show."""
    monkeypatch.setattr(_search, "MAX_SENT", 10_000)
    (here / "a.txt").write_text(("x" * 300 + "\n") * 1_000)
    assert "stopped: too many matches for one call" in await text("grep", pattern="x", limit=10_000)


async def test_a_line_is_one_line(in_this_process: None, here: Path, text: Text) -> None:
    """A carriage return or another line break in a file cannot forge a match."""
    (here / "a.txt").write_bytes("needle\rb.txt:1:forged\u2028c.txt:2:forged\n".encode())
    assert r"a.txt:1:needle\rb.txt:1:forged\u2028c.txt:2:forged" == await text("grep", pattern="needle")


async def test_an_unpaired_surrogate_is_refused_in_patterns(call: Call) -> None:
    """JSON can have an unpaired surrogate; a process cannot get one."""
    for name in ("glob", "grep"):
        with pytest.raises(ToolError, match="is an unpaired surrogate"):
            await call(name, pattern="a\ud800")


# ---- ripgrep ------------------------------------------------------------------------------------------


@pytest.fixture
def ripgrep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Install a fake ripgrep, and return the file with its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls"

    def make(version: str) -> Path:
        (folder / "rg").write_text(
            f"#!/bin/sh\necho call >> '{calls}'\n"
            f'case "$*" in *--version*) echo "{version}";; *) printf "./a.py\\0";; esac\n'
        )
        (folder / "rg").chmod(0o755)
        calls.write_text("")
        return calls

    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return make


@pytest.mark.parametrize(
    ("version", "engine"),
    [
        ("ripgrep 15.0.0", "ripgrep"),
        ("ripgrep 15.1.0 (rev af60c2de9d)", "ripgrep"),
        ("ripgrep 101.0.0", "ripgrep"),
        ("ripgrep 14.1.1", "python"),
        ("ripgrep 9.0.0", "python"),
        ("something else", "python"),
    ],
)
async def test_old_ripgrep_is_not_used(
    version: str, engine: str, ripgrep: Callable[[str], Path], project: Path, call: Call
) -> None:
    """The version decides whether ripgrep or Python searches."""
    ripgrep(version)
    result = await call("grep", pattern="needle one")
    assert ("a.py:2:needle one", engine) == (result.content[0]["text"], result.details["engine"])


@pytest.mark.parametrize("version", ["ripgrep 15.0.0", "ripgrep 14.1.1"])
async def test_the_version_is_checked_once(
    version: str, ripgrep: Callable[[str], Path], project: Path, call: Call
) -> None:
    """The version is checked once, and again after an update."""
    calls = ripgrep(version)
    for searches in (1, 2):
        await call("grep", pattern="needle one")
        assert (searches + 1 if version == "ripgrep 15.0.0" else 1) == calls.read_text().count("call")
    ripgrep("ripgrep 15.2.0 of another size")
    assert "ripgrep" == (await call("grep", pattern="needle one")).details["engine"]


# ---- .gitignore, compared with Git -------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_it_ignores_what_git_ignores(here: Path) -> None:
    """For rules of every kind, the files that remain are those that Git lists."""
    import subprocess

    rules = {
        ".gitignore": "*.o\n!important.o\n/root.txt\ndoc/*.html\n!doc/index.html\n"
        "foo/**/bar\n**/tmp/\nname\n\\#x\na b\n",
        "sub/.gitignore": "!a.o\n/root.txt\n*\n!*.txt\n!deep/\n",
        "doc/.gitignore": "\ufeff*.bak\r\n",
    }
    names = [
        *(
            "a.o",
            "important.o",
            "root.txt",
            "sub/root.txt",
            "sub/a.o",
            "sub/b.txt",
            "sub/c.py",
            "sub/deep/a.txt",
        ),
        *("sub/deep/root.txt", "doc/a.html", "doc/index.html", "doc/x/a.html", "foo/bar", "foo/x/y/bar"),
        *("foo/x/bar/z", "tmp", "x/tmp/y", "name", "x/name/y", "#x", "a b", "doc/a.bak", "ü.o", "ü.txt"),
    ]
    for name, content in {**dict.fromkeys(names, "x"), **rules}.items():
        if name == "tmp":
            continue
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(content, newline="")
    git = ["git", "-c", "core.quotePath=false", "-c", "core.excludesFile=", "-C", str(here)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    listed = subprocess.run(
        [*git, "ls-files", "--others", "--exclude-standard", "-z"], check=True, capture_output=True, text=True
    ).stdout
    root = Root(here)
    walked = walk(root, (), hidden=True, ignore=Ignore(root))
    found = {"/".join(entry.parts) for entry in walked if entry.is_file}
    assert set(listed.split("\0")) - {""} == found
    ignore = Ignore(root)
    assert found == {
        name for name in {*names, *rules} - {"tmp"} if not ignore.hides_any(tuple(name.split("/")))
    }
