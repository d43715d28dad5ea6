"""Canary secrets, one for each way a key can be given, and a search for them in every form bytes can have them in.

Each is written so that JSON, URLs, HTML and base64 all change it: who hides only what he was given, misses those.
"""

import html
import json
import re
import sqlite3
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_plus

import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from deltalake import DeltaTable

from tests.postgres import run

#: Not secret: what a prompt holds, to see that the search finds what is there.
CONTROL = "control-wren/Zk7+prompt=&9"


@dataclass(frozen=True)
class Secret:
    """One secret.

    Attributes:
        scope: Of its reference; the key is ``key``.
        source: Where the server finds it: environment, mounted or store; clear: in the document that makes an endpoint.
        value: As it is given to the server.
        needles: What of it must appear nowhere; the value itself unless it is a whole document.
    """

    scope: str
    source: str
    value: str
    needles: tuple[str, ...]

    @property
    def reference(self) -> str:
        """As documents name it."""
        return f"{{{{secrets/{self.scope}/key}}}}"


def secret(scope: str, source: str) -> Secret:
    """A key of one line."""
    value = f'canary-{scope}/Zk7+Wq"{scope}=&9<x'
    return Secret(scope, source, value, (value,))


def service_account(scope: str, source: str, token_uri: str) -> Secret:
    """The key file of a service account of Google's, whose tokens are to be had at a URL."""
    key = generate_private_key(public_exponent=65537, key_size=2048)
    coding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = key.private_bytes(*coding).decode()
    named = {"private_key_id": f"canary-{scope}-key-id/7f3", "private_key": pem, "token_uri": token_uri}
    whose = {
        "type": "service_account",
        "project_id": "aviary",
        "client_email": "wren@canary.example",
        "client_id": "17",
    }
    lines = [line for line in pem.splitlines() if len(line) == 64]
    return Secret(
        scope, source, json.dumps({**whose, **named}, indent=1), (named["private_key_id"], lines[3], lines[-3])
    )


def forms(text: str) -> set[bytes]:
    """A text as programs write it down: itself, in JSON, URLs, HTML, hexadecimal and base64."""
    raw = text.encode()
    in_json = json.dumps(text)[1:-1]
    written = {text, in_json, in_json.replace("/", r"\/"), json.dumps(in_json)[1:-1], repr(text)[1:-1]}
    written |= {
        quote(text, safe=""),
        quote(text),
        quote_plus(text),
        re.sub("%..", lambda found: found[0].lower(), quote(text, safe="")),
    }
    written |= {html.escape(text), html.escape(text).replace("/", "&#x2F;"), raw.hex(), raw.hex().upper()}
    found = {one.encode() for one in written}
    for before in range(3):
        # Of what is encoded together with its neighbours, the digits that are its own.
        digits, first = (before + len(raw)) * 8 // 6, (0, 2, 3)[before]
        for encode in (b64encode, urlsafe_b64encode):
            found.add(encode(bytes(before) + raw)[first:digits])
    return found


class Search:
    """Looks for secrets in bytes."""

    def __init__(self, wanted: Mapping[str, Iterable[str]]) -> None:
        self._forms = [(name, form) for name, texts in wanted.items() for text in texts for form in forms(text)]

    def names(self, data: bytes) -> set[str]:
        """The names of those that stand in the bytes."""
        return {name for name, form in self._forms if form in data}

    def places(self, pieces: Iterable[tuple[str, bytes]]) -> set[tuple[str, str]]:
        """Where which stands, in named pieces."""
        return {(where, name) for where, data in pieces for name in self.names(data)}


def stored(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All that the files of a folder hold: their bytes, and what databases and tables keep in pieces or compressed."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        yield str(path.relative_to(folder)), data
        if data.startswith(b"SQLite format 3"):
            yield f"{path.name} read", _rows(path)
    for log in sorted(folder.rglob("_delta_log")):
        table = DeltaTable(str(log.parent)).to_pyarrow_table()
        yield f"{log.parent.name} read", "\n".join(map(repr, table.to_pylist())).encode()


def _rows(path: Path) -> bytes:
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = []
        for table in tables:
            for row in database.execute(f'SELECT * FROM "{table}"'):
                found += [value if isinstance(value, bytes) else str(value).encode() for value in row]
        return b"\n".join(found)
    finally:
        database.close()


def dumped(url: str) -> Iterator[tuple[str, bytes]]:
    """Every row of every table of a PostgreSQL database, by the name of the table."""
    own = "table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'"
    for schema, table in run(url, f"SELECT table_schema, table_name FROM information_schema.tables WHERE {own}"):
        for row in run(url, f'SELECT * FROM "{schema}"."{table}"'):
            # psycopg2 gives bytea as a view of memory.
            values = (bytes(value) if isinstance(value, memoryview) else str(value).encode() for value in row)
            yield table, b"\n".join(values)


def command_lines() -> list[tuple[str, bytes]]:
    """The command line of every process of this machine, by its number."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append((path.parent.name, path.read_bytes()))
        except OSError:
            continue  # It has ended.
    return found


def environments(root: psutil.Process) -> list[tuple[str, bytes]]:
    """The environment of every process below one, by its command line."""
    children = root.children(recursive=True)
    return [(" ".join(one.cmdline()), Path(f"/proc/{one.pid}/environ").read_bytes()) for one in children]
