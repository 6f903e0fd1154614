"""What a program with its own HTTP client writes. Checked by mypy and pyright, and never run."""

from collections.abc import Generator
from typing import assert_type

import httpx

from tinyagent import (
    Agent,
    AgentOptions,
    Context,
    OpenAICompatModel,
    OpenRouterModel,
    stream_openai_completions,
)


class GatewayAuth(httpx.Auth):
    """Adds the token of a gateway."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the token."""
        request.headers["x-gateway-token"] = "sk-test-1"
        yield request


async def clients() -> None:
    """A client or a transport, in the options of an agent, in those of a call, and in a model."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    async with httpx.AsyncClient(auth=GatewayAuth()) as client:
        options = AgentOptions(http_client=client)
        assert_type(options.http_client, httpx.AsyncClient | httpx.AsyncBaseTransport | None)
        assert_type(await Agent(options).prompt_text("Hi"), str)
        Agent(AgentOptions(http_client=transport))
        model = OpenAICompatModel(id="m", base_url="https://models.example/v1", http_client=client)
        await stream_openai_completions(model, Context(), {"http_client": transport, "timeout": 5.0})
        await stream_openai_completions(model, Context(), {"http_client": client})
    model.transport = "httpx"
    OpenRouterModel(transport="direct")
    OpenRouterModel(transport="curl")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AgentOptions(http_client=httpx.Client())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
