"""Records for the tests of pages: a rich one, and a hostile one."""

from __future__ import annotations

import json
from typing import Any

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5Erk"
    "Jggg=="
)

ATTACKS = [
    "</script><script>alert(1)</script>",
    "</style><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "<img src=https://evil.example/a.png>",
    "<svg onload=alert(4)>",
    "<iframe srcdoc='<script>alert(5)</script>'></iframe>",
    '" onmouseover=alert(6) x="',
    "' autofocus onfocus=alert(7) '",
    "javascript:alert(8)",
    "--><script>alert(9)</script><!--",
    "]]><script>alert(10)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "&#x3c;script&#x3e;alert(11)&#x3c;/script&#x3e;",
    "\x1b]0;title\x07\x00\x0b\x85",
    "evil\u202egnp.exe\u2066\u200b\ufeff\U000e0041",
    "\ud800 unpaired",
]
"""Texts that would do harm if they were not escaped."""

MARKDOWN = """\
[a](javascript:alert(20)) [b](JaVaScRiPt:alert(21)) [c](data:text/html,<script>alert(22)</script>)
[d](vbscript:x) [e](&#106;avascript:alert(23)) [f](file:///etc/passwd) [g]( https://ok.example/?a=1&b=2 "t")
![h](https://evil.example/b.png) ![i](data:image/svg+xml,<svg/onload=alert(24)>) <javascript:alert(25)>
<b onclick="alert(26)">x</b> <https://auto.example> [j]: javascript:alert(27)

```html
<script>alert(32)</script><!-- --></code></pre><img src=x onerror="alert(33)">
```

```"><script>alert(28)</script>
</code></pre><script>alert(29)</script>
```

| <script>alert(30)</script> | b |
|:-:|--:|
| &#x202e;x | `</code><script>alert(31)</script>` |
"""


class RecordWriter:
    """Builds the lines of a record, one event each second."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self._time = 1_764_140_000_000
        self._seq = 0

    def line(self, kind: str, **fields: Any) -> None:
        """Add a line that is no event."""
        self.lines.append({"type": kind, **fields})

    def event(self, kind: str, **fields: Any) -> None:
        """Add an event."""
        self._seq += 1
        self._time += 1000
        self.lines.append({"type": kind, "seq": self._seq, "time": self._time, **fields})

    def header(self, **fields: Any) -> None:
        """Add a header."""
        model = {"provider": "acme", "id": "large", "api": "x"}
        self.line(
            "session",
            **{
                "version": 1, "id": "0193a1b2", "created": "2025-11-26T06:53:20Z", "model": model,
                "system_prompt": "Be careful.", "thinking_level": "off", "tools": ["bash"],
                "tinyagent": "1.0", **fields,
            },
        )  # fmt: skip

    def message(self, role: str, content: Any, **fields: Any) -> None:
        """Add a message."""
        self.event("message_start", role=role)
        body = {"role": role, "content": content, "timestamp": self._time, **fields}
        if role == "assistant":
            usage = {"input": 1200, "output": 34, "total": 1234, "cost": 0.0123}
            body = {
                "stop_reason": "stop",
                "api": "x",
                "provider": "acme",
                "model": "large",
                "usage": usage,
                **body,
            }
        self.event("message_end", role=role, message=body)

    def call(self, name: str, args: Any, text: Any, *, is_error: bool = False, details: Any = None) -> None:
        """Add a tool call with its result."""
        call_id = f"call {self._seq}"
        content = [{"type": "text", "text": text}] if isinstance(text, str) else text
        self.event("tool_execution_start", tool_call_id=call_id, tool_name=name, args=args)
        result = {"content": content, "details": details or {}, "terminate": False}
        self.event(
            "tool_execution_end", tool_call_id=call_id, tool_name=name, result=result, is_error=is_error
        )

    def result(self, **fields: Any) -> None:
        """Add a result."""
        usage = {"input": 2400, "output": 68, "total": 2468, "cost": 0.0246}
        self.line(
            "result",
            **{
                "ok": True, "exit_code": 0, "stop_reason": "stop", "text": "", "usage": usage, "turns": 2,
                "duration_ms": 21000, "error": None, **fields,
            },
        )  # fmt: skip

    def compaction(self, text: str, *, reason: str = "limit", **fields: Any) -> None:
        """Add a compaction with this summary."""
        self.event("compaction_start", reason=reason, tokens=9000, context_window=8192)
        summary = {"role": "user", "content": [{"type": "text", "text": text}], "summary": True}
        usage = {"input": 900, "output": 20, "total": 920, "cost": 0.0005}
        end = {"summary": summary, "kept": [-1], "replaced": 4, "tokens": 1234, "usage": usage}
        self.event("compaction_end", **{**end, "error_message": None, **fields})

    @property
    def data(self) -> bytes:
        """The lines as JSON."""
        return b"".join(json.dumps(line).encode() + b"\n" for line in self.lines)


def text(value: str, **fields: Any) -> dict[str, Any]:
    """Return a block of text."""
    return {"type": "text", "text": value, **fields}


def rich_record() -> bytes:
    """Return a record with everything that a page shows: two runs, one of which failed."""
    record = RecordWriter()
    record.header()
    record.line("history", message={"role": "user", "content": [text("An earlier question")]})
    record.event("agent_start")
    record.event("turn_start")
    record.message("user", [text("Why does the test fail?"), {"type": "image", "url": PNG}])
    reply = (
        "## The cause\n\nIt is **one** character in `parser.py`.\n\n"
        + "```python\n"
        + "@cache\ndef answer(x: int) -> str:\n\t# a comment\n\treturn f'{x + 1.5}' if x else None\n"
        + "x = 1 " * 60
        + "\n```\n\n```diff\n-  a = 1\n+  a = 2\n```\n"
    )
    citation = {"url": "https://spec.example/", "title": "The specification"}
    record.message(
        "assistant",
        [{"type": "thinking", "thinking": "First I run the tests."}, text(reply, citations=[citation])],
    )
    record.call("bash", {"command": "make test", "timeout": 20}, "needle in the haystack\n" + "=" * 300)
    record.call(
        "fetch", {"url": "https://example.org/"}, "It timed out.", is_error=True, details={"status": 504}
    )
    record.event("agent_end")
    record.result()
    record.event("agent_start")
    record.event("turn_start")
    record.message("user", [text("And now?")])
    record.compaction("Introduction:\n\n<summary>\nThe test fails in `parser.py`.\n</summary>")
    record.message("assistant", [], stop_reason="error", error_message="The server is overloaded.")
    record.event("agent_end")
    error = {"kind": "provider", "message": "The server is overloaded.", "hint": "Try again later."}
    record.result(ok=False, exit_code=1, stop_reason="error", error=error)
    return record.data


def hostile_record() -> bytes:
    """Return a record that tries to run code, to load something and to hide text, in every field."""
    record = RecordWriter()
    for attack in ATTACKS:
        model = {"provider": attack, "id": attack, "api": attack}
        record.header(
            id=attack, created=attack, model=model, system_prompt=attack, thinking_level=attack,
            tools=[attack], tinyagent=attack, cwd=attack, parent=attack,
        )  # fmt: skip
        record.line("history", message={"role": "user", "content": [text(attack)]})
        record.event("agent_start")
        record.event("turn_start")
        image = {"type": "image", "url": attack}
        record.message(
            "user", [text(attack), image, {"type": "image", "url": f"https://evil.example/{attack}"}]
        )
        citations = [
            {"url": attack, "title": attack},
            {"url": f"https://evil.example/{attack}", "title": attack},
        ]
        record.message(
            "assistant",
            [
                {"type": "thinking", "thinking": attack},
                text(MARKDOWN + attack, citations=citations),
                {"type": "tool_call", "id": "never", "name": attack, "arguments": {}, "partial_json": attack},
                {"type": attack, attack: attack},
                {"type": "image", "url": f"data:image/svg+xml;base64,{attack}"},
                {"type": "image", "url": f"data:image/png;base64,AAAA{attack}"},
            ],
            provider=attack, model=attack, stop_reason=attack, error_message=attack, error_hint=attack,
        )  # fmt: skip
        record.call(attack, {attack: attack, "list": [attack]}, attack, details={attack: attack})
        record.call(attack, {}, [text(attack), image], is_error=True)
        record.compaction(attack, reason=attack)
        record.compaction("", summary=None, error_message=attack)
        record.message(attack, attack)
        record.event("agent_end", limit=attack)
        error = {"kind": attack, "message": attack, "hint": attack}
        record.result(ok=False, stop_reason=attack, error=error, value={attack: attack})
    return record.data
