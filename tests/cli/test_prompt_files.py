"""Files and web pages in a prompt: `@FILE` and `-f URL`."""

from __future__ import annotations

import os
import re
import signal
import socket
from typing import Any

import pytest

from tinyagent import jsonl
from tinyagent.testing.server import FakeReply, FakeServer

from .conftest import Cli, Done

WEB = """
import httpcore
from tinyagent_tools_web import make_fetch

class Wires(httpcore.AsyncNetworkBackend):
    async def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        assert host == "93.184.216.34"
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", PORT, timeout)

async def resolver(host, port):
    return ["93.184.216.34"]

fetch = make_fetch(resolver=resolver, connect=Wires())
"""
"""The real tool, in front of which every name is that of one server on this machine."""


def prompt(done: Done) -> str:
    """Return the text that the model got."""
    assert 0 == done.code, done.err
    content: Any = jsonl.messages(done.out.encode())[0]["content"]
    return "".join(part.get("text", "[image]") for part in content)


def run(cli: Cli, *args: str, **more: Any) -> Done:
    """Run the demo."""
    return cli("run", "-m", "demo", "--jsonl", *args, **more)


NOTES = "<file name='notes.txt'>\nN\n</file>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sum up @notes.txt", f"{NOTES}\n\nSum up @notes.txt"),
        ("@notes.txt, @notes.txt?", f"{NOTES}\n\n@notes.txt, @notes.txt?"),
        ("a\n@sub/my.txt", "<file name='my.txt'>\nM\n</file>\n\na\n@sub/my.txt"),
        ("Is @@notes.txt ok", "Is @notes.txt ok"),
        ("@@ -1 +1 @@ of @alice me@notes.txt @ @sub", "@@ -1 +1 @@ of @alice me@notes.txt @ @sub"),
        ("@pipe @" + "x" * 5000, "@pipe @" + "x" * 5000),
    ],
)
def test_files_in_the_prompt(cli: Cli, text: str, expected: str) -> None:
    """A word @FILE adds a file that exists, once; all other words stay as they are."""
    cli.file("notes.txt", "N\n")
    (cli.work / "sub").mkdir()
    cli.file("sub/my.txt", "M\n")
    os.mkfifo(cli.work / "pipe")
    done = run(cli, text)
    assert expected == prompt(done)
    added = [line for line in done.err.splitlines() if line.startswith("Added the file")]
    assert len(added) == expected.count("<file")


def test_the_message_about_a_file(cli: Cli) -> None:
    """It names the file, and how to avoid it; a word that looks like a file that is missing is named, too."""
    cli.file("notes.txt", "N\n")
    missing = cli("run", "-m", "demo", "@no.md, @~/x @alice @types/node me@no.md @@no.md @1.2").err
    assert ["no.md", "~/x"] == re.findall(
        "^There is no file (.*), so @.* is only text.$", missing, re.MULTILINE
    )
    done = cli("run", "-m", "demo", "@notes.txt")
    assert (
        "Added the file notes.txt to the prompt, which has @notes.txt. For the text alone: @@notes.txt\n"
        in done.err
    )


def test_images_and_files_of_f(cli: Cli) -> None:
    """@FILE may be an image. The files of -f come first."""
    cli.file("notes.txt", "N\n")
    cli.file("more.txt", "M\n")
    cli.file("a.png", b"\x89PNG\r\n\x1a\nx")
    done = run(cli, "-f", "more.txt", "See @a.png and @notes.txt.")
    more = NOTES.replace("notes", "more").replace("N", "M")
    assert f"[image]{more}\n\n{NOTES}\n\nSee @a.png and @notes.txt." == prompt(done)


def test_only_the_prompt_of_the_command_line_is_searched(cli: Cli) -> None:
    """Standard input, templates and values of variables are not."""
    cli.file("notes.txt", "N\n")
    assert "@notes.txt\n\nHi" == prompt(run(cli, "Hi", stdin=b"@notes.txt"))
    templates = cli.home / "templates"
    templates.mkdir(parents=True)
    (templates / "t.md").write_text("@notes.txt {{ x }}")
    assert "@notes.txt @notes.txt" == prompt(run(cli, "-p", "t", "-P", "x=@notes.txt"))
    assert f"{NOTES}\n\n@notes.txt y\n\n@notes.txt" == prompt(run(cli, "-p", "t", "-P", "x=y", "@notes.txt"))


def test_files_that_cannot_be_used(cli: Cli) -> None:
    """A binary file is an error, and the record does not replace a file of the prompt."""
    cli.file("a.bin", b"a\0b")
    done = run(cli, "@a.bin")
    assert 2 == done.code
    assert "a.bin is binary" in done.err
    path = cli.file("notes.txt", "N")
    done = cli("run", "-m", "demo", "-o", "notes.txt", "See @notes.txt")
    assert (2, "N") == (done.code, path.read_text())
    assert "would replace the file that the prompt by @notes.txt uses" in done.err


def test_a_web_page(cli: Cli) -> None:
    """-f URL adds the page as text."""
    with FakeServer(FakeReply([b"The page."], headers={"Content-Type": "text/plain"})) as server:
        cli.install("zz-web", WEB.replace("PORT", str(server.port)), entry="web")
        cli.config('[plugins]\nprefer = { web = "zz-web" }\n')
        done = run(cli, "-f", "http://example.org/a", "Explain")
    url = "http://example.org/a"
    assert f"<file name='{url}'>\nURL: {url}\n\nThe page.\n</file>\n\nExplain" == prompt(done)


def test_a_page_of_this_machine_is_refused(cli: Cli) -> None:
    """The guard of the plugin applies, and no request is sent."""
    with FakeServer(FakeReply.text("secret")) as server:
        done = run(cli, "-f", server.url, "Explain")
        assert [] == server.requests
    assert 1 == done.code
    assert f"-f {server.url}: " in done.err
    assert "secret" not in done.out


def test_a_page_without_the_plugin(cli: Cli) -> None:
    """The error says how to install it."""
    done = run(cli, "-f", "https://example.org", "Explain", TINYAGENT_PLUGINS="")
    assert 3 == done.code
    assert "-f https://example.org needs the plugin tinyagent-tools-web, which is not installed." in done.err
    assert "tinyagent plugins install tinyagent-tools-web" in done.err


def test_a_signal_while_a_page_is_read(cli: Cli) -> None:
    """It ends the command as at any other time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        cli.install("zz-web", WEB.replace("PORT", str(port)), entry="web")
        cli.config('[plugins]\nprefer = { web = "zz-web" }\n')
        process = cli.start("run", "-m", "demo", "-f", "http://example.org/", "Hi")
        connection, _ = server.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
    assert (130, b"", b"Interrupted.\n") == (process.returncode, out, err)
