"""What a worker writes down: by its endpoint's policy, and by the room there is. Front door: tests/test_privacy.py."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

import orjson
import pytest

from llmops.endpoints.log_policy import METADATA, LogPolicy
from llmops.errors import BadRequest, LlmopsError, SpoolError, UpstreamStatus
from llmops.guardrails.pii import mask_document
from llmops.interactions.record import Interaction
from llmops.interactions.recorder import Asked, Recorder, Recording
from llmops.protocol import invocation

EMAIL = "ada@example.com"
BODY = orjson.dumps(
    {"messages": [{"role": "user", "content": EMAIL}], "stop": [EMAIL], "usage_context": {"of": EMAIL}, "user": EMAIL}
)


class Kept:
    """A log in memory that can be full."""

    def __init__(self) -> None:
        self.full = False
        self.records: list[Interaction] = []
        self.commits = 0

    def append(self, *interactions: Interaction) -> None:
        """Keep them."""
        self.records.extend(interactions)
        self.commits += 1


@pytest.fixture
def log() -> Kept:
    return Kept()


def _begun(log: Kept, policy: LogPolicy, *, mask: Any = mask_document, raw: bytes = BODY) -> Recording:
    recording = Recorder(log, mask).open(Asked(raw, "databricks", "chat"))
    recording.endpoint_id, recording.policy, recording.served_entity_id = "e" * 32, policy, "f" * 32
    try:
        recording.invocation = invocation.read(raw)
    except BadRequest:
        recording.invocation = None
    return recording


def _failed(log: Kept, policy: LogPolicy, **options: Any) -> Interaction:
    recording = _begun(log, policy, **options)
    error = UpstreamStatus(f"up answered 400: cannot read {EMAIL}", upstream_status=400)
    recording.tried(("up", "openai", "m"), 0.0, error)
    recording.failed(error)
    return log.records[-1]


def test_metadata_keeps_no_word_of_caller_or_model(log: Kept) -> None:
    record = _failed(log, METADATA)

    assert (record.content, record.request, record.response, record.params) == ("metadata", "", None, {})
    assert (record.message, record.attempts[0].message) == (None, None)
    assert (record.status, record.error_code, record.attempts[0].error) == (400, "BAD_REQUEST", "status")
    assert (record.user, record.usage_context, record.served_entity_id) == (EMAIL, {"of": EMAIL}, "f" * 32)


def test_masking_reaches_every_text_and_leaves_whose_it_is(log: Kept) -> None:
    record = _failed(log, LogPolicy(mask=True))

    assert record.masked
    assert EMAIL not in replace(record, user=None).encode().decode()
    assert orjson.loads(record.request)["messages"] == [{"role": "user", "content": "<EMAIL_ADDRESS>"}]
    assert (record.params, record.usage_context) == ({"stop": ["<EMAIL_ADDRESS>"]}, {"of": "<EMAIL_ADDRESS>"})
    assert record.message == record.attempts[0].message == "up answered 400: cannot read <EMAIL_ADDRESS>"
    assert record.user == EMAIL


def test_a_body_that_is_not_json_is_masked_as_text(log: Kept) -> None:
    record = _failed(log, LogPolicy(mask=True), raw=rb'{"messages": "ada\u0040example.com and ada@example.com')

    assert record.request == '{"messages": "<EMAIL_ADDRESS> and <EMAIL_ADDRESS>'


def test_a_masker_that_fails_leaves_metadata_and_says_so(log: Kept, caplog: pytest.LogCaptureFixture) -> None:
    def broken(value: Any) -> Any:
        raise ValueError(f"cannot mask {EMAIL}")

    record = _failed(log, LogPolicy(mask=True), mask=broken)

    assert (record.content, record.masked, record.usage_context) == ("metadata", False, {})
    assert EMAIL not in replace(record, user=None).encode().decode()
    assert f"event=not_masked interaction_id={record.interaction_id} reason=ValueError" in caplog.text
    assert EMAIL not in caplog.text


def test_a_policy_of_nothing_writes_nothing_and_counts(log: Kept) -> None:
    recorder = Recorder(log, mask_document)
    recording = recorder.open(Asked(BODY, "databricks", "chat"))
    recording.policy = LogPolicy(log="nothing")

    recording.answered(200, b"{}")

    assert (log.records, recorder.unlogged, recording.recorded) == ([], 1, False)


def test_the_record_says_where_its_payload_goes(log: Kept) -> None:
    policy = LogPolicy(payload_table="a.b.c_payload", sampling=0.5, usage_tracked=True)

    records = [_failed(log, policy) for _ in range(400)]

    assert all(record.usage_tracked and record.sampling_fraction == 0.5 for record in records)
    assert 100 < sum(record.payload_table == "a.b.c_payload" for record in records) < 300
    assert all(record.payload_table == policy.table(record.interaction_id) for record in records)


def test_a_full_log_that_samples_records_one_of_a_hundred_and_counts_the_others(
    log: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(log, mask_document)
    log.full = True

    for _ in range(4000):
        recording = recorder.open(Asked(BODY, "databricks", "chat"))
        recording.admit()
        recording.answered(200, b"{}")

    assert 10 < len(log.records) < 100
    assert recorder.sampled_out == 4000 - len(log.records)
    assert caplog.text.count("event=interaction_log_full then=sample") == 1


def test_what_began_while_there_was_room_is_recorded(log: Kept) -> None:
    recorder = Recorder(log, mask_document, refuses=True)
    recording = recorder.open(Asked(BODY, "databricks", "chat"))
    log.full = True

    recording.admit()
    recording.answered(200, b"{}")

    assert len(log.records) == 1


def test_a_full_log_that_refuses_says_why_and_what_to_do(log: Kept, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    recorder = Recorder(log, mask_document, refuses=True)
    recorder.delay = "mlflow: nobody listens"
    log.full = True
    recording = recorder.open(Asked(BODY, "databricks", "chat"))

    with pytest.raises(SpoolError) as refused:
        recording.admit()
    recording.failed(refused.value)
    log.full = False
    after = recorder.open(Asked(BODY, "databricks", "chat"))

    assert (refused.value.status, refused.value.error_code) == (503, "TEMPORARILY_UNAVAILABLE")
    assert refused.value.retry_after_s == 10
    assert refused.value.message.startswith("the interaction log is full, because mlflow: nobody listens; this server")
    assert (log.records, recorder.refused, recorder.sampled_out, recording.recorded) == ([], 1, 0, False)
    assert after.recorded
    assert "event=interaction_log_has_room" in caplog.text


def test_an_endpoint_that_logs_nothing_needs_no_room(log: Kept) -> None:
    log.full = True
    recording = Recorder(log, mask_document, refuses=True).open(Asked(BODY, "databricks", "chat"))
    recording.policy = LogPolicy(log="nothing")

    recording.admit()
    recording.answered(200, b"{}")

    assert log.records == []


def test_a_record_that_cannot_be_written_is_counted_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Kept):
        def append(self, *interactions: Interaction) -> None:
            raise SpoolError("interaction log x: the disk is full; free some space")

    recorder = Recorder(Broken(), mask_document)

    recorder.open(Asked(BODY, "databricks", "chat")).failed(LlmopsError("no"))

    assert (recorder.lost, recorder.problem) == (1, "interaction log x: the disk is full; free some space")
    assert "event=interaction_lost" in caplog.text


def _together(log: Kept, count: int) -> tuple[Recorder, list[int]]:
    """End so many stories in one turn of an event loop; also how many commits each had seen when it was written."""
    recorder = Recorder(log, mask_document)

    async def run() -> list[int]:
        recordings = [recorder.open(Asked(BODY, "databricks", "chat")) for _ in range(count)]

        async def end(recording: Recording) -> int:
            recording.answered(200, b"{}")
            await recording.written()
            return log.commits

        return await asyncio.gather(*map(end, recordings))

    return recorder, asyncio.run(run())


def test_stories_that_end_in_one_turn_share_a_commit_that_each_waits_for(log: Kept) -> None:
    _, seen = _together(log, 5)

    assert (len(log.records), log.commits, seen) == (5, 1, [1] * 5)


def test_a_story_that_ends_alone_is_written_at_once(log: Kept) -> None:
    async def run() -> int:
        recording = Recorder(log, mask_document).open(Asked(BODY, "databricks", "chat"))
        recording.answered(200, b"{}")
        return len(log.records)

    assert asyncio.run(run()) == 1


def test_a_record_that_cannot_be_written_takes_no_other_with_it(caplog: pytest.LogCaptureFixture) -> None:
    class Narrow(Kept):
        def append(self, *interactions: Interaction) -> None:
            if len(interactions) > 1 or self.commits == 1:
                self.commits += 1
                raise SpoolError("interaction log x: the disk is full; free some space")
            super().append(*interactions)

    log = Narrow()
    recorder, _ = _together(log, 3)

    assert (len(log.records), recorder.lost) == (2, 1)
    assert caplog.text.count("event=interaction_lost") == 1


def test_one_whose_caller_leaves_while_it_is_written_is_written(log: Kept) -> None:
    async def run() -> None:
        recorder = Recorder(log, mask_document)
        recording, other = (recorder.open(Asked(BODY, "databricks", "chat")) for _ in range(2))
        recording.answered(200, b"{}")
        waiting = asyncio.create_task(recording.written())
        asyncio.get_running_loop().call_soon(waiting.cancel)
        other.answered(200, b"{}")
        await other.written()

    asyncio.run(run())

    assert (len(log.records), log.commits) == (2, 1)
