"""Nothing outside the folder is read or written: the tests try to get out in many ways."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tinyagent_tools_fs
from tinyagent import AgentTool, AgentToolResult, ToolError
from tinyagent_tools_fs import _replace, file_tools
from tinyagent_tools_fs._git import is_git
from tinyagent_tools_fs._places import Places, known_places
from tinyagent_tools_fs._root import Root

SECRET = "the secret outside"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a folder beside the working directory, with a file in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text(SECRET)
    return folder


@pytest.fixture
def work(tmp_path: Path, outside: Path) -> Path:
    """Return the working directory."""
    folder = tmp_path / "work"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "main.py").write_text("print(1)\n")
    return folder


@pytest.fixture
def tools(work: Path) -> dict[str, AgentTool]:
    """Return the six tools by name."""
    return {tool.name: tool for tool in file_tools(work)}


async def _try(tools: dict[str, AgentTool], name: str, **arguments: Any) -> AgentToolResult:
    execute = tools[name].execute
    assert execute is not None
    return await execute("call", arguments, None, lambda partial: None)


def _arguments(name: str, path: str) -> dict[str, Any]:
    more: dict[str, dict[str, Any]] = {
        "write": {"content": "changed"},
        "edit": {"old_text": SECRET, "new_text": "changed"},
        "glob": {"pattern": "*"},
        "grep": {"pattern": "secret"},
    }
    return {"path": path, **more.get(name, {})}


EVERY_TOOL = ["read", "write", "edit", "list", "glob", "grep"]


def _ways_out(work: Path, outside: Path) -> dict[str, str]:
    """Return paths that lead to the secret file or its folder."""
    (work / "link-to-file").symlink_to(outside / "secret.txt")
    (work / "link-to-folder").symlink_to(outside)
    (work / "relative-link").symlink_to("../outside")
    (work / "link-to-link").symlink_to("relative-link")
    (work / "src" / "up").symlink_to("../..")
    return {
        "dots": "../outside/secret.txt",
        "dots in the middle": "src/../../outside/secret.txt",
        "absolute": str(outside / "secret.txt"),
        "absolute with dots": str(work / ".." / "outside" / "secret.txt"),
        "a prefix of the name": str(work) + "-more",
        "a linked file": "link-to-file",
        "a linked folder": "link-to-folder/secret.txt",
        "a relative link": "relative-link/secret.txt",
        "a link to a link": "link-to-link/secret.txt",
        "a link upwards": "src/up/outside/secret.txt",
        "the folder itself": "link-to-folder",
        "the root of the process": "/proc/self/root" + str(outside / "secret.txt"),
        "the folder of the process": "/proc/self/cwd",
        "up from the folder of the process": "/proc/self/cwd/../../outside/secret.txt",
        "a new file": "link-to-folder/new.txt",
        "a new file by dots": "../new.txt",
    }


@pytest.mark.parametrize("name", EVERY_TOOL)
async def test_no_path_leads_out(name: str, tools: dict[str, AgentTool], work: Path, outside: Path) -> None:
    """Every tool refuses `..`, absolute paths, links and /proc, and changes nothing."""
    for way, path in _ways_out(work, outside).items():
        with pytest.raises(ToolError, match="is outside the working directory") as refused:
            await _try(tools, name, **_arguments(name, path))
        assert SECRET not in str(refused.value), way
    assert SECRET == (outside / "secret.txt").read_text()
    assert {"outside", "work"} == {entry.name for entry in work.parent.iterdir()}
    assert ["secret.txt"] == [entry.name for entry in outside.iterdir()]


async def test_links_inside_the_folder_are_followed(tools: dict[str, AgentTool], work: Path) -> None:
    """A link to a path inside works, also through /proc/self/cwd, and remains a link."""
    (work / "alias.py").symlink_to("src/main.py")
    (work / "code").symlink_to("src")
    for path in ("alias.py", "code/main.py", str(work / "src" / "main.py"), "src/../src/main.py"):
        assert "print(1)" == (await _try(tools, "read", path=path)).content[0]["text"]
    await _try(tools, "write", path="alias.py", content="print(2)\n")
    assert (work / "alias.py").is_symlink()
    assert "print(2)\n" == (work / "src" / "main.py").read_text()


async def test_proc_self_cwd_is_resolved(
    tools: dict[str, AgentTool], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc/self/cwd is allowed only if it leads into the folder."""
    monkeypatch.chdir(work)
    result = await _try(tools, "read", path="/proc/self/cwd/src/main.py")
    assert "print(1)" == result.content[0]["text"]
    with pytest.raises(ToolError, match="outside"):
        await _try(tools, "read", path="/proc/self/cwd/../outside/secret.txt")


async def test_invalid_paths_are_refused(tools: dict[str, AgentTool], work: Path) -> None:
    """NUL, a loop of links and a name that is too long are tool errors."""
    (work / "loop").symlink_to("loop")
    for path in ("a\0b", "loop", "loop/x", "x" * 5_000, "n" * 300):
        with pytest.raises(ToolError):
            await _try(tools, "read", path=path)
        with pytest.raises(ToolError):
            await _try(tools, "write", path=path, content="x")


# ---- replaced between check and use -----------------------------------------------------------------


Swap = Callable[[Callable[[], None]], None]


@pytest.fixture
def after_the_check(monkeypatch: pytest.MonkeyPatch) -> Swap:
    """Return a function that runs code after a path was checked and before it is opened."""

    def arrange(act: Callable[[], None]) -> None:
        locate = Root.locate

        def located(self: Root, path: str, *, write: bool = False) -> tuple[str, ...]:
            parts = locate(self, path, write=write)
            act()
            return parts

        monkeypatch.setattr(Root, "locate", located)

    return arrange


def _replace_by_link(path: Path, target: Path) -> None:
    """Replace a folder by a link, as an attacker would. The second call does nothing."""
    if not path.is_symlink():
        path.rename(path.with_name(path.name + ".was"))
        path.symlink_to(target)


@pytest.mark.parametrize("name", EVERY_TOOL)
async def test_a_folder_replaced_by_a_link_is_refused(
    name: str, tools: dict[str, AgentTool], work: Path, outside: Path, after_the_check: Swap
) -> None:
    """A folder of the path becomes a link before it is opened."""
    (work / "src" / "secret.txt").write_text("harmless")
    path = "src" if name in ("list", "glob", "grep") else "src/secret.txt"
    after_the_check(lambda: _replace_by_link(work / "src", outside))
    with pytest.raises(ToolError, match="was replaced by a symbolic link"):
        await _try(tools, name, **_arguments(name, path))
    assert ["secret.txt"] == [entry.name for entry in outside.iterdir()]
    assert SECRET == (outside / "secret.txt").read_text()


@pytest.mark.parametrize("name", ["read", "write", "edit"])
async def test_a_file_replaced_by_a_link_is_refused(
    name: str, tools: dict[str, AgentTool], work: Path, outside: Path, after_the_check: Swap
) -> None:
    """The file becomes a link before it is opened; the target is not changed."""
    after_the_check(lambda: _replace_by_link(work / "src" / "main.py", outside / "secret.txt"))
    with pytest.raises(ToolError, match="was replaced by a symbolic link"):
        await _try(tools, name, **_arguments(name, "src/main.py"))
    assert SECRET == (outside / "secret.txt").read_text()


@pytest.mark.parametrize("name", ["read", "edit"])
async def test_opening_a_file_does_not_follow_links(
    name: str, tools: dict[str, AgentTool], work: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file becomes a link between the last check and its opening."""
    check = Root.check_regular

    def late(self: Root, status: os.stat_result, parts: tuple[str, ...]) -> None:
        check(self, status, parts)
        _replace_by_link(work / "src" / "main.py", outside / "secret.txt")

    monkeypatch.setattr(Root, "check_regular", late)
    with pytest.raises(ToolError, match="was replaced by a symbolic link"):
        await _try(tools, name, **_arguments(name, "src/main.py"))
    assert SECRET == (outside / "secret.txt").read_text()


async def test_a_link_before_the_rename_is_not_followed(
    tools: dict[str, AgentTool], work: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that appears before the rename is refused or replaced; its target never changes."""
    check = _replace._check_unchanged

    def late(*given: Any) -> None:
        check(*given)
        _replace_by_link(work / "src" / "main.py", outside / "secret.txt")

    monkeypatch.setattr(_replace, "_check_unchanged", late)
    await _try(tools, "write", path="src/main.py", content="new\n")
    assert SECRET == (outside / "secret.txt").read_text()
    assert "new\n" == (work / "src" / "main.py").read_text()
    assert not (work / "src" / "main.py").is_symlink()


async def test_a_new_working_directory_is_refused(
    tools: dict[str, AgentTool], work: Path, outside: Path
) -> None:
    """If the working directory is another folder now, nothing is opened."""
    work.rename(work.with_name("moved"))
    outside.rename(work)
    with pytest.raises(ToolError, match="was replaced by another one"):
        await _try(tools, "read", path="secret.txt")


async def test_a_race_leaks_nothing(tools: dict[str, AgentTool], work: Path, outside: Path) -> None:
    """Another thread replaces the folder by a link and back as fast as it can."""
    (work / "a").mkdir()
    (work / "a" / "secret.txt").write_text("harmless")
    (work / "link").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (work / "a").rename(work / "kept")
            (work / "link").rename(work / "a")
            (work / "a").rename(work / "link")
            (work / "kept").rename(work / "a")

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen = set()
    try:
        for _ in range(100):
            for name, more in (
                ("read", {}),
                ("edit", {"old_text": "s", "new_text": "S", "replace_all": True}),
            ):
                try:
                    result = await _try(tools, name, path="a/secret.txt", **more)
                    seen.add(result.content[0]["text"] if name == "read" else "")
                except ToolError:
                    pass
    finally:
        stop.set()
        swapping.join()
    assert seen <= {"", "harmless", "harmleSS"}
    assert ["secret.txt"] == [entry.name for entry in outside.iterdir()]
    assert SECRET == (outside / "secret.txt").read_text()


# ---- pipes, devices and hard links ----------------------------------------------------------------


async def test_pipes_and_devices_are_not_opened(tools: dict[str, AgentTool], work: Path) -> None:
    """A named pipe, which would block forever, is refused for reading and writing."""
    os.mkfifo(work / "pipe")
    for name in ("read", "write", "edit"):
        with pytest.raises(ToolError, match="device, pipe or socket"):
            await _try(tools, name, **_arguments(name, "pipe"))
    assert "[no line matches]" == (await _try(tools, "grep", pattern="x")).content[0]["text"]


async def test_a_hard_link_is_not_written_through(
    tools: dict[str, AgentTool], work: Path, outside: Path
) -> None:
    """Reading a hard link cannot be detected; writing creates a separate file."""
    os.link(outside / "secret.txt", work / "hard")
    await _try(tools, "write", path="hard", content="changed")
    assert SECRET == (outside / "secret.txt").read_text()


# ---- protected places -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".git/hooks/pre-commit",
        ".git",
        ".GIT/config",
        "src/.Git/hooks/post-checkout",
        ".git./config",
        ".git /config",
        "git~1/config",
        ".git::$INDEX_ALLOCATION/config",
        ".g\u200cit/config",
        "alias/config",
    ],
)
async def test_git_files_are_not_written(path: str, tools: dict[str, AgentTool], work: Path) -> None:
    """Git's hooks and settings are protected in all spellings, at any depth, new or not."""
    (work / "real.git").mkdir()
    (work / ".git").mkdir()
    (work / ".git" / "config").write_text("[core]\n")
    (work / "alias").symlink_to(".git")
    for name in ("write", "edit"):
        with pytest.raises(ToolError, match="belongs to Git"):
            await _try(
                tools, name, **{**_arguments(name, path), **({"old_text": "core"} if name == "edit" else {})}
            )
    assert "[core]\n" == (work / ".git" / "config").read_text()


async def test_git_files_can_be_read(tools: dict[str, AgentTool], work: Path) -> None:
    """For example, a model can read which branch is checked out."""
    (work / ".git").mkdir()
    (work / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    assert "ref: refs/heads/main" == (await _try(tools, "read", path=".git/HEAD")).content[0]["text"]


@pytest.mark.parametrize("name", [".gitignore", ".github", "git", ".gitkeep", "a.git"])
def test_similar_names_are_not_protected(name: str) -> None:
    """Names that only begin like Git's names can be written."""
    assert not is_git(name)


async def test_a_bare_repository_is_not_written(tools: dict[str, AgentTool], work: Path) -> None:
    """Repositories are recognised by their content, whatever their name."""
    for name in ("objects", "refs", "hooks"):
        (work / "data" / name).mkdir(parents=True)
    (work / "data" / "HEAD").write_text("ref: refs/heads/main\n")
    for path in ("data/config", "data/hooks/post-update"):
        with pytest.raises(ToolError, match="Git repository's own data"):
            await _try(tools, "write", path=path, content="x")


async def test_keys_are_neither_read_nor_written(
    tools: dict[str, AgentTool], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TINYAGENT_HOME inside the folder cannot be read, listed or written."""
    home = work / "conf"
    home.mkdir()
    (home / "keys.toml").write_text("key = 'sk-test-CANARY'\n")
    (work / "alias").symlink_to("conf")
    monkeypatch.setenv("TINYAGENT_HOME", str(home))
    for name in EVERY_TOOL:
        for path in ("conf/keys.toml", "alias/keys.toml", "conf/new"):
            if name == "list":
                path = str(Path(path).parent)
            with pytest.raises(ToolError, match="configuration and keys"):
                await _try(tools, name, **_arguments(name, path))
    found = await _try(tools, "grep", pattern="CANARY", hidden=True, ignored=True)
    assert "[no line matches]" == found.content[0]["text"]
    globbed = await _try(tools, "glob", pattern="keys.toml")
    assert "[no path matches]" == globbed.content[0]["text"]


async def test_a_missing_home_is_protected(
    tools: dict[str, AgentTool], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TINYAGENT_HOME is protected before it exists, in every spelling."""
    monkeypatch.setenv("TINYAGENT_HOME", str(work / "conf"))
    for path in ("conf/config.toml", "CONF/config.toml"):
        with pytest.raises(ToolError, match="configuration and keys"):
            await _try(tools, "write", path=path, content="x")
    assert not (work / "conf").exists()


async def test_plugins_are_not_written(work: Path) -> None:
    """Code that tinyagent loads is protected by name, by link and under other names."""
    plugin = work / "venv" / "plugin"
    plugin.mkdir(parents=True)
    (plugin / "code.py").write_text("x = 1\n")
    (work / "single.py").write_text("x = 1\n")
    (work / "alias").symlink_to("venv/plugin")
    root = Root(work, lambda: Places(fixed=(str(plugin), str(work / "single.py"))))
    for path in (
        "venv/plugin/code.py",
        "venv/plugin/new.py",
        "alias/code.py",
        "VENV/plugin/x.py",
        "single.py",
    ):
        with pytest.raises(ToolError, match="loads it as code"):
            root.locate(path, write=True)
    root.locate("venv/other.py", write=True)
    root.locate("venv/plugin/code.py")


async def test_protection_compares_device_and_inode(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A protected folder is recognised under another name."""
    (work / "conf").mkdir()
    root = Root(work, lambda: Places(secret=(str(work / "conf"),)))
    monkeypatch.setattr(Root, "_check_text", lambda *given: None)
    with pytest.raises(ToolError, match="configuration and keys"), root.folder(("conf",)):
        pass


def test_the_known_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home, the environment, the code and the plugins of tinyagent are protected."""
    monkeypatch.setenv("TINYAGENT_HOME", str(tmp_path / "home"))
    places = known_places(str(tmp_path))
    assert str((tmp_path / "home").resolve()) in places.secret
    assert any(path.endswith("tinyagent") for path in places.secret)
    assert str(Path(tinyagent_tools_fs.__file__).resolve().parent) in places.fixed
    assert any(Path(os.__file__).is_relative_to(path) for path in places.fixed)


def test_a_tool_file_is_protected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of `-t ./mytools.py` is code of this run."""
    module = type(os)("tinyagent_file_mytools")
    module.__file__ = str(tmp_path / "mytools.py")
    monkeypatch.setitem(__import__("sys").modules, "tinyagent_file_mytools", module)
    assert str(tmp_path / "mytools.py") in known_places(str(tmp_path)).fixed


async def test_a_later_change_of_directory_changes_nothing(
    work: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tools stay in the folder for which they were made."""
    monkeypatch.chdir(work)
    tools = {tool.name: tool for tool in file_tools()}
    monkeypatch.chdir(outside)
    assert "print(1)" == (await _try(tools, "read", path="src/main.py")).content[0]["text"]
    with pytest.raises(ToolError, match=r"There is no 'secret\.txt'"):
        await _try(tools, "read", path="secret.txt")


def test_the_root_must_be_a_folder(work: Path) -> None:
    """A file cannot be the root."""
    with pytest.raises(NotADirectoryError):
        Root(work / "src" / "main.py")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
async def test_the_environment_is_not_read_from_proc() -> None:
    """With `/` as the working directory, the process's environment is protected."""
    tools = {tool.name: tool for tool in file_tools("/")}
    for path in ("proc/self/environ", f"/proc/{os.getppid()}/environ"):
        with pytest.raises(ToolError, match="keys"):
            await _try(tools, "read", path=path)
    with pytest.raises(ToolError, match="keys"):
        await _try(tools, "list", path="/proc/self")
