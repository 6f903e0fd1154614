"""Sessions: runs are saved, continued, listed, searched and removed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from rich.cells import cell_len

from tests.test_jsonl import ANY_EVENT, PROPERTY, runs
from tinyagent import jsonl
from tinyagent.agent_types import MessageEndEvent, MessageStartEvent, MessageUpdateEvent
from tinyagent.testing import Wait
from tinyagent.testing.server import Hold, chat_chunk, sse
from tinyagent_cli.sessions.files import try_lock, unlock
from tinyagent_cli.sessions.writer import SessionLines

from .conftest import SECONDS, TOOLS, Cli, FakeReply, Serve, Terminal, read_lines


def texts(path: Path) -> list[tuple[str, str]]:
    """The role and the text of each message in a session file."""
    return [
        (str(message["role"]), "".join(block.get("text", "") for block in message["content"]))
        for message in jsonl.messages(path.read_bytes())
    ]


def listed(cli: Cli, *args: str) -> list[dict[str, Any]]:
    """What `sessions list --json` prints."""
    found: list[dict[str, Any]] = json.loads(cli("sessions", "list", "--json", *args).out)
    return found


def demo(cli: Cli, *args: str | Path) -> None:
    """Run the demo, which must succeed."""
    done = cli("run", "-m", "demo", *args)
    assert 0 == done.code, done.err


@pytest.fixture
def locked() -> Iterator[Callable[[Path], None]]:
    """Lock session files as another process would."""
    opened: list[int] = []

    def lock(path: Path) -> None:
        opened.append(os.open(path, os.O_RDWR))
        fcntl.flock(opened[-1], fcntl.LOCK_EX)

    yield lock
    for descriptor in opened:
        os.close(descriptor)


# ---- the file -------------------------------------------------------------------------------------------


@PROPERTY
@given(runs())
def test_the_lines_are_those_of_the_jsonl_encoder(events: list[Any]) -> None:
    """The writer of sessions makes the same lines as `jsonl.Encoder` without deltas."""
    made = SessionLines(clock=lambda: 7)
    expected = b"".join(jsonl.write(events, deltas=False, clock=lambda: 7))
    assert expected == b"".join(made.event(event) for event in events)


@PROPERTY
@given(ANY_EVENT)
def test_any_event_is_written(event: Any) -> None:
    """An event of a foreign provider never fails; only deltas have no line."""
    line = SessionLines(clock=lambda: 7).event(event)
    assert isinstance(event, MessageUpdateEvent) == (line == b"")
    if isinstance(event, MessageEndEvent | MessageStartEvent):
        assert json.loads(line)["role"] == event.message["role"]


def test_a_run_is_saved_in_one_private_file(cli: Cli, serve: Serve) -> None:
    """The file is the stream without deltas: one header, the events and the result, each with the id."""
    serve(FakeReply.text("Hel", "lo"))
    done = cli("run", "-m", "local/m", "--jsonl", "Hi")
    [path] = cli.sessions()
    saved = read_lines(path)
    header, result = saved[0], saved[-1]
    assert (0o600, 0o700) == tuple(stat.S_IMODE(at.stat().st_mode) for at in (path, path.parent))
    assert 0o700 == stat.S_IMODE((cli.home / "sessions").stat().st_mode)
    assert path.parent.name == header["created"][:7]
    assert (path.stem, str(cli.work.resolve())) == (header["id"], header["cwd"])
    assert [header["id"]] * 3 == [done.lines[0]["id"], done.result["session"], result["session"]]
    assert [line for line in done.lines if line["type"] != "message_update"][1:-1] == [
        {**line, "seq": other["seq"], "time": other["time"]}
        for line, other in zip(
            saved[1:-1],
            [line for line in done.lines if line["type"] != "message_update"][1:-1],
            strict=True,
        )
    ]
    assert [("user", "Hi"), ("assistant", "Hello")] == texts(path)


def test_the_schema_has_the_lines_of_a_session(cli: Cli) -> None:
    """`tinyagent schema events` describes the lines of a session file."""
    import jsonschema_rs

    demo(cli, "Hi")
    schema = json.loads(cli("schema", "events").out)
    for line in read_lines(cli.sessions()[0]):
        jsonschema_rs.validator_for(schema).validate(line)


@pytest.mark.parametrize(
    "args",
    [
        ["--no-session", "-m", "demo", "Hi"],
        ["-m", "openai/gpt-4o", "Hi"],
        ["-m", "demo", "-f", "missing", "Hi"],
        ["-m", "demo", "--max-turns", "none", "Hi"],
        ["-m", "openai/gpt-4o", "--session", "trip", "Hi"],
        ["-m", "demo", "-f", "missing", "--session", "trip", "Hi"],
    ],
    ids=lambda args: "-".join(args),
)
def test_a_run_without_a_first_message_leaves_no_session(cli: Cli, args: list[str]) -> None:
    """--no-session, usage errors and missing settings leave no file, and no id in the result."""
    done = cli("run", "--jsonl", *args)
    assert "session" not in done.result
    assert [] == cli.sessions()


def test_the_setting_saves_no_sessions(cli: Cli) -> None:
    """`[sessions] keep = false` saves no run, except those of --session."""
    cli.config("[sessions]\nkeep = false\n")
    demo(cli, "Hi")
    assert [] == cli.sessions()
    demo(cli, "--session", "trip", "Hi")
    assert ["trip.jsonl"] == [path.name for path in cli.sessions()]


def test_a_project_cannot_set_it(cli: Cli) -> None:
    """`[sessions]` in a project file is an error that names the user's file."""
    cli.file("tinyagent.toml", "[sessions]\nkeep = false\n")
    done = cli("run", "-m", "demo", "Hi")
    assert 3 == done.code
    assert "config.toml" in done.err


def test_a_failed_run_is_saved_and_continued(cli: Cli, serve: Serve) -> None:
    """The session of a failed run has its result; the next run says so and continues it."""
    server = serve(FakeReply.error(400, "bad request"), FakeReply.text("Now it works."))
    assert 1 == cli("run", "-m", "local/m", "--session", "s", "First").code
    assert 1 == read_lines(cli.sessions()[0])[-1]["exit_code"]
    done = cli("run", "--session", "s", "Second")
    assert (0, "Now it works.\n") == (done.code, done.out)
    assert "The last run of the session s failed:" in done.err
    sent = server.requests[-1].json["messages"]
    assert {"user"} == {message["role"] for message in sent}
    assert "First" in str(sent)
    assert "Second" in str(sent)
    assert 2 == [line["type"] for line in read_lines(cli.sessions()[0])].count("result")


def test_an_interrupted_run_is_not_called_failed(cli: Cli, serve: Serve) -> None:
    """Neither by the next run of the session nor by `--history`, `sessions show` and `events stats`."""
    serve(FakeReply.chunks(chat_chunk("Once"), Wait()), FakeReply.text("A."), FakeReply.text("B."))
    run = cli.start("run", "-m", "local/m", "--session", "s", "Hi")
    assert b"Once" == run.stdout.read(4)
    run.send_signal(signal.SIGINT)
    assert 130 == run.wait(SECONDS)
    history = cli("run", "-m", "local/m", "--no-session", "--history", cli.sessions()[0], "Go on")
    assert f"The run in --history {cli.sessions()[0]} was interrupted." in history.err
    shown = cli("sessions", "show", "s").out
    assert shown.endswith("\nInterrupted.\n"), shown
    assert cli("events", "stats", "s").out.startswith("Runs        1 (1 interrupted)\n")
    assert "The last run of the session s was interrupted.\n" in cli("run", "-c", "Go on").err


def test_an_aborted_run_is_saved(cli: Cli, serve: Serve) -> None:
    """A time-out ends the run, and the session has its result."""
    serve(FakeReply([sse(chat_chunk("I beg")), Hold()]))
    done = cli("run", "-m", "local/m", "--timeout", "1", "--jsonl", "Hi")
    assert 124 == done.code
    [path] = cli.sessions()
    assert (124, path.stem) == (read_lines(path)[-1]["exit_code"], done.result["session"])
    assert [("user", "Hi"), ("assistant", "I beg")] == texts(path)


# ---- continuing -----------------------------------------------------------------------------------------


def test_continue_goes_on_with_the_last_session_of_the_folder(cli: Cli, serve: Serve) -> None:
    """-c sends the conversation so far, with the model and the system prompt of the session."""
    server = serve(FakeReply.text("One."), FakeReply.text("Two."), FakeReply.text("Three."))
    cli("run", "-m", "local/m", "-s", "Be brief.", "First")
    other = cli.work / "other"
    other.mkdir()
    cli.shell(f"cd {other} && $T run -m demo Elsewhere")
    done = cli("run", "-c", "--jsonl", "Second")
    assert ("Two.", 0) == (done.result["text"], done.code), done.err
    assert ["session", "history", "history", "agent_start"] == [line["type"] for line in done.lines[:4]]
    assert [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "First"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "Second"},
    ] == server.requests[-1].json["messages"]
    assert "m" == server.requests[-1].json["model"]
    [path] = [path for path in cli.sessions() if len(texts(path)) == 4]
    assert (path.stem, path.stem) == (done.result["session"], done.lines[0]["id"])
    assert ["session"] == [
        line["type"] for line in read_lines(path) if line["type"] in ("session", "history")
    ]
    assert 0 == cli("run", "-c", "-s", "Be long.", "Third").code
    assert {"role": "system", "content": "Be long."} == server.requests[-1].json["messages"][0]


def test_a_session_goes_on_with_another_model(cli: Cli, serve: Serve) -> None:
    """-m changes the model; without it, the model of the last reply answers."""
    server = serve(FakeReply.text("One."), FakeReply.text("Two."))
    demo(cli, "--session", "trip", "First")
    assert "One.\n" == cli("run", "--session", "trip", "-m", "local/big/m", "Second").out
    assert ["user", "assistant", "user"] == [m["role"] for m in server.requests[-1].json["messages"]]
    assert "Two.\n" == cli("run", "--session", "trip", "Third").out
    assert "big/m" == server.requests[-1].json["model"]
    assert ["user", "assistant"] * 3 == [role for role, _ in texts(cli.sessions()[0])]


def test_a_session_whose_provider_is_gone(cli: Cli, serve: Serve) -> None:
    """The error says how to go on, and another model does. A model of a similar name is not chosen."""
    server = serve(FakeReply.text("One."), FakeReply.text("Two."))
    assert 0 == cli("run", "-m", "local/m", "First").code
    cli.server(server, "other")
    (cli.home / "cache").mkdir()
    (cli.home / "cache/models-other.json").write_text('["local/m-large"]')
    done = cli("run", "-c", "Second")
    assert 3 == done.code
    assert "The last reply is from local/m. A session can go on with another: -m PROVIDER/ID" in done.err
    demo(cli, "-c", "Second")


def test_a_session_is_found_by_name_or_by_the_beginning_of_its_id(cli: Cli) -> None:
    """A new name starts a session, with a note; an id of 4 or more digits finds one."""
    done = cli("run", "-m", "demo", "--session", "Reise nach Köln", "Hi")
    assert "This is a new session: Reise nach Köln" in done.err
    demo(cli, "Hi")
    [unnamed] = [path for path in cli.sessions() if path.parent.name != "named"]
    demo(cli, "--session", unnamed.stem[:6], "again")
    demo(cli, "--session", "Reise nach Köln", "again")
    assert [4, 4] == [len(texts(path)) for path in cli.sessions()]


@pytest.mark.parametrize(
    "name", ["a/b", "../up", "", " ", ".hidden", "-x", "x" * 200, "a\nb", "a\x1b[31mb", "con:1", "a\\b"]
)
def test_a_name_that_is_no_file_name_is_refused(cli: Cli, name: str) -> None:
    """A name is the name of a file, so slashes, control characters and the like are usage errors."""
    done = cli("run", "-m", "demo", f"--session={name}", "Hi")
    assert 2 == done.code
    assert "cannot be the name of a session" in done.err
    assert "\x1b" not in done.err
    assert [] == cli.sessions()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-c", "--session", "x"], "--continue and --session exclude each other"),
        (["--no-session", "--session", "x"], "--session and --no-session exclude each other"),
        (["-c", "--no-session"], "--continue and --no-session exclude each other"),
        (["-c", "--history", "h.jsonl"], "--continue and --history exclude each other"),
        (["-c"], "There is no session of this folder"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_options_that_contradict_each_other(cli: Cli, args: list[str], message: str) -> None:
    """They are usage errors, and so is -c without a session."""
    done = cli("run", "-m", "demo", *args, "Hi")
    assert 2 == done.code
    assert message in done.err


def test_a_history_starts_a_session(cli: Cli, serve: Serve) -> None:
    """A new session has the messages of --history; an older one refuses them."""
    server = serve(FakeReply.text("One."), FakeReply.text("Two."), FakeReply.text("Three."))
    cli("run", "-m", "local/m", "--no-session", "-o", "h.jsonl", "First")
    assert 0 == cli("run", "-m", "local/m", "--history", "h.jsonl", "--session", "s", "Second").code
    assert ["First", "One.", "Second", "Two."] == [text for _, text in texts(cli.sessions()[0])]
    done = cli("run", "-m", "local/m", "--history", "h.jsonl", "--session", "s", "Third")
    assert 2 == done.code
    assert "--history starts a conversation, but the session 's' has one" in done.err
    assert 2 == len(server.requests)
    assert 0 == cli("run", "--session", "s", "Third").code
    assert 5 == len(server.requests[-1].json["messages"])


def test_a_session_file_is_a_history_and_a_replay(cli: Cli) -> None:
    """--history and replay: take a session file."""
    demo(cli, "--session", "s", "Hi")
    path = cli.sessions()[0]
    assert "I see 2 earlier messages" in cli("run", "-m", "demo", "--history", path, "more").out
    assert "You said: Hi" in cli("run", "-m", f"replay:{path}", "Hi").out
    assert 2 == cli("run", "--session", "s", "-m", "demo", "-o", path, "Hi").code
    assert 2 == len(texts(path))


def test_the_tool_calls_of_a_session_are_sent_again(cli: Cli, serve: Serve) -> None:
    """Tool calls and their results are part of the conversation."""
    cli.file("mytools.py", TOOLS)
    server = serve(
        FakeReply.tool_calls(("look", {"at": "me"})), FakeReply.text("Seen."), FakeReply.text("Yes.")
    )
    assert 0 == cli("run", "-m", "local/m", "-t", "./mytools.py", "Look").code
    assert 0 == cli("run", "-c", "Really?").code
    sent = server.requests[-1].json["messages"]
    assert ["user", "assistant", "tool", "assistant", "user"] == [message["role"] for message in sent]
    assert "saw me" == sent[2]["content"]


# ---- two writers, torn lines, full disks -------------------------------------------------------------------


def test_a_second_writer_is_refused(cli: Cli, locked: Callable[[Path], None]) -> None:
    """While one process writes a session, others cannot; a copy can be made and continued."""
    demo(cli, "--session", "s", "Hi")
    locked(cli.sessions()[0])
    for args in (["--session", "s"], ["-c"]):
        done = cli("run", *args, "--jsonl", "again")
        assert (1, "session_busy") == (done.code, done.result["error"]["kind"])
        assert "tinyagent sessions fork s" in done.err
    assert 1 == cli("sessions", "remove", "-y", "s").code
    assert (0, "t\n") == cli("sessions", "fork", "s", "t")[:2]
    demo(cli, "--session", "t", "again")
    assert [2, 4] == [len(texts(path)) for path in cli.sessions()]


def test_a_second_writer_waits_for_the_command_before_it_in_a_pipe(cli: Cli) -> None:
    """Both commands of a pipe may use one session: the second one begins when its input is complete."""
    done = cli.shell("$T run -m demo --session s First 2>&1 | $T run -m demo --session s Second")
    assert 0 == done.code, done.err
    assert 4 == len(texts(cli.sessions()[0]))


@pytest.mark.parametrize(
    "tail",
    [b'{"type":"message_end","se', b'{"type":"mess\xc3', b"{", b"\0\0\0\0"],
    ids=["cut", "cut-character", "brace", "zeros"],
)
def test_a_torn_tail_is_repaired(cli: Cli, tail: bytes) -> None:
    """An incomplete last line is left out when it is read, and removed before the next run is added."""
    demo(cli, "--session", "s", "Hi")
    path = cli.sessions()[0]
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert [(2, None)] == [(session["messages"], session["problem"]) for session in listed(cli)]
    assert whole == cli("sessions", "export", "s").out.encode()
    demo(cli, "--session", "s", "again")
    assert path.read_bytes().startswith(whole)
    assert 4 == len(texts(path))
    assert all(read_lines(path))


def test_a_whole_last_line_without_a_line_break_is_not_lost(cli: Cli) -> None:
    """An editor may have removed the last line break."""
    demo(cli, "--session", "s", "Hi")
    path = cli.sessions()[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    demo(cli, "--session", "s", "again")
    assert path.read_bytes().startswith(whole)


def test_a_damaged_session_is_named(cli: Cli) -> None:
    """A damaged line is an error that names the session and the line; the file stays as it is."""
    demo(cli, "--session", "s", "Hi")
    path = cli.sessions()[0]
    path.write_bytes(path.read_bytes().replace(b'{"type":"agent_end"', b'{"type":"agent_end'))
    before = path.read_bytes()
    done = cli("run", "--session", "s", "again")
    assert 2 == done.code
    assert re.search(r"The session 's' is damaged: line \d+ is not JSON", done.err)
    assert before == path.read_bytes()
    assert "line" in listed(cli)[0]["problem"]
    assert "(damaged)" in cli("sessions", "list").out


@pytest.mark.usefixtures("new_processes")
def test_a_disk_that_is_full_in_the_middle_ends_the_session_and_not_the_run(cli: Cli, serve: Serve) -> None:
    """A warning says so, once; what is in the file ends with a whole line."""
    serve(FakeReply.text("x" * 5000), FakeReply.text("Back."))
    done = cli.shell("ulimit -f 2; export PYTHONDONTWRITEBYTECODE=1; $T run -m local/m Hi")
    assert (0, "x" * 5000 + "\n") == (done.code, done.out)
    assert 1 == done.err.count("Warning: The rest of this run is not saved in")
    [path] = cli.sessions()
    assert ("message_start", "assistant") == (read_lines(path)[-1]["type"], read_lines(path)[-1]["role"])
    assert path.read_bytes().endswith(b"\n")
    assert "Back.\n" == cli("run", "-c", "again").out


@pytest.mark.usefixtures("new_processes")
def test_a_disk_that_is_full_at_once_adds_nothing(cli: Cli, serve: Serve) -> None:
    """The session stays as it was, or is not there, and the result has no id."""
    serve(FakeReply.text("One."), FakeReply.text("Two."), FakeReply.text("Three."))
    assert 0 == cli("run", "-m", "local/m", "--session", "s", "Hi").code
    [path] = cli.sessions()
    before = path.read_bytes()
    for args in ("--session s", ""):
        done = cli.shell(
            f"ulimit -f 1; export PYTHONDONTWRITEBYTECODE=1; $T run -m local/m {args} --jsonl {'x' * 3000}"
        )
        assert (0, False) == (done.code, "session" in done.result)
        assert "Warning: This run is not saved in" in done.err
        assert ([path], before) == (cli.sessions(), path.read_bytes())


@pytest.mark.parametrize("place", ["/dev/null", "/proc/nothing", "file"])
def test_a_place_that_cannot_be_written(cli: Cli, place: str) -> None:
    """The run goes on with one warning; an explicit session is an error before the request."""
    cli.file("file", "")
    done = cli("run", "-m", "demo", "Hi", TINYAGENT_HOME=place)
    assert (0, 1) == (done.code, done.err.count("Warning: This run is not saved"))
    assert "--no-session" in done.err
    done = cli("run", "-m", "demo", "--session", "s", "Hi", TINYAGENT_HOME=place)
    assert 2 == done.code
    assert "cannot be created" in done.err


@pytest.mark.parametrize("home", ["/dev/null", "/nonexistent"])
def test_without_a_home_directory_nothing_is_saved(cli: Cli, home: str) -> None:
    """A user without a home directory gets no warning in each run; -v says why, and nothing is created."""
    unset = "unset TINYAGENT_HOME XDG_STATE_HOME XDG_CONFIG_HOME XDG_CACHE_HOME"
    line = f"{unset}; HOME={home} $T run -m demo -q Hi"
    done = cli.shell(line)
    assert (0, "") == (done.code, done.err)
    assert "no home directory" in cli.shell(line.replace("-q", "-v")).err
    assert not Path("/nonexistent").exists()


def test_the_state_directory_is_that_of_the_platform(cli: Cli, tmp_path: Path) -> None:
    """Without TINYAGENT_HOME, sessions are in the state directory."""
    done = cli.shell(f"unset TINYAGENT_HOME; export XDG_STATE_HOME={tmp_path}/state; $T run -m demo -q Hi")
    assert 0 == done.code
    assert 1 == len(list((tmp_path / "state/tinyagent/sessions").glob("*/*.jsonl")))


# ---- other users and links -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_directory_that_others_can_write_is_not_used(cli: Cli, mode: int) -> None:
    """A warning says so, and the run goes on."""
    (cli.home / "sessions").mkdir(parents=True)
    (cli.home / "sessions").chmod(mode)
    done = cli("run", "-m", "demo", "Hi")
    assert 0 == done.code
    assert f"others can write the directory (mode 0{mode:o})" in done.err
    assert [] == cli.sessions()


def test_links_are_not_followed(cli: Cli) -> None:
    """A link in the place of a session or of a folder is neither read nor written."""
    target = cli.file("target", b'{"type":"session","version":1,"id":"1234567890"}\n')
    named = cli.home / "sessions/named"
    named.mkdir(parents=True, mode=0o700)
    (named / "s.jsonl").symlink_to(target)
    (cli.home / "sessions/2020-01").symlink_to(cli.work)
    assert [] == listed(cli)
    assert 2 == cli("run", "-m", "demo", "--session", "s", "Hi").code
    assert 2 == cli("sessions", "show", "s").code
    assert 1 == len(target.read_bytes().splitlines())
    (named / "s.jsonl").unlink()
    (named / "s.jsonl").symlink_to(cli.work / "nothing")
    assert 2 == cli("run", "-m", "demo", "--session", "s", "Hi").code
    assert not (cli.work / "nothing").exists()
    (named / "s.jsonl").unlink()
    named.rmdir()
    other = cli.work / "other"
    other.mkdir(mode=0o700)
    named.symlink_to(other)
    assert 2 == cli("run", "-m", "demo", "--session", "s", "Hi").code
    assert [] == list(other.iterdir())


def test_the_directory_of_sessions_may_be_a_link(cli: Cli, tmp_path: Path) -> None:
    """Users put it on another disk."""
    cli.home.mkdir()
    (tmp_path / "disk").mkdir(mode=0o700)
    (cli.home / "sessions").symlink_to(tmp_path / "disk")
    demo(cli, "Hi")
    assert 1 == len(listed(cli))


def test_a_session_that_others_can_read_becomes_private(cli: Cli) -> None:
    """Continuing a file with another mode makes it private again."""
    demo(cli, "--session", "s", "Hi")
    cli.sessions()[0].chmod(0o644)
    demo(cli, "--session", "s", "Hi")
    assert 0o600 == stat.S_IMODE(cli.sessions()[0].stat().st_mode)


# ---- the commands ----------------------------------------------------------------------------------------


def test_list(cli: Cli) -> None:
    """The last used session comes first; --here and -n select."""
    demo(cli, "--session", "first", "A question\nof two lines")
    other = cli.work / "other"
    other.mkdir()
    cli.shell(f"cd {other} && $T run -m demo Elsewhere")
    demo(cli, "Last")
    assert ["Last", "Elsewhere", "A question of two lines"] == [session["title"] for session in listed(cli)]
    assert ["Last", "A question of two lines"] == [session["title"] for session in listed(cli, "--here")]
    [session] = listed(cli, "-n", "1")
    assert ("demo", 2, None) == (session["model"], session["messages"], session["name"])
    assert Path(session["path"]).is_file()
    rows = cli("sessions", "list").out.splitlines()
    assert (3, True) == (len(rows), rows[0].startswith(session["id"][:8]))
    assert "first" in rows[2]


def test_list_without_sessions(cli: Cli) -> None:
    """Nothing on standard output, or an empty array."""
    done = cli("sessions", "list")
    assert (0, "") == (done.code, done.out)
    assert "There are no sessions" in done.err
    assert [] == listed(cli)
    assert not cli.home.joinpath("sessions").exists()
    assert "no sessions of this folder" in cli("sessions", "list", "--here").err


def found(cli: Cli, *words: str) -> list[str]:
    """The sessions that `sessions search --json` finds, once for each message."""
    done = cli("sessions", "search", "--json", *words)
    assert 0 == done.code, done.err
    return [match["name"] for match in json.loads(done.out)]


def test_search(cli: Cli, serve: Serve) -> None:
    """Parts of words in any case, several words, short ones, other scripts and quotes are found."""
    cli.file("mytools.py", TOOLS)
    serve(
        FakeReply.text('Der Dampfschifffahrtskapitän sagt: "Ja".'),
        FakeReply.text("東京都に行きます"),
        FakeReply.tool_calls(("look", {"at": "needle"})),
        FakeReply.text("Done."),
    )
    for name in ("german", "japanese"):
        assert 0 == cli("run", "-m", "local/m", "--session", name, f"Question in {name}").code
    assert 0 == cli("run", "-m", "local/m", "-t", "./mytools.py", "--session", "tool", "Look").code
    assert ["german"] == found(cli, "SCHIFFFAHRT")
    assert ["german"] == found(cli, "KAPITÄN")
    assert ["japanese"] == found(cli, "東京")
    assert ["japanese"] == found(cli, "京都に")
    assert ["german"] == found(cli, '"Ja"')
    assert ["japanese"] == found(cli, "question japanese")
    assert ["tool", "tool"] == found(cli, "needle")
    assert [] == found(cli, "schiff", "question")
    assert [] == found(cli, "NEAR(")
    assert "…" not in cli("sessions", "search", "東京").out
    assert "No message has these words." in cli("sessions", "search", "nothing").err
    assert (2, "") == cli("sessions", "search", " ")[:2]


def test_the_index_follows_the_files(cli: Cli) -> None:
    """New, continued, renamed and removed sessions are found, or not, without any other command."""
    demo(cli, "--session", "one", "apple")
    assert {"one"} == set(found(cli, "apple"))
    demo(cli, "--session", "one", "banana")
    assert {"one"} == set(found(cli, "banana"))
    cli("sessions", "rename", "one", "two")
    assert {"two"} == set(found(cli, "banana"))
    cli("sessions", "remove", "-y", "two")
    assert [] == found(cli, "apple")


@pytest.mark.parametrize("damage", ["missing", "garbage", "older", "torn", "directory", "locked-away"])
def test_the_index_is_made_anew(cli: Cli, damage: str) -> None:
    """An index that is missing, damaged, or from another version is replaced."""
    import sqlite3

    demo(cli, "--session", "one", "apple")
    index = cli.home / "cache/sessions.sqlite"
    assert {"one"} == set(found(cli, "apple"))
    assert 0o600 == stat.S_IMODE(index.stat().st_mode)
    match damage:
        case "missing":
            index.unlink()
        case "garbage":
            index.write_bytes(b"no database" * 1000)
        case "torn":
            data = index.read_bytes()
            index.write_bytes(data[:4096] + b"\0" * (len(data) - 4096))
        case "older":
            with sqlite3.connect(index) as database:
                database.execute("pragma user_version = 99")
                database.execute("drop table sessions")
        case "directory":
            index.unlink()
            index.mkdir()
        case "locked-away":
            index.unlink()
            index.parent.rmdir()
            index.parent.write_text("a file")
    assert {"one"} == set(found(cli, "apple"))


def test_show_renders_a_session_like_its_runs(cli: Cli, serve: Serve) -> None:
    """Prompts, replies, tool calls and errors in their order; thinking with -v."""
    cli.file("mytools.py", TOOLS)
    serve(
        FakeReply.tool_calls(("look", {"at": "me"}), text="I look."),
        FakeReply.text("Seen."),
        FakeReply.error(400, "too bad"),
    )
    cli("run", "-m", "local/m", "-t", "./mytools.py", "Look\nat me")
    cli("run", "-c", "Again")
    shown = cli("sessions", "show")
    assert 0 == shown.code
    text = re.sub(r"\d\.\d s", "", shown.out.partition("\n")[2])
    assert text.startswith("\n> Look\n> at me\n\nI look.\n✓ look me \nSeen.\n\n> Again\n\nError: "), text
    assert "too bad" in text
    again = cli("sessions", "show", cli.sessions()[0].stem[:8])
    assert (shown.out, "", "") == (again.out, again.err, shown.err)


@pytest.mark.parametrize("plain", [False, True])
def test_show_looks_like_the_live_run_on_a_terminal(cli: Cli, serve: Serve, plain: bool) -> None:
    """Rendered Markdown, the tool calls with their times, and the closing line."""
    cli.file("mytools.py", TOOLS)
    serve(FakeReply.tool_calls(("look", {"at": "me"}), text="I **look**."), FakeReply.text("- *Seen*"))
    args = ("--plain",) if plain else ()
    live = cli.on_terminal("run", "-m", "local/m", "-t", "./mytools.py", *args, "Look")
    assert 0 == live.end()
    shown = cli.on_terminal("sessions", "show", *args)
    assert 0 == shown.end()

    def lines(terminal: Terminal) -> list[str]:
        return [re.sub(r"\d\.\d s", "", line) for line in terminal.screen()]

    heading, prompt, *rest = lines(shown)
    assert heading.endswith("local/m")
    assert "> Look" == prompt
    assert lines(live) == rest
    assert plain == any("**look**" in line for line in rest)


@pytest.mark.parametrize("command", [("sessions", "show", "--no-pager"), ("replay", "--speed", "0")])
def test_ctrl_c_stops_a_long_session(cli: Cli, command: tuple[str, ...]) -> None:
    """It is shown from the start while it is read, so Ctrl-C ends it before its end."""
    demo(cli, "--session", "s", "Hi")
    first, *others = cli.sessions()[0].read_bytes().splitlines(keepends=True)
    cli.sessions()[0].write_bytes(first + b"".join(others) * 1000)
    terminal = cli.on_terminal(*command, "s")
    terminal.expect("tinyagent")
    terminal.type("\x03")
    assert 130 == terminal.end()
    assert 0 < terminal.shown.count(b"> Hi") < 1000


def test_show_has_the_conversation_that_a_session_continues(cli: Cli, serve: Serve) -> None:
    """Messages that were taken from a record are shown like those of runs."""
    cli.file("mytools.py", TOOLS)
    serve(FakeReply.tool_calls(("look", {"at": "me"})), FakeReply.text("Seen."), FakeReply.text("Gone."))
    cli("run", "-m", "local/m", "-t", "./mytools.py", "--no-session", "-o", "run.jsonl", "Look")
    cli("run", "-m", "local/m", "--history", "run.jsonl", "--session", "s", "Again")
    assert (
        "\n> Look\n\n✓ look me\nSeen.\n\n> Again\n\nGone.\n"
        == cli("sessions", "show", "s").out.partition("\n")[2]
    )


def test_show_has_the_last_prompts_only(cli: Cli, serve: Serve) -> None:
    """-n counts prompts, those of an earlier record, too, and says how many are left out."""
    serve(FakeReply.text("One."), FakeReply.text("Two."), FakeReply.text("Three."))
    cli("run", "-m", "local/m", "--no-session", "-o", "run.jsonl", "1?")
    cli("run", "-m", "local/m", "--history", "run.jsonl", "--session", "s", "2?")
    cli("run", "--session", "s", "3?")
    parts = ["\n> 1?\n\nOne.\n", "\n> 2?\n\nTwo.\n", "\n> 3?\n\nThree.\n"]
    for count, left_out in ((1, "(2 earlier prompts)\n"), (2, "(1 earlier prompt)\n"), (3, ""), (9, "")):
        shown = cli("sessions", "show", "s", "-n", str(count))
        assert left_out + "".join(parts[-count:]) == shown.out.partition("\n")[2]
    found = json.loads(cli("sessions", "show", "s", "-n", "1", "--json").out)
    assert ["user", "assistant"] == [message["role"] for message in found["messages"]]


def test_show_uses_the_pager_of_the_user_on_a_terminal(cli: Cli) -> None:
    """It gets the rendered text in colours, leaving it early is no error, and --no-pager does without it."""
    demo(cli, "--session", "s", "Hi")
    first, *others = cli.sessions()[0].read_bytes().splitlines(keepends=True)
    cli.sessions()[0].write_bytes(first + b"".join(others) * 1000)
    pager = cli.file("pager", '#!/bin/sh\necho "PAGER $*"; exec head -n 3\n')
    pager.chmod(0o700)
    environment = {"PAGER": f"'{pager}' -x"}
    terminal = cli.on_terminal("sessions", "show", "s", environment=environment)
    assert 0 == terminal.end()
    heading, session, prompt = terminal.screen()
    assert ("PAGER -x", "> Hi") == (heading, prompt)
    assert session.endswith("demo")
    for number in range(4):
        demo(cli, "--session", f"s{number}", "Ho")
    for args in (["list"], ["search", "Ho"]):
        terminal = cli.on_terminal("sessions", *args, environment=environment)
        assert 0 == terminal.end()
        assert "PAGER -x" == terminal.screen()[0]
        assert 4 == len(terminal.screen())
    without: list[tuple[list[str], dict[str, str]]] = [
        (["--no-pager"], {}),
        (["-n", "1"], {"TERM": "dumb"}),
        ([], {"PAGER": "no-such-pager"}),
    ]
    for args, more in without:
        terminal = cli.on_terminal("sessions", "show", "s", *args, environment={**environment, **more})
        terminal.expect("demo")
        terminal.process.kill()
        terminal.end()
        assert b"PAGER" not in terminal.shown, (args, more)
    assert "PAGER" not in cli("sessions", "show", "s", "-n", "1", **environment).out


@pytest.mark.skipif(shutil.which("less") is None, reason="less is not installed")
def test_show_uses_less(cli: Cli) -> None:
    """It ends at once if everything fits on the screen, shows colours, and Ctrl-C is for it."""
    demo(cli, "--session", "s", "Hi")
    terminal = cli.on_terminal("sessions", "show", "s", environment={"PAGER": ""})
    assert 0 == terminal.end()
    assert b"\x1b[2m" in terminal.shown
    first, *others = cli.sessions()[0].read_bytes().splitlines(keepends=True)
    cli.sessions()[0].write_bytes(first + b"".join(others) * 100)
    terminal = cli.on_terminal("sessions", "show", "s", environment={"PAGER": ""})
    terminal.expect("demo")
    terminal.type("\x03")
    terminal.type("q")
    assert 0 == terminal.end()
    assert 0 < terminal.shown.count(b"> Hi") < 100


def test_show_prints_one_object(cli: Cli) -> None:
    """It is that of `list`, with the messages instead of their number."""
    demo(cli, "--session", "s", "apple")
    [listed] = json.loads(cli("sessions", "list", "--json").out)
    shown = json.loads(cli("sessions", "show", "s", "--json").out)
    messages = shown.pop("messages")
    assert ["user", "assistant"] == [message["role"] for message in messages]
    assert listed.pop("messages") == len(messages)
    assert listed == shown


@pytest.mark.parametrize("args", [("show", "s"), ("show", "s", "--json"), ("list",), ("export", "s")])
def test_a_full_disk_and_a_closed_pipe_end_a_list(cli: Cli, args: tuple[str, ...]) -> None:
    """The first is an error, the second ends the command silently."""
    demo(cli, "--session", "s", "apple")
    done = cli.shell(f"$T sessions {' '.join(args)} > /dev/full")
    assert (1, "Error: Cannot write to standard output: No space left on device.\n") == (done.code, done.err)
    done = cli.shell(f"$T sessions {' '.join(args)} | true")
    assert "" == done.err


def test_a_list_fits_into_a_terminal(cli: Cli) -> None:
    """A long title is cut, the text of a match is wrapped, and wide characters are aligned."""
    demo(cli, "--session", "s", "apple 漢字 " * 20)
    demo(cli, "--session", "漢字", "apple pie")
    terminal = cli.on_terminal("sessions", "list", columns=56)
    assert 0 == terminal.end()
    shown = terminal.shown.decode().splitlines()
    assert "  apple pie" in shown
    assert all(cell_len(line) <= 56 for line in shown), shown
    terminal = cli.on_terminal("sessions", "list", columns=100)
    assert 0 == terminal.end()
    header, *rows = terminal.screen(columns=100)
    assert 2 == len(rows)
    assert rows[1].endswith("…")
    assert header.index("MODEL") == rows[1].index("demo")


def test_show_is_safe_on_a_terminal(cli: Cli, serve: Serve) -> None:
    """Control sequences of the model and of the prompt are not sent to a terminal."""
    serve(FakeReply.text("\x1b]0;title\x07red"))
    cli("run", "-m", "local/m", "--session", "s", "a\x1b[2Jb")
    terminal = cli.on_terminal("sessions", "show", "s")
    assert 0 == terminal.end()
    assert b"\x1b]0" not in terminal.shown
    assert b"\x1b[2J" not in terminal.shown
    assert b"red" in terminal.shown


def test_export(cli: Cli, serve: Serve) -> None:
    """JSON lines are the file; Markdown has the messages and the tool calls."""
    cli.file("mytools.py", TOOLS)
    serve(FakeReply.tool_calls(("look", {"at": "```"})), FakeReply.text("Seen."))
    cli("run", "-m", "local/m", "-t", "./mytools.py", "--session", "s", "Look")
    assert cli.sessions()[0].read_text() == cli("sessions", "export", "s").out
    assert cli("sessions", "export", "s", "--format", "markdown").out == (
        '## User\n\nLook\n\n### Tool call: look\n\n````json\n{"at":"```"}\n````\n\n'
        "### Result of look\n\n````\nsaw ```\n````\n\n## Assistant\n\nSeen.\n\n"
    )


def test_rename(cli: Cli) -> None:
    """A name that is taken or invalid is refused, and nothing changes."""
    demo(cli, "Hi")
    demo(cli, "--session", "taken", "Hi")
    [unnamed] = [path for path in cli.sessions() if path.stem != "taken"]
    assert 2 == cli("sessions", "rename", unnamed.stem[:8], "taken").code
    assert 2 == cli("sessions", "rename", unnamed.stem[:8], "a/b").code
    assert unnamed.exists()
    assert 0 == cli("sessions", "rename", unnamed.stem[:8], "free").code
    assert ["free.jsonl", "taken.jsonl"] == [path.name for path in cli.sessions()]
    demo(cli, "--session", unnamed.stem, "by its id")
    assert [4, 2] == [len(texts(path)) for path in cli.sessions()]


def test_fork(cli: Cli) -> None:
    """A copy has an id of its own and names its origin; both go on independently."""
    demo(cli, "--session", "s", "Hi")
    done = cli("sessions", "fork", "s")
    copy = done.out.strip()
    demo(cli, "-c", "in the copy")
    assert [2, 4] == [len(texts(path)) for path in sorted(cli.sessions(), key=lambda path: path.stem == copy)]
    sessions = {session["id"]: session for session in listed(cli)}
    [origin] = [session for session in sessions.values() if session["name"] == "s"]
    assert origin["id"] == sessions[copy]["parent"]
    assert 2 == cli("sessions", "fork", "s", "s").code
    assert "t\n" == cli("sessions", "fork", "s", "t").out  # the name that other commands take


def test_remove_asks(cli: Cli) -> None:
    """Without a terminal it needs -y; on one, only yes removes."""
    demo(cli, "--session", "s", "Hi")
    demo(cli, "Hi")
    done = cli("sessions", "remove", "s")
    assert 2 == done.code
    assert "-y" in done.err
    for answer, left in (("n", 2), ("y", 1)):
        terminal = cli.on_terminal("sessions", "remove", "s")
        terminal.expect("Remove the session s? This cannot be undone. [y/N]")
        terminal.type(f"{answer}\n")
        assert 0 == terminal.end()
        assert left == len(cli.sessions())
    assert 2 == cli("sessions", "remove").code
    assert 2 == cli("sessions", "remove", "nothing").code
    assert 0 == cli("sessions", "remove", "--all", "-y").code
    assert [] == cli.sessions()


def test_remove_goes_on_after_a_session_in_use(cli: Cli, locked: Callable[[Path], None]) -> None:
    """The others are removed, and the exit code shows the failure."""
    for name in ("a", "b", "c"):
        demo(cli, "--session", name, "Hi")
    locked(cli.sessions()[1])
    done = cli("sessions", "remove", "--all", "-y")
    assert (1, ["b.jsonl"]) == (done.code, [path.name for path in cli.sessions()])
    assert "2 sessions removed." in done.err
    assert "The session 'b' is in use" in done.err


def test_an_unknown_session_is_a_usage_error(cli: Cli) -> None:
    """The message suggests a similar name."""
    demo(cli, "--session", "holiday", "Hi")
    for command in ("show", "export", "path", "fork"):
        done = cli("sessions", command, "holidya")
        assert 2 == done.code
        assert "Did you mean 'holiday'?" in done.err
    assert 2 == cli("sessions", "show", "../named/holiday").code


def test_names_and_ids_are_completed(cli: Cli) -> None:
    """Names come first."""
    demo(cli, "--session", "holiday", "Hi")
    demo(cli, "Hi")
    [unnamed] = [path for path in cli.sessions() if path.stem != "holiday"]
    for line in ("tinyagent run --session ", "tinyagent sessions show ", "tinyagent sessions remove "):
        words = str(line.count(" "))
        done = cli(_TINYAGENT_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=words)
        assert ["plain,holiday", f"plain,{unnamed.stem[:8]}"] == done.out.splitlines()
        done = cli(_TINYAGENT_COMPLETE="bash_complete", COMP_WORDS=f"{line}hol", COMP_CWORD=words)
        assert ["plain,holiday"] == done.out.splitlines()


# ---- removing old sessions -------------------------------------------------------------------------------


def aged(cli: Cli, days: float, text: str, name: str | None = None) -> Path:
    """Make a session that was last used some days ago."""
    before = set(cli.sessions())
    demo(cli, *(["--session", name] if name else []), text)
    [path] = set(cli.sessions()) - before
    used = time.time() - days * 86400
    os.utime(path, (used, used))
    return path


def due(cli: Cli) -> None:
    """Let the next run remove old sessions."""
    os.utime(cli.home / "sessions/.pruned", (0, 0))


def test_old_sessions_without_a_name_are_removed(cli: Cli, locked: Callable[[Path], None]) -> None:
    """Once a day, except those with a name and those in use."""
    old, used, young = aged(cli, 31, "old"), aged(cli, 31, "used"), aged(cli, 29, "young")
    named = aged(cli, 400, "named", "keep")
    locked(used)
    demo(cli, "not due")
    assert old.exists()
    due(cli)
    demo(cli, "due")
    assert [False, True, True, True] == [path.exists() for path in (old, used, young, named)]


def test_too_many_sessions_without_a_name_are_removed(cli: Cli) -> None:
    """The most recently used ones stay; 0 means no limit."""
    cli.config("[sessions]\nmax_count = 2\nmax_days = 0\n")
    paths = [aged(cli, days, "x") for days in (900, 800, 700)]
    due(cli)
    demo(cli, "due")
    assert [False, False, True] == [path.exists() for path in paths]
    cli.config("[sessions]\nmax_count = -1\n")
    assert 3 == cli("run", "-m", "demo", "Hi").code


def test_a_lock_ends_when_its_file_is_closed(tmp_path: Path) -> None:
    """A lock belongs to one open file: another one gets it after the first is closed, also by its process."""
    path = tmp_path / "session.jsonl"
    path.touch()
    first, second, third = (os.open(path, os.O_RDWR) for _ in range(3))
    assert (True, False) == (try_lock(first), try_lock(second))
    unlock(first)
    assert (True, False) == (try_lock(second), try_lock(third))
    os.close(second)  # as the end of a process does
    assert try_lock(third)
    unlock(third)
