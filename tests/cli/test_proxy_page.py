"""README.md of tinyagent-proxy-server: its server and its caller, on another port."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .conftest import ROOT
from .documents import Block, blocks
from .internet import Internet
from .reader import Reader, internet, new_reader

__all__ = ["internet", "new_reader"]

PAGE = blocks(ROOT / "plugins" / "tinyagent-proxy-server" / "README.md")
IN_BACKGROUND = "--port 0 > address &\nuntil [ -s address ]; do sleep 0.05; done"


def test_the_steps(new_reader: Callable[[Sequence[Block]], Reader], internet: Internet) -> None:
    """A caller gets the list of models and replies of the demo, then of a provider by the server's key."""
    serve, call, offer = (block for block in PAGE if "test" in block.words)
    reader = new_reader(PAGE)
    del reader.environment["OPENAI_API_KEY"]
    script = "".join(f"{command}\n" for command, _ in serve.commands())
    assert 0 == reader.run(script.replace("--port 8700", IN_BACKGROUND)).code
    token = reader.environment["TINYAGENT_PROXY_TOKEN"]
    address = reader.path("address").read_text().strip()
    text = call.text.replace("http://127.0.0.1:8700", address).replace("TOKEN=...", f"TOKEN={token}")
    reader.do(call._replace(text=text))

    script = offer.text.replace("OPENAI_API_KEY=…", "OPENAI_API_KEY=sk-test-server")
    assert 0 == reader.run(f"rm address\n{script.replace('--port 8700', IN_BACKGROUND)}").code
    address = reader.path("address").read_text().strip()
    done = reader.run(f"TINYAGENT_PROXY_URL={address} tinyagent run -m proxy/openai/gpt-4.1-mini Hello")
    assert (0, "Hello from the model.") == (done.code, done.out.splitlines()[0]), done.err
    assert ["Bearer sk-test-server"] == [request.headers["authorization"] for request in internet.asked]
