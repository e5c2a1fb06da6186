"""Names of OpenTelemetry's GenAI semantic conventions, v0.1.0 of their own repository (status: development).

Nothing else names a `gen_ai.` attribute. The constants of `opentelemetry-semantic-conventions` are deprecated there;
these are the ones that are used.
https://github.com/open-telemetry/semantic-conventions-genai/tree/main/docs/gen-ai
"""

from __future__ import annotations

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
AGENT_NAME = "gen_ai.agent.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
DATA_SOURCE = "gen_ai.data_source.id"
TOP_K = "gen_ai.retrieval.top_k"
DOCUMENTS = "gen_ai.retrieval.documents"
DIMENSIONS = "gen_ai.embeddings.dimension.count"

CHAT = "chat"
EMBEDDINGS = "embeddings"
RETRIEVAL = "retrieval"
WORKFLOW = "invoke_workflow"

ERROR_TYPE = "error.type"

# What the conventions have no name for.
PRODUCT = "plinth.product"
REQUEST_ID = "plinth.request_id"
RELEASE = "plinth.release"
ARM = "plinth.arm"
PROMPT_VERSIONS = "plinth.prompt.versions"
GUARDRAIL_HITS = "plinth.guardrail.hits"
REFUSED = "plinth.answer.refused"
SUPPORT = "plinth.answer.support"
STALE = "plinth.answer.stale"
COST = "plinth.cost"
INDEX_BUILD = "plinth.index.build"
