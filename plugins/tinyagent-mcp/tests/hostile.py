"""A server with faults: each tool has one. It does not use the SDK, which would prevent them."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

PIXEL = "iVBORw0KGgo="
START = os.environ.get("TEST_START", "")


def raw(data: bytes) -> None:
    """Write these bytes."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def send(message: Any) -> None:
    """Write a message."""
    raw(json.dumps(message).encode() + b"\n")


def answer(result: Any, **more: Any) -> None:
    """Answer the current request."""
    send({"jsonrpc": "2.0", "id": REQUEST["id"], "result": result, **more})


def fail(error: Any, **more: Any) -> None:
    """Answer the current request with an error."""
    send({"jsonrpc": "2.0", "id": REQUEST["id"], "error": error, **more})


def text(*texts: str, **more: Any) -> dict[str, Any]:
    """Return a result with these texts."""
    return {"content": [{"type": "text", "text": one} for one in texts], **more}


def ask(method: str, params: Any = None) -> Any:
    """Send a request to the client, and return its answer."""
    send({"jsonrpc": "2.0", "id": f"ours-{method}", "method": method, "params": params or {}})
    while (message := json.loads(sys.stdin.readline())).get("id") != f"ours-{method}":
        pass
    return message


# ---- tools, named after their faults ------------------------------------------------------------------


def code_32000() -> None:
    fail({"code": -32000, "message": "quota used up"})


def code_32001() -> None:
    fail({"code": -32001, "message": "no such session of yours"})


def code_with_data() -> None:
    fail({"code": -32602, "message": "Invalid params", "data": {"city": "is missing"}})


def code_is_text() -> None:
    fail({"code": "E_QUOTA", "message": "quota used up"})


def error_is_text() -> None:
    fail("quota used up")


def error_without_message() -> None:
    fail({"code": 7, "reason": "quota used up"})


def error_for_nobody() -> None:
    fail({"code": -32700, "message": "quota used up"}, id=None)


def error_and_result() -> None:
    fail({"code": -32000, "message": "quota used up"}, result=None)


def error_and_exit() -> None:
    fail({"code": -32000, "message": "quota used up"})
    os._exit(1)


def structured_only() -> None:
    answer({"structuredContent": {"rows": [1]}})


def structured_list() -> None:
    answer({"content": None, "structuredContent": [1, 2]})


def structured_huge() -> None:
    answer({"structuredContent": {"rows": ["x" * 100] * 30_000}})


def content_is_text() -> None:
    answer({"content": "plain"})


def content_is_one() -> None:
    answer({"content": {"type": "text", "text": "single"}})


def items() -> None:
    answer(
        {
            "content": [
                {"type": "text", "text": "first"},
                {"type": "text"},
                {"type": "image", "data": "%%%", "mimeType": "image/png"},
                {"type": "image", "data": PIXEL, "mimeType": "image/tiff"},
                {"type": "image", "data": PIXEL},
                {"type": "video", "data": PIXEL},
                {"type": "resource", "resource": {"uri": 5}},
                {"type": "resource_link", "uri": "memo://x"},
                {"type": "audio", "data": PIXEL, "mimeType": "audio/wav"},
                "bare",
                None,
                {"type": "image", "data": PIXEL, "mimeType": "image/png"},
                {"type": "text", "text": "last"},
            ],
            "isError": "no",
            "_meta": 5,
        }
    )


def many_items() -> None:
    answer(text(*["x"] * 5_000))


def many_images() -> None:
    image = {"type": "image", "data": "A" * 4_000_000, "mimeType": "image/png"}
    answer({"content": [image] * 6})


def not_utf8() -> None:
    raw(
        b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"caf\xe9"}]}}\n' % REQUEST["id"]
    )


def surrogate() -> None:
    raw(
        b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"a\\ud800b"}]}}\n'
        % REQUEST["id"]
    )


def not_a_number() -> None:
    answer(text("fine", structuredContent={"n": float("nan")}))


def too_deep() -> None:
    raw(
        b'{"jsonrpc":"2.0","id":%d,"result":%s\n'
        % (REQUEST["id"], b'{"a":' * 200_000 + b"1" + b"}" * 200_001)
    )


def not_json() -> None:
    raw(b'{"jsonrpc":"2.0","id":%d,"result":{oops}}\n' % REQUEST["id"])


def no_object() -> None:
    answer([1, 2])


def garbage() -> None:
    raw(b'\xff\xfe garbage\n\n[]\n{}\nnull\n{"jsonrpc": "2.0"}\n[1, {"id": 99, "result": {}}]\n')
    answer(text("after garbage"))


def batch() -> None:
    note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}
    send([note, {"jsonrpc": "2.0", "id": REQUEST["id"], "result": text("in a batch")}])


def float_id() -> None:
    send({"jsonrpc": "2.0", "id": float(REQUEST["id"]), "result": text("float id")})


def text_id() -> None:
    send({"id": str(REQUEST["id"]), "result": text("text id")})


def twice() -> None:
    answer(text("first answer"))
    answer(text("second answer"))
    send({"jsonrpc": "2.0", "id": 12345, "result": text("of no request")})


def huge() -> None:
    answer(text("x" * 50_000_000))


def huge_then_image() -> None:
    image = {"type": "image", "data": "A" * 50_000_000, "mimeType": "image/png"}
    answer({"content": [{"type": "text", "text": "before"}, image]})


def huge_id_last() -> None:
    result = json.dumps(text("y" * 50_000_000))
    raw(b'{"jsonrpc":"2.0","result":%s,"id":%d}\n' % (result.encode(), REQUEST["id"]))


def endless() -> None:
    raw(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"' % REQUEST["id"])
    while True:
        raw(b"z" * 1_000_000)


def stderr_flood() -> None:
    sys.stderr.write("noise\n" * 500_000 + "x" * 5_000_000)
    sys.stderr.flush()
    answer(text("after the noise"))


def notification_flood() -> None:
    token = REQUEST["params"]["_meta"]["progressToken"]
    for n in range(20_000):
        send({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": n}})
        params = {"progressToken": token, "progress": n, "message": "x" * 100}
        send({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
    answer(text("after the flood"))


def request_flood() -> None:
    for n in range(20_000):
        send({"jsonrpc": "2.0", "id": f"r{n}", "method": "roots/list"})
    answer(text("after the flood"))


def requests() -> None:
    sampling = {"messages": [], "maxTokens": 1}
    form = {"message": "Your password?", "requestedSchema": {"type": "object", "properties": {}}}
    asked = [
        ask("sampling/createMessage", sampling),
        ask("elicitation/create", form),
        ask("roots/list"),
        ask("no/such/method"),
    ]
    codes = [str(one["error"]["code"]) if "error" in one else "answered" for one in asked]
    codes.append("pong" if ask("ping")["result"] == {} else "?")
    answer(text(" ".join(codes)))


FORM = {"type": "object", "properties": {"seat": {"type": "string"}}, "required": ["seat"]}


def ask_form() -> None:
    asked = ask("elicitation/create", {"message": "Choose\u001b[2J a seat", "requestedSchema": FORM})
    answer(text(json.dumps(asked["result"])))


def ask_nested() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object", "properties": {}}}}
    answer(
        text(json.dumps(ask("elicitation/create", {"message": "Nested", "requestedSchema": schema})["error"]))
    )


def ask_link() -> None:
    link = {"mode": "url", "message": "Sign in", "url": "https://example.org/in", "elicitationId": "1"}
    answer(text(json.dumps(ask("elicitation/create", link)["result"])))


def ask_file_link() -> None:
    link = {"mode": "url", "message": "Sign in", "url": "file:///etc/passwd", "elicitationId": "1"}
    answer(text(json.dumps(ask("elicitation/create", link)["result"])))


SIGNED_IN: list[int] = []


def needs_links() -> None:
    SIGNED_IN.append(1)
    if len(SIGNED_IN) > 2:
        answer(text(f"signed in, call {len(SIGNED_IN)}"))
        return
    link = {"mode": "url", "message": "Sign in", "url": "https://example.org/in?s=1", "elicitationId": "1"}
    fail({"code": -32042, "message": "Sign in first", "data": {"elicitations": [link]}})


def needs_link_always() -> None:
    link = {"mode": "url", "message": "Sign in", "url": "https://example.org/in", "elicitationId": "1"}
    fail({"code": -32042, "message": "Sign in first", "data": {"elicitations": [link]}})


def needs_file_link() -> None:
    link = {"mode": "url", "message": "Sign in", "url": "file:///etc/passwd", "elicitationId": "1"}
    fail({"code": -32042, "message": "Sign in first", "data": {"elicitations": [link]}})


def needs_nothing() -> None:
    fail({"code": -32042, "message": "Sign in first", "data": {"elicitations": ["x", 5]}})


def ask_model() -> None:
    messages = [{"role": "user", "content": {"type": "text", "text": "2 + 2?"}}]
    asked = ask(
        "sampling/createMessage",
        {
            "messages": messages,
            "maxTokens": 100_000,
            "includeContext": "allServers",
            "systemPrompt": "Be brief",
        },
    )
    answer(text(json.dumps(asked.get("result", asked.get("error")))))


def ask_loop() -> None:
    messages = [{"role": "user", "content": {"type": "text", "text": "again"}}]
    got = [
        "result" in ask("sampling/createMessage", {"messages": messages, "maxTokens": 1}) for _ in range(50)
    ]
    answer(text(str(sum(got))))


def ask_and_die() -> None:
    params = {"message": "Choose a seat", "requestedSchema": FORM}
    send({"jsonrpc": "2.0", "id": "ours", "method": "elicitation/create", "params": params})
    while not Path(os.environ["TEST_GO"]).exists():
        time.sleep(0.01)
    os._exit(3)


def ask_and_go_on() -> None:
    params = {"message": "Choose a seat", "requestedSchema": FORM}
    send({"jsonrpc": "2.0", "id": "ours", "method": "elicitation/create", "params": params})
    answer(text("did not wait"))


def dies() -> None:
    sys.stderr.write(f"token {os.environ.get('MY_TOKEN')} has expired\n")
    sys.stderr.flush()
    os._exit(3)


def closes_output() -> None:
    os.close(1)
    time.sleep(600)


def where() -> None:
    answer(text(str(Path.cwd()), json.__file__, " ".join(sorted(os.environ))))


def add_tool() -> None:
    extra.append({"name": "late", "inputSchema": {"type": "object"}})
    extra.append({"name": "late_and_malformed"})
    removed.add("removed")
    send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
    answer(text("added"))


def late() -> None:
    answer(text("late ran"))


def removed_tool() -> None:
    answer(text("still here"))


FAULTS = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and value.__module__ == "__main__"
}
for helper in ("raw", "send", "answer", "fail", "text", "ask", "late"):
    FAULTS.pop(helper)
extra: list[Any] = []
removed: set[str] = set()

MALFORMED: list[Any] = [
    {"name": "good", "inputSchema": {"type": "object"}},
    {"name": "no_schema"},
    {"name": "text_schema", "inputSchema": "object"},
    {"name": "string_schema", "inputSchema": {"type": "string"}},
    {"name": "unknown_type", "inputSchema": {"type": "object", "properties": {"a": {"type": "blob"}}}},
    {"name": "large_schema", "inputSchema": {"type": "object", "description": "x" * 300_000}},
    {"name": ""},
    {"inputSchema": {"type": "object"}},
    {"name": 5, "inputSchema": {"type": "object"}},
    "text",
    None,
    {
        "name": "old",
        "inputSchema": {"properties": {"n": {"type": "integer", "minimum": 0, "exclusiveMinimum": True}}},
    },
    {"name": "odd", "inputSchema": {"type": "object"}, "title": 5, "description": None, "annotations": "none",
     "outputSchema": {"description": "no type"}, "icons": 7, "_meta": 3},
    {"name": "good", "inputSchema": {"type": "object", "properties": {"other": {}}}},
]  # fmt: skip


def tools() -> Any:
    """Return the result of tools/list."""
    match START:
        case "malformed":
            return {"tools": MALFORMED, "nextCursor": 5}
        case "no-list":
            return {"tools": {"a": 1}}
        case "cursors":
            cursor = (REQUEST.get("params") or {}).get("cursor")
            listed = {"name": f"page_{cursor}", "inputSchema": {"type": "object"}}
            same = {"name": "same", "inputSchema": {"type": "object"}}
            return {"tools": [listed, same], "nextCursor": {None: "a", "a": "b", "b": "a"}[cursor]}
        case "endless-pages":
            cursor = int((REQUEST.get("params") or {}).get("cursor") or 0)
            return {
                "tools": [{"name": f"page_{cursor}", "inputSchema": {"type": "object"}}],
                "nextCursor": str(cursor + 1),
            }
    named = [*FAULTS, "removed"]
    return {
        "tools": [
            *({"name": name, "inputSchema": {"type": "object"}} for name in named if name not in removed),
            *extra,
        ]
    }


def initialize() -> Any:
    """Return the result of initialize."""
    result: dict[str, Any] = {
        "protocolVersion": REQUEST["params"]["protocolVersion"],
        "capabilities": {"tools": {"listChanged": True}},
        "serverInfo": {"name": "hostile", "version": "1"},
    }
    match START:
        case "version":
            result["protocolVersion"] = "1999-01-01"
        case "careless":
            del result["serverInfo"]
            result |= {"capabilities": {"tools": {}, "logging": None, "prompts": True}, "instructions": 5}
        case "prompts":
            result["capabilities"]["prompts"] = {}
        case "refuses":
            return None
    return result


def prompts() -> Any:
    """Return the result of prompts/list."""
    good = {"name": "good", "arguments": [{"name": "a"}, {"name": 5}, "b"], "title": 7}
    return {"prompts": [good, {"name": ""}, {"description": "no name"}, "text"], "nextCursor": 5}


FAULTS = {name: value for name, value in FAULTS.items() if name not in ("tools", "initialize", "prompts")}
for line in sys.stdin:
    REQUEST: dict[str, Any] = json.loads(line)
    if "id" not in REQUEST or "method" not in REQUEST:
        continue
    match REQUEST["method"]:
        case "initialize" if (result := initialize()) is not None:
            answer(result)
        case "initialize":
            fail({"code": -32000, "message": "The licence has expired"})
        case "tools/list":
            answer(tools())
        case "prompts/list" if START == "prompts":
            answer(prompts())
        case "prompts/get" if START == "prompts":
            image = {"type": "image", "data": PIXEL, "mimeType": "image/png"}
            messages = [{"role": "user", "content": image}, {"role": "system", "content": "x" * 200_000}, 5]
            answer({"messages": messages})
        case "tools/call":
            name = REQUEST["params"]["name"]
            {**FAULTS, "late": late, "removed": removed_tool, "good": late, "old": late, "odd": late}[name]()
        case _:
            fail({"code": -32601, "message": "no such method"})
