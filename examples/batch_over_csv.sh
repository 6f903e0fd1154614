#!/usr/bin/env bash
# Ask about each row of a table, several at a time: examples/batch_over_csv.sh [TABLE] > answers.csv
# The demo answers offline. With a model: MODEL=openai/gpt-4.1-mini examples/batch_over_csv.sh reviews.csv
# TABLE has the columns id and review. An interrupted batch goes on where it was when you run it again. It needs jq.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
table=${1:-$folder/reviews.csv}
answers=${1:+$1.answers.jsonl} # beside your table, so that the next run continues it
answers=${answers:-$folder/answers.jsonl}
if (($# == 0)); then
    printf 'id,review\n1,"Works at once (stars=5, mood=happy )"\n2,"Arrived broken (stars=1, mood=angry )"\n' > "$table"
fi

tinyagent batch "$table" -o "$answers" -m "${MODEL:-demo}" --schema 'stars int, mood' \
    --prompt 'How many stars, and which mood, has this review? {{ review }}'
jq -rs '["id", "stars", "mood"], (sort_by(.line)[] | [.id, .value.stars, .value.mood]) | @csv' "$answers"
