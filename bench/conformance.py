"""`python -m bench.conformance`: test clients with replies of real servers.

The inputs are the written cases over a real socket, the recorded streams with three kinds of cuts, and
randomly damaged streams. The clients are ours, the installed official ones (`--peers`) and the Rust provider;
all have the same checks. With `--write FILE` the table is written into a Markdown file.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bench.measure import ROOT, Peers, environment, say
from tinyagent.testing import (
    FakeReply,
    FakeServer,
    Hangup,
    Hold,
    ProxyWire,
    Reset,
    ResponsesWire,
    Script,
    Sleep,
)

DATA = ROOT / "tests" / "data"
RUST = ROOT / "build" / "alchemy" / "site"
"""The Rust provider that make has built."""
CUTS = ("whole", "byte by byte", "random cuts")
SEED = 20260101
SLOW = 240.0
"""Seconds that a case or a recording may take. Some are slow, and speed is not measured here."""
TITLES = {
    "ours": "tinyagent",
    "rust": "tinyagent, Rust provider",
    "openai": "openai",
    "anthropic": "anthropic",
}
NEEDS = {
    "ours": ("tinyagent",),
    "rust": ("alchemy_llm_py",),
    "openai": ("openai",),
    "anthropic": ("anthropic",),
}
PROTOCOLS = {
    "ours": ("chat", "anthropic", "responses", "proxy"),
    "rust": (),
    "openai": ("chat",),
    "anthropic": ("anthropic",),
}
"""The protocols that each client decodes from bytes. The Rust provider accepts only a URL."""

Outcome = dict[str, Any]


class Worker:
    """A client in a separate process."""

    def __init__(self, client: str, python: str) -> None:
        self.client = client
        self._process = subprocess.Popen(
            [python, "-m", "bench.clients.conform", client],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            cwd=ROOT, env=environment(PYTHONPATH=f"{ROOT}{os.pathsep}{RUST}"),
        )  # fmt: skip

    def ask(self, **job: Any) -> Outcome:
        """Send a job, and return its outcome."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.client}: its process ended")
        outcome: Outcome = json.loads(line)
        return outcome

    def decode(self, protocol: str, pieces: list[bytes]) -> Outcome:
        """Return the outcome for these pieces."""
        return self.ask(protocol=protocol, pieces=[base64.b64encode(piece).decode() for piece in pieces])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


# ---- checks ------------------------------------------------------------------------------------------


def _wrong(condition: bool, what: str) -> Iterator[str]:
    if condition:
        yield what


def judge_case(expected: dict[str, Any], got: Outcome, requests: int, extras: bool) -> list[str]:
    """Return the faults of an outcome. A failure may have any kind, if it is reported as one.

    Without `extras`, reasoning and the optional cases of the catalogue are not checked.
    """
    if not extras:
        expected = {key: value for key, value in expected.items() if key != "reasoning"}
        if expected.get("optional"):
            expected.pop("tool_calls", None)
    return list(_judge(expected, got, requests))


def _judge(expected: dict[str, Any], got: Outcome, requests: int) -> Iterator[str]:
    outcome, calls = got["outcome"], got["calls"]
    succeeds = expected["outcome"] == "ok"
    if outcome == "hang" or (outcome == "crash" and succeeds):
        yield f"{outcome} {got['says'][:60]}".strip()
        return
    yield from _wrong(succeeds and outcome != "ok", f"a good reply is refused: {got['says'][:60]}")
    yield from _wrong(not succeeds and outcome == "ok", "a failure is reported as a success")
    for key, found in (("text", got["text"]), ("reasoning", got["reasoning"])):
        allowed = [expected.get(key), expected.get(f"alt_{key}")]
        allowed.append((expected.get(key) or "") + expected.get("refusal", ""))
        yield from _wrong(key in expected and found not in allowed, f"{key} {found[:40]!r}")
    yield from _wrong(expected.get("text_len", len(got["text"])) != len(got["text"]), "text is missing")
    yield from _wrong(expected.get("refusal", "") not in got["text"], "the refusal is missing")
    if succeeds:
        yield from _judge_success(expected, got, calls)
    yield from _wrong(expected.get("requests", requests) != requests, f"{requests} requests")
    if "error_contains" in expected and not succeeds:
        yield from _wrong(
            expected["error_contains"] not in got["says"], "the provider's error text is missing"
        )


def _judge_success(expected: dict[str, Any], got: Outcome, calls: list[Any]) -> Iterator[str]:
    yield from _wrong("finish" in expected and expected["finish"] != got.get("finish"), "finish reason")
    yield from _wrong("usage" in expected and expected["usage"] != got.get("usage"), "usage")
    yield from _wrong("cost" in expected and expected["cost"] != got.get("cost"), "cost")
    if expected.get("tool_invalid"):
        broken = bool(calls) and all(arguments is None for _, _, arguments in calls)
        yield from _wrong(not broken, "a broken call looks complete, or is lost")
    if "tool_args_len" in expected:
        found = [len((arguments or {}).get("t", "")) for _, _, arguments in calls]
        yield from _wrong([expected["tool_args_len"]] != found, "arguments are missing")
    if "tool_calls" in expected:
        wanted = [(call["name"], call["arguments"]) for call in expected["tool_calls"]]
        found_calls = [(name, arguments) for _, name, arguments in calls]
        marked = bool(calls) and all(arguments is None for _, _, arguments in calls)
        right = wanted == found_calls or (expected.get("tool_invalid_ok") and marked)
        yield from _wrong(not right, f"tools {str(found_calls)[:60]}")
        ids = [call_id for call_id, _, _ in calls]
        yield from _wrong(len(set(ids) - {None, ""}) != len(ids), "ids are missing or the same")


def judge_recording(expected: dict[str, Any], got: Outcome, extras: bool) -> list[str]:
    """Return the faults of a recording's outcome. `extras`: check reasoning, too."""
    return list(_judge_recording(expected, got, extras))


def _judge_recording(expected: dict[str, Any], got: Outcome, extras: bool) -> Iterator[str]:
    outcome = got["outcome"]
    if outcome in ("hang", "crash"):
        yield f"{outcome} {got['says'][:60]}".strip()
        return
    succeeds = bool(expected["complete"]) and not expected["error"]
    yield from _wrong(succeeds != (outcome == "ok"), f"outcome {outcome} {got['says'][:60]}")
    text = expected["text"] + expected.get("refusal", "")
    if outcome == "ok" or extras:
        yield from _wrong(text != got["text"], "text")
    if extras:
        yield from _wrong(expected["reasoning"] != got["reasoning"], "reasoning")
    if outcome != "ok" or not succeeds:
        return
    yield from _wrong(expected["finish_reason"] != got.get("finish"), "finish reason")
    wanted = [
        [call["name"], call["arguments"] if call["arguments_ok"] else None] for call in expected["tool_calls"]
    ]
    empty = [call["arguments_raw"] == "null" for call in expected["tool_calls"]]
    found = [[name, arguments] for _, name, arguments in got["calls"]]
    same = len(wanted) == len(found) and all(
        want == have or (null and want[0] == have[0] and not have[1])
        for want, have, null in zip(wanted, found, empty, strict=True)
    )
    yield from _wrong(not same, f"tools {str(found)[:60]}")
    yield from _wrong(any(not call_id for call_id, _, _ in got["calls"]), "an id is missing")
    usage = expected["usage"]
    if usage and "input" in usage:
        yield from _wrong([usage["input"], usage["output"]] != got.get("usage"), "usage")
    elif usage:
        cached = ("cache_read_input_tokens", "cache_creation_input_tokens")
        given_in = usage["input_tokens"] + sum(usage.get(key) or 0 for key in cached)
        yield from _wrong([given_in, usage["output_tokens"]] != got.get("usage"), "usage")
        yield from _wrong(expected["signatures"] != got.get("signatures"), "signatures")


# ---- the written cases -------------------------------------------------------------------------------


def steps_of(case: dict[str, Any]) -> list[Any]:
    """Return the steps of the server."""
    ends = {"rst": Reset(), "fin": Hangup(), "hold": Hold()}
    steps: list[Any] = []
    for step in case["chunks"]:
        if "sleep" in step:
            steps.append(Sleep(step["sleep"]))
        elif "abort" in step:
            steps.append(ends[step["abort"]])
        elif "b64" in step:
            steps += [base64.b64decode(step["b64"])] * step.get("times", 1)
        else:
            steps += [zlib.decompress(base64.b64decode(step["zlib"]))] * step.get("times", 1)
    return steps


def written(worker: Worker, say: Callable[[str], None]) -> dict[str, list[str]]:
    """Return the faults in each written case."""
    wrong: dict[str, list[str]] = {}
    for case in json.loads((DATA / "wire_cases.json").read_text("ascii")):
        say(f"{worker.client}: {case['id']}")
        reply = FakeReply(
            steps_of(case), status=case["status"], headers=case["headers"], framing=case["framing"]
        )
        with FakeServer(reply, repeat=True) as server:
            got = worker.ask(protocol="chat", url=server.url, longest=SLOW)
            wrong[case["id"]] = judge_case(
                case["expect"], got, len(server.requests), worker.client in ("ours", "rust")
            )
    return wrong


# ---- recordings --------------------------------------------------------------------------------------


def recordings(protocol: str) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Return the name, the bytes and the expected outcome of each recording."""
    folder = DATA / "recorded"
    for name, expected in json.loads((folder / f"{protocol}_expected.json").read_text("utf-8")).items():
        yield name, (folder / protocol / name).read_bytes(), expected


def cut(stream: bytes, how: str, name: str) -> list[list[bytes]]:
    """Cut a stream into pieces, in one or several ways."""
    if how == "whole":
        return [[stream]]
    if how == "byte by byte":
        return [[stream[n : n + 1] for n in range(len(stream))]]
    source, ways = random.Random(f"{SEED} {name}"), []
    for count in (1, 3, 20, 100, 1000):
        places = sorted({0, len(stream), *(source.randrange(len(stream)) for _ in range(count))})
        ways.append([stream[a:b] for a, b in pairwise(places)])
    return ways


def recorded(worker: Worker, how: str, say: Callable[[str], None]) -> dict[str, list[str]]:
    """Return the faults in each recording that the client supports."""
    wrong: dict[str, list[str]] = {}
    protocols = PROTOCOLS[worker.client] or ("chat",)
    for protocol in ("chat", "anthropic"):
        if protocol not in protocols:
            continue
        for name, stream, expected in recordings(protocol):
            say(f"{worker.client}: {name}, {how}")
            extras = worker.client in ("ours", "rust")
            wrong[name] = []
            for pieces in cut(stream, how, name):
                if PROTOCOLS[worker.client]:
                    got = worker.decode(protocol, pieces)
                else:
                    with FakeServer(FakeReply(pieces), repeat=True) as server:
                        got = worker.ask(protocol=protocol, url=server.url, timeout=SLOW, longest=SLOW)
                wrong[name] += judge_recording(expected, got, extras)
    return wrong


# ---- damaged streams ---------------------------------------------------------------------------------


def _good_streams(protocol: str) -> list[bytes]:
    if protocol in ("chat", "anthropic"):
        return [stream for _, stream, _ in recordings(protocol) if len(stream) < 12_000]
    wire = ResponsesWire() if protocol == "responses" else ProxyWire()
    content = [
        {"type": "thinking", "thinking": "Let me sée.", "thinking_signature": "c2ln"},
        {"type": "text", "text": "I look 😀 now."},
        {"type": "tool_call", "id": "a", "name": "look", "arguments": {"at": "sky"}},
    ]
    reply = wire.reply(Script(content, stop_reason="tool_use", usage={"input": 3, "output": 2}))
    return [b"".join(step for step in reply.steps if isinstance(step, bytes))]


def damaged(worker: Worker, count: int, say: Callable[[str], None]) -> Counter[str]:
    """Count the outcomes of streams with replaced, inserted or removed bytes, and of random bytes."""
    seen: Counter[str] = Counter()
    for protocol in PROTOCOLS[worker.client]:
        _damage(worker, protocol, count, seen, say)
    return seen


def _damage(
    worker: Worker, protocol: str, count: int, seen: Counter[str], say: Callable[[str], None]
) -> None:
    good = _good_streams(protocol)

    @settings(
        max_examples=count, database=None, deadline=None, derandomize=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        stream = bytearray(data.draw(st.sampled_from(good) | st.binary(max_size=300)))
        for _ in range(data.draw(st.integers(1, 6))):
            at = data.draw(st.integers(0, len(stream)))
            stream[at : at + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=6))
        places = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
        places = sorted({0, len(stream), *places})
        got = worker.decode(protocol, [bytes(stream[a:b]) for a, b in pairwise(places)])
        seen["streams"] += 1
        seen["bytes"] += len(stream)
        seen[got["outcome"]] += 1
        if got["outcome"] in ("crash", "hang"):
            seen[f"{got['outcome']}: {got['says'].partition(':')[0]}"] += 1
        say(f"{worker.client}: damaged {protocol}, {seen['streams']}")

    run()


# ---- the report --------------------------------------------------------------------------------------


def share(wrong: dict[str, list[str]]) -> str:
    """Return how many of all passed."""
    return f"{sum(not faults for faults in wrong.values())} of {len(wrong)}" if wrong else "–"


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the table, with one row per client."""
    head = [
        "",
        "written cases",
        *(f"recordings, {how}" for how in CUTS),
        "damaged streams",
        "foreign exceptions",
        "hangs",
    ]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for client, result in results.items():
        fuzz: Counter[str] = result["damaged"]
        row = [f"{TITLES[client]} {result['version'] or ''}".strip(), share(result["written"])]
        row += [share(result["recorded"][how]) for how in CUTS]
        row += [f"{fuzz['streams']:,}", f"{fuzz['crash']:,}", f"{fuzz['hang']:,}"] if fuzz else ["–"] * 3
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def faults(result: dict[str, Any]) -> list[str]:
    """Return each case and recording with faults."""
    lines = [f"{name}: {'; '.join(wrong)}" for name, wrong in result["written"].items() if wrong]
    missed: dict[str, list[str]] = {}
    for how in CUTS:
        for name, wrong in result["recorded"][how].items():
            if wrong:
                missed.setdefault(f"{name}: {'; '.join(dict.fromkeys(wrong))}", []).append(how)
    return lines + [
        line if len(ways) == len(CUTS) else f"{line} ({', '.join(ways)})" for line, ways in missed.items()
    ]


def document(results: dict[str, dict[str, Any]], command: str) -> str:
    """Return the text of docs/reliability.md."""
    parts = [
        "# Reliability",
        "How clients handle the replies of real servers. This page is written by",
        f"```console\n$ {command}\n```",
        table(results),
        EXPLANATION,
    ]
    for client, result in results.items():
        found = faults(result)
        crashes = [f"{count:,} × {name}" for name, count in sorted(result["damaged"].items()) if ": " in name]
        if found or crashes:
            parts.append(f"## What {TITLES[client]} gets wrong")
            if crashes:
                parts.append(f"Exceptions on damaged streams that are not its own: {', '.join(crashes)}.")
            parts.append("\n".join(f"- {line.replace('|', chr(92) + '|')}" for line in found))
    return "\n\n".join(part for part in parts if part) + "\n"


EXPLANATION = """\
- **Written cases** (`tests/data/wire_cases.json`): 141 replies of chat/completions, exact bytes in exact
  chunks over a real socket: framing, cut connections, errors inside a stream, HTTP errors, usage, tools.
- **Recordings** (`tests/data/recorded`): 81 streams of chat/completions and 16 of Anthropic's Messages, from
  many providers and gateways. They are sent in one piece, byte by byte, and cut at random positions (five
  times: at 1, 3, 20, 100 and 1,000 positions).
- **Damaged streams**: recordings in which hypothesis replaces, inserts and removes bytes, and random bytes.
  A *foreign exception* is not one of the client's own errors, so its users do not expect it; a *hang* is
  a reply without an end within 30 seconds (240 for recordings and cases).

All clients have the same checks, which are lenient with the other clients: any failure is accepted if it is
reported as a failure, and text is accepted if it could be read before the failure. Time is not measured.
Reasoning and optional cases count for tinyagent only, and the arguments of tool calls are parsed for the
other clients. The tests of tinyagent (`tests/contract`) require more: the kind of a failure, waits, order,
and the next turn."""


def main() -> None:
    """Test the installed clients."""
    parser = argparse.ArgumentParser(prog="python -m bench.conformance", description=__doc__)
    parser.add_argument(
        "--peers", type=Path, default=os.environ.get("BENCH_PEERS"),
        help="a virtual environment with the official clients (openai, anthropic); also $BENCH_PEERS",
    )  # fmt: skip
    parser.add_argument(
        "--client", action="append", choices=list(TITLES), help="test only this client; repeatable"
    )
    parser.add_argument(
        "--damaged", type=int, default=1000, help="the number of damaged streams per protocol (1000)"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument("--faults", action="store_true", help="list what went wrong")
    given = parser.parse_args()
    peers = Peers(Path(given.peers).absolute() if given.peers else None)
    results: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        for client in given.client or TITLES:
            built = client == "rust" and any(RUST.glob("alchemy_llm_py"))
            python = sys.executable if built else peers.python(*NEEDS[client])
            if python is None:
                say(f"{TITLES[client]} is not installed\n")
                continue
            worker = Worker(client, python)
            stack.callback(worker.close)
            results[client] = {
                "version": None if client in ("ours", "rust") else peers.version(client),
                "written": {} if client == "anthropic" else written(worker, say),
                "recorded": {how: recorded(worker, how, say) for how in CUTS},
                "damaged": damaged(worker, given.damaged, say),
            }
    say("")
    print(table(results))
    if given.faults:
        for client, result in results.items():
            print("\n".join(["", f"{TITLES[client]}:", *faults(result)]))
    if given.write:
        command = "make conformance CLIENTS=VENV  # an environment with the official clients"
        given.write.parent.mkdir(parents=True, exist_ok=True)
        given.write.write_text(document(results, command))


if __name__ == "__main__":
    main()
