"""Our additions to a served entity: which engine runs a foundation model, and how any model is reached."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from llmops.endpoints.document import Document, Url
from llmops.endpoints.weights import parse
from llmops.protocol.task import Task

#: A served entity whose ``entity_name`` begins with this is a foundation model; others are registered models.
PREFIX = "llmops."

#: Open-model servers and vendors that speak OpenAI's wire, by the names of `llmops.providers.vendors`.
Vendor = Literal[
    "vllm", "ollama", "groq", "mistral", "deepseek", "xai", "openrouter", "together", "fireworks", "cerebras", "nvidia"
]


def _source(value: str) -> str:
    parse(value)
    return value


class Timeouts(Document):
    """Time limits of one attempt, in seconds.

    Attributes:
        first_byte_s: Until a streamed answer begins.
        between_chunks_s: Between two pieces of a streamed answer.
        total_s: Until a plain answer is complete.
    """

    first_byte_s: float = Field(default=120.0, gt=0, le=3600)
    between_chunks_s: float = Field(default=60.0, gt=0, le=3600)
    total_s: float = Field(default=290.0, gt=0, le=3600)


class EntityExtras(Document):
    """The ``llmops:`` block of a served entity.

    Attributes:
        engine: What runs a foundation model.
        source: Weights of engine ``llama_cpp``: a path, or ``hf://org/repo/file.gguf``.
        task: Of a foundation model; an external model names its own.
        model: The name the engine or server knows the model by; default: entity_name without ``llmops.``.
        vendor: A server or vendor that speaks OpenAI's wire, by name.
        api_base: Base URL, in place of the vendor's own (for example ``http://127.0.0.1:8000/v1``).
        context: Tokens of context of the local engine; default: 8192, of an embedding model 2048.
        parallel: Requests the local engine works on at once.
        threads: CPU threads of the local engine; default: its own choice.
    """

    engine: Literal["demo", "llama_cpp", "openai_compatible"] | None = None
    source: Annotated[str, AfterValidator(_source)] | None = None
    task: Task | None = None
    model: str | None = None
    vendor: Vendor | None = None
    api_base: Url | None = None
    timeouts: Timeouts = Timeouts()
    context: int | None = Field(default=None, ge=128)
    parallel: int = Field(default=1, ge=1, le=64)
    threads: int | None = Field(default=None, ge=1)
