"""Convert a page to text for a model.

`extract` runs in a separate process, because parsing a page can take minutes, and a small page can become a
very large text.
"""

from __future__ import annotations

import codecs
import html
import re
from dataclasses import dataclass

from tinyagent import ToolError

from ._page import Page

__all__ = ["MAX_TEXT", "Extract", "extract"]

MAX_TEXT = 5_000_000
"""Characters of a page's text that are returned."""

_HTML = {"text/html", "application/xhtml+xml"}
_TEXT = {
    *("application/json", "application/ld+json", "application/x-ndjson", "application/jsonl"),
    *(
        "application/javascript",
        "application/x-javascript",
        "application/ecmascript",
        "application/typescript",
    ),
    *("application/xml", "application/yaml", "application/x-yaml", "application/toml", "application/sql"),
    *("application/x-sh", "application/graphql", "application/rtf", "application/x-www-form-urlencoded"),
    "image/svg+xml",
}
_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([\w.:+-]+)""", re.IGNORECASE | re.ASCII)
_META = re.compile(rb"""<meta[^>]{0,300}?charset\s*=\s*["']?\s*([\w.:+-]+)""", re.IGNORECASE)
_XML = re.compile(rb"""\A<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:+-]+)""")
_TITLE = re.compile(r"<title[^>]{0,200}>(.{0,1000}?)</title", re.IGNORECASE | re.DOTALL)
_MARKUP = re.compile(rb"\A(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body|!--)", re.IGNORECASE)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Encodings that pages declare, and those that they use in practice, as in browsers.
_MEANT = {
    "iso8859_1": "cp1252",
    "ascii": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "iso8859_9": "cp1254",
}
_NOT_FOR_PAGES = {"utf_7", "unicode_escape", "raw_unicode_escape", "idna", "punycode", "undefined"}
_MIN_TEXT_CHARACTERS = 200


@dataclass(frozen=True)
class Extract:
    """The text of a page. `complete` is False if the text was cut to `MAX_TEXT`."""

    title: str
    text: str
    complete: bool


def extract(page: Page) -> Extract:
    """Convert a page: HTML becomes Markdown with its links, other text is unchanged.

    Raises:
        ToolError: The type of the page is not text, or the converter failed.
    """
    declared = page.content_type.partition(";")[0].strip().lower()
    kind = _kind(declared, page.body)
    if kind is None:
        raise ToolError(
            f"{page.url} is {declared or 'of an unknown type'}, {len(page.body)} bytes"
            f"{'' if page.complete else ' or more'}. Only HTML, JSON and other text can be fetched."
        )
    source = _decoded(page, kind)
    if kind == "html":
        title, text = _title(source), _markdown(source, page.url)
    else:
        title, text = "", source.replace("\r\n", "\n")
    return Extract(title, text[:MAX_TEXT], len(text) <= MAX_TEXT)


def _title(source: str) -> str:
    found = _TITLE.search(source[:50_000])
    return " ".join(html.unescape(found[1]).split())[:300] if found else ""


def _kind(declared: str, body: bytes) -> str | None:
    if declared in _HTML:
        return "html"
    if declared.startswith("text/") or declared in _TEXT or declared.endswith(("+json", "+xml", "+yaml")):
        return "text"
    if declared in ("", "application/octet-stream", "unknown/unknown"):
        start = body[:4_000]
        if _MARKUP.match(start):
            return "html"
        # Only content that is certainly text.
        if b"\0" not in start and _is_utf8(start):
            return "text"
    return None


def _is_utf8(start: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return True


def _decoded(page: Page, kind: str) -> str:
    body = page.body
    for mark, marked in _MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(marked, "replace")
    declared = _CHARSET.search(page.content_type)
    labels = [declared[1]] if declared else []
    inside = _XML.search(body[:300]) or (_META.search(body[:2_048]) if kind == "html" else None)
    if inside:
        labels.append(inside[1].decode("ascii", "replace"))
    for label in labels:
        if (encoding := _encoding(label)) is not None:
            return body.decode(encoding, "replace")
    # A truncated page may end in the middle of a character.
    if _is_utf8(body):
        return body.decode("utf-8", "replace")
    return body.decode("cp1252", "replace")


def _encoding(label: str) -> str | None:
    """Return the codec for a declared encoding; None if it is unknown or not a text encoding."""
    try:
        found = codecs.lookup(label)
        "".encode(found.name)  # fails for codecs such as base64, which do not encode text
    except (LookupError, UnicodeError, ValueError):
        return None
    name = found.name.replace("-", "_")
    return None if name in _NOT_FOR_PAGES else _MEANT.get(name, name)


def _markdown(text: str, url: str) -> str:
    found = _converted(text, url, without_navigation=True)
    if len(found) < _MIN_TEXT_CHARACTERS:  # a page of menus, or with misleading markup
        found = max(found, _converted(text, url, without_navigation=False), key=len)
    return found


def _converted(text: str, url: str, *, without_navigation: bool) -> str:
    from html_to_markdown import ConversionOptions, PreprocessingOptions, convert

    options = ConversionOptions(
        base_url=url,
        compact_tables=True,
        exclude_selectors=["button", "select", "textarea", "input", "dialog"],
        extract_metadata=False,
        hidden_content="drop",
        inline_data_media="alt_text_only",
        preprocessing=PreprocessingOptions(remove_navigation=without_navigation, remove_forms=False),
    )
    try:
        content = convert(text, options).content or ""
    except Exception as error:  # noqa: BLE001 - the converter documents no exception
        raise ToolError(f"{url} cannot be converted to text: {error}.") from None
    return str(content).strip()
