"""An external model: a vendor's API, with the credentials it needs as secret references.

Source: ../shared/reference/databricks_contract.md 3
"""

from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_type_hints

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from llmops.endpoints.document import Document, Url
from llmops.endpoints.secrets import REFERENCE, parse
from llmops.protocol.task import Task


def _reference(value: str) -> str:
    parse(value)
    return value


_AS_SCHEMA = WithJsonSchema({"type": "string", "pattern": f"^{REFERENCE.pattern}$"})
SecretRef = Annotated[str, AfterValidator(_reference), _AS_SCHEMA]
#: How the field is called that holds a key itself, where a client may send one.
PLAINTEXT = "_plaintext"
HEADER_PATTERN = r"^[\w.-]+$"
#: What may stand in a header.
Token = Annotated[str, Field(pattern=HEADER_PATTERN)]
REGION_PATTERN = r"^[a-z0-9-]+$"
#: A part of the name of the vendor's host: with a slash or an @ in it, the key would go to another one.
Region = Annotated[str, Field(pattern=REGION_PATTERN)]


class ProviderConfig(Document):
    """What one vendor needs. A key itself never stands in a document, only its reference."""

    @model_validator(mode="before")
    @classmethod
    def _no_plaintext(cls, given: Any) -> Any:
        for key in given if isinstance(given, dict) else ():
            if str(key).endswith(PLAINTEXT):
                field = str(key).removesuffix(PLAINTEXT)
                if given.get(field) is not None:
                    raise ValueError(f"'{field}' and '{key}' exclude each other; keep {field}, a reference")
                raise ValueError(
                    f"'{key}' is refused: no key is kept in a document; set the environment variable"
                    " LLMOPS_SECRET_<SCOPE>_<KEY> on the server, or keep the key there with"
                    f" `llmops secrets put <scope> <key>`, and write {field}: '{{{{secrets/<scope>/<key>}}}}'"
                )
        return given

    def references(self) -> dict[str, str]:
        """Every secret reference of this config, by field name (nested ones by their last name)."""
        found: dict[str, str] = {}
        for name, value in self:
            if isinstance(value, ProviderConfig):
                found.update(value.references())
            elif isinstance(value, str) and REFERENCE.fullmatch(value):
                found[name] = value
        return found

    def plain(self) -> dict[str, str]:
        """Every field that is not a secret and is set."""
        references = self.references()
        return {name: value for name, value in self if isinstance(value, str) and name not in references}


def secret_fields(model: type[Document]) -> frozenset[str]:
    """The fields of a model that hold a secret reference, those of models inside it left out."""
    hints = get_type_hints(model, include_extras=True)
    return frozenset(name for name, hint in hints.items() if SecretRef in (hint, *get_args(hint)))


class OpenAiConfig(ProviderConfig):
    """OpenAI, or Azure OpenAI with ``openai_api_type: azure``."""

    openai_api_key: SecretRef | None = None
    openai_api_type: Literal["openai", "azure", "azuread"] | None = None
    openai_api_base: Url | None = None
    openai_api_version: str | None = None
    openai_deployment_name: str | None = None
    openai_organization: Token | None = None
    microsoft_entra_client_id: str | None = None
    microsoft_entra_tenant_id: str | None = None
    microsoft_entra_client_secret: SecretRef | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.openai_api_type == "azuread":
            raise ValueError("openai_api_type 'azuread' is not served yet; use 'azure' with openai_api_key")
        if self.openai_api_key is None:
            raise ValueError("openai_api_key is missing; write '{{secrets/<scope>/<key>}}'")
        if self.openai_api_type == "azure":
            needed = ("openai_api_base", "openai_api_version", "openai_deployment_name")
            missing = [name for name in needed if getattr(self, name) is None]
            if missing:
                raise ValueError(f"openai_api_type 'azure' also needs {', '.join(missing)}")
        return self


class AnthropicConfig(ProviderConfig):
    """Anthropic."""

    anthropic_api_key: SecretRef


class CohereConfig(ProviderConfig):
    """Cohere."""

    cohere_api_key: SecretRef
    cohere_api_base: Url | None = None


class Ai21LabsConfig(ProviderConfig):
    """AI21 Labs."""

    ai21labs_api_key: SecretRef


class PalmConfig(ProviderConfig):
    """PaLM, which Google answers with Gemini."""

    palm_api_key: SecretRef


def _small(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


#: In letters of either size, and told in small ones: databricks-sdk knows no others. Meta is our addition.
BedrockProvider = Annotated[Literal["anthropic", "cohere", "ai21labs", "amazon", "meta"], BeforeValidator(_small)]


class AmazonBedrockConfig(ProviderConfig):
    """Amazon Bedrock with access keys."""

    aws_region: Region
    bedrock_provider: BedrockProvider
    aws_access_key_id: SecretRef
    aws_secret_access_key: SecretRef

    @model_validator(mode="before")
    @classmethod
    def _no_credentials_of_a_workspace(cls, given: Any) -> Any:
        for key in ("instance_profile_arn", "uc_service_credential_name"):
            if isinstance(given, dict) and given.get(key) is not None:
                raise ValueError(
                    f"'{key}' names credentials of a Databricks workspace, which this server has not; remove it, and"
                    " write aws_access_key_id and aws_secret_access_key"
                )
        return given


class GoogleCloudVertexAiConfig(ProviderConfig):
    """Google Vertex AI with a service-account key."""

    project_id: str
    region: Region
    private_key: SecretRef


class DatabricksModelServingConfig(ProviderConfig):
    """Another server of this API."""

    databricks_workspace_url: Url
    databricks_api_token: SecretRef


class BearerTokenAuth(ProviderConfig):
    """``Authorization: Bearer``."""

    token: SecretRef


class ApiKeyAuth(ProviderConfig):
    """A key in a header of the vendor's choice."""

    key: Token
    value: SecretRef


class CustomProviderConfig(ProviderConfig):
    """Any server that speaks OpenAI's wire."""

    custom_provider_url: Url | None = None
    bearer_token_auth: BearerTokenAuth | None = None
    api_key_auth: ApiKeyAuth | None = None

    @model_validator(mode="after")
    def _one_auth(self) -> Self:
        if self.bearer_token_auth is not None and self.api_key_auth is not None:
            raise ValueError("bearer_token_auth and api_key_auth exclude each other; keep one")
        return self


class ExternalModel(Document):
    """A vendor's model: which vendor, which model, for which task, with which config."""

    CONFIGS: ClassVar[dict[str, str]] = {
        "openai": "openai_config",
        "anthropic": "anthropic_config",
        "cohere": "cohere_config",
        "amazon-bedrock": "amazon_bedrock_config",
        "google-cloud-vertex-ai": "google_cloud_vertex_ai_config",
        "ai21labs": "ai21labs_config",
        "databricks-model-serving": "databricks_model_serving_config",
        "palm": "palm_config",
        "custom": "custom_provider_config",
    }

    name: str = Field(min_length=1)
    provider: Literal[
        "openai",
        "anthropic",
        "cohere",
        "amazon-bedrock",
        "google-cloud-vertex-ai",
        "ai21labs",
        "databricks-model-serving",
        "palm",
        "custom",
    ]
    task: Task
    openai_config: OpenAiConfig | None = None
    anthropic_config: AnthropicConfig | None = None
    cohere_config: CohereConfig | None = None
    amazon_bedrock_config: AmazonBedrockConfig | None = None
    google_cloud_vertex_ai_config: GoogleCloudVertexAiConfig | None = None
    ai21labs_config: Ai21LabsConfig | None = None
    databricks_model_serving_config: DatabricksModelServingConfig | None = None
    palm_config: PalmConfig | None = None
    custom_provider_config: CustomProviderConfig | None = None

    @model_validator(mode="after")
    def _matching_config(self) -> Self:
        wanted = self.CONFIGS[self.provider]
        given = [field for field in self.CONFIGS.values() if getattr(self, field) is not None]
        if given == [wanted] or (self.provider == "custom" and not given):
            return self
        raise ValueError(
            f"provider '{self.provider}' needs {wanted}, and only that; found {', '.join(given) or 'none'}"
        )

    @property
    def config(self) -> ProviderConfig:
        """The config of this model's provider."""
        found: ProviderConfig | None = getattr(self, self.CONFIGS[self.provider])
        return found or CustomProviderConfig()
