"""Read the descriptions of parameters from docstrings in three styles.

    Google                     NumPy                      Sphinx
    Args:                      Parameters                 :param city: Its name.
        city: Its name.        ----------                 :type city: str
        days (int): How many.  city : str
                                   Its name.

Other sections (`Returns`, `Raises`) remain in the description, because a model can use them.
"""

from __future__ import annotations

import re
import textwrap

__all__ = ["read_docstring"]

_GOOGLE = re.compile(
    r"^(?:Args|Arguments|Parameters|Keyword Args|Keyword Arguments|Other Parameters):[ \t]*$", re.MULTILINE
)
_GOOGLE_ENTRY = re.compile(r"\*{0,2}(\w+)\s*(?:\(.*?\))?\s*:\s*(.*)")
_NUMPY = re.compile(r"^(?:Other )?Parameters[ \t]*\n-{3,}[ \t]*$", re.MULTILINE)
_NUMPY_ENTRY = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?$")
_NUMPY_SECTION = re.compile(r"^\S.*\n-{3,}[ \t]*$", re.MULTILINE)
_SPHINX = re.compile(
    r"^:(?:param|parameter|arg|argument|key|keyword|type|raises?|returns?|rtype)\b", re.MULTILINE
)
_SPHINX_ENTRY = re.compile(
    r":(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)"
)
_SPHINX_TYPE = re.compile(r":type\s+\w+\s*:")


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into the description and the descriptions of the parameters by name.

    Args:
        text: A docstring without indentation, as `inspect.getdoc` returns it.
    """
    for header, read in ((_NUMPY, _numpy), (_GOOGLE, _google), (_SPHINX, _sphinx)):
        match = header.search(text)
        if match is not None:
            rest, entries = read(text, match)
            description = f"{text[: match.start()].strip()}\n\n{rest.strip()}".strip()
            return description, {name: " ".join(filter(None, lines)) for name, lines in entries.items()}
    return text.strip(), {}


Entries = dict[str, list[str]]


def _google(text: str, match: re.Match[str]) -> tuple[str, Entries]:
    body = text[match.end() :].strip("\n")
    section, rest = _indented(body)
    if match.start() == 0 and not section:  # `inspect.getdoc` has removed the indentation.
        section, rest = body, ""
    entries: Entries = {}
    current: list[str] = []
    for line in textwrap.dedent(section).splitlines():
        entry = _GOOGLE_ENTRY.match(line)
        if entry is not None:
            current = entries[entry[1]] = [entry[2].strip()]
        else:
            current.append(line.strip())
    other = _GOOGLE.search(rest)
    if other is not None:
        before = rest[: other.start()]
        rest, more = _google(rest, other)
        rest, entries = f"{before}{rest}", entries | more
    return rest, entries


def _numpy(text: str, match: re.Match[str]) -> tuple[str, Entries]:
    body = text[match.end() :].lstrip("\n")
    end = _NUMPY_SECTION.search(body)
    section, rest = (body, "") if end is None else (body[: end.start()], body[end.start() :])
    entries: Entries = {}
    current: list[str] = []
    for line in section.splitlines():
        entry = _NUMPY_ENTRY.match(line)
        if entry is not None:
            current = []
            entries |= {name.strip(" *"): current for name in entry[1].split(",")}
        elif line.strip():
            current.append(line.strip())
    other = _NUMPY.search(rest)
    if other is not None and rest.startswith("Other"):
        rest, more = _numpy(rest, other)
        entries |= more
    return rest, entries


def _sphinx(text: str, match: re.Match[str]) -> tuple[str, Entries]:
    entries: Entries = {}
    rest: list[str] = []
    current: list[str] = rest
    for line in text[match.start() :].splitlines():
        entry = _SPHINX_ENTRY.match(line)
        if entry is not None:
            current = entries[entry[1]] = [entry[2].strip()]
        elif _SPHINX_TYPE.match(line):
            current = []
        elif line[:1].isspace() or not line:
            current.append(line if current is rest else line.strip())
        else:
            current = rest
            rest.append(line)
    return "\n".join(rest), entries


def _indented(text: str) -> tuple[str, str]:
    """Split a text after its leading indented lines."""
    lines = text.splitlines()
    count = next((n for n, line in enumerate(lines) if line and not line[0].isspace()), len(lines))
    return "\n".join(lines[:count]), "\n".join(lines[count:])
