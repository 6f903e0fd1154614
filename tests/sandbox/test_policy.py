"""The choice of a mechanism, the paths of a policy, and the sentence that says what holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinyagent import sandbox
from tinyagent._sandbox import launcher, layout, places, seccomp
from tinyagent.errors import ConfigurationError
from tinyagent.sandbox import Policy, Sandbox, SandboxSettings, find_sandbox, sandbox_settings
from tinyagent_cli.plugins.tool_sources import import_file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty home folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr(places, "account_home", lambda: str(folder))
    monkeypatch.delenv("TINYAGENT_HOME", raising=False)
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    return folder


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Forget which mechanism works."""
    sandbox._working_mechanism.cache_clear()


def refused(folder: Path) -> list[str]:
    """Return the reasons why a folder stays read-only."""
    return [reason for _, reason in Policy(writable=[folder]).layout().refused]


# ---- writable folders -----------------------------------------------------------------------------------


def test_a_project_is_writable(home: Path) -> None:
    """An ordinary folder, in the home folder or elsewhere."""
    project = home / "project"
    project.mkdir()
    assert [str(project)] == list(Policy(writable=[project]).layout().writable)


def test_the_home_folder_stays_read_only(home: Path) -> None:
    """Neither it nor a folder around it is writable, because start-up files could be created in it."""
    for folder in (home, home.parent, Path("/")):
        assert ["it contains your home folder"] == refused(folder)
    (home / ".config").mkdir()
    assert ["programs in it run by themselves"] == refused(home / ".config")


def test_start_up_folders_stay_read_only(home: Path) -> None:
    """Also a folder inside of one, in which a new file would run by itself, too."""
    for name in (".config/systemd/user", ".vim/plugin", ".config/fish/conf.d"):
        (home / name).mkdir(parents=True)
        assert ["programs in it run by themselves"] == refused(home / name)


def test_the_home_folder_of_the_account(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs such as ssh use it, also if HOME is another folder."""
    account = tmp_path / "account"
    (account / ".ssh").mkdir(parents=True)
    (home / ".aws").mkdir()
    monkeypatch.setattr(places, "account_home", lambda: str(account))
    assert {str(account / ".ssh"), str(home / ".aws")} <= {*Policy().layout().hidden}
    assert ["it contains your home folder"] == refused(account)
    monkeypatch.setattr(places, "account_home", lambda: "")
    assert str(account / ".ssh") not in Policy().layout().hidden


def test_folders_with_keys_stay_read_only(home: Path) -> None:
    """Also inside of such a folder."""
    keys = home / ".ssh" / "project"
    keys.mkdir(parents=True)
    assert ["it has keys or data of tinyagent"] == refused(keys)


def test_the_data_of_a_repository_stays_read_only(tmp_path: Path, home: Path) -> None:
    """A folder in `.git`, and a bare repository."""
    bare = tmp_path / "bare"
    subprocess.run(["git", "init", "-q", "--bare", str(bare)], check=True)
    subprocess.run(["git", "init", "-q", str(tmp_path / "normal")], check=True)
    for folder in (bare, tmp_path / "normal/.git", tmp_path / "normal/.git/hooks"):
        assert ["it is the data of a Git repository"] == refused(folder)


def test_repositories_and_links_to_start_up_files_are_protected(tmp_path: Path, home: Path) -> None:
    """`.git` at several depths, and what a start-up file links to."""
    project = tmp_path / "project"
    for name in (".git", "a/.git", "a/b/.git"):
        (project / name).mkdir(parents=True)
    (project / "bashrc").write_text("")
    (home / ".bashrc").symlink_to(project / "bashrc")
    protected = Policy(writable=[project]).layout().protected
    assert [str(project / name) for name in (".git", "a/.git", "a/b/.git", "bashrc")] == list(protected)


def test_the_data_that_git_files_refer_to_is_protected(tmp_path: Path, home: Path) -> None:
    """That of a worktree and of its repository, however deep they are. Other `.git` files do no harm."""
    project = tmp_path / "project"
    data = project / "a/b/c/d/e/data"
    (data / "worktrees/w").mkdir(parents=True)
    for name, text in (("HEAD", ""), ("worktrees/w/HEAD", ""), ("worktrees/w/commondir", "../..\n")):
        (data / name).write_text(text)
    for name, content in (
        ("w", f"gitdir: {data}/worktrees/w\n".encode()),
        ("dangling", b"gitdir: nowhere\n"),
        ("broken", b"gitdir: \0\xff"),
        ("other", b"text"),
    ):
        (project / name).mkdir()
        (project / name / ".git").write_bytes(content)
    (project / "pipe").mkdir()
    os.mkfifo(project / "pipe/.git")
    names = ("a/b/c/d/e/data", "a/b/c/d/e/data/worktrees/w", "broken/.git", "dangling/.git", "other/.git")
    expected = [str(project / name) for name in (*names, "pipe/.git", "w/.git")]
    assert expected == list(Policy(writable=[project]).layout().protected)


def test_the_search_for_repositories_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large tree costs a limited time: the search ends, and what is near is found first."""
    monkeypatch.setattr(places, "SEARCHED_ENTRIES", 10)
    (tmp_path / ".git").mkdir()
    for number in range(9):
        (tmp_path / f"d{number}/x/.git").mkdir(parents=True)
    assert [str(tmp_path / ".git")] == places.repositories(str(tmp_path))


def test_new_files_do_not_hide_a_repository(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the folder is always found, and one below stays protected once it was found."""
    project = tmp_path / "project"
    for name in (".git", "sub/.git"):
        (project / name).mkdir(parents=True)
    expected = [str(project / name) for name in (".git", "sub/.git")]
    assert expected == list(Policy(writable=[project]).layout().protected)
    monkeypatch.setattr(places, "SEARCHED_ENTRIES", 0)
    assert expected == list(Policy(writable=[project]).layout().protected)
    (project / "sub/.git").rmdir()
    assert expected[:1] == list(Policy(writable=[project]).layout().protected)


def test_tool_files_are_protected(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start runs the file outside of the sandbox, so a program must not change it."""
    monkeypatch.setattr(places, "loaded_files", set())
    monkeypatch.setattr(layout, "loaded_files", places.loaded_files)
    project = tmp_path / "project"
    project.mkdir()
    for name in ("words.py", "other.py"):
        (project / name).write_text("")
    import_file(project / "words.py")
    policy = Policy(writable=[project])
    assert [str(project / "words.py")] == list(policy.layout().protected)
    assert "Landlock could not protect words.py then." in Sandbox("landlock").describe(policy)


def test_the_running_python_is_protected(home: Path) -> None:
    """Its code runs outside the sandbox, so a program must not change it."""
    prefix = Path(sys.prefix).resolve()
    assert str(prefix) in Policy(writable=[prefix.parent]).layout().protected


def test_paths_that_do_not_exist_are_left_out(tmp_path: Path, home: Path) -> None:
    """They cannot be mounted, and there is nothing to hide."""
    missing = tmp_path / "missing"
    layout = Policy(writable=[missing], hidden=[missing], visible=[missing]).layout()
    assert [] == list(layout.writable)
    assert str(missing) not in (*layout.visible, *layout.hidden)


# ---- the choice -----------------------------------------------------------------------------------------


def test_a_mechanism_that_does_not_start_is_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `bwrap` that fails is tried, and its message is the problem."""
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: no permission' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = find_sandbox()
    assert found.mechanism != "bubblewrap"
    if sys.platform == "linux":
        assert "bwrap: no permission" in found.problem


@pytest.mark.skipif(sys.platform != "linux", reason="needs Landlock")
def test_landlock_is_the_second_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bubblewrap, Landlock is used if the kernel has it; otherwise there is no sandbox."""
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    if launcher.landlock_version() >= 1:
        found = find_sandbox()
        assert ("landlock", "bubblewrap is not installed") == (found.mechanism, found.problem)
    sandbox._working_mechanism.cache_clear()
    monkeypatch.setattr(launcher, "landlock_version", lambda: 0)
    found = find_sandbox()
    assert "none" == found.mechanism
    assert "There is no sandbox: bubblewrap is not installed, and this kernel has no Landlock." == (
        found.describe(Policy())
    )


@pytest.mark.parametrize(("platform", "name"), [("darwin", "macOS"), ("win32", "Windows")])
def test_other_systems(monkeypatch: pytest.MonkeyPatch, platform: str, name: str) -> None:
    """There is no sandbox, and the sentence says so; if one is required, this is an error."""
    monkeypatch.setattr(sandbox.sys, "platform", platform)
    assert f"There is no sandbox: tinyagent has none for {name}." == find_sandbox().describe(Policy())
    with pytest.raises(ConfigurationError, match=f"none for {name}") as raised:
        find_sandbox("required")
    assert "container" in str(raised.value.hint)


def test_without_a_sandbox_the_command_is_unchanged() -> None:
    """Its environment is still filtered."""
    with Sandbox("none").launch(["/bin/true", "x"], Policy()) as launch:
        assert ["/bin/true", "x"] == launch.command
        assert () == launch.descriptors
    assert "There is no sandbox: it is turned off." == find_sandbox("off").describe(Policy())


def test_a_program_does_not_start_if_landlock_fails(tmp_path: Path) -> None:
    """The exit code is 126, and the message names the sandbox."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", launcher.__file__, "{}", "/bin/echo", "started"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (126, "") == (done.returncode, done.stdout)
    assert "the sandbox could not be started" in done.stderr


# ---- sentences and settings -----------------------------------------------------------------------------


def test_the_sentence(tmp_path: Path, home: Path) -> None:
    """It names the mechanism, the writable folders and the network, and folders that stay read-only."""
    box = Sandbox("bubblewrap")
    assert (
        f"In a sandbox (bubblewrap): writes only in {tmp_path}/p and a private /tmp; no network; "
        "no access to stored keys."
    ) == box.describe(Policy(writable=[_made(tmp_path / "p")]))
    assert f"{home} is read-only, because it contains your home folder." in box.describe(
        Policy(writable=[home], network=True)
    )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_landlock_says_what_it_cannot_permit(tmp_path: Path, home: Path) -> None:
    """New files directly in a folder with a repository."""
    (tmp_path / "p/.git").mkdir(parents=True)
    sentence = Sandbox("landlock").describe(Policy(writable=[tmp_path / "p"]))
    assert f"No new files directly in {tmp_path}/p, because Landlock could not protect .git then." in sentence


def test_settings_from_variables() -> None:
    """The command line passes the user's configuration on in this way."""
    assert SandboxSettings() == sandbox_settings({})
    given = {
        "TINYAGENT_SANDBOX": "required",
        "TINYAGENT_SANDBOX_NETWORK": "1",
        "TINYAGENT_SANDBOX_WRITABLE": "/a:/b",
    }
    assert SandboxSettings("required", network=True, writable=("/a", "/b")) == sandbox_settings(given)


@pytest.mark.parametrize("name", ["TINYAGENT_SANDBOX", "TINYAGENT_SANDBOX_NETWORK"])
def test_other_values_are_refused(name: str) -> None:
    """A misspelt value never means `off`."""
    with pytest.raises(ConfigurationError, match=f"{name} is 'no'"):
        sandbox_settings({name: "no"})


def test_unknown_machines_have_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """System calls have other numbers there. The sentence then does not say that there is no network."""
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "sparc64")
    assert seccomp.seccomp_filter([]) is None
    monkeypatch.setattr(launcher, "landlock_version", lambda: 4)
    assert "; no TCP;" in Sandbox("landlock").describe(Policy())
    monkeypatch.setattr(launcher, "landlock_version", lambda: 3)
    assert "; network;" in Sandbox("landlock").describe(Policy())
