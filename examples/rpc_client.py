"""Talk to `tinyagent rpc`: python rpc_client.py "reverse text=stressed" -m demo -t ./examples/mytools.py

It sends one prompt, prints the reply as it arrives, and asks about tool calls that need an approval.
"""

import json
import subprocess
import sys

prompt, *options = sys.argv[1:]
command = ["tinyagent", "rpc", *options]
with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as agent:

    def send(**fields: str) -> None:
        print(json.dumps(fields), file=agent.stdin, flush=True)

    send(id="1", type="prompt", message=prompt)
    for line in agent.stdout or ():
        event = json.loads(line)
        match event["type"]:
            case "message_update" if event["assistant_message_event"]["type"] == "text_delta":
                print(event["assistant_message_event"]["delta"], end="", flush=True)
            case "approval_request":
                answer = input(f"Run {event['tool_name']} {event['args']}? [yes/no] ")
                send(id="2", type="approve", request=event["request"], answer=answer)
            case "response" if not event["success"]:
                sys.exit(f"{event['command']}: {event['error']}")
            case "result":
                break  # leaving the block ends the input, and so the agent
