"""Compressed answers, unpacked here: an HTTP client would make gigabytes of a few megabytes before anybody looks."""

import zlib

from llmops.errors import UpstreamMalformed

#: What an upstream may be asked for.
ACCEPTED = "gzip"
_GZIP_BITS = 16 + zlib.MAX_WBITS


def unpack(body: bytes, encoding: str, most: int, who: str) -> bytes:
    """Unpack a whole body.

    Args:
        encoding: Of its header ``content-encoding``.
        most: Bytes that are taken.
        who: The served entity, for messages.

    Raises:
        UpstreamMalformed: It is larger, broken, or packed in a way that was not asked for.
    """
    if not body or encoding == "identity":
        return body
    if encoding.lower() not in (ACCEPTED, "x-gzip"):
        raise UpstreamMalformed(f"{who} answered with content encoding {encoding[:60]!r}, which was not asked for")
    unpacker = zlib.decompressobj(_GZIP_BITS)
    try:
        unpacked = unpacker.decompress(body, most + 1)
    except zlib.error:
        raise UpstreamMalformed(f"{who} answered with gzip that cannot be unpacked") from None
    if len(unpacked) > most:
        raise too_large(most, who)
    if not unpacker.eof:
        raise UpstreamMalformed(f"{who} broke off in the middle of its compressed answer")
    return unpacked


def too_large(most: int, who: str) -> UpstreamMalformed:
    """The error of an answer beyond what is taken."""
    return UpstreamMalformed(f"{who} answered with more than {most} bytes; that is not taken")
