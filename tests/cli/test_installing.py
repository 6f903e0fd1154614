"""What `plugins install`, `uninstall` and `new` refuse before they change anything, and `plugins search`."""

from __future__ import annotations

import json

import pytest

import tinyagent

from .conftest import Cli
from .test_main import imported_by


@pytest.mark.parametrize(
    "what",
    [
        "tinyagent-dice",
        "tinyagent_dice>=1",
        "./tinyagent-dice-1.0-py3-none-any.whl",
        "./tinyagent-dice",
        "a/b",
    ],
)
def test_the_command_pins_tinyagent(cli: Cli, what: str) -> None:
    """The command is shown, and pins the version of tinyagent."""
    done = cli("plugins", "install", "--dry-run", "-U", what)
    assert (0, "") == (done.code, done.out)
    assert f" install --upgrade tinyagent-core=={tinyagent.__version__} {what}" in done.err.replace("'", "")


@pytest.mark.parametrize(
    "what", ["tinyagent", "TinyAgent==9.0", "tinyagent[all]", "tinyagent @ https://127.0.0.1/x.whl"]
)
def test_the_other_project_is_refused(cli: Cli, what: str) -> None:
    """The distribution `tinyagent` is refused, because it would overwrite this program."""
    done = cli("plugins", "install", "--dry-run", "tinyagent-dice", what)
    assert (2, "") == (done.code, done.out)
    assert f"{what!r} is another project" in done.err


def test_options_of_pip_are_not_taken(cli: Cli) -> None:
    """Options of the installer are refused."""
    for given in (["--index-url=http://127.0.0.1"], ["--", "-rfile"]):
        assert 2 == cli("plugins", "install", "--dry-run", *given).code


@pytest.mark.parametrize("name", ["click", "tinyagent-core", "nothing-of-the-kind"])
def test_what_is_no_plugin_is_not_uninstalled(cli: Cli, name: str) -> None:
    """A distribution that is not a plugin gives exit code 3, with the list of plugins."""
    done = cli("plugins", "uninstall", name)
    assert (3, "") == (done.code, done.out)
    assert "not a plugin of tinyagent. Plugins: " in done.err


def test_a_plugin_is_named_by_its_distribution_or_by_what_it_offers(cli: Cli) -> None:
    """A plugin or a distribution can be named, unless the name is ambiguous; TINYAGENT_PLUGINS has no
    effect.
    """
    cli.install("zz-one", "", entry="zz")
    assert (
        "uninstall --yes zz-one" in cli("plugins", "uninstall", "--dry-run", "zz", TINYAGENT_PLUGINS="").err
    )
    cli.install("zz-two", "", entry="zz")
    done = cli("plugins", "uninstall", "--dry-run", "zz")
    assert 2 == done.code
    assert "'zz' is offered by zz-one and by zz-two" in done.err
    assert "uninstall --yes zz-two" in cli("plugins", "uninstall", "--dry-run", "ZZ_two").err


# ---- new ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Weather", "tool"), ("weather_map", "tool"), ("9lives", "tool"), ("a--b", "tool"), ("-a", "tool"),
        ("../x", "tool"), ("class", "tool"), ("tool", "tool"), ("", "tool"), ("x" * 41, "tool"),
        ("int", "tool"),
        ("openai", "provider"), ("demo", "provider"), ("run", "command"), ("plugins", "command"),
    ],
)  # fmt: skip
def test_a_name_that_cannot_be(cli: Cli, name: str, kind: str) -> None:
    """An invalid name is refused with a reason, and nothing is written."""
    done = cli("plugins", "new", "--kind", kind, "--", name)
    assert (2, "") == (done.code, done.out)
    assert "cannot be the name of the plugin" in done.err
    assert [] == list(cli.work.iterdir())


def test_only_an_empty_folder_is_used(cli: Cli) -> None:
    """Only a new or empty folder is used; --folder chooses another."""
    (cli.work / "tinyagent-weather").mkdir()
    assert 0 == cli("plugins", "new", "weather").code
    before = sorted(path.read_text() for path in cli.work.rglob("*.py"))
    for args in (["weather"], ["other", "--folder", "tinyagent-weather"]):
        done = cli("plugins", "new", *args)
        assert 2 == done.code
        assert "is not an empty folder" in done.err
    assert before == sorted(path.read_text() for path in cli.work.rglob("*.py"))
    assert 0 == cli("plugins", "new", "tinyagent-weather", "--folder", "deep/down").code
    assert (cli.work / "deep" / "down" / "src" / "tinyagent_weather" / "__init__.py").is_file()


# ---- search ---------------------------------------------------------------------------------------


def test_search_lists_our_plugins_and_says_where_others_are(cli: Cli) -> None:
    """All words must fit. The address has the keyword and the words, and the installed version is shown."""
    done = cli("plugins", "search", "FILES", "tinyagent")
    first, *rest = done.out.splitlines()
    assert (0, "") == (done.code, done.err)
    assert ["tinyagent-tools-fs", tinyagent.__version__] == first.split()[:2]
    assert "  https://pypi.org/search/?q=tinyagent-plugin+FILES+tinyagent" in rest
    assert [] == [line for line in rest if line.startswith("tinyagent-")]


def test_search_without_words_lists_all_of_them(cli: Cli) -> None:
    """A plugin that is not installed has no version."""
    rows = json.loads(cli("plugins", "search", "--json", TINYAGENT_PLUGINS="").out)
    assert {None} == {row["installed"] for row in rows}
    assert {"tinyagent-mcp", "tinyagent-audit", "tinyagent-alchemy"} < {row["name"] for row in rows}
    assert len(rows) == len(cli("plugins", "search").out.partition("\n\n")[0].splitlines())


def test_search_for_something_unknown(cli: Cli) -> None:
    """The words become part of the address, whatever they contain."""
    done = cli("plugins", "search", "a&b", "é#\x1b[31m")
    assert (0, "No plugin of the tinyagent project has these words.\n") == (done.code, done.err)
    assert "?q=tinyagent-plugin+a%26b+%C3%A9%23%1B%5B31m\n" in done.out


def test_search_needs_no_network(cli: Cli) -> None:
    """It imports nothing that could send a request."""
    loaded = imported_by(cli, "plugins", "search", "web")
    assert "tinyagent_cli.commands.search_plugins" in loaded
    assert set() == loaded & {"socket", "httpx", "asyncio", "urllib.request", "http.client", "tinyagent"}
