"""The templates of a page, its style sheet and its script, which are in `page_files`.

The page loads nothing: its policy (CSP) allows this style sheet and this script by their hashes, and images
from data.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tinyagent_cli.terminal.sanitise import one_line
from tinyagent_cli.version import version

from .page_values import Moment, duration

__all__ = ["Template"]


class Template:
    """The beginning, the parts and the end of a page."""

    def __init__(self) -> None:
        self._environment = _environment()
        files = resources.files("tinyagent_cli.events") / "page_files"
        self._css = (files / "page.css").read_text(encoding="utf-8")
        self._js = (files / "page.js").read_text(encoding="utf-8")

    def policy(self, *, live: bool) -> str:
        """Return the Content-Security-Policy."""
        sources = {
            "default-src": "'none'",
            "script-src": _hash(self._js),
            "style-src": _hash(self._css),
            "img-src": "data:",
            "base-uri": "'none'",
            "form-action": "'none'",
        }
        if live:
            sources["connect-src"] = "'self'"
        return "; ".join(f"{name} {value}" for name, value in sources.items())

    def head(self, title: str, *, events: str | None = None) -> str:
        """Return the beginning. `events` is the address of a live page's changes."""
        return self.render(
            "head.html",
            title=one_line(title),
            version=version(),
            policy=self.policy(live=events is not None),
            css=Markup(self._css),
            events=events,
        )

    def tail(self, aside: str) -> str:
        """Return the end, with the summary and the time line."""
        return self.render("tail.html", aside=Markup(aside), js=Markup(self._js))

    def render(self, name: str, /, **values: object) -> str:
        """Render a template."""
        html: str = self._environment.get_template(name).render(**values)
        return html


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tinyagent_cli.events", "page_files"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(time=Moment, duration=duration)
    return environment


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
