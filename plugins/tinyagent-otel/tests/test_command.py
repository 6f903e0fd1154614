"""Runs of the command line with the plugin, and an OTLP receiver on loopback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tinyagent.testing import FakeReply, FakeServer, Hold
from tinyagent.testing.server import chat_chunk

from .conftest import ROOT, SECONDS, Command, Receiver, Span

CANARY = "canary-5519"
KEY = "sk-test-canary-0123456789abcdef"
ASK = ("run", "-m", "demo", "-t", "calc", "What is 6 * 7?")

SPY = """
import sys
from pathlib import Path
from tinyagent import tool

@tool
def spy() -> str:
    "Write the names of all modules into a file."
    Path("modules").write_text(" ".join(sys.modules))
    return ""
"""

Receive = Callable[..., Receiver]


def tree(spans: list[Span]) -> Any:
    """Return the names of the spans as trees. Children have the order of their ends."""
    below: dict[str, list[Span]] = {}
    for span in spans:
        below.setdefault(span.parent, []).append(span)

    def node(span: Span) -> Any:
        children = [node(child) for child in below.get(span.id, [])]
        return {span.name: children} if children else span.name

    known = {span.id for span in spans}
    return [node(span) for span in spans if span.parent not in known]


def test_a_run_arrives_as_one_trace(command: Command, receive: Receive) -> None:
    """By http/protobuf, at the path of traces, with our service name."""
    receiver = receive()
    done = command(*ASK, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_EXPORTER_OTLP_HEADERS="x-team=blue")
    assert (0, "6 * 7 = 42\n") == done[:2]
    assert "Warning" not in done.err
    [run] = tree(receiver.spans)
    assert {"invoke_agent tinyagent": ["chat demo", "execute_tool calc", "chat demo"]} == run
    assert 1 == len({span.trace for span in receiver.spans})
    assert not any(span.error for span in receiver.spans)
    assert {"/v1/traces"} == set(receiver.paths)
    assert {"application/x-protobuf"} == {headers["content-type"] for headers in receiver.headers}
    assert {"blue"} == {headers["x-team"] for headers in receiver.headers}
    assert "tinyagent" == receiver.spans[0].resource["service.name"]


def test_the_session_is_the_conversation(command: Command, receive: Receive) -> None:
    """A run that continues a session has the same conversation id; without a session there is none."""
    receiver = receive()
    for more in ((), ("-c",), ("--no-session",)):
        assert 0 == command("run", "-m", "demo", *more, "Hi", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url).code
    ids = [
        span.attributes.get("gen_ai.conversation.id")
        for span in receiver.spans
        if span.name.startswith("invoke")
    ]
    assert ids[0]
    assert [ids[0], ids[0], None] == ids


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "{url}"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "{url}"},
        {"OTEL_TRACES_SAMPLER": "always_off", "OTEL_EXPORTER_OTLP_ENDPOINT": "{url}"},
    ],
)
def test_nothing_is_sent_unless_it_is_wanted(
    command: Command, receive: Receive, environment: dict[str, str]
) -> None:
    """Without an endpoint or an exporter, with none, or if the SDK is disabled, the plugin does nothing."""
    receiver = receive()
    done = command(*ASK, **{name: value.format(url=receiver.url) for name, value in environment.items()})
    plain = command(*ASK, plugin=False)
    assert plain == done
    assert [] == receiver.bodies


def test_opentelemetry_is_not_imported_unless_it_is_wanted(command: Command) -> None:
    """An installed plugin that is not configured costs a run almost nothing."""
    command.work.joinpath("spy.py").write_text(SPY)
    with FakeServer(FakeReply.tool_calls(("spy", {})), FakeReply.text("Done.")) as server:
        command.provider(server.url)
        done = command("run", "-m", "local/m", "-t", "./spy.py", "--yes", "Spy!")
    assert 0 == done.code, done.err
    modules = command.work.joinpath("modules").read_text().split()
    assert "tinyagent_otel._plugin" in modules
    assert [] == [name for name in modules if name.startswith("opentelemetry")]


def test_the_standard_variables_hold(command: Command, receive: Receive) -> None:
    """The resource, the endpoint of traces, and the parent in the environment."""
    receiver = receive()
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    done = command(
        *ASK,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{receiver.url}/mine",
        OTEL_SERVICE_NAME="my-service",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
        TRACEPARENT=f"00-{trace}-{parent}-01",
    )
    assert (0, "6 * 7 = 42\n") == done[:2]
    assert {"/mine"} == set(receiver.paths)
    resource = receiver.spans[0].resource
    assert ("my-service", "test") == (resource["service.name"], resource["deployment.environment.name"])
    assert {trace} == {span.trace for span in receiver.spans}
    [run] = [span for span in receiver.spans if span.name.startswith("invoke_agent")]
    assert parent == run.parent


def test_keys_and_content_are_not_sent(command: Command, receive: Receive) -> None:
    """No prompt, system prompt, reply, argument or result is sent, and no key; content only on request."""
    receiver = receive()
    for capture in ("", "true"):
        reply = FakeReply.tool_calls(("calc", {"expression": f"1 + {CANARY}"}))
        with FakeServer(reply, FakeReply.text(f"Sorry. {CANARY}")) as server:
            command.provider(server.url)
            done = command(
                *(
                    "run",
                    "-m",
                    "local/m",
                    "-t",
                    "calc",
                    "-s",
                    f"Be kind. {CANARY}",
                    f"What is 1 + 1? {CANARY}",
                ),
                LOCAL_API_KEY=KEY,
                OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
                OTEL_EXPORTER_OTLP_HEADERS=f"authorization={KEY}",
                OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=capture,
            )
        assert 0 == done.code, done.err
        everything = b"".join(receiver.bodies)
        assert bool(capture) == (CANARY.encode() in everything)
        assert KEY.encode() not in everything
        assert KEY not in done.err
    chat = [span for span in receiver.spans if span.name == "chat m"][-1]
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    assert ("127.0.0.1", port) == (chat.attributes["server.address"], chat.attributes["server.port"])


def test_a_failed_run_has_its_error(command: Command, receive: Receive) -> None:
    """The exit code is that of the error, and the spans name it."""
    receiver = receive()
    with FakeServer(FakeReply.error(401, f"Bad key {CANARY}")) as server:
        command.provider(server.url)
        done = command("run", "-m", "local/m", "Hi", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert done.code
    assert [True, True] == [span.error for span in receiver.spans]
    for span in receiver.spans:
        found = span.attributes
        assert ("authentication", 401) == (found["error.type"], found["http.response.status_code"])


def test_headers_are_not_in_a_warning(command: Command, receive: Receive) -> None:
    """Malformed headers are a warning, which does not show them, because they are often keys."""
    receiver = receive()
    done = command(
        *ASK,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_EXPORTER_OTLP_HEADERS=f"x-team=blue, authorization: Basic {CANARY}",
    )
    assert (0, "6 * 7 = 42\n") == done[:2]
    assert "[header]" in done.err
    assert CANARY not in done.err


# ---- receivers that fail --------------------------------------------------------------------------------


def _status(status: int) -> Callable[[Any], None]:
    def answer(handler: Any) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def _garbage(handler: Any) -> None:
    handler.wfile.write(b"\x00\xff not HTTP at all\r\n\r\n")


def _hangup(handler: Any) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_status(500), "Internal Server Error"),
        (_status(503), "Service Unavailable"),
        (_status(404), "Not Found"),
        (_garbage, ""),
        (_hangup, ""),
    ],
)
def test_a_receiver_that_fails_is_one_warning(
    command: Command, receive: Receive, answer: Callable[[Any], None], reason: str
) -> None:
    """The output and the exit code do not change; standard error has one line more."""
    receiver = receive(answer)
    done = command(*ASK, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    _check_one_warning(command, done, receiver.url, reason)


def test_a_receiver_that_is_not_there_is_one_warning(command: Command, closed_port: int) -> None:
    """A connection that is refused ends the attempts, and the exit does not wait for retries."""
    url = f"http://127.0.0.1:{closed_port}"
    _check_one_warning(command, command(*ASK, OTEL_EXPORTER_OTLP_ENDPOINT=url), url, "Connection refused")


def test_a_receiver_that_does_not_answer_is_one_warning(command: Command, receive: Receive) -> None:
    """The exit waits for a limited time, although the SDK's own time limit is ten seconds."""
    released = threading.Event()
    receiver = receive(lambda handler: released.wait(SECONDS))
    process = command.start(*ASK, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    out, err = process.communicate(timeout=SECONDS)  # it ends while the receiver still waits
    released.set()
    _check_one_warning(command, (process.returncode, out, err), receiver.url, "in time")


def test_a_receiver_that_fails_during_a_conversation_is_one_warning(
    command: Command, receive: Receive
) -> None:
    """It is shown at the exit, names the first reason, and the exit waits for no retry."""
    receiver = receive(_status(503))
    process = command.start(
        *("rpc", "-m", "demo"),
        stdin=subprocess.PIPE,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_BSP_SCHEDULE_DELAY="1",
    )
    _prompt(process, "Hi")
    receiver.arrived.get(timeout=SECONDS)
    _, err = process.communicate(timeout=SECONDS)
    assert 0 == process.returncode
    [warning] = [line for line in err.splitlines() if line.startswith("Warning: ")]
    assert "Service Unavailable" in warning


def _prompt(process: subprocess.Popen[str], text: str) -> None:
    """Send a prompt to `rpc`, and wait for its result."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"type": "prompt", "message": text}) + "\n")
    process.stdin.flush()
    while '"type":"result"' not in (line := process.stdout.readline()):
        assert line, "rpc has ended"


def _check_one_warning(command: Command, done: tuple[int, str, str], url: str, reason: str) -> None:
    plain = command(*ASK, plugin=False)
    assert plain[:2] == done[:2]
    *same, warning = done[2].splitlines()
    assert plain.err.splitlines() == same
    assert warning.startswith("Warning: ")
    assert url in warning
    assert reason in warning


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"OTEL_TRACES_EXPORTER": "nonsense"}, "the exporter nonsense is not installed"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "tinyagent-otel[grpc]"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"}, "otlp with smoke"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "not a url"}, "not a url"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://["}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_TRACES_SAMPLER": "nonsense"}, "sampler nonsense"),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_PROPAGATORS": "nonsense", "TRACEPARENT": "x"}, "nonsense"),
    ],
)
def test_a_wrong_setting_is_one_warning(command: Command, environment: dict[str, str], text: str) -> None:
    """The run is as it would be without the plugin."""
    done = command(*ASK, **environment)
    assert (0, "6 * 7 = 42\n") == done[:2]
    [warning] = [line for line in done.err.splitlines() if line.startswith("Warning: ")]
    assert text in warning
    assert "Traceback" not in done.err


def test_q_hides_the_warning(command: Command, closed_port: int) -> None:
    """As all warnings."""
    done = command(*ASK, "-q", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{closed_port}")
    assert (0, "6 * 7 = 42\n", "") == done


# ---- other commands -------------------------------------------------------------------------------------


def test_a_batch_has_a_trace_for_each_item(command: Command, receive: Receive) -> None:
    """Items that run at the same time do not mix, in one process and in several."""
    receiver = receive()
    items = 30
    with FakeServer(FakeReply.text("Hello."), repeat=True) as server:
        command.provider(server.url)
        (command.work / "in.jsonl").write_text("".join(f'{{"prompt": "Say {n}"}}\n' for n in range(items)))
        for number, more in enumerate(((), ("--executor", "processes"))):
            done = command(
                *("batch", "-m", "local/m", "in.jsonl", "-o", f"out{number}.jsonl", *more),
                OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            )
            assert 0 == done.code, done.err
            assert "Warning" not in done.err
            found = receiver.spans
            assert [{"invoke_agent tinyagent": ["chat m"]}] * items == tree(found)
            assert items == len({span.trace for span in found})
            receiver.bodies.clear()


def test_ctrl_c_ends_the_spans(command: Command, receive: Receive) -> None:
    """The run and its request arrive as aborted, and the exit code is that of Ctrl-C."""
    receiver = receive()
    with FakeServer(FakeReply.chunks(chat_chunk("Once"), Hold())) as server:
        command.provider(server.url)
        process = command.start("run", "-m", "local/m", "Hi", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
        assert process.stdout is not None
        assert "Once" == process.stdout.read(4)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
    assert 130 == process.returncode
    kinds = {span.name: span.attributes.get("error.type") for span in receiver.spans}
    assert {"chat m": "aborted", "invoke_agent tinyagent": "aborted"} == kinds


def test_rpc_has_a_trace_for_each_prompt(command: Command, receive: Receive) -> None:
    """The runs of one conversation are traces with the same conversation id."""
    receiver = receive()
    process = command.start(
        "rpc", "-m", "demo", stdin=subprocess.PIPE, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url
    )
    for text in ("Hi", "Hi again"):
        _prompt(process, text)
    _, err = process.communicate(timeout=SECONDS)
    assert 0 == process.returncode, err
    assert [{"invoke_agent tinyagent": ["chat demo"]}] * 2 == tree(receiver.spans)
    assert 2 == len({span.trace for span in receiver.spans})
    assert 1 == len({span.attributes["gen_ai.conversation.id"] for span in receiver.spans})


def test_a_call_of_an_mcp_server_is_below_the_tool(command: Command, receive: Receive) -> None:
    """The SDK of MCP makes spans, too, and sends the context to the server."""
    receiver = receive()
    server = f"{sys.executable} {ROOT}/plugins/tinyagent-mcp/tests/server.py"
    with FakeServer(FakeReply.tool_calls(("server__pid", {})), FakeReply.text("Done.")) as model:
        command.provider(model.url)
        done = command(
            *("run", "-m", "local/m", "--mcp", server, "--yes", "Hi"),
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        )
    assert (0, "Done.\n") == done[:2]
    called = next(span for span in receiver.spans if span.name == "execute_tool server__pid")
    assert ["MCP send tools/call pid"] == [
        span.name for span in receiver.spans if (span.parent, span.trace) == (called.id, called.trace)
    ]


# ---- the process ----------------------------------------------------------------------------------------

FORKING = """
import os, sys
from tinyagent_otel._export import Export
from tinyagent import Agent, AgentOptions
from tinyagent.testing import ScriptedProvider
import asyncio

export = Export(os.environ)

def one():
    with ScriptedProvider("Hello.") as provider:
        agent = Agent(AgentOptions(initial_state={"model": provider.model}, stream_fn=provider))
        agent.subscribe(export.tracer(agent, lambda: None))
        asyncio.run(agent.prompt("Hi"))

one()
child = os.fork()
if child == 0:
    sys.exit(7)  # with its `atexit` functions
assert 7 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
one()
"""

INSTRUMENTED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
exporter = ConsoleSpanExporter(formatter=lambda span: span.name + "\\n")
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
"""


def test_a_fork_sends_nothing_of_its_parent(command: Command, receive: Receive) -> None:
    """Its exit neither waits nor ends the traces of the parent, which arrive once."""
    receiver = receive()
    done = command.python(FORKING, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert (0, "", "") == done
    assert [{"invoke_agent tinyagent": ["chat scripted"]}] * 2 == tree(receiver.spans)


def test_a_tracer_provider_that_exists_is_used(command: Command, receive: Receive) -> None:
    """As with `opentelemetry-instrument`: it gets the spans, and no second one is made."""
    receiver = receive()
    script = INSTRUMENTED + FORKING.partition("child = ")[0]
    done = command.python(script, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert (0, "chat scripted\ninvoke_agent tinyagent\n", "") == done
    assert [] == receiver.bodies
