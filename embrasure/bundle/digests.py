"""A blob's name is the SHA-256 of its bytes: names and bytes are checked here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection

from embrasure.errors import Refused
from embrasure.trust.layout import DIGEST

_OTHER = re.compile(r"[^0-9a-f]")


def check_digest(digest: str) -> str:
    """Return `digest` when it is 64 lower-case hex digits; raises Refused (`bad-path`)."""
    if not DIGEST.fullmatch(digest):
        raise Refused("blob", expected="64 hex digits", got=digest, reason="bad-path")
    return digest


def check_digests(digests: Collection[str]) -> None:
    """Return only when each is a digest, with one look at all: a release has thousands."""
    many = "".join(digests)
    if set(map(len, digests)) - {64} or _OTHER.search(many):
        for digest in digests:
            check_digest(digest)


def check_bytes(digest: str, data: bytes | memoryview) -> None:
    """Return only when `digest` is the SHA-256 of `data`; raises Refused (`bad-hash`)."""
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise Refused(f"blob {digest}", expected="the bytes of its name",
                      got=f"bytes of {found}", reason="bad-hash")  # fmt: skip
