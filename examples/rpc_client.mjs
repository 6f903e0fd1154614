// Talk to `tinyagent rpc`: node rpc_client.mjs "reverse text=stressed" -m demo -t ./examples/mytools.py
//
// It sends one prompt, prints the reply as it arrives, and asks about tool calls that need an approval.

import { spawn } from "node:child_process";
import readline from "node:readline";

const [prompt, ...options] = process.argv.slice(2);
const agent = spawn("tinyagent", ["rpc", ...options], { stdio: ["pipe", "pipe", "inherit"] });
const terminal = readline.createInterface({ input: process.stdin });
const answers = terminal[Symbol.asyncIterator]();
const send = (command) => agent.stdin.write(JSON.stringify(command) + "\n");

send({ id: "1", type: "prompt", message: prompt });
for await (const line of readline.createInterface({ input: agent.stdout })) {
  const event = JSON.parse(line);
  if (event.assistant_message_event?.type === "text_delta") {
    process.stdout.write(event.assistant_message_event.delta);
  } else if (event.type === "approval_request") {
    process.stderr.write(`Run ${event.tool_name} ${JSON.stringify(event.args)}? [yes/no] `);
    const { value: answer = "no" } = await answers.next();
    send({ id: "2", type: "approve", request: event.request, answer });
  } else if (event.type === "response" && !event.success) {
    console.error(`${event.command}: ${event.error}`);
    process.exitCode = 1;
    agent.stdin.end();
  } else if (event.type === "result") {
    agent.stdin.end(); // the agent ends
  }
}
terminal.close();
