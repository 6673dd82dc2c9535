"""The node directory, the TLS trust bundle, and the statement by which a node asks to be listed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from msgspec import Meta

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust.documents import (
    AppName,
    Count,
    Digest,
    Document,
    EnvName,
    KeyId,
    Labels,
    NodeId,
    PersonId,
    Positive,
    Time,
    read,
)

Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
# One certificate: DER in base64. PEM has line breaks, and its readers skip garbage.
Der = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]+={0,2}$", max_length=8192)]


class ReceiptKey(Document, frozen=True, kw_only=True):
    """An Ed25519 public key (64 hex digits); its id is the SHA-256 of the raw key."""

    key: Hex32
    epoch: Positive


SealSuite = Literal["x25519", "mlkem768x25519"]
# Raw bytes of a public key. The hybrid one is ML-KEM's encapsulation key, then X25519's.
SEAL_KEY_BYTES: Mapping[str, int] = MappingProxyType({"x25519": 32, "mlkem768x25519": 1184 + 32})


class SealKey(Document, frozen=True, kw_only=True):
    """The key that secrets for one recipient are sealed to (RFC 9180), in hex digits."""

    suite: SealSuite
    key: Annotated[str, Meta(pattern=r"^[0-9a-f]+$", max_length=2 * 1216)]
    epoch: Positive

    def __post_init__(self) -> None:
        """Raises ValueError, which a reader turns into Refused, for a key of another length."""
        if len(self.key) != 2 * SEAL_KEY_BYTES[self.suite]:
            raise ValueError(f"a key of {SEAL_KEY_BYTES[self.suite]} bytes for {self.suite}")

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the raw key, by which people compare it."""
        return hashlib.sha256(bytes.fromhex(self.key)).hexdigest()


class Entry(Document, frozen=True, kw_only=True):
    """One node: the only source of its labels and keys, never the node's own claim."""

    id: NodeId
    env: EnvName
    state: Literal["active", "retired"]
    epoch: Positive
    labels: Labels
    mode: Literal["push", "pull"]
    tls_name: Annotated[str, Meta(pattern=r"^[a-z0-9.-]{1,253}$")] | None
    boot_cert: Digest | None
    receipt: ReceiptKey
    hpke: SealKey

    @property
    def receipt_id(self) -> str:
        """The id by which plans name this node's receipt key."""
        return hashlib.sha256(bytes.fromhex(self.receipt.key)).hexdigest()


class Shard(Document, frozen=True, kw_only=True):
    """The entries whose SHA-256 of the id starts with this shard's bits."""

    v: Literal[1]
    type: Literal["directory"]
    root: Digest
    env: EnvName
    shard: Annotated[str, Meta(pattern=r"^[0-9a-f]{2}$")]
    entries: tuple[Entry, ...]


class TlsBundle(Document, frozen=True, kw_only=True):
    """Who may speak TLS for which role: the CA root and each role's issuers."""

    v: Literal[1]
    type: Literal["tls"]
    root: Digest
    env: EnvName
    domain: Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
    ca_root: Annotated[tuple[Der, ...], Meta(min_length=1, max_length=2)]
    issuers: dict[
        Literal["gateway", "admin", "node", "mirror", "operator"],
        Annotated[tuple[Der, ...], Meta(min_length=1, max_length=2)],
    ]
    gateways: Annotated[tuple[PersonId, ...], Meta(max_length=16)]


class Recovery(Document, frozen=True, kw_only=True):
    """The offline recipient of every secret of an environment, named by the security team."""

    v: Literal[1]
    type: Literal["recovery"]
    root: Digest
    env: EnvName
    hpke: SealKey


class Statement(Document, frozen=True, kw_only=True):
    """What a new node says of itself; carried to the security team, signed by its receipt key."""

    v: Literal[1]
    type: Literal["enrolment"]
    root: Digest
    env: EnvName
    node: NodeId
    mode: Literal["push", "pull"]
    epoch: Positive
    receipt: ReceiptKey
    hpke: SealKey
    boot_cert: Der | None
    at: Time


class Floors(Document, frozen=True, kw_only=True):
    """Versions below which a fresh node refuses metadata."""

    root: Positive
    targets: Count
    fleet: Count
    revocations: Count
    seq: dict[AppName, Count]
    time: Time


class Enrolled(Document, frozen=True, kw_only=True):
    """The answer carried back to a new node: first floors, trust bundle, its TLS chain."""

    v: Literal[1]
    type: Literal["enrolled"]
    root: Digest
    env: EnvName
    node: NodeId
    epoch: Positive
    floors: Floors
    tls: TlsBundle
    chain: Annotated[tuple[Der, ...], Meta(max_length=2)]


class ApprovalStatement(Document, frozen=True, kw_only=True):
    """What a person said about one version of an approval role: evidence beside the signature."""

    v: Literal[1]
    type: Literal["approval"]
    root: Digest
    env: EnvName
    app: AppName
    role_version: Positive
    role_sha256: Digest
    plan: Digest
    manifest: Digest
    decision: Literal["propose", "approve", "reject", "withdraw"]
    key: KeyId
    person: PersonId
    comment: Annotated[str, Meta(max_length=limits.COMMENT_CHARACTERS)]
    at: Time
    valid_until: Time
    policy: Digest
    diff: Digest


def shard_of(node: str, shards: int) -> str:
    """Return the name of the shard that lists `node`: 2 hex digits.

    shards: 1, 16, 64 or 256. Source: docs/formats.md, node directory.
    """
    return f"{hashlib.sha256(node.encode('ascii')).digest()[0] * shards // 256:02x}"


def shard_names(shards: int) -> list[str]:
    """Return the names of all shards."""
    return [f"{number:02x}" for number in range(shards)]


def parse_shard(raw: bytes) -> Shard:
    """Return the directory shard in `raw`; raises Refused."""
    shard = read(raw, Shard, limit=limits.SHARD_BYTES, document="directory")
    ids = [entry.id for entry in shard.entries]
    keys = {entry.receipt.key for entry in shard.entries}
    if ids != sorted(set(ids)) or len(keys) != len(ids):
        raise Refused(
            "directory", expected="each node and key once, sorted", got="else", reason="bad-schema"
        )
    if any(entry.env != shard.env for entry in shard.entries):
        raise Refused(
            "directory", expected=f"nodes of {shard.env}", got="others", reason="bad-schema"
        )
    return shard


def parse_tls_bundle(raw: bytes) -> TlsBundle:
    """Return the TLS trust bundle in `raw`; its certificates are checked by `embrasure.net`."""
    return read(raw, TlsBundle, limit=limits.TLS_BUNDLE_BYTES, document="tls bundle")


def parse_recovery(raw: bytes) -> Recovery:
    """Return the recovery recipient in `raw`; raises Refused."""
    return read(raw, Recovery, limit=limits.RECOVERY_BYTES, document="recovery recipient")


def parse_statement(raw: bytes) -> Statement:
    """Return the enrolment statement in `raw`, a verified payload; raises Refused."""
    return read(raw, Statement, limit=limits.STATEMENT_BYTES, document="enrolment statement")


def parse_enrolled(raw: bytes) -> Enrolled:
    """Return the enrolment answer in `raw`, a verified payload; raises Refused."""
    return read(raw, Enrolled, limit=limits.ENROLMENT_BYTES, document="enrolment answer")


def parse_approval(raw: bytes) -> ApprovalStatement:
    """Return the approval statement in `raw`, a verified payload; raises Refused."""
    return read(raw, ApprovalStatement, limit=limits.STATEMENT_BYTES, document="approval statement")
