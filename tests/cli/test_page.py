"""`tinyagent events html`: the page as a file, and its server. For a browser see test_page_browser.py."""

from __future__ import annotations

import html
import http.client
import json
import os
import re
import signal
import subprocess
import time
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyagent_cli.events.page import write_page
from tinyagent_cli.events.source import open_source

from .conftest import ROOT, SECONDS, Cli
from .documents import blocks
from .page_records import ATTACKS, RecordWriter, hostile_record, rich_record, text

TAGS = """
html head meta title style script body header main aside section article div p span strong h1 h2 h3 a time
details summary dl dt dd ol li table thead tbody tr th td pre code svg rect input output button dialog form
kbd
"""
"""The elements of the page of `hostile_record`."""


class Tags(HTMLParser):
    """The tags and the texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page_of(cli: Cli, data: bytes) -> str:
    """The page of a record."""
    done = cli("events", "html", stdin=data)
    assert (0, "") == (done.code, done.err)
    return done.out


def test_a_page_has_the_conversation_the_calls_and_the_sums(cli: Cli) -> None:
    """Prompts, replies, reasoning, calls with arguments and results, failures, tokens and cost are on it."""
    page = page_of(cli, rich_record())
    shown = " ".join(" ".join(Tags(page).texts).split())
    for expected in (
        "An earlier question", "Why does the test fail?", "First I run the tests.", "The cause", "acme/large",
        "make test", "needle in the haystack", "It timed out.", "504", "The server is overloaded.",
        "Try again later.", "1,200 in, 34 out", "$0.0123", "2 (1 failed)", "$0.0492", "1.0 s", "Time line",
        "The specification",
    ):  # fmt: skip
        assert expected in shown, expected
    assert "<strong>one</strong>" in page
    assert 2 == page.count('<div class="run"')


def test_a_file_a_session_and_a_pipe_make_the_same_page(cli: Cli) -> None:
    """Only the title differs."""
    cli("run", "-m", "demo", "-t", "calc", "--session", "trip", "What is 6 * 7?")
    data = (cli.home / "sessions/named/trip.jsonl").read_bytes()
    path = cli.file("run.jsonl", data)
    pages = {
        re.sub(r"<(title|h1)>.*?</\1>", "", cli("events", "html", *args, stdin=given).out)
        for args, given in (((path,), None), (("trip",), None), ((), data), (("-",), data))
    }
    [page] = pages
    assert "42" in page


def test_nothing_of_a_hostile_record_is_markup(cli: Cli) -> None:
    """No text becomes a script, an event handler, a style, a foreign image or an unsafe link."""
    tags = Tags(page_of(cli, hostile_record())).tags
    assert 1 == sum(tag == "script" for tag, _ in tags)
    assert 1 == sum(tag == "style" for tag, _ in tags)
    assert set() == {tag for tag, _ in tags} - set(TAGS.split())
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcdoc")], tag
        href = attributes.get("href")
        assert href is None or re.match(r"(#|https?://|mailto:)", href), href
        assert tag != "a" or (href or "").startswith("#") or "noopener" in str(attributes["rel"])


def test_code_is_divided_for_colours(cli: Cli) -> None:
    """Keywords and other parts have classes, and the text stays as it is."""
    source = "\n\ndef f(a):\n\treturn 'x' # <b>&amp;\n\n"
    record = RecordWriter()
    record.header()
    record.message("assistant", [text(f"```python\n{source}```\n\n```nothing\n{source}```\n\n    def g")])
    page = page_of(cli, record.data)
    blocks = re.findall(r'<pre class="code".*?><code>(.*?)</code></pre>', page, re.DOTALL)
    assert [source, source, "def g\n"] == [html.unescape(re.sub(r"<.*?>", "", block)) for block in blocks]
    assert [True, False, False] == ["<span" in block for block in blocks]
    for expected in (
        '<span class="code-keyword">def</span> <span class="code-definition">f</span>',
        '<span class="code-string">&#39;x&#39;</span>',
        '<span class="code-comment"># &lt;b&gt;&amp;amp;</span>',
    ):
        assert expected in blocks[0]


def test_a_compaction_divides_the_conversation(cli: Cli) -> None:
    """The summary, the sizes and the reason are shown, in the history, too; a failed one has its error."""
    record = RecordWriter()
    record.header()
    summary = {"role": "user", "content": [text("<summary>\nIn *short*.\n</summary>")], "summary": True}
    record.line("history", message=summary)
    record.event("agent_start")
    record.compaction("Introduction\n\n<summary>\nA **summary**.\n</summary>", reason="overflow")
    record.compaction("", summary=None, error_message="It is empty.")
    record.event("compaction_start", reason="limit", tokens=1)
    page = page_of(cli, record.data)
    shown = " ".join(" ".join(Tags(page).texts).split())
    for expected in (
        "Summary of the earlier messages",
        "The conversation was too long for the model. A summary replaces 4 older messages: "
        "about 1,234 tokens instead of 9,000; $0.0005.",
        "The conversation could not be compacted: It is empty.",
        "The conversation could not be compacted: It was interrupted.",
        "Compactions 1",
    ):
        assert expected in shown, expected
    assert "<em>short</em>" in page
    assert "<p>A <strong>summary</strong>.</p>" in page


def test_hidden_characters_are_not_on_the_page(cli: Cli) -> None:
    """Control characters are removed, and shown as escapes in the arguments of tools."""
    record = RecordWriter()
    record.header()
    record.event("agent_start")
    record.message("assistant", [text("a\u202eb\x1b[31mc &#x202e;d\x00")])
    record.call("bash", {"command": "ls \u202e\x1b[2K\tx"}, "e\u202ef\x9b31m")
    page = page_of(cli, record.data)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert r"ls \u202e\x1b[2K" + "\tx" in page


def test_safe_images_only(cli: Cli) -> None:
    """Images from data of four types are shown, and all others are named."""
    record = RecordWriter()
    record.header()
    urls = ["data:image/webp;base64,AAAA", "data:image/svg+xml;base64,AAAA", "https://x.example/a.png"]
    record.message("user", [{"type": "image", "url": url} for url in urls])
    page = page_of(cli, record.data)
    assert [urls[0]] == [attributes["src"] for tag, attributes in Tags(page).tags if tag == "img"]
    assert "[image that is not shown: data:image/svg+xml, 30 characters]" in page


def test_damaged_lines_are_on_the_page(cli: Cli) -> None:
    """Lines that cannot be read are named on the page and on standard error, with exit code 1."""
    first, *rest = rich_record().splitlines(keepends=True)
    done = cli("events", "html", stdin=b"".join([first, b"{]\n", *rest, b'{"type":"resu']))
    assert 1 == done.code
    assert "standard input: line 2 is not JSON" in done.out
    assert "is incomplete and was left out" in done.out
    assert "Why does the test fail?" in done.out
    assert "Warning: standard input: line 2 is not JSON" in done.err
    assert "Error: The page leaves out 1 line of standard input" in done.err


def test_a_torn_last_line_is_a_warning(cli: Cli) -> None:
    """The page of a record that is being written is complete so far."""
    done = cli("events", "html", stdin=rich_record() + b'{"type":"resu')
    assert 0 == done.code
    assert "is incomplete and was left out" in done.out
    assert "Warning: standard input: line" in done.err


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "has no recorded run"), (b"# Title\n\ntext\n", "line 1 is not JSON")]
)
def test_no_page_without_a_record(cli: Cli, data: bytes, message: str) -> None:
    """Another kind of file is an error, and an older page stays."""
    path = cli.file("page.html", "old")
    done = cli("events", "html", "-o", path, stdin=data)
    assert (2, "") == (done.code, done.out)
    assert message in done.err
    assert ["page.html"] == [file.name for file in cli.work.iterdir()]
    assert "old" == path.read_text()


def test_an_interrupted_reply_and_an_open_call_are_shown(cli: Cli) -> None:
    """After a crash, the page has what was recorded of the reply, and the call without a result."""
    lines = cli("run", "-m", "demo", "-t", "calc", "--jsonl", "What is 6 * 7?").out.splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if '"text_delta"' in line)
    page = page_of(cli, "".join(lines[: last + 1]).encode())
    assert "not complete" in page
    assert "The run has no result" in page
    start = next(number for number, line in enumerate(lines) if "tool_execution_start" in line)
    assert "not ended" in page_of(cli, "".join(lines[: start + 1]).encode())


def test_long_texts_are_cut(cli: Cli) -> None:
    """The page names the number of characters that are left out."""
    record = RecordWriter()
    record.header()
    record.event("agent_start")
    record.call("bash", {"command": "x" * 250_000}, "y" * 1_000_000)
    page = page_of(cli, record.data)
    assert len(page) < 500_000
    assert "50,000 more characters are not shown." in page
    assert "800,000 more characters are not shown." in page


# ---- the file ---------------------------------------------------------------------------------------------


def test_the_page_replaces_an_older_one(cli: Cli) -> None:
    """A new page is private; an existing one keeps its mode. The record itself is never replaced."""
    record = cli.file("run.jsonl", rich_record())
    page = cli.work / "page.html"
    for mode in (0o600, 0o644):
        assert (0, "", "") == tuple(cli("events", "html", record, "-o", page))
        assert page.read_text().endswith("</html>\n")
        assert mode == page.stat().st_mode & 0o777
        page.write_text("old")
        page.chmod(0o644)
    done = cli("events", "html", record, "-o", record)
    assert 2 == done.code
    assert "would replace the file" in done.err
    assert rich_record() == record.read_bytes()


def test_a_full_disk_and_a_closed_pipe_end_the_command(cli: Cli) -> None:
    """The exit codes are those of the other commands."""
    cli.file("run.jsonl", rich_record())
    for target in ("> /dev/full", "-o /dev/full"):
        done = cli.shell(f"$T events html run.jsonl {target}")
        assert 1 == done.code
        assert "No space left on device" in done.err
    assert "141 0\n" == cli.shell("$T events html run.jsonl | true; echo ${PIPESTATUS[*]}").out


def test_a_terminal_gets_no_page(cli: Cli) -> None:
    """A hint names -o instead."""
    terminal = cli.on_terminal("events", "html", cli.file("run.jsonl", rich_record()))
    assert 2 == terminal.end()
    assert b"Name a file: -o run.html" in terminal.shown


def test_serve_and_a_file_cannot_be_used_together(cli: Cli) -> None:
    """It is a usage error."""
    assert 2 == cli("events", "html", "x", "--serve", "-o", "y").code


# ---- any values -------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(ATTACKS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return each place in a JSON value, as a container and a key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in ((value, key), *_places(item))]


@given(data=st.data())
@settings(max_examples=25)
def test_any_value_in_a_record_makes_a_page(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Values of the wrong type are shown, or their line is named; nothing fails."""
    lines = [json.loads(line) for line in rich_record().splitlines()]
    for _ in range(data.draw(st.integers(1, 4))):
        places = [(holder, key) for holder, key in _places(lines) if key != "type"]
        holder, key = data.draw(st.sampled_from(places))
        holder[key] = data.draw(JSON)
    path = tmp_path_factory.mktemp("any") / "run.jsonl"
    path.write_bytes(b'{"type":"result2"}\n' + b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    pieces: list[bytes] = []
    write_page(open_source(str(path), lambda _: None), pieces.append, lambda _: None)
    page = b"".join(pieces).decode()
    assert page.endswith("</html>\n")
    assert 1 == page.count("<script")


# ---- the server -------------------------------------------------------------------------------------------


class Stream:
    """The changes of a served page."""

    def __init__(self, connection: http.client.HTTPConnection, path: str) -> None:
        connection.request("GET", f"{path}events?from=0-0")
        self._connection = connection
        self._response = connection.getresponse()
        self._seen = ""

    def expect(self, text: str) -> None:
        """Wait until this text has arrived."""
        deadline = time.monotonic() + SECONDS
        while text not in self._seen:
            line = self._response.readline().decode()
            assert line, f"{text!r} did not arrive, but: {self._seen}"
            assert time.monotonic() < deadline, f"{text!r} did not arrive, but: {self._seen}"
            self._seen += line


class Server:
    """A running `events html --serve`."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.url = process.stdout.readline().decode().strip()
        parts = urlsplit(self.url)
        self.port, self.path = parts.port, parts.path
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", self.url)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
        """Return the status, the body and the headers of a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read().decode() if response.getheader("Content-Length") else ""
        found = {name.lower(): value for name, value in response.getheaders()}
        connection.close()
        return response.status, body, found

    def stream(self) -> Stream:
        """Return all changes."""
        return Stream(http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS), self.path)


def test_the_server_answers_only_its_page(cli: Cli) -> None:
    """Other tokens, hosts, origins and methods get nothing. Ctrl-C ends the command."""
    process = cli.start("events", "html", "--serve", cli.file("run.jsonl", rich_record()))
    server = Server(process)
    status, _, headers = server.get(server.path)
    assert 200 == status
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert ("no-store", "no-referrer", "nosniff") == tuple(
        headers[name] for name in ("cache-control", "referrer-policy", "x-content-type-options")
    )
    assert not [name for name in headers if name.startswith("access-control")]
    assert 200 == server.get(server.path, Host=f"localhost:{server.port}")[0]
    assert (200, "") == server.get(server.path, "HEAD")[:2]
    for path in (
        "/",
        "/favicon.ico",
        "/" + "A" * 32 + "/",
        server.path + "x",
        server.path[:-1].upper() + "/",
    ):
        assert (404, "") == server.get(path)[:2], path
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1", ""):
        assert (403, "") == server.get(server.path, Host=host)[:2], host
    assert 403 == server.get(server.path, Origin="https://evil.example")[0]
    assert 405 == server.get(server.path, "POST")[0]
    assert 431 == server.get(server.path, Cookie="x" * 20_000)[0]
    assert "text/event-stream" == server.get(f"{server.path}events?from=0-0")[2]["content-type"]
    process.send_signal(signal.SIGINT)
    assert 0 == process.wait(SECONDS)
    assert b"Following" in process.stderr.read()


def test_the_server_follows_a_pipe(cli: Cli) -> None:
    """The changes of a run reach an open page until the pipe ends. SIGTERM ends the command, too."""
    process = cli.start("events", "html", "--serve", stdin=subprocess.PIPE)
    lines = rich_record().splitlines(keepends=True)
    server = Server(process)
    stream = server.stream()
    for count, expected in ((8, "Why does the test fail?"), (len(lines), "The server is overloaded.")):
        process.stdin.write(b"".join(lines[:count]))
        process.stdin.flush()
        del lines[:count]
        stream.expect(expected)
    process.stdin.close()
    stream.expect("event: end")
    assert "Try again later." in server.get(server.path)[1]
    process.send_signal(signal.SIGTERM)
    assert 143 == process.wait(SECONDS)


def test_the_served_pages_of_the_guide(cli: Cli) -> None:
    """The commands with --serve in docs/events.md show the reply, and Ctrl-C ends them."""
    [block] = [block for block in blocks(ROOT / "docs" / "events.md") if not block.runs]
    assert 0 == cli("run", "-m", "demo", "--session", "trip", "Hello").code
    commands = block.text.splitlines()
    assert 2 == len(commands)
    for command in commands:
        process = cli.start(
            program=["bash", "-o", "pipefail", "-c", f'tinyagent() {{ $T "$@"; }}\n{command}'],
            environment={"T": " ".join(cli.command())}, start_new_session=True,
        )  # fmt: skip
        Server(process).stream().expect("You said: Hello")
        os.killpg(process.pid, signal.SIGINT)
        assert 0 == process.wait(SECONDS), process.stderr.read()


def test_the_server_ends_with_an_empty_pipe(cli: Cli) -> None:
    """A pipe whose writer failed is an error."""
    process = cli.start("events", "html", "--serve", stdin=subprocess.PIPE)
    process.stdin.close()
    assert 2 == process.wait(SECONDS)
    assert b"has no recorded run" in process.stderr.read()
