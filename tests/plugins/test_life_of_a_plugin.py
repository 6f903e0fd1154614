"""The life of a plugin, from `plugins new` to `plugins uninstall`."""

from __future__ import annotations

import shutil

from tinyagent.testing import FakeReply, FakeServer

from .conftest import Workshop


def test_the_life_of_a_plugin(workshop: Workshop) -> None:
    """A plugin is created, tested, built, installed, used by hand and by a model, and uninstalled."""
    project = workshop.home / "tinyagent-weather"

    done = workshop.tinyagent("plugins", "new", "weather")
    assert 0 == done.returncode, done.stderr
    assert sorted(str(p.relative_to(workshop.home)) for p in project.rglob("*") if p.is_file()) == sorted(
        done.stdout.split()
    )

    done = workshop.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", project)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "4 passed" in done.stdout

    done = workshop.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", project / "dist", project)
    assert 0 == done.returncode, done.stdout + done.stderr
    [wheel] = (project / "dist").glob("*.whl")
    shutil.rmtree(project / "src")

    done = workshop.run("python", "-m", "pip", "install", "-q", wheel)
    assert 0 == done.returncode, done.stdout + done.stderr

    done = workshop.tinyagent("tools", "call", "weather", "text=how is the weather")
    assert ("4\n", 0) == (done.stdout, done.returncode), done.stderr

    with FakeServer(FakeReply.tool_calls(("weather", {"text": "a b c"})), FakeReply.text("Three.")) as server:
        home = workshop.home / "tinyagent"
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(f'[providers.here]\nbase_url = "{server.url}"\n')
        done = workshop.tinyagent("run", "-m", "here/model", "-t", "weather", "How many words?")
    assert ("Three.\n", 0) == (done.stdout, done.returncode), done.stderr
    assert "3" == server.requests[1].json["messages"][-1]["content"]

    done = workshop.tinyagent("plugins", "uninstall", "weather")
    assert ("weather  tinyagent.tools  tinyagent-weather 0.1.0\n", 0) == (done.stdout, done.returncode)
    assert 3 == workshop.tinyagent("tools", "call", "weather", "text=x").returncode
    assert "[]\n" == workshop.tinyagent("plugins", "list", "--json").stdout
