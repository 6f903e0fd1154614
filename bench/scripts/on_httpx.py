"""A reply on standard output, with httpx and json."""

import json
import sys

import httpx

url, model = sys.argv[1:3]
body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Say something."}]}
with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=60) as response:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                sys.stdout.write(choice["delta"].get("content") or "")
                sys.stdout.flush()
print()
