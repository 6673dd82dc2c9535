"""The gate: how far a plan is open, with the receipts that prove it, signed by the gateway."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from embrasure import limits
from embrasure.errors import NotSupported, Refused
from embrasure.trust.documents import (
    AppName,
    Count,
    Digest,
    Document,
    EnvName,
    Positive,
    Time,
    check_unused,
    read,
)


class SignedReceipt(Document, frozen=True, kw_only=True):
    """One receipt record (base64 of 256 bytes) and its signature (base64 of 64 bytes)."""

    r: Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{342}==$")]
    s: Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{86}==$")]


class WaveEvidence(Document, frozen=True, kw_only=True):
    """The receipts of one earlier wave."""

    wave: Annotated[int, Meta(ge=0, lt=limits.WAVES)]
    receipts: Annotated[tuple[SignedReceipt, ...], Meta(max_length=limits.NAMED_NODES)]


class AfterEvidence(Document, frozen=True, kw_only=True):
    """The receipts of another app."""

    after: Count
    receipts: Annotated[tuple[SignedReceipt, ...], Meta(max_length=limits.NAMED_NODES)]


class Gate(Document, frozen=True, kw_only=True):
    """Wave `open_wave` of a plan, and every earlier one, is open, paused or stopped."""

    v: Literal[1]
    type: Literal["gate"]
    root: Digest
    env: EnvName
    app: AppName
    plan: Digest
    seq: Positive
    gseq: Positive
    state: Literal["open", "paused", "halted", "fallback", "done"]
    open_wave: Annotated[int, Meta(ge=0, lt=limits.WAVES)]
    attempt: Annotated[int, Meta(ge=1, le=limits.MAX_ATTEMPTS)]
    evidence: Annotated[tuple[WaveEvidence, ...], Meta(max_length=limits.WAVES)]
    after_evidence: Annotated[tuple[AfterEvidence, ...], Meta(max_length=limits.AFTER)]
    issued: Time
    audit_head: Digest
    code: Annotated[str, Meta(pattern=r"^[a-z_]{0,40}$")]
    reason: Annotated[str, Meta(max_length=limits.REASON_CHARACTERS)]


def parse_gate(raw: bytes) -> Gate:
    """Return the gate in `raw`; raises Refused, NotSupported."""
    gate = read(raw, Gate, limit=limits.GATE_BYTES, document="gate")
    check_unused("gate", after_evidence=gate.after_evidence)
    if gate.state == "fallback":
        raise NotSupported("gate", expected="no state `fallback`", got=gate.state)
    waves = [item.wave for item in gate.evidence]
    if waves != sorted(set(waves)):
        raise Refused(
            "gate", expected="each wave's evidence once, in order", got=waves, reason="bad-schema"
        )
    return gate
