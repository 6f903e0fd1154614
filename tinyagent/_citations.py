"""Citations of all providers in one form: where a text has its statements from.

Each protocol has its own objects for this, and some servers mix them, so one function reads all of them:

    OpenAI         `url_citation`, `file_citation`, `container_file_citation`, `file_path`, search `sources`
                   https://platform.openai.com/docs/guides/tools-web-search
    Anthropic      `web_search_result_location`, `search_result_location`, `char_location`, `page_location`,
                   `content_block_location`: https://docs.claude.com/en/docs/build-with-claude/citations
    OpenRouter     `{"type": "url_citation", "url_citation": {...}}`
    Perplexity     `citations`, a list of URLs, and `search_results`: https://docs.perplexity.ai
    xAI            `citations`, a list of URLs
    Gemini         `{"web": {"uri", "title"}}`
    ours           `Citation`, from a proxy

The objects as they came are kept by the providers that want them back, in a block's signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .agent_types import Citation

__all__ = ["add_citations", "extract_citations", "read_citations"]

_NESTED = ("url_citation", "file_citation", "file_path", "web", "citation", "source")
"""Fields that hold the citation itself in some forms."""
_URL = ("url", "uri", "link", "source")
_TITLE = ("title", "document_title", "filename", "file_name", "name", "file_id")
_CITED_TEXT = ("cited_text", "quote", "snippet")


def read_citations(values: Any) -> list[Citation]:
    """The citations in a provider's list; what names no source is left out.

    Args:
        values: URLs and objects in any of the forms above; anything but a list has no citations.
    """
    if not isinstance(values, list | tuple):
        return []
    return [citation for value in values if (citation := _read(value))]


def _read(value: Any) -> Citation:
    if isinstance(value, str):
        return {"url": value} if _is_link(value) else {}
    if not isinstance(value, Mapping):
        return {}
    forms = [value, *(value[key] for key in _NESTED if isinstance(value.get(key), Mapping))]
    citation = Citation()
    if url := next(filter(_is_link, _strings(forms, _URL)), None):
        citation["url"] = url
    if title := next(_strings(forms, _TITLE), None):
        citation["title"] = title
    if not citation:
        return citation
    if cited_text := next(_strings(forms, _CITED_TEXT), None):
        citation["cited_text"] = cited_text
    # Characters of the answer. Anthropic's `start_char_index` counts in the source, and is not one of them.
    if (start := _position(forms, "start_index", "start")) is not None:
        citation["start"] = start
    if (end := _position(forms, "end_index", "end")) is not None:
        citation["end"] = end
    return citation


def _strings(forms: list[Mapping[str, Any]], keys: tuple[str, ...]) -> Iterator[str]:
    """What the forms have under any of the keys, if it is text."""
    return (form[key] for form in forms for key in keys if isinstance(form.get(key), str) and form[key])


def _position(forms: list[Mapping[str, Any]], *keys: str) -> int | None:
    values = (form.get(key) for form in forms for key in keys)
    return next((n for n in values if isinstance(n, int) and not isinstance(n, bool) and n >= 0), None)


def _is_link(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))


def add_citations(known: list[Citation], more: Iterable[Citation]) -> None:
    """Add the citations that are not among `known` yet, in place."""
    seen = {tuple(sorted(citation.items())) for citation in known}
    for citation in more:
        key = tuple(sorted(citation.items()))
        if key not in seen:
            seen.add(key)
            known.append(citation)


def extract_citations(message: Mapping[str, Any]) -> list[Citation]:
    """The sources of a message, each once, in the order in which the text first cites them.

    A source is known by its URL, or by its title if it has none. The entries have `url` and `title`, as
    far as the provider names them.
    """
    sources: dict[str, Citation] = {}
    content = message.get("content")
    for block in content if isinstance(content, list) else ():
        cited = block.get("citations") if isinstance(block, Mapping) else None
        # Messages of custom providers come as they are: only what is well formed counts.
        for citation in read_citations(cited):
            url, title = citation.get("url"), citation.get("title")
            source = sources.setdefault(url or title or "", {})
            if url:
                source["url"] = url
            if title:
                source.setdefault("title", title)
    return list(sources.values())
