"""`--context` and `[run] context`: the instructions of a project in `AGENTS.md`."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Cli, Done


@pytest.fixture
def repository(cli: Cli) -> Path:
    """A repository around the working directory, with instructions at its root and outside of it."""
    root = cli.work
    (root.parent / "AGENTS.md").write_text("Outside.")
    (root / ".git").mkdir()
    (root / "AGENTS.md").write_text("Be brief.\n")
    cli.work = root / "a" / "b"
    cli.work.mkdir(parents=True)
    return root


def run(cli: Cli, *args: str) -> Done:
    """Run the demo."""
    return cli("run", "-m", "demo", "--jsonl", *args, "Hi")


def system(done: Done) -> str:
    """Return the system prompt of a run."""
    assert 0 == done.code, done.err
    text: str = done.lines[0]["system_prompt"]
    return text


ROOT = "<instructions file='AGENTS.md'>\nBe brief.\n</instructions>"
INNER = "<instructions file='a/b/AGENTS.md'>\nUse French.\n</instructions>"


def test_off_by_default(cli: Cli, repository: Path) -> None:
    """Without the option or the setting, no file is read or named."""
    done = run(cli)
    assert "" == system(done)
    assert "AGENTS" not in done.err


def test_the_files_up_to_the_root_of_the_repository(cli: Cli, repository: Path) -> None:
    """The outermost comes first, after the system prompt of the user. Each is named on standard error."""
    cli.file("AGENTS.md", "Use French.")
    done = run(cli, "--context", "-s", "You are kind.")
    assert f"You are kind.\n\n{ROOT}\n\n{INNER}" == system(done)
    named = [line for line in done.err.splitlines() if "AGENTS" in line]
    assert [
        f"Using the instructions of {repository}/AGENTS.md",
        f"Using the instructions of {repository}/a/b/AGENTS.md",
    ] == named
    (repository / "a" / ".git").write_text("gitdir: elsewhere")  # the root of a worktree or a submodule
    assert INNER.replace("a/b", "b") == system(run(cli, "--context"))


def test_outside_of_a_repository(cli: Cli) -> None:
    """Only the working directory is searched."""
    (cli.work.parent / "AGENTS.md").write_text("Outside.")
    done = run(cli, "--context")
    assert "" == system(done)
    assert "There is no AGENTS.md in this folder, or above it in its repository." in done.err
    cli.file("AGENTS.md", "Be brief.")
    assert ROOT == system(run(cli, "--context"))


def test_the_setting(cli: Cli, repository: Path) -> None:
    """The setting is the user's; the option overrides it. A missing file is no news then."""
    cli.config("[run]\ncontext = true\n")
    assert ROOT == system(run(cli))
    assert "" == system(run(cli, "--no-context"))
    (repository / "AGENTS.md").unlink()
    done = run(cli)
    assert "" == system(done)
    assert "AGENTS" not in done.err
    cli.config("")
    cli.file("tinyagent.toml", "[run]\ncontext = true\n")
    done = cli("run", "-m", "demo", "Hi")
    assert 3 == done.code
    assert "unknown key 'run.context'. A project file can only" in done.err


def test_a_session_has_the_present_instructions_once(cli: Cli, repository: Path) -> None:
    """They replace those of the earlier run. Without the option, the system prompt stays as it is."""
    assert f"Kind.\n\n{ROOT}" == system(run(cli, "--context", "-s", "Kind."))
    (repository / "AGENTS.md").write_text("Be long.")
    assert f"Kind.\n\n{ROOT}" == system(run(cli, "-c"))
    assert f"Kind.\n\n{ROOT}".replace("brief", "long") == system(run(cli, "-c", "--context"))


@pytest.mark.parametrize(
    ("target", "accepted"),
    [("CLAUDE.md", True), ("../outside.md", False), (".git/config", False), ("/etc/passwd", False)],
)
def test_links(cli: Cli, repository: Path, target: str, accepted: bool) -> None:
    """A link is followed only to a Markdown file of the repository."""
    for name in ("CLAUDE.md", "../outside.md", ".git/config"):
        (repository / name).write_text("Be brief.")
    (repository / "AGENTS.md").unlink()
    (repository / "AGENTS.md").symlink_to(target)
    done = run(cli, "--context")
    if accepted:
        assert ROOT == system(done)
    else:
        assert 3 == done.code
        assert "is not a Markdown file of the project" in done.err
        assert "Without the instructions: --no-context" in done.err


@pytest.mark.parametrize(
    ("data", "mode", "message"),
    [
        (b"a" * 200_000, 0o644, "is longer than 131072 bytes"),
        (b"a\xff", 0o644, "is not UTF-8 text: byte 0xff at offset 1"),
        (b"Be brief.", 0o666, "so it is not used"),
    ],
)
def test_files_that_are_refused(cli: Cli, data: bytes, mode: int, message: str) -> None:
    """The error says how to run without them."""
    cli.file("AGENTS.md", data).chmod(mode)
    done = run(cli, "--context")
    assert 3 == done.code
    assert message in done.err
    assert "Without the instructions: --no-context" in done.err


def test_the_record_does_not_replace_the_instructions(cli: Cli) -> None:
    """As for every file that the run reads."""
    path = cli.file("AGENTS.md", "Be brief.")
    done = cli("run", "-m", "demo", "--context", "-o", "AGENTS.md", "Hi")
    assert (2, "Be brief.") == (done.code, path.read_text())
    assert "would replace the file that the context uses" in done.err
