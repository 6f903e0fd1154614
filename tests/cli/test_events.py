"""`tinyagent events`: filters over recorded runs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, SECONDS, Cli, FakeReply, Serve, read_lines
from .page_records import RecordWriter

GUIDE = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
FILTERS = ("text", "stats", "tools")


def edited(record: Path, edit: Callable[[list[dict[str, Any]]], None]) -> bytes:
    """The record after a change of its lines."""
    lines = read_lines(record)
    edit(lines)
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def position(lines: list[dict[str, Any]], kind: str) -> int:
    """The index of the first line of a type."""
    return next(number for number, line in enumerate(lines) if line["type"] == kind)


# ---- the source -----------------------------------------------------------------------------------------


def test_a_file_a_session_and_a_pipe_give_the_same(cli: Cli, record: Path) -> None:
    """The replies are printed from a file, from standard input, and from a session by name and by id."""
    cli("run", "-m", "demo", "-t", "calc", "--session", "trip", "What is 6 * 7?")
    header = read_lines(cli.home / "sessions/named/trip.jsonl")[0]
    outputs = [
        cli("events", "text", record),
        cli("events", "text", stdin=record.read_bytes()),
        cli("events", "text", "-", stdin=record.read_bytes()),
        cli("events", "text", "trip"),
        cli("events", "text", header["id"][:8]),
    ]
    assert [(0, "6 * 7 = 42\n", "")] * 5 == [tuple(done) for done in outputs]


@pytest.mark.parametrize("name", [*FILTERS, "validate"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.jsonl", "There is no file missing.jsonl."),
        ("missing", "There is neither a file nor a session 'missing'."),
        (".", "Cannot read .: Is a directory."),
    ],
)
def test_a_source_that_cannot_be_read_is_named(cli: Cli, name: str, source: str, message: str) -> None:
    """The error has the name, and the exit code is 2."""
    done = cli("events", name, source)
    assert (2, "") == (done.code, done.out)
    assert message in done.err


@pytest.mark.parametrize("name", FILTERS)
def test_an_empty_source_is_an_error(cli: Cli, name: str) -> None:
    """A pipe whose writer failed is not mistaken for a run without a reply."""
    done = cli("events", name, stdin=b"")
    assert (2, "") == (done.code, done.out)
    assert "standard input has no recorded run." in done.err


@pytest.mark.parametrize("name", FILTERS)
def test_a_torn_last_line_is_left_out(cli: Cli, record: Path, name: str) -> None:
    """A record that is being written can be read; a warning names the incomplete line."""
    done = cli("events", name, stdin=record.read_bytes()[:-20])
    assert 0 == done.code
    assert "Warning: standard input: line 41 is incomplete and was left out" in done.err


@pytest.mark.parametrize("name", FILTERS)
def test_a_malformed_line_is_an_error_with_its_number(cli: Cli, record: Path, name: str) -> None:
    """The error names the source and the line."""
    done = cli("events", name, stdin=record.read_bytes() + b"hello\n")
    assert 2 == done.code
    assert "standard input: line 42 is not JSON" in done.err


@pytest.mark.parametrize("name", [*FILTERS, "validate"])
def test_a_full_disk_is_an_error(cli: Cli, record: Path, name: str) -> None:
    """Output that cannot be written is not lost silently."""
    data = record.read_bytes()[:-20]
    (cli.work / "torn.jsonl").write_bytes(data)
    done = cli.shell(f"$T events {name} torn.jsonl > /dev/full")
    assert 1 == done.code
    assert "Cannot write to standard output: No space left on device." in done.err


def test_a_closed_pipe_ends_the_command_silently(cli: Cli, record: Path) -> None:
    """The reader of the output may leave early."""
    process = cli.start("events", "text", stdin=subprocess.PIPE)
    process.stdout.close()
    process.stdin.write(record.read_bytes())
    process.stdin.close()
    assert 141 == process.wait(SECONDS)
    assert b"" == process.stderr.read()


@pytest.mark.parametrize(("name", "first"), [("text", b"6 * 7"), ("tools", "✓ calc".encode())])
def test_lines_are_processed_as_they_arrive(cli: Cli, record: Path, name: str, first: bytes) -> None:
    """The output for a line appears while the writer of the pipe is still running."""
    data = record.read_bytes()
    process = cli.start("events", name, stdin=subprocess.PIPE)
    end = data.rindex(b'{"type":"message_end"')
    process.stdin.write(data[:end])
    process.stdin.flush()
    shown = process.stdout.read(len(first))
    assert first == shown
    assert process.poll() is None
    process.stdin.close()
    assert 0 == process.wait(SECONDS)


def test_a_terminal_without_a_source_gets_a_hint(cli: Cli) -> None:
    """The command does not wait for typed lines."""
    terminal = cli.on_terminal("events", "text")
    assert 2 == terminal.end()
    assert b"Name a file or a session, or pipe a run into this command." in terminal.shown


def test_control_characters_of_a_reply_do_not_reach_a_terminal(cli: Cli, record: Path) -> None:
    """A record may be from anywhere."""

    def edit(lines: list[dict[str, Any]]) -> None:
        for line in lines:
            step = line.get("assistant_message_event", {})
            if step.get("type") == "text_delta":
                step["delta"] = "\x1b]0;title\x07ok"

    record.write_bytes(edited(record, edit))
    terminal = cli.on_terminal("events", "text", record)
    assert 0 == terminal.end()
    assert b"ok" in terminal.shown
    assert b"title" not in terminal.shown


# ---- text -------------------------------------------------------------------------------------------------


def test_text_reports_a_failed_run(cli: Cli, record: Path) -> None:
    """The error of the result line is a warning."""
    failed = cli("run", "-m", "replay:missing", "--jsonl", "Hello")
    assert 0 != failed.code
    done = cli("events", "text", stdin=failed.out.encode())
    assert (0, "") == (done.code, done.out)
    assert "Warning: The run failed: " in done.err


# ---- stats ------------------------------------------------------------------------------------------------


def test_stats_agree_with_the_result_line(cli: Cli, record: Path) -> None:
    """Tokens, cost and turns are those of the run; durations come from the times of the lines."""
    times = {"message_end": 2000, "tool_execution_start": 3000, "tool_execution_end": 3500, "agent_end": 9000}

    def edit(lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if "time" in line:
                line["time"] = 1_000_000 + times.get(line["type"], 0)
        del lines[position(lines, "turn_end") + 1 : position(lines, "agent_end")]

    data = edited(record, edit)
    result = json.loads(data.splitlines()[-1])
    found = json.loads(cli("events", "stats", "--json", stdin=data).out)
    assert result["usage"] == found["usage"]
    assert (1, 0, 0, 1) == tuple(found[key] for key in ("runs", "failed_runs", "unfinished_runs", "turns"))
    assert {"calc": {"calls": 1, "failed": 0, "duration_ms": 500}} == found["tools"]
    assert (1_000_000, 9000, 500) == (found["started"], found["duration_ms"], found["tools_ms"])
    assert ["demo"] == found["models"]


def test_stats_add_up_the_runs_of_a_session(cli: Cli) -> None:
    """The usage is the sum of all runs."""
    for question in ("6 * 7", "6 * 8"):
        cli("run", "-m", "demo", "-t", "calc", "--session", "sums", f"What is {question}?")
    found = json.loads(cli("events", "stats", "sums", "--json").out)
    assert (2, 4, 2) == (found["runs"], found["turns"], found["tool_calls"])
    file = cli.home / "sessions/named/sums.jsonl"
    results = [line for line in read_lines(file) if line["type"] == "result"]
    assert sum(result["usage"]["total"] for result in results) == found["usage"]["total"]
    shown = cli("events", "stats", "sums").out
    assert re.search(r"^Runs +2$", shown, re.MULTILINE)
    assert re.search(r"^ +calc +2, ", shown, re.MULTILINE)


def test_stats_name_an_unknown_cost(cli: Cli, record: Path) -> None:
    """The sum of the known costs is not shown as the cost of all runs."""

    def edit(lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line.get("usage"):
                line["usage"]["cost"] = None

    data = record.read_bytes() + edited(record, edit)
    found = json.loads(cli("events", "stats", "--json", stdin=data).out)
    assert (2, 1, 0) == (found["runs"], found["runs_without_cost"], found["usage"]["cost"])
    shown = cli("events", "stats", stdin=data).out
    assert re.search(r"^Cost +\$0, and the unknown cost of 1 of the runs$", shown, re.MULTILINE)


def test_local_models_cost_nothing_in_the_stats(cli: Cli) -> None:
    """Also if the run was in a pipe and did not look for a price; compactions between runs, too."""
    record = RecordWriter()
    record.header()
    usage = {"input": 1, "output": 1, "total": 2, "cost": None}
    for provider in ("ollama", "acme"):
        record.event("agent_start")
        record.message("assistant", [], provider=provider, usage=usage)
        record.event("agent_end", usage=usage)
        record.result(usage=usage)
        record.compaction("In short.", usage=usage)
    found = json.loads(cli("events", "stats", "--json", stdin=record.data).out)
    assert (8, 0, 2) == (found["usage"]["total"], found["usage"]["cost"], found["runs_without_cost"])


def test_stats_of_an_interrupted_run_sum_its_replies(cli: Cli, record: Path) -> None:
    """Without agent_end and result, the usage is that of the replies so far."""
    lines = record.read_bytes().splitlines(keepends=True)
    found = json.loads(cli("events", "stats", "--json", stdin=b"".join(lines[:-2])).out)
    assert (1, 1) == (found["runs"], found["unfinished_runs"])
    assert json.loads(lines[-1])["usage"] == found["usage"]


def test_stats_have_the_time_of_compactions(cli: Cli) -> None:
    """A request for a summary is time of the model, in a run and between two runs."""
    record = RecordWriter()  # one event each second
    record.header()
    record.event("agent_start")
    record.event("turn_start")
    record.compaction("In short.")
    record.message("assistant", [])
    record.event("agent_end")
    record.result()
    record.compaction("Shorter.")
    found = json.loads(cli("events", "stats", "--json", stdin=record.data).out)
    assert (2, 6000 + 1000, 1000 + 2000 + 1000) == (
        found["compactions"], found["duration_ms"], found["model_ms"]
    )  # fmt: skip


# ---- tools ------------------------------------------------------------------------------------------------


def test_tools_list_arguments_result_and_duration(cli: Cli, record: Path) -> None:
    """Each call is one line for people, with its result below, and one object for programs."""
    assert re.fullmatch(r"✓ calc 6 \* 7  \d+\.\d s\n    42\n", cli("events", "tools", record).out)
    (call,) = cli("events", "tools", record, "--json").lines
    assert {"expression": "6 * 7"} == call["arguments"]
    assert [{"type": "text", "text": "42"}] == call["result"]["content"]
    assert (1, 1, "calc", False) == tuple(call[key] for key in ("run", "turn", "name", "is_error"))
    assert isinstance(call["duration_ms"], int)


def test_a_call_that_has_not_ended_is_listed_last(cli: Cli, record: Path) -> None:
    """After a crash, the last call may have no result."""
    lines = record.read_bytes().splitlines(keepends=True)
    start = next(n for n, line in enumerate(lines) if b"tool_execution_start" in line)
    data = b"".join(lines[: start + 1])
    assert "? calc 6 * 7  not ended\n" == cli("events", "tools", stdin=data).out
    call = json.loads(cli("events", "tools", "--json", stdin=data).out)
    assert [None, None, None] == [call[key] for key in ("result", "is_error", "duration_ms")]


# ---- validate ---------------------------------------------------------------------------------------------


def test_records_and_sessions_are_valid(cli: Cli, record: Path) -> None:
    """What tinyagent writes passes: a file, a session of two runs, a run with a history."""
    for _ in range(2):
        cli("run", "-m", "demo", "-t", "calc", "--session", "trip", "What is 6 * 7?")
    continued = cli("run", "-m", "demo", "--jsonl", "--history", record, "Hello")
    for args, given in (((record,), None), (("trip",), None), ((), continued.out.encode())):
        done = cli("events", "validate", *args, stdin=given)
        assert (0, "") == (done.code, done.out), done.out
        assert "is valid" in done.err


def test_the_records_of_failures_are_valid(cli: Cli, serve: Serve) -> None:
    """A run that failed, before or after its first request, has a valid record."""
    serve(FakeReply([b"broken"], status=400))
    for model in ("replay:missing", "local/m"):
        failed = cli("run", "-m", model, "--jsonl", "Hello")
        assert 0 != failed.code
        done = cli("events", "validate", stdin=failed.out.encode())
        assert (0, "") == (done.code, done.out)


def _swap(lines: list[dict[str, Any]]) -> None:
    place = position(lines, "tool_execution_end")
    lines[place], lines[place + 1] = lines[place + 1], lines[place]


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda lines: lines.pop(0), "line 1: there is no `session` line before this line"),
        (lambda lines: lines.pop(1), "line 2: turn_start comes before agent_start"),
        (lambda lines: lines.pop(-1), "line 40: the run has no `result` line"),
        (lambda lines: lines.pop(-2), "line 40: the run has not ended"),
        (lambda lines: lines[2].pop("seq"), 'line 3: turn_start: "seq" is a required property'),
        (lambda lines: lines[2].update(seq="x"), 'line 3: turn_start: seq: "x" is not of type "integer"'),
        (lambda lines: lines[6].update(seq=1), "line 7: message_update: seq is 1, after 5"),
        (lambda lines: lines[4]["message"].update(content=5), "line 5: message_end: message"),
        (lambda lines: lines.insert(30, lines[0]), "line 31: the run has no `result` line"),
        (lambda lines: lines.append({"a": 1}), "line 42: this is not an object with a `type`"),
        (lambda lines: lines.append({"time": 1, **lines[-1]}), "line 42: `type` is not the first key"),
        (_swap, "line 25: message_start:tool_result: a result comes after its tool_execution_end"),
    ],
)
def test_problems_are_reported_with_their_line(
    cli: Cli, record: Path, edit: Callable[[list[dict[str, Any]]], None], problem: str
) -> None:
    """Each fault is found where it is."""
    done = cli("events", "validate", stdin=edited(record, edit))
    assert 1 == done.code
    assert problem in done.out
    assert "Error: standard input has " in done.err


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: data.replace(b"\n", b"\r\n", 1), "line 1: the line ends with CR LF, not LF"),
        (lambda data: data.replace(b"\n", b"\n\n", 1), "line 2: the line is blank"),
        (lambda data: data + b"{]\n", "line 42: this is not JSON"),
        (lambda data: data[:-1], "line 41: the line is incomplete: it has no LF"),
        (lambda data: data.decode().encode("utf-16"), "line 1: the encoding is not UTF-8"),
        (lambda data: b"", "line 0: there is no line of a run"),
        (lambda data: b"[" * 100_000 + b"\n", "line 1: this is not JSON"),
    ],
)
def test_damaged_bytes_are_reported(
    cli: Cli, record: Path, damage: Callable[[bytes], bytes], problem: str
) -> None:
    """The format of the lines is checked, too, even where readers are lenient."""
    done = cli("events", "validate", stdin=damage(record.read_bytes()))
    assert 1 == done.code
    assert problem in done.out


def test_a_line_that_is_no_json_is_a_problem(cli: Cli) -> None:
    """The summary has the numbers of problems and lines."""
    done = cli("events", "validate", stdin=b"nonsense\n")
    assert (1, "Error: standard input has 2 problems in 1 line.\n") == (done.code, done.err)


def test_the_next_run_is_checked_after_a_problem(cli: Cli, record: Path) -> None:
    """A problem in the order of a run does not hide those of later runs, and is reported once."""
    broken = edited(record, lambda lines: lines.pop(2))
    done = cli("events", "validate", stdin=broken + record.read_bytes() + broken)
    assert ["line 3", "line 84"] == [line.partition(":")[0] for line in done.out.splitlines()]


def test_an_unknown_type_is_a_warning(cli: Cli, record: Path) -> None:
    """Readers ignore it, so the record is valid."""
    done = cli("events", "validate", stdin=edited(record, lambda lines: lines.insert(5, {"type": "later"})))
    assert (0, "") == (done.code, done.out)
    assert "line 6 has the unknown type 'later', which readers ignore." in done.err
