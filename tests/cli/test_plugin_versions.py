"""Plugins for another version of tinyagent: each command says in a sentence what to do."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tinyagent_cli.plugins import compatibility
from tinyagent_cli.plugins.compatibility import version_misfit
from tinyagent_cli.plugins.discovery import GROUPS, Plugin

from .conftest import Cli

HEAD = "import tinyagent\nfrom tinyagent import hookimpl, tool\n"
WORKS = HEAD + '@tool(read_only=True)\ndef {name}(text: str = "") -> str:\n    "Do it."\n    return "done"\n'
GUARD = HEAD + "@hookimpl\ndef tinyagent_before_tool_call(call{more}):\n    return None\n"
NEEDS_NEWER = "The plugin 'zz' (zz 1.0) needs tinyagent-core>=99, and this is 0."
UPGRADE_US = "Upgrade tinyagent: "
UPGRADE_IT = "Upgrade the plugin: tinyagent plugins install --upgrade zz"


@pytest.mark.parametrize(
    ("needs", "ours", "misfit", "hint"),
    [
        ("", "1.2.0", False, ""),
        (">=1.2", "1.2.0", False, ""),
        (">=1.2", "1.10", False, ""),
        (">=1.2.1", "1.2.0", True, UPGRADE_US),
        (">=2", "1.9", True, UPGRADE_US),
        ("~=2.1", "1.9", True, UPGRADE_US),
        ("==2.*", "1.9", True, UPGRADE_US),
        (">1.9,<3", "1.9.0", True, UPGRADE_IT),  # no newer version is named
        (">=0.1,<1", "1.9.0", True, UPGRADE_IT),
        ("==1.8", "1.9.0", True, UPGRADE_IT),
        (">=2", "2.0.dev1", True, UPGRADE_US),
        (">=1.2", "2.0.dev1", False, ""),
        ("nonsense", "1.0", False, ""),
    ],
)
def test_which_versions_fit(
    monkeypatch: pytest.MonkeyPatch, needs: str, ours: str, misfit: bool, hint: str
) -> None:
    """The rules are those of installers, and the hint upgrades the one that is too old."""
    monkeypatch.setattr(compatibility, "version", lambda: ours)
    found = version_misfit(Plugin("tools", "zz", "zz", "zz", "1.0", needs))
    assert misfit == (found is not None)
    if found is not None:
        assert f"needs tinyagent-core{needs}, and this is {ours}" == found.why
        assert found.hint.startswith(hint)


def test_a_plugin_that_needs_a_newer_tinyagent_but_works(cli: Cli, pip: Callable[[str, int], None]) -> None:
    """It is used with a warning. The list and `doctor` report it, too, and all say how to upgrade."""
    cli.install("zz", WORKS.format(name="zz"), needs="tinyagent-core>=99")
    pip("zz 1.0 has requirement tinyagent-core>=99, but you have tinyagent-core 0.1.0.", 1)
    done = cli("run", "-m", "demo", "-t", "zz", "Hi")
    assert (0, 1) == (done.code, done.err.count(f"Warning: {NEEDS_NEWER}")), done.err
    assert UPGRADE_US in done.err
    only = {"TINYAGENT_PLUGINS": "zz"}
    for command in (["plugins", "list"], ["plugins", "list", "--check"], ["plugins", "show", "zz"]):
        listed = cli(*command, **only)
        assert (0, True, True) == (listed.code, NEEDS_NEWER in listed.err, UPGRADE_US in listed.err), command
    [row] = json.loads(cli("plugins", "list", "--json", **only).out)
    assert row["error"].startswith("It needs tinyagent-core>=99, and this is 0.")
    assert row["hint"].startswith(UPGRADE_US)
    report = json.loads(cli("doctor", "--json", TINYAGENT_MODEL="demo", **only).out)
    [finding] = [row for row in report["findings"] if not row["ok"]]
    assert ("plugin", 1) == (finding["check"], report["exit_code"])
    assert "it loads, but may fail" in finding["message"]
    assert finding["hint"].startswith(UPGRADE_US)
    assert 0 == cli("run", "-m", "demo", "Hi", **only).code


MISSING = {
    "a name": "from tinyagent import Soon\n",
    "a module": "import tinyagent.soon\n",
    "an attribute": "import tinyagent\ntinyagent.Soon\n",
    "a hook": HEAD + "@hookimpl\ndef tinyagent_register_soon(register): pass\n",
    "an argument": HEAD + "@hookimpl\ndef tinyagent_register_tools(register, soon): pass\n",
}
REASONS = {
    "a name": "it does not fit tinyagent 0.",
    "a module": "it does not fit tinyagent 0.",
    "an attribute": "it does not fit tinyagent 0.",
    "a hook": "unknown hook 'tinyagent_register_soon'.",
    "an argument": "tinyagent_register_tools has no argument 'soon'; it has: register",
}


@pytest.mark.parametrize("needs", ["tinyagent-core>=99", "tinyagent-core>=0.1"])
@pytest.mark.parametrize("case", MISSING)
@pytest.mark.usefixtures("pip")
def test_a_plugin_for_another_version(cli: Cli, case: str, needs: str) -> None:
    """The error has the cause. The hint upgrades what the metadata shows to be old, else both in turn."""
    cli.install("zz", MISSING[case], needs=needs)
    done = cli("run", "-m", "demo", "-t", "zz", "Hi")
    only = {"TINYAGENT_PLUGINS": "zz"}
    listed = cli("plugins", "list", "--check", **only)
    shown = cli("plugins", "show", "zz", **only)
    examined = cli("doctor", **only, TINYAGENT_MODEL="demo", COLUMNS="1000")
    assert (3, 0, 3, 3) == (done.code, listed.code, shown.code, examined.code)
    for text in (done.err, listed.out, shown.out, examined.out):
        assert REASONS[case] in text
        assert "pgrade tinyagent: " in text
        assert (UPGRADE_IT in text) == (needs == "tinyagent-core>=0.1")
        assert ("It needs tinyagent-core>=99, and this is 0." in text) == (needs == "tinyagent-core>=99")
    assert 0 == cli("run", "-m", "demo", "Hi").code
    assert 0 == cli("--help").code


SOURCES = {
    "a hook": "has the hook 'tinyagent_register_soon', which tinyagent 0.",
    "an argument": "expects 'soon' in its hook tinyagent_register_tools, which tinyagent 0.",
}


@pytest.mark.parametrize("case", SOURCES)
def test_hooks_of_another_version_are_seen_in_the_source(cli: Cli, case: str) -> None:
    """The list shows them without loading the plugin, in text and in JSON."""
    cli.install("zz", "open('imported', 'w')\n" + MISSING[case])
    only = {"TINYAGENT_PLUGINS": "zz"}
    done = cli("plugins", "list", **only)
    assert f"Warning: The plugin 'zz' (zz 1.0) {SOURCES[case]}" in done.err
    assert UPGRADE_IT in done.err
    [row] = json.loads(cli("plugins", "list", "--json", **only).out)
    assert ("not loaded", True) == (row["status"], SOURCES[case] in row["error"])
    assert not (cli.work / "imported").exists()


def test_an_optional_hook_is_no_problem(cli: Cli) -> None:
    """A plugin can support several versions: `@hookimpl(optionalhook=True)` may be unknown."""
    source = HEAD + "@hookimpl(optionalhook=True)\ndef tinyagent_register_soon(register): pass\n"
    cli.install("zz", source + WORKS.format(name="zz").removeprefix(HEAD))
    done = cli("plugins", "list", TINYAGENT_PLUGINS="zz")
    assert (0, "") == (done.code, done.err)
    assert (0, "done\n", "") == cli("tools", "call", "zz")


def test_a_guard_for_another_version_stops_runs_until_it_is_disabled(cli: Cli) -> None:
    """The error of the run says how to upgrade the guard, and how to disable it."""
    cli.install("zz", GUARD.format(more=", risk"), "hooks")
    done = cli("run", "-m", "demo", "Hi")
    assert 3 == done.code
    assert "tinyagent_before_tool_call has no argument 'risk'; it has: call" in done.err
    assert UPGRADE_IT in done.err
    assert '[plugins] disable = ["NAME"]' in done.err
    cli.config('[plugins]\ndisable = ["zz"]\n')
    assert 0 == cli("run", "-m", "demo", "Hi").code
    assert "zz 1.0  disabled in config.toml\n" in cli("plugins", "list", TINYAGENT_PLUGINS="zz").out


def test_a_file_for_another_version(cli: Cli) -> None:
    """A tool file is adapted, or tinyagent is upgraded."""
    cli.file("soon.py", MISSING["an argument"])
    done = cli("run", "-m", "demo", "-t", "./soon.py", "Hi")
    assert 3 == done.code
    assert REASONS["an argument"] in done.err
    assert "Adapt the file to this version, or upgrade tinyagent: " in done.err


def test_a_missing_package_is_not_blamed_on_the_version(cli: Cli) -> None:
    """If a plugin needs a newer tinyagent and lacks a package, the hint has both repairs."""
    cli.install("zz", "import not_there_at_all", needs="tinyagent-core>=99")
    done = cli("run", "-m", "demo", "-t", "zz", "Hi")
    assert (
        "it needs the module 'not_there_at_all', which is not installed. It needs tinyagent-core>=99"
        in done.err
    )
    assert "Install it again, with its dependencies: " in done.err
    assert UPGRADE_US in done.err


def test_an_author_is_told_where_the_code_is(cli: Cli) -> None:
    """A plugin that is installed from its folder is not upgraded, but adapted."""
    cli.install("zz", MISSING["a hook"])
    [info] = cli.work.parent.glob("site-zz-tools/*.dist-info")
    (info / "direct_url.json").write_text('{"url": "file:///src/zz", "dir_info": {"editable": true}}')
    done = cli("run", "-m", "demo", "-t", "zz", "Hi")
    assert "Adapt its code in /src/zz: docs/hooks.md has the hooks of this version." in done.err


def test_two_plugins_of_one_name(cli: Cli) -> None:
    """The list names both, and how to choose; then it is silent. Other plugins are not affected."""
    for distribution in ("zz-one", "zz-two"):
        cli.install(distribution, WORKS.format(name="zz"), entry="zz")
    only = {"TINYAGENT_PLUGINS": "zz"}
    warning = "Warning: The name 'zz' is claimed by zz-one 1.0 and by zz-two 1.0. Choose one: "
    listed = cli("plugins", "list", **only)
    assert (0, True) == (listed.code, warning in listed.err)
    cli.config("[run]\nmax_turns = 'many'\n")  # which is the problem of other commands
    assert warning in cli("plugins", "list", **only).err
    cli.config('[plugins]\nprefer = {zz = "zz-two"}\n')
    assert (0, "") == cli("plugins", "list", **only)[::2]


def test_a_plugin_with_the_name_of_a_built_in_provider(cli: Cli) -> None:
    """The list reports this conflict, too."""
    cli.install("zz", "", "providers", entry="openai")
    assert "The name 'openai' is claimed by built in and by zz 1.0." in cli("plugins", "list").err


# ---- what they add ----------------------------------------------------------------------------------------


EVERYTHING = {
    "tools": HEAD
    + """
from tinyagent import AgentTool
open("imported", "w")

@tool(read_only=True)
def look() -> str:
    "Look around.\\n\\nMore."
    return ""

@tool
def smash(what: str) -> str:
    "Smash it."
    return ""

async def run(*arguments):
    return None

other = AgentTool("other", "Do something.", execute=run, read_only=bool(1))
form = AgentTool("form", "Only a description.")

@hookimpl
def tinyagent_register_tools(register):
    for each in (look, smash, other, AgentTool("la" + "te", "Made late.")):
        register(each)
""",
    "providers": HEAD
    + """
@hookimpl
def tinyagent_register_providers(register):
    register(tinyagent.Provider("zz", None, None, api_key_env="ZZ_KEY"))
""",
    "commands": HEAD
    + """
import click

@hookimpl
def tinyagent_register_commands(group):
    group.add_command(click.Command("zz", help="Do zz."))
""",
    "inputs": HEAD
    + """
@hookimpl
def tinyagent_read_input(argument):
    return []
""",
    "executors": HEAD
    + """
@hookimpl
def tinyagent_register_executors(register):
    register("zz", lambda options: None)
""",
    "hooks": HEAD
    + """
class Guard:
    @hookimpl
    def tinyagent_before_tool_call(self, call):
        return None

    @hookimpl(specname="tinyagent_register_sinks")
    def sinks(self, register):
        pass

    def tinyagent_after_tool_call(self):
        "Not marked."
""",
}
LISTED = {
    "tools": "read-only: look; asks: smash; other",
    "providers": "models of -m zz/…",
    "commands": "tinyagent zz",
    "executors": "tinyagent batch --executor zz",
    "inputs": "prompts of -p, and -f zz:…",
    "hooks": "in every run: sees every tool call, and may refuse or change it; "
    "gets all events, and may get the agent",
}
SHOWN = {
    "tools": [
        "Loaded for -t zz", "look read-only Look around.", "smash asks before each call Smash it.",
        "other read-only Do something.", "late asks before each call Made late.",
    ],
    "providers": ["Loaded for -m zz/…", "zz models of -m zz/… needs the key ZZ_KEY"],
    "commands": ["Loaded for tinyagent zz", "zz tinyagent zz Do zz."],
    "executors": ["Loaded for tinyagent batch --executor zz", "zz tinyagent batch --executor zz"],
    "inputs": ["Loaded for -p SOURCE/NAME, -f zz:… and tinyagent templates", "zz prompts of -p, and -f zz:…"],
    "hooks": [
        "Loaded for every run, and every `tools call`",
        "tinyagent_before_tool_call sees every tool call, and may refuse or change it",
        "tinyagent_register_sinks gets all events, and may get the agent",
    ],
}  # fmt: skip


@pytest.mark.parametrize("group", EVERYTHING)
def test_what_a_plugin_adds(cli: Cli, group: str) -> None:
    """`list` reads it from the source without an import, and `show` loads the plugin."""
    cli.install("zz", EVERYTHING[group], group)
    [info] = cli.work.parent.glob("site-zz-*/*.dist-info")
    (info / "METADATA").write_text("Name: zz\nVersion: 1.0\nSummary: All of zz.\n")
    if group == "hooks":
        (info / "entry_points.txt").write_text("[tinyagent.hooks]\nzz = plugin_zz:Guard\n")
    only = {"TINYAGENT_PLUGINS": "zz"}
    assert (0, f"zz  tinyagent.{group}  zz 1.0  {LISTED[group]}\n", "") == cli("plugins", "list", **only)
    assert not (cli.work / "imported").exists()
    done = cli("plugins", "show", "zz", **only)
    head, *lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert (0, f"zz tinyagent.{group} zz 1.0") == (done.code, head)
    assert ["All of zz.", *SHOWN[group]] == lines
    [row] = json.loads(cli("plugins", "show", "zz", "--json", **only).out)
    assert ("ok", len(SHOWN[group]) - 1) == (row["status"], len(row["adds"]))


def test_every_group_is_shown() -> None:
    """A new group needs a text for the list, and for what loads its plugins."""
    assert set(GROUPS) == EVERYTHING.keys() == LISTED.keys() == SHOWN.keys()


def test_tools_that_are_named_at_run_time(cli: Cli) -> None:
    """The list says so, and does not call the plugin empty."""
    cli.install("zz", HEAD + "@hookimpl\ndef tinyagent_register_tools(register): 1 / 0\n")
    done = cli("plugins", "list", TINYAGENT_PLUGINS="zz")
    assert "zz  tinyagent.tools  zz 1.0  tools that it names when it is loaded\n" == done.out


def test_a_plugin_that_is_not_installed(cli: Cli) -> None:
    """`show` names the installed ones."""
    done = cli("plugins", "show", "nothing")
    assert (3, True) == (done.code, "'nothing' is not a plugin of tinyagent. Plugins: " in done.err)
