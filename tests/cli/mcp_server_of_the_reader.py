"""The MCP server that readers of documents start as `uvx …` and `npx …`: one tool, prompt and resource."""

from __future__ import annotations

import json
import sys

TEXT = {"type": "text", "text": "It is noon."}
RESULTS = {
    "initialize": {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}, "prompts": {}, "resources": {}},
        "serverInfo": {"name": "server of the reader", "version": "1"},
    },
    "tools/list": {"tools": [{"name": "get_current_time", "inputSchema": {"type": "object"}}]},
    "tools/call": {"content": [TEXT]},
    "prompts/list": {"prompts": [{"name": "review", "arguments": [{"name": "number", "required": True}]}]},
    "prompts/get": {"messages": [{"role": "user", "content": TEXT}]},
    "resources/list": {"resources": [{"uri": "file:///guide.md", "name": "guide"}]},
    "resources/templates/list": {"resourceTemplates": []},
    "resources/read": {"contents": [{"uri": "file:///guide.md", "text": "A guide."}]},
}

for line in sys.stdin:
    request = json.loads(line)
    if "id" in request:
        result = RESULTS.get(request["method"])
        error = {"code": -32601, "message": "no such method"}
        outcome = {"error": error} if result is None else {"result": result}
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], **outcome}), flush=True)  # noqa: T201
