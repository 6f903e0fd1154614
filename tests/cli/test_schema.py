"""`--schema` and `--schema-multi`: only validated JSON reaches standard output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinyagent.testing.server import FakeReply, FakeServer, chat_chunk

from .conftest import TOOLS, Cli, Serve

POINT = '{"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}'
MODELS = """
from dataclasses import dataclass
import msgspec, common
print("imported")

@dataclass
class Point:
    x: int
    y: int = 0

class Outer:
    class Dog(msgspec.Struct):
        name: str

SCHEMA = {"type": "array", "items": {"type": "integer"}}
FORM = int
WRONG = complex
"""


def _asked(server: FakeServer, number: int = 0) -> dict[str, Any]:
    """The schema of a request."""
    schema: dict[str, Any] = server.requests[number].json["response_format"]["json_schema"]["schema"]
    return schema


# ---- what is printed ------------------------------------------------------------------------------------


def test_the_answer_is_one_line_of_json(cli: Cli, serve: Serve) -> None:
    """Fence and white space of the reply are not printed."""
    server = serve(FakeReply.text("Sure:\n```json\n", '{"name": "Ada",\n', ' "age": 36.0}\n```'))
    done = cli("run", "-m", "local/m", "--schema", "name, age int", "Who?")
    assert (0, '{"name":"Ada","age":36}\n', "") == done
    assert {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    } == _asked(server)


def test_a_list_is_printed_as_json_lines(cli: Cli, serve: Serve) -> None:
    """An empty list prints nothing."""
    serve(FakeReply.text('{"items": [{"x": 1}, {"x": 2}]}'), FakeReply.text('{"items": []}'))
    assert (0, '{"x":1}\n{"x":2}\n', "") == cli("run", "-m", "local/m", "--schema-multi", POINT, "Hi")
    assert (0, "", "") == cli("run", "-m", "local/m", "--schema-multi", POINT, "Hi")


def test_an_invalid_answer_prints_nothing(cli: Cli, serve: Serve) -> None:
    """After one repair, the run fails with exit code 4 and names the fault."""
    server = serve(*[FakeReply.text('{"x": "one"}')] * 2)
    done = cli("run", "-m", "local/m", "--schema", POINT, "Hi")
    assert (4, "") == (done.code, done.out)
    assert 'at $.x: "one" is not of type "integer"' in done.err
    assert 2 == len(server.requests)


def test_a_repaired_answer_is_printed(cli: Cli, serve: Serve) -> None:
    """Only the valid one. -v says that there was a repair."""
    serve(FakeReply.text("I think one."), FakeReply.text('{"x": 1}'))
    done = cli("run", "-v", "-m", "local/m", "--schema", POINT, "Hi")
    assert (0, '{"x":1}\n') == (done.code, done.out)
    assert "asked to repair it" in done.err


def test_a_repair_whose_request_fails_is_a_failed_run(cli: Cli, serve: Serve) -> None:
    """The exit code is 1, as for any failed request, and the error is that of the provider."""
    serve(FakeReply.text("I think one."), FakeReply.error(400, "out of order"))
    done = cli("run", "-m", "local/m", "--schema", POINT, "--json", "Hi")
    result = json.loads(done.out)
    assert (1, "provider", 2) == (done.code, result["error"]["kind"], result["turns"])
    assert "value" not in result
    assert "out of order" in done.err


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (FakeReply.chunks(chat_chunk('{"x": 1'), chat_chunk({}, "length")), "output limit"),
        (
            FakeReply.chunks(chat_chunk({"refusal": "I will not."}), chat_chunk({}, "stop")),
            "refused to answer",
        ),
    ],
)
def test_what_is_not_an_answer(cli: Cli, serve: Serve, reply: FakeReply, text: str) -> None:
    """A truncated reply and a refusal end the run at once, with exit code 4."""
    server = serve(reply)
    done = cli("run", "-m", "local/m", "--schema", POINT, "Hi")
    assert (4, "", 1) == (done.code, done.out, len(server.requests))
    assert text in done.err


def test_the_record_has_the_value(cli: Cli, serve: Serve) -> None:
    """With --jsonl in the result line, with -o in the file; a failed run has none."""
    serve(
        FakeReply.text('{"items": [1]}'),
        *[FakeReply.text(f'{{"items": [{n}]}}') for n in (2, 3)],
        *[FakeReply.text("no")] * 2,
    )
    args = ("run", "-m", "local/m", "--schema-multi", '{"type": "integer"}', "Hi")
    assert [1] == cli(*args, "--jsonl").result["value"]
    assert (0, "2\n", "") == cli(*args, "-o", "record")
    assert [3] == json.loads(cli(*args, "--json").out)["value"]
    assert [2] == json.loads((cli.work / "record").read_text().splitlines()[-1])["value"]
    failed = cli(*args, "--jsonl").result
    assert (4, "invalid_answer", "no") == (failed["exit_code"], failed["error"]["kind"], failed["text"])
    assert "value" not in failed


def test_tools_run_before_the_answer(cli: Cli, serve: Serve) -> None:
    """The text of other turns is not printed."""
    cli.file("tools.py", TOOLS)
    server = serve(FakeReply.tool_calls(("look", {}), text="Let me look."), FakeReply.text('{"x": 1}'))
    done = cli("run", "-m", "local/m", "-t", "./tools.py", "--schema", POINT, "Hi")
    assert (0, '{"x":1}\n', "") == done
    assert _asked(server, 0) == _asked(server, 1)


def test_a_conversation_continues_with_a_schema(cli: Cli, serve: Serve) -> None:
    """--history takes a record with or without a schema; a replay is validated, too."""
    server = serve(FakeReply.text("One."), FakeReply.text('{"x": 1}'), FakeReply.text("Good."))
    assert 0 == cli("run", "-m", "local/m", "-o", "first", "How many?").code
    args = ("run", "-m", "local/m", "--history")
    assert '{"x":1}\n' == cli(*args, "first", "-o", "second", "--schema", POINT, "As JSON").out
    assert "Good.\n" == cli(*args, "second", "Thanks").out
    assert ["user", "assistant"] * 2 + ["user"] == [
        item["role"] for item in server.requests[2].json["messages"]
    ]
    assert '{"x":1}\n' == cli("run", "-m", "replay:second", "--schema", POINT, "Hi").out
    failed = cli("run", "-m", "replay:second", "--schema", "y", "Hi")
    assert (1, "") == (failed.code, failed.out)  # the record has no reply for the repair


def test_the_demo_gives_an_example(cli: Cli) -> None:
    """With the values of the prompt, or with the result of a tool."""
    done = cli("run", "-m", "demo", "--schema", "name, age int, tags list, fun bool", "name=Ada 'a b' 36")
    assert {"name": "Ada", "age": 36, "tags": ["a b"], "fun": False} == json.loads(done.out)
    tree = '{"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"enum": ["x"]}}, "required": ["b"]}'
    assert 0 == cli("run", "-m", "demo", "--schema", tree, "Hi").code
    done = cli("run", "-m", "demo", "-t", "calc", "--schema", "result", "What is 6 * 7?")
    assert {"result": "6 * 7 = 42"} == json.loads(done.out)


def test_a_terminal_gets_indented_and_harmless_json(cli: Cli, serve: Serve) -> None:
    """Control characters of the model do not reach the terminal."""
    serve(FakeReply.text('{"x": 1, "y": "a\u202eb\x9bc"}'))
    terminal = cli.on_terminal("run", "-m", "local/m", "--schema", POINT, "Hi")
    assert 0 == terminal.end()
    assert b'{\r\n  "x": 1,\r\n  "y": "a' in terminal.shown
    assert "\u202e".encode() not in terminal.shown
    assert "\x9b".encode() not in terminal.shown


def test_a_full_disk_and_a_closed_pipe(cli: Cli, serve: Serve) -> None:
    """As for every run: a full disk is an error, a reader that has left is not."""
    serve(*[FakeReply.text('{"x": 1}')] * 2)
    done = cli.shell(f"$T run -m local/m --schema '{POINT}' Hi > /dev/full")
    assert (1, "") == (done.code, done.out)
    assert "Cannot write to standard output: No space left on device." in done.err
    done = cli.shell(f"($T run -m local/m --schema '{POINT}' Hi; echo $? > code) | true; cat code")
    assert ("141\n", "") == (done.out, done.err)


# ---- how a schema is written ------------------------------------------------------------------------------


@pytest.mark.usefixtures("new_processes")
def test_a_schema_in_a_file_or_a_pipe(cli: Cli, serve: Serve) -> None:
    """A file may have any name, also one that reads like a field."""
    server = serve(*[FakeReply.text('{"x": 1}')] * 3)
    for name in ("point.json", "name"):
        cli.file(name, POINT)
        assert '{"x":1}\n' == cli("run", "-m", "local/m", "--schema", name, "Hi").out
    assert '{"x":1}\n' == cli.shell("$T run -m local/m --schema <(cat point.json) Hi").out
    assert 1 == len({json.dumps(_asked(server, number)) for number in range(3)})


def test_fields_with_types_and_descriptions(cli: Cli, serve: Serve) -> None:
    """Separated by commas, or by lines if a description has commas."""
    server = serve(*[FakeReply.text("{}")] * 4)
    cli("run", "-m", "local/m", "--schema", "a: the first, b float, c list[int], d bool: really", "Hi")
    cli("run", "-m", "local/m", "--schema", "a int: one, two\n\n  b-2 list\n", "Hi")
    assert {
        "a": {"type": "string", "description": "the first"},
        "b": {"type": "number"},
        "c": {"type": "array", "items": {"type": "integer"}},
        "d": {"type": "boolean", "description": "really"},
    } == _asked(server)["properties"]
    assert {
        "a": {"type": "integer", "description": "one, two"},
        "b-2": {"type": "array", "items": {"type": "string"}},
    } == _asked(server, 2)["properties"]


@pytest.mark.parametrize(
    ("argument", "reply", "printed"),
    [
        ("models:Point", '{"x": 1, "y": null}', '{"x":1}'),
        ("./models.py:Point", '{"x": 1, "y": 2}', '{"x":1,"y":2}'),
        ("models:Outer.Dog", '{"name": "Rex"}', '{"name":"Rex"}'),
        ("models:SCHEMA", '{"items": [1]}', "[1]"),
        ("models:FORM", '{"value": 5}', "5"),
    ],
)
def test_a_type_in_a_module(cli: Cli, serve: Serve, argument: str, reply: str, printed: str) -> None:
    """Modules of the working directory are found. What they print goes to standard error."""
    cli.file("models.py", MODELS if argument.startswith("models") else MODELS.replace(", common", ""))
    cli.file("common.py", "")
    serve(FakeReply.text(reply))
    done = cli("run", "-m", "local/m", "--schema", argument, "Hi")
    assert (0, f"{printed}\n", "imported\n") == done


def test_the_working_directory_does_not_shadow_installed_modules(cli: Cli, serve: Serve) -> None:
    """A file with the name of a module of Python or of ours is not imported."""
    for name in ("json", "msgspec", "jsonschema_rs", "ssl"):
        cli.file(f"{name}.py", "print('shadowed')")
    cli.file("models.py", MODELS.replace(", common", ""))
    serve(FakeReply.text('{"x": 1}'))
    done = cli.shell('"$PYTHON" -P -m tinyagent_cli run -m local/m --schema models:Point Hi')
    assert (0, '{"x":1}\n', "imported\n") == done


def test_a_typed_list(cli: Cli, serve: Serve) -> None:
    """--schema-multi validates each item by the type."""
    cli.file("models.py", MODELS.replace(", common", ""))
    serve(*[FakeReply.text('[{"x": 1}, {"x": true}]')] * 2)
    done = cli("run", "-m", "local/m", "--schema-multi", "models:Point", "Hi")
    assert (4, "") == (done.code, done.out)
    assert "item 1: Expected `int`, got `bool` - at `$.x`" in done.err


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("", "--schema is empty"),
        (" , ", "--schema is empty"),
        ("{", "--schema is not JSON"),
        ('{"type": "nothing"}', "at type"),
        ("missing.json", "there is no file missing.json"),
        ("./missing", "there is no file ./missing"),
        ("empty.json", "empty.json is not JSON"),
        ("list.json", "list.json is not a JSON Schema"),
        ("name, age integers", "the type 'integers' is unknown"),
        ("name, name", "the field 'name' appears twice"),
        ("the name of it", "the field 'the name of it' is not NAME"),
        ("nosuch:Type", "No module named 'nosuch'"),
        ("models:Nothing", "there is no 'Nothing'"),
        ("models:Outer.Cat", "there is no 'Cat'"),
        ("models:WRONG", "cannot be the type of an answer"),
        ("pydantic:BaseModel", "cannot be the type of an answer"),
        ("broken:Type", "the import failed: ZeroDivisionError"),
        ("leaves:Type", "the import failed: SystemExit"),
        ("./nosuch.py:Type", "there is no file ./nosuch.py"),
    ],
)
def test_a_schema_that_cannot_be_used(cli: Cli, argument: str, text: str) -> None:
    """It is a usage error before the first request, and the hint lists the forms."""
    cli.file("models.py", MODELS.replace(", common", "").replace('print("imported")', ""))
    cli.file("broken.py", "1 / 0")
    cli.file("leaves.py", "import sys; sys.exit(0)")
    cli.file("empty.json", "")
    cli.file("list.json", "[]")
    done = cli("run", "-m", "demo", "--schema", argument, "Hi")
    assert (2, "") == (done.code, done.out)
    assert text in done.err
    failed = cli("run", "-m", "demo", "--jsonl", "--schema", argument, "Hi").result
    assert (2, "usage") == (failed["exit_code"], failed["error"]["kind"])


def test_both_options_are_refused(cli: Cli) -> None:
    """They contradict each other, and so do --schema and -x."""
    done = cli("run", "-m", "demo", "--schema", "a", "--schema-multi", "a", "Hi")
    assert (2, "") == (done.code, done.out)
    assert "cannot be used together" in done.err
    done = cli("run", "-m", "demo", "--schema", "a", "-x", "Hi")
    assert (2, "") == (done.code, done.out)
    assert "Choose one" in done.err


def test_the_record_does_not_replace_the_schema(cli: Cli) -> None:
    """As for every file that the run reads."""
    path: Path = cli.file("point.json", POINT)
    done = cli("run", "-m", "demo", "-o", "point.json", "--schema", "point.json", "Hi")
    assert (2, POINT) == (done.code, path.read_text())
    assert "would replace the file that --schema uses" in done.err
