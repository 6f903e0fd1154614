#!/usr/bin/env bash
# From free text to a table: examples/schema_to_csv.sh [FILE] > people.csv
# The demo answers offline. With a model: MODEL=openai/gpt-4.1-mini examples/schema_to_csv.sh letter.txt
# It needs jq.
set -euo pipefail

text() {
    if (($#)); then cat -- "$1"; else echo 'name="Ada Lovelace" age=36 city=London'; fi
}

# One line of JSON for each person, and only if every line fits the schema.
people=$(text "$@" | tinyagent run -q -m "${MODEL:-demo}" --schema-multi 'name, age int, city' "List all people.")
jq -rs '["name", "age", "city"], (.[] | [.name, .age, .city]) | @csv' <<< "$people"
