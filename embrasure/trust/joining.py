"""The one-time token by which a new machine is told from any other, and the proof of its keys.

The token never travels: the node answers with a MAC over its statement, under a key that only the
keyholder's own tool kept. Who relays the answers can withhold them, and nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import struct
from typing import Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust.documents import (
    Base64,
    Digest,
    Document,
    EnvName,
    NodeId,
    Positive,
    Time,
    read,
)

PREFIX = "embrjoin-"  # so that a search for secrets finds one that was left somewhere
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_TOKEN = re.compile(rf"{PREFIX}([a-z2-7]{{26}})")
CHALLENGE_BYTES = 32


class Challenge(Document, frozen=True, kw_only=True):
    """What a node must answer: `sealed` opens with its sealing key alone."""

    v: Literal[1]
    type: Literal["challenge"]
    root: Digest
    env: EnvName
    node: NodeId
    epoch: Positive
    nonce: Digest
    sealed: Base64


class Proof(Document, frozen=True, kw_only=True):
    """A node's answer, signed by its receipt key: it has both keys, now, on this connection.

    opened: what was sealed; gateway: SHA-256 of the certificate of the gateway that it sees;
    statement: SHA-256 of its statement's envelope
    """

    v: Literal[1]
    type: Literal["joining"]
    root: Digest
    env: EnvName
    node: NodeId
    epoch: Positive
    nonce: Digest
    opened: Digest
    gateway: Digest
    statement: Digest
    at: Time


class Answering(Document, frozen=True, kw_only=True):
    """What a node keeps of its token: the MAC over its statement, which is no secret."""

    v: Literal[1]
    type: Literal["join"]
    mac: Digest
    statement: Digest


def new_token() -> str:
    """Return a new token: 130 random bits as text."""
    return PREFIX + "".join(secrets.choice(_LETTERS) for _ in range(26))


def join_key(token: str, *, env: str, node: str) -> bytes:
    """Return the key that `token` means for this one node in this one environment.

    Raises Refused (`bad-token`) for text of another form; the text is never shown.
    """
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise Refused(
            "join token", expected=f"{PREFIX} and 26 letters", got="another form",
            reason="bad-token",
        )  # fmt: skip
    info = _fields("embrasure/join/v1", env, node)
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(found[1].encode("ascii"))


def mac_of(key: bytes, statement: bytes) -> str:
    """Return the MAC over a statement's envelope, 64 hex digits."""
    return hmac.new(key, statement, hashlib.sha256).hexdigest()


def is_mac_of(key: bytes, statement: bytes, mac: str) -> bool:
    """Return whether `mac` was made with `key` over exactly these bytes."""
    return hmac.compare_digest(mac_of(key, statement).encode(), mac.encode("utf-8", "replace"))


def challenge_info(*, root: str, env: str, node: str, epoch: int, nonce: str) -> bytes:
    """Return what a challenge is sealed for: no other challenge opens in its place."""
    return _fields("embrasure/join/challenge/v1", root, env, node, str(epoch), nonce)


def parse_challenge(raw: bytes) -> Challenge:
    """Return the challenge in `raw`; raises Refused."""
    return read(raw, Challenge, limit=limits.CHALLENGE_BYTES, document="challenge")


def parse_proof(raw: bytes) -> Proof:
    """Return the proof in `raw`, a verified payload; raises Refused."""
    return read(raw, Proof, limit=limits.CHALLENGE_BYTES, document="proof of possession")


def parse_answering(raw: bytes) -> Answering:
    """Return what a node kept of its token; raises Refused."""
    return read(raw, Answering, limit=limits.CHALLENGE_BYTES, document="join answer")


def _fields(*texts: str) -> bytes:
    """Return the texts with their lengths in front: no two contexts encode alike."""
    encoded = [text.encode("utf-8") for text in texts]
    return b"".join(struct.pack(">H", len(one)) + one for one in encoded)
