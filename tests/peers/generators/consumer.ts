// Each type of line, message, block and step can be told apart by its `type` or `role`.
import type { AssistantBlock, AssistantMessageEvent, Line, Message } from "./events.js";

function never(value: never): never {
  throw new Error(`unknown: ${JSON.stringify(value)}`);
}

function blockText(block: AssistantBlock): string {
  switch (block.type) {
    case "text":
      return block.text;
    case "thinking":
      return block.thinking;
    case "tool_call":
      return `${block.name} ${Object.keys(block.arguments).join(" ")}`;
    case "image":
      return block.url;
    default:
      return never(block);
  }
}

function messageText(message: Message): string {
  switch (message.role) {
    case "assistant":
      return message.content.map(blockText).join(message.stop_reason);
    case "user":
      return message.content.map((block) => (block.type === "text" ? block.text : block.url)).join();
    case "tool_result":
      return `${message.tool_name} ${message.is_error}`;
    default:
      return never(message);
  }
}

function stepText(step: AssistantMessageEvent): string {
  switch (step.type) {
    case "text_delta":
    case "thinking_delta":
    case "tool_call_delta":
      return `${step.content_index}: ${step.delta}`;
    case "tool_call_start":
    case "tool_call_end":
      return step.tool_call?.id ?? "";
    case "text_start":
    case "text_end":
    case "thinking_start":
    case "thinking_end":
      return `${step.content_index}`;
    case "done":
    case "error":
      return step.reason ?? "";
    case "start":
      return "";
    default:
      return never(step);
  }
}

export function describe(line: Line): string {
  switch (line.type) {
    case "session":
      return `${line.id} ${line.tools.join()}`;
    case "history":
      return messageText(line.message);
    case "message_update":
      return stepText(line.assistant_message_event);
    case "message_end":
      return line.message === undefined ? `${line.tool_call_id}` : messageText(line.message);
    case "message_start":
      return line.role;
    case "tool_execution_start":
      return line.tool_name;
    case "tool_execution_update":
      return JSON.stringify(line.partial_result.details);
    case "tool_execution_end":
      return line.is_error ? "failed" : line.result.content.map((block) => block.type).join();
    case "agent_start":
    case "turn_start":
    case "turn_end":
      return `${line.seq} ${line.time}`;
    case "compaction_start":
      return `${line.reason}: ${line.tokens} of ${line.context_window ?? "?"}`;
    case "compaction_end":
      return line.summary ? messageText(line.summary) + line.kept?.join() : (line.error_message ?? "");
    case "agent_end":
      return `${line.usage?.total ?? 0} ${line.limit}`;
    case "result":
      return line.ok ? line.text : (line.error?.message ?? "");
    default:
      return never(line);
  }
}

// @ts-expect-error: this type of line has no text
export const wrong = (line: Line) => (line.type === "agent_start" ? line.text : "");
// @ts-expect-error: a field is missing
export const incomplete: Line = { type: "turn_start", seq: 1 };
// @ts-expect-error: there is no such type of line
export const unknown: Line = { type: "weather", seq: 1, time: 1 };
