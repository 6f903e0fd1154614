"""`tinyagent proxy serve` and `tinyagent run -m proxy/…` as two processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.waiting import wait_until
from tinyagent import Context, Model, stream_proxy
from tinyagent.testing import FakeReply, FakeServer, Hold, chat_chunk, sse, user

pytest.importorskip("tinyagent_proxy_server", reason="plugins/tinyagent-proxy-server is not installed")

TOKEN = "caller-token-CANARY-0001"
KEY = "upstream-key-CANARY-0002"
SECONDS = 60
COMMAND = [sys.executable, "-m", "tinyagent_cli"]


class Done(NamedTuple):
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Standard output as JSONL."""
        return [json.loads(line) for line in self.out.splitlines()]


class ProxyProcess:
    """`tinyagent proxy serve`, and its clients."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.callers: list[subprocess.Popen[str]] = []
        self.log = folder / "proxy.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "proxy", "serve", *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, "TINYAGENT_PROXY_TOKEN": TOKEN, "UP_KEY": KEY, **environment},
            )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    @property
    def stderr(self) -> str:
        """Its standard error so far."""
        return self.log.read_text()

    def command(self, *arguments: str, token: str = TOKEN) -> dict[str, Any]:
        """Return the command of a client."""
        kept = {name: value for name, value in os.environ.items() if name != "UP_KEY"}
        where = {"TINYAGENT_PROXY_URL": self.url, "TINYAGENT_PROXY_TOKEN": token}
        return {"args": [*COMMAND, "run", *arguments], "env": {**kept, **where}, "stdin": subprocess.DEVNULL}

    def run(self, *arguments: str, token: str = TOKEN) -> Done:
        """Run a client to its end."""
        how: Any = {"capture_output": True, "text": True, "timeout": SECONDS, "check": False}
        done = subprocess.run(**self.command(*arguments, token=token), **how)
        assert "Traceback" not in done.stderr
        assert KEY not in done.stdout + done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a client."""
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        caller: subprocess.Popen[str] = subprocess.Popen(**self.command(*arguments), **pipes)
        self.callers.append(caller)
        return caller

    def stop(self) -> int:
        """End the proxy and all clients. Return the result."""
        for caller in self.callers:
            caller.kill()
            caller.communicate()
        self.process.terminate()
        try:
            return self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.communicate()


Start = Callable[..., ProxyProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a proxy in front of the demo and, if there is one, of a FakeServer."""
    started: list[ProxyProcess] = []

    def begin(server: FakeServer | str | None = None, more: str = "") -> ProxyProcess:
        config = tmp_path / "proxy.toml"
        url = server if isinstance(server, str) else server.url if server is not None else ""
        up = f'[providers.up]\nbase_url = "{url}"\napi_key_env = "UP_KEY"\n' if url else ""
        config.write_text(f"[providers.demo]\n{up}{more}")
        proxy = ProxyProcess(tmp_path, "--config", str(config), "--token-env", "TINYAGENT_PROXY_TOKEN")
        started.append(proxy)
        assert proxy.url.startswith("http://127.0.0.1:"), proxy.stderr
        return proxy

    yield begin
    for proxy in started:
        proxy.stop()
        assert TOKEN not in proxy.stderr
        assert KEY not in proxy.stderr
        assert "Traceback" not in proxy.stderr


# ---- what works ---------------------------------------------------------------------------------------


def test_the_demo_answers_and_its_tool_runs_at_the_caller(start: Start) -> None:
    """Text, thinking and a tool call arrive, and the second turn has the result."""
    proxy = start()
    done = proxy.run("-m", "proxy/demo", "-t", "calc", "What is 6 * 7?")
    assert (0, "6 * 7 = 42\n", "") == done
    asked = [line for line in proxy.stderr.splitlines() if "model=demo" in line]
    assert 2 == len(asked), proxy.stderr
    assert all("token=TINYAGENT_PROXY_TOKEN" in line and "status=ok" in line for line in asked)


def test_a_real_protocol_comes_through_with_usage_and_reason(start: Start) -> None:
    """The record is the same as without the proxy, and only the provider gets the key."""
    calls = FakeReply.tool_calls(("calc", {"expression": "6*7"}), text="I work it out.")
    usage = {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34, "cost": 0.25}
    with FakeServer(calls, FakeReply.text("It is ", "42.", usage=usage)) as server:
        proxy = start(server)
        done = proxy.run("--jsonl", "-m", "proxy/up/some-model", "-t", "calc", "What is 6 * 7?")
        sent = server.requests
    assert 0 == done.code, done.err
    assert "It is 42." == done.lines[-1]["text"]
    last = [line["message"] for line in done.lines if line["type"] == "message_end" and "message" in line][-1]
    assert ("stop", "stop") == (last["stop_reason"], last["finish_reason"])
    assert (30, 4, 0.25) == tuple(last["usage"][name] for name in ("input", "output", "cost"))
    assert ["some-model", "some-model"] == [request.json["model"] for request in sent]
    assert f"Bearer {KEY}" == sent[0].headers["authorization"]
    assert "42" == sent[1].json["messages"][-1]["content"]


def test_a_refusal_of_the_model_is_reported_as_one(start: Start) -> None:
    """An answer with a schema is not repaired, as without the proxy."""
    refusal = FakeReply.chunks(chat_chunk({"refusal": "I will not."}), chat_chunk({}, "stop"))
    with FakeServer(refusal) as server:
        done = start(server).run("-m", "proxy/up/some-model", "--schema", "age int", "How old is she?")
        assert 1 == len(server.requests)
    assert (4, "") == (done.code, done.out)
    assert "The model refused to answer: I will not." in done.err


# ---- what is refused ----------------------------------------------------------------------------------


def test_a_wrong_token_is_reported(start: Start) -> None:
    """A wrong token gives exit code 3 and is not shown."""
    proxy = start()
    done = proxy.run("-m", "proxy/demo", "Hello", token="not-the-token-at-all")
    assert (3, "") == (done.code, done.out)
    assert "the proxy has no such token" in done.err
    assert "not-the-token" not in done.err + proxy.stderr


def test_an_unknown_model_is_reported(start: Start) -> None:
    """An unknown model gives exit code 1, and the hint names the setting."""
    done = start().run("-m", "proxy/nobody/nothing", "Hello")
    assert (1, "") == (done.code, done.out)
    assert "'nobody/nothing'" in done.err
    assert "/api/models" in done.err


def test_a_provider_that_fails_is_reported(start: Start) -> None:
    """The message is the provider's, the exit code is 1, and only the proxy retries."""
    with FakeServer(FakeReply.error(500, f"on fire, with {KEY}", x_should_retry="false")) as server:
        proxy = start(server)
        done = proxy.run("-m", "proxy/up/m", "Hello")
        assert 1 == len(server.requests)
    assert (1, "") == (done.code, done.out)
    assert "on fire" in done.err


def test_an_interrupted_reply_is_printed(start: Start) -> None:
    """The partial text is printed; the exit code and the message report the failure."""
    with FakeServer(FakeReply([sse(chat_chunk("Half"))])) as server:
        done = start(server).run("-m", "proxy/up/m", "Hello")
    assert (1, "Half\n") == (done.code, done.out)
    assert "broke" in done.err


# ---- what goes away -------------------------------------------------------------------------------------


def test_an_abort_reaches_the_provider(start: Start) -> None:
    """Ctrl-C at the client closes the connection to the provider."""
    with FakeServer(FakeReply.chunks(chat_chunk("Half"), Hold())) as server:
        proxy = start(server)
        caller = proxy.start("-m", "proxy/up/m", "Hello")
        assert caller.stdout is not None
        assert "Half" == caller.stdout.read(4)
        assert 1 == server.open_connections
        caller.send_signal(signal.SIGINT)
        wait_until(lambda: server.open_connections == 0)
        caller.communicate(timeout=SECONDS)
        assert 130 == caller.returncode
        wait_until(lambda: "status=aborted" in proxy.stderr)


@pytest.mark.parametrize(
    ("signum", "words"),
    [(signal.SIGKILL, ("broke", "reset", "complete")), (signal.SIGTERM, ("the proxy is shutting down",))],
)
def test_a_server_that_ends_in_the_middle(signum: int, words: tuple[str, ...], start: Start) -> None:
    """If the proxy ends, the client prints the text so far and exits with 1."""
    with FakeServer(FakeReply.chunks(chat_chunk("Half"), Hold())) as server:
        proxy = start(server)
        caller = proxy.start("--jsonl", "-m", "proxy/up/m", "Hello")
        assert caller.stdout is not None
        read = []
        while '"text_delta"' not in (line := caller.stdout.readline()):
            assert line, caller.communicate(timeout=SECONDS)
            read.append(line)
        proxy.process.send_signal(signum)
        out, err = caller.communicate(timeout=SECONDS)
        assert -signum == proxy.process.wait(SECONDS)
        wait_until(lambda: server.open_connections == 0)
    done = Done(caller.returncode, "".join([*read, line, out]), err)
    last = done.lines[-1]
    assert (1, 1, False) == (done.code, last["exit_code"], last["ok"])
    assert any(word in last["error"]["message"] for word in words), last
    assert last["error"]["message"] in err
    [message] = [line["message"] for line in done.lines if line["type"] == "message_end" and
                 line.get("message", {}).get("role") == "assistant"]  # fmt: skip
    assert "Half" == message["content"][0]["text"]
    if signum == signal.SIGTERM:
        assert "status=error" in proxy.stderr


def test_an_unsafe_proxy_does_not_start(tmp_path: Path) -> None:
    """Without a token, or open to other machines without TLS: exit code 3 and a hint."""
    for arguments, token, words in (
        (["--host", "0.0.0.0"], TOKEN, "--tls-cert"),
        (["--host", "::"], TOKEN, "--allow-http"),
        ([], "", "tinyagent proxy token"),
        ([], "short", "is too short"),
        (["--config", str(tmp_path / "none.toml")], TOKEN, "does not exist"),
        (["--token-env", "NOT_SET"], TOKEN, "NOT_SET is not set"),
    ):
        done = subprocess.run(
            [*COMMAND, "proxy", "serve", *arguments], capture_output=True, text=True, timeout=SECONDS,
            check=False, stdin=subprocess.DEVNULL, env={**os.environ, "TINYAGENT_PROXY_TOKEN": token},
        )  # fmt: skip
        assert (3, "") == (done.returncode, done.stdout), arguments
        assert words in done.stderr
        assert "Traceback" not in done.stderr


# ---- many -----------------------------------------------------------------------------------------------

MANY, DELTAS = 500, 20


class Echo:
    """A chat server that answers when all clients are connected, each with its own prompt, many times."""

    def __init__(self) -> None:
        self.here = 0
        self.all_here = asyncio.Event()

    async def __aenter__(self) -> Echo:
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", 0, backlog=1024)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].split("\r\n")[0])
        prompt = json.loads(await reader.readexactly(length))["messages"][-1]["content"]
        self.here += 1
        if self.here == MANY:
            self.all_here.set()
        await self.all_here.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n")
        for number in range(DELTAS):
            writer.write(sse(chat_chunk(f"{prompt}.{number} ")))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(sse(chat_chunk({}, "stop")) + sse(b"[DONE]"))
        await writer.drain()
        writer.close()


async def test_five_hundred_concurrent_replies_are_complete(start: Start) -> None:
    """Each client gets all its own deltas in order."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4 * MANY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4 * MANY, hard), hard))
    async with Echo() as upstream:
        proxy = start(upstream.url)
        options: Any = {"auth_token": TOKEN, "proxy_url": proxy.url, "timeout": 60}

        async def one(number: int) -> tuple[list[str], Any]:
            context = Context(messages=[user(f"p{number}")])
            reply = await stream_proxy(Model("proxy", "up/m", "proxy"), context, options)
            events = [event async for event in reply]
            deltas = [event["delta"] for event in events if event["type"] == "text_delta"]
            return deltas, events[-1]["type"]

        got = await asyncio.gather(*map(one, range(MANY)))
    assert MANY == upstream.here
    wanted = [([f"p{number}.{n} " for n in range(DELTAS)], "done") for number in range(MANY)]
    assert [] == [number for number in range(MANY) if got[number] != wanted[number]]
    wait_until(lambda: proxy.stderr.count("status=ok") == MANY)
