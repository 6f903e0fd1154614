"""A test server over stdio or HTTP, with correct and faulty tools."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mcp import MCPError
from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp_types import (
    BlobResourceContents,
    CallToolResult,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    GetPromptResult,
    ImageContent,
    InputRequiredResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListRootsRequest,
    ListToolsResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceResult,
    Resource,
    ResourceLink,
    ResourceTemplate,
    SamplingMessage,
    TextContent,
    TextResourceContents,
    Tool,
    ToolAnnotations,
)

PIXEL = base64.b64encode(b"\x89PNG").decode()
SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}
NUMBER: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1}},
    "required": ["n"],
    "additionalProperties": False,
}


def text(content: str, **more: Any) -> CallToolResult:
    """Return a result with one text."""
    return CallToolResult(content=[TextContent(text=content)], **more)


async def list_tools(ctx: Any, params: Any) -> ListToolsResult:
    """Return two pages of tools."""
    if params is None or params.cursor is None:
        return ListToolsResult(
            tools=[
                Tool(
                    name="double",
                    description="Twice n.",
                    input_schema=NUMBER,
                    annotations=ToolAnnotations(read_only_hint="TEST_UNSAFE" not in os.environ),
                ),
                Tool(
                    name="picture",
                    input_schema=SCHEMA,
                    annotations=ToolAnnotations(read_only_hint=True, open_world_hint=True),
                ),
                Tool(name="fails", input_schema=SCHEMA),
                Tool(name="steps", input_schema=SCHEMA),
            ],
            next_cursor="2",
        )
    names = ["hangs", "dies", "environment", "structured", "bad.name!", "daemon", "long", "pid"]
    names += ["link", "roots", "seat", "sum", "endless"]
    return ListToolsResult(tools=[Tool(name=name, input_schema=SCHEMA) for name in names])


async def call_tool(ctx: Any, params: Any) -> CallToolResult | InputRequiredResult:
    """Do what the tool's name describes."""
    match params.name:
        case "double":
            return text(str(2 * params.arguments["n"]))
        case "picture":
            return CallToolResult(
                content=[TextContent(text="A pixel:"), ImageContent(data=PIXEL, mime_type="image/png")]
            )
        case "fails":
            return text("the disk is full", is_error=True)
        case "steps":
            for step in (1, 2, 3):
                await ctx.session.report_progress(step, 3, f"step {step}")
            return text("done")
        case "link":
            link = ResourceLink(uri="memo://hidden", name="hidden", mime_type="text/plain")
            return CallToolResult(content=[link])
        case "roots":
            if params.input_responses is None:
                return InputRequiredResult(input_requests={"roots": ListRootsRequest()})
            return text("\n".join(str(root.uri) for root in params.input_responses["roots"].roots))
        case "seat":
            if params.input_responses is None:
                form = {"type": "object", "properties": {"seat": {"type": "string"}}, "required": ["seat"]}
                asked = ElicitRequestFormParams(message="Choose a seat", requested_schema=form)
                return InputRequiredResult(input_requests={"seat": ElicitRequest(params=asked)})
            chosen = params.input_responses["seat"]
            return text(f"{chosen.action} {chosen.content['seat']}")
        case "sum" | "endless":
            if params.input_responses is None or params.name == "endless":
                question = SamplingMessage(role="user", content=TextContent(text="2 + 2?"))
                wanted = CreateMessageRequestParams(messages=[question], max_tokens=10)
                return InputRequiredResult(input_requests={"sum": CreateMessageRequest(params=wanted)})
            return text(params.input_responses["sum"].content.text)
        case "hangs":
            with Path(os.environ["TEST_LOG"]).open("a") as log:
                try:
                    log.write("begun\n")
                    log.flush()
                    await asyncio.Event().wait()
                except BaseException:
                    log.write("cancelled\n")
                    raise
        case "dies":
            sys.stderr.write("out of memory, good bye\n")
            sys.stderr.flush()
            os._exit(3)
        case "environment":
            return text("\n".join(sorted(os.environ)))
        case "structured":
            return CallToolResult(content=[], structured_content={"answer": [42]})
        case "daemon":
            child = subprocess.Popen(
                [sys.executable, "-c", "import time; time.sleep(600)"],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
            )
            return text(str(child.pid))
        case "long":
            return text("x" * 300_000)
        case "pid":
            return text(str(os.getpid()))
        case "bad.name!":
            return text("a name that no provider takes")
    raise ValueError(params.name)


async def list_resources(ctx: Any, params: Any) -> ListResourcesResult:
    """Return one text and one picture; nothing if the test wants it so."""
    if "TEST_NO_RESOURCES" in os.environ:
        return ListResourcesResult(resources=[])
    return ListResourcesResult(
        resources=[
            Resource(uri="memo://one", name="one", mime_type="text/plain"),
            Resource(uri="memo://pixel", name="pixel", mime_type="image/png"),
        ]
    )


async def list_templates(ctx: Any, params: Any) -> ListResourceTemplatesResult:
    """Return one template; nothing if the test wants it so."""
    if "TEST_NO_RESOURCES" in os.environ:
        return ListResourceTemplatesResult(resource_templates=[])
    return ListResourceTemplatesResult(
        resource_templates=[ResourceTemplate(uri_template="memo://{n}", name="n")]
    )


async def read_resource(ctx: Any, params: Any) -> ReadResourceResult:
    """Return the resource with this URI."""
    uri = str(params.uri)
    if uri == "memo://pixel":
        return ReadResourceResult(contents=[BlobResourceContents(uri=uri, blob=PIXEL, mime_type="image/png")])
    if uri == "memo://broken":
        raise MCPError(code=-32000, message="the resource is broken")
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, text=f"This is {uri}")])


async def list_prompts(ctx: Any, params: Any) -> ListPromptsResult:
    """Return a prompt with arguments, and one that is a conversation."""
    return ListPromptsResult(
        prompts=[
            Prompt(
                name="ask",
                description="Ask about a topic.",
                arguments=[
                    PromptArgument(name="topic", description="What to ask about", required=True),
                    PromptArgument(name="style"),
                ],
            ),
            Prompt(name="talk"),
            Prompt(name="broken"),
        ]
    )


async def get_prompt(ctx: Any, params: Any) -> GetPromptResult:
    """Return the messages of a prompt."""
    if params.name == "broken":
        raise MCPError(code=-32000, message="the prompt is broken")
    if params.name == "talk":
        said: list[tuple[Any, str]] = [("user", "Who are you?"), ("assistant", "A test."), ("user", "Go on.")]
        return GetPromptResult(
            messages=[PromptMessage(role=role, content=TextContent(text=words)) for role, words in said]
        )
    words = f"Tell me about {params.arguments['topic']} {params.arguments.get('style', '')}{{{{ x }}}}"
    return GetPromptResult(messages=[PromptMessage(role="user", content=TextContent(text=words))])


server: Server[Any] = Server(
    "test server",
    version="1.0",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_list_resources=list_resources,
    on_list_resource_templates=list_templates,
    on_read_resource=read_resource,
    on_list_prompts=list_prompts,
    on_get_prompt=get_prompt,
)


async def main() -> None:
    """Serve over stdio."""
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        import uvicorn

        uvicorn.run(server.streamable_http_app(), port=int(sys.argv[1]), log_level="error")
    else:
        asyncio.run(main())
