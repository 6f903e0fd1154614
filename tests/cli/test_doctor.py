"""`doctor` finds each problem, with a hint, and the exit code counts it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinyagent import sandbox
from tinyagent.testing import FakeServer
from tinyagent_cli.config.settings import load_settings
from tinyagent_cli.plugins import check as plugin_check
from tinyagent_cli.plugins import doctor
from tinyagent_cli.plugins.discovery import Plugin

from .conftest import Cli, FakeReply, Serve

pytestmark = pytest.mark.usefixtures("pip")

MODELS = FakeReply.json({"data": [{"id": "m"}]})


def examine(cli: Cli, *args: str, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit code, and the findings by subject, except those about this environment."""
    environment = {"TINYAGENT_PLUGINS": "zz-one,zz-two", **environment}
    done = cli("doctor", "--json", *args, **environment)
    found = json.loads(done.out)
    assert (done.code, done.code == 0) == (found["exit_code"], found["ok"])
    return done.code, {f"{row['check']} {row['subject']}": row for row in found["findings"]}


def test_all_is_well(cli: Cli, serve: Serve) -> None:
    """A working server and a chosen model give exit code 0."""
    serve(MODELS)
    done = cli("doctor", TINYAGENT_MODEL="local/m", TINYAGENT_PLUGINS="")
    lines = done.out.splitlines()
    assert (0, "No problems.") == (done.code, lines[-1])
    assert "ok  endpoint       local: answers, with 1 model" in lines
    assert "ok  configuration  model: local/m, from TINYAGENT_MODEL" in lines


def test_nothing_is_set_up(cli: Cli) -> None:
    """Without a model or a key, the exit code is 0, and the hint shows how to start."""
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
    """A broken plugin is reported, even if it ends its process, and other plugins load."""
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
    """doctor, `plugins list --check` and a run report the same state, with the plugin's own hint."""
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
    """A missing `os.environ[NAME]` is a missing setting, and the message names it."""
    cli.install("zz-one", source, version="2.1")
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    finding = found["plugin tools: zz-one (zz-one 2.1)"]
    assert (0, "Set it: export ZZ_TOWN=…") == (code, finding["hint"])
    assert finding["message"].endswith("is not set up: the environment variable ZZ_TOWN is not set.")


def test_a_key_error_of_its_own_is_a_defect(cli: Cli) -> None:
    """A KeyError of another lookup is a defect."""
    cli.install("zz-one", "{}['ZZ_TOWN']")
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    assert (3, True) == (code, "KeyError" in found["plugin tools: zz-one (zz-one 1.0)"]["message"])


def test_findings_hold_no_secrets(cli: Cli) -> None:
    """Secrets from the configuration and from plugins are removed, in text and in JSON."""
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
    "a module of tinyagent": ("import tinyagent.gone", "it does not fit tinyagent 0."),
    "a name of tinyagent": ("from tinyagent import Gone", "it does not fit tinyagent 0."),
}


@pytest.mark.parametrize("case", LACKING)
def test_a_plugin_that_lacks_something(cli: Cli, case: str) -> None:
    """The hint is to install the plugin again, not to uninstall it."""
    source, words = LACKING[case]
    cli.install("zz-one", source)
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    finding = found["plugin tools: zz-one (zz-one 1.0)"]
    assert (3, True) == (code, words in finding["message"])
    assert ": tinyagent plugins install --upgrade zz-one" in finding["hint"]


def test_a_guard_that_is_not_set_up_can_be_switched_off(cli: Cli) -> None:
    """A guard without its settings stops runs; the hint shows how to set it up or disable it."""
    source = 'import tinyagent\nraise tinyagent.NotConfiguredError("no rules", hint="Write rules.")'
    cli.install("zz-one", source, "hooks")
    done = cli("run", "-m", "demo", "-t", "calc", "Hi")
    assert 3 == done.code
    assert "is not set up: no rules.\nWrite rules.\n" in done.err
    assert '[plugins] disable = ["NAME"]' in done.err


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import time\ntime.sleep(600)", "takes more than 3 s to load"),
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
    """The check of a plugin has a time limit."""
    (tmp_path / "plugin_hang.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    loaded = plugin_check.check(Plugin("tools", "hang", "plugin_hang", "hang", "1.0"), seconds=3)
    assert ("broken", 3) == (loaded.status, loaded.code)
    assert words in (loaded.message or "")
    assert "check its configuration" in (loaded.hint or "")


def test_names_in_conflict(cli: Cli) -> None:
    """Two plugins with one name are a problem until the configuration chooses one."""
    for name in ("zz-one", "zz-two"):
        cli.install(name, "from tinyagent import tool\n@tool\ndef two():\n    'Two.'", entry="zz")
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    conflict = found["names tool zz"]
    assert (3, "The name 'zz' is claimed by zz-one 1.0 and by zz-two 1.0.") == (code, conflict["message"])
    assert 'Choose one: [plugins] prefer = {zz = "DISTRIBUTION"}' in conflict["hint"]
    cli.config('[plugins]\nprefer = {zz = "zz-two"}\n')
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    assert (0, False) == (code, "names tool zz" in found)


def test_versions_in_conflict(cli: Cli, pip: Callable[[str, int], None]) -> None:
    """A version conflict of a plugin gives exit code 1; those of unrelated packages are not shown."""
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
    """The finding names the file and the key, and the plugins are checked."""
    cli.config("[run]\nmax_turns = 'many'\n")
    cli.install("zz-one", "1 / 0")
    code, found = examine(cli)
    assert 3 == code
    assert "run.max_turns" in found["configuration files"]["message"]
    assert "plugin tools: zz-one (zz-one 1.0)" in found


def test_a_model_without_a_provider(cli: Cli) -> None:
    """A model without a provider is a problem, because every run fails."""
    code, found = examine(cli, TINYAGENT_MODEL="/m")
    model = found["configuration model"]
    assert (3, "TINYAGENT_MODEL names no provider.") == (code, model["message"])


def test_missing_names_in_the_configuration(cli: Cli) -> None:
    """A missing tool is a problem; a preference or a disabled plugin without effect is advice."""
    cli.config(
        '[run]\nmodel = "demo"\ntools = ["gone"]\n[plugins]\ndisable = ["off"]\nprefer = {x = "nobody"}\n'
    )
    code, found = examine(cli)
    assert (3, False) == (code, found["configuration tool gone"]["ok"])
    assert found["configuration plugin off"]["hint"]
    assert found["configuration prefer x"]["ok"]


def test_missing_and_refused_keys(cli: Cli, serve: Serve) -> None:
    """Missing keys and keys that the server refuses are problems; no key is shown."""
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
    """An endpoint that does not answer gives exit code 1; one without a list of models works."""
    serve(FakeReply.error(404, "nothing here"), more='[providers.dead]\nbase_url = "http://127.0.0.1:9/v1"\n')
    code, found = examine(cli, TINYAGENT_MODEL="demo")
    assert "answers, but does not list its models" == found["endpoint local"]["message"]
    assert (1, False) == (code, found["endpoint dead"]["ok"])
    assert found["endpoint dead"]["hint"]
    assert str(found["endpoint dead"]["message"]).startswith("cannot connect to ")


def test_a_proxy(cli: Cli) -> None:
    """A proxy needs its token and its address, and is asked for its models."""
    with FakeServer(FakeReply.json({"models": [{"id": "m", "name": ""}]})) as server:
        url, token = server.url, "sk-test-token"
        code, found = examine(
            cli, TINYAGENT_MODEL="proxy/m", TINYAGENT_PROXY_URL=url, TINYAGENT_PROXY_TOKEN=token
        )
        assert (0, "answers, with 1 model") == (code, found["endpoint proxy"]["message"])
        code, found = examine(cli, TINYAGENT_MODEL="proxy/m", TINYAGENT_PROXY_TOKEN=token)
        assert (3, True) == (code, "PROXY_URL is not set" in str(found["endpoint proxy"]["message"]))
        code, found = examine(cli, TINYAGENT_MODEL="proxy/m", TINYAGENT_PROXY_URL=url)
        assert (3, "TINYAGENT_PROXY_TOKEN is not set") == (code, found["keys proxy"]["message"])


def test_offline_sends_no_request(cli: Cli, serve: Serve) -> None:
    """--offline checks keys and names, but sends no request."""
    server = serve()
    code, found = examine(cli, "--offline", TINYAGENT_MODEL="local/m")
    assert (0, True, False) == (code, found["keys local"]["ok"], "endpoint local" in found)
    assert [] == server.requests


def test_a_silent_server(cli: Cli, serve: Serve) -> None:
    """--timeout limits the wait for an endpoint."""
    from tinyagent.testing import Hold

    serve(FakeReply([Hold()]))
    code, found = examine(cli, "--timeout", "0.3", TINYAGENT_MODEL="local/m")
    assert (1, "no answer within 0.3 s") == (code, found["endpoint local"]["message"])


def test_a_narrow_terminal(cli: Cli) -> None:
    """Findings and hints are wrapped at words, below their texts; commands and paths stay whole."""
    terminal = cli.on_terminal("doctor", "--offline", columns=50, environment={"TINYAGENT_PLUGINS": ""})
    assert 0 == terminal.end()
    lines = terminal.shown.decode().splitlines()
    assert lines[0].startswith("ok  installation   tinyagent")
    assert lines[1].startswith(" " * 19)
    commands = [line for line in lines if line.startswith(" " * 8 + "tinyagent")]
    assert commands
    assert all(len(line) <= 50 or "/" in line for line in lines if line not in commands), lines


def test_the_sandbox(cli: Cli) -> None:
    """What holds is shown, or that it is turned off; without a sandbox there is advice."""
    cli.config('[sandbox]\nmode = "off"\n')
    off = cli("doctor", "--offline")
    assert re.search(
        r"ok  sandbox +programs of tools: The sandbox is turned off by \S+config.toml", joined(off.out)
    )
    cli.config("")
    on = joined(cli("doctor", "--offline").out)
    assert re.search(r"(ok|--)  sandbox +programs of tools: (In a sandbox|There is no sandbox)", on)


def test_a_required_sandbox_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a problem."""
    monkeypatch.setenv("TINYAGENT_SANDBOX", "required")
    monkeypatch.setattr(sandbox, "_working_mechanism", lambda: ("none", "this kernel has none", ()))
    finding = doctor._sandbox(load_settings())
    assert (3, True) == (finding.code, "A sandbox is required, but not available" in finding.message)


def joined(text: str) -> str:
    """Return a text without the breaks of its lines."""
    return re.sub(r"\n {2,}", " ", text)
