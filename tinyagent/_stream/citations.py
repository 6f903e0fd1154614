"""Read the citations of all providers: the sources that a text refers to.

Each protocol has its own format, and some servers mix them. One function reads all of them:

    OpenAI         `url_citation`, `file_citation`, `container_file_citation`, `file_path`, search `sources`
                   https://platform.openai.com/docs/guides/tools-web-search
    Anthropic      `web_search_result_location`, `search_result_location`, `char_location`, `page_location`,
                   `content_block_location`: https://docs.claude.com/en/docs/build-with-claude/citations
    OpenRouter     `{"type": "url_citation", "url_citation": {...}}`
    Perplexity     `citations`, a list of URLs, and `search_results`: https://docs.perplexity.ai
    xAI            `citations`, a list of URLs
    Gemini         `{"web": {"uri", "title"}}`
    ours           `Citation`, from a proxy

A provider that needs the original objects in the next request stores them in the block's signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from tinyagent.agent_types import Citation

__all__ = ["add_citations", "extract_citations", "read_citations"]

_Forms: TypeAlias = list[Mapping[str, object]]
"""A citation and the objects nested in it."""

_NESTED = ("url_citation", "file_citation", "file_path", "web", "citation", "source")
"""Fields that hold the citation itself in some formats."""
_URL = ("url", "uri", "link", "source")
_TITLE = ("title", "document_title", "filename", "file_name", "name", "file_id")
_CITED_TEXT = ("cited_text", "quote", "snippet")


def read_citations(values: object) -> list[Citation]:
    """Read a provider's list of citations. Entries without a source are left out.

    Args:
        values: A list of URLs and objects in any of the formats above. Other values have no citations.
    """
    if not isinstance(values, list | tuple):
        return []
    return [citation for value in values if (citation := _read(value))]


def _read(value: object) -> Citation:
    if isinstance(value, str):
        return {"url": value} if _is_link(value) else {}
    if not isinstance(value, Mapping):
        return {}
    forms: _Forms = [value, *(value[key] for key in _NESTED if isinstance(value.get(key), Mapping))]
    citation = Citation()
    if url := next(filter(_is_link, _strings(forms, _URL)), None):
        citation["url"] = url
    if title := next(_strings(forms, _TITLE), None):
        citation["title"] = title
    if not citation:
        return citation
    if cited_text := next(_strings(forms, _CITED_TEXT), None):
        citation["cited_text"] = cited_text
    # Positions in the answer. Anthropic's `start_char_index` is a position in the source, so it is not read.
    if (start := _position(forms, "start_index", "start")) is not None:
        citation["start"] = start
    if (end := _position(forms, "end_index", "end")) is not None:
        citation["end"] = end
    return citation


def _strings(forms: _Forms, keys: tuple[str, ...]) -> Iterator[str]:
    """Return the texts under any of the keys that are not empty."""
    values = (form.get(key) for form in forms for key in keys)
    return (value for value in values if isinstance(value, str) and value)


def _position(forms: _Forms, *keys: str) -> int | None:
    values = (form.get(key) for form in forms for key in keys)
    return next((n for n in values if isinstance(n, int) and not isinstance(n, bool) and n >= 0), None)


def _is_link(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))


def add_citations(known: list[Citation], more: Iterable[Citation]) -> None:
    """Add to `known`, in place, the citations that it does not contain yet."""
    seen = {tuple(sorted(citation.items())) for citation in known}
    for citation in more:
        key = tuple(sorted(citation.items()))
        if key not in seen:
            seen.add(key)
            known.append(citation)


def extract_citations(message: Mapping[str, object]) -> list[Citation]:
    """Return the sources of a message, each once, in the order of their first citation.

    Two citations have the same source if they have the same URL or, without a URL, the same title. The
    entries have the keys `url` and `title`, as far as the provider sends them.
    """
    sources: dict[str, Citation] = {}
    content = message.get("content")
    for block in content if isinstance(content, list) else ():
        cited = block.get("citations") if isinstance(block, Mapping) else None
        # Messages of custom providers are not checked, so malformed citations are skipped.
        for citation in read_citations(cited):
            url, title = citation.get("url"), citation.get("title")
            source = sources.setdefault(url or title or "", {})
            if url:
                source["url"] = url
            if title:
                source.setdefault("title", title)
    return list(sources.values())
