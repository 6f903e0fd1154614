"""Failures: of the request, and of the stream."""

from __future__ import annotations

from typing import Literal

from tinyagent.testing.server import FakeReply, FakeServer, Hold
from tinyagent.testing.wires import Block, Script

from .case import CallOutcome, ContractCase, LookTool, text_block, tool_call_block
from .checks import expect, expect_equal

__all__ = ["FailureTests"]

SILENT_REPLY = FakeReply(head=b"", steps=[Hold()])


class FailureTests(ContractCase):
    """Each failure is reported."""

    # ---- HTTP -------------------------------------------------------------------------------------------

    def _refuse(self, status: int, **headers: str) -> tuple[CallOutcome, int]:
        """Make a call that the server refuses, and check that the error has the text of the server."""
        self._require("http")
        assert self.wire is not None
        notes: list[str] = []
        text = f"the-words-of-the-server; your key {self.key} (Bearer {self.key})"
        outcome, requests = self._fail(self.wire.refuse(status, text, **headers), on_retry=notes.append)
        expect("the-words-of-the-server" in outcome.error_text, "the error has the text of the server")
        expect(self.key not in repr(notes), "the key is in a note about a retry")
        return outcome, requests

    def test_http_400(self) -> None:
        """A refused request is not sent again."""
        outcome, requests = self._refuse(400)
        expect_equal(("provider", 1), (outcome.error_kind, requests), "kind and requests")

    def test_http_401(self) -> None:
        """A refused key is an authentication error without the key, even if the server repeats the key."""
        outcome, requests = self._refuse(401)
        expect_equal(("authentication", 1), (outcome.error_kind, requests), "kind and requests")

    def test_http_429(self) -> None:
        """After too many requests the request is sent again; then the call fails with a rate limit."""
        outcome, requests = self._refuse(429, retry_after="0")
        wanted = 1 + self.retries if self._has("retries") else 1
        expect_equal(("rate_limit", wanted), (outcome.error_kind, requests), "kind and requests")

    def test_http_429_for_an_hour(self) -> None:
        """If the server demands a wait of an hour, the call fails at once."""
        outcome, requests = self._refuse(429, retry_after="3600")
        expect_equal(("rate_limit", 1), (outcome.error_kind, requests), "kind and requests")

    def test_http_500(self) -> None:
        """After an error of the server the request is sent again; then the call fails."""
        outcome, requests = self._refuse(500, retry_after="0")
        wanted = 1 + self.retries if self._has("retries") else 1
        expect_equal(("provider", wanted), (outcome.error_kind, requests), "kind and requests")

    def test_a_retry_that_helps(self) -> None:
        """After a temporary failure the reply is complete, and each request was the same."""
        self._require("http", "retries", "content")

        async def test() -> None:
            assert self.wire is not None
            refusals = [self.wire.refuse(status, "busy", retry_after="0") for status in (429, 503)]
            async with self.serve(*refusals[: self.retries], Script([text_block("Hello.")])) as provider:
                outcome = await self._call(provider)
                expect_equal(("Hello.", "stop"), (outcome.text, outcome.stop_reason), "the reply")
                expect_equal(1, len({request.body for request in provider.requests()}), "different requests")

        self._run(test())

    def test_redirects_take_no_key_away(self) -> None:
        """A redirect to another server is an error, and that server gets no request."""
        self._require("http")

        async def test() -> None:
            async with FakeServer(repeat=False) as other:
                away = FakeReply(status=307, headers={"location": f"{other.origin}/stolen"}, framing="length")
                async with self.serve(away) as provider:
                    outcome = await self._call(provider)
                    expect_equal("error", outcome.stop_reason, "the stop reason")
                expect_equal([], other.requests, "the requests to the other server")

        self._run(test())

    def test_a_page_is_no_reply(self) -> None:
        """Status 200 with an HTML page, with a JSON error or without a body is a failure."""
        self._require("http")
        page = FakeReply([b"<html><title>Sign in</title></html>"], headers={"content-type": "text/html"})
        empty = FakeReply([], framing="length")
        quota = FakeReply.json({"error": {"message": "quota exceeded"}})
        for reply in (page, empty, quota):
            self._fail(reply)

    # ---- the stream ---------------------------------------------------------------------------------------

    def test_cut_streams(self) -> None:
        """A reply without its end is a failure that keeps the text, however the connection ended."""
        self._require("content", "http")
        endings: tuple[Literal["cut", "hangup", "reset"], ...] = ("cut", "hangup", "reset")
        for ending in endings:
            outcome, requests = self._fail(Script([text_block("Half a rep")], ending=ending))
            expect_equal("stream_interrupted", outcome.error_kind, f"the kind of {ending}")
            if ending != "reset" or outcome.message:  # a reset may overtake bytes that were sent
                expect("Half a rep".startswith(outcome.text), "the text is a part of the text sent")
            if ending == "cut":
                expect_equal(("Half a rep", 1), (outcome.text, requests), "text and requests")

    def test_tools_of_a_cut_reply_do_not_run(self) -> None:
        """A complete call in an incomplete reply is not run."""
        self._require("content", "tools", "http")
        endings: tuple[Literal["cut", "hangup", "error"], ...] = ("cut", "hangup", "error")
        content: list[Block] = [text_block("I look."), tool_call_block("call_1", at="sky")]
        for ending in endings:
            script = Script(content, stop_reason="tool_use", ending=ending, error="server-on-fire")
            self._run(self._check_no_tool_runs(script))

    async def _check_no_tool_runs(self, script: Script) -> None:
        look = LookTool()
        async with self.serve(script) as provider:
            last = self._replies(await self._run_loop(provider, look))[-1]
            expect_equal([], look.calls, "no tool runs")
            expect_equal("error", last["stop_reason"], "the stop reason")
            texts = [block["text"] for block in last["content"] if block["type"] == "text"]
            expect_equal(["I look."], texts, "the text before the end")

    def test_an_error_in_the_stream(self) -> None:
        """An error in the stream keeps the text and has the provider's text, without a key."""
        self._require("content", "errors")
        error = f"server-on-fire, key {self.key}" if self.wire is not None else "server-on-fire"
        outcome, requests = self._fail(Script([text_block("Half a rep")], ending="error", error=error))
        expect_equal(("Half a rep", 1), (outcome.text, requests), "text and requests")
        expect("server-on-fire" in outcome.error_text, "the error has the text of the provider")

    def test_an_error_before_anything(self) -> None:
        """An error instead of a reply is reported with its text."""
        self._require("content", "errors")
        outcome, _ = self._fail(Script([], ending="error", error="invalid-model"))
        expect("invalid-model" in outcome.error_text, "the error has the text of the provider")

    def test_stalls(self) -> None:
        """A silent server causes a time-out, before the first event and later; the text is kept."""
        self._require("timeout", "http")
        for reply, text in ((SILENT_REPLY, ""), (Script([text_block("Half")], ending="stall"), "Half")):
            if text:
                self._require("content")
            outcome, requests = self._fail(reply, timeout={"first_event": 0.3, "idle": 0.2})
            found = (outcome.error_kind, outcome.text, requests)
            expect_equal(("timeout", text, 1), found, "kind, text, requests")
