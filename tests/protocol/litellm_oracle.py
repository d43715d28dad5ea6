"""How litellm translates: requests on stdin, as JSON by wire; on stdout what it would ask in chat.

A process of its own, because importing litellm takes seconds and warns.
"""

import sys

import orjson
from litellm.llms.anthropic.pass_through.adapters.transformation import LiteLLMAnthropicMessagesAdapter
from litellm.responses.litellm_completion_transformation.transformation import LiteLLMCompletionResponsesConfig
from litellm.types.utils import ModelResponse


def main() -> None:
    """Translate."""
    given = orjson.loads(sys.stdin.buffer.read())
    adapter = LiteLLMAnthropicMessagesAdapter()
    chat, _ = adapter.translate_anthropic_to_openai(given["messages"])
    body = given["responses"]
    rest = {key: value for key, value in body.items() if key not in ("model", "input")}
    asked = LiteLLMCompletionResponsesConfig.transform_responses_api_request_to_chat_completion_request(
        body["model"], body["input"], rest
    )
    answered = adapter.translate_openai_response_to_anthropic(ModelResponse(**given["answer"]))
    told = {"messages": chat, "responses": asked, "answer": answered}
    sys.stdout.buffer.write(orjson.dumps(told, default=lambda value: value.model_dump()))


if __name__ == "__main__":
    main()
