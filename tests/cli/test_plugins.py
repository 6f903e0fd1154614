"""Plugins are loaded by name, isolated from each other, and never chosen by their order."""

from __future__ import annotations

import json

import pytest

from .conftest import Cli

GOOD = """
from tinyagent import hookimpl, tool

@tool(read_only=True)
def {name}(text: str = "") -> str:
    "Do it."
    return "{answer}"

@hookimpl
def tinyagent_register_tools(register):
    register({name})
"""
HEAD = "from tinyagent import AgentTool, Provider, hookimpl, tool\n"
BROKEN = {
    "import-error": ("import not_there_at_all", "it needs the module 'not_there_at_all'"),
    "syntax-error": ("def broken(:", "SyntaxError"),
    "exit": ("raise SystemExit(0)", "SystemExit: 0"),
    "base-exception": ("class Odd(BaseException): pass\nraise Odd('odd')", "Odd: odd"),
    "unknown-hook": (HEAD + "@hookimpl\ndef tinyagent_register_tool(register): pass", "unknown hook"),
    "signature": (HEAD + "@hookimpl\ndef tinyagent_register_tools(register, box): pass", "box"),
    **{
        mark: (
            HEAD + f"@hookimpl({mark}=True)\ndef tinyagent_register_tools(register): yield",
            f"tinyagent_register_tools in plugin_{mark} is marked with {mark}=True",
        )
        for mark in ("tryfirst", "trylast", "wrapper", "hookwrapper")
    },
    "no-hook": (HEAD, "offers no tools"),
    "raises": (HEAD + "@hookimpl\ndef tinyagent_register_tools(register): 1 / 0", "ZeroDivisionError"),
    "not-a-tool": (
        HEAD + "def f(): pass\n@hookimpl\ndef tinyagent_register_tools(register): register(f)",
        "is @tool missing on the function?",
    ),
    "bad-name": (
        HEAD + "@hookimpl\ndef tinyagent_register_tools(register): register(AgentTool('a b', ''))", "'a b'",
    ),
    "twice": (
        HEAD + "@hookimpl\ndef tinyagent_register_tools(register):\n"
        "    register(AgentTool('a', ''))\n    register(AgentTool('a', ''))",
        "two tools named 'a'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_affects_only_its_own_commands(cli: Cli, case: str) -> None:
    """Exit code 3 and one message with plugin, distribution, version and reason."""
    source, words = BROKEN[case]
    cli.install(case, source, version="3.1")
    done = cli("run", "--jsonl", "-m", "demo", "-t", case, "Hi")
    assert (3, "plugin") == (done.code, done.result["error"]["kind"])
    assert words in done.err
    assert 1 == done.err.count(f"{case!r} ({case} 3.1)")
    assert 0 == cli("run", "-m", "demo", "Hi").code
    assert 0 == cli("--help").code


def test_the_list_needs_no_import_and_check_loads(cli: Cli) -> None:
    """`plugins list` reads metadata; --check loads each plugin and reports errors."""
    cli.install("good", GOOD.format(name="good", answer="ok"))
    cli.install("bad", "open('imported', 'w')\nraise ValueError('no')", version="2.0")
    cli.install("guard", "import nothing_of_the_kind", "hooks")
    listed = json.loads(cli("plugins", "list", "--json").out)
    assert {"not loaded"} == {
        row["status"] for row in listed if row["distribution"] in ("good", "bad", "guard")
    }
    assert not (cli.work / "imported").exists()
    ours = {"TINYAGENT_PLUGINS": "good,bad,guard"}  # each is checked in a process of its own
    done = cli("plugins", "list", "--json", "--check", **ours)
    checked = {row["name"]: row for row in json.loads(done.out)}
    assert ("ok", None) == (checked["good"]["status"], checked["good"]["error"])
    bad = checked["bad"]
    assert ("broken", "tinyagent.tools", "bad", "2.0") == tuple(
        bad[key] for key in ("status", "group", "distribution", "version")
    )
    assert "ValueError: no" in bad["error"]
    assert "broken" == checked["guard"]["status"]
    text = cli("plugins", "list", "--check", **ours)
    assert 0 == text.code
    assert "broken: The plugin 'bad' (bad 2.0) cannot be loaded: ValueError: no." in text.out


def test_no_plugins(cli: Cli) -> None:
    """Without plugins, --json prints [], and the text is a note on standard error."""
    assert (0, "[]\n", "") == cli("plugins", "list", "--json", TINYAGENT_PLUGINS="")
    assert (0, "", "No plugins are installed.\n") == cli("plugins", "list", TINYAGENT_PLUGINS="")


KINDS = {
    "module": ("plugin_kind", ""),
    "instance": ("plugin_kind:made", "made = Kind()"),
    "class": ("plugin_kind:Kind", ""),
    "nested": ("plugin_kind:box.inner", "class box:\n    inner = Kind()"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_module_instance_or_class(cli: Cli, kind: str) -> None:
    """A plugin can be a module, an instance or a class, which is instantiated."""
    value, more = KINDS[kind]
    register = "@hookimpl\n{i}def tinyagent_register_tools({s}register):\n{i}    register(thing)\n"
    source = HEAD + '@tool(read_only=True)\ndef thing() -> str:\n    "Do."\n    return "x"\n'
    if kind == "module":
        source += register.format(i="", s="")
    else:
        source += "class Kind:\n    " + register.format(i="    ", s="self, ") + more
    cli.install("kind", source)
    info = cli.work.parent / "site-kind-tools" / "kind-1.0.dist-info" / "entry_points.txt"
    info.write_text(f"[tinyagent.tools]\nkind = {value}\n")
    assert (0, "x\n", "") == cli("tools", "call", "kind")


# ---- names ----------------------------------------------------------------------------------------


MORE = """
@tool(read_only=True)
def only_{plugin}() -> str:
    "Only here."
    return ""

@hookimpl(specname="tinyagent_register_tools")
def more(register):
    register(only_{plugin})
"""


def test_two_tools_of_one_name_are_ambiguous(cli: Cli) -> None:
    """Two tools with one name are an error that names both plugins, in any order."""
    for plugin in ("one", "two"):
        cli.install(plugin, GOOD.format(name="search", answer=plugin) + MORE.format(plugin=plugin))
    for order in (["-t", "one", "-t", "two"], ["-t", "two", "-t", "one"]):
        done = cli("run", "-m", "demo", *order, "Hi")
        assert 3 == done.code
        assert "'search'" in done.err
        assert "'one' (one 1.0)" in done.err
        assert "'two' (two 1.0)" in done.err
    assert 0 == cli("run", "-m", "demo", "-t", "one", "-t", "two.only_two", "Hi").code
    assert 0 == cli("run", "-m", "demo", "-t", "one", "-t", "one.search", "-t", "one", "Hi").code
    assert (0, "two\n", "") == cli("tools", "call", "two.search")
    assert "has no tool 'x'; it has: only_two, search" in cli("tools", "call", "two.x").err


def test_one_plugin_name_of_two_distributions_is_ambiguous(cli: Cli) -> None:
    """The error names both distributions, and TINYAGENT_PLUGINS can choose one."""
    for distribution in ("dist-a", "dist-b"):
        cli.install(distribution, GOOD.format(name="same", answer=distribution), entry="same")
    done = cli("tools", "call", "same")
    assert 3 == done.code
    assert "'same' is claimed by dist-a 1.0 and by dist-b 1.0" in done.err
    assert (0, "dist-b\n", "") == cli("tools", "call", "same", TINYAGENT_PLUGINS="dist-b")


def test_the_user_can_prefer_a_distribution(cli: Cli) -> None:
    """`[plugins] prefer` chooses among distributions for the name of a plugin or a tool."""
    for distribution in ("dist-a", "dist-b"):
        cli.install(distribution, GOOD.format(name="same", answer=distribution), entry="same")
        cli.install(
            f"more-{distribution}",
            GOOD.format(name="search", answer=distribution),
            entry=f"s-{distribution[-1]}",
        )
    cli.config('[plugins]\nprefer = {same = "Dist_B", search = "more-dist-a"}\n')
    assert (0, "dist-b\n", "") == cli("tools", "call", "same")
    for order in (["-t", "s-a", "-t", "s-b"], ["-t", "s-b", "-t", "s-a"]):
        done = cli("run", "-m", "demo", "--jsonl", *order, "search text=x")
        [end] = [line for line in done.lines if line["type"] == "tool_execution_end"]
        assert "dist-a" == end["result"]["content"][0]["text"]
    cli.config('[plugins]\nprefer = {same = "dist-c"}\n')
    done = cli("tools", "call", "same")
    assert 3 == done.code
    assert 'prefer = {same = "DISTRIBUTION"}' in done.err


def test_a_tool_named_with_its_plugin_is_chosen(cli: Cli) -> None:
    """`-t two.search` chooses that tool, even if all tools of both plugins are requested."""
    for plugin in ("one", "two"):
        cli.install(plugin, GOOD.format(name="search", answer=plugin))
    done = cli("run", "-m", "demo", "--jsonl", "-t", "one", "-t", "two", "-t", "two.search", "search text=x")
    [end] = [line for line in done.lines if line["type"] == "tool_execution_end"]
    assert "two" == end["result"]["content"][0]["text"]


def test_a_command_of_two_distributions(cli: Cli) -> None:
    """A command of two distributions is ambiguous until the user chooses one."""
    source = (
        "import click\nfrom tinyagent import hookimpl\n\n@hookimpl\ndef tinyagent_register_commands(group):\n"
        "    @group.command()\n    def deploy():\n        click.echo(__name__)\n"
    )
    for distribution in ("dep-a", "dep-b"):
        cli.install(distribution, source, "commands", entry="deploy")
    assert 3 == cli("deploy").code
    cli.config('[plugins]\nprefer = {deploy = "dep-a"}\n')
    assert (0, "plugin_dep_a\n", "") == cli("deploy")


PROVIDER = (
    HEAD
    + """
@hookimpl
def tinyagent_register_providers(register):
    register(Provider({name!r}, None, {make}))
"""
)


def test_a_provider_of_a_built_in_name_is_ambiguous(cli: Cli) -> None:
    """A plugin cannot silently replace a built-in provider; other providers work."""
    cli.install("openai", PROVIDER.format(name="openai", make=None), "providers")
    done = cli("run", "-m", "openai/x", "Hi", OPENAI_API_KEY="sk")
    assert 3 == done.code
    assert "claimed by built in and by openai 1.0" in done.err
    assert 0 == cli("run", "-m", "demo", "Hi").code
    for choice, code in (("tinyagent", 1), ("built in", 1), ("openai", 3)):
        cli.config(
            f'[plugins]\nprefer = {{openai = "{choice}"}}\n[providers.unused]\nbase_url = "http://127.0.0.1:1"\n'
        )
        done = cli("run", "-m", "openai/", "Hi", OPENAI_API_KEY="sk")
        assert ("claimed by" in done.err, "names no model" in done.err) == (False, code == 1), done.err


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("acme", "lambda i, o: 1 / 0", "'acme' cannot make a model with the id 'x': ZeroDivisionError"),
        ("other", "None", "registers no provider named 'acme', only: other"),
    ],
)
def test_a_provider_that_breaks_its_contract(cli: Cli, name: str, make: str, words: str) -> None:
    """A provider that does not register its name or make a model gives exit code 3."""
    cli.install("acme", PROVIDER.format(name=name, make=make), "providers")
    done = cli("run", "-m", "acme/x", "Hi")
    assert 3 == done.code
    assert words in done.err


def test_a_command_of_a_plugin(cli: Cli) -> None:
    """A plugin's command gets its arguments and sets the exit code; built-in names are reserved."""
    source = (
        "import click\nfrom tinyagent import hookimpl\n\n@hookimpl\ndef tinyagent_register_commands(group):\n"
        "    @group.command()\n    @click.argument('where')\n    @click.pass_context\n"
        "    def deploy(ctx, where):\n        click.echo(f'to {where}')\n        ctx.exit(7)\n"
    )
    cli.install("deploy", source, "commands")
    cli.install("run", source, "commands")
    assert (7, "to there\n", "") == cli("deploy", "there")
    assert 0 == cli("run", "-m", "demo", "Hi").code


# ---- files ----------------------------------------------------------------------------------------


PLAIN = """
from tinyagent import tool

@tool(read_only=True)
def a() -> str:
    "Give a."
    return "a"

@tool
def b() -> str:
    "Give b."
    return "b"
"""


def test_a_file_is_a_plugin(cli: Cli) -> None:
    """A tool file has hooks, or tools at its top level; FILE:TOOL chooses one."""
    cli.file("plain.py", PLAIN)
    cli.file("hooked.py", GOOD.format(name="c", answer="c"))
    assert (0, "b\n", "") == cli("tools", "call", "./plain.py:b")
    assert (0, "c\n", "") == cli("tools", "call", "hooked.py")
    several = cli("tools", "call", "plain.py")
    assert 2 == several.code
    assert "'plain.py' has several tools: a, b." in several.err


def test_a_broken_file_is_named(cli: Cli) -> None:
    """The message names the tool file."""
    cli.file("bad.py", "1 / 0")
    done = cli("run", "-m", "demo", "-t", "./bad.py", "Hi")
    assert 3 == done.code
    assert "The tool file ./bad.py cannot be loaded: ZeroDivisionError: division by zero." in done.err
