"""How a secret is sealed: with a data key of its own, which is wrapped by a master key.

AES-256-GCM both times. What is sealed is bound to its scope, key and version, so that rows of a database cannot be
swapped, or an old one be put back in the place of a new one, without being noticed.
"""

import os
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llmops.errors import BadRequest

KEY_BYTES = 32
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret as it is kept; nothing here tells its value.

    Attributes:
        version: Differs from that of every other secret there is or was.
        master_id: Which master key wraps the data key.
        wrapped: The data key, base64.
        sealed: The value, base64.
    """

    scope: str
    key: str
    version: int
    master_id: str
    wrapped: str
    sealed: str


class MasterKey:
    """One master key.

    Args:
        key: 32 random bytes.

    Attributes:
        id: Names the key without telling it.
    """

    __slots__ = ("_aead", "_key", "id")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._aead = AESGCM(key)
        self.id = sha256(b"llmops master key\0" + key).hexdigest()[:12]

    @classmethod
    def random(cls) -> "MasterKey":
        """A new one."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def read(cls, text: str) -> "MasterKey":
        """Read what `write` gave.

        Raises:
            ValueError: Not the base64 of 32 bytes; the text is not repeated.
        """
        key = b64decode(text, validate=True)
        if len(key) != KEY_BYTES:
            raise ValueError("not 32 bytes")
        return cls(key)

    def write(self) -> str:
        """The key itself, base64: for its file and nothing else."""
        return b64encode(self._key).decode()

    def __repr__(self) -> str:
        return f"MasterKey({self.id})"

    def seal(self, scope: str, key: str, version: int, value: bytes) -> Sealed:
        """Seal a value with a new data key."""
        sealed = Sealed(scope, key, version, self.id, "", "")
        data_key = os.urandom(KEY_BYTES)
        return self.wrap(replace(sealed, sealed=_encrypt(AESGCM(data_key), value, _bound(sealed, "value"))), data_key)

    def open(self, sealed: Sealed) -> bytes:
        """The value.

        Raises:
            BadRequest: The row is not what was sealed.
        """
        return _decrypt(AESGCM(self.unwrap(sealed)), sealed.sealed, _bound(sealed, "value"))

    def wrap(self, sealed: Sealed, data_key: bytes) -> Sealed:
        """The same secret with its data key wrapped by this master key."""
        return replace(sealed, master_id=self.id, wrapped=_encrypt(self._aead, data_key, _bound(sealed, "data key")))

    def unwrap(self, sealed: Sealed) -> bytes:
        """The data key.

        Raises:
            BadRequest: The row is not what was sealed.
        """
        return _decrypt(self._aead, sealed.wrapped, _bound(sealed, "data key"))


def _bound(sealed: Sealed, what: str) -> bytes:
    # No scope and no key holds a slash, so no two secrets are bound to the same bytes.
    return f"llmops secret 1/{what}/{sealed.scope}/{sealed.key}/{sealed.version}".encode()


def _encrypt(aead: AESGCM, plain: bytes, bound: bytes) -> str:
    nonce = os.urandom(_NONCE_BYTES)
    return b64encode(nonce + aead.encrypt(nonce, plain, bound)).decode()


def _decrypt(aead: AESGCM, text: str, bound: bytes) -> bytes:
    try:
        data = b64decode(text, validate=True)
        return aead.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], bound)
    except (InvalidTag, ValueError):
        raise BadRequest("its row in the store is not what was written there; put the secret anew") from None
