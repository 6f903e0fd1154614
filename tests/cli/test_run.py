"""`tinyagent run`: its requests, its output and its record."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tinyagent import jsonl
from tinyagent.testing import FakeServer
from tinyagent.testing.server import chat_chunk, sse
from tinyagent_cli.terminal.amounts import dollar_text

from .conftest import TOOLS, Cli, FakeReply, Serve, as_openai

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


def messages(server: FakeServer, number: int = -1) -> list[dict[str, object]]:
    """Return the messages of a request."""
    found: list[dict[str, object]] = server.requests[number].json["messages"]
    return found


# ---- the reply ------------------------------------------------------------------------------------


def test_the_reply_is_standard_output_and_nothing_else_is(cli: Cli, serve: Serve) -> None:
    """Standard output is the text and one line break; standard error is empty."""
    serve(FakeReply.text("Hel", "lo"))
    assert (0, "Hello\n", "") == cli("run", "-m", "local/m", "Hi")


def test_a_reply_that_ends_in_a_newline_gets_no_second(cli: Cli, serve: Serve) -> None:
    """A reply that ends in a line break gets no second one."""
    serve(FakeReply.text("Hello\n"))
    assert "Hello\n" == cli("run", "-m", "local/m", "Hi").out


def test_text_goes_into_a_pipe_unchanged(cli: Cli, serve: Serve) -> None:
    """Text is not sanitised in a pipe."""
    serve(FakeReply.text("\x1b[31mred\x07 \u202eé漢\x1b[0m"))
    assert "\x1b[31mred\x07 \u202eé漢\x1b[0m\n" == cli("run", "-m", "local/m", "Hi").out


def test_a_tool_is_called_and_the_texts_of_both_turns_are_printed(cli: Cli, serve: Serve) -> None:
    """Each message ends with a line break; -v shows the call on standard error."""
    cli.file("mytools.py", TOOLS)
    server = serve(FakeReply.tool_calls(("look", {"at": "me"}), text="I look."), FakeReply.text("Seen."))
    done = cli("run", "-v", "-m", "local/m", "-t", "./mytools.py", "Look")
    assert (0, "I look.\nSeen.\n") == (done.code, done.out)
    assert re.search(r"^→ look me\n✓ look me \d+\.\d s\n  saw me\n", done.err, re.MULTILINE)
    assert "local/m · 6 tokens in, 4 out · cost unknown · 2 turns" in done.err
    assert {"role": "tool", "tool_call_id": "call_look_0", "content": "saw me"} == messages(server)[-1]


def test_what_tools_print_does_not_get_into_the_output(cli: Cli, serve: Serve) -> None:
    """The output of tools and their child processes goes to standard error."""
    cli.file(
        "loud.py",
        'import os\nfrom tinyagent import tool\nprint("imported")\n\n@tool(read_only=True)\n'
        'def loud() -> str:\n    "Shout."\n    print("printed")\n    os.system("echo child")\n'
        '    return "done"\n',
    )
    serve(FakeReply.tool_calls(("loud", {})), FakeReply.text("Done."))
    done = cli("run", "--jsonl", "-m", "local/m", "-t", "loud.py", "Go")
    assert "Done." == done.result["text"]
    assert {"imported", "printed", "child"} <= set(done.err.split())


def test_quiet_is_quiet(cli: Cli, serve: Serve) -> None:
    """-q prints only the reply and errors."""
    serve(FakeReply.text("Hello"))
    assert (0, "Hello\n", "") == cli("run", "-q", "-v", "-m", "local/m", "Hi")
    assert "There is no prompt" in cli("run", "-q", "-m", "local/m").err


def test_a_retry_shows(cli: Cli, serve: Serve) -> None:
    """Each retry is one line with the status; the last body is shown once."""
    busy = FakeReply.error(503, "busy\nvery busy", retry_after="0")
    serve(busy, FakeReply.text("Hello"))
    done = cli("run", "-m", "local/m", "Hi")
    assert (0, "Hello\n") == (done.code, done.out)
    assert "Retrying in 0 s (1 of 2): local: HTTP 503\n" == done.err
    serve(busy, busy, busy)
    failed = cli("run", "-m", "local/m", "Hi")
    assert (1, 2, 1) == (failed.code, failed.err.count("Retrying"), failed.err.count("very busy"))


# ---- the request ----------------------------------------------------------------------------------


def test_every_option_reaches_the_provider(cli: Cli, serve: Serve) -> None:
    """The request has the system prompt, temperature, limits, thinking, -O and the whole model id."""
    server = serve(FakeReply.text("ok"))
    done = cli(
        "run", "-m", "local/some/model", "-s", "Be brief.", "--temperature", "0.5", "--max-tokens", "7",
        "--thinking", "high", "-O", "top_k=3", "-O", "stop=[\"x\"]", "-O", "user=me=you", "Hi",
    )  # fmt: skip
    assert 0 == done.code, done.err
    body = server.requests[0].json
    assert [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}] == body["messages"]
    assert ("some/model", 0.5, 7, "high", 3, ["x"], "me=you") == tuple(
        body[name]
        for name in ("model", "temperature", "max_tokens", "reasoning_effort", "top_k", "stop", "user")
    )


ENGINE_TOOL = """
import sys
from tinyagent import tool

@tool(read_only=True)
def engine() -> str:
    "Name the HTTP engine that sent the request."
    return "httpx" if "tinyagent._net.httpx_engine" in sys.modules else "direct"
"""


@pytest.mark.parametrize(
    ("options", "configured", "expected"),
    [
        ((), "", "direct"),
        (("--transport", "auto"), "", "direct"),
        (("--transport", "httpx"), "", "httpx"),
        ((), "httpx", "httpx"),
        (("--transport", "direct"), "httpx", "direct"),
    ],
    ids=str,
)
def test_the_http_engine_can_be_chosen(
    cli: Cli, serve: Serve, options: tuple[str, ...], configured: str, expected: str
) -> None:
    """`--transport` or `[run] transport` chooses the engine; the option takes precedence."""
    cli.file("engine.py", ENGINE_TOOL)
    more = f'[run]\ntransport = "{configured}"\n' if configured else ""
    server = serve(FakeReply.tool_calls(("engine", {})), FakeReply.text("ok"), more=more)
    assert 0 == cli("run", "-m", "local/m", "-t", "./engine.py", *options, "Hi").code
    assert expected == messages(server)[-1]["content"]


def test_an_engine_that_cannot_use_the_proxy(cli: Cli) -> None:
    """The direct engine refuses a SOCKS proxy before any request, and the hint names the others."""
    cli.config('[providers.far]\nbase_url = "https://models.example/v1"\n')
    done = cli("run", "-m", "far/m", "--transport", "direct", "Hi", all_proxy="socks5://127.0.0.1:9")
    assert (3, "") == (done.code, done.out)
    assert "the direct transport cannot use the proxy socks5://127.0.0.1:9" in done.err
    assert "'auto' or 'httpx'" in done.err


def test_an_engine_for_a_model_without_http(cli: Cli) -> None:
    """A note reports that the option has no effect; the setting is silent."""
    done = cli("run", "-m", "demo", "--transport", "httpx", "Hi")
    assert (0, True) == (done.code, "--transport has no effect on demo/" in done.err)
    cli.config('[run]\ntransport = "httpx"\n')
    assert "transport" not in cli("run", "-m", "demo", "Hi").err


def test_the_key_goes_into_the_request_and_nowhere_else(cli: Cli, serve: Serve) -> None:
    """The key is sent as the bearer token, and no output has it."""
    server = serve(FakeReply.error(401, "bad key sk-test-CANARY-1234567"), more='api_key_env = "LOCAL_KEY"\n')
    done = cli("run", "--jsonl", "-vv", "-m", "local/m", "Hi", LOCAL_KEY=" sk-test-CANARY-1234567 \n")
    assert "Bearer sk-test-CANARY-1234567" == server.requests[0].headers["authorization"]
    assert 3 == done.code
    assert "CANARY" not in done.out + done.err


def test_files_and_images_are_sent(cli: Cli, serve: Serve) -> None:
    """-f sends text with its file name, and an image as a data: URL."""
    server = serve(FakeReply.text("ok"))
    cli.file("notes.txt", "buy milk\n")
    cli.file("dot.png", PNG)
    assert 0 == cli("run", "-m", "local/m", "-f", "notes.txt", "-f", "dot.png", "What is it?").code
    image, text = messages(server)[0]["content"]  # type: ignore[misc]
    assert f"data:image/png;base64,{base64.b64encode(PNG).decode()}" == image["image_url"]["url"]  # type: ignore[index]
    assert "<file name='notes.txt'>\nbuy milk\n</file>\n\nWhat is it?" == text["text"]  # type: ignore[index]


def test_the_system_prompt_comes_from_a_file(cli: Cli, serve: Serve) -> None:
    """`-s @FILE` reads the system prompt from a file."""
    server = serve(FakeReply.text("ok"))
    cli.file("system.txt", "Be kind.\n")
    assert 0 == cli("run", "-m", "local/m", "-s", "@system.txt", "Hi").code
    assert {"role": "system", "content": "Be kind."} == messages(server)[0]


# ---- the record -----------------------------------------------------------------------------------


def test_jsonl_is_a_run_that_reads_back(cli: Cli, serve: Serve) -> None:
    """The record has a header, events and a result that agrees with the exit code, and can be read back."""
    serve(FakeReply.text("Hel", "lo"))
    done = cli("run", "--jsonl", "-m", "local/m", "-s", "Be brief.", "Hi")
    header, result = done.lines[0], done.result
    assert ({"provider": "local", "id": "m", "api": "openai-completions"}, "Be brief.", [], 1) == (
        header["model"], header["system_prompt"], header["tools"], header["version"],
    )  # fmt: skip
    assert ("Hello", "stop", 1, None, 3) == (
        result["text"], result["stop_reason"], result["turns"], result["error"], result["usage"]["input"],
    )  # fmt: skip
    user, assistant = jsonl.messages(done.out.encode())
    assert ("Hi", "Hello") == (user["content"][0]["text"], assistant["content"][0]["text"])  # type: ignore[typeddict-item]


def test_every_line_fits_the_schema(cli: Cli, serve: Serve) -> None:
    """Every line of --jsonl is valid under `schema events`."""
    import jsonschema_rs

    cli.file("mytools.py", TOOLS)
    serve(FakeReply.tool_calls(("look", {})), FakeReply.text("Seen."))
    schema = cli("schema", "events")
    assert 0 == schema.code
    validator = jsonschema_rs.validator_for(json.loads(schema.out))
    lines = cli("run", "--jsonl", "-m", "local/m", "-t", "mytools.py", "Look").lines
    assert [] == [line for line in lines if not validator.is_valid(line)]


def test_output_writes_the_record_beside_the_text(cli: Cli, serve: Serve) -> None:
    """-o FILE has the record, and standard output the text."""
    serve(FakeReply.text("Hello"))
    cli.file("run.jsonl", "x" * 100_000)
    assert (0, "Hello\n", "") == cli("run", "-m", "local/m", "-o", "run.jsonl", "Hi")
    lines = (cli.work / "run.jsonl").read_bytes().splitlines()
    assert ("session", "result") == tuple(json.loads(lines[n])["type"] for n in (0, -1))


def test_history_continues_a_run(cli: Cli, serve: Serve) -> None:
    """Each run continues a record, and the third has the whole conversation."""
    server = serve(FakeReply.text("Hello"), FakeReply.text("Bonjour"), FakeReply.text("Hallo"))
    first = cli("run", "-m", "local/m", "--jsonl", "Say hello")
    cli.file("first.jsonl", first.out)
    second = cli("run", "-m", "local/m", "--jsonl", "--history", "first.jsonl", "In French")
    assert ["session", "history", "history", "agent_start"] == [line["type"] for line in second.lines[:4]]
    assert 0 == cli("run", "-m", "local/m", "--history", "-", "In German", stdin=second.out.encode()).code
    assert ["Say hello", "Hello", "In French", "Bonjour", "In German"] == [
        m["content"] for m in messages(server)
    ]


def test_a_failed_history_gives_a_warning(cli: Cli, serve: Serve) -> None:
    """A failed record gives a warning, and an empty one is an error."""
    serve(FakeReply.error(400, "bad request"), FakeReply.text("ok"))
    first = cli("run", "-m", "local/m", "--jsonl", "Say hello")
    second = cli("run", "-m", "local/m", "--history", "-", "In French", stdin=first.out.encode())
    assert (0, "ok\n") == second[:2]
    assert "failed: local: HTTP 400: bad request" in second.err
    assert "--history - is empty" in cli("run", "-m", "local/m", "--history", "-", "Hi", stdin=b"").err


# ---- ways to end ------------------------------------------------------------------------------------


def test_a_cut_reply_is_incomplete(cli: Cli, serve: Serve) -> None:
    """`length` prints the text so far, gives exit code 4, and names --max-tokens."""
    serve(FakeReply.chunks(chat_chunk("Once upon"), chat_chunk({}, "length")))
    done = cli("run", "--jsonl", "-m", "local/m", "Tell")
    assert ("output_truncated", "length", "Once upon") == (
        done.result["error"]["kind"], done.result["stop_reason"], done.result["text"],
    )  # fmt: skip
    assert 4 == done.code
    assert "--max-tokens" in done.err


THINKING = FakeReply(
    [sse(chat_chunk({"reasoning_content": "hm"})), sse(chat_chunk({}, "stop")), sse("[DONE]")]
)
EMPTY = {
    "empty": (FakeReply.text(""), "The reply is empty."),
    "blank": (FakeReply.text(" \n\t"), "The reply is empty."),
    "reasoning": (THINKING, "The reply has only reasoning and no answer."),
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("jsonl_too", [True, False])
def test_a_reply_without_text_is_no_answer(cli: Cli, serve: Serve, name: str, jsonl_too: bool) -> None:
    """An empty reply gives exit code 4 and `empty_reply` in the record."""
    reply, sentence = EMPTY[name]
    serve(reply)
    done = cli("run", "-m", "local/m", *(["--jsonl"] if jsonl_too else []), "Hi")
    assert 4 == done.code
    assert done.err.startswith(f"Error: {sentence}\n")
    if jsonl_too:
        assert (False, "stop", "empty_reply") == (
            done.result["ok"],
            done.result["stop_reason"],
            done.result["error"]["kind"],
        )


def test_an_answer_that_is_an_image_is_named(cli: Cli, serve: Serve) -> None:
    """An image is an answer: standard error names it, and the record has it."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    serve(FakeReply.chunks(chat_chunk({"images": [picture]}), chat_chunk({}, "stop")))
    done = cli("run", "-o", "run.jsonl", "-m", "local/m", "Draw")
    assert (0, "") == (done.code, done.out.strip())
    assert "The reply has no text, only content of type image." in done.err
    (image,) = jsonl.messages((cli.work / "run.jsonl").read_bytes())[-1]["content"]  # type: ignore[typeddict-item]
    assert "data:image/png;base64,AAAA" == image["url"]


def test_an_empty_reply_after_tool_calls_is_no_answer(cli: Cli, serve: Serve) -> None:
    """Text before tool calls does not count as the answer."""
    cli.file("mytools.py", TOOLS)
    serve(FakeReply.tool_calls(("look", {"at": "me"}), text="I look."), FakeReply.text(""))
    done = cli("run", "--jsonl", "-m", "local/m", "-t", "./mytools.py", "Look")
    assert (4, "empty_reply", 2) == (done.code, done.result["error"]["kind"], done.result["turns"])


Priced = Callable[..., tuple[FakeServer, dict[str, str]]]


@pytest.fixture
def priced(serve: Serve) -> Priced:
    """A stand-in for OpenAI whose replies use 1,000,000 tokens, and its environment."""

    def start(*deltas: dict[str, object]) -> tuple[FakeServer, dict[str, str]]:
        usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
        server = serve(
            *(FakeReply.chunks(chat_chunk(delta), chat_chunk({}, "stop", usage=usage)) for delta in deltas)
        )
        return server, as_openai(server)

    return start


CALL = {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "gone", "arguments": "{}"}}]}


def test_max_cost_is_a_limit(cli: Cli, priced: Priced) -> None:
    """The list price counts if the model reports no cost: exit code 4, kind `budget`."""
    server, environment = priced(CALL, CALL)
    done = cli("run", "--jsonl", "-m", "openai/gpt-4o", "--max-cost", "2", "Hi", **environment)
    assert (4, "budget") == (done.code, done.result["error"]["kind"])
    assert "budget of $2 (--max-cost)" in done.err
    assert 1 == len(server.requests)
    assert (2.5, True) == (done.result["usage"]["cost"], done.result["usage"]["cost_estimated"])


def test_max_total_tokens_is_a_limit(cli: Cli, priced: Priced) -> None:
    """The tokens of all replies count: exit code 4, kind `max_total_tokens`."""
    server, environment = priced(CALL, CALL, CALL)
    done = cli("run", "--jsonl", "-m", "openai/x", "--max-total-tokens", "1500000", "Hi", **environment)
    assert (4, "max_total_tokens") == (done.code, done.result["error"]["kind"])
    assert "limit of 1,500,000 tokens (--max-total-tokens)" in done.err
    assert (2, 2_000_000) == (len(server.requests), done.result["usage"]["total"])
    assert 2 == cli("run", "-m", "demo", "--max-total-tokens", "0", "Hi").code


def test_a_project_can_lower_the_limit_of_tokens(cli: Cli, priced: Priced) -> None:
    """The lower one of the files applies, and the option overrides both."""
    server, environment = priced(CALL, {"content": "ok"})
    cli.config("[run]\nmax_total_tokens = 5\n")
    cli.file("tinyagent.toml", "[run]\nmax_total_tokens = 9\n")
    assert "limit of 5 tokens" in cli("run", "-m", "openai/x", "Hi", **environment).err
    cli.config("")
    assert "ok\n" == cli("run", "-m", "openai/x", "--max-total-tokens", "99999999", "Hi", **environment).out
    assert 2 == len(server.requests)


def test_a_limit_of_tokens_without_usage(cli: Cli, serve: Serve) -> None:
    """Without usage, a warning says that the limit had no effect."""
    serve(FakeReply.chunks(chat_chunk("ok"), chat_chunk({}, "stop")))
    done = cli("run", "-m", "local/m", "--max-total-tokens", "2", "Hi")
    assert (0, 1) == (done.code, done.err.count("--max-total-tokens could not be enforced"))


def test_a_project_can_lower_the_budget(cli: Cli, priced: Priced) -> None:
    """`max_cost` of tinyagent.toml is a limit."""
    _, environment = priced(CALL, CALL)
    cli.file("tinyagent.toml", "[run]\nmax_cost = 1.5\n")
    assert 4 == cli("run", "-m", "openai/gpt-4o", "Hi", **environment).code


def test_a_budget_without_a_price(cli: Cli, priced: Priced) -> None:
    """Without a price, one warning says that the budget may have no effect."""
    _, environment = priced({"content": "ok"})
    done = cli("run", "-v", "-m", "openai/novel", "--max-cost", "2", "Hi", **environment)
    assert (0, 1) == (done.code, done.err.count("No price is known for openai/novel"))
    assert "cost unknown" in done.err


def test_a_budget_without_usage(cli: Cli, serve: Serve) -> None:
    """Without usage, a warning says that the budget had no effect."""
    server = serve(FakeReply.chunks(chat_chunk("ok"), chat_chunk({}, "stop")))
    done = cli("run", "-m", "openai/gpt-4o", "--max-cost", "2", "Hi", **as_openai(server))
    assert (0, 1) == (done.code, done.err.count("--max-cost could not be enforced"))


def test_the_estimated_cost_is_shown(cli: Cli, priced: Priced) -> None:
    """-v shows the estimated cost."""
    _, environment = priced({"content": "ok"})
    assert "about $2.50 " in cli("run", "-v", "-m", "openai/gpt-4o", "Hi", **environment).err


def test_an_amount_has_cents() -> None:
    """A cost has at least two decimals, and no cost is never an estimate."""
    costs = {
        "$3.00": (3.0, False),
        "about $0.10": (0.1, True),
        "$0.00025": (0.00025, False),
        "$0": (0.0, True),
    }
    assert list(costs) == [dollar_text(cost, estimated=estimated) for cost, estimated in costs.values()]


def test_max_repeats_is_a_limit(cli: Cli, serve: Serve) -> None:
    """--max-repeats and `max_repeats` end the run, and the message names the option."""
    cli.file("mytools.py", TOOLS)
    serve(*[FakeReply.tool_calls(("look", {"at": "me"})) for _ in range(4)])
    done = cli("run", "--jsonl", "-m", "local/m", "-t", "mytools.py", "--max-repeats", "2", "Look")
    assert (4, "repeat", 2) == (done.code, done.result["error"]["kind"], done.result["turns"])
    assert "2 times in a row (--max-repeats)" in done.err


def test_the_result_describes_a_failure(cli: Cli, serve: Serve) -> None:
    """The result has the status, whether a retry may help, and the seconds to wait."""
    serve(FakeReply.error(429, "slow down", retry_after="3600"))
    done = cli("run", "--jsonl", "-m", "local/m", "Hi")
    error = done.result["error"]
    assert (1, "rate_limit") == (done.code, error["kind"])
    assert (429, True, 3600) == (error["status"], error["retryable"], error["retry_after"])


PROVIDER = """
from tinyagent import Model, Provider, hookimpl
from tinyagent.errors import AuthenticationError

class LoginError(AuthenticationError):
    kind = "acme_login"

    def __init__(self, account, *, door):
        super().__init__(f"{account} cannot pass {door}", status=401)

async def stream(model, context, options):
    raise LoginError("nobody", door="the door")

@hookimpl
def tinyagent_register_providers(register):
    register(Provider(name="acme", stream_fn=stream, make_model=lambda id, _: Model("acme", id, "acme")))
"""


def test_a_providers_own_error_class(cli: Cli) -> None:
    """The record has the kind and status of a provider's own error class; its base decides the exit code."""
    cli.install("acme", PROVIDER, "providers")
    record = cli("run", "--jsonl", "-m", "acme/m", "Hi")
    assert 3 == record.code
    error = record.result["error"]
    assert ("acme_login", "nobody cannot pass the door", 401) == (
        error["kind"],
        error["message"],
        error["status"],
    )
    cli.file("run.jsonl", record.out)
    replayed = cli("run", "--jsonl", "-m", "replay:run.jsonl", "Hi")
    assert (3, "acme_login") == (replayed.code, replayed.result["error"]["kind"])


LEAVING = """
import asyncio, sys
from tinyagent import Model, Provider, hookimpl

class OddError(BaseException):
    pass

async def leave(error):
    raise error

async def stream(model, context, options):
    error = {{"exit": SystemExit(0), "interrupt": KeyboardInterrupt(), "odd": OddError("odd")}}[{how!r}]
    if {where!r} == "call":
        raise error
    return events(error)

async def events(error):
    yield {{"type": "text_delta", "content_index": 0, "delta": "half"}}
    if {where!r} == "reply":
        raise error
    task = asyncio.create_task(leave(error))
    await asyncio.sleep(600)

@hookimpl
def tinyagent_register_providers(register):
    register(Provider(name="acme", stream_fn=stream, make_model=lambda id, _: Model("acme", id, "acme")))
"""


@pytest.mark.parametrize(
    ("how", "where"),
    [
        *((how, where) for how in ("exit", "interrupt") for where in ("call", "reply", "task")),
        ("odd", "call"),
        ("odd", "reply"),
    ],
)
def test_a_plugin_that_ends_the_process_is_a_failure(cli: Cli, how: str, where: str) -> None:
    """`sys.exit(0)` in a provider is a failure, and the record is complete."""
    cli.install("acme", LEAVING.format(how=how, where=where), "providers")
    done = cli("run", "--jsonl", "-m", "acme/m", "Hi")
    expected = (1, "internal") if how == "odd" else (3, "plugin")
    assert expected == (done.code, done.result["error"]["kind"])
    assert (False, done.code) == (done.result["ok"], done.result["exit_code"])
    assert ("" if where == "call" else "half") == done.result["text"]
    assert ["agent_end", "result"] == [line["type"] for line in done.lines[-2:]]
    assert "Error: " in done.err


def test_max_turns_is_incomplete(cli: Cli, serve: Serve) -> None:
    """--max-turns ends the run with exit code 4."""
    cli.file("mytools.py", TOOLS)
    serve(*[FakeReply.tool_calls(("look", {"at": str(n)})) for n in range(3)])
    done = cli("run", "--jsonl", "-m", "local/m", "-t", "mytools.py", "--max-turns", "2", "Look")
    assert (4, "max_turns", 2) == (done.code, done.result["error"]["kind"], done.result["turns"])
    assert "after 2 turns (--max-turns)" in done.err


def test_timeout_ends_the_run(cli: Cli, serve: Serve) -> None:
    """--timeout gives exit code 124, with the text so far and complete events."""
    from tinyagent.testing.server import Hold

    serve(FakeReply([*FakeReply.text("Hello").steps[:1], Hold()]))
    done = cli("run", "--jsonl", "-m", "local/m", "--timeout", "3", "Hi")
    assert (124, "run_timeout", "Hello") == (done.code, done.result["error"]["kind"], done.result["text"])
    assert "agent_end" == done.lines[-2]["type"]


def test_a_tool_that_ends_the_run_is_no_failure(cli: Cli, serve: Serve) -> None:
    """A result with `terminate` ends the run with exit code 0, without another request."""
    cli.file(
        "stop.py",
        "from tinyagent import AgentToolResult, tool\n"
        "@tool(read_only=True)\n"
        "def stop() -> AgentToolResult:\n"
        "    'Stop.'\n"
        "    return AgentToolResult([{'type': 'text', 'text': 'done'}], terminate=True)\n",
    )
    serve(FakeReply.tool_calls(("stop", {})))
    done = cli("run", "--jsonl", "-m", "local/m", "-t", "stop.py", "Stop")
    assert (0, True, 1) == (done.code, done.result["ok"], done.result["turns"])


def test_a_failed_tool_does_not_end_the_run(cli: Cli, serve: Serve) -> None:
    """An exception in a tool gives an error result, and the run continues."""
    cli.file(
        "bad.py",
        'from tinyagent import tool\n\n@tool(read_only=True)\ndef bad() -> str:\n    "Fail."\n'
        '    raise OSError("no disk")\n',
    )
    server = serve(FakeReply.tool_calls(("bad", {})), FakeReply.text("It failed."))
    assert (0, "It failed.\n", "") == cli("run", "-m", "local/m", "-t", "bad.py", "Go")
    assert "no disk" in str(messages(server)[-1]["content"])


# ---- providers without a network --------------------------------------------------------------------


def test_demo_needs_nothing(cli: Cli) -> None:
    """`-m demo` answers offline with the result of a real tool, and a note says that it is scripted."""
    cli.file(
        "calc.py",
        "from tinyagent import tool\n@tool(read_only=True)\ndef calc(expression: str) -> str:\n"
        '    "Calculate."\n    return str(6 * 7)\n',
    )
    done = cli("run", "-m", "demo", "-t", "calc.py", "What is 6 * 7?")
    assert 0 == done.code, done.err
    assert "42" in done.out
    assert "demo" in done.err


def test_replay_answers_with_a_recorded_run(cli: Cli, serve: Serve) -> None:
    """`-m replay:FILE` replays a recorded run without the server."""
    serve(FakeReply.text("Hel", "lo"))
    assert 0 == cli("run", "-m", "local/m", "-o", "run.jsonl", "Hi").code
    assert (0, "Hello\n") == cli("run", "-m", "replay:run.jsonl", "Hi")[:2]


def test_a_model_of_the_environment_is_taken(cli: Cli, serve: Serve) -> None:
    """The precedence is -m, TINYAGENT_MODEL, the project file, the user file."""
    server = serve(*[FakeReply.text("ok")] * 4)
    config = (cli.home / "config.toml").read_text()
    cli.config(f'[run]\nmodel = "local/user"\n{config}')
    assert 0 == cli("run", "Hi").code
    cli.file("tinyagent.toml", '[run]\nmodel = "local/project"\n')
    assert 0 == cli("run", "Hi").code
    assert 0 == cli("run", "Hi", TINYAGENT_MODEL="local/variable").code
    assert 0 == cli("run", "-m", "local/flag", "Hi", TINYAGENT_MODEL="local/variable").code
    assert ["user", "project", "variable", "flag"] == [request.json["model"] for request in server.requests]


@pytest.mark.parametrize("name", ["anthropic-messages", "openai-responses"])
def test_other_protocols_can_be_configured(cli: Cli, serve: Serve, name: str) -> None:
    """`api` in [providers.NAME] chooses the protocol and the path."""
    server = serve(FakeReply.error(400, "no"), more=f'api = "{name}"\n')
    done = cli("run", "-m", "local/m", "Hi")
    assert 1 == done.code
    assert {"anthropic-messages": "/v1/messages", "openai-responses": "/v1/responses"}[
        name
    ] == server.requests[0].path


def test_records_are_what_msgspec_reads(cli: Cli, serve: Serve, tmp_path: Path) -> None:
    """Every line is a JSON object that starts with `type`."""
    serve(FakeReply.text("\u2028 a\x00b"))
    done = cli("run", "--jsonl", "-m", "local/m", "Hi")
    for line in done.out.removesuffix("\n").split("\n"):
        assert line.startswith('{"type":"')
        msgspec.json.decode(line)


def test_a_plugin_that_an_option_needs_is_named(cli: Cli) -> None:
    """`--mcp` without tinyagent-mcp gives exit code 3, and the hint installs it."""
    done = cli("run", "-m", "demo", "--mcp", "server", "Hi", TINYAGENT_PLUGINS="")
    assert (3, "") == (done.code, done.out)
    assert "tinyagent plugins install tinyagent-mcp" in done.err


# ---- arguments as bytes -----------------------------------------------------------------------------


@pytest.mark.usefixtures("new_processes")
@pytest.mark.parametrize("locale", ["LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0", "LC_ALL=C.UTF-8"])
def test_text_arguments_are_utf8_whatever_the_locale(cli: Cli, serve: Serve, locale: str) -> None:
    """Text arguments are UTF-8 in every locale."""
    server = serve(FakeReply.text("ok"))
    done = cli.shell(f"{locale} $T run -m local/modèle -s 'Sois brève.' -O user=zoë 'héllo 😀'")
    assert (0, "ok\n") == (done.code, done.out)
    sent = server.requests[0].json
    assert ("modèle", "zoë") == (sent["model"], sent["user"])
    assert ["Sois brève.", "héllo 😀"] == [message["content"] for message in sent["messages"]]


@pytest.mark.parametrize(
    "args",
    ["$'caf\\351'", "-s $'caf\\351' Hi", "-O user=$'caf\\351' Hi", "-m $'local/caf\\351' Hi"],
)
def test_bytes_that_are_not_text_are_refused(cli: Cli, args: str) -> None:
    """Invalid bytes are a usage error with the byte and its offset."""
    model = "" if "-m" in args else "-m demo"
    done = cli.shell(f"$T run --jsonl {model} {args}")
    assert (2, 2) == (done.code, done.result["exit_code"])
    assert "byte 0xe9 at offset" in done.err


# ---- empty standard input ---------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["true |", "echo |", "< empty"])
def test_empty_standard_input_is_mentioned(cli: Cli, source: str) -> None:
    """Empty standard input gives one warning and a field of the header."""
    cli.file("empty", "")
    for reads in ("", "-f -", "-s @-"):
        line = f"$T run --jsonl -m demo {reads} Summarise"
        done = cli.shell(f"{line} {source}" if source.startswith("<") else f"{source} {line}")
        assert (0, True) == (done.code, done.lines[0]["empty_stdin"])
        assert 1 == done.err.count("Warning: Standard input is empty")


@pytest.mark.parametrize("source", ["true | $T run --no-stdin", "$T run < /dev/null", "echo text | $T run"])
def test_other_standard_input_is_not(cli: Cli, source: str) -> None:
    """A device, `--no-stdin` and standard input with text give no warning."""
    done = cli.shell(source.replace("$T run", "$T run --jsonl -m demo Summarise"))
    assert (0, False) == (done.code, "empty_stdin" in done.lines[0])
    assert "Standard input is empty" not in done.err
