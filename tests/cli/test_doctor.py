"""`doctor`: each thing that can be wrong is found, with what to do, and counts in the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tinyagent.testing import FakeServer

from .conftest import Cli, FakeReply

Serve = Callable[..., FakeServer]
MODELS = FakeReply.json({"data": [{"id": "m"}]})


@pytest.fixture(autouse=True)
def pip(cli: Cli) -> Callable[[str, int], None]:
    """A pip that finds no conflict, or what it is given; the real one would take most of the time."""
    site = cli.work.parent / "site-of-pip"
    site.mkdir()
    cli.path.append(str(site))

    def says(text: str, code: int) -> None:
        (site / "pip.py").write_text(f"print({text!r})\nraise SystemExit({code})\n")

    says("No broken requirements found.", 0)
    return says


def examine(cli: Cli, *args: str, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and what was found by its subject; plugins of this environment are left out."""
    environment = {"TINYAGENT_PLUGINS": "zz-one,zz-two", **environment}
    done = cli("doctor", "--json", *args, **environment)
    found = json.loads(done.out)
    assert (done.code, done.code == 0) == (found["exit_code"], found["ok"])
    return done.code, {f"{row['check']} {row['subject']}": row for row in found["findings"]}


def test_all_is_well(cli: Cli, serve: Serve) -> None:
    """A server that answers and a model that was chosen: exit code 0."""
    serve(MODELS)
    done = cli("doctor", TINYAGENT_MODEL="local/m", TINYAGENT_PLUGINS="")
    lines = done.out.splitlines()
    assert (0, "All is well.") == (done.code, lines[-1])
    assert "ok  endpoint       local: answers, with 1 models" in lines
    assert "ok  configuration  model: local/m, from TINYAGENT_MODEL" in lines


def test_nothing_is_set_up(cli: Cli) -> None:
    """No model and no key: exit code 3, with the ways to go on."""
    code, found = examine(cli)
    assert 3 == code
    assert "-m demo" in found["configuration model"]["hint"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import not_there_at_all", "No module named 'not_there_at_all'"),
        ("import os\nos._exit(7)", "ends its process while it is loaded (exit code 7)"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "exit code -9"),
    ],
)
def test_a_broken_plugin(cli: Cli, source: str, words: str) -> None:
    """Whatever it does to the process that loads it; the other one loads."""
    cli.install("zz-one", source, version="2.1")
    cli.install("zz-two", "from tinyagent import tool\n@tool\ndef two():\n    'Two.'")
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    assert 3 == code
    broken = found["plugin tools: zz-one (zz-one 2.1)"]
    assert words in broken["message"]
    assert "tinyagent plugins uninstall zz-one" in broken["hint"]
    assert found["plugin tools: zz-two (zz-two 1.0)"]["ok"]


def test_names_in_conflict(cli: Cli) -> None:
    """Until the user has said whose a name is."""
    for name in ("zz-one", "zz-two"):
        cli.install(name, "from tinyagent import tool\n@tool\ndef two():\n    'Two.'", entry="zz")
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    assert (3, "is claimed by zz-one and zz-two") == (code, found["names tool zz"]["message"])
    cli.config('[plugins]\nprefer = {zz = "zz-two"}\n')
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    assert (0, False) == (code, "names tool zz" in found)


def test_versions_in_conflict(cli: Cli, pip: Callable[[str, int], None]) -> None:
    """Of a plugin: exit code 1. Of packages that are none of our business: no word."""
    cli.install("zz-one", "from tinyagent import tool\n@tool\ndef one():\n    'One.'")
    others = "numpy 2.0 has requirement x<1, but you have x 2.0."
    pip(f"{others}\nZZ_one 1.0 requires click, which is not installed.", 1)
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    assert (1, False) == (code, found["versions zz-one"]["ok"])
    assert "tinyagent plugins install --upgrade zz-one" in found["versions zz-one"]["hint"]
    assert "numpy" not in json.dumps(found)
    pip(others, 1)
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    assert (0, "no conflict") == (code, found["versions dependencies"]["message"])


def test_a_configuration_that_cannot_be_read(cli: Cli) -> None:
    """File and key are named; the plugins were looked at all the same."""
    cli.config("[run]\nmax_turns = 'many'\n")
    cli.install("zz-one", "1 / 0")
    code, found = examine(cli)
    assert 3 == code
    assert "run.max_turns" in found["configuration files"]["message"]
    assert "plugin tools: zz-one (zz-one 1.0)" in found


def test_what_the_configuration_names_and_is_not_there(cli: Cli) -> None:
    """A tool is an error, a preference or a switch without effect is not."""
    cli.config(
        '[run]\nmodel = "demo"\ntools = ["gone"]\n[plugins]\ndisable = ["off"]\nprefer = {x = "nobody"}\n'
    )
    code, found = examine(cli)
    assert (3, False) == (code, found["configuration tool gone"]["ok"])
    assert found["configuration plugin off"]["hint"]
    assert found["configuration prefer x"]["ok"]


def test_missing_and_refused_keys(cli: Cli, serve: Serve) -> None:
    """Not set, and set but not taken by the server; a key is never shown."""
    server = serve(FakeReply.error(401, "bad key sk-test-CANARY"))
    cli.config(
        f'[providers.one]\nbase_url = "{server.url}"\napi_key_env = "KEY_ONE"\n'
        f'[providers.two]\nbase_url = "{server.url}"\napi_key_env = "KEY_TWO"\n'
    )
    code, found = examine(cli, TINYAGENT_MODEL="demo", KEY_TWO="sk-test-CANARY")
    assert (3, "KEY_ONE is not set") == (code, found["keys one"]["message"])
    assert (True, False) == (found["keys two"]["ok"], found["endpoint two"]["ok"])
    assert "endpoint one" not in found
    assert "CANARY" not in json.dumps(found)


def test_endpoints(cli: Cli, serve: Serve) -> None:
    """One that is dead will fail (exit code 1); one without a list of models is there all the same."""
    serve(FakeReply.error(404, "nothing here"), more='[providers.dead]\nbase_url = "http://127.0.0.1:9/v1"\n')
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    assert "answers; it has no list of models" == found["endpoint local"]["message"]
    assert (1, False) == (code, found["endpoint dead"]["ok"])
    assert found["endpoint dead"]["hint"]


def test_offline_asks_nobody(cli: Cli, serve: Serve) -> None:
    """Keys and names are looked at, endpoints are not."""
    server = serve()
    code, found = examine(cli, "--offline", TINYAGENT_MODEL="local/m")
    assert (0, True, False) == (code, found["keys local"]["ok"], "endpoint local" in found)
    assert [] == server.requests


def test_a_server_that_says_nothing(cli: Cli, serve: Serve) -> None:
    """Is not waited for longer than --timeout."""
    from tinyagent.testing import Hold

    serve(FakeReply([Hold()]))
    code, found = examine(cli, "--timeout", "0.3", TINYAGENT_MODEL="local/m")
    assert (1, "no answer within 0.3 s") == (code, found["endpoint local"]["message"])
