"""What libraries say, and what becomes of it. The texts are those of delta-rs 1.6.6 and object_store."""

import pytest
from deltalake.exceptions import CommitFailedError, DeltaError, DeltaProtocolError

from llmops.errors import Conflict, Unavailable
from llmops.interactions.delta_trouble import explained


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        (
            "Generic LocalFileSystem error\n ↳ No space left on device (os error 28)",
            "the disk is full; free some space",
        ),
        ("Permission denied (os error 13)", "access is denied; check the credentials"),
        ("Read-only file system (os error 30)", "the file system is read-only; make it writable"),
        ("File exists (os error 17)\n Not a directory (os error 20)", "a file lies where a directory is needed"),
        ("Generic S3 error\n\x1b[31m↳\x1b[0m NoSuchBucket", "the bucket or container does not exist"),
        ("after 3 retries - HTTP error\n tcp connect error", "the store cannot be reached; check the network"),
    ],
)
def test_trouble_is_one_line_that_says_what_to_do(said: str, understood: str) -> None:
    with pytest.raises(Unavailable) as raised, explained("s3://bucket/table"):
        raise OSError(said)

    assert raised.value.message.startswith(f"table s3://bucket/table: {understood}")
    assert "\n" not in raised.value.message


def test_what_nobody_foresaw_is_told_short_and_without_keys() -> None:
    with pytest.raises(Unavailable) as raised, explained("abfss://c@a/t"):
        raise DeltaError("Server broke at https://a.net/c/t?sv=1&sig=SECRET \x1b[31m↳\x1b[0m " + "x" * 900)

    assert "SECRET" not in raised.value.message
    assert raised.value.message.startswith("table abfss://c@a/t: Server broke at https://a.net/c/t xxx")
    assert len(raised.value.message) < 250


def test_a_conflict_is_tried_again_and_a_foreign_protocol_is_not() -> None:
    with pytest.raises(Unavailable, match="it is tried again"), explained("t"):
        raise CommitFailedError("a concurrent transaction deleted data")
    with pytest.raises(Conflict, match="its features need another writer"), explained("t"):
        raise DeltaProtocolError("The table's minimum reader version is 99")
