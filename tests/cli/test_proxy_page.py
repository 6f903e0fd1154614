"""README.md of tinyagent-proxy-server: its server and its caller, on another port."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .conftest import ROOT
from .documents import Block, blocks
from .internet import Internet
from .reader import Reader, internet, new_reader

__all__ = ["internet", "new_reader"]

PAGE = blocks(ROOT / "plugins" / "tinyagent-proxy-server" / "README.md")


def test_the_server_and_its_caller(
    new_reader: Callable[[Sequence[Block]], Reader], internet: Internet
) -> None:
    """A caller gets the reply of a provider by the key of the server, and that of the demo."""
    serve, call = (block for block in PAGE if "test" in block.words)
    reader = new_reader(PAGE)
    script = serve.text.replace("OPENAI_API_KEY=…", "OPENAI_API_KEY=sk-test-server")
    script = script.replace("--port 8700", "--port 0 > address &")
    reader.do(serve._replace(text=f"{script}until [ -s address ]; do sleep 0.05; done\n"))
    token = reader.environment["TINYAGENT_PROXY_TOKEN"]
    script = call.text.replace("http://127.0.0.1:8700", reader.path("address").read_text().strip())
    done = reader.run(script.replace("TINYAGENT_PROXY_TOKEN=…", f"TINYAGENT_PROXY_TOKEN={token}"))
    lines = done.out.splitlines()
    assert (0, "Hello from the model.", "6 * 7 = 42") == (done.code, lines[0], lines[-1]), done.err
    assert ["Bearer sk-test-server"] == [request.headers["authorization"] for request in internet.asked]
