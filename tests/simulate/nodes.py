"""Nodes and people for tests: real keys in memory, real entries, real receipts."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from nacl.signing import SigningKey
from securesystemslib.signer import CryptoSigner

from embrasure.secret.keys import OpeningKey
from embrasure.trust.directory import Entry, ReceiptKey
from embrasure.trust.documents import digest
from embrasure.trust.plan import NamedNode, Plan
from embrasure.trust.receipt import (
    Kind,
    Outcome,
    Ran,
    Reason,
    Receipt,
    key_id,
    node_id,
    scope_of,
    sign_receipt,
)


@dataclass(frozen=True, slots=True)
class SimPerson:
    """A person with one Ed25519 key."""

    id: str
    signer: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)

    @property
    def key(self) -> str:
        """The id of this person's key."""
        return self.signer.public_key.keyid


def fixed_node_id(number: int) -> str:
    """Return the same node id for the same number in every run (waves depend on ids)."""
    return node_id(hashlib.sha256(f"sim-node-{number}".encode()).digest()[:16])


@dataclass(slots=True, kw_only=True)
class SimNode:
    """A node of the directory, with its private keys."""

    id: str
    env: str = "dev"
    labels: Mapping[str, str] = field(default_factory=dict)
    mode: Literal["push", "pull"] = "push"
    state: Literal["active", "retired"] = "active"
    epoch: int = 1
    tls_name: str | None = None
    boot_cert: str | None = None
    signing: SigningKey = field(default_factory=SigningKey.generate)
    seal: OpeningKey = field(default_factory=lambda: OpeningKey.generate())
    rseq: int = 0

    @property
    def receipt_public(self) -> bytes:
        """The raw public receipt key."""
        return bytes(self.signing.verify_key)

    @property
    def receipt_id(self) -> str:
        """The id of the receipt key, as denials and the letterbox name it."""
        return key_id(self.receipt_public)

    def named(self) -> NamedNode:
        """Return this node as a plan names it."""
        return NamedNode(id=self.id, key=self.receipt_public.hex())

    def entry(self) -> Entry:
        """Return this node's entry of the directory."""
        return Entry(
            id=self.id,
            env=self.env,
            state=self.state,
            epoch=self.epoch,
            labels=dict(self.labels),
            mode=self.mode,
            tls_name=self.tls_name,
            boot_cert=self.boot_cert,
            receipt=ReceiptKey(key=self.receipt_public.hex(), epoch=self.epoch),
            hpke=self.seal.public(epoch=self.epoch),
        )

    def receipt(self, plan: Plan, wave: int, *, at: datetime, **changes: Any) -> bytes:
        """Return 320 bytes: this node soaked `plan` in `wave`, unless `changes` say otherwise."""
        self.rseq += 1
        honest = Receipt(
            scope=scope_of(root=plan.root, env=plan.env, app=plan.app),
            seq=plan.seq,
            plan=bytes.fromhex(digest(plan)),
            manifest=bytes.fromhex(plan.manifest.sha256),
            node=self.id,
            previous=bytes(32),
            body=bytes(32),
            boot=bytes(16),
            nonce=secrets.token_bytes(16),
            rseq=self.rseq,
            finished=int(at.astimezone(UTC).timestamp()),
            took_s=1,
            soaked_s=plan.waves[wave].soak_s,
            epoch=self.epoch,
            gseq=1,
            wave=wave,
            attempt=1,
            kind=Kind.SOAKED,
            outcome=Outcome.OK,
            ran=Ran.MAIN,
            isolation=0,
            reason=Reason.NONE,
        )
        return sign_receipt(replace(honest, **changes), self.signing)
