"""Model families: how the models of each family reason, and which settings they refuse.

There is one table for all protocols. Rules map the id of a model to its family. The table is not a list of
ids, so it also covers dated, fine-tuned and future ids: `ft:gpt-5-mini-2025-08-07:acme::x1`,
`openai/gpt-5.2`, `us.anthropic.claude-opus-4-6-v1:0`, `gpt-5-6-sol`. For an unknown model, the settings of
the user are sent unchanged.

`settings_for` returns the settings of one request. A setting that the model refuses is left out or replaced
by the nearest one, and `options["on_note"]` is called with a note.

Sources: the model pages and reasoning guides of OpenAI (platform.openai.com/docs/guides/reasoning), Anthropic
(docs.claude.com/en/docs/build-with-claude/extended-thinking, /effort), xAI (docs.x.ai), Gemini
(ai.google.dev/gemini-api/docs/openai), DeepSeek (api-docs.deepseek.com/guides/thinking_mode), Z.ai
(docs.z.ai/guides/capabilities/thinking-mode), Moonshot (platform.kimi.ai/docs) and Qwen
(help.aliyun.com/zh/model-studio/deep-thinking); error messages of the APIs where the pages are silent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tinyagent.agent_types import SimpleStreamOptions

    from .model import HttpModel


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
    """The abilities of the models of a family.

    Attributes:
        reasons: Whether they reason; None if this is not known.
        efforts: The reasoning efforts that they accept. `none` is one of them if reasoning can be turned off.
            Empty if the effort cannot be chosen.
        off_by_default: Whether they reason only if the request has an effort.
        temperature: Whether they accept a temperature while they reason.
        temperature_at_rest: Whether they accept a temperature while they do not reason.
        max_completion_tokens: Whether chat/completions requires `max_completion_tokens` and refuses
            `max_tokens`.
        responses: Whether OpenAI serves them by the Responses API: chat/completions refuses their tools, or
            does not offer them.
        chat_tools_at_rest: Whether chat/completions accepts their tools only with the effort `none`.
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
"""Models that reason, with an effort that cannot be chosen."""


# ---- ids ------------------------------------------------------------------------------------------------

_VENDOR = r"^(?:[a-z][a-z-]*\.)+(?=[a-z])"
"""A vendor before the id, as Bedrock and other servers write it: `us.anthropic.`, `openai.`."""


def _bare(model_id: str) -> str:
    """Return the id without path, fine-tuning prefix, vendor and variant (such as `:free`)."""
    name = model_id.strip().lower()
    name = name.removeprefix("ft:").rpartition("/")[2]
    return re.sub(_VENDOR, "", name.partition(":")[0].partition("@")[0])


def _version(prefix: str, name: str) -> tuple[int, int] | None:
    """Return the version after `prefix`, written `5.1`, `5-1` or, without a separator, `35`.

    Dates (`gpt-5-2025-08-07`, `grok-4-0709`) and sizes (`glm-4-9b`) are not part of the version.
    """
    match = re.match(rf"{prefix}(\d{{1,2}})(?!\d|b\b)(?:\.(\d{{1,2}})(?!\d)|-(\d{{1,2}})(?![\da-z]))?", name)
    if match is None:
        return None
    major, minor = int(match[1]), match[2] or match[3]
    if minor is None and major >= 30:
        return divmod(major, 10)  # Azure writes gpt-35-turbo
    return major, int(minor or 0)


def family_of(model_id: str) -> ModelFamily:
    """Return the family of a model.

    Args:
        model_id: The id in the form that is sent to a provider.
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
    parts = set(name.split("-"))
    if version is None or version < (5, 0) or "search" in parts:
        # The search models of chat/completions refuse a temperature.
        return ModelFamily(reasons=False, temperature_at_rest="search" not in parts)
    if "chat" in parts:
        return _PLAIN if version == (5, 0) else _OPENAI_REASONING._replace(efforts=("medium",))
    efforts: tuple[str, ...] = _COMMON
    if "pro" in parts:
        efforts = ("high",) if version == (5, 0) else ("medium", "high", "xhigh")
    elif "codex" in parts:
        if version >= (5, 2) or "max" in parts:
            efforts = (*_COMMON, "xhigh")
        elif "mini" in parts:
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
    """Return the version of a Claude model; (5, 0) for a preview without one; None for other models."""
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
    # grok-4.3 is the first that accepts an effort; grok-4, -4-fast, -4.1 and -4.20 are older.
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
"""Prefixes of the bare id and their rule. If a rule returns None, the next one is tried."""


# ---- the settings of a request ----------------------------------------------------------------------------


class Settings(NamedTuple):
    """The settings that a request to the model may contain.

    Attributes:
        family: The model's family.
        level: The thinking level, if the model can reason; "" without one.
        effort: The model's reasoning effort for this level; None if the effort cannot be chosen.
        temperature: The temperature; None if it is not set or not accepted.
    """

    family: ModelFamily
    level: str
    effort: str | None
    temperature: float | None


def settings_for(
    model: HttpModel,
    options: SimpleStreamOptions,
    *,
    reasons: bool | None = None,
    assumed: ModelFamily = _UNKNOWN,
    efforts: Callable[[ModelFamily], tuple[str, ...]] = lambda family: family.efforts,
) -> Settings:
    """Return the settings of a request. Call `on_note` for each setting that the model does not accept.

    Args:
        model: Its `id` and, if it has one, its `thinking_level` are used.
        options: The options of the call.
        reasons: Whether the model reasons, as the user configured it; None to decide by the id.
        assumed: The family of a model that reasons by configuration only.
        efforts: Returns the efforts that the server accepts for a family.
    """
    name = str(model.id)
    family = family_of(name)
    if reasons is False:
        family = _PLAIN
    elif reasons and not family.reasons:
        family = assumed._replace(reasons=True)
    level = str(options.get("thinking_level") or model.thinking_level or "off")
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
    name: str, family: ModelFamily, options: SimpleStreamOptions, *, thinks: bool
) -> float | None:
    """Return the temperature of a call; None, with a note, if the model does not accept it."""
    temperature = options.get("temperature")
    if temperature is None or (family.temperature if thinks else family.temperature_at_rest):
        return temperature
    while_reasoning = " while it reasons" if family.temperature_at_rest and thinks else ""
    note(options, f"{name} accepts no temperature{while_reasoning}: {temperature} was left out.")
    return None


def effort_for(name: str, level: str, efforts: tuple[str, ...], options: SimpleStreamOptions) -> str:
    """Return the effort for a thinking level. Call `on_note` if it is not the level itself."""
    effort = nearest_effort(level, efforts)
    if effort != level:
        note(options, f"{name} has no reasoning effort {level!r}: {effort!r} is used.")
    return effort


def nearest_effort(level: str, efforts: tuple[str, ...]) -> str:
    """Return the effort nearest to a thinking level; the higher one of two that are equally near."""
    wanted = _RANKS.get(level, _RANKS["medium"])
    known = [effort for effort in efforts if effort != "none"] or list(efforts)
    return min(known, key=lambda effort: (abs(_RANKS[effort] - wanted), -_RANKS[effort]))


def note(options: SimpleStreamOptions, text: str) -> None:
    """Call `on_note`, if there is one, with a change to the request or a setting that was left out."""
    on_note = options.get("on_note")
    if on_note is not None:
        on_note(text)
