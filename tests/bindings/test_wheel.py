"""The wheel as a user installs it, in a new environment and with the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tinyagent.testing.server import FakeReply, FakeServer

from .conftest import ROOT

WHEELS = ROOT / os.environ.get("TINYAGENT_WHEELS", "build/alchemy/dist")
KEY = "sk-test-CANARY-0123456789"


@pytest.fixture(scope="module")
def wheel() -> Path:
    """Return the wheel that make built."""
    found = sorted(WHEELS.glob("tinyagent_alchemy-*.whl"))
    if not found:
        pytest.skip(f"no wheel in {WHEELS}")
    return found[-1]


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create an environment with the wheel and the packages of this one, without its plugins."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [site] = folder.glob("lib/python*/site-packages")
    # tinyagent itself and what it needs: by path, without the metadata of anything that is a plugin.
    [packages] = {Path(entry) for entry in sys.path if entry.endswith("site-packages")} & set(
        Path(sys.prefix).glob("lib/python*/site-packages")
    )
    (site / "parent.pth").write_text(f"{ROOT}\n{packages}\n", "utf-8")
    install = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
    subprocess.run(
        [*install, "--no-deps", "--no-index", wheel], check=True, env={**os.environ, "PIP_NO_INPUT": "1"}
    )
    return folder / "bin" / "python"


def run(python: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TINYAGENT_HOME")}
    return subprocess.run(
        [python, *arguments], env={**kept, **environment}, cwd=kept["HOME"], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_one_wheel_for_every_python(wheel: Path) -> None:
    """The wheel has the stable ABI and types, and links no system library for TLS."""
    assert "-cp311-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [native] = [name for name in names if name.endswith(".so")]
        code = archive.read(native)
    assert {"alchemy_llm_py/_native.pyi", "alchemy_llm_py/py.typed"} <= set(names)
    assert b"libssl.so" not in code
    assert b"libcrypto.so" not in code


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_it_streams_in_a_fresh_environment(python: Path) -> None:
    """After `pip install`, the module streams."""
    code = """if True:
        import sys, alchemy_llm_py
        assert "venv" in alchemy_llm_py.__file__, alchemy_llm_py.__file__
        said = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
        model = {"id": "m", "base_url": sys.argv[1]}
        whole = alchemy_llm_py.collect_openai_completions(model, {"messages": [said]})
        print(whole["final_message"]["content"][0]["text"])
    """
    with FakeServer(FakeReply.text("Hel", "lo")) as server:
        done = run(python, "-c", code, server.url)
    assert (0, "Hello\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_command_line_finds_it(python: Path) -> None:
    """It is found by its entry point; only the server gets the key of the variable."""
    with FakeServer(FakeReply.text("Hel", "lo"), repeat=True) as server:
        url = f"base_url={server.url}"
        code = "import sys; from tinyagent_cli.main import main; sys.exit(main())"
        start = ["-c", code]
        done = run(python, *start, "run", "-m", "alchemy/any-model", "-O", url, "--no-stdin", "Hi")
        assert (0, "Hello\n") == (done.returncode, done.stdout), done.stderr
        asked = ["run", "-m", "alchemy/openrouter/x/y", "-O", url, "--no-stdin", "Hi"]
        done = run(python, *start, *asked, OPENROUTER_API_KEY=KEY)
        assert (0, "Hello\n") == (done.returncode, done.stdout), done.stderr
        assert KEY not in done.stdout + done.stderr
        first, second = server.requests
        assert ("any-model", None) == (first.json["model"], first.headers.get("authorization"))
        assert ("x/y", f"Bearer {KEY}") == (second.json["model"], second.headers["authorization"])
        done = run(python, *start, "run", "-m", "alchemy/nobody/x", "--no-stdin", "Hi")
        assert 3 == done.returncode
        assert "openrouter" in done.stderr
