"""Citations of all providers in one form, and their output in a run."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

import pytest

from tinyagent import extract_citations
from tinyagent._stream.citations import add_citations, read_citations
from tinyagent.agent_types import Citation, MessageEndEvent, MessageStartEvent
from tinyagent.testing import assistant
from tinyagent_cli.terminal.output import Output
from tinyagent_cli.terminal.text import MAX_SOURCES, TextRenderer

URL = "https://example.org/a"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"type": "url_citation", "url": URL, "title": "A", "start_index": 3, "end_index": 9},
            {"url": URL, "title": "A", "start": 3, "end": 9},
        ),
        (
            {"type": "url_citation", "url_citation": {"url": URL, "title": "A", "start_index": 0}},
            {"url": URL, "title": "A", "start": 0},
        ),
        (
            {
                "type": "web_search_result_location",
                "url": URL,
                "title": None,
                "encrypted_index": "E",
                "cited_text": "so",
            },
            {"url": URL, "cited_text": "so"},
        ),
        (
            {
                "type": "char_location",
                "document_title": "Report",
                "cited_text": "so",
                "start_char_index": 70,
                "end_char_index": 90,
            },
            {"title": "Report", "cited_text": "so"},
        ),
        (
            {"type": "search_result_location", "source": URL, "title": "A", "cited_text": "so"},
            {"url": URL, "title": "A", "cited_text": "so"},
        ),
        (
            {"type": "search_result_location", "source": "kb/7", "title": "A"},
            {"title": "A"},
        ),
        ({"type": "file_citation", "file_id": "file-1", "filename": "a.pdf", "index": 2}, {"title": "a.pdf"}),
        ({"type": "file_path", "file_id": "file-1", "index": 2}, {"title": "file-1"}),
        ({"web": {"uri": URL, "title": "A"}}, {"url": URL, "title": "A"}),
        ({"title": "A", "url": URL, "date": "2026-01-01", "snippet": "so"}, None),
        (URL, {"url": URL}),
        ("HTTPS://EXAMPLE.ORG", {"url": "HTTPS://EXAMPLE.ORG"}),
        ("javascript:alert(1)", {}),
        ({"url": "javascript:alert(1)"}, {}),
        ({"url": 5, "title": ["A"], "start_index": True}, {}),
        (None, {}),
    ],
)
def test_every_form(given: Any, expected: Any) -> None:
    """Each provider's form is read; only links are marked as links."""
    expected = {"url": URL, "title": "A", "cited_text": "so"} if expected is None else expected
    assert ([expected] if expected else []) == read_citations([given])


@pytest.mark.parametrize("given", [None, "text", 5, {}, {"url": URL}])
def test_other_values_are_ignored(given: Any) -> None:
    """Values that are not lists do not break a reply."""
    assert [] == read_citations(given)


def test_repeated_citations_are_added_once() -> None:
    """Servers repeat the list in each chunk."""
    known: list[Citation] = []
    for _ in range(3):
        add_citations(known, read_citations([URL, URL + "b"]))
    assert [{"url": URL}, {"url": URL + "b"}] == known


def cited(text: str, *citations: Any) -> Any:
    return {"type": "text", "text": text, "citations": list(citations)}


def test_the_sources_of_a_message() -> None:
    """Each source is listed once, in the order of the text."""
    message = assistant(
        cited("One", {"url": URL, "start": 0}, {"title": "Report"}),
        cited("Two", {"url": URL + "b"}, {"url": URL, "title": "A"}),
    )
    assert [{"url": URL, "title": "A"}, {"title": "Report"}, {"url": URL + "b"}] == extract_citations(message)
    assert [] == extract_citations(assistant("No sources"))


@pytest.mark.parametrize("citations", [None, "x", [None], [5, {"url": 7}], [{}], {"url": URL}])
def test_invalid_citations_of_custom_providers(citations: Any) -> None:
    """They break neither the list nor the output."""
    message = assistant({"type": "text", "text": "Hi", "citations": citations})
    assert ([], "Hi\n") == (extract_citations(message), shown(message))


def shown(message: Any) -> str:
    async def render() -> None:
        renderer = TextRenderer(Output(file.fileno(), "the file"))
        renderer(MessageStartEvent(message=message))
        renderer(MessageEndEvent(message=message))

    with tempfile.TemporaryFile() as file:
        asyncio.run(render())
        file.seek(0)
        return file.read().decode()


def test_sources_are_listed_below_the_text() -> None:
    """Each link is on one line, whatever its title has."""
    message = assistant(cited("It rains.", {"url": URL, "title": "The\nweather"}, {"title": "a.pdf"}))
    assert f"It rains.\n\nSources:\n[1] The weather - {URL}\n[2] a.pdf\n" == shown(message)


def test_links_in_the_text_are_not_repeated() -> None:
    """The numbers of the other sources do not change."""
    message = assistant(cited(f"It [rains]({URL}).", {"url": URL}, {"url": "https://example.net"}))
    assert shown(message).endswith("\n\nSources:\n[2] https://example.net\n")
    assert f"See {URL}\n" == shown(assistant(cited(f"See {URL}", {"url": URL})))


def test_a_long_list_is_truncated() -> None:
    """A message with hundreds of sources shows only some of them."""
    message = assistant(cited("Hi", *[{"url": f"https://example.org/{n}"} for n in range(MAX_SOURCES + 5)]))
    assert shown(message).endswith(f"[{MAX_SOURCES}] https://example.org/{MAX_SOURCES - 1}\n(5 more)\n")
