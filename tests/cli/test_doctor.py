"""`doctor`: each thing that can be wrong is found, with what to do, and counts in the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinyagent.testing import FakeServer
from tinyagent_cli.plugins import check as plugin_check
from tinyagent_cli.plugins.discovery import Plugin

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
    assert (0, "No problems.") == (done.code, lines[-1])
    assert "ok  endpoint       local: answers, with 1 models" in lines
    assert "ok  configuration  model: local/m, from TINYAGENT_MODEL" in lines


def test_nothing_is_set_up(cli: Cli) -> None:
    """No model and no key is no fault: exit code 0, with the ways to go on."""
    code, found = examine(cli)
    assert (0, True) == (code, found["configuration model"]["ok"])
    assert "-m demo" in found["configuration model"]["hint"]
    assert "No problems; lines marked -- are advice." in cli("doctor", TINYAGENT_PLUGINS="").out


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("raise SystemExit('bye')", "cannot be loaded: SystemExit: bye"),
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
    assert broken["hint"].endswith("upgrade it: tinyagent plugins install --upgrade zz-one")
    assert found["plugin tools: zz-two (zz-two 1.0)"]["ok"]


SETUP = """
from tinyagent import ConfigurationError, MissingKeyError, NotConfiguredError, ToolError, hookimpl
print("a plugin may print")

@hookimpl
def tinyagent_register_tools(register):
    raise {error}
"""
NOT_SET_UP = {
    "not configured": ('NotConfiguredError("no town is set", hint="Set TOWN.")', 0, "not set up: no town"),
    "no key": ('MissingKeyError("WEATHER_KEY is not set", hint="Set TOWN.")', 0, "not set up: WEATHER"),
    "configured wrongly": ('ConfigurationError("town.toml: 7", hint="Set TOWN.")', 3, "not set up correctly"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_SET_UP)
def test_a_plugin_that_is_not_set_up_is_not_broken(cli: Cli, case: str) -> None:
    """doctor, `plugins list --check` and a run say the same, with the plugin's own hint."""
    error, code, words = NOT_SET_UP[case]
    cli.install("zz-one", SETUP.format(error=error), version="2.1")
    exit_code, found = examine(cli, TINYAGENT_MODEL="demo")
    finding = found["plugin tools: zz-one (zz-one 2.1)"]
    assert (code, code, "Set TOWN.") == (exit_code, finding["code"], finding["hint"])
    [row] = json.loads(cli("plugins", "list", "--check", "--json", TINYAGENT_PLUGINS="zz-one").out)
    assert ("not set up", finding["message"], "Set TOWN.") == (row["status"], row["error"], row["hint"])
    done = cli("run", "-m", "demo", "-t", "zz-one", "Hi")
    assert (3, True) == (done.code, f"Error: {finding['message']}\nSet TOWN.\n" in done.err)
    assert words in finding["message"]
    assert "ninstall" not in done.err


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.environ['ZZ_TOWN']",
        SETUP.replace("raise {error}", "import os\n    os.environ['ZZ_TOWN']"),
        "import os\ntry:\n    os.environ['ZZ_TOWN']\nfinally:\n    print('ended')",
    ],
    ids=["while it is imported", "in its hook", "behind a finally"],
)
def test_a_plugin_without_its_environment_variable_is_not_set_up(cli: Cli, source: str) -> None:
    """`os.environ[NAME]` is how most plugins ask for a setting; a missing one is named, and no defect."""
    cli.install("zz-one", source, version="2.1")
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    finding = found["plugin tools: zz-one (zz-one 2.1)"]
    assert (0, "Set it: export ZZ_TOWN=…") == (code, finding["hint"])
    assert finding["message"].endswith("is not set up: the environment variable ZZ_TOWN is not set.")


def test_a_key_error_of_its_own_is_a_defect(cli: Cli) -> None:
    """Only a look-up in the environment counts as a setting."""
    cli.install("zz-one", "{}['ZZ_TOWN']")
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    assert (3, True) == (code, "KeyError" in found["plugin tools: zz-one (zz-one 1.0)"]["message"])


def test_findings_hold_no_secrets(cli: Cli) -> None:
    """What they quote of the configuration and of plugins is redacted, as a text and as JSON."""
    key = "sk-test-0123456789abcdef0123456789"
    cli.install("zz-one", f"raise RuntimeError('refused: {key}')")
    cli.config(f"[plugins]\ndisable = ['{key}']\n[run]\ntools = ['{key}']\nmodel = 'demo'\n")
    for command in (["doctor"], ["doctor", "--json"], ["plugins", "list", "--check"]):
        done = cli(*command, TINYAGENT_PLUGINS="zz-one")
        assert ("[redacted]" in done.out, key in done.out + done.err) == (True, False), command


LACKING = {
    "a package": (
        "import not_there_at_all",
        "it needs the module 'not_there_at_all'",
    ),
    "a part of itself": ("import plugin_zz_one.gone", "its own module 'plugin_zz_one.gone' is missing"),
    "a module of tinyagent": ("import tinyagent.gone", "it does not fit this version of tinyagent"),
    "a name of tinyagent": ("from tinyagent import Gone", "it does not fit this version of tinyagent"),
}


@pytest.mark.parametrize("case", LACKING)
def test_a_plugin_that_lacks_something(cli: Cli, case: str) -> None:
    """It is to be installed again, not uninstalled."""
    source, words = LACKING[case]
    cli.install("zz-one", source)
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    finding = found["plugin tools: zz-one (zz-one 1.0)"]
    assert (3, True) == (code, words in finding["message"])
    assert finding["hint"].endswith(": tinyagent plugins install --upgrade zz-one")


def test_a_guard_that_is_not_set_up_can_be_switched_off(cli: Cli) -> None:
    """It stops runs; the error says how to set it up, and how to switch it off."""
    source = 'import tinyagent\nraise tinyagent.NotConfiguredError("no rules", hint="Write rules.")'
    cli.install("zz-one", source, "hooks")
    done = cli("run", "-m", "demo", "-t", "calc", "Hi")
    assert 3 == done.code
    assert "is not set up: no rules.\nWrite rules.\n" in done.err
    assert '[plugins] disable = ["NAME"]' in done.err


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import time\ntime.sleep(60)", "takes more than 3 s to load"),
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
            "from tinyagent import tool\n@tool\ndef one():\n    'One.'",
            "prevents its process from ending for more than 3 s",
        ),
    ],
    ids=["while it is loaded", "afterwards"],
)
def test_a_plugin_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    """It is given up on after a time."""
    (tmp_path / "plugin_hang.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    loaded = plugin_check.check(Plugin("tools", "hang", "plugin_hang", "hang", "1.0"), seconds=3)
    assert ("broken", 3) == (loaded.status, loaded.code)
    assert words in (loaded.message or "")
    assert "check its configuration" in (loaded.hint or "")


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


def test_a_model_without_a_provider(cli: Cli) -> None:
    """It is a finding, since every run fails because of it."""
    code, found = examine(cli, TINYAGENT_MODEL="/m")
    model = found["configuration model"]
    assert (3, "TINYAGENT_MODEL names no provider.") == (code, model["message"])


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
    assert "answers, but does not list its models" == found["endpoint local"]["message"]
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
