#!/usr/bin/env bash
# Three agents in a pipe, each with a task and a prompt of its own: examples/agents_in_a_pipe.sh [TOPIC]
# The demo answers offline. With models: MODEL=openai/gpt-4.1-mini examples/agents_in_a_pipe.sh "How do tides work?"
set -euo pipefail # with pipefail, the exit code is that of the first agent that failed

agent() { # SYSTEM_PROMPT PROMPT: the text of the agent before comes first
    tinyagent run -q --no-session -m "${MODEL:-demo}" -s "$1" "$2"
}

topic=${1:-Why is the sky blue?}
agent "You are a researcher. List facts, without an introduction." "Facts about: $topic" < /dev/null |
    agent "You are a writer. Use only the facts that you are given." "Write one paragraph from these facts." |
    agent "You are an editor. Answer only with the edited text." "Make this shorter."
