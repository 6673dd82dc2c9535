"""The receipt: what happened on a node, in 256 fixed bytes and a signature. No parser, no text."""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from embrasure import limits
from embrasure.errors import Refused

MAGIC = b"EMBRCPT1"
# magic, scope, seq, zero, plan, manifest, node, prev, body, boot, nonce, rseq, finished,
# took, soaked, epoch, gseq, wave, attempt, kind, outcome, ran, isolation, reason
_LAYOUT = struct.Struct(">8s16sQ8s32s32s16s32s32s16s16sQQIIIIBBBBBBH")
_NODE_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


class Kind(IntEnum):
    """What a receipt reports."""

    STATUS = 0
    HEALTHY = 1
    SOAKED = 2


class Outcome(IntEnum):
    """How it ended."""

    OK = 0
    ROLLED_BACK = 1
    INTERRUPTED = 2
    FAILED = 3
    REFUSED = 4
    HELD = 5
    DEFERRED = 6
    DRIFTED = 7


class Ran(IntEnum):
    """Which content runs now."""

    NONE = 0
    MAIN = 1
    FALLBACK = 2
    PREVIOUS = 3


class Reason(IntEnum):
    """Why it did not come out well; closed, so that no text of a node is ever evidence."""

    NONE = 0
    PROBE = 1
    CRASH_LOOP = 2
    HOOK = 3
    START = 4
    NO_SPACE = 5
    TRUST = 6
    FETCH = 7
    POWER = 8
    NO_TARGET = 9
    INTERNAL = 10
    DRIFT = 11
    NO_SECRET = 12
    NO_CONFIRM = 13
    LATE = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One receipt record. Digests are 32 raw bytes, times Unix seconds."""

    scope: bytes
    seq: int
    plan: bytes
    manifest: bytes
    node: str
    previous: bytes
    body: bytes
    boot: bytes
    nonce: bytes
    rseq: int
    finished: int
    took_s: int
    soaked_s: int
    epoch: int
    gseq: int
    wave: int
    attempt: int
    kind: Kind
    outcome: Outcome
    ran: Ran
    isolation: int
    reason: Reason

    def record(self) -> bytes:
        """Return the 256 bytes that are signed."""
        return _LAYOUT.pack(
            MAGIC, self.scope, self.seq, bytes(8), self.plan, self.manifest, raw_node(self.node),
            self.previous, self.body, self.boot, self.nonce, self.rseq, self.finished, self.took_s,
            self.soaked_s, self.epoch, self.gseq, self.wave, self.attempt, self.kind, self.outcome,
            self.ran, self.isolation, self.reason,
        )  # fmt: skip


def scope_of(*, root: str, env: str, app: str) -> bytes:
    """Return the 16 bytes that bind a receipt to one app of one environment of one fleet."""
    text = "\0".join(("embrasure-scope-v1", root, env, app))
    return hashlib.sha256(text.encode("ascii")).digest()[:16]


def raw_node(node: str) -> bytes:
    """Return the 16 raw bytes of a node id (`n-` and 26 characters of base32)."""
    return base64.b32decode(node[2:].upper() + "======")


def node_id(raw: bytes) -> str:
    """Return the node id of 16 raw bytes."""
    return "n-" + base64.b32encode(raw).decode("ascii").rstrip("=").lower()


def sign_receipt(receipt: Receipt, key: SigningKey) -> bytes:
    """Return the 320 bytes of a signed receipt."""
    record = receipt.record()
    return record + key.sign(record).signature


def key_id(public: bytes) -> str:
    """Return the id of a receipt key: SHA-256 of its 32 raw bytes."""
    return hashlib.sha256(public).hexdigest()


def chain_hash(signed: bytes) -> bytes:
    """Return what the next receipt of the same node carries as `previous`."""
    return hashlib.sha256(signed).digest()


def parse_receipt(signed: bytes, public: bytes) -> Receipt:
    """Return the receipt in `signed` (320 bytes), which the key `public` (32 bytes) signed.

    Raises Refused (`bad-schema`, `bad-signature`). The signature is checked before a field is read.
    """
    if len(signed) != limits.RECEIPT_BYTES or not signed.startswith(MAGIC):
        raise Refused("receipt", expected="320 bytes", got=len(signed), reason="bad-schema")
    record, signature = signed[: limits.RECEIPT_RECORD_BYTES], signed[limits.RECEIPT_RECORD_BYTES :]
    try:
        VerifyKey(public).verify(record, signature)
    except (BadSignatureError, ValueError, TypeError):
        raise Refused(
            "receipt",
            expected=f"a signature of key {key_id(public)[:12]}",
            got="one that does not verify",
            reason="bad-signature",
        ) from None
    return read_record(record)


def read_record(record: bytes) -> Receipt:
    """Return the fields of a 256-byte record whose signature was checked; raises Refused."""
    try:
        (
            magic, scope, seq, zero, plan, manifest, node, previous, body, boot, nonce, rseq,
            finished, took_s, soaked_s, epoch, gseq, wave, attempt, kind, outcome, ran, isolation,
            reason,
        ) = _LAYOUT.unpack(record)  # fmt: skip
        receipt = Receipt(
            scope=scope, seq=seq, plan=plan, manifest=manifest, node=node_id(node),
            previous=previous, body=body, boot=boot, nonce=nonce, rseq=rseq, finished=finished,
            took_s=took_s, soaked_s=soaked_s, epoch=epoch, gseq=gseq, wave=wave, attempt=attempt,
            kind=Kind(kind), outcome=Outcome(outcome), ran=Ran(ran), isolation=isolation,
            reason=Reason(reason),
        )  # fmt: skip
    except (struct.error, ValueError) as problem:
        raise Refused(
            "receipt", expected="its closed fields", got=problem, reason="bad-schema"
        ) from None
    if magic != MAGIC or zero != bytes(8):
        raise Refused("receipt", expected="zero in reserved bytes", got="else", reason="bad-schema")
    return receipt
