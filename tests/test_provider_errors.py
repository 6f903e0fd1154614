"""Error responses of providers: their error classes, and redaction."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tinyagent._net import request as _http
from tinyagent._net.errors import provider_error, redact, reported_codes, reported_text
from tinyagent._net.request import get_json
from tinyagent._net.retry import RetryPolicy
from tinyagent.errors import (
    AuthenticationError,
    ContentFilterError,
    ContextOverflowError,
    ProviderError,
    RateLimitError,
    TinyAgentError,
)
from tinyagent.testing.server import FakeReply, FakeServer


def error_of(status: int | None, value: Any) -> TinyAgentError:
    """Return the error for a response with this status and JSON body."""
    return provider_error(reported_text(value), provider="acme", status=status, code=reported_codes(value))


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, "prompt is too long: 213462 tokens > 200000 maximum"),  # Anthropic
        (400, "input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000"),
        (400, "Your input exceeds the context window of this model"),  # OpenAI
        (400, "This model's maximum context length is 8192 tokens. However, your messages resulted in 8545"),
        (
            400,
            "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).",
        ),  # Gemini
        (400, "This model's maximum prompt length is 131072 but the request contains 537812 tokens."),  # xAI
        (400, "Invalid request: Your request exceeded model token limit: 131072 (requested: 140000)"),  # Kimi
        (400, "prompt token count of 93854 exceeds the limit of 90000"),  # Copilot
        (413, ""),  # Cerebras
        (
            413,
            "Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 8000",
        ),  # Groq
        (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097."),  # Together
        (400, "The input (516368 tokens) is longer than the model's context length (262144 tokens)."),
        (
            400,
            "Requested token count exceeds the model's maximum context length of 127072 tokens.",
        ),  # Perplexity
        (400, "Please reduce the length of the messages or completion."),
        (400, "the request exceeds the available context size, try increasing it"),  # llama.cpp
        (400, "tokens to keep from the initial prompt is greater than the context length"),  # LM Studio
        (400, "prompt too long; exceeded max context length by 4012 tokens"),  # Ollama
        (400, "Input is too long for requested model."),  # Bedrock
        (400, "Range of input length should be [1, 30720]"),  # DashScope
        (400, "too many tokens: total number of tokens in the prompt cannot exceed 4081"),  # Cohere
        (400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),  # vLLM
        (400, "Input length (5000 tokens) exceeds the maximum allowed length (4096 tokens)."),  # SGLang
        (400, "invalid params, context window exceeds limit (2013)"),  # MiniMax
        (
            400,
            "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
        ),  # Mistral
        (None, "Prompt tokens (900) exceeds context size (512)"),
        (422, "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000"),  # TGI
        (413, "Request body too large for gpt-4o model. Max size: 8000 tokens."),  # GitHub Models
        (400, "tokens_limit_reached"),
    ],
)
def test_context_overflows_are_recognised(status: int | None, text: str) -> None:
    """Every provider has its own text; the error is the same and is not retried."""
    error = error_of(status, {"error": {"message": text}} if text else "")
    assert (ContextOverflowError, False) == (type(error), getattr(error, "retryable", None))


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, "max_tokens: 100000 exceeds the maximum of 8192 output tokens"),
        (
            400,
            "`max_completion_tokens` is too large: 200000. The model supports 16384 completion tokens",
        ),
        (None, "ThrottlingException: Too many tokens, please wait before trying again."),
        (429, "Rate limit reached on tokens per min (TPM): Limit 10000, Used 9000, Requested 2000"),
        (413, "the attached file exceeds 20 MB"),
        (404, "no model with this context length"),
    ],
)
def test_other_limits_are_not_an_overflow(status: int | None, text: str) -> None:
    """Another number is too large, so a shorter conversation would not help."""
    assert not isinstance(error_of(status, {"error": {"message": text}}), ContextOverflowError)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, {"error": "unauthorized"}),
        (403, {"error": "forbidden"}),
        (
            400,
            {"code": "invalid-argument", "error": "Incorrect API key provided: xa***ey. You can obtain one"},
        ),
        (
            400,
            {
                "error": {
                    "code": 400,
                    "message": "API key not valid. Please pass a valid API key.",
                    "status": "INVALID_ARGUMENT",
                    "details": [{"reason": "API_KEY_INVALID"}],
                }
            },
        ),
        (400, {"error": {"message": "Authentication failed"}}),
        (400, {"detail": "Unauthorized"}),
        (400, {"error": {"message": "This API key doesn't exist."}}),
        (403, {"error": {"message": "This key has no access to the model."}}),
        (400, [{"error": {"message": "x", "details": [{"reason": "API_KEY_INVALID"}]}}][0]),
        (None, {"error": {"message": "no", "code": "invalid_api_key"}}),
    ],
)
def test_a_refused_key_is_an_authentication_error(status: int | None, body: Any) -> None:
    """xAI and Gemini refuse a wrong key with 400. The text and the codes show the reason."""
    error = error_of(status, body)
    assert (AuthenticationError, status) == (type(error), getattr(error, "status", None))


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, RateLimitError),
        (
            429,
            {"message": "You exceeded your current quota, please check your plan and billing"},
            RateLimitError,
        ),
        (429, {"message": "x", "type": "exceeded_current_quota_error"}, RateLimitError),
        (
            429,
            {"message": "Your team has either used all available credits or reached its limit"},
            RateLimitError,
        ),
        (402, {"message": "Insufficient credits"}, ProviderError),
        (403, {"message": "Your team has used all available credits"}, ProviderError),  # xAI
        (400, {"message": "Your credit balance is too low to access the Anthropic API."}, ProviderError),
        (None, {"message": "x", "type": "insufficient_quota"}, ProviderError),
    ],
)
def test_missing_credit_is_not_retried(status: int | None, error: Any, kind: type[ProviderError]) -> None:
    """Waiting does not help, so the request is not retried, and the hint shows what to do."""
    found = error_of(status, {"error": error})
    assert isinstance(found, ProviderError)
    assert (kind, False) == (type(found), found.retryable)
    assert "Add credit" in str(found.hint)


def test_a_rate_limit_with_the_text_of_a_quota_is_retried() -> None:
    """Gemini sends OpenAI's quota text for a rate limit, with a time to wait."""
    text = (
        "You exceeded your current quota, please check your plan and billing details. Please retry in 31 s."
    )
    found = error_of(429, {"error": {"message": text, "status": "RESOURCE_EXHAUSTED"}})
    assert isinstance(found, RateLimitError)
    assert found.retryable


async def test_insufficient_quota_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is sent once, and the error has the status."""
    monkeypatch.setattr(_http, "RETRY", RetryPolicy(first_wait=0.001))
    body = json.dumps({"error": {"message": "no more", "code": "insufficient_quota"}}).encode()
    async with FakeServer(FakeReply.error(429, body.decode()), repeat=True) as server:
        with pytest.raises(RateLimitError) as caught:
            await get_json(f"{server.origin}/x", provider="acme")
        assert (1, 429) == (len(server.requests), caught.value.status)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"code": "content_filter", "message": "The response was filtered"}}),
        (400, {"error": {"message": "filtered due to Azure OpenAI's content management policy"}}),
        (403, {"error": {"message": "acme/x requires moderation. Your input was flagged for 'violence'."}}),
    ],
)
def test_a_request_that_a_filter_refused(status: int, body: Any) -> None:
    """A request that a content filter refuses is neither a wrong key nor a malformed request."""
    assert ContentFilterError is type(error_of(status, body))


@pytest.mark.parametrize(
    "text",
    [
        "Bearer sk-test-abcdef",
        "Authorization: Basic dXNlcjpwYXNz",
        "sk-test-abcdef123",
        "AIzaSyA1234567890abcdefghijklmnop",
        "ghp_test1234567890",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ0ZXN0In0.c2ln",
        'x "api_key": "test1234abcd"',
        "use x-api-key: test1234abcd",
        "https://me:test1234@host.example/v1",
        "https://me:te/st1234@host.example/v1",
        "https://test1234@host.example/v1",
        "me:test1234@host.example",
        "https://host.example/v1?key=test1234",
        "https://host.example/v1?a=1&api-version=test1234",
    ],
)
def test_secrets_are_redacted(text: str) -> None:
    """Keys, tokens, passwords in URLs and the values of queries are not shown."""
    shown = redact(text)
    assert "[redacted]" in shown
    for secret in ("test1234", "abcdef", "dXNlcjpwYXNz", "SyA123", "c2ln", "st1234"):
        assert secret not in shown


@pytest.mark.parametrize(
    "text",
    [
        "a plain sentence: 1 + 1 = 2?",
        "the task-force asked for skill-based risk-assessment",
        "model key_value_cache is unknown at https://host.example/v1/chat",
        "Range [1, 30720]: 5 > 3; see mail of 12:30",
        "The api_key: must be given",
    ],
)
def test_other_text_is_shown(text: str) -> None:
    """A long error message is truncated."""
    assert text == redact(text)
