"""Finish reasons: one table for all protocols."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tinyagent._stream.finish_reasons import finish_error, finish_kind, is_final, later_reason, shown_reason
from tinyagent.agent import Agent, AgentOptions
from tinyagent.agent_types import AgentTool, AgentToolResult, Model
from tinyagent.errors import ContentFilterError, ProviderError
from tinyagent.openai_wire import ChatDecoder
from tinyagent.proxy_event_handlers import ProxyDecoder
from tinyagent.testing import Reply, ScriptedProvider, call, check_grammar, collect

WORDS = {
    "complete": """
        stop STOP eos eos_token stop_sequence stop_sequence:### end_turn endTurn tool_calls tool_use toolUse
        function_call TOOL_CALL COMPLETE completed FinishReason.STOP FINISH_REASON_STOP stop-sequence""",
    "length": """
        length max_tokens MAX_TOKENS maxTokens max_output_tokens model_length pause_turn ERROR_LIMIT
        time_limit model_context_window_exceeded FINISH_REASON_MAX_TOKENS max_tokens_reached context_limit
        budget_exceeded context_overflow""",
    "withheld": """
        content_filter content_filter:hate function_call_filter:unsafe_call content_filter_violence
        SAFETY IMAGE_SAFETY sensitive refusal PROHIBITED_CONTENT RECITATION BLOCKLIST SPII
        guardrail_intervened content_filtered ERROR_TOXIC contentFilter content-filter
        MODEL_ARMOR LANGUAGE output_blocked safety_violation FinishReason.SAFETY RAIFilter IPViolation
        self_harm hate_speech request_denied""",
    "broken": """
        abort aborted error network_error insufficient_system_resource MALFORMED_FUNCTION_CALL cancelled
        timeout USER_CANCEL UNEXPECTED_TOOL_CALL malformed_model_output upstream_error request_cancelled
        repetition request_terminated loop_detected SERVERShutdown""",
}
KINDS = [(kind, word) for kind, words in WORDS.items() for word in words.split()]
KINDS += [("withheld", "content_filter: hate"), ("withheld", "function_call_filter: unsafe call")]


@pytest.mark.parametrize("has_content", [True, False])
@pytest.mark.parametrize(("kind", "word"), KINDS)
def test_the_finish_reasons_of_all_providers(kind: str, word: str, has_content: bool) -> None:
    """Each has one kind, in every spelling and with any qualifier."""
    assert kind == finish_kind(word, has_content=has_content)


@pytest.mark.parametrize("word", ["load", "OTHER", "FINISH_REASON_UNSPECIFIED", "novel", "…", "42"])
def test_an_unknown_word_is_complete_only_with_content(word: str) -> None:
    """An unknown finish reason of an empty reply is not an answer."""
    assert "complete" == finish_kind(word, has_content=True)
    assert "broken" == finish_kind(word, has_content=False)


@pytest.mark.parametrize("word", ["", "null", "None", "NOT_FINISHED", "in_progress"])
def test_some_words_do_not_end_a_reply(word: str) -> None:
    """Servers that set the field in each chunk do not end the reply at the first one."""
    assert not is_final(word)
    assert is_final("stop")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["stop", "tool_calls"], "tool_calls"),
        (["stop", "content_filter"], "content_filter"),
        (["length", "stop"], "length"),
        (["content_filter", "eos"], "content_filter"),
        (["length", "error"], "error"),
        (["error", "length"], "length"),
    ],
)
def test_a_stop_does_not_make_a_reply_complete(words: list[str], expected: str) -> None:
    """The last finish reason counts, but `stop` does not override an incomplete one."""
    known = None
    for word in words:
        known = later_reason(known, word)
    assert expected == known
    chunks = [{"choices": [{"delta": {"content": "Hi"}, "finish_reason": word}]} for word in words]
    decoder = ChatDecoder(Model())
    decoder.feed(b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks))
    decoder.feed(b"data: [DONE]\n\n")
    assert expected == decoder.finish_reason


def test_the_errors_show_the_finish_reason() -> None:
    """Withheld is a content filter error, and broken is a retryable provider error."""
    withheld = finish_error("SAFETY", "withheld", name="acme", provider="acme", details="hate")
    assert isinstance(withheld, ContentFilterError)
    assert "acme: the reply was withheld (finish reason 'SAFETY': hate)" == str(withheld)
    broken = finish_error("abort", "broken", name="acme", provider="acme")
    assert isinstance(broken, ProviderError)
    assert (False, True) == (isinstance(broken, ContentFilterError), broken.retryable)
    assert "acme: the provider ended the reply early (finish reason 'abort')" == str(broken)
    unknown = finish_error("novel", "broken", name="acme")
    assert unknown is not None
    assert ("acme: the reply is empty (finish reason 'novel')", False) == (str(unknown), unknown.retryable)
    assert finish_error("stop", "complete", name="acme") is None
    assert finish_error("length", "length", name="acme") is None


def test_a_finish_reason_is_redacted_and_truncated() -> None:
    """A server that echoes the key as its finish reason does not reveal it."""
    assert "[key]" == shown_reason("sk-test-1234", lambda text: text.replace("sk-test-1234", "[key]"))
    assert 100 == len(shown_reason("x" * 5000))


# ---- through the protocols ----------------------------------------------------------------------------

MODEL = Model(provider="acme", id="m", api="openai-completions")
CALL = b'{"tool_calls":[{"index":0,"id":"c1","function":{"name":"delete","arguments":"{}"}}]}'


def chat(delta: bytes, word: str, **options: Any) -> Any:
    decoder = ChatDecoder(MODEL, **options)
    body = b'data: {"choices":[{"delta":%s,"finish_reason":"%s"}]}\n\ndata: [DONE]\n\n' % (
        delta,
        word.encode(),
    )
    events = decoder.feed(body) + decoder.close()
    return decoder.fail()["error"] if decoder.error else events[-1]["message"]


def proxy(word: str, finish: str | None = None, text: str = "Half") -> Any:
    decoder = ProxyDecoder(MODEL)
    more = b',"finishReason":"%s"' % finish.encode() if finish else b""
    body = (
        b'data: {"type":"start"}\n\n'
        b'data: {"type":"text_delta","contentIndex":0,"delta":"%s"}\n\n'
        b'data: {"type":"done","reason":"%s"%s}\n\n' % (text.encode(), word.encode(), more)
    )
    events = decoder.feed(body) + decoder.close()
    return decoder.fail()["error"] if decoder.error else events[-1]["message"]


@pytest.mark.parametrize(
    ("word", "ended", "kind"),
    [
        ("stop", "tool_use", None),
        ("novel", "tool_use", None),
        ("MAX_TOKENS", "length", None),
        ("content_filter: hate", "error", "content_filter"),
        ("abort", "error", "provider"),
    ],
)
def test_chat_completions_uses_the_table(word: str, ended: str, kind: str | None) -> None:
    """Calls run after a complete or unknown reason; otherwise the message fails."""
    message = chat(CALL, word)
    assert (ended, kind, word) == (
        message["stop_reason"],
        message.get("error_kind"),
        message["finish_reason"],
    )


def test_reasoning_is_not_content_for_an_unknown_reason() -> None:
    """Only text and calls make the reply complete."""
    assert "error" == chat(b'{"reasoning":"hm"}', "novel")["stop_reason"]
    assert "stop" == chat(b'{"reasoning":"hm"}', "stop")["stop_reason"]


def test_a_finish_reason_that_echoes_the_key_is_redacted() -> None:
    """Neither the field nor the error shows the key."""
    for word in ("sk-test-1234", "error sk-test-1234"):
        message = chat(b"{}", word, redact=lambda text: text.replace("sk-test-1234", "[key]"))
        assert "sk-test-1234" not in str(message)
        assert "[key]" in message["finish_reason"]


def test_the_proxy_uses_the_table() -> None:
    """The proxy's own reason and the provider's finish reason both count."""
    assert "stop" == proxy("stop")["stop_reason"]
    assert "stop" == proxy("stop", "novel")["stop_reason"]
    assert "length" == proxy("length", "stop")["stop_reason"]
    assert "error" == proxy("novel", text="")["stop_reason"]
    assert "stop" == proxy("stop", "novel", text="")["stop_reason"]
    assert "content_filter" == proxy("safety")["error_kind"]
    assert "content_filter" == proxy("stop", "content_filter: hate")["error_kind"]


@pytest.mark.parametrize("fields", [{"stop_reason": "SAFETY"}, {"finish_reason": "function_call_filter: x"}])
async def test_no_tool_of_a_withheld_reply_runs_whatever_the_provider(fields: dict[str, Any]) -> None:
    """The table applies to custom providers and to old recordings."""
    ran = []

    async def delete(call_id: str, args: Any, signal: Any, on_update: Any) -> AgentToolResult:
        ran.append(call_id)
        return AgentToolResult()

    async with ScriptedProvider(Reply(call("delete"), **fields)) as provider:
        tools = [AgentTool(name="delete", execute=delete)]
        state: Any = {"model": provider.model, "tools": tools}
        agent = Agent(AgentOptions(initial_state=state, stream_fn=provider))
        events = await collect(agent.stream("go"))
    check_grammar(events)
    message: Any = events[-1].messages[-1]
    assert [] == ran
    assert ("error", "content_filter") == (message["stop_reason"], message["error_kind"])
    assert "the reply was withheld" in message["error_message"]


async def test_the_loop_redacts_the_word_of_a_custom_provider() -> None:
    """Neither the finish reason nor the error has the key."""
    reply = Reply("Hi", finish_reason="error sk-test-CANARY-0123")
    async with ScriptedProvider(reply) as provider:
        state: Any = {"model": provider.model}
        options = AgentOptions(
            initial_state=state, stream_fn=provider, get_api_key=lambda _: "sk-test-CANARY-0123"
        )
        events = await collect(Agent(options).stream("go"))
    check_grammar(events)
    assert "sk-test-CANARY-0123" not in str(events[-1].messages)
    assert "error [key]" == events[-1].messages[-1]["finish_reason"]
