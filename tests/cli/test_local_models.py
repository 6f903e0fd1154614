"""docs/local-models.md: its commands with a server in place of llama.cpp's, whose port no test can use.

tests/peers/test_llamacpp.py uses the real server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tinyagent.testing import FakeReply, FakeServer

from .conftest import ROOT
from .documents import Block, blocks
from .reader import Reader, internet, new_reader

__all__ = ["internet", "new_reader"]

PAGE = blocks(ROOT / "docs" / "local-models.md")


def test_the_commands_with_a_server(new_reader: Callable[[Sequence[Block]], Reader]) -> None:
    """They print what the page shows, and send no key, the schema and the other fields."""
    listed = FakeReply.json({"object": "list", "data": [{"id": "qwen3"}]})
    replies = [
        FakeReply.text(text)
        for text in ("The capital of Germany is Berlin.", '"positive"', "Hello!", "Hello!")
    ]
    with FakeServer(listed, *replies) as server:
        reader = new_reader(PAGE)
        config = reader.path("~/.config/tinyagent/config.toml")
        config.write_text(f'[providers.llamacpp]\nbase_url = "{server.url}"\n')
        for block in PAGE:
            if "test" in block.words:
                reader.do(block)
        assert 0 == reader.run("tinyagent run -q Hello -m llamacpp/qwen3").code
    _, first, schema, fields, configured = server.requests
    assert ["qwen3"] * 3 == [request.json["model"] for request in (first, schema, fields)]
    assert {None} == {request.headers.get("authorization") for request in server.requests}
    assert "json_schema" == schema.json["response_format"]["type"]
    assert (0.05, True) == (fields.json["min_p"], fields.json["cache_prompt"])
    assert 0.05 == configured.json["min_p"]
