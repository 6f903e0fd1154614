"""`tinyagent replay`: a recorded run looks like the live run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import SECONDS, Cli, read_lines

HOUR = 3_600_000
CLOSING = "demo · 11 tokens in, 17 out"


def set_times(record: Path, time_of: Callable[[int, dict[str, Any]], int]) -> None:
    """Replace the times of the lines, by the number of the line and the line."""
    lines = read_lines(record)
    for number, line in enumerate(lines):
        if "time" in line:
            line["time"] = time_of(number, line)
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))


def after(kind: str, delay: int) -> Callable[[int, dict[str, Any]], int]:
    """Times in which a delay (in ms) comes before the first line of a type, and nothing else takes time."""
    seen = False

    def time_of(number: int, line: dict[str, Any]) -> int:
        nonlocal seen
        seen = seen or line["type"] == kind
        return 1_700_000_000_000 + (delay if seen else 0)

    return time_of


def without_durations(text: str) -> list[str]:
    """The lines without their seconds, which may be rounded differently."""
    return re.sub(r"\d+\.\d s", "", text).splitlines()


def test_the_output_is_that_of_the_run(cli: Cli) -> None:
    """Standard output has the same bytes, and -v shows the same events."""
    live = cli("run", "-v", "-m", "demo", "-t", "calc", "-o", "run.jsonl", "What is 6 * 7?")
    replayed = cli("replay", "-v", "run.jsonl")
    assert (0, live.out) == (replayed.code, replayed.out)
    shown = without_durations(replayed.err)
    assert "> What is 6 * 7?" == shown.pop(0)
    assert shown == [
        line for line in without_durations(live.err) if not line.startswith(("demo: ", "Session "))
    ]


def test_without_a_terminal_all_is_shown_at_once(cli: Cli, record: Path) -> None:
    """A replay in a pipe does not wait, and shows the recorded durations."""
    set_times(record, after("tool_execution_end", 90_000))
    done = cli("replay", "-v", record)
    assert (0, "6 * 7 = 42\n") == (done.code, done.out)
    assert "✓ calc 6 * 7 1 min 30 s" in done.err
    assert "> What is 6 * 7?" in done.err
    assert (0, "6 * 7 = 42\n", "") == cli("replay", "-q", record)


@pytest.mark.parametrize("args", [(), ("--speed", "2"), ("--speed", "0.5")])
def test_a_terminal_waits_as_long_as_the_run(cli: Cli, record: Path, args: tuple[str, ...]) -> None:
    """Nothing after a long pause is shown before it has passed. Ctrl-C ends the replay."""
    set_times(record, after("tool_execution_end", HOUR))
    terminal = cli.on_terminal("replay", *args, record)
    terminal.expect("calc 6 * 7")
    assert terminal.process.poll() is None
    terminal.type("\x03")
    assert 130 == terminal.end()
    assert "42" not in "\n".join(terminal.screen())


def test_speed_0_does_not_wait_on_a_terminal(cli: Cli, record: Path) -> None:
    """The screen looks as after the run."""
    set_times(record, after("tool_execution_end", HOUR))
    terminal = cli.on_terminal("replay", "--speed", "0", record)
    assert 0 == terminal.end()
    shown = terminal.screen()
    assert ["> What is 6 * 7?", "✓ calc 6 * 7 60 min 0 s", "6 * 7 = 42"] == shown[:3]
    assert shown[3].startswith(CLOSING)


def test_the_time_between_two_runs_is_left_out(cli: Cli) -> None:
    """A session is continued days later. Its replay shows one run after the other."""
    for question in ("6 * 7", "6 * 8"):
        cli("run", "-m", "demo", "--session", "trip", "-t", "calc", f"What is {question}?")
    path = cli.home / "sessions/named/trip.jsonl"
    second = [n for n, line in enumerate(path.read_bytes().splitlines()) if b"agent_start" in line][1]
    set_times(path, lambda number, line: 1_700_000_000_000 + (24 * HOUR if number >= second else 0))
    done = cli("replay", "--speed", "1", "trip")
    assert (0, "6 * 7 = 42\n6 * 8 = 48\n") == (done.code, done.out)


def test_times_that_go_back_or_are_huge_do_not_matter(cli: Cli, record: Path) -> None:
    """Clocks are corrected, and other programs write records."""
    for time_of in (
        lambda number, line: 1_700_000_000_000 - number * HOUR,
        lambda number, line: 10**30 if number % 2 else -(10**30),
    ):
        set_times(record, time_of)
        done = cli("replay", "-v", "--speed", "1", record)
        assert (0, "6 * 7 = 42\n") == (done.code, done.out)


def test_the_error_of_the_run_is_shown(cli: Cli) -> None:
    """It is that of the live run, but the replay succeeds."""
    live = cli("run", "-m", "replay:missing", "-o", "run.jsonl", "Hello")
    assert 0 != live.code
    replayed = cli("replay", "run.jsonl")
    assert (0, "") == (replayed.code, replayed.out)
    assert live.err == replayed.err


def test_a_torn_record_is_shown_to_its_end(cli: Cli, record: Path) -> None:
    """The warning names the incomplete line, and nothing that moves stays on the screen."""
    data = record.read_bytes()
    record.write_bytes(data[: data.index(b'"tool_execution_end"') + 30])
    terminal = cli.on_terminal("replay", "--speed", "0", record)
    assert 0 == terminal.end()
    shown = "\n".join(terminal.screen())
    assert re.search(r"line \d+ is incomplete", shown.replace("\n", " "))
    assert "⠋" not in shown


def test_control_characters_of_a_record_do_not_reach_the_terminal(cli: Cli, record: Path) -> None:
    """A record may be from anywhere: the model, the prompt, tools, the reply and the error are sanitised."""
    attack = "\\u001b]0;pwned\\u0007"
    text = record.read_text()
    for part in (
        '"id":"demo"',
        '"text":"What is',
        '"tool_name":"calc',
        '"expression":"6',
        '"delta":"6',
        '"text":"42',
    ):
        assert part in text
        text = text.replace(part, part.rstrip('"') + attack + ('"' if part.endswith('demo"') else ""))
    failed = json.dumps({"kind": "x", "message": "\x1b]0;pwned\x07", "hint": "\x1b]0;pwned\x07"})
    record.write_text(text.replace('"error":null', f'"error":{failed}'))
    at_once = cli.on_terminal("replay", "-v", "--speed", "0", record)
    assert 0 == at_once.end()
    set_times(record, lambda number, line: 1_700_000_000_000 + (HOUR if number > 4 else 0))
    waiting = cli.on_terminal("replay", record)
    waiting.expect("connecting to demo")
    waiting.type("\x03")
    assert 130 == waiting.end()
    assert b"\x1b]0;pwned" not in at_once.shown + waiting.shown


@pytest.mark.parametrize("speed", ["nan", "inf", "-1", "fast"])
def test_a_speed_that_is_no_amount_is_refused(cli: Cli, record: Path, speed: str) -> None:
    """The error names the option."""
    done = cli("replay", "--speed", speed, record)
    assert (2, "") == (done.code, done.out)
    assert "--speed" in done.err


def test_a_full_disk_and_a_closed_pipe_end_the_replay(cli: Cli, record: Path, closed_pipe: int) -> None:
    """A full disk is an error; a reader that left is not reported."""
    full = cli.shell("$T replay run.jsonl > /dev/full")
    assert (1, True) == (full.code, "No space left on device" in full.err)
    process = cli.start("replay", record, stdout=closed_pipe)
    _, err = process.communicate(timeout=SECONDS)
    assert (141, b"") == (process.returncode, err)


# ---- run --record ---------------------------------------------------------------------------------------


@pytest.fixture
def tested(cli: Cli) -> Path:
    """A record for tests, of a run with one tool call."""
    path = cli.work / "tested.jsonl"
    done = cli("run", "-m", "demo", "-t", "calc", "-s", "Be brief.", "--record", path, "What is 6 * 7?")
    assert (0, "6 * 7 = 42\n") == (done.code, done.out), done.err
    return path


def test_the_recorded_request_is_answered(cli: Cli, tested: Path) -> None:
    """The same prompt and tools give the same output. The record is valid."""
    done = cli("run", "-m", f"replay:{tested}", "-t", "calc", "-s", "Be brief.", "What is 6 * 7?")
    assert (0, "6 * 7 = 42\n", "") == done
    assert 0 == cli("events", "validate", tested).code


CHANGED_CALC = '''
from tinyagent import tool

@tool(read_only=True)
def calc(expression: str) -> str:
    """Evaluate something else."""
    return "42"
'''


@pytest.mark.parametrize(
    ("args", "difference"),
    [
        (
            ("-t", "calc", "What is 6 * 8?"),
            "the prompt is 'What is 6 * 8?', and 'What is 6 * 7?' is recorded",
        ),
        (
            ("-t", "calc", "-s", "Hi", "What is 6 * 7?"),
            "the system prompt is 'Hi', and 'Be brief.' is recorded",
        ),
        (("What is 6 * 7?",), "the tool calc is missing"),
        (("-t", "calc", "-t", "changed.py", "What is 6 * 7?"), "the tool other is new"),
        (("-t", "calc.py", "What is 6 * 7?"), "the tool calc has changed"),
        (("-t", "calc", "--schema", "a int", "What is 6 * 7?"), "the schema is new"),
    ],
)
def test_another_request_fails_with_the_difference(
    cli: Cli, tested: Path, args: tuple[str, ...], difference: str
) -> None:
    """The exit code is 1, nothing is printed, and the error says what differs."""
    cli.file("calc.py", CHANGED_CALC)
    cli.file("changed.py", CHANGED_CALC.replace("def calc", "def other"))
    done = cli("run", "-m", f"replay:{tested}", "-s", "Be brief.", *args)
    assert (1, "") == (done.code, done.out)
    assert f"Model call 1 is not the one recorded in {tested}: {difference}." in done.err
    assert "Record the run again with --record." in done.err


def test_another_tool_result_fails(cli: Cli) -> None:
    """The second model call has the result of the tool, which is compared, too."""
    (cli.work / "value").write_text("one")
    cli.file("look.py", CHANGED_CALC.replace('return "42"', 'return open("value").read()'))
    args = ("-t", "look.py", "What is 6 * 7?")
    assert 0 == cli("run", "-m", "demo", "--record", "run.jsonl", *args).code
    assert 0 == cli("run", "-m", "replay:run.jsonl", *args).code
    (cli.work / "value").write_text("two")
    done = cli("run", "-m", "replay:run.jsonl", *args)
    assert 1 == done.code
    assert "Model call 2 is not the one recorded in run.jsonl: the result of calc is 'two'" in done.err


def test_a_history_and_a_schema_are_compared(cli: Cli, tested: Path) -> None:
    """A run that continues another one, and a run with a schema, can be tests."""
    cases: tuple[tuple[str, ...], ...] = (
        ("--history", str(tested), "Hello"),
        ("--schema", "name, age int", "name=Ada age=36"),
    )
    for args in cases:
        recorded = cli("run", "-m", "demo", "--record", "run.jsonl", *args)
        replayed = cli("run", "-m", "replay:run.jsonl", *args)
        assert (0, recorded.out) == (replayed.code, replayed.out), replayed.err
        assert 1 == cli("run", "-m", "replay:run.jsonl", args[-1]).code


def test_a_record_of_output_is_not_compared(cli: Cli, record: Path) -> None:
    """Only --record asks for a comparison."""
    done = cli("run", "-m", f"replay:{record}", "-t", "calc", "Another prompt")
    assert (0, "6 * 7 = 42\n") == (done.code, done.out)


def test_record_and_output_exclude_each_other(cli: Cli, tested: Path) -> None:
    """Both write the record. Errors about the file name the option."""
    both = cli("run", "-m", "demo", "-o", "a", "--record", "b", "Hello")
    assert (2, True) == (both.code, "Choose one of -o and --record" in both.err)
    same = cli("run", "-m", f"replay:{tested}", "--record", tested, "-t", "calc", "Hello")
    assert (2, True) == (same.code, f"--record {tested} would replace the file" in same.err)
