"""`tinyagent rpc`: another program controls the agent through pipes or a Unix socket."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import IO, Any

import jsonschema_rs
import pytest

from tinyagent import jsonl
from tinyagent.agent_types import AgentEndEvent, AgentStartEvent
from tinyagent.testing import Wait
from tinyagent.testing.server import chat_chunk
from tinyagent_cli.rpc.schema import schema

from .conftest import LEAVING, ROOT, SECONDS, TOOLS, Cli, FakeReply, Serve

Line = dict[str, Any]
Connect = Callable[[], tuple[socket.socket, "Client"]]


@cache
def validator(name: str) -> Any:
    """Return a validator for a component of `tinyagent schema rpc`."""
    return jsonschema_rs.validator_for({"$ref": f"#/$defs/{name}", "$defs": schema()["$defs"]})


def fits(name: str, line: Line) -> None:
    """Check that a line fits its component of the schema."""
    validator(name).validate(line)


class Client:
    """A client of `tinyagent rpc`: sends commands, and reads lines in order."""

    def __init__(self, given: IO[bytes], lines: IO[bytes]) -> None:
        self._given = given
        self._lines = lines
        self._count = 0

    def send(self, type: str, **fields: object) -> str:
        """Send a command. Return its id."""
        self._count += 1
        id = f"{type}-{self._count}"
        command = {"id": id, "type": type, **fields}
        fits("Command", command)
        self.raw(json.dumps(command).encode() + b"\n")
        return id

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        self._given.write(data)
        self._given.flush()

    def read(self) -> Line:
        """Return the next line."""
        line: Line = json.loads(self._lines.readline())
        fits("Output", line)
        return line

    def until(self, type: str) -> Line:
        """Skip lines until one of this type, and return it."""
        while (line := self.read())["type"] != type:
            pass
        return line

    def reply(self, type: str, **fields: object) -> Line:
        """Send a command, and return its reply."""
        id = self.send(type, **fields)
        while (line := self.until("response")).get("id") != id:
            pass
        return line

    def ask(self, message: str) -> Line:
        """Send a prompt, and return its result."""
        assert self.reply("prompt", message=message)["success"]
        return self.until("result")

    def rest(self) -> list[Line]:
        """Return all lines to the end."""
        return [json.loads(line) for line in self._lines]

    def end(self) -> None:
        """End the input."""
        self._given.close()


@pytest.fixture
def start(cli: Cli) -> Callable[..., tuple[Client, Any]]:
    """Start `tinyagent rpc` with these options, by default with the demo."""

    def begin(*args: str | Path, model: str = "demo") -> tuple[Client, Any]:
        process = cli.start("rpc", "-m", model, *args, stdin=subprocess.PIPE)
        client = Client(process.stdin, process.stdout)
        assert "session" == client.read()["type"]
        return client, process

    return begin


def finish(client: Client, process: Any) -> list[Line]:
    """End the input. Return the remaining lines; the exit code must be 0."""
    client.end()
    lines = client.rest()
    assert 0 == process.wait(SECONDS), process.stderr.read()
    return lines


def test_the_lines_of_a_run_are_its_events(cli: Cli) -> None:
    """They have the id of the prompt, and are in the format of --jsonl."""
    command = json.dumps({"id": "a", "type": "prompt", "message": "What is 6 * 7?"})
    done = cli("rpc", "-m", "demo", stdin=command.encode())
    header, reply, *events, result = done.lines
    assert (0, "session") == (done.code, header["type"])
    for line in done.lines:
        fits("Output", line)
    assert {"type": "response", "id": "a", "command": "prompt", "success": True} == reply
    assert {"a"} == {line["id"] for line in (*events, result)}
    assert (True, 0, "stop") == (result["ok"], result["exit_code"], result["stop_reason"])
    read = list(jsonl.read(done.out))
    assert (AgentStartEvent, AgentEndEvent) == (type(read[0]), type(read[-1]))
    record = cli("run", "-m", "demo", "--jsonl", "What is 6 * 7?").lines
    assert [line["type"] for line in record[1:]] == [line["type"] for line in (*events, result)]


def test_lines_without_an_id_get_none(cli: Cli) -> None:
    """The id is optional, and may be an integer."""
    done = cli("rpc", "-m", "demo", stdin=b'{"type":"prompt","message":"Hi"}\r\n\n{"type":"state","id":5}')
    _, reply, *rest = done.lines
    assert {"type": "response", "command": "prompt", "success": True} == reply
    assert {None, 5} == {line.get("id") for line in rest}


@pytest.mark.parametrize(
    ("line", "id", "command", "error"),
    [
        (b"nonsense", None, "parse", "not a JSON object"),
        (b'{"id": "x", ', None, "parse", "not a JSON object"),
        (b"[]", None, "parse", "not a JSON object"),
        (b'\xff{"type": "state"}', None, "parse", "not a JSON object"),
        (b"[" * 100_000, None, "parse", "not a JSON object"),
        (b'{"id": "x"}', "x", "parse", 'no "type"'),
        (b'{"id": "x", "type": 3}', "x", "parse", 'no "type"'),
        (b'{"id": "x", "type": "promt"}', "x", "promt", "There is no command 'promt'"),
        (b'{"id": "x", "type": "prompt"}', "x", "prompt", "There is no prompt"),
        (b'{"id": "x", "type": "prompt", "message": 3}', "x", "prompt", "Expected `str`"),
        (b'{"id": "x", "type": "prompt", "message": " "}', "x", "prompt", "There is no prompt"),
        (b'{"id": "x", "type": "state", "more": 1}', "x", "state", "unknown field `more`"),
        (b'{"id": {}, "type": "state"}', None, "state", "at `$.id`"),
        (b'{"id": "x", "type": "steer", "message": "a"}', "x", "steer", "No run is under way"),
        (b'{"id": "x", "type": "follow_up", "message": "a"}', "x", "follow_up", "No run is under way"),
        (b'{"id": "x", "type": "set_model", "model": "nix/y"}', "x", "set_model", "nix"),
        (b'{"id": "x", "type": "set_tools", "tools": ["nix"]}', "x", "set_tools", "nix"),
        (b'{"id": "x", "type": "approve", "request": "a", "answer": "yes"}', "x", "approve", "is open"),
        (b'{"id": "x", "type": "approve", "request": "a", "answer": "y"}', "x", "approve", "Invalid enum"),
    ],
)
def test_a_wrong_line_gets_an_error(cli: Cli, line: bytes, id: str | None, command: str, error: str) -> None:
    """The reply names the fault, and the next command is carried out."""
    done = cli("rpc", "-m", "demo", stdin=line + b'\n{"id": "next", "type": "state"}\n')
    _, reply, state = done.lines
    fits("Output", reply)
    assert (0, "response", False) == (done.code, reply["type"], reply["success"])
    assert (id, command) == (reply.get("id"), reply["command"])
    assert error in reply["error"]
    assert ("next", True, 0) == (state["id"], state["success"], state["data"]["messages"])


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_that_is_too_long_is_skipped(cli: Cli, end: bytes) -> None:
    """It gets an error, and the next line is read."""
    long = b'{"id": "1", "type": "prompt", "message": "' + b"x" * (17 << 20) + b'"}'
    done = cli("rpc", "-m", "demo", stdin=long + end + (b'{"type":"state"}' if end else b""))
    assert 0 == done.code
    assert "more than 16 MiB" in done.lines[1]["error"]
    assert (3 if end else 2) == len(done.lines)


def test_messages_to_a_run(cli: Cli, start: Callable[..., tuple[Client, Any]]) -> None:
    """A second prompt is refused; steering and follow-ups reach the run, whose lines have its id."""
    client, process = start("-t", cli.file("tools.py", TOOLS))
    first = client.send("prompt", message="write text=x")
    request = client.until("approval_request")
    assert (first, "write", {"text": "x"}) == (request["id"], request["tool_name"], request["args"])
    assert "A run is under way" in client.reply("prompt", message="Second")["error"]
    assert client.reply("follow_up", message="And then?")["success"]
    state = client.reply("state")["data"]
    assert (True, first, 1, [request]) == (
        state["is_streaming"], state["run"], state["queued"], state["approval_requests"],
    )  # fmt: skip
    assert client.reply("steer", message="Stop that.")["success"]
    assert client.reply("approve", request=request["request"], answer="no")["success"]
    lines = []
    while not lines or lines[-1]["type"] != "result":
        lines.append(client.read())
    assert {first} == {line["id"] for line in lines}
    texts = [
        line["message"]["content"][0]["text"]
        for line in lines
        if line["type"] == "message_end" and line["role"] == "user"
    ]
    assert ["Stop that.", "And then?"] == texts
    state = client.reply("state")["data"]
    assert (False, None, 0) == (state["is_streaming"], state["run"], state["queued"])
    assert not (cli.work / "written").exists()
    assert [] == finish(client, process)


@pytest.mark.parametrize(
    ("answer", "written", "asked_again"),
    [
        ("yes", "x", True),
        ("always", "xx", False),
        ("exact", "xx", False),
        ("project", "xx", False),
        ("no", "", True),
    ],
)
def test_the_client_approves_calls(
    cli: Cli, start: Callable[..., tuple[Client, Any]], answer: str, written: str, asked_again: bool
) -> None:
    """Its answer holds for as long as that on the terminal."""
    client, process = start("-t", cli.file("tools.py", TOOLS))
    client.send("prompt", message="write text=x")
    request = client.until("approval_request")
    assert "is open" in client.reply("approve", request="approval-7", answer="yes")["error"]
    client.send("approve", request=request["request"], answer=answer)
    ended = client.until("tool_execution_end")
    assert (answer == "no") == ended["is_error"]
    client.until("result")
    client.send("prompt", message="write text=x")
    while (line := client.read())["type"] not in ("approval_request", "tool_execution_end"):
        pass
    assert asked_again == (line["type"] == "approval_request")
    finish(client, process)
    path = cli.work / "written"
    assert written == (path.read_text() if path.exists() else "")


def test_nothing_is_granted_without_an_answer(cli: Cli) -> None:
    """At the end of input a call that needs an approval is refused, and the run ends."""
    tools = cli.file("tools.py", TOOLS)
    done = cli("rpc", "-m", "demo", "-t", tools, stdin=b'{"type": "prompt", "message": "write text=x"}')
    assert (0, "result", True) == (done.code, done.lines[-1]["type"], done.lines[-1]["ok"])
    [ended] = [line for line in done.lines if line["type"] == "tool_execution_end"]
    assert "no client is there to ask" in ended["result"]["content"][0]["text"]
    assert "Refused 'write': it can change something, and no client is there to ask." in done.err
    assert not (cli.work / "written").exists()


def test_only_reading_is_allowed(cli: Cli, start: Callable[..., tuple[Client, Any]]) -> None:
    """With set_read_only a tool that can change something is refused, also if it was approved."""
    client, process = start("-t", cli.file("tools.py", TOOLS), "--allow", "write")
    assert not client.reply("state")["data"]["read_only"]
    assert client.reply("set_read_only", enabled=True)["success"]
    assert client.reply("state")["data"]["read_only"]
    client.send("prompt", message="write text=x")
    ended = client.until("tool_execution_end")
    assert ended["is_error"]
    assert "only reading is allowed now" in ended["result"]["content"][0]["text"]
    client.until("result")
    assert client.reply("set_read_only", enabled=False)["success"]
    assert client.ask("write text=y")["ok"]
    assert "y" == (cli.work / "written").read_text()
    finish(client, process)


def test_a_failed_start_is_a_line(cli: Cli) -> None:
    """A program learns from standard output why there is no session, and what to do."""
    done = cli("rpc", "-m", "openai/gpt-5", stdin=b'{"type": "state"}')
    [line] = done.lines
    fits("Output", line)
    assert (3, "start", False, "missing_key") == (done.code, line["command"], line["success"], line["kind"])
    assert "OPENAI_API_KEY" in line["error"]
    assert "tinyagent keys set openai" in line["hint"]
    assert line["error"] in done.err


def test_an_open_question_is_refused_at_the_end_of_input(
    cli: Cli, start: Callable[..., tuple[Client, Any]]
) -> None:
    """The run is finished all the same."""
    client, process = start("-t", cli.file("tools.py", TOOLS))
    client.send("prompt", message="write text=x")
    client.until("approval_request")
    result = finish(client, process)[-1]
    assert ("result", True) == (result["type"], result["ok"])
    assert not (cli.work / "written").exists()


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n....").decode()


def test_images(start: Callable[..., tuple[Client, Any]], serve: Serve) -> None:
    """They come before the text, as data in base64, as pi's clients send it, or as a URL."""
    server = serve(*[FakeReply.text("A cat.")] * 2)
    client, process = start(model="local/m")
    images: list[Line] = [
        {"type": "image", "data": PNG, "mimeType": "image/png"},
        {"type": "image", "url": f"data:image/jpeg;base64,{PNG}"},
        {"type": "image", "url": "https://example.org/cat.png"},
    ]
    assert client.reply("prompt", message="What is it?", images=images)["success"]
    assert "A cat." == client.until("result")["text"]
    assert client.reply("prompt", images=images[:1])["success"]
    assert client.until("result")["ok"]
    first, _, second = (message["content"] for message in server.requests[1].json["messages"])
    url = f"data:image/png;base64,{PNG}"
    assert [url, url, "https://example.org/cat.png"] == [block["image_url"]["url"] for block in first[:3]]
    assert ("What is it?", [url]) == (first[3]["text"], [block["image_url"]["url"] for block in second])
    assert [] == finish(client, process)


def test_an_image_for_a_run(cli: Cli, start: Callable[..., tuple[Client, Any]]) -> None:
    """Steering messages and follow-ups can have images, too."""
    client, process = start("-t", cli.file("tools.py", TOOLS))
    client.send("prompt", message="write text=x")
    request = client.until("approval_request")
    image = {"type": "image", "data": PNG}
    assert client.reply("steer", message="Like this.", images=[image])["success"]
    client.send("approve", request=request["request"], answer="no")
    while (line := client.until("message_end"))["role"] != "user":
        pass
    assert ["image", "text"] == [block["type"] for block in line["message"]["content"]]
    assert client.until("result")["ok"]
    assert [] == finish(client, process)


@pytest.mark.parametrize(
    ("image", "error"),
    [
        ({"type": "image"}, 'images[0] needs either "data" with "mimeType", or "url".'),
        ({"type": "image", "data": PNG, "url": "https://h/a.png"}, "images[0] needs either"),
        ({"type": "image", "data": "?"}, "images[0] is not base64"),
        ({"type": "image", "data": "aGk="}, "images[0] is not a PNG, JPEG, GIF or WebP image"),
        ({"type": "image", "url": "file:///etc/passwd"}, "images[0].url is neither"),
        ({"type": "image", "url": "data:image/png,x"}, "images[0].url is neither"),
        ({"type": "image", "path": "a.png"}, "unknown field `path`"),
        ({"type": "text", "text": "x"}, "Invalid value 'text'"),
    ],
)
def test_a_wrong_image(cli: Cli, image: Line, error: str) -> None:
    """The reply names it, and no run starts."""
    command = {"id": 1, "type": "prompt", "message": "Hi", "images": [image]}
    _, reply = cli("rpc", "-m", "demo", stdin=json.dumps(command).encode()).lines
    fits("Output", reply)
    assert (1, False) == (reply["id"], reply["success"])
    assert error in reply["error"]


REVIEW = """+++
model = "local/other"
tools = ["./tools.py"]
system = "You answer in {{ language }}."
[defaults]
language = "English"
+++
Review {{ stdin }} for {{ count }}: {{ prompt }}"""


def template(cli: Cli, name: str, text: str) -> None:
    """Write a template of the user."""
    path = cli.home / "templates" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_template(cli: Cli, start: Callable[..., tuple[Client, Any]], serve: Serve) -> None:
    """Its text, model, tools and system prompt are those of one run."""
    server = serve(*[FakeReply.text("Done.")] * 2)
    cli.file("tools.py", TOOLS)
    template(cli, "review.md", REVIEW)
    client, process = start("-s", "Be brief.", model="local/m")
    before = client.reply("state")["data"]
    values = {"language": "French", "stdin": "main.py", "count": 3}
    done = client.reply("prompt", template="review", parameters=values, message="all of it")
    assert done["success"], done
    assert "Done." == client.until("result")["text"]
    after = client.reply("state")["data"]
    assert {**before, "messages": 2, "session": after["session"]} == after
    assert client.ask("Hi")["ok"]
    first, second = (request.json for request in server.requests)
    assert ("other", ["look", "write"]) == (
        first["model"], [tool["function"]["name"] for tool in first["tools"]],
    )  # fmt: skip
    assert ["You answer in French.", "Review main.py for 3: all of it"] == [
        message["content"] for message in first["messages"]
    ]
    assert ("m", "Be brief.", False) == (second["model"], second["messages"][0]["content"], "tools" in second)
    assert [] == finish(client, process)


def test_a_model_that_is_set_during_the_run_of_a_template_stays(
    cli: Cli, start: Callable[..., tuple[Client, Any]]
) -> None:
    """The settings from before are restored only if the client has not changed them."""
    template(cli, "go.toml", 'model = "demo"\ntools = ["./tools.py"]\nprompt = "write text=x"\n')
    cli.file("tools.py", TOOLS)
    cli.config('[providers.local]\nbase_url = "http://127.0.0.1:1"\n')
    client, process = start(model="local/m")
    client.send("prompt", template="go")
    request = client.until("approval_request")
    assert "demo" == client.reply("state")["data"]["model"]
    assert client.reply("set_model", model="local/new")["success"]
    client.send("approve", request=request["request"], answer="no")
    assert client.until("result")["ok"]
    state = client.reply("state")["data"]
    assert ("local/new", []) == (state["model"], state["tools"])
    assert [] == finish(client, process)


def test_a_template_with_a_schema(cli: Cli, start: Callable[..., tuple[Client, Any]]) -> None:
    """The result has the validated value; a run without an answer fails as on the command line."""
    template(cli, "person.toml", 'schema = "name, age int"\nprompt = "{{ prompt }}"\n')
    client, process = start()
    assert client.reply("prompt", template="person", message="name=Ada age=36")["success"]
    assert {"name": "Ada", "age": 36} == client.until("result")["value"]
    assert "value" not in client.ask("Hi")
    assert [] == finish(client, process)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"template": "nix"}, "There is no template 'nix'"),
        ({"template": "broken"}, "broken.toml"),
        ({"template": "wrong", "message": "Hi"}, "nix"),
        ({"template": "review"}, "needs a prompt"),
        ({"template": "review", "message": "a"}, "needs a text"),
        ({"template": "review", "message": "a", "parameters": {"stdin": "b"}}, "parameters.count=…"),
        ({"template": "review", "parameters": {"nix": "b"}}, "parameters.nix: the template 'review' has no"),
        ({"template": "review", "parameters": {"prompt": "b"}}, "parameters.prompt"),
        ({"message": "Hi", "parameters": {"a": "b"}}, "there is no template"),
        ({"template": "empty"}, "There is no prompt"),
    ],
)
def test_a_wrong_template(cli: Cli, fields: Line, error: str) -> None:
    """The reply names the fault; model, tools and system prompt stay."""
    template(cli, "review.md", REVIEW)
    template(cli, "broken.toml", "prompt")
    template(cli, "wrong.toml", 'model = "nix/x"\ntools = ["./tools.py"]\nprompt = "Hi"\n')
    template(cli, "empty.toml", 'model = "local/other"\n')
    cli.file("tools.py", TOOLS)
    lines = [json.dumps({"id": 1, "type": "prompt", **fields}), '{"type": "state"}']
    _, reply, state = cli("rpc", "-m", "demo", stdin="\n".join(lines).encode()).lines
    fits("Output", reply)
    assert (1, False) == (reply["id"], reply["success"])
    assert error in reply["error"]
    assert ("demo", []) == (state["data"]["model"], state["data"]["tools"])


def test_standard_input_may_be_a_socket(cli: Cli) -> None:
    """Node gives its child processes sockets. That it is closed is the end of input only."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = cli.start("rpc", "-m", "demo", "-O", "delay=0.01", stdin=theirs)
        ours.sendall(b'{"type": "prompt", "message": "Hi"}\n')
    result = json.loads(process.stdout.readlines()[-1])
    assert (0, "result", True) == (process.wait(SECONDS), result["type"], result["ok"])


def test_denied_tools_are_not_asked_about(cli: Cli) -> None:
    """--deny and --allow hold as in a run; a name without a tool is permitted, because tools may change."""
    tools = cli.file("tools.py", TOOLS)
    prompt = b'{"type": "prompt", "message": "write text=x"}'
    denied = cli("rpc", "-m", "demo", "-t", tools, "-y", "--deny", "write", "--allow", "later", stdin=prompt)
    assert "approval_request" not in denied.out
    assert not (cli.work / "written").exists()
    assert 0 == cli("rpc", "-m", "demo", "-t", tools, "--allow", "write", stdin=prompt).code
    assert "x" == (cli.work / "written").read_text()


def test_abort(cli: Cli, start: Callable[..., tuple[Client, Any]]) -> None:
    """The run ends with a result, its question is withdrawn, and the next prompt is answered."""
    client, process = start("-t", cli.file("tools.py", TOOLS))
    assert client.reply("abort")["success"]
    first = client.send("prompt", message="write text=x")
    request = client.until("approval_request")
    client.send("abort")
    result = client.until("result")
    assert (first, False, "aborted") == (result["id"], result["ok"], result["stop_reason"])
    assert "is open" in client.reply("approve", request=request["request"], answer="yes")["error"]
    assert client.ask("Hi")["ok"]
    assert [] == finish(client, process)
    assert not (cli.work / "written").exists()


def test_the_time_limit_is_for_each_run(cli: Cli, start: Callable[..., tuple[Client, Any]]) -> None:
    """A run that takes too long fails, and the next one has the whole time."""
    client, process = start("-t", cli.file("tools.py", TOOLS), "--timeout", "0.5")
    for _ in range(2):
        result = client.ask("write text=x")
        assert (124, "run_timeout") == (result["exit_code"], result["error"]["kind"])
    assert [] == finish(client, process)


def test_set_model(cli: Cli, start: Callable[..., tuple[Client, Any]], serve: Serve) -> None:
    """It chooses the model of the next runs. A run under way stays with its server."""
    server = serve(FakeReply.tool_calls(("write", {"text": "x"})), FakeReply.text("Done."))
    client, process = start("-t", cli.file("tools.py", TOOLS))
    assert {"model": "local/m"} == client.reply("set_model", model="local/m")["data"]
    client.send("prompt", message="Go")
    request = client.until("approval_request")
    assert {"model": "demo"} == client.reply("set_model", model="demo")["data"]
    client.send("approve", request=request["request"], answer="yes")
    assert "Done." == client.until("result")["text"]
    assert 2 == len(server.requests)
    assert "You said: Hi" in client.ask("Hi")["text"]
    assert 2 == len(server.requests)
    assert [] == finish(client, process)


def test_a_failed_run_is_a_result(start: Callable[..., tuple[Client, Any]], serve: Serve) -> None:
    """The process goes on, and its exit code is 0."""
    serve(FakeReply.json({"error": {"message": "Not you."}}, status=401), FakeReply.text("Hello."))
    client, process = start(model="local/m")
    result = client.ask("Hi")
    assert (False, 3, 401) == (result["ok"], result["exit_code"], result["error"]["status"])
    assert "Hello." == client.ask("Again")["text"]
    assert [] == finish(client, process)


def test_compact(start: Callable[..., tuple[Client, Any]], serve: Serve) -> None:
    """The events come before the reply, all with its id; `abort` ends it, and steering is refused."""
    server = serve(
        *(FakeReply.text(text) for text in ("One. " + "x" * 3000, "Two.")),
        FakeReply.chunks(chat_chunk("Done."), Wait(), chat_chunk({}, "stop")),
        FakeReply.text("Done."),
        FakeReply.text("Done."),
    )
    client, process = start(model="local/m")
    assert "too short to compact" in client.reply("compact")["error"]
    client.ask("1")
    client.ask("2")
    first = client.send("compact")
    assert "compaction_start" == client.until("compaction_start")["type"]
    for command in ("prompt", "steer"):
        assert "agent_state" == client.reply(command, message="Hi")["kind"]
    client.send("abort")
    assert "It was aborted." == client.until("compaction_end")["error_message"]
    while (reply := client.until("response")).get("id") != first:
        pass
    assert (False, "aborted") == (reply["success"], reply["kind"])
    server.release()  # the request may not have been sent yet
    second = client.send("compact", instructions="Keep the numbers.")
    events = [client.read() for _ in range(3)]
    assert ["compaction_start", "compaction_end", "response"] == [line["type"] for line in events]
    assert {second} == {line["id"] for line in events}
    assert 2 == events[2]["data"]["replaced"]
    assert "Keep the numbers." in server.requests[-1].body.decode()
    assert "Done." == client.ask("3")["text"]
    texts = [message["content"][0]["text"] for message in client.reply("messages")["data"]["messages"]]
    assert ["2", "Two.", "3", "Done."] == texts[1:]
    assert [] == finish(client, process)


def test_set_tools(cli: Cli, start: Callable[..., tuple[Client, Any]]) -> None:
    """It replaces the tools. If one cannot be loaded, they stay as they are."""
    client, process = start()
    path = str(cli.file("tools.py", TOOLS))
    assert {"tools": ["look", "write"]} == client.reply("set_tools", tools=[path])["data"]
    wrong = client.reply("set_tools", tools=["nix"])
    assert (False, "configuration") == (wrong["success"], wrong["kind"])
    assert ["look", "write"] == client.reply("state")["data"]["tools"]
    assert "saw here" in client.ask("look at=here")["text"]
    assert {"tools": []} == client.reply("set_tools", tools=[])["data"]
    assert [] == finish(client, process)


def test_the_conversation_is_a_session(cli: Cli, start: Callable[..., tuple[Client, Any]]) -> None:
    """All runs of a process are in one session, which goes on in `rpc` and in `run`."""
    client, process = start()
    results = [client.ask(text) for text in ("One", "Two")]
    state = client.reply("state")["data"]
    assert {state["session"]} == {result["session"] for result in results}
    roles = [message["role"] for message in client.reply("messages")["data"]["messages"]]
    assert ["user", "assistant"] * 2 == roles
    refused = cli("run", "-m", "demo", "--session", state["session"], "In use")
    assert (1, "in use" in refused.err) == (refused.code, True)
    assert [] == finish(client, process)
    [path] = cli.sessions()
    assert roles == [message["role"] for message in jsonl.messages(path.read_bytes())]
    assert 2 == sum(json.loads(line)["type"] == "result" for line in path.read_bytes().splitlines())
    assert 0 == cli("run", "-c", "Three").code
    client, process = start("-c")
    assert 6 == client.reply("state")["data"]["messages"]
    assert "I see 6 earlier messages" in client.ask("Four")["text"]
    assert [] == finish(client, process)
    done = cli("sessions", "show", state["session"][:8])
    assert ["One", "Two", "Three", "Four"] == re.findall(r"^(?:> )?(One|Two|Three|Four)$", done.out, re.M)


def test_no_session(cli: Cli) -> None:
    """Without a run, or with --no-session, nothing is saved."""
    assert 0 == cli("rpc", "-m", "demo", stdin=b'{"type": "state"}').code
    done = cli("rpc", "-m", "demo", "--no-session", stdin=b'{"type": "prompt", "message": "Hi"}')
    assert "session" not in done.lines[-1]
    assert [] == list(cli.home.rglob("*.jsonl"))


def test_a_signal_ends_the_run_in_order(cli: Cli, start: Callable[..., tuple[Client, Any]]) -> None:
    """The client gets the result, and the exit code is that of the signal."""
    client, process = start("-t", cli.file("tools.py", TOOLS))
    client.send("prompt", message="write text=x")
    client.until("approval_request")
    process.send_signal(signal.SIGTERM)
    result = client.rest()[-1]
    assert ("result", 143, "interrupted") == (result["type"], result["exit_code"], result["error"]["kind"])
    assert 143 == process.wait(SECONDS)


def test_an_output_that_fails_ends_the_process(cli: Cli, closed_pipe: int) -> None:
    """A reader that leaves is no error to report; a full disk is one."""
    prompt = """printf '%s\\n' '{"type": "prompt", "message": "Hi"}' | $T rpc -m demo"""
    full = cli.shell(f"{prompt} > /dev/full")
    assert (1, "No space left" in full.err) == (full.code, True)
    process = cli.start("rpc", "-m", "demo", stdin=subprocess.PIPE, stdout=closed_pipe)
    _, err = process.communicate(b'{"type": "prompt", "message": "Hi"}\n', timeout=SECONDS)
    assert (141, False) == (process.returncode, b"Error" in err)


def test_a_tool_that_ends_the_process_is_a_failure(cli: Cli) -> None:
    """`sys.exit(0)` in a task of a tool ends the run with a result, and then the process."""
    tools = cli.file("leaving.py", LEAVING)
    done = cli("rpc", "-m", "demo", "-t", tools, stdin=b'{"id": "1", "type": "prompt", "message": "work"}')
    result = done.lines[-1]
    assert (3, "result", "1", False, 3) == (
        done.code, result["type"], result["id"], result["ok"], result["exit_code"],
    )  # fmt: skip
    assert "A plugin tried to exit the process: SystemExit: 0." in done.err


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--history", "-"], "standard input has the commands"),
        (["-s", "@-"], "standard input has the commands"),
        (["--timeout", "nan"], "not a number"),
        (["--listen", "missing/agent.sock"], "No such file or directory"),
        (["--listen", "x" * 200], "too long"),
        (["--jsonl"], "No such option"),
        (["prompt"], "unexpected extra argument"),
    ],
)
def test_wrong_options(cli: Cli, args: list[str], error: str) -> None:
    """They are usage errors."""
    done = cli("rpc", "-m", "demo", *args)
    assert (2, "") == (done.code, done.out)
    assert error in done.err


def test_a_closed_standard_input(cli: Cli) -> None:
    """There is nothing to read commands from."""
    done = cli.shell("$T rpc -m demo <&-")
    assert (2, "Standard input, which has the commands, is closed." in done.err) == (done.code, True)


# ---- the socket ------------------------------------------------------------------------------------------


@pytest.fixture
def listen(cli: Cli) -> Callable[..., Any]:
    """Start `tinyagent rpc --listen agent.sock`, and wait until it listens."""

    def begin(*args: str | Path) -> Any:
        process = cli.start("rpc", "-m", "demo", "--listen", "agent.sock", *args)
        while b"Listening" not in (line := process.stderr.readline()):
            assert line, "it has ended"
        return process

    return begin


@pytest.fixture
def connect(cli: Cli) -> Iterator[Connect]:
    """Connect to the socket in the working directory."""
    with ExitStack() as stack:

        def begin() -> tuple[socket.socket, Client]:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(SECONDS)
            folder = os.open(cli.work, os.O_RDONLY)
            try:
                connection.connect(f"/proc/self/fd/{folder}/agent.sock")  # a path may have 107 bytes
            finally:
                os.close(folder)
            given = stack.enter_context(connection.makefile("wb", buffering=0))
            return connection, Client(given, stack.enter_context(connection.makefile("rb")))

        yield begin


def test_clients_of_a_socket(cli: Cli, listen: Callable[..., Any], connect: Connect) -> None:
    """The socket is private, and removed at the end. The conversation goes on with the next client."""
    process = listen()
    path = cli.work / "agent.sock"
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    connection, client = connect()
    header = client.read()
    assert client.ask("One")["ok"]
    _, second = connect()
    second.raw(b'{"type": "state"}\n')
    [refused] = second.rest()
    assert ("connect", False) == (refused["command"], refused["success"])
    assert "Another client is connected." == refused["error"]
    client.send("prompt", message="Two")
    connection.shutdown(socket.SHUT_WR)
    assert "result" == client.rest()[-1]["type"]
    _, client = connect()
    assert header["id"] == client.read()["id"]
    assert 4 == client.reply("state")["data"]["messages"]
    process.send_signal(signal.SIGTERM)
    assert ([], 143) == (client.rest(), process.wait(SECONDS))
    assert not path.exists()


def test_a_client_that_leaves(cli: Cli, listen: Callable[..., Any], connect: Connect) -> None:
    """Its open question is refused, and the next client can begin a run."""
    process = listen("-t", cli.file("tools.py", TOOLS))
    connection, client = connect()
    client.send("prompt", message="write text=x")
    client.until("approval_request")
    connection.shutdown(socket.SHUT_RDWR)
    while True:
        _, client = connect()
        if client.read()["type"] == "session":
            break
    state = client.reply("state")["data"]
    assert (False, []) == (state["is_streaming"], state["approval_requests"])
    assert client.ask("Hi")["ok"]
    process.send_signal(signal.SIGINT)
    assert 130 == process.wait(SECONDS)
    assert not (cli.work / "written").exists()


WAITING = """
import asyncio
from tinyagent import tool

@tool(read_only=True)
async def wait() -> str:
    "Wait."
    await asyncio.sleep(600)
    return "done"
"""


def test_a_client_that_leaves_a_silent_run(cli: Cli, listen: Callable[..., Any], connect: Connect) -> None:
    """Its run is aborted although it writes nothing. A client that still reads gets the rest."""
    process = listen("-t", cli.file("waiting.py", WAITING))
    connection, client = connect()
    client.send("prompt", message="wait")
    client.until("tool_execution_start")
    connection.shutdown(socket.SHUT_RDWR)
    while True:
        connection, client = connect()
        if client.read()["type"] == "session":
            break
    assert not client.reply("state")["data"]["is_streaming"]
    last = client.reply("messages")["data"]["messages"][-1]
    assert "aborted" == last["stop_reason"]
    process.send_signal(signal.SIGTERM)
    assert 143 == process.wait(SECONDS)


def test_a_path_that_is_in_use(cli: Cli, listen: Callable[..., Any], connect: Connect) -> None:
    """A file and a living server are not replaced; a socket that was left behind is."""
    cli.file("file", "text")
    done = cli("rpc", "-m", "demo", "--listen", "file")
    assert (2, "not a socket" in done.err, "text") == (done.code, True, (cli.work / "file").read_text())
    process = listen()
    done = cli("rpc", "-m", "demo", "--listen", "agent.sock")
    assert (2, "another process listens there" in done.err) == (done.code, True)
    process.kill()
    process.wait(SECONDS)
    assert (cli.work / "agent.sock").exists()
    process = listen()
    _, client = connect()
    assert "session" == client.read()["type"]
    process.send_signal(signal.SIGTERM)
    assert 143 == process.wait(SECONDS)


# ---- examples and documentation --------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["yes", "no"])
@pytest.mark.parametrize("program", [sys.executable, "node"])
def test_the_example_clients(cli: Cli, program: str, answer: str) -> None:
    """They print the reply, and ask about a tool call."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    tools = cli.file("tools.py", TOOLS)
    client = ROOT / "examples" / ("rpc_client.mjs" if program == "node" else "rpc_client.py")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    line = f"echo {answer} | {program} {client} 'write text=x' -m demo -t {tools}"
    done = cli.shell(line, PATH=path)
    assert 0 == done.code, done.err
    assert ("wrote x" in done.out, answer == "yes") == ((cli.work / "written").exists(), answer == "yes")
    assert "[yes/no]" in done.out + done.err
