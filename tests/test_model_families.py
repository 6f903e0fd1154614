"""Model families by their ids, and settings that they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from tinyagent._stream.model import HttpModel
from tinyagent._stream.model_families import (
    ModelFamily,
    claude_version,
    family_of,
    nearest_effort,
    settings_for,
)
from tinyagent.agent_types import ThinkingLevel

MINIMAL = ("minimal", "low", "medium", "high")
LOW = ("low", "medium", "high")
XHIGH = (*LOW, "xhigh")

RESPONSES = """
    gpt-5 gpt-5-mini gpt-5-nano-2025-08-07 gpt-5-pro gpt-5-codex gpt-5.1 gpt-5.1-codex-max
    gpt-5.1-chat-latest gpt-5.2-pro-2025-12-11 gpt-5.3-codex gpt-5.4-mini gpt-5.5-codex gpt-5.6-sol
    gpt-5-6-terra gpt-6 gpt-6-astra gpt-7.1-mini gpt-10 GPT-5 o1 o1-pro o1-2024-12-17 o3 o3-mini
    o3-deep-research o4-mini o5-mini o10 codex-mini-latest computer-use-preview
    ft:o4-mini-2025-04-16:acme::abc123 ft:gpt-5-mini:acme:name:x1 openai/gpt-5.2
"""
CHAT = """
    gpt-4.1 gpt-4.1-mini-2025-04-14 gpt-4o gpt-4o-2024-08-06 gpt-4-turbo gpt-4-32k gpt-4-1106-preview
    gpt-4.5-preview gpt-3.5-turbo gpt-35-turbo gpt-35-turbo-16k gpt-41 chatgpt-4o-latest
    gpt-5-chat-latest gpt-5-chat gpt-5-search-api gpt-4o-search-preview gpt-4o-audio-preview
    gpt-oss-120b openai/gpt-oss-20b:free ft:gpt-4o-mini-2024-07-18:acme::x ft:gpt-4.1-nano:a:b:c o1-mini
    o1-preview-2024-09-12 olmo-2 o200k omni-moderation-latest davinci-002 local qwen3-32b
    claude-sonnet-4-5 gpt-image-1 gpt-realtime-2 gpt-
"""


@pytest.mark.parametrize("model_id", RESPONSES.split())
def test_models_of_the_responses_api(model_id: str) -> None:
    """GPT-5 and later, the o-series and Codex, including dated, fine-tuned and future ids."""
    assert family_of(model_id).responses


@pytest.mark.parametrize("model_id", CHAT.split())
def test_models_of_chat_completions(model_id: str) -> None:
    """All other models use chat/completions."""
    assert not family_of(model_id).responses


@pytest.mark.parametrize(
    ("model_id", "efforts"),
    [
        ("gpt-5", MINIMAL),
        ("gpt-5-mini-2025-08-07", MINIMAL),
        ("gpt-5-pro", ("high",)),
        ("gpt-5-codex", LOW),
        ("gpt-5.1", ("none", *LOW)),
        ("gpt-5.1-2025-11-13", ("none", *LOW)),
        ("gpt-5.1-codex", LOW),
        ("gpt-5.1-codex-mini", ("medium", "high")),
        ("gpt-5.1-codex-max", XHIGH),
        ("gpt-5.1-chat-latest", ("medium",)),
        ("gpt-5.2", ("none", *XHIGH)),
        ("gpt-5.2-pro", ("medium", "high", "xhigh")),
        ("gpt-5.5", ("none", *XHIGH)),
        ("gpt-5.5-codex", XHIGH),
        ("gpt-5.6-sol", ("none", *XHIGH, "max")),
        ("gpt-6-astra", XHIGH),
        ("o3", LOW),
        ("o4-mini-deep-research", ("medium",)),
        ("o5-mini", LOW),
        ("o1-mini", ()),
        ("gpt-oss-120b", LOW),
        ("openai.gpt-oss-20b-1:0", LOW),
        ("claude-opus-4-6", (*LOW, "max")),
        ("us.anthropic.claude-opus-4-7-v1:0", (*XHIGH, "max")),
        ("claude-sonnet-4-20250514", LOW),
        ("grok-3-mini-fast", ("low", "high")),
        ("grok-4-0709", ()),
        ("grok-4-1-fast-reasoning", ()),
        ("xai.grok-4.20-reasoning", ()),
        ("grok-4.3", ("none", *LOW)),
        ("grok-latest", ("none", *LOW)),
        ("grok-5", ("none", *LOW)),
        ("gemini-2.5-flash", MINIMAL),
        ("gemini-3.1-pro-preview", MINIMAL),
        ("gemini-flash-latest", MINIMAL),
        ("deepseek-v4-pro", ("low", "high", "max")),
        ("deepseek-chat", ()),
        ("glm-5.2", ("low", "high", "max")),
        ("glm-4.7", ()),
        ("kimi-k3", ("low", "high", "max")),
        ("kimi-k2.6", ()),
        ("some-model-of-2031", LOW),
    ],
)
def test_efforts(model_id: str, efforts: tuple[str, ...]) -> None:
    """Each family has its own efforts; unknown models get the most common ones."""
    assert efforts == family_of(model_id).efforts


@pytest.mark.parametrize(
    ("model_id", "reasons"),
    [
        ("gpt-4o", False),
        ("gpt-5-chat-latest", False),
        ("gpt-5.2-chat-latest", True),
        ("gpt-35-turbo", False),
        ("claude-3-5-sonnet-20241022", False),
        ("claude-3.7-sonnet", True),
        ("claude-2.1", False),
        ("claude-instant-v1", False),
        ("claude-haiku-4-5@20251001", True),
        ("claude-mythos-preview", True),
        ("grok-3", False),
        ("grok-4-fast-non-reasoning", False),
        ("grok-code-fast-1", True),
        ("gemini-2.0-flash", False),
        ("gemini-2.5-flash-image", False),
        ("gemma-3-27b-it", False),
        ("deepseek-reasoner", True),
        ("deepseek-v3-0324", False),
        ("deepseek-v3.2", True),
        ("deepseek-coder", False),
        ("deepseek/deepseek-r1-0528:free", True),
        ("glm-4-9b-chat", False),
        ("glm-4.5-air", True),
        ("glm-4.5v", True),
        ("kimi-k2-0905-preview", False),
        ("kimi-k2-thinking", True),
        ("moonshot-v1-8k", False),
        ("kimi-latest", None),
        ("qwen3-32b", True),
        ("qwen/qwen3-235b-a22b-instruct-2507", False),
        ("qwen2.5-72b", False),
        ("qwq-32b", True),
        ("qwen-plus", True),
        ("qwen3-coder-plus", False),
        ("magistral-small-2509", True),
        ("mistral-large", False),
        ("llama-3.3-70b", None),
    ],
)
def test_whether_a_model_reasons(model_id: str, reasons: bool | None) -> None:
    """Some families have models of both kinds; for unknown models it is unknown."""
    assert reasons is family_of(model_id).reasons


@pytest.mark.parametrize(
    ("model_id", "version"),
    [
        ("claude-3-5-haiku-20241022", (3, 5)),
        ("anthropic/claude-4.7-opus", (4, 7)),
        ("claude-opus-4-20250514", (4, 0)),
        ("eu.anthropic.claude-sonnet-4-6", (4, 6)),
        ("claude-fable-5-1", (5, 1)),
        ("claude-v2", (2, 0)),
        ("claude-mythos-preview", (5, 0)),
        ("kimi-k2", None),
    ],
)
def test_the_version_of_a_claude(model_id: str, version: tuple[int, int] | None) -> None:
    """Names and numbers may have either order; dates are not versions."""
    assert version == claude_version(model_id)


@pytest.mark.parametrize(
    ("level", "efforts", "expected"),
    [
        ("minimal", LOW, "low"),
        ("xhigh", LOW, "high"),
        ("medium", ("low", "high"), "high"),
        ("low", ("low", "high"), "low"),
        ("medium", ("low", "high", "max"), "high"),
        ("xhigh", ("low", "high", "max"), "max"),
        ("minimal", ("none", *LOW), "low"),
        ("low", ("high",), "high"),
    ],
)
def test_the_nearest_effort(level: str, efforts: tuple[str, ...], expected: str) -> None:
    """A level never switches reasoning off, and of two efforts the higher counts."""
    assert expected == nearest_effort(level, efforts)


def settings(model_id: str, **options: Any) -> tuple[Any, list[str]]:
    notes: list[str] = []
    made = settings_for(HttpModel(id=model_id), {"on_note": notes.append, **options})
    return made, notes


@pytest.mark.parametrize(
    ("model_id", "level", "effort", "noted"),
    [
        ("gpt-5", "minimal", "minimal", False),
        ("gpt-5.1", "minimal", "low", True),
        ("gpt-5-pro", "low", "high", True),
        ("o3", "xhigh", "high", True),
        ("gpt-4.1", "high", None, True),
        ("grok-4", "high", None, False),
        ("gpt-5", "off", None, False),
        ("unknown", "minimal", "low", True),
    ],
)
def test_a_level_becomes_an_effort(model_id: str, level: str, effort: str | None, noted: bool) -> None:
    """Whatever is not sent as it was asked for is noted."""
    made, notes = settings(model_id, thinking_level=level)
    assert (effort, noted) == (made.effort, bool(notes))
    assert all(model_id in note and repr(level) in note for note in notes)


@pytest.mark.parametrize(
    ("model_id", "level", "taken"),
    [
        ("gpt-4.1", "off", True),
        ("gpt-4.1", "high", True),
        ("gpt-5", "off", False),
        ("gpt-5-chat-latest", "off", True),
        ("gpt-5.1", "off", True),
        ("gpt-5.1", "low", False),
        ("gpt-5.4", "off", True),
        ("gpt-5.5", "off", False),
        ("gpt-5.1-codex", "off", False),
        ("gpt-5.2-chat-latest", "off", False),
        ("gpt-6", "off", False),
        ("gpt-5-search-api", "off", False),
        ("o3", "off", False),
        ("o1-mini", "off", False),
        ("claude-sonnet-4-5", "off", True),
        ("claude-sonnet-4-5", "low", False),
        ("claude-opus-4-7", "off", False),
        ("grok-4", "high", True),
        ("gemini-2.5-pro", "high", True),
        ("kimi-k2.5", "off", False),
        ("kimi-k2-thinking", "low", True),
        ("deepseek-v4-pro", "high", True),
        ("unknown", "high", True),
    ],
)
def test_temperature(model_id: str, level: str, taken: bool) -> None:
    """Models that refuse a temperature, always or while they reason, get none, and the user learns it."""
    made, notes = settings(model_id, thinking_level=level, temperature=0.5)
    assert (0.5 if taken else None) == made.temperature
    assert taken is not any("accepts no temperature" in note for note in notes)


def test_what_the_user_says_of_a_model_counts() -> None:
    """`reasoning` of a model decides about ids that say nothing, and against ids that mislead."""
    house = HttpModel(id="house", thinking_level=ThinkingLevel.HIGH)
    assumed = ModelFamily(efforts=("low", "high"), temperature=False)
    made = settings_for(house, {"temperature": 0.5}, reasons=True, assumed=assumed)
    assert ("high", None) == (made.effort, made.temperature)
    assert (True, None) == (made.family.reasons, settings_for(house, {}, reasons=False).effort)
    assert settings_for(HttpModel(id="gpt-5"), {"temperature": 0.5}, reasons=False).temperature == 0.5
