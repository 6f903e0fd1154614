"""Sign-in with OAuth: `tinyagent mcp login`, tokens that are renewed, and `logout`."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mcp.shared.auth import OAuthClientInformationFull
from pydantic import AnyUrl

from tinyagent import ConfigurationError
from tinyagent.testing import FakeReply, FakeServer
from tinyagent_mcp import McpServers, ServerConfig
from tinyagent_mcp._login import LoginError, sign_in_at
from tinyagent_mcp._oauth import revoke
from tinyagent_mcp._paths import config_file
from tinyagent_mcp._sign_in import SignIn, load, save

from .conftest import PATIENCE, Tools, config
from .oauth_server import Accounts, running
from .test_cli import tinyagent
from .test_config import write


@pytest.fixture
def accounts() -> Accounts:
    """Return an authorization server without clients."""
    return Accounts()


@pytest.fixture
def url(accounts: Accounts) -> Iterator[str]:
    """Run the servers, and configure the MCP server as `t`."""
    with running(accounts) as found:
        write(f"[mcp.servers.t]\nurl = {json.dumps(found)}\nremember = false\n")
        yield found


def server(url: str, **fields: Any) -> ServerConfig:
    """Return the configuration of the server."""
    return config(command=None, url=url, **fields)


async def browse(address: str) -> None:
    """Do what a browser does: follow the redirects to this machine."""
    await asyncio.to_thread(_open, address)


def _open(address: str) -> str:
    with urllib.request.urlopen(address, timeout=PATIENCE) as page:
        return str(page.read().decode())


async def signed_in(url: str) -> SignIn:
    """Sign in, and store the tokens."""
    found = await sign_in_at(server(url), browse)
    save("t", found)
    return found


def stored() -> Path:
    """Return the file of the sign-in."""
    return config_file().parent / "mcp-sign-in" / "t.json"


def change(**fields: Any) -> None:
    """Change the stored sign-in."""
    found = msgspec.json.decode(stored().read_bytes(), type=SignIn)
    save("t", msgspec.structs.replace(found, **fields))


def test_a_user_signs_in_and_out(url: str, accounts: Accounts) -> None:
    """The command prints the address and waits; then tools work, until `logout`."""
    refused = tinyagent("mcp", "test", "t")
    assert 3 == refused.returncode
    assert "HTTP 401, so it needs credentials. Sign in: tinyagent mcp login t" in refused.stderr
    command = [sys.executable, "-P", "-m", "tinyagent_cli", "mcp", "login", "t", "--no-browser"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = next(line.strip() for line in process.stderr if line.strip().startswith("http"))
        assert "The answer has arrived." in _open(address)
        rest = process.stderr.read()
        assert 0 == process.wait(PATIENCE), rest
    assert "You are signed in at t." in rest
    assert 0o600 == stored().stat().st_mode & 0o777
    secret = json.loads(stored().read_text())["access_token"]
    assert secret not in rest + config_file().read_text() + repr(load(server(url)))
    done = tinyagent("tools", "call", "mcp.t__hello")
    assert (0, "Hello, you are signed in.\n") == (done.returncode, done.stdout), done.stderr
    out = tinyagent("mcp", "logout", "t")
    assert (0, False) == (out.returncode, stored().exists()), out.stderr
    # The server of the SDK revokes tokens only for clients with a secret.
    assert "the tokens are removed here, but not revoked: invalid_request" in out.stderr
    assert "You are not signed in at 't'." in tinyagent("mcp", "logout", "t").stderr


def test_removing_a_server_signs_out(url: str) -> None:
    """No tokens stay behind."""
    asyncio.run(signed_in(url))
    assert 0 == tinyagent("mcp", "remove", "t").returncode
    assert not stored().exists()


async def test_a_token_that_has_ended_is_renewed(url: str, accounts: Accounts) -> None:
    """Before a request if the time is known, and after a refusal otherwise. The new token is stored."""
    first = await signed_in(url)
    for expires_at in (1.0, None):
        accounts.access.clear()
        change(expires_at=expires_at)
        with McpServers([server(url)]) as servers:
            assert "Hello, you are signed in." == await Tools(servers).text("hello")
    assert 2 == accounts.renewals
    now = load(server(url))
    assert now is not None
    assert {now.access_token, now.refresh_token}.isdisjoint({first.access_token, first.refresh_token})


async def test_a_token_that_ends_during_a_run_is_renewed(url: str, accounts: Accounts) -> None:
    """Several calls at once renew it once."""
    await signed_in(url)
    with McpServers([server(url)]) as servers:
        tools = Tools(servers)
        accounts.access.clear()
        texts = await asyncio.gather(*(tools.text("hello") for _ in range(5)))
        assert ["Hello, you are signed in."] * 5 == texts
    assert 1 == accounts.renewals


SCRIPT = """
import asyncio, sys
from tinyagent_mcp import McpServers, ServerConfig
with McpServers([ServerConfig(name="t", url=sys.argv[1], remember=False)]) as servers:
    sys.stdin.readline()
    print(len(servers.tools()))
"""


@pytest.mark.slow
async def test_two_processes_renew_a_token_once(url: str, accounts: Accounts) -> None:
    """A refresh token works once, so one process renews it, and the others read the new one."""
    await signed_in(url)
    accounts.access.clear()
    change(expires_at=1.0)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = await asyncio.to_thread(
        lambda: [process.communicate(timeout=PATIENCE) for process in processes]
    )
    assert ["1\n"] * 3 == [out for out, _ in outputs], outputs
    assert 1 == accounts.renewals


async def test_a_refused_renewal_is_reported(url: str, accounts: Accounts) -> None:
    """The message says what to do, and the tokens that are not valid are removed."""
    found = await signed_in(url)
    accounts.access.clear()
    accounts.renews = False
    match = "tinyagent mcp login t"
    with McpServers([server(url)]) as servers, pytest.raises(ConfigurationError, match=match) as caught:
        servers.tools()
    assert "refuses to renew it (invalid_grant)" in str(caught.value)
    assert str(found.refresh_token) not in str(caught.value)
    assert not stored().exists()


async def test_a_renewal_that_fails_for_now_keeps_the_tokens(url: str, accounts: Accounts) -> None:
    """A server that cannot be reached does not end the sign-in."""
    await signed_in(url)
    accounts.access.clear()
    change(token_endpoint="http://127.0.0.1:9/token")
    match = "The sign-in cannot be renewed: ConnectError"
    with McpServers([server(url)]) as servers, pytest.raises(ConfigurationError, match=match):
        servers.tools()
    assert stored().exists()


async def test_tokens_go_only_to_their_server(url: str, accounts: Accounts) -> None:
    """If the URL in the configuration changes, the old tokens are not sent."""
    await signed_in(url)
    other = server(f"{url}?tenant=2")
    assert load(other) is None
    with (
        McpServers([other]) as servers,
        pytest.raises(ConfigurationError, match="Sign in: tinyagent mcp login t"),
    ):
        servers.tools()


async def test_a_sign_in_that_others_can_read_is_refused(url: str) -> None:
    """As with stored keys."""
    await signed_in(url)
    stored().chmod(0o644)
    with McpServers([server(url)]) as servers, pytest.raises(ConfigurationError, match="written by others"):
        servers.tools()
    stored().chmod(0o600)
    stored().write_text('{"access_token": "planted-access"')
    with pytest.raises(ConfigurationError, match="is malformed") as caught:
        load(server(url))
    assert "planted" not in str(caught.value)


async def test_a_user_refuses(url: str, accounts: Accounts) -> None:
    """The reason is shown, and nothing is stored."""
    accounts.refuses = True
    with pytest.raises(LoginError, match=r"it was refused \(access_denied\)"):
        await sign_in_at(server(url), browse)
    assert not stored().exists()


async def test_nobody_signs_in(url: str) -> None:
    """The wait has a limit."""

    async def never(address: str) -> None:
        raise TimeoutError  # the limit is reached here, however long the requests before took

    with pytest.raises(LoginError, match=r"not signed in at 't' within 300 s") as caught:
        await sign_in_at(server(url), never)
    assert "--timeout" in (caught.value.hint or "")


async def test_a_server_that_does_not_answer() -> None:
    """It is told apart from a user who does not sign in."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/mcp"
        with pytest.raises(LoginError, match=r"did not answer within 0\.2 s") as caught:
            await sign_in_at(server(url), browse, timeout=0.2)
    assert "tinyagent mcp test t" in (caught.value.hint or "")


async def test_a_port_that_is_in_use(url: str) -> None:
    """The error names the port and the option for another one."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            LoginError, match=f"port {port} .* cannot be used: Address already in use"
        ) as caught:
            await sign_in_at(server(url), browse, port=port)
    assert "--port" in (caught.value.hint or "")


async def test_a_forged_answer_is_refused(url: str) -> None:
    """A code with another state is not exchanged. Other requests to the port change nothing."""

    async def forged(address: str) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(address).query)
        redirect = query["redirect_uri"][0]
        for wrong in (redirect.replace("/callback", "/favicon.ico"), redirect):
            with pytest.raises(urllib.error.HTTPError):
                await asyncio.to_thread(_open, wrong)
        await asyncio.to_thread(_open, f"{redirect}?code=stolen&state=forged")

    with pytest.raises(LoginError, match="State parameter mismatch"):
        await sign_in_at(server(url), forged)


async def test_a_client_that_the_user_has_registered(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that registers no clients gives a hint. A client of the user works."""
    with running(accounts, registration=False) as url:
        with pytest.raises(LoginError, match="You could not sign in at 't'") as caught:
            await sign_in_at(server(url), browse)
        assert "client_id" in (caught.value.hint or "")
        accounts.clients["mine"] = registered_client("mine", port := free_port())
        monkeypatch.setenv("MY_SECRET", "planted-secret")
        mine = server(url, client_id="mine", client_secret="${MY_SECRET}")
        found = await sign_in_at(mine, browse, port=port)
        assert ("mine", "planted-secret") == (found.client_id, found.client_secret)
        assert await asyncio.to_thread(revoke, found) is None
        assert [found.refresh_token] == accounts.revoked


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def registered_client(client_id: str, port: int) -> Any:
    """Return a client that a user has registered."""
    return OAuthClientInformationFull(
        client_id=client_id,
        redirect_uris=[AnyUrl(f"http://127.0.0.1:{port}/callback")],
        token_endpoint_auth_method="client_secret_post",
        client_secret="planted-secret",
        grant_types=["authorization_code", "refresh_token"],
    )


def test_servers_that_cannot_be_signed_in_at() -> None:
    """A command has no sign-in, and an unknown name is an error."""
    write("[mcp.servers.t]\ncommand = 'a'\n")
    for arguments, words in ((["t"], "is started by a command"), (["x"], "There is no server 'x'")):
        done = tinyagent("mcp", "login", *arguments)
        assert (3, True) == (done.returncode, words in done.stderr), done.stderr


async def test_a_server_without_a_sign_in() -> None:
    """A server that needs none says so, and one that only refuses says that, too."""
    async with FakeServer(
        FakeReply.json({}), FakeReply(status=401), FakeReply(status=404), repeat=True
    ) as fake:
        for words in ("does not ask you to sign in", "You could not sign in|has no sign-in"):
            with pytest.raises(LoginError, match=words):
                await sign_in_at(server(f"{fake.origin}/mcp"), browse)


@pytest.mark.parametrize("place", ["authorization_endpoint", "token_endpoint"])
async def test_addresses_that_are_not_encrypted_are_refused(place: str) -> None:
    """The server chooses them, so nothing is opened or sent there."""
    opened: list[str] = []

    async def show(address: str) -> None:
        opened.append(address)

    async with FakeServer(repeat=False) as fake:
        metadata = {
            "issuer": fake.origin,
            "authorization_endpoint": f"{fake.origin}/authorize",
            "token_endpoint": f"{fake.origin}/token",
            "registration_endpoint": f"{fake.origin}/register",
            "response_types_supported": ["code"],
            place: "http://attacker.example/x",
        }
        client = {"client_id": "c", "redirect_uris": ["http://127.0.0.1/callback"]}
        resource = {"resource": f"{fake.origin}/mcp", "authorization_servers": [fake.origin]}
        fake.add(FakeReply(status=401), *map(FakeReply.json, (resource, metadata)))
        fake.add(FakeReply.json(client, status=201))
        with pytest.raises(LoginError, match="an address for it that is not https"):
            await sign_in_at(server(f"{fake.origin}/mcp"), show)
    assert [] == opened
