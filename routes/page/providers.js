// What the form asks for, by provider: one row each. The server's rules are in llmops/endpoints/external_model.py.
"use strict";

const REFERENCE = /^\{\{secrets\/[\w.@-]{1,128}\/[\w.-]{1,128}\}\}$/;

// Kinds of field: what the label says, whether it must be filled in, and what it may look like.
const secret = (name, label, scope, key = "key", optional = false) =>
  ({ name, label, kind: "secret", value: `{{secrets/${scope}/${key}}}`, optional });
const text = (name, label, example, optional = false) => ({ name, label, kind: "text", example, optional });
const url = (name, label, example, optional = false) => ({ name, label, kind: "url", example, optional });

const BASE = url("llmops.api_base", "Base URL", "https://proxy.example.com/v1", true);
const simple = (provider, label, model, config, ...asked) => ({ provider, label, model, config, fields: [...asked, BASE] });

// A vendor that speaks OpenAI's wire; its address is known to the server by this name.
const vendor = (name, label, model, keyed = true) => ({
  provider: "custom", label, model, config: "custom_provider_config", vendor: name,
  fields: [...(keyed ? [secret("bearer_token_auth.token", "API key", name)] : []), BASE],
});

const PROVIDERS = [
  simple("openai", "OpenAI", "gpt-4o-mini", "openai_config",
    secret("openai_api_key", "API key", "openai"), text("openai_organization", "Organization", "org-…", true)),
  {
    provider: "openai", label: "Azure OpenAI", model: "gpt-4o-mini", config: "openai_config",
    given: { openai_api_type: "azure" },
    fields: [
      secret("openai_api_key", "API key", "azure"),
      url("openai_api_base", "Resource URL", "https://my-resource.openai.azure.com"),
      text("openai_deployment_name", "Deployment", "my-deployment"),
      text("openai_api_version", "API version", "2024-10-21"),
    ],
  },
  simple("anthropic", "Anthropic", "claude-sonnet-4-5", "anthropic_config",
    secret("anthropic_api_key", "API key", "anthropic")),
  simple("cohere", "Cohere", "command-r-plus", "cohere_config", secret("cohere_api_key", "API key", "cohere")),
  simple("amazon-bedrock", "Amazon Bedrock", "anthropic.claude-3-5-sonnet-20240620-v1:0", "amazon_bedrock_config",
    text("aws_region", "AWS region", "eu-central-1"), text("bedrock_provider", "Vendor on Bedrock", "anthropic"),
    secret("aws_access_key_id", "Access key id", "aws", "access_key_id"),
    secret("aws_secret_access_key", "Secret access key", "aws", "secret_access_key")),
  simple("google-cloud-vertex-ai", "Google Vertex AI", "gemini-2.0-flash", "google_cloud_vertex_ai_config",
    text("project_id", "Project", "my-project"), text("region", "Region", "europe-west4"),
    secret("private_key", "Service-account key", "vertex", "private_key")),
  simple("ai21labs", "AI21 Labs", "jamba-large", "ai21labs_config", secret("ai21labs_api_key", "API key", "ai21labs")),
  simple("palm", "Google PaLM / Gemini", "gemini-2.0-flash", "palm_config", secret("palm_api_key", "API key", "palm")),
  {
    provider: "databricks-model-serving", label: "Databricks, or another llmops", model: "my-endpoint",
    config: "databricks_model_serving_config",
    fields: [
      url("databricks_workspace_url", "Workspace URL", "https://adb-1.azuredatabricks.net"),
      secret("databricks_api_token", "Token", "databricks", "token"),
    ],
  },
  {
    provider: "custom", label: "Other server with OpenAI's wire", model: "my-model", config: "custom_provider_config",
    fields: [
      url("custom_provider_url", "URL of the task", "https://models.example.com/v1/chat/completions"),
      { ...secret("bearer_token_auth.token", "Bearer token", "custom", "key", true), value: "" },
    ],
  },
  vendor("groq", "Groq", "llama-3.3-70b-versatile"),
  vendor("mistral", "Mistral", "mistral-small-latest"),
  vendor("deepseek", "DeepSeek", "deepseek-chat"),
  vendor("xai", "xAI", "grok-3-mini"),
  vendor("openrouter", "OpenRouter", "openai/gpt-4o-mini"),
  vendor("together", "Together", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
  vendor("fireworks", "Fireworks", "accounts/fireworks/models/llama-v3p3-70b-instruct"),
  vendor("cerebras", "Cerebras", "llama-3.3-70b"),
  vendor("nvidia", "NVIDIA", "meta/llama-3.3-70b-instruct"),
  vendor("ollama", "Ollama on the server's machine", "llama3.2", false),
  vendor("vllm", "vLLM on the server's machine", "Qwen/Qwen3-8B", false),
];

// The document of an endpoint, from what the form holds. What is empty is left out.
function endpointDocument(row, { name, description, model, task, values }) {
  const config = { ...row.given }, extras = row.vendor ? { vendor: row.vendor } : {};
  for (const [path, value] of Object.entries(values)) {
    if (!value) continue;
    const [first, second] = path.split(".");
    if (first === "llmops") extras[second] = value;
    else if (second) config[first] = { [second]: value };
    else config[first] = value;
  }
  const external = { name: model, provider: row.provider, task };
  if (Object.keys(config).length) external[row.config] = config;
  const entity = { name: entityName(model), external_model: external };
  if (Object.keys(extras).length) entity.llmops = extras;
  return { name, ...(description && { description }), config: { served_entities: [entity] } };
}

// As the server would name it: letters, digits, dashes and underscores, beginning with a letter or digit.
function entityName(model) {
  return model.replace(/[^A-Za-z0-9_-]/g, "-").replace(/^[_-]+/, "").slice(0, 63) || "model";
}
