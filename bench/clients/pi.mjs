// pi's Agent (npm: @earendil-works/pi-agent-core) with many streams at once, measured as `bench.streams` does.
//
// node bench/clients/pi.mjs PACKAGES URL COUNT: prints the figures as one line of JSON.

import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const [packages, url, count] = process.argv.slice(2);
const entry = join(packages, "node_modules/@earendil-works/pi-agent-core/dist/index.js");
const { Agent } = await import(pathToFileURL(entry).href);
const BEAT_MS = 5;

async function ask(id) {
  const model = {
    id, name: id, api: "openai-completions", provider: "bench", baseUrl: url, reasoning: false,
    input: ["text"], cost: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 },
    contextWindow: 100_000, maxTokens: 10_000,
  };
  const agent = new Agent({ initialState: { systemPrompt: "", model, tools: [] }, getApiKey: () => "none" });
  let deltas = 0;
  agent.subscribe((event) => {
    if (event.type === "message_update" && event.assistantMessageEvent.type === "text_delta") deltas += 1;
  });
  await agent.prompt("Say something.");
  if (agent.state.errorMessage) throw new Error(agent.state.errorMessage);
  return deltas;
}

let watching = true;
const late = [];
async function watch() {
  while (watching) {
    const begin = performance.now();
    await sleep(BEAT_MS);
    late.push(performance.now() - begin - BEAT_MS);
  }
}

await ask("text-200");
const memory = process.resourceUsage().maxRSS;
const watcher = watch();
const begin = performance.now();
const cpuBefore = process.cpuUsage();
const replies = await Promise.all(Array.from({ length: Number(count) }, () => ask("paced-500")));
const cpu = process.cpuUsage(cpuBefore);
const wall = performance.now() - begin;
watching = false;
await watcher;
const short = replies.filter((deltas) => deltas < 500).length;
if (short) throw new Error(`pi: ${short} of ${count} replies are not whole`);
late.sort((one, other) => one - other);
console.log(JSON.stringify({
  "wall s": wall / 1e3,
  "CPU s": (cpu.user + cpu.system) / 1e6,
  "lag p99 ms": late[Math.floor(late.length * 0.99)],
  MiB: (process.resourceUsage().maxRSS - memory) / 1024,
}));
