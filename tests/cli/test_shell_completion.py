"""Shell completion through click's own protocol, without imports of plugins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tinyagent.testing import FakeServer

from .conftest import Cli, FakeReply

BROKEN = "raise RuntimeError('imported')"


def complete(cli: Cli, line: str, shell: str = "bash") -> list[str]:
    """Return what the shell offers at the end of the line."""
    words = line.split(" ")
    given = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    if shell == "fish":
        given["COMP_CWORD"] = words[-1]
    done = cli(_TINYAGENT_COMPLETE=f"{shell}_complete", **given)
    assert (0, "") == (done.code, done.err)
    return [line for line in done.out.splitlines() if line]


def offered(cli: Cli, line: str) -> list[str]:
    """Return the offered values."""
    return [text.partition(",")[2] for text in complete(cli, line)]


def test_commands(cli: Cli) -> None:
    """Built-in commands and those of plugins are completed."""
    cli.install("zz-deploy", BROKEN, "commands")
    assert ["plugins"] == offered(cli, "tinyagent pl")
    assert ["zz-deploy"] == offered(cli, "tinyagent zz")
    assert ["doctor"] == offered(cli, "tinyagent plugins do")


@pytest.mark.parametrize("before", ["run -t", "tools show", "tools call"])
def test_tools(cli: Cli, before: str) -> None:
    """Installed tool plugins are completed; the shell completes paths."""
    cli.install("zz-weather", BROKEN)
    assert ["zz-weather"] == offered(cli, f"tinyagent {before} zz")
    assert ["file,./my"] == complete(cli, f"tinyagent {before} ./my")


def test_schemas(cli: Cli) -> None:
    """A schema may be a file, so the shell completes paths."""
    assert ["file,per"] == complete(cli, "tinyagent run --schema per")
    assert ["file,per"] == complete(cli, "tinyagent run --schema-multi per")


def test_plugins(cli: Cli) -> None:
    """Distributions and the names of their plugins are completed."""
    cli.install("zz-weather", BROKEN, entry="zz-sun")
    assert ["zz-weather", "zz-sun"] == offered(cli, "tinyagent plugins uninstall zz")


def test_providers(cli: Cli) -> None:
    """Built-in, configured and installed providers are completed with their slash."""
    cli.install("ooo", BROKEN, "providers")
    cli.config('[providers.oak]\nbase_url = "http://127.0.0.1:1"\n')
    assert ["oak/", "ollama/", "ooo/", "openai/", "openrouter/"] == offered(cli, "tinyagent run -m o")
    assert ["replay:"] == offered(cli, "tinyagent run -m rep")
    assert ["oak", "ollama", "ooo", "openai", "openrouter"] == offered(cli, "tinyagent models list o")


def test_models(cli: Cli, serve: Callable[..., FakeServer]) -> None:
    """Listed ids, defaults and the configured model are completed without a request."""
    server = serve(FakeReply.json({"data": [{"id": "big"}, {"id": "small"}]}))
    assert [] == offered(cli, "tinyagent run -m local/")
    assert 0 == cli("models", "list", "local").code
    assert ["local/big", "local/small"] == offered(cli, "tinyagent run -m local/")
    assert ["local/small"] == offered(cli, "tinyagent run -m local/s")
    assert 1 == len(server.requests)
    cli.config('[run]\nmodel = "openai/mine"\n')
    assert ["openai/gpt-4.1-mini", "openai/mine"] == offered(cli, "tinyagent run -m openai/")


def test_a_broken_configuration_completes_all_the_same(cli: Cli) -> None:
    """With a broken configuration, the built-in names are completed."""
    cli.config("[run")
    assert ["openai/", "openrouter/"] == offered(cli, "tinyagent run -m open")


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        ("bash", ["plain,zz-weather"]),
        ("zsh", ["plain", "zz-weather", "zz-weather 1.0"]),
        ("fish", ["plain,zz-weather\tzz-weather 1.0"]),
    ],
)
def test_every_shell(cli: Cli, shell: str, expected: list[str]) -> None:
    """Each shell gets the format of its script; zsh and fish also show the source of a tool."""
    cli.install("zz-weather", BROKEN)
    assert expected == complete(cli, "tinyagent run -t zz", shell)
