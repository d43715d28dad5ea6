"""What the errors of Delta tables mean to the one who must act: one line, without addresses that may hold a key."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError, DeltaProtocolError

from llmops.errors import Conflict, Unavailable

_WHY = (
    (r"os error 28|No space left|StorageFull|quota", "the disk is full; free some space"),
    (r"os error 30|Read-only file system", "the file system is read-only; make it writable"),
    (r"os error 20|Not a directory", "a file lies where a directory is needed; move it away"),
    (
        r"os error 13|Permission denied|AccessDenied|\b403\b|Forbidden|Unauthorized|\b401\b|InvalidAccessKeyId"
        r"|SignatureDoesNotMatch|credentials|IMDS",
        "access is denied; check the credentials in the environment of the server and the rights on the place",
    ),
    (r"NoSuchBucket|ContainerNotFound|bucket does not exist", "the bucket or container does not exist; create it"),
    (r"Connect|error sending request|timed out|timeout|dns", "the store cannot be reached; check the network"),
)
_LONGEST = 200


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what delta-rs, Arrow and the system say about a table into a line that says what to do.

    Raises:
        Unavailable: It may work later.
        Conflict: Something demands of its writers what this one cannot do.
    """
    try:
        yield
    except CommitFailedError as err:
        raise Unavailable(f"table {uri}: somebody else is changing it; it is tried again") from err
    except DeltaProtocolError as err:
        raise Conflict(f"table {uri}: its features need another writer ({_line(str(err))})") from err
    except (DeltaError, OSError, pa.ArrowException) as err:
        raise Unavailable(f"table {uri}: {_why(str(err))}") from err


def _why(text: str) -> str:
    known = (why for pattern, why in _WHY if re.search(pattern, text, re.IGNORECASE))
    return next(known, None) or _line(text)


def _line(text: str) -> str:
    """A library's message in one line, without colours, and without what follows a question mark in an address."""
    plain = re.sub(r"\x1b\[[0-9;]*m|[↳╰─>│]", "", text)
    bare = re.sub(r"\?\S*", "", " ".join(plain.split()))
    return bare if len(bare) <= _LONGEST else f"{bare[:_LONGEST]}…"
