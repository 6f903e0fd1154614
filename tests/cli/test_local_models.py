"""docs/local-models.md: its commands with a server in place of llama.cpp's, whose port no test can use.

tests/peers/test_llamacpp.py uses the real server.
"""

from __future__ import annotations

from tinyagent.testing import FakeReply, FakeServer

from .conftest import ROOT, Cli
from .documents import blocks, run_block

PAGE = blocks(ROOT / "docs" / "local-models.md")


def test_the_commands_with_a_server(cli: Cli) -> None:
    """They print what the page shows, and send no key, the schema and the other fields."""
    listed = FakeReply.json({"object": "list", "data": [{"id": "qwen3"}]})
    replies = [FakeReply.text(text) for text in ("The capital of Germany is Berlin.", '"positive"', "Hello!")]
    with FakeServer(listed, *replies) as server:
        cli.server(server, "llamacpp")
        assert 6 == sum(run_block(cli, block) for block in PAGE if block.language == "console")
        cli("run", "-q", "Hello", "-m", "llamacpp/qwen3")
    _, first, schema, fields, configured = server.requests
    assert ["qwen3"] * 3 == [request.json["model"] for request in (first, schema, fields)]
    assert {None} == {request.headers.get("authorization") for request in server.requests}
    assert "json_schema" == schema.json["response_format"]["type"]
    assert (0.05, True) == (fields.json["min_p"], fields.json["cache_prompt"])
    assert 0.05 == configured.json["min_p"]


def test_the_commands_without_a_server(cli: Cli) -> None:
    """They write the configuration."""
    for block in PAGE:
        if block.language == "sh":
            run_block(cli, block)
    shown = cli("config", "show", "providers").out
    for value in ("http://127.0.0.1:9000/v1", "http://192.168.1.20:8000/v1", "16384"):
        assert value in shown
