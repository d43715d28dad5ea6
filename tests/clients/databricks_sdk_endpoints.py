"""databricks-sdk's ``serving_endpoints``: create, wait, list, change the config, query, delete."""

import sys

import openai
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import BadRequest, InvalidParameterValue, NotFound, PermissionDenied, ResourceAlreadyExists
from databricks.sdk.mixins.open_ai_client import ServingEndpointsExt
from databricks.sdk.service.serving import (
    AutoCaptureConfigInput,
    AutoCaptureState,
    ChatMessage,
    ChatMessageRole,
    DataframeSplitInput,
    EndpointCoreConfigInput,
    EndpointStateConfigUpdate,
    EndpointStateReady,
    EndpointTag,
    ExternalModel,
    ExternalModelProvider,
    FoundationModel,
    OpenAiConfig,
    PayloadTable,
    PtEndpointCoreConfig,
    PtServedModel,
    Route,
    ServedEntityInput,
    ServedModelStateDeployment,
    ServingEndpointDetailed,
    TrafficConfig,
)

from tests.clients import databricks_sdk_parts
from tests.clients.stage import MESSAGES, SAID, TOKENS, Stage, unnamed
from tests.scripts import status

HELLO = [ChatMessage(role=ChatMessageRole.USER, content="hello")]
UNITS = PtEndpointCoreConfig(served_entities=[PtServedModel(entity_name="llmops.eliza", provisioned_model_units=50)])
#: The SDK cannot say which engine runs a foundation model: its classes have no place for our block `llmops`.
ENGINE_MISSING = "llmops.engine is missing"


@pytest.fixture
def endpoints() -> ServingEndpointsExt:
    return WorkspaceClient().serving_endpoints


def entity(stage: Stage, name: str = "gpt") -> ServedEntityInput:
    """A served entity of the upstream, in the SDK's own words."""
    config = OpenAiConfig(openai_api_key="{{secrets/test/key}}", openai_api_base=f"{stage.upstream.url}/v1")
    model = ExternalModel(ExternalModelProvider.OPENAI, f"{name}-model", "llm/v1/chat", openai_config=config)
    return ServedEntityInput(name=name, external_model=model)


@pytest.mark.call("create")
def test_an_endpoint_is_created(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name = stage.document()["name"]
    tags = [EndpointTag(key="team", value="red")]

    waiter = endpoints.create(
        name,
        config=EndpointCoreConfigInput(name=name, served_entities=[entity(stage)]),
        tags=tags,
        route_optimized=True,
    )
    made = waiter.result()

    assert (waiter.name, made.name, made.task) == (name, name, "llm/v1/chat")
    assert (made.tags, made.route_optimized) == (tags, True)
    assert endpoints.query(name, messages=HELLO).served_model_name == "gpt"


@pytest.mark.call("create")
def test_a_key_in_clear_is_used_and_told_as_a_reference(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name, clear = stage.document()["name"], entity(stage)
    assert clear.external_model is not None
    base = f"{stage.upstream.url}/v1"
    clear.external_model.openai_config = OpenAiConfig(openai_api_key_plaintext="sk-clear", openai_api_base=base)

    made = endpoints.create(name, config=EndpointCoreConfigInput(name=name, served_entities=[clear])).result()
    endpoints.query(name, messages=HELLO)

    assert stage.upstream.requests[-1].headers["authorization"] == "Bearer sk-clear"
    assert made.config is not None
    told = (made.config.served_entities or [])[0].external_model
    assert told is not None
    assert told.openai_config is not None
    assert told.openai_config.openai_api_key_plaintext is None
    assert str(told.openai_config.openai_api_key).startswith(f"{{{{secrets/llmops-endpoints/{name}.")


@pytest.mark.call("create_and_wait", "wait_get_serving_endpoint_not_updating")
def test_the_wait_for_an_endpoint_ends_with_its_first_look(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name = stage.document()["name"]
    looks: list[ServingEndpointDetailed] = []

    made = endpoints.create_and_wait(
        name, config=EndpointCoreConfigInput(name=name, served_entities=[entity(stage)]), description="ours"
    )
    endpoints.wait_get_serving_endpoint_not_updating(name, callback=looks.append)

    assert made.state is not None
    assert (made.state.ready, made.state.config_update) == (
        EndpointStateReady.READY,
        EndpointStateConfigUpdate.NOT_UPDATING,
    )
    assert made.description == "ours"
    # The callback is called before every further look.
    assert looks == []


@pytest.mark.call("create")
def test_a_name_that_is_taken_is_refused(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name = stage.make()

    with pytest.raises(ResourceAlreadyExists, match=name):
        endpoints.create(name, config=EndpointCoreConfigInput(name=name, served_entities=[entity(stage)]))


@pytest.mark.call("create")
def test_a_registered_model_is_refused(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    model = ServedEntityInput(entity_name="main.default.churn", entity_version="1", workload_size="Small")
    name = stage.document()["name"]

    with pytest.raises(InvalidParameterValue, match="registered models are not served by this version"):
        endpoints.create(name, config=EndpointCoreConfigInput(name=name, served_entities=[model]))


@pytest.mark.call("list", "get")
def test_endpoints_are_listed_and_got(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name = stage.make()

    listed = {endpoint.name: endpoint for endpoint in endpoints.list()}
    got = endpoints.get(name)

    assert listed[name].id == got.id
    assert listed[name].config is not None
    assert got.config is not None
    assert got.config.served_entities is not None
    assert got.config.served_entities[0].external_model is not None
    assert got.config.served_entities[0].external_model.provider is ExternalModelProvider.OPENAI
    assert got.config.config_version == 1
    assert got.creator == "admin"
    assert got.creation_timestamp == listed[name].creation_timestamp


@pytest.mark.call("list", "get")
def test_a_foundation_model_is_told_by_its_old_names_too(endpoints: ServingEndpointsExt) -> None:
    got, (listed,) = endpoints.get("demo").config, [one.config for one in endpoints.list() if one.name == "demo"]

    assert got is not None
    assert listed is not None
    for config in (got, listed):
        (entity,), (model,) = config.served_entities or [], config.served_models or []
        assert (entity.name, entity.entity_name) == (model.name, model.model_name) == ("eliza", "llmops.eliza")
        assert entity.foundation_model == FoundationModel(name="llmops.eliza", display_name="eliza")
    assert got.served_models is not None
    assert got.served_models[0].state is not None
    assert got.served_models[0].state.deployment is ServedModelStateDeployment.DEPLOYMENT_READY


@pytest.mark.call("create_and_wait")
def test_the_table_of_the_old_key_is_told_where_it_is_on(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    told = []
    for enabled in (True, False):
        name = stage.document()["name"]
        table = AutoCaptureConfigInput(catalog_name="main", schema_name="llm", enabled=enabled)
        config = EndpointCoreConfigInput(name=name, served_entities=[entity(stage)], auto_capture_config=table)
        made = endpoints.create_and_wait(name, config=config).config
        assert made is not None
        assert made.auto_capture_config is not None
        told.append((name, made.auto_capture_config.state))

    (name, on), (_, off) = told
    assert on == AutoCaptureState(payload_table=PayloadTable(name=f"main.llm.{name}_payload"))
    assert off is None


@pytest.mark.call("get")
def test_an_unknown_endpoint_is_not_found(endpoints: ServingEndpointsExt) -> None:
    with pytest.raises(NotFound, match="Endpoint with name 'nope' does not exist"):
        endpoints.get("nope")


@pytest.mark.call("update_config", "update_config_and_wait")
def test_the_config_is_updated(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name, two = stage.make(), [entity(stage, "first"), entity(stage, "second")]
    routes = [Route(traffic_percentage=0, served_entity_name="first"), Route(100, served_entity_name="second")]

    once = endpoints.update_config(name, served_entities=two[:1]).result()
    updated = endpoints.update_config_and_wait(name, served_entities=two, traffic_config=TrafficConfig(routes=routes))

    assert once.config is not None
    assert updated.config is not None
    assert updated.config.traffic_config is not None
    assert [config.config_version for config in (once.config, updated.config)] == [2, 3]
    told = updated.config.traffic_config.routes or []
    assert [(route.served_entity_name, route.traffic_percentage) for route in told] == [("first", 0), ("second", 100)]
    assert endpoints.query(name, messages=HELLO).served_model_name == "second"


@pytest.mark.call("update_config", "update_config_and_wait")
def test_what_an_update_of_the_config_does_not_name_stays(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name, two = stage.make(), [entity(stage, "first"), entity(stage, "second")]
    routes = [Route(traffic_percentage=70, served_entity_name="first"), Route(30, served_entity_name="second")]
    table = AutoCaptureConfigInput(catalog_name="main", schema_name="llm", enabled=False)

    endpoints.update_config(name, served_entities=two, traffic_config=TrafficConfig(routes=routes))
    endpoints.update_config(name, auto_capture_config=table)
    endpoints.update_config(name, served_entities=two)
    routes[0].traffic_percentage, routes[1].traffic_percentage = 0, 100
    split = endpoints.update_config_and_wait(name, traffic_config=TrafficConfig(routes=routes)).config
    one = endpoints.update_config_and_wait(name, served_entities=two[:1]).config
    with pytest.raises(InvalidParameterValue, match="several served entities need a traffic_config"):
        endpoints.update_config(name, served_entities=two)

    assert split is not None
    assert one is not None
    assert [entity.name for entity in split.served_entities or []] == ["first", "second"]
    assert split.auto_capture_config is not None
    assert split.auto_capture_config.schema_name == "llm"
    assert one.traffic_config is not None
    assert [route.traffic_percentage for route in one.traffic_config.routes or []] == [100]
    assert one.auto_capture_config == split.auto_capture_config


@pytest.mark.call("query")
def test_a_chat_is_queried(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name = stage.make()

    answer = endpoints.query(
        *(name,),
        messages=[ChatMessage(role=ChatMessageRole.SYSTEM, content="be brief"), *HELLO],
        max_tokens=9,
        temperature=0.5,
        n=1,
        stop=["END"],
        client_request_id="mine",
        usage_context={"team": "red"},
    )

    assert answer.choices is not None
    assert answer.choices[0].message is not None
    assert answer.usage is not None
    assert (answer.choices[0].message.role, answer.choices[0].message.content) == (ChatMessageRole.ASSISTANT, SAID)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == TOKENS
    assert stage.sent == {
        "model": f"{name}-model",
        "messages": [{"role": "system", "content": "be brief"}, *MESSAGES],
        "max_tokens": 9,
        "temperature": 0.5,
        "n": 1,
        "stop": ["END"],
    }


@pytest.mark.call("query")
def test_completions_are_queried(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    answer = endpoints.query(stage.make("llm/v1/completions"), prompt="hello", max_tokens=3)

    assert answer.choices is not None
    assert answer.choices[0].text == SAID


@pytest.mark.call("query")
def test_embeddings_are_queried(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    answer = endpoints.query(stage.make("llm/v1/embeddings"), input=["hello", "there"])

    assert [row.embedding for row in answer.data or []] == [[1.0, 0.0, 0.0]] * 2


@pytest.mark.call("query")
def test_one_served_entity_is_queried_by_its_path(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name = stage.make()

    assert endpoints.query(f"{name}/served-models/{name}", messages=HELLO).served_model_name == name
    with pytest.raises(NotFound, match="nope"):
        endpoints.query(f"{name}/served-models/nope", messages=HELLO)


@pytest.mark.call("query")
def test_the_body_of_a_registered_model_is_refused(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name, table = stage.make(), DataframeSplitInput(columns=["x"], data=[[1]])

    for given in ({"dataframe_split": table}, {"dataframe_records": [{"x": 1}]}, {"instances": [1]}, {"inputs": [1]}):
        with pytest.raises(BadRequest, match="the body has none of 'messages'"):
            endpoints.query(name, **given)


@pytest.mark.call("query")
def test_what_the_upstream_refuses_is_the_error_of_that_status(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name = stage.make()
    stage.upstream.play(status(403))

    with pytest.raises(PermissionDenied, match="scripted 403"):
        endpoints.query(name, messages=HELLO)
    with pytest.raises(NotFound, match="'nope' does not exist"):
        endpoints.query("nope", messages=HELLO)


@pytest.mark.call("delete")
def test_an_endpoint_is_deleted_once(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name = stage.make()

    endpoints.delete(name)

    assert not stage.exists(name)
    with pytest.raises(NotFound, match=name):
        endpoints.delete(name)


@pytest.mark.call("get_open_ai_client")
def test_its_openai_client_chats_streams_and_embeds(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    chat, embeddings = stage.make(), stage.make("llm/v1/embeddings")

    with pytest.warns(DeprecationWarning, match="get_open_ai_client"):
        client: openai.OpenAI = endpoints.get_open_ai_client(max_retries=0)  # type: ignore[no-untyped-call]
    answer = client.chat.completions.create(model=chat, messages=MESSAGES)
    chunks = list(client.chat.completions.create(model=chat, messages=MESSAGES, stream=True))
    embedded = client.embeddings.create(model=embeddings, input="hello")

    assert answer.choices[0].message.content == SAID
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SAID
    assert embedded.data[0].embedding == [1.0, 0.0, 0.0]
    assert chat in [model.id for model in client.models.list()]


@pytest.mark.refused("create_provisioned_throughput_endpoint")
@pytest.mark.refused("create_provisioned_throughput_endpoint_and_wait")
def test_provisioned_throughput_without_an_engine_is_refused(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name = stage.document()["name"]

    with pytest.raises(InvalidParameterValue, match=ENGINE_MISSING):
        endpoints.create_provisioned_throughput_endpoint(name, UNITS)
    with pytest.raises(InvalidParameterValue, match=ENGINE_MISSING):
        endpoints.create_provisioned_throughput_endpoint_and_wait(name, UNITS)

    assert not stage.exists(name)


@pytest.mark.refused("update_provisioned_throughput_endpoint_config")
@pytest.mark.refused("update_provisioned_throughput_endpoint_config_and_wait")
def test_provisioned_throughput_is_not_updated_either(endpoints: ServingEndpointsExt, stage: Stage) -> None:
    name = stage.make()

    with pytest.raises(InvalidParameterValue, match=ENGINE_MISSING):
        endpoints.update_provisioned_throughput_endpoint_config(name, UNITS)
    with pytest.raises(InvalidParameterValue, match=ENGINE_MISSING):
        endpoints.update_provisioned_throughput_endpoint_config_and_wait(name, UNITS)

    assert stage.tell(name)["config"]["config_version"] == 1


def test_no_call_is_left_out() -> None:
    here, parts = sys.modules[__name__], databricks_sdk_parts

    # It needs langchain-openai, and sends what get_open_ai_client sends.
    assert unnamed(ServingEndpointsExt, "", here, parts) == {"get_langchain_chat_open_ai_client"}
