"""MLflow's tracking store: opened, checked, and what its errors say of a record."""

import ipaddress
import ssl
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR, INVALID_PARAMETER_VALUE, UNAUTHENTICATED

from llmops.errors import Unavailable
from llmops.interactions.mlflow_store import judge, open_store
from llmops.interactions.sink import Refused, Retry
from llmops.settings import Settings
from tests.tracking import Front, answer

NOBODY = "http://127.0.0.1:1"


def opened(folder: Path, uri: str) -> str:
    """What is said of a server that cannot be used."""
    with pytest.raises(Unavailable) as caught:
        open_store(Settings(data_dir=folder, mlflow_tracking_uri=uri))
    assert "\n" not in caught.value.message
    return caught.value.message


def old(front: Front, version: str) -> None:
    """Make the front a server of a version."""
    front.always("experiments/search", answer(200, '{"experiments": []}', "application/json"))
    front.always("/version", answer(200, version, "text/plain"))


@pytest.mark.parametrize("version", ["2.22.1", "3.3.2"])
def test_a_server_too_old_for_traces_is_told_before_anything_is_written(tmp_path: Path, version: str) -> None:
    with Front(NOBODY) as front:
        old(front, version)

        said = opened(tmp_path, front.url)

    assert f"is version {version.rpartition('.')[0]} and cannot keep traces: it has to be version 3.4 or later" in said


@pytest.mark.parametrize("version", ["3.4.0", "3.17.2.dev0", "10.0", "unknown", "<html></html>"])
def test_a_server_new_enough_or_that_does_not_say_is_opened(tmp_path: Path, version: str) -> None:
    with Front(NOBODY) as front:
        old(front, version)

        assert open_store(Settings(data_dir=tmp_path, mlflow_tracking_uri=front.url))


def test_a_page_in_the_servers_place_is_no_server(tmp_path: Path) -> None:
    with Front(NOBODY) as front:
        front.always("", answer(200, "<html>Sign in</html>"))

        said = opened(tmp_path, front.url)

    assert "answered 200 with text/html, which is not MLflow's: is the URI right, does a proxy want a login?" in said


def test_the_wait_a_server_asks_for_is_known_from_the_start(tmp_path: Path) -> None:
    with Front(NOBODY) as front:
        front.always("", answer(429, "", Retry_After="41"))

        with pytest.raises(Unavailable) as caught:
            open_store(Settings(data_dir=tmp_path, mlflow_tracking_uri=front.url))

    assert caught.value.retry_after_s == 41


def test_user_and_password_of_a_uri_are_used_and_never_told(tmp_path: Path) -> None:
    with Front(NOBODY) as front:
        front.always("", answer(401))
        uri = front.url.replace("//", "//ada:s3cr:et@")

        messages = [opened(tmp_path, uri), opened(tmp_path, uri.replace("http:", "https:"))]
        front.away()
        messages.append(opened(tmp_path, uri))

    assert all("127.0.0.1" in message for message in messages)
    assert not any("s3cr" in message or "ada" in message for message in messages)


def test_a_certificate_nobody_trusts_says_what_to_set(tmp_path: Path) -> None:
    listening = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(tmp_path))
    listening.socket = context.wrap_socket(listening.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
    thread.start()
    try:
        said = opened(tmp_path, f"https://127.0.0.1:{listening.server_port}")
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()

    assert "its certificate is not trusted, set MLFLOW_TRACKING_SERVER_CERT_PATH" in said
    assert "self-signed certificate" in said


def _certificate(folder: Path) -> Path:
    """A key and a certificate it signed itself, in one file."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now, address = datetime.now(UTC), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path = folder / "server.pem"
    path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + certificate.public_bytes(pem))
    return path


@pytest.mark.parametrize(
    ("code", "tries", "outcome"),
    [
        (INVALID_PARAMETER_VALUE, 1, Retry("MLflow: what is wrong")),
        (INVALID_PARAMETER_VALUE, 2, Refused("MLflow: what is wrong")),
        (BAD_REQUEST, 5, Retry("MLflow: what is wrong")),
    ],
)
def test_what_a_record_has_wrong_is_its_own_outcome(code: Any, tries: int, outcome: Retry | Refused) -> None:
    err = MlflowException("what is wrong\n[parameters: ('a prompt')]", error_code=code)

    assert judge(err, tries) == outcome


@pytest.mark.parametrize("code", [INTERNAL_ERROR, UNAUTHENTICATED])
def test_a_store_that_is_broken_says_nothing_of_the_record(code: Any) -> None:
    with pytest.raises(Unavailable, match="MLflow: no"):
        judge(MlflowException("no", error_code=code), tries=9)


@pytest.mark.parametrize("password", ["s3cret", "s3@cret", "s3:cret@"])
def test_a_password_in_an_error_is_not_passed_on(password: str) -> None:
    err = MlflowException(f"cannot connect to postgresql://ada:{password}@db:5432/mlflow", error_code=BAD_REQUEST)

    assert judge(err, tries=1) == Retry("MLflow: cannot connect to postgresql://***@db:5432/mlflow")
