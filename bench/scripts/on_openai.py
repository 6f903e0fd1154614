"""A reply on standard output, with the openai client."""

import sys

import openai

url, model = sys.argv[1:3]
client = openai.OpenAI(base_url=url, api_key="none")
for chunk in client.chat.completions.create(
    model=model, stream=True, messages=[{"role": "user", "content": "Say something."}]
):
    for choice in chunk.choices:
        sys.stdout.write(choice.delta.content or "")
        sys.stdout.flush()
print()
