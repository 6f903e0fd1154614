"""The sources of an answer, from the provider's reply to the terminal, the record and the next run."""

from __future__ import annotations

import json

from tinyagent import jsonl

from .conftest import Cli, FakeReply, Serve

CITATION = {
    "type": "url_citation",
    "url": "https://example.org/a",
    "title": "A",
    "start_index": 0,
    "end_index": 9,
}
PART = {"type": "output_text", "text": "It rains.", "annotations": [CITATION]}
SEARCH = {
    "type": "web_search_call",
    "id": "ws_1",
    "status": "completed",
    "action": {"type": "search", "sources": [{"type": "url", "url": "https://example.org/b"}]},
}
REPLY = {
    "status": "completed",
    "output": [SEARCH, {"type": "message", "id": "msg_1", "role": "assistant", "content": [PART]}],
}
SOURCES = "It rains.\n\nSources:\n[1] A - https://example.org/a\n[2] https://example.org/b\n"


def test_sources_of_an_answer(cli: Cli, serve: Serve) -> None:
    """Sources are listed below the text, recorded, and sent back to the model unchanged."""
    server = serve(*[FakeReply.json(REPLY)] * 3)
    cli.config(f'[providers.openai]\nbase_url = "{server.url}"\n')
    done = cli("run", "-m", "openai/gpt-5", "-o", "record.jsonl", "Weather?")
    assert (0, SOURCES) == (done.code, done.out), done.err
    record = cli.work / "record.jsonl"
    [message] = [
        json.loads(line)["message"]
        for line in record.read_text().splitlines()
        if '"message_end"' in line and '"assistant"' in line
    ]
    cited = [
        {"url": "https://example.org/a", "title": "A", "start": 0, "end": 9},
        {"url": "https://example.org/b"},
    ]
    assert cited == message["content"][1]["citations"]
    with record.open("rb") as file:
        ends = [event.message for event in jsonl.read(file) if getattr(event, "type", "") == "message_end"]
    assert message == ends[-1]
    assert "It rains." == json.loads(record.read_text().splitlines()[-1])["text"]

    again = cli("run", "-m", "openai/gpt-5", "--history", "record.jsonl", "And tomorrow?")
    assert 0 == again.code, again.err
    _, search, answer, _ = server.requests[1].json["input"]
    assert (SEARCH, PART) == (search, answer["content"][0])
    replayed = cli("run", "-m", "replay:record.jsonl", "Weather?")
    assert SOURCES == replayed.out, replayed.err


def test_a_server_without_the_responses_api(cli: Cli, serve: Serve) -> None:
    """If a server under OpenAI's name supports only chat/completions, the error names the option."""
    server = serve(FakeReply.json({"detail": "Not Found"}, status=404))
    cli.config(f'[providers.openai]\nbase_url = "{server.url}"\n')
    done = cli("run", "-m", "openai/gpt-5", "Hi")
    assert done.code != 0
    assert "-O api=openai-completions" in done.err
