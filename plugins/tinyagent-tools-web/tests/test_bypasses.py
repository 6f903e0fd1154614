"""Every known way into a private network, tried with real connections."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

import pytest

from tinyagent import ToolError
from tinyagent.testing import FakeReply, FakeServer
from tinyagent_tools_web import make_fetch

from .conftest import PUBLIC, Internet, page, text_of


def redirect(to: str, status: int = 302) -> FakeReply:
    """Return a redirect."""
    return FakeReply([], status=status, headers={"Location": to, "Content-Type": None}, framing="length")


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"),
        *("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.1.", "0"),
        *("[::ffff:7f00:1]", "[2002:7f00:1::]", "[::7f00:1]", "[fe80::1%25lo]", "localhost."),
    ],
)
async def test_loopback_is_refused_in_every_spelling(host: str) -> None:
    """With the system's resolver, a server on loopback gets no connection."""
    async with FakeServer(page("secret")) as server:
        execute = make_fetch().execute
        assert execute is not None
        with pytest.raises(ToolError):
            await execute("c1", {"url": f"http://{host}:{urlsplit(server.url).port}/"}, None, lambda _: None)
        assert [] == server.requests


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.0.1", "169.254.169.254", "100.100.100.200", "fd00:ec2::254", "::1"],
)
async def test_a_name_with_a_private_address_is_refused(internet: Internet, address: str) -> None:
    """The resolved address decides, and no connection is made."""
    internet.names["innocent.example.org"] = [address]
    with pytest.raises(ToolError, match="public internet only"):
        await internet.fetch("http://innocent.example.org/")
    assert [] == internet.wires.asked


@pytest.mark.parametrize("answers", [[PUBLIC, "127.0.0.1"], ["10.0.0.1", PUBLIC], [PUBLIC] * 9 + ["::1"]])
async def test_one_private_address_refuses_the_name(internet: Internet, answers: list[str]) -> None:
    """A name with a public and a private address is refused, in either order."""
    internet.names["mixed.example.org"] = answers
    with pytest.raises(ToolError, match="public internet only"):
        await internet.fetch("http://mixed.example.org/", page("x"))
    assert [] == internet.wires.asked


async def test_dns_rebinding_has_no_effect(internet: Internet) -> None:
    """A name is resolved once, and the connection goes to the checked address."""
    answers = iter([[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]])

    async def rebinding(host: str, port: int) -> list[str]:
        internet.looked_up.append(host)
        return next(answers)

    internet.resolve = rebinding  # type: ignore[method-assign]
    assert "hello" in text_of(await internet.fetch("http://rebind.example.org/", page("<p>hello")))
    assert (["rebind.example.org"], [(PUBLIC, 80)]) == (internet.looked_up, internet.wires.asked)
    with pytest.raises(ToolError, match="loopback"):  # the next connection is checked again
        await internet.fetch("http://rebind.example.org/", page("<p>secret"))
    assert [(PUBLIC, 80)] == internet.wires.asked


async def test_a_rebinding_redirect_is_checked_again(internet: Internet) -> None:
    """A redirect to the same name is resolved and checked again."""
    answers = iter([[PUBLIC], ["169.254.169.254"]])

    async def rebinding(host: str, port: int) -> list[str]:
        return next(answers)

    internet.resolve = rebinding  # type: ignore[method-assign]
    with pytest.raises(ToolError, match="link-local"):
        await internet.fetch("http://rebind.example.org/", redirect("/again"), page("secret"))
    assert 1 == len(internet.server.requests)


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "//10.0.0.1/",
        "http://[::ffff:10.0.0.1]/",
        "http://2130706433/",
        "file:///etc/passwd",
        "gopher://example.org/",
        "ftp://example.org/",
        "data:text/plain,x",
        "javascript:1",
        "http://user:pass@example.org/",
        "http://example.org\\@127.0.0.1/",
    ],
)
@pytest.mark.parametrize("status", [301, 307])
async def test_redirects_are_checked(internet: Internet, target: str, status: int) -> None:
    """A redirect to a private address is refused."""
    with pytest.raises(ToolError):
        await internet.fetch("http://example.org/", redirect(target, status), page("secret"))
    assert 1 == len(internet.server.requests)
    assert [(PUBLIC, 80)] == internet.wires.asked


@pytest.mark.parametrize("target", ["http://[::1", "//[x]/", "http://example.org:port/"])
async def test_an_invalid_redirect_is_an_error(internet: Internet, target: str) -> None:
    """The error shows the invalid URL."""
    with pytest.raises(ToolError, match="is not a URL"):
        await internet.fetch("http://example.org/", redirect(target))


async def test_redirects_end(internet: Internet) -> None:
    """An endless redirect is refused after five redirects."""
    with pytest.raises(ToolError, match="more than 5 times"):
        await internet.fetch("http://example.org/", *[redirect("/again")] * 6)
    assert 6 == len(internet.server.requests)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/passwd", "Only http"),
        ("ftp://example.org/", "Only http"),
        ("unix:/run/docker.sock", "Only http"),
        ("example.org", "Only http"),
        ("http:///path", "host"),
        ("http://user@example.org/", "Credentials"),
        ("http://user:pass@example.org/", "Credentials"),
        ("http://@example.org/", "Credentials"),
        ("http://example.org\\@127.0.0.1/", "backslash"),
        ("http://example.org/\r\nHost: x", "control"),
        ("http://exam\tple.org/", "control"),
        ("http://example.org:99999/", "not a URL"),
        ("http://[::1/", "not a URL"),
        ("http://exa_$mple.org/", "host"),
        ("http://" + "a" * 5000, "longer"),
    ],
)
async def test_invalid_urls_are_refused(internet: Internet, url: str, words: str) -> None:
    """Other schemes, credentials and ambiguous characters are refused before a name is resolved."""
    with pytest.raises(ToolError, match=words):
        await internet.fetch(url)
    assert [] == internet.looked_up


@pytest.mark.parametrize("error", [OSError(-2, "Name or service not known"), UnicodeError("label too long")])
async def test_a_resolver_error_is_reported(internet: Internet, error: Exception) -> None:
    """If the name cannot be resolved, nothing is fetched, and the error has the reason."""

    async def failing(host: str, port: int) -> list[str]:
        raise error

    internet.resolve = failing  # type: ignore[method-assign]
    with pytest.raises(ToolError, match="cannot be resolved"):
        await internet.fetch("http://example.org/")


@pytest.mark.parametrize("answer", [[], ["not-an-address"], [PUBLIC, ""], ["127.0.0.1\0"]])
async def test_an_invalid_answer_is_refused(internet: Internet, answer: list[str]) -> None:
    """An empty answer or an invalid address causes no connection."""
    internet.names["example.org"] = answer
    with pytest.raises(ToolError):
        await internet.fetch("http://example.org/", page("x"))
    assert [] == internet.wires.asked


async def test_proxies_of_the_environment_are_not_used(
    internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxy variables have no effect, because a proxy resolves names without the check."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, address)
        assert "direct" in text_of(await internet.fetch("http://example.org/", page("<p>direct")))
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_no_personal_data_is_sent(internet: Internet) -> None:
    """Cookies of a redirect, referrers and credentials are not sent."""
    first = FakeReply(
        [],
        status=302,
        headers={"Location": "http://www.example.org/2", "Set-Cookie": "a=b"},
        framing="length",
    )
    await internet.fetch("http://example.org/1#part", first, page("<p>x"))
    sent = [{name.lower() for name in request.headers} for request in internet.server.requests]
    assert [{"host", "user-agent", "accept", "accept-encoding", "connection"}] * 2 == sent
    assert ["/1", "/2"] == [request.path for request in internet.server.requests]


async def test_it_needs_approval(internet: Internet) -> None:
    """A URL can send data away, so the tool is not read-only."""
    assert not internet.tool().read_only


async def test_a_slow_resolver_is_abandoned(internet: Internet) -> None:
    """The call ends at the time limit even if the resolver blocks."""
    hanging = asyncio.Event()

    async def hang(host: str, port: int) -> list[str]:
        await hanging.wait()
        return []

    internet.resolve = hang  # type: ignore[method-assign]
    with pytest.raises(ToolError, match=r"was not read in 0\.05 s"):
        await internet.fetch("http://example.org/", tool=internet.tool(seconds=0.05))
