"""Where the value of a reference comes from, and what is said where there is none."""

from pathlib import Path

import pytest

from llmops.endpoints.secret_store import SecretStore
from llmops.endpoints.secrets import Secrets, parse, variable
from llmops.errors import BadRequest, EndpointNotReady
from llmops.settings import Settings
from tests.endpoints.secret_stores import opened

REFERENCE = "{{secrets/team@home/api.key-1}}"
VARIABLE = "LLMOPS_SECRET_TEAM_HOME_API_KEY_1"


def _stored(folder: Path, value: bytes) -> SecretStore:
    store = opened(folder)
    store.create_scope("team@home", "ann")
    store.put("team@home", "api.key-1", value)
    return store


def test_the_environment_wins_over_the_directory_and_that_over_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = tmp_path / "mounted" / "team@home"
    mounted.mkdir(parents=True)
    (mounted / "api.key-1").write_text("of the directory\n")
    monkeypatch.setenv(VARIABLE, "of the environment")
    store = _stored(tmp_path, b"of the store")

    environment = Secrets(mounted.parent, store).get(REFERENCE)
    monkeypatch.delenv(VARIABLE)
    directory = Secrets(mounted.parent, store).get(REFERENCE)
    (mounted / "api.key-1").unlink()
    last = Secrets(mounted.parent, store).get(REFERENCE)

    assert (environment, directory, last) == ("of the environment", "of the directory", "of the store")
    assert variable("team@home", "api.key-1") == VARIABLE
    store.close()


def test_a_value_that_another_process_put_is_used_at_once(tmp_path: Path) -> None:
    store, other = _stored(tmp_path, b"old"), opened(tmp_path)
    secrets = Secrets(None, store)
    assert [secrets.get(REFERENCE), secrets.get(REFERENCE)] == ["old", "old"]

    other.put("team@home", "api.key-1", b"new")
    new = secrets.get(REFERENCE)
    other.delete("team@home", "api.key-1")

    assert new == "new"
    with pytest.raises(EndpointNotReady, match=r"secret team@home/api\.key-1 is missing"):
        secrets.get(REFERENCE)
    store.close()
    other.close()


def test_a_missing_secret_says_both_ways_to_bring_it(tmp_path: Path) -> None:
    for secrets in (Secrets(), Secrets(tmp_path, opened(tmp_path))):
        with pytest.raises(EndpointNotReady) as error:
            secrets.get("{{secrets/openai/key}}")

        assert error.value.message == (
            "secret openai/key is missing: set the environment variable LLMOPS_SECRET_OPENAI_KEY on the server,"
            " or keep it there with `llmops secrets put openai key`"
        )


@pytest.mark.parametrize(
    ("value", "told"),
    [(b"\xff\xfe", "holds bytes that are no text"), ("schlüssel".encode(), "holds characters that a header cannot")],
)
def test_a_value_that_no_header_can_carry_is_not_shown(tmp_path: Path, value: bytes, told: str) -> None:
    store = _stored(tmp_path, value)

    with pytest.raises(EndpointNotReady) as error:
        Secrets(None, store).get(REFERENCE)

    assert told in error.value.message
    assert "schl" not in error.value.message
    store.close()


def test_a_key_of_several_lines_comes_whole(tmp_path: Path) -> None:
    store = _stored(tmp_path, b"-----BEGIN\nline\n-----END\n")

    assert Secrets(None, store).get(REFERENCE) == "-----BEGIN\nline\n-----END"
    store.close()


def test_a_lost_master_key_makes_the_endpoint_wait_with_the_reason(tmp_path: Path) -> None:
    _stored(tmp_path, b"value").close()
    (tmp_path / "master.key").unlink()
    store = opened(tmp_path)

    with pytest.raises(EndpointNotReady) as error:
        Secrets(None, store).get(REFERENCE)

    assert error.value.message.startswith("secret team@home/api.key-1 cannot be read: it is sealed with the master key")
    assert str(tmp_path / "master.key") in error.value.message
    store.close()


def test_the_settings_of_a_server_open_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_MASTER_KEY", "not base64 of 32 bytes")
    store = SecretStore.open(Settings(data_dir=tmp_path / "data"))
    store.create_scope("s", "ann")

    with pytest.raises(BadRequest, match="LLMOPS_MASTER_KEY is not the base64 of 32 bytes"):
        store.put("s", "k", b"value")
    store.close()


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            "{{secrets/a}}",
            "{{secrets/a/b/c}}",
            "{{secrets//b}}",
            "secrets/a/b",
            "{{secrets/a/b}} ",
            "{{ secrets/a/b}}",
        ),
        *("{{secrets/../b}}", "{{secrets/a/..}}", "{{secrets/./b}}", "{{secrets/ä/b}}", "{{secrets/a/b@c}}"),
        "{{secrets/a/" + "b" * 129 + "}}",
    ],
)
def test_what_is_no_reference_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="not a secret reference"):
        parse(wrong)
