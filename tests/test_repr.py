"""What holds a secret shows none of it: not in a traceback, not in a log line, not where somebody prints it."""

from base64 import b64encode
from pathlib import Path
from typing import Any

from llmops.client import Client
from llmops.endpoints.access import Access
from llmops.endpoints.importers.foreign import Harvest, Part
from llmops.endpoints.master_keys import MasterKeys
from llmops.endpoints.plaintext_keys import PlaintextKeys
from llmops.endpoints.secret_seal import MasterKey
from llmops.endpoints.secrets import Secrets
from llmops.providers.openai_compatible import Place
from llmops.providers.veil import Veil
from llmops.settings import ClientSettings, Settings
from routes.auth import Doorkeeper
from tests.canaries import Search
from tests.endpoints.secret_stores import opened

CANARY = "canary-of-thirty-two-bytes-here!"
_URL = f"postgresql://user:{CANARY}@127.0.0.1:9/db"


def _holders(folder: Path) -> list[object]:
    """One of each thing that is made with a secret in it."""
    settings = Settings(
        folder,
        token=CANARY,
        internal_key=CANARY,
        database_url=_URL,
        redis_url=_URL,
        tables_uri=_URL,
        mlflow_tracking_uri=_URL,
    )
    store, key = opened(folder), MasterKey(CANARY.encode())
    document: Any = {"external_model": {"openai_config": {"openai_api_key_plaintext": CANARY}}}
    taken = PlaintextKeys(store).take({"name": "e", "config": {"served_entities": [document]}})
    store.keep("s", taken.values)
    reference = f"{{{{secrets/s/{next(iter(taken.values))}}}}}"
    secrets = Secrets(None, store)
    assert secrets.get(reference) == CANARY
    client = ClientSettings("http://127.0.0.1:9", CANARY)
    place = Place("http://127.0.0.1:9", {"authorization": f"Bearer {CANARY}"}, Veil([CANARY]))
    harvest = Harvest()
    harvest.reference(CANARY, "a.b", "openai")
    bare = Settings(folder, token=CANARY)
    return [
        *(settings, client, Client(client), place, place.veil, taken, store, key, secrets),
        *(harvest, Part({"api_key": CANARY}, "a", harvest)),
        *(MasterKeys(folder / "k", b64encode(CANARY.encode()).decode()), Doorkeeper(bare, Access.open(bare))),
    ]


def test_no_holder_of_a_secret_shows_it(tmp_path: Path) -> None:
    search = Search({"canary": [CANARY]})

    for holder in _holders(tmp_path):
        assert search.names(f"{holder!r} {holder} {[holder]}".encode()) == set(), type(holder)
