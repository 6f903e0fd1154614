"""The benchmarks measure what they say they measure."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import batch, broken_replies, histories, report, streams, tokens, turns
from bench.clients import CLIENTS, question
from bench.measure import Figure, server
from bench.server import pace_s

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = [name for name, entry in CLIENTS.items() if "openai" not in entry.needs]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The benchmarks' server, as they start it."""
    with server() as base:
        yield base


@pytest.mark.parametrize("client", INSTALLED)
@pytest.mark.parametrize("model", ["text-1", "text-500", "thinking-100", "arguments-4096-64"])
def test_every_client_reads_the_whole_reply(url: str, client: str, model: str) -> None:
    """Twice, so that a connection is used again; with as many deltas as the server sends."""

    async def ask_twice() -> list[int]:
        async with CLIENTS[client].load()(url) as ask:
            return [(await ask(question(model))).count for _ in range(2)]

    sent = tokens.deltas(model)
    for count in asyncio.run(ask_twice()):
        assert sent <= count <= sent + 2


@pytest.mark.parametrize("client", ["floor", "httpx", "agent"])
def test_tool_turns_are_all_taken(url: str, client: str) -> None:
    """Each with a time of its own."""
    figures = asyncio.run(turns.measure(client, url, 10))
    assert {"ms a turn", "first tenth", "last tenth"} == set(figures)
    assert all(value > 0 for value in figures.values())


def test_a_paced_stream_takes_its_second(url: str) -> None:
    """The server spreads the tokens over a second."""
    figures = asyncio.run(streams.measure("agent", url, 3))
    assert figures["wall s"] > 0.9


def test_a_batch_is_compared_with_the_pace(tmp_path: Path) -> None:
    """A way gets its prompts in a file, and answers that are missing are an error."""
    answer = batch.Way(["sh", "-c", "cp {input} {output}"], prompts=30, jobs=10)
    figures = batch.measure(answer, tmp_path, {})
    assert {"s for 10,000", "wall / pace", "CPU ms a prompt", "MiB"} == set(figures)
    assert 0 < figures["wall / pace"] < figures["s for 10,000"]
    with pytest.raises(RuntimeError, match="1 of 30 answers"):
        batch.measure(replace(answer, command=["sh", "-c", "head -1 {input} > {output}"]), tmp_path, {})
    assert 1.06 == pytest.approx(pace_s("paced-50"))


def test_the_goals_of_a_batch() -> None:
    """Rows are found by their names, also if they are extrapolated."""
    row = {"s for 10,000": 20.0, "wall / pace": 1.2, "CPU ms a prompt": 2.0}
    ours = {key: Figure(value, value, value) for key, value in row.items()}
    theirs = {key: Figure(10 * value, value, value) for key, value in row.items()}
    rows = {
        "tinyagent batch -j 500": ours,
        "tinyagent batch -j 16 (extrapolated from 320)": ours,
        "xargs -P 16 tinyagent run (extrapolated from 320)": theirs,
        "script on openai, semaphore of 500": theirs,
        "llm in a loop (extrapolated from 5)": theirs,
    }
    values = [goal.value for goal in report.goals({"batch": rows})]
    assert [1.2, 0.1, 0.1, 0.1, 0.1, 0.1] == pytest.approx(values)


@pytest.mark.parametrize("client", ["httpx", "agent"])
def test_turns_of_a_long_history_are_measured(url: str, client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of each client has a time."""
    monkeypatch.setattr(histories, "TURNS", 2)
    run = histories.by_agent(url, 20) if client == "agent" else histories.by_hand(client, url, 20)
    assert asyncio.run(run) > 0


def test_lines_are_measured_beside_msgspec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading and writing have a rate, and so does msgspec with the same lines."""
    monkeypatch.setattr(histories, "DELTAS", 50)
    assert {"read", "msgspec decode", "write", "msgspec encode"} == set(histories.lines())


def test_tables_replace_those_of_the_last_run(tmp_path: Path) -> None:
    """`--write` changes the document between its markers only."""
    document = tmp_path / "speed.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write(document, {"machine": {"processor": "p"}})
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "processor p" in text


def test_a_goal_says_whether_it_was_met() -> None:
    """The verdict, beside what was wanted."""
    row = {key: Figure(value, value, value) for key, value in {"text-1000": 2.0, "MiB": 9.0}.items()}
    arguments = {f"arguments-{size}-64": Figure(1, 1, 1) for size in (65536, 1048576)}
    rows = {"agent": row | arguments, "httpx": {"text-1000": Figure(1.0, 1.0, 1.0)}}
    verdicts = {goal.what: goal for goal in report.goals({"tokens": rows})}
    missed = verdicts["1,000 tokens: Agent / httpx + msgspec"]
    assert not missed.met
    assert "MISS" in str(missed)
    assert verdicts["flat, agent, 1 MiB tool argument / 64 KiB, a piece"].met
    assert "| Agent.stream() | 2.0 (2.0–2.0) |" in report.text({"tokens": rows})


def test_the_comparison_shows_our_exit_codes() -> None:
    """docs/comparison.md has what tinyagent does with each reply, and README.md has the same cells."""
    program = Path(sys.executable).with_name("tinyagent")
    set_up, wire = broken_replies.PEERS["tinyagent"]
    page = _cells(ROOT / "docs" / "comparison.md")
    for case, script in broken_replies.CASES.items():
        code, requests, *_ = broken_replies.ask(program, set_up, wire.reply(script)).split(", ")
        assert (
            page[case][0]
            == f"{code.removeprefix('exit code ')}, {requests.replace('1 requests', '1 request')}"
        )
    readme = _cells(ROOT / "README.md")
    for case, row in (("ended early", "the reply ended early"), ("at its limit", "at the limit of tokens")):
        [shown] = [cells for name, cells in readme.items() if name.endswith(row)]
        assert [cell.partition(",")[0] for cell in page[case]] == shown
    for name in ("every event as JSON lines", "an answer that fits a schema"):
        assert page[f"{name} [2]"] == readme[name]


def _cells(page: Path) -> dict[str, list[str]]:
    """Return the rows of all tables of a page: the cells after the first."""
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: cells for name, *cells in rows}
