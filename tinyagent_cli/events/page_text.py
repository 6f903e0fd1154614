"""Text of a record as safe HTML.

Records are untrusted. Markdown is rendered without HTML and without images, and only links to http, https and
mailto are links. Control characters and characters that change the direction of text are removed, also those
that an entity such as `&#x202e;` becomes; in the arguments of tools they are shown as escapes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup, escape

from tinyagent import _json
from tinyagent_cli.terminal.highlighting import highlighted
from tinyagent_cli.terminal.sanitise import clean, visible

__all__ = ["Markdown", "Shown", "argument_text", "json_text", "link_url", "shown", "value_text"]

MAX_SHOWN = 200_000
"""The most characters of a text that are shown."""
MAX_MARKDOWN = 100_000
"""The longest text that is parsed as Markdown."""
MAX_PARAGRAPH = 16_000
"""The longest paragraph that is parsed: the time may grow with the square of its length."""
MARKDOWN_S = 20.0
"""Seconds for the Markdown of a page; later texts are shown as they are."""
COLOURS_S = 10.0
"""Seconds for the colours of the code of a page; later code is shown without them."""
DEEPEST = 32
"""The deepest nesting of Markdown; each list counts two."""
HEADINGS = 3
"""The levels of headings above those of a reply: the page, the run, the message."""

_LINK = r"(?:https?://|mailto:)[^\s\x00-\x1f]+"


class Shown(NamedTuple):
    """A text, and the number of characters at its end that are left out."""

    text: str
    omitted: int = 0


def shown(text: str, limit: int = MAX_SHOWN) -> Shown:
    """Return a text without control characters, cut to `limit` characters."""
    return Shown(clean(text[:limit]), max(len(text) - limit, 0))


def argument_text(text: str) -> Shown:
    """Return an argument of a tool, whose invisible characters are shown as escapes."""
    parts = text[:MAX_SHOWN].split("\t")
    return Shown("\t".join(map(visible, parts)), max(len(text) - MAX_SHOWN, 0))


def json_text(value: object) -> Shown:
    """Return a JSON value with indentation."""
    try:
        encoded = _json.encode_lossy(value)
        return argument_text(msgspec.json.format(encoded, indent=2).decode("utf-8", "replace"))
    except RecursionError:
        return Shown("(nested too deeply)")


def value_text(value: object) -> Shown:
    """Return the value of an argument: a text as it is, anything else as JSON."""
    return argument_text(value) if isinstance(value, str) else json_text(value)


def link_url(url: str) -> str | None:
    """Return the URL if it may be a link; otherwise None."""
    return url if re.fullmatch(_LINK, url, re.IGNORECASE) and clean(url) == url else None


class Markdown:
    """Renders the Markdown of a page."""

    def __init__(self) -> None:
        self._parser = MarkdownIt(
            "commonmark", {"html": False, "maxNesting": DEEPEST, "highlight": self._code}
        ).enable(["table", "strikethrough"])
        self._parser.validateLink = _is_link  # type: ignore[method-assign]
        for name, rule in (("image", _image), ("code_block", _plain_code)):
            self._parser.add_render_rule(name, rule)
        self._parser.add_render_rule("table_open", _table_open)
        self._parser.add_render_rule("table_close", _table_close)
        self._seconds = self._code_seconds = 0.0

    def render(self, text: str, *, is_final: bool = True) -> Markup | None:
        """Return the HTML; None if the text is too long, or would take too long.

        The time for a text that is not final does not count, because it is rendered again and again.
        """
        if len(text) > MAX_MARKDOWN or self._seconds > MARKDOWN_S:
            return None
        source = clean(text)
        if any(len(paragraph) > MAX_PARAGRAPH for paragraph in re.split(r"\n[ \t]*\n", source)):
            return None
        before = self._code_seconds
        started = time.monotonic()
        environment: dict[str, object] = {}
        tokens = self._parser.parse(source, environment)
        _make_safe(tokens)
        html = self._parser.renderer.render(tokens, self._parser.options, environment)
        if is_final:
            self._seconds += time.monotonic() - started
        else:
            self._code_seconds = before
        return Markup(html)

    def _code(self, code: str, language: str, _: str) -> str:
        """Return a block of code with the classes of its pieces."""
        if self._code_seconds > COLOURS_S:
            return _code_block(language, escape(code))
        started = time.monotonic()
        pieces = highlighted(code, clean(language)[:30])
        html = "".join(
            f'<span class="code-{kind}">{escape(text)}</span>' if kind else escape(text)
            for text, kind in pieces
        )
        self._code_seconds += time.monotonic() - started
        return _code_block(language, Markup(html))


def _code_block(language: str, html: Markup) -> str:
    name = clean(language)[:30]
    label = Markup(' data-language="{}"').format(name) if name else ""
    return f'<pre class="code" tabindex="0"{label}><code>{html}</code></pre>'


def _is_link(url: str) -> bool:
    return link_url(url) is not None


def _make_safe(tokens: Sequence[Token]) -> None:
    for token in tokens:
        token.content = clean(token.content)
        token.info = clean(token.info)
        if token.type == "link_open":
            token.attrs = {
                "href": token.attrs.get("href", ""),
                "rel": "noopener noreferrer nofollow",
                "target": "_blank",
            }
        elif token.type in ("heading_open", "heading_close"):
            level = int(token.tag[1:])
            token.tag = f"h{min(level + HEADINGS, 6)}"
            if token.nesting == 1:
                token.attrs = {"class": f"h{level}"}
        elif token.type in ("th_open", "td_open") and "style" in token.attrs:
            token.attrs = {"class": str(token.attrs["style"]).rpartition(":")[2]}
        if token.children:
            _make_safe(token.children)


# The signatures are those of markdown-it-py.


def _image(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    """Name an image instead of loading it: the page loads nothing."""
    token = tokens[index]
    alt = self.renderInlineAsText(token.children or [], options, env)
    return f'<span class="picture">[image: {escape(alt)} {escape(token.attrs.get("src", ""))}]</span>'


def _plain_code(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    return _code_block("", escape(tokens[index].content)) + "\n"


def _table_open(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    return '<div class="table" tabindex="0"><table>\n'


def _table_close(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: EnvType
) -> str:
    return "</table></div>\n"
