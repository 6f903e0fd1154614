#!/usr/bin/env bash
# One answer in a script, and what to do without one: examples/one_shot.sh [FILE]
# The demo answers offline. With a model: MODEL=openai/gpt-4.1-mini examples/one_shot.sh notes.txt
set -euo pipefail

file=${1:-${BASH_SOURCE[0]}}
model=${MODEL:-demo}

# The reply is the only standard output. It is complete if the exit code is 0.
code=0
reply=$(tinyagent run -q -m "$model" --timeout 120 -f "$file" "Say in one line what this file is for.") || code=$?
case $code in
    0) printf '%s\n' "${reply%%$'\n'*}" ;;
    3) echo "$0: choose another model, or store a key with: tinyagent keys set PROVIDER" >&2 ;;
    4) echo "$0: the reply is not complete" >&2 ;;
    124) echo "$0: no reply within two minutes" >&2 ;;
    *) echo "$0: there is no reply" >&2 ;;
esac
exit "$code"
