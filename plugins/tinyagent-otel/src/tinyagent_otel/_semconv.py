"""The names of the OpenTelemetry semantic conventions that are used here.

The conventions for generative AI are those of semantic-conventions 1.41, the last release with them. They
have moved to the repository `open-telemetry/semantic-conventions-genai`, which has no release yet and renames
attributes. All have the status "development". The package opentelemetry-semantic-conventions has these names
only as deprecated constants of a private module.

What the conventions do not have is below `tinyagent.`.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__: list[str] = []

SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.0"

# ---- operations: the values of gen_ai.operation.name, and the first word of a span's name --------

CHAT = "chat"
EXECUTE_TOOL = "execute_tool"
INVOKE_AGENT = "invoke_agent"

# ---- attributes of all spans ---------------------------------------------------------------------

OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
CONVERSATION_ID = "gen_ai.conversation.id"
ERROR_TYPE = "error.type"
OTHER_ERROR = "_OTHER"
HTTP_STATUS = "http.response.status_code"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

# ---- agents and models ---------------------------------------------------------------------------

AGENT_NAME = "gen_ai.agent.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT = "gen_ai.usage.input_tokens"
USAGE_OUTPUT = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_CREATION = "gen_ai.usage.cache_creation.input_tokens"
USAGE_REASONING = "gen_ai.usage.reasoning.output_tokens"

# ---- tools ---------------------------------------------------------------------------------------

TOOL_NAME = "gen_ai.tool.name"
TOOL_CALL_ID = "gen_ai.tool.call.id"
TOOL_TYPE = "gen_ai.tool.type"
TOOL_DESCRIPTION = "gen_ai.tool.description"
FUNCTION = "function"
TOOL_ERROR = "tool_error"
"""The `error.type` of a tool call that failed or was refused."""

# ---- content, only on request --------------------------------------------------------------------

SYSTEM_INSTRUCTIONS = "gen_ai.system_instructions"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
TOOL_DEFINITIONS = "gen_ai.tool.definitions"
TOOL_CALL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_CALL_RESULT = "gen_ai.tool.call.result"

# ---- metrics ---------------------------------------------------------------------------------------

OPERATION_DURATION = "gen_ai.client.operation.duration"
TOKEN_USAGE = "gen_ai.client.token.usage"
TOKEN_TYPE = "gen_ai.token.type"

# ---- our own -------------------------------------------------------------------------------------

COST = "tinyagent.usage.cost"
"""US dollars, as reported by the provider."""
COST_ESTIMATED = "tinyagent.usage.cost_estimated"
"""True if the cost is an estimate by the list price."""
LIMIT = "tinyagent.run.limit"
"""The limit that ended the run, such as `max_turns`."""
COMPACTION_REASON = "tinyagent.compaction.reason"
"""Why a request for a summary was made: `limit`, `overflow` or `request`."""

# ---- providers -----------------------------------------------------------------------------------

_PROVIDERS: Mapping[str, str] = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}


def provider_name(name: str) -> str:
    """Return the conventions' name of a provider of tinyagent; its own name if they have none."""
    return _PROVIDERS.get(name, name)
