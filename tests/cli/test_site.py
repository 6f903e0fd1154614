"""The site of the documentation: it is complete, has no broken links, and loads nothing from other hosts."""

from __future__ import annotations

import functools
import os
import runpy
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT
from .test_page_browser import browser, tabs

__all__ = ["browser", "tabs"]

SCRIPT = ROOT / "scripts" / "build-site"
SETTINGS = ROOT / "docs" / "site" / "zensical.toml"
PAGES = ("index.html", "mcp.html", "reference/tinyagent.html")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; the build fails for each warning, broken link and foreign file."""
    if not (ROOT / ".venv-docs/bin/zensical").exists():
        if os.environ.get("CI") == "true":
            pytest.fail(".venv-docs is missing")
        pytest.skip(".venv-docs is missing: run `make docs`")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True)
    assert 0 == done.returncode, done.stdout + done.stderr
    return folder / "site"


def linked_pages(items: Any) -> Iterator[str]:
    """Yield the pages of a navigation."""
    for item in items:
        for value in item.values():
            if isinstance(value, str):
                yield value
            else:
                yield from linked_pages(value)


def test_each_page_is_in_the_navigation_once() -> None:
    """The navigation has each document of the repository and each public module of the library."""
    script = runpy.run_path(str(SCRIPT))
    reference = [f"reference/{name}.md" for name, _ in script["reference_pages"]()]
    expected = [*script["documents"]().values(), *reference]
    navigation = tomllib.loads(SETTINGS.read_text("utf-8"))["project"]["nav"]
    assert sorted(linked_pages(navigation)) == sorted(expected)


def test_the_reference_has_all_public_names(site: Path) -> None:
    """Each public name of each public module has its place in the reference."""
    script = runpy.run_path(str(SCRIPT))
    anchors = set[str]()
    for path in (site / "reference").glob("*.html"):
        anchors |= script["Page"](path).anchors
    described, missing = list[object](), []
    for module in script["public_modules"]():
        for name in script["public_names"](module):
            address = f"{module.__name__}.{name}"
            if (
                address in anchors or f"{address}.{name}" in anchors
            ):  # the second: a function named as its module
                described.append(getattr(module, name))
            elif not any(value is getattr(module, name) for value in described):
                missing.append(address)
    assert missing == []
    assert len(described) > 200


def test_faults_of_a_site_are_found(tmp_path: Path) -> None:
    """Links without a page or an anchor, malformed links, and missing and foreign files are faults."""
    (tmp_path / "good.html").write_text('<h1 id="top">Top</h1><a href="https://example.com/">Elsewhere</a>')
    (tmp_path / "bad.html").write_text(
        '<a href="none.html">1</a><a href="good.html#none">2</a><a href="good.html#top">3</a>'
        '<a href="https:/x">4</a><script src="https://example.com/x.js"></script><img src="none.png">'
        '<link rel="stylesheet" href="//x.org/a.css">'
    )
    assert sorted(runpy.run_path(str(SCRIPT))["check"](tmp_path)) == [
        "bad.html: loads //x.org/a.css from another host",
        "bad.html: loads https://example.com/x.js from another host",
        "bad.html: loads none.png, which is missing",
        "bad.html: the link good.html#none leads to no anchor",
        "bad.html: the link https:/x has no proper form",
        "bad.html: the link none.html leads to no page",
    ]


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The address of a server for the site."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("page", PAGES)
def test_pages_in_a_browser(
    tabs: Any, address: str, page: str, width: int, scheme: str, tmp_path: Path
) -> None:
    """Pages have their navigation and colours, do not scroll to the side, and use no other host."""
    tab = tabs(width, scheme)
    tab.page.goto(address + page, wait_until="networkidle")
    tab.page.screenshot(path=tmp_path / "page.png")
    assert [event for event in tab.events if not event.startswith(f"request: {address}")] == []
    assert tab.page.locator("article h1").first.is_visible()
    assert not tab.overflows()
    if width < 1000:  # A narrow page has a menu instead of tabs.
        tab.page.locator("label.md-header__button[for=__drawer]").click()
    sections = tab.page.locator(".md-nav--primary" if width < 1000 else ".md-tabs")
    for name in ("Tutorials", "How to", "Reference", "Explanation"):
        sections.get_by_text(name, exact=True).filter(visible=True).first.wait_for()
    red, green, blue = (int(part) for part in tab.background().strip("rgb()").split(","))
    assert (red + green + blue > 600) == (scheme == "light")
