"""`tinyagent config` shows and changes settings, and docs/configuration.md lists all of them."""

from __future__ import annotations

import ast
import json
import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinyagent_cli.config.reference import all_settings

from .conftest import ROOT, Cli
from .test_shell_completion import offered


def shown(cli: Cli, *args: str, **environment: str) -> dict[str, tuple[object, str]]:
    """Return what `config show` shows: value and source by key."""
    done = cli("config", "show", "--json", *args, **environment)
    assert 0 == done.code, done.err
    return {row["key"]: (row["value"], Path(row["from"]).name) for row in json.loads(done.out)}


def user_file(cli: Cli) -> Path:
    """Return the path of config.toml."""
    return cli.home / "config.toml"


# ---- show ---------------------------------------------------------------------------------------------


def test_each_setting_has_its_source(cli: Cli) -> None:
    """The user file, the project file, a variable or the default; the lower limit applies."""
    cli.config('[run]\nmodel = "a/b"\nmax_turns = 20\ndeny = ["x"]\n[tools.calc]\ntimeout = 3.0\n')
    cli.file("tinyagent.toml", '[run]\nmax_turns = 30\nmax_repeats = 20\nthinking = "low"\ndeny = ["y"]\n')
    found = shown(cli, TINYAGENT_MODEL="c/d", OLLAMA_HOST="127.0.0.1:5")
    assert {
        "run.deny": (["x", "y"], "config.toml, tinyagent.toml"),
        "run.max_repeats": (10, "default"),
        "run.max_turns": (20, "config.toml"),
        "run.model": ("c/d", "TINYAGENT_MODEL"),
        "run.thinking": ("low", "tinyagent.toml"),
        "providers.ollama.base_url": ("http://127.0.0.1:5/v1", "OLLAMA_HOST"),
        "tools.calc.timeout": (3.0, "config.toml"),
        "TINYAGENT_HOME": (str(cli.home), "environment"),
    } == found
    everything = shown(cli, "--all")
    assert (None, "default") == everything["run.max_cost"]
    assert ("auto", "default") == everything["run.transport"]


def test_a_project_can_only_make_the_sandbox_stricter(cli: Cli) -> None:
    """It may require it and forbid the network, but not the opposite; variables take precedence."""
    cli.config('[sandbox]\nmode = "off"\nnetwork = true\nwritable = ["/srv"]\n')
    cli.file("tinyagent.toml", '[sandbox]\nmode = "required"\nnetwork = false\n')
    assert {
        "sandbox.mode": ("required", "tinyagent.toml"),
        "sandbox.network": (False, "tinyagent.toml"),
        "sandbox.writable": (["/srv"], "config.toml"),
    } == shown(cli, "sandbox")
    found = shown(
        cli,
        "sandbox",
        TINYAGENT_SANDBOX="auto",
        TINYAGENT_SANDBOX_NETWORK="1",
        TINYAGENT_SANDBOX_WRITABLE="/a:/b",
    )
    assert {
        "sandbox.mode": ("auto", "TINYAGENT_SANDBOX"),
        "sandbox.network": (True, "TINYAGENT_SANDBOX_NETWORK"),
        "sandbox.writable": (["/a", "/b"], "TINYAGENT_SANDBOX_WRITABLE"),
    } == found
    cli.config("")
    cli.file("tinyagent.toml", "[sandbox]\nnetwork = true\n")
    assert (False, "default") == shown(cli, "sandbox.network")["sandbox.network"]
    for line in ('mode = "off"', 'writable = ["/"]'):
        cli.file("tinyagent.toml", f"[sandbox]\n{line}\n")
        done = cli("config", "show")
        assert 3 == done.code
        assert "A project file can only choose" in " ".join(done.err.split())


def test_wrong_settings_of_the_sandbox(cli: Cli) -> None:
    """A folder is absolute, and a misspelt variable never means `off`."""
    cli.config('[sandbox]\nwritable = ["build"]\n')
    assert (3, True) == ((done := cli("config", "show")).code, "is not an absolute path" in done.err)
    cli.config("")
    done = cli("config", "show", TINYAGENT_SANDBOX="no")
    assert (3, True) == (done.code, "can be auto, required or off" in " ".join(done.err.split()))


def test_one_setting_and_one_table(cli: Cli) -> None:
    """A key shows one row, a table its rows; an unknown key is a usage error with a suggestion."""
    cli.config('[run]\nmodel = "a/b"\n[run.options]\nseed = 1\n')
    assert {"run.max_turns": (50, "default")} == shown(cli, "run.max_turns")
    assert {"run.options.seed": (1, "config.toml")} == shown(cli, "run.options")
    done = cli("config", "show", "run.modle")
    assert (2, True) == (done.code, "Did you mean 'run.model'?" in done.err)
    table = cli("config", "show", "run.model").out
    assert f"run.model  a/b  {user_file(cli)}\n" == table


def test_an_empty_value_is_a_value(cli: Cli) -> None:
    """An empty list in a file is shown with its file, not as a default."""
    assert 0 == cli("config", "set", "run.tools", "").code
    assert {"run.tools": ([], "config.toml")} == shown(cli, "run.tools")


def test_secrets_are_hidden(cli: Cli) -> None:
    """Headers, options with the name of a secret, and passwords in an address are not shown."""
    cli.config(
        '[run.options]\napi_key = "CANARY-1"\n[providers.a]\nbase_url = "http://u:CANARY-2@h/v1"\n'
        'api_key_env = "CANARY-3"\nheaders = { X-Team = "CANARY-4" }\n'
        'options = { session_token = "CANARY-5", max_tokens = 5 }\n'
    )
    for args in ([], ["--json"], ["--all"], ["providers"]):
        done = cli("config", "show", *args)
        assert 0 == done.code
        assert "CANARY" not in done.out + done.err
    assert (5, "config.toml") == shown(cli)["providers.a.options.max_tokens"]
    assert ("(hidden)", "config.toml") == shown(cli)["providers.a.headers.X-Team"]
    done = cli("config", "set", "providers.a.headers.X-Key", "CANARY-6")
    assert (0, False) == (done.code, "CANARY" in done.out + done.err)


MALFORMED = {
    "an unknown key": ('[run]\nmodle = "x"\n', "unknown key 'run.modle'", "Did you mean 'run.model'?"),
    "a wrong type": (
        "[providers.a]\nbase_url = 1\n",
        "providers.a.base_url: expected text, got an integer",
        "",
    ),
    "a wrong header": (
        '[providers.a.headers]\nA = "1"\nB = 2\n',
        "providers.a.headers.B: expected text, got an integer",
        "",
    ),
    "a wrong item": ('[run]\ntools = ["a", 1]\n', "run.tools", ""),
    "a key": ('[providers.a]\napi_key = "x"\n', "'providers.a.api_key'", "tinyagent keys set a"),
    "an alias without a model": ('[aliases]\nx = "openai"\n', "aliases.x", ""),
    "not TOML": ("[run\n", "is not TOML", ""),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_errors_name_the_file_and_the_key(cli: Cli, case: str) -> None:
    """A malformed file gives exit code 3, for `config show` as for a run."""
    text, words, hint = MALFORMED[case]
    cli.config(text)
    for args in (["config", "show"], ["run", "-m", "demo", "Hi"]):
        done = cli(*args)
        assert (3, "") == done[:2]
        assert str(user_file(cli)) in done.err
        assert words in done.err
        assert hint in done.err
    assert (0, f"{user_file(cli)}\n") == cli("config", "path")[:2]


# ---- set and unset ------------------------------------------------------------------------------------


def test_comments_and_order_stay(cli: Cli) -> None:
    """One value changes, and the rest of the file is the same."""
    before = '# my settings\n[run]\nmodel = "a/b"  # good\ntools = [\n  "calc",  # sums\n]\n\n[keys]  # end\n'
    cli.config(before)
    assert 0 == cli("config", "set", "run.model", "c/d").code
    assert before.replace("a/b", "c/d") == user_file(cli).read_text()
    assert 0 == cli("config", "set", "run.timeout", "2.5").code
    assert 0 == cli("config", "unset", "run.timeout").code
    assert before.replace("a/b", "c/d") == user_file(cli).read_text()
    assert 0o600 == user_file(cli).stat().st_mode & 0o777


VALUES = {
    ("run.model", "3"): "3",
    ("run.tools", "calc, fs"): ["calc", "fs"],
    ("run.tools", '["a,b"]'): ["a,b"],
    ("run.max_turns", "7"): 7,
    ("run.max_cost", "1"): 1,
    ("run.options.seed", "3"): 3,
    ("run.options.stop", '["x"]'): ["x"],
    ("run.options.user", "me and you"): "me and you",
    ("run.system", "Be brief.\nAlways."): "Be brief.\nAlways.",
    ("providers.my-server.allow_http", "true"): True,
    ('providers."my.server".base_url', "http://127.0.0.1:1/v1"): "http://127.0.0.1:1/v1",
    ("providers.a.options", "{ seed = 1 }"): {"seed": 1},
    ("plugins.prefer.calc", "mine"): "mine",
}


@pytest.mark.parametrize(("key", "text"), VALUES)
def test_values_are_read_by_the_type_of_the_setting(cli: Cli, key: str, text: str) -> None:
    """Text needs no quotes, and the other types are TOML."""
    done = cli("config", "set", key, text)
    assert 0 == done.code, done.err
    value: object = tomllib.loads(user_file(cli).read_text())
    for name in re.findall(r'"[^"]*"|[^.]+', key):
        assert isinstance(value, dict)
        value = value[name.strip('"')]
    assert VALUES[key, text] == value


REFUSED = {
    ("run.max_turns", "many"): (3, "run.max_turns: expected an integer, got text"),
    ("run.max_turns", "0"): (3, "run.max_turns: expected an integer >= 1"),
    ("run.thinking", "hard"): (3, "run.thinking: unknown value 'hard'.\nOne of: "),
    ("run.options.x", "null"): (2, "tinyagent config unset run.options.x"),
    ("run.modle", "x"): (2, "Did you mean 'run.model'?"),
    ("run", "x"): (2, "run is a table"),
    ("providers", "x"): (2, "providers.NAME.base_url"),
    ("providers.a", "x"): (2, "providers.a.base_url"),
    ("providers.a.api_key", "CANARY"): (2, "tinyagent keys set a"),
    ("run.model.x", "x"): (2, "no setting"),
    ("run model", "x"): (2, "is not a key"),
    ("x = 1\nrun.model", "x"): (2, "is not a key"),
}


@pytest.mark.parametrize(("key", "text"), REFUSED)
def test_what_cannot_be_set(cli: Cli, key: str, text: str) -> None:
    """The file is unchanged, and the message says what is wrong."""
    cli.config('[run]\nmodel = "a/b"\n')
    code, words = REFUSED[key, text]
    done = cli("config", "set", "--", key, text)
    assert (code, "") == done[:2]
    assert words in done.err
    assert "CANARY" not in done.err
    assert '[run]\nmodel = "a/b"\n' == user_file(cli).read_text()


def test_what_is_not_set_cannot_be_removed(cli: Cli) -> None:
    """An unknown key of a malformed file can be removed, which repairs it."""
    assert 2 == cli("config", "unset", "run.model").code
    cli.config('[run]\nmodle = "x"\n')
    assert 3 == cli("config", "set", "run.model", "a/b").code
    assert 0 == cli("config", "unset", "run.modle").code
    assert 0 == cli("config", "set", "run.model", "a/b").code


def test_a_malformed_file_is_not_changed(cli: Cli) -> None:
    """A file that is not TOML, or that others can write, is refused with its name."""
    cli.config("[run")
    done = cli("config", "set", "run.model", "a/b")
    assert (3, True) == (done.code, f"{user_file(cli)} is not TOML" in done.err)
    cli.config("")
    user_file(cli).chmod(0o666)
    assert f"chmod go-w {user_file(cli)}" in cli("config", "set", "run.model", "a/b").err
    assert "" == user_file(cli).read_text()


def test_a_value_without_effect_here_is_reported(cli: Cli) -> None:
    """A variable, or a project file, that takes precedence is named."""
    cli.file("tinyagent.toml", "[run]\nmax_turns = 5\n")
    assert (
        "TINYAGENT_MODEL takes precedence"
        in cli("config", "set", "run.model", "a/b", TINYAGENT_MODEL="c").err
    )
    assert "tinyagent.toml takes precedence" in cli("config", "set", "run.max_turns", "9").err
    assert "precedence" not in cli("config", "set", "run.max_turns", "3").err


def test_parallel_changes(cli: Cli) -> None:
    """No change is lost."""
    done = cli.shell("for n in 1 2 3 4 5; do $T config set run.options.k$n $n & done; wait")
    assert 0 == done.code
    options = {f"k{n}": n for n in range(1, 6)}
    assert {"run": {"options": options}} == tomllib.loads(user_file(cli).read_text())


@pytest.mark.usefixtures("new_processes")
def test_a_full_disk(cli: Cli) -> None:
    """A file that cannot be written stays as it was."""
    cli.config("[run]\nmax_turns = 3\n")
    done = cli.shell("ulimit -f 0; export PYTHONDONTWRITEBYTECODE=1; $T config set run.options.k6 6")
    assert (3, True) == (done.code, f"{user_file(cli)} cannot be written" in done.err)
    assert "[run]\nmax_turns = 3\n" == user_file(cli).read_text()


def test_an_alias_is_a_model(cli: Cli) -> None:
    """-m, TINYAGENT_MODEL and run.model accept an alias."""
    assert 0 == cli("config", "set", "aliases.fast", "demo/demo").code
    assert 0 == cli("run", "-q", "-m", "fast", "Hi").code
    assert 0 == cli("run", "-q", "Hi", TINYAGENT_MODEL="fast").code


def test_completion(cli: Cli) -> None:
    """Keys are completed, with the names of providers."""
    expected = ["run.max_tokens", "run.max_turns", "run.max_total_tokens"]
    assert expected == offered(cli, "tinyagent config set run.max_t")
    cli.config('[providers.oak]\nbase_url = "http://127.0.0.1:1"\n')
    assert ["providers.oak.base_url"] == offered(cli, "tinyagent config show providers.oak.b")


# ---- the reference ------------------------------------------------------------------------------------


def test_every_setting_is_described() -> None:
    """The docstring of each table has an entry for each of its fields."""
    assert [] == [setting.key for setting in all_settings() if not setting.description]


def test_the_document_lists_all_settings() -> None:
    """docs/configuration.md has what scripts/list-settings writes."""
    script = runpy.run_path(str(ROOT / "scripts" / "list-settings"))
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert script["with_reference"](text) == text, "run .venv/bin/python scripts/list-settings --write"


def test_the_document_says_what_a_project_may_set() -> None:
    """Its section about project files names each setting that such a file may have."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    section = text.partition("## What a project file may do\n")[2].partition("\n## ")[0]
    names = {setting.key.partition(".")[2] for setting in all_settings() if setting.project}
    assert {"model", "compact"} <= names
    # `sandbox.network` is described by what it does.
    assert set() == {name for name in names if f"`{name}" not in section} - {"network"}


NOT_FOR_USERS = {
    *(
        "COMP_LINE",
        "COMP_WORDBREAKS",
        "_TINYAGENT_COMPLETE",
    ),  # of the completion scripts
    *(
        "RAY_USAGE_STATS_ENABLED",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    ),  # of Ray, set by us
    "TINYAGENT_CONTRACT_SECRET",  # of the tests for executors
}


def test_the_document_lists_all_variables() -> None:
    """The list has each variable that our code reads by name, and no other."""
    listed = set(runpy.run_path(str(ROOT / "scripts" / "list-settings"))["VARIABLES"])
    folders = [ROOT / "tinyagent", ROOT / "tinyagent_cli", *ROOT.glob("plugins/*/src")]
    sources = [path.read_text("utf-8") for folder in folders for path in folder.rglob("*.py")]
    trees = [ast.parse(source) for source in sources]
    constants = {name: text for tree in trees for name, text in _text_constants(tree)}
    read = {name for tree in trees for name in _variables_read(tree, constants)}
    assert len(read) > 30
    assert set() == read - listed - NOT_FOR_USERS
    assert set() == {name for name in listed if not any(name.rstrip("*") in source for source in sources)}


def _text_constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield each constant of a module that is a text."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                yield name, text


def _variables_read(tree: ast.Module, constants: dict[str, str]) -> Iterator[str]:
    """Yield the environment variables that a module reads, as a text or by the name of a constant."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.Call(func=ast.Name(id="variable" | "exact_variable"), args=[name, *_])
                | ast.Call(func=ast.Attribute(value=ast.Attribute(attr="environ")), args=[name, *_])
                | ast.Subscript(value=ast.Attribute(attr="environ"), slice=name)
                | ast.Compare(left=name, comparators=[ast.Attribute(attr="environ")])
            ):
                text = (
                    name.value if isinstance(name, ast.Constant) else constants.get(getattr(name, "id", ""))
                )
                if isinstance(text, str):
                    yield text
