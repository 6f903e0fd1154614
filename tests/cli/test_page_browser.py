"""The pages of `tinyagent events html` in headless Chromium, with the driver of `make environments`."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import ROOT, SECONDS, Cli
from .page_records import hostile_record, rich_record

WIDTHS = (1280, 400)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests. Without it they are skipped; in CI they fail."""
    sites = list((ROOT / ".venv-browser").glob("lib/python*/site-packages/playwright"))
    chromium = shutil.which("chromium")
    if not sites or chromium is None:
        what = (
            "chromium is not installed"
            if chromium is None
            else ".venv-browser is missing: run `make environments`"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(what)
        pytest.skip(what)
    sys.path.append(str(sites[0].parent))
    from playwright.sync_api import sync_playwright

    home = str(tmp_path_factory.mktemp("browser"))
    with sync_playwright() as driver:
        launched = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"], env={"PATH": os.environ["PATH"], "HOME": home}
        )
        yield launched
        launched.close()
    sys.path.remove(str(sites[0].parent))


class Tab:
    """A page in the browser, with the requests, the messages and the dialogs that it caused."""

    def __init__(self, browser: Any, width: int, scheme: str = "light", *, script: bool = True) -> None:
        viewport = {"width": width, "height": 800}
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme, java_script_enabled=script)
        self.context.set_default_timeout(SECONDS * 1000)
        self.page = self.context.new_page()
        self.events: list[str] = []
        self.page.on("request", lambda request: self._add("request", request.url))
        self.page.on("console", lambda message: self._add("console", message.text))
        self.page.on("pageerror", lambda error: self._add("error", str(error)))
        self.page.on("dialog", lambda dialog: (self._add("dialog", dialog.message), dialog.dismiss()))

    def _add(self, kind: str, text: str) -> None:
        if kind != "request" or not text.startswith(("file:", "data:image/png")):
            self.events.append(f"{kind}: {text}")

    def background(self) -> str:
        """The colour of the page."""
        return str(self.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    def overflows(self) -> bool:
        """Whether the page scrolls to the side."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))

    def focused(self) -> str:
        """The text that has the focus."""
        return str(self.page.evaluate("document.activeElement.closest('.item')?.innerText ?? ''"))


@pytest.fixture
def tabs(browser: Any) -> Iterator[Any]:
    """Open tabs, which are closed at the end."""
    opened: list[Tab] = []

    def open_tab(*args: Any, **options: Any) -> Tab:
        opened.append(Tab(browser, *args, **options))
        return opened[-1]

    yield open_tab
    for tab in opened:
        tab.context.close()


def written(cli: Cli, data: bytes) -> str:
    """The address of the page of a record."""
    path = cli.work / "page.html"
    done = cli("events", "html", cli.file("run.jsonl", data), "-o", path)
    assert 0 == done.code, done.err
    return path.as_uri()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_fits_and_can_be_used_with_the_keyboard(cli: Cli, tabs: Any, width: int) -> None:
    """Nothing scrolls to the side; search, moving, folding and the theme work without a mouse."""
    tab = tabs(width)
    page = tab.page
    page.goto(written(cli, rich_record()))
    assert not tab.overflows()

    page.keyboard.press("j")
    assert "An earlier question" in tab.focused()
    page.keyboard.press("j")
    assert "Why does the test fail?" in tab.focused()
    page.keyboard.press("k")
    assert "An earlier question" in tab.focused()

    call = page.locator("details.call", has_text="make test")
    assert call.get_attribute("open") is None
    page.keyboard.press("/")
    page.keyboard.type("NEEDLE in")
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('found').textContent === '1 of 1'")
    assert call.get_attribute("open") is not None
    assert page.get_by_text("needle in the haystack").is_visible()
    assert not tab.overflows()
    page.keyboard.press("Escape")
    assert "make test" in tab.focused()
    assert "" == page.locator("#found").inner_text()
    page.keyboard.press("o")
    assert call.get_attribute("open") is None

    page.keyboard.press("/")
    page.keyboard.type("ANSWER(x: int)")  # in code, whose words are elements of their own
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('found').textContent === '1 of 1'")
    assert "answer(x: int)" == page.evaluate("[...CSS.highlights.get('current')].join('')")
    page.keyboard.press("Escape")
    summary = page.locator("details.compaction")
    summary.locator("summary").press("Enter")
    assert summary.get_by_text("The test fails in").is_visible()

    page.keyboard.press("e")
    assert page.get_by_text("First I run the tests.").is_visible()
    assert page.locator("details:not([open])").count() == (width < 1000)  # the time line, in a small window
    assert not tab.overflows()

    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    assert [] == tab.events


def test_the_theme_follows_the_system_and_can_be_changed(cli: Cli, tabs: Any) -> None:
    """The choice lasts when the page is loaded again."""
    url = written(cli, rich_record())
    light, dark = tabs(1280), tabs(1280, "dark")
    light.page.goto(url)
    dark.page.goto(url)
    colours = light.background(), dark.background()
    assert colours[0] != colours[1]
    light.page.keyboard.press("t")
    assert colours[1] == light.background()
    light.page.reload()
    assert colours[1] == light.background()
    light.page.get_by_role("button", name="Dark or light").click()
    assert colours[0] == light.background()


def test_a_link_of_the_time_line_opens_its_call(cli: Cli, tabs: Any) -> None:
    """The link works with the keyboard."""
    page = tabs(1280).page
    page.goto(written(cli, rich_record()))
    page.locator("#timeline a.tool", has_text="bash").focus()
    page.keyboard.press("Enter")
    page.get_by_text("needle in the haystack").wait_for()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_hostile_record_does_nothing(cli: Cli, tabs: Any, width: int) -> None:
    """No code runs, nothing is requested, and the page is not wider than the window."""
    tab = tabs(width)
    tab.page.goto(written(cli, hostile_record()))
    tab.page.keyboard.press("e")
    tab.page.wait_for_load_state("networkidle")
    assert not tab.overflows()
    assert [] == tab.events


def test_a_page_can_be_read_without_javascript(cli: Cli, tabs: Any) -> None:
    """Everything is in the page; what needs the script is hidden."""
    tab = tabs(1280, script=False)
    tab.page.goto(written(cli, rich_record()))
    assert tab.page.get_by_text("It timed out.").is_visible()
    assert not tab.page.get_by_role("searchbox").is_visible()
    tab.page.locator("details.call summary", has_text="make test").click()
    assert tab.page.get_by_text("needle in the haystack").is_visible()


def test_an_open_page_follows_a_run(cli: Cli, tabs: Any) -> None:
    """New lines of the file appear, replies as they are written; a file that starts again is shown again."""
    path = cli.work / "live.jsonl"
    run = cli("run", "-m", "demo", "-t", "calc", "--jsonl", "What is 6 * 7?").out.encode()
    lines = run.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]))
    process = cli.start("events", "html", "--serve", path)
    url = process.stdout.readline().decode().strip()
    tab = tabs(400)
    page = tab.page
    page.goto(url)
    page.locator("#status", has_text="live").wait_for()
    with path.open("ab", buffering=0) as file:
        start = next(number for number, line in enumerate(lines) if b"tool_execution_start" in line)
        file.write(b"".join(lines[6 : start + 1]))
        page.locator("details.call.running").wait_for()
        end = max(number for number, line in enumerate(lines) if b"text_delta" in line)
        file.write(b"".join(lines[start + 1 : end + 1]))
        page.locator(".growing", has_text="6 * 7").wait_for()
        file.write(b"".join(lines[end + 1 :]))
        page.locator(".result", has_text="Done").wait_for()
    assert 1 == page.locator("details.call.ok").count()
    assert 0 == page.locator(".growing").count()
    assert not tab.overflows()
    path.write_bytes(b"".join(lines[:6]))
    page.locator(".result").wait_for(state="detached")
    page.locator("#status", has_text="live").wait_for()
    process.send_signal(signal.SIGINT)
    assert 0 == process.wait(SECONDS)
    page.locator("#status", has_text="disconnected").wait_for()
    assert all(
        event.startswith((f"request: {url}", "console: Failed to load", "console: ")) for event in tab.events
    )
    assert not [event for event in tab.events if event.startswith(("error", "dialog"))]
