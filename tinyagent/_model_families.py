"""What is known of models by their ids: how they reason, and which settings they refuse.

One table for all protocols. A model is known by rules over its id, not by a list of ids, so that dated,
fine-tuned and future ids fall into their family: `ft:gpt-5-mini-2025-08-07:acme::x1`, `openai/gpt-5.2`,
`us.anthropic.claude-opus-4-6-v1:0` and `gpt-5-6-sol` are read like the plain ones. What is not known is
sent as the user asks.

`settings_for` makes the settings of one request from it. What the model refuses is left out or replaced by
what comes nearest, with a note for who wants to know (`options["on_note"]`).

Sources: the model pages and reasoning guides of OpenAI (platform.openai.com/docs/guides/reasoning), Anthropic
(docs.claude.com/en/docs/build-with-claude/extended-thinking, /effort), xAI (docs.x.ai), Gemini
(ai.google.dev/gemini-api/docs/openai), DeepSeek (api-docs.deepseek.com/guides/thinking_mode), Z.ai
(docs.z.ai/guides/capabilities/thinking-mode), Moonshot (platform.kimi.ai/docs) and Qwen
(help.aliyun.com/zh/model-studio/deep-thinking); error messages of the APIs where the pages are silent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = [
    "ModelFamily",
    "Settings",
    "claude_version",
    "effort_for",
    "family_of",
    "nearest_effort",
    "note",
    "settings_for",
    "temperature_for",
]

_RANKS = {"none": 0, "minimal": 1, "low": 2, "medium": 3, "high": 4, "xhigh": 5, "max": 6}
_COMMON = ("low", "medium", "high")


class ModelFamily(NamedTuple):
    """What the models of a family take.

    Attributes:
        reasons: Whether they reason; None if that is not known.
        efforts: The reasoning efforts that they know, `none` among them if they can be told not to
            reason; empty if how much they reason cannot be chosen.
        off_by_default: They reason only when an effort is given.
        temperature: Whether they take a temperature while they reason.
        temperature_at_rest: Whether they take one while they do not.
        max_completion_tokens: In chat/completions they want `max_completion_tokens` and refuse `max_tokens`.
        responses: At OpenAI they belong to the Responses API: chat/completions refuses their tools, or
            does not have them.
        chat_tools_at_rest: chat/completions takes their tools with the effort `none` only.
    """

    reasons: bool | None = None
    efforts: tuple[str, ...] = ()
    off_by_default: bool = False
    temperature: bool = True
    temperature_at_rest: bool = True
    max_completion_tokens: bool = False
    responses: bool = False
    chat_tools_at_rest: bool = False


_UNKNOWN = ModelFamily(efforts=_COMMON)
_PLAIN = ModelFamily(reasons=False)
_THINKING = ModelFamily(reasons=True)
"""These reason, and how much cannot be chosen."""


# ---- ids ------------------------------------------------------------------------------------------------

_VENDOR = r"^(?:[a-z][a-z-]*\.)+(?=[a-z])"
"""`us.anthropic.` and `openai.` before the id, as Bedrock and others write it."""


def _bare(model_id: str) -> str:
    """The id without a path, the mark of a fine-tuned model, a vendor and a variant such as `:free`."""
    name = model_id.strip().lower()
    name = name.removeprefix("ft:").rpartition("/")[2]
    return re.sub(_VENDOR, "", name.partition(":")[0].partition("@")[0])


def _version(prefix: str, name: str) -> tuple[int, int] | None:
    """The version after `prefix`, written `5.1`, `5-1` or, without a separator, `35`.

    Dates (`gpt-5-2025-08-07`, `grok-4-0709`) and sizes (`glm-4-9b`) are not part of it.
    """
    match = re.match(rf"{prefix}(\d{{1,2}})(?!\d|b\b)(?:\.(\d{{1,2}})(?!\d)|-(\d{{1,2}})(?![\da-z]))?", name)
    if match is None:
        return None
    major, minor = int(match[1]), match[2] or match[3]
    if minor is None and major >= 30:
        return divmod(major, 10)  # Azure writes gpt-35-turbo
    return major, int(minor or 0)


def family_of(model_id: str) -> ModelFamily:
    """The family of a model.

    Args:
        model_id: As it is sent to a provider.
    """
    name = _bare(model_id)
    for prefixes, rule in _RULES:
        if name.startswith(prefixes):
            family = rule if isinstance(rule, ModelFamily) else rule(name)
            if family is not None:
                return family
    return _UNKNOWN


# ---- OpenAI ---------------------------------------------------------------------------------------------


_OPENAI_REASONING = ModelFamily(
    reasons=True, efforts=_COMMON, temperature=False, max_completion_tokens=True, responses=True
)


def _gpt(name: str) -> ModelFamily:
    version = _version("gpt-", name)
    words = set(name.split("-"))
    if version is None or version < (5, 0) or "search" in words:
        # The search models of chat/completions refuse a temperature.
        return ModelFamily(reasons=False, temperature_at_rest="search" not in words)
    if "chat" in words:
        return _PLAIN if version == (5, 0) else _OPENAI_REASONING._replace(efforts=("medium",))
    efforts: tuple[str, ...] = _COMMON
    if "pro" in words:
        efforts = ("high",) if version == (5, 0) else ("medium", "high", "xhigh")
    elif "codex" in words:
        if version >= (5, 2) or "max" in words:
            efforts = (*_COMMON, "xhigh")
        elif "mini" in words:
            efforts = ("medium", "high")
    elif version == (5, 0):
        efforts = ("minimal", *_COMMON)
    elif version >= (6, 0):
        efforts = (*_COMMON, "xhigh")
    else:
        later = ("xhigh", "max") if version >= (5, 6) else ("xhigh",) if version >= (5, 2) else ()
        return _OPENAI_REASONING._replace(
            efforts=("none", *_COMMON, *later),
            off_by_default=version < (5, 5),
            chat_tools_at_rest=version >= (5, 4),
        )
    return _OPENAI_REASONING._replace(efforts=efforts)


def _o_series(name: str) -> ModelFamily | None:
    if not re.match(r"o\d+(?:-|$)", name):
        return None
    if name.startswith(("o1-mini", "o1-preview")):
        return _OPENAI_REASONING._replace(efforts=(), responses=False)  # older than the Responses API
    if "deep-research" in name:
        return _OPENAI_REASONING._replace(efforts=("medium",))
    return _OPENAI_REASONING


# ---- Anthropic ------------------------------------------------------------------------------------------


def claude_version(model_id: str) -> tuple[int, int] | None:
    """The version in a Claude's id, (5, 0) for a preview that has none yet; None for other models."""
    name = _bare(model_id)
    match = re.search(r"claude-(?:[a-z]+-)*(?:v?(\d+)(?:[-.](\d{1,2}))?(?!\d))?", name)
    if match is None:
        return None
    return (int(match[1]), int(match[2] or 0)) if match[1] else (5, 0)


def _claude(name: str) -> ModelFamily | None:
    version = claude_version(name)
    if version is None:
        return None
    if version < (3, 7):
        return _PLAIN
    if version >= (4, 7):
        return ModelFamily(
            reasons=True,
            efforts=(*_COMMON, "xhigh", "max"),
            off_by_default=True,
            temperature=False,
            temperature_at_rest=False,
        )
    efforts = (*_COMMON, "max") if version >= (4, 6) else _COMMON
    return ModelFamily(reasons=True, efforts=efforts, off_by_default=True, temperature=False)


# ---- others ---------------------------------------------------------------------------------------------


def _grok(name: str) -> ModelFamily:
    if "non-reasoning" in name:
        return _PLAIN
    if name.startswith("grok-3-mini"):
        return ModelFamily(reasons=True, efforts=("low", "high"))
    if "multi-agent" in name:
        return ModelFamily(reasons=True, efforts=(*_COMMON, "xhigh"))
    version = _version("grok-", name)
    if version is not None and version < (4, 0):
        return _PLAIN
    # grok-4, -4-fast, -4.1 and -4.20 came before 4.3, the first that takes an effort.
    if (version is None and name != "grok-latest") or (
        version is not None and (version < (4, 3) or version == (4, 20))
    ):
        return _THINKING
    return ModelFamily(reasons=True, efforts=("none", *_COMMON))


def _gemini(name: str) -> ModelFamily:
    version = _version("gemini-", name)
    if re.search(r"-(?:image|tts|embedding)", name):
        return _PLAIN
    if version is not None and version < (2, 5):
        return _THINKING if "thinking" in name else _PLAIN
    return ModelFamily(reasons=True, efforts=("minimal", *_COMMON))


def _deepseek(name: str) -> ModelFamily:
    version = _version("deepseek-v", name)
    if version is not None and version < (3, 1):
        return _PLAIN
    if re.match(r"deepseek-(?:v[4-9]|v\d\d|flash|pro)(?![a-z\d])", name):
        return ModelFamily(reasons=True, efforts=("low", "high", "max"))
    if re.match(r"deepseek-(?:r\d|reasoner|chat|v3)", name):
        return _THINKING
    return _PLAIN


def _glm(name: str) -> ModelFamily:
    version = _version("glm-", name)
    if version is None or version < (4, 5):
        return _THINKING if name.startswith("glm-z1") else _PLAIN
    return ModelFamily(reasons=True, efforts=("low", "high", "max")) if version >= (5, 2) else _THINKING


def _kimi(name: str) -> ModelFamily:
    version = _version("kimi-k", name)
    fixed = ModelFamily(reasons=True, temperature=False, temperature_at_rest=False)
    if version is not None and version >= (3, 0):
        return fixed._replace(efforts=("low", "high", "max"))
    if version is not None and version >= (2, 5):
        return fixed
    if version is None and name.startswith("kimi"):
        return ModelFamily()
    return _THINKING if "thinking" in name else _PLAIN


def _qwen(name: str) -> ModelFamily:
    if "instruct" in name or "coder" in name or "embedding" in name:
        return _PLAIN
    version = _version("qwen-?", name)
    return _PLAIN if version is not None and version < (3, 0) else _THINKING


_Rule = ModelFamily | Callable[[str], ModelFamily | None]
_RULES: tuple[tuple[tuple[str, ...], _Rule], ...] = (
    (("gpt-oss",), ModelFamily(reasons=True, efforts=_COMMON)),
    (("gpt-", "chatgpt-"), _gpt),
    (("o",), _o_series),
    (("codex",), _OPENAI_REASONING),
    (("computer-use",), ModelFamily(reasons=False, responses=True)),
    (("grok",), _grok),
    (("gemini",), _gemini),
    (("gemma",), _PLAIN),
    (("deepseek",), _deepseek),
    (("glm-",), _glm),
    (("kimi", "moonshot"), _kimi),
    (("qwq", "qvq", "magistral"), _THINKING),
    (("qwen",), _qwen),
    (("mistral", "ministral", "codestral", "devstral", "pixtral", "mixtral"), _PLAIN),
    (("",), _claude),
)
"""What the bare id begins with. A rule that gives None leaves the id to the next one."""


# ---- the settings of a request ----------------------------------------------------------------------------


class Settings(NamedTuple):
    """What of a call's options a request to the model may say.

    Attributes:
        family: The model's family.
        level: The thinking level that is wanted and can be had; "" for none.
        effort: The effort that stands for it, in the model's words; None if none can be chosen.
        temperature: The temperature; None if none is wanted or taken.
    """

    family: ModelFamily
    level: str
    effort: str | None
    temperature: float | None


def settings_for(
    model: Any,
    options: Mapping[str, Any],
    *,
    reasons: bool | None = None,
    assumed: ModelFamily = _UNKNOWN,
    efforts: Callable[[ModelFamily], tuple[str, ...]] = lambda family: family.efforts,
) -> Settings:
    """The settings of a request, with a note about each that the model does not take.

    Args:
        model: Its `id` and `thinking_level` are read.
        options: A call's options; `on_note` gets the notes.
        reasons: What the user says about whether the model reasons; None: its id decides.
        assumed: What to take a model for that is said to reason, if its id does not tell.
        efforts: The efforts that may be asked for, of a server that has rules of its own.
    """
    name = str(model.id)
    family = family_of(name)
    if reasons is False:
        family = _PLAIN
    elif reasons and not family.reasons:
        family = assumed._replace(reasons=True)
    level = str(options.get("thinking_level") or getattr(model, "thinking_level", None) or "off")
    level = "" if level == "off" else level
    effort = None
    if level and family.reasons is False:
        note(options, f"{name} does not reason: the thinking level {level!r} was left out.")
        level = ""
    elif level and (known := efforts(family)):
        effort = effort_for(name, level, known, options)
    thinks = bool(level) or (family.reasons is True and not family.off_by_default)
    return Settings(family, level, effort, temperature_for(name, family, options, thinks=thinks))


def temperature_for(
    name: str, family: ModelFamily, options: Mapping[str, Any], *, thinks: bool
) -> float | None:
    """The temperature of a call, or None if the model takes none; then with a note."""
    temperature: float | None = options.get("temperature")
    if temperature is None or (family.temperature if thinks else family.temperature_at_rest):
        return temperature
    while_it_reasons = " while it reasons" if family.temperature_at_rest and thinks else ""
    note(options, f"{name} takes no temperature{while_it_reasons}: {temperature} was left out.")
    return None


def effort_for(name: str, level: str, efforts: tuple[str, ...], options: Mapping[str, Any]) -> str:
    """The effort that stands for a thinking level, with a note if it is not the level itself."""
    effort = nearest_effort(level, efforts)
    if effort != level:
        note(options, f"{name} has no reasoning effort {level!r}: {effort!r} was asked for.")
    return effort


def nearest_effort(level: str, efforts: tuple[str, ...]) -> str:
    """The effort that comes nearest to a thinking level, the higher of two that are equally near."""
    wanted = _RANKS.get(level, _RANKS["medium"])
    known = [effort for effort in efforts if effort != "none"] or list(efforts)
    return min(known, key=lambda effort: (abs(_RANKS[effort] - wanted), -_RANKS[effort]))


def note(options: Mapping[str, Any], text: str) -> None:
    """Tell the caller what of a request was changed or left out."""
    on_note: Callable[[str], object] | None = options.get("on_note")
    if on_note is not None:
        on_note(text)
