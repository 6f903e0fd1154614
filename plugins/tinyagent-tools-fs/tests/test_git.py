"""No sequence of writes makes a Git repository, or changes the configuration, hooks or attributes of one."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tinyagent import AgentToolResult, ToolError
from tinyagent_tools_fs import file_tools

Call = Callable[..., Awaitable[AgentToolResult]]

FILES = {
    "HEAD": "ref: refs/heads/main\n",
    "objects/info/packs": "\n",
    "refs/heads/main": "0" * 40 + "\n",
    "config": "[core]\n\tbare = false\n\tworktree = .\n\tfsmonitor = touch tripwire\n",
}


def is_repository(folder: Path) -> bool:
    """Return whether Git itself treats a folder as a repository."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("no git")
    done = subprocess.run(
        [git, "rev-parse", "--git-dir"],
        cwd=folder,
        env={"PATH": os.defpath, "GIT_CEILING_DIRECTORIES": str(folder.parent)},
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


async def refused(call: Call, **arguments: str) -> bool:
    """Return whether a write was refused because of Git."""
    try:
        await call("write", **arguments)
    except ToolError as error:
        return "Git" in str(error)
    return False


@pytest.mark.parametrize("folder", ["", "sub/"])
@pytest.mark.parametrize("order", list(itertools.permutations(FILES)), ids=" ".join)
async def test_no_order_of_writes_completes_a_repository(
    order: tuple[str, ...], folder: str, here: Path, call: Call
) -> None:
    """The completing write is refused, in the working directory and below it."""
    results = [await refused(call, path=folder + name, content=FILES[name]) for name in order]
    assert True in results
    assert [False, False] == results[:2]  # two parts alone are ordinary files
    assert not is_repository(here / folder)


def test_git_accepts_the_test_repositories(here: Path) -> None:
    """Without the guard, Git would use the files of these tests."""
    for name, content in FILES.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(content)
    assert is_repository(here)


@pytest.mark.parametrize(
    "names",
    [
        ("head", "objects/a", "refs/a"),
        ("HEAD", "OBJECTS/a", "Refs/a"),
        ("HEAD.", "objects /a", "refs::$INDEX_ALLOCATION/a"),
        ("HE\u200cAD", "objects/a", "ref\ufeffs/a"),
        ("refs/a/b/c", "objects/deep/er", "hooks/post-checkout"),
        ("refs/a", "objects/a", "info/attributes"),
        ("refs/a", "objects/a", "config.worktree"),
        ("commondir", "HEAD"),
        ("x/commondir", "x/Head"),
    ],
    ids=" ".join,
)
async def test_other_spellings_and_parts(names: tuple[str, ...], here: Path, call: Call) -> None:
    """Equivalent names, and the shared part of a repository without `HEAD`, are refused."""
    for order in itertools.permutations(names):
        results = [await refused(call, path=name, content="x") for name in order]
        assert [False] * (len(order) - 1) + [True] == results, order
        for entry in list(here.iterdir()):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


async def test_linked_parts_count(here: Path, call: Call, tmp_path: Path) -> None:
    """A link in the working tree may be a folder of a repository."""
    (here / "data").mkdir()
    (here / "data" / "objects").symlink_to(tmp_path)
    (here / "data" / "refs").symlink_to("nowhere")
    assert await refused(call, path="data/HEAD", content="x")


async def test_files_that_configure_git_are_protected(here: Path, call: Call) -> None:
    """Attributes and submodules are protected at any depth and in any spelling."""
    for path in (
        ".gitattributes",
        "sub/.GitAttributes",
        ".gitmodules",
        ".gitmodules ",
        "gitmod~1",
        ".gitconfig",
    ):
        assert await refused(call, path=path, content="x"), path
    assert not await refused(call, path=".gitignore", content="x\n")


async def test_the_data_of_repositories_is_protected(here: Path, call: Call) -> None:
    """Bare repositories, worktrees, submodules and targets of `.git` files are protected."""
    for folder in ("bare", ".git/modules/sub", "separate"):
        for name, content in FILES.items():
            (here / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (here / folder / name).write_text(content)
    (here / ".git" / "worktrees" / "w").mkdir(parents=True)
    (here / "bare" / "worktrees" / "w").mkdir(parents=True)
    for name in ("HEAD", "commondir"):
        (here / "bare" / "worktrees" / "w" / name).write_text("../..\n")
    (here / "tree").mkdir()
    (here / "tree" / ".git").write_text("gitdir: ../separate\n")
    for path in (
        *("bare/config", "bare/hooks/pre-push", "bare/worktrees/w/config.worktree", "bare/new"),
        *(".git/modules/sub/config", ".git/worktrees/w/gitdir", "separate/config", "tree/.git"),
    ):
        assert await refused(call, path=path, content="x"), path
    with pytest.raises(ToolError, match="Git"):
        await call("edit", path="bare/config", old_text="bare", new_text="x")


async def test_a_working_directory_inside_git(here: Path) -> None:
    """Files in the hooks folder are protected if it is the working directory."""
    for folder in (here / ".git" / "hooks", here / "bare" / "hooks"):
        folder.mkdir(parents=True)
    for name in ("objects", "refs"):
        (here / "bare" / name).mkdir()
    (here / "bare" / "HEAD").write_text("x")
    for folder in (here / ".git" / "hooks", here / "bare" / "hooks"):
        write = {tool.name: tool for tool in file_tools(folder)}["write"].execute
        assert write is not None
        with pytest.raises(ToolError, match="Git"):
            await write("call", {"path": "pre-commit", "content": "x"}, None, lambda partial: None)


async def test_configured_paths_are_protected(
    here: Path, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Hooks, included files and attributes of the repository and of the user are protected."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(here / "settings"))
    (home / ".gitconfig").write_text(f"[core] attributesFile = {here}/all.attributes ; for all\n")
    (here / ".git").mkdir()
    (here / ".git" / "config").write_text(
        '[core]\n\thooksPath = "tools/hooks" # ours\n[include]\n\tpath = ../team.config\n'
        '[includeIf "onbranch:main"]\n\tpath = ../main.config\n[alias]\n\tpath = ../free.txt\n'
    )
    (here / "team.config").write_text("[Core]\nhookspath=other-hooks\n")
    for path in (
        *("tools/hooks/pre-commit", "Tools/Hooks/pre-commit", "team.config", "main.config"),
        *("other-hooks/pre-push", "all.attributes", "settings/git/config", "settings/git/attributes"),
    ):
        assert await refused(call, path=path, content="x"), path
    for path in ("tools/other", "free.txt", "settings/other/config"):
        assert not await refused(call, path=path, content="x"), path


async def test_inner_and_outer_repositories_count(here: Path) -> None:
    """Repositories below and above the working directory protect their configured paths."""
    deep = here / "sub" / "work" / "deep"
    for tree, hooks in ((here, "sub/work/a"), (here / "sub", "work/b"), (deep, "../deep/c")):
        (tree / ".git").mkdir(parents=True)
        (tree / ".git" / "config").write_text(f"[core]\nhooksPath = {hooks}\n")
    (deep / "tree").mkdir()
    (deep / "tree" / ".git").write_text("gitdir: ../store\n")
    (deep / "store").mkdir()
    (deep / "store" / "config").write_text("[core]\nattributesFile = attributes\n")
    write = {tool.name: tool for tool in file_tools(here / "sub" / "work")}["write"].execute
    assert write is not None
    for path in ("a/pre-commit", "b/pre-commit", "deep/c/pre-commit", "deep/tree/attributes"):
        with pytest.raises(ToolError, match="Git's configuration names it"):
            await write("call", {"path": path, "content": "x"}, None, lambda partial: None)
    for path in ("c/pre-commit", "deep/a/x", "deep/attributes"):
        await write("call", {"path": path, "content": "x"}, None, lambda partial: None)


async def test_ordinary_folders_are_not_protected(here: Path, call: Call) -> None:
    """A folder with only some of these names is not a repository."""
    for path in ("objects/car.obj", "config/app.toml", "hooks/useState.ts", "info/x", "HEAD", "src/refs/a.c"):
        assert not await refused(call, path=path, content="x"), path
