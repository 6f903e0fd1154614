#!/usr/bin/env bash
# The events of a run as JSON lines, filtered by jq while they arrive: examples/jsonl_to_jq.sh [PROMPT]
# The demo answers offline. With a model: MODEL=openai/gpt-4.1-mini examples/jsonl_to_jq.sh "How much is 17 * 23?"
# It needs jq and the plugin tinyagent-tools-calc.
set -euo pipefail

tinyagent run -q -m "${MODEL:-demo}" -t calc --jsonl "${1:-What is 6 * 7?}" |
    jq --unbuffered -r '
        if .type == "tool_execution_start" then "call    \(.tool_name) \(.args | tojson)"
        elif .type == "tool_execution_end" then "result  \(.result.content[0].text)"
        elif .type == "result" and .error == null then "answer  \(.text)"
        else empty end'
