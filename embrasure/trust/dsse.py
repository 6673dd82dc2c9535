"""Typed signatures over statements: DSSE v1, exactly one signature, parsed only after it verifies.

Source: github.com/secure-systems-lab/dsse, protocol.md and envelope.md (v1.0.2).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Literal

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, Signature, Signer

from embrasure.errors import Refused
from embrasure.trust.documents import Base64, Digest, Document, read, write


class _Signature(Document, frozen=True, kw_only=True):
    keyid: Digest
    sig: Base64


class Envelope(Document, frozen=True, kw_only=True):
    """A DSSE envelope with one signature."""

    payload: Base64
    payloadType: str  # noqa: N815 - the name is DSSE's
    signatures: tuple[_Signature]


Type = Literal[
    "order",
    "approval",
    "enrolment",
    "enrolled",
    "joining",
    "post",
    "audit",
    "login",
    "possession",
    "refusal",
    "transcript",
]


def payload_type(kind: Type) -> str:
    """Return the media type that a signature over a statement of `kind` commits to."""
    return f"application/vnd.embrasure.{kind}.v1+json"


def pae(kind: Type, payload: bytes) -> bytes:
    """Return the bytes that are signed (DSSE pre-authentication encoding)."""
    name = payload_type(kind).encode("ascii")
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)


def seal(kind: Type, payload: bytes, signer: Signer) -> bytes:
    """Return an envelope over `payload`, signed by `signer`."""
    signature = signer.sign(pae(kind, payload))
    return write(
        Envelope(
            payload=base64.b64encode(payload).decode("ascii"),
            payloadType=payload_type(kind),
            signatures=(
                _Signature(
                    keyid=signer.public_key.keyid,
                    sig=base64.b64encode(bytes.fromhex(signature.signature)).decode("ascii"),
                ),
            ),
        )
    )


def unseal(kind: Type, raw: bytes, keys: Mapping[str, Key], *, limit: int) -> tuple[bytes, str]:
    """Return payload and key id of an envelope that one of `keys` signed.

    keys: by key id; limit: bytes of the envelope. Raises Refused (`bad-schema`, `bad-signature`).
    """
    envelope = read(raw, Envelope, limit=limit, document=f"{kind} envelope")
    found = envelope.signatures[0]
    key = keys.get(found.keyid)
    if envelope.payloadType != payload_type(kind):
        raise Refused(
            f"{kind} envelope",
            expected=payload_type(kind),
            got=envelope.payloadType,
            reason="bad-signature",
        )
    if key is None:
        raise Refused(
            f"{kind} envelope", expected="a known key", got=found.keyid, reason="bad-signature"
        )
    try:
        payload = base64.b64decode(envelope.payload, validate=True)
        signature = base64.b64decode(found.sig, validate=True).hex()
        key.verify_signature(Signature(key.keyid, signature), pae(kind, payload))
    except (binascii.Error, ValueError, UnverifiedSignatureError, VerificationError):
        raise Refused(
            f"{kind} envelope",
            expected=f"a signature of key {found.keyid[:12]}",
            got="one that does not verify",
            reason="bad-signature",
        ) from None
    return payload, key.keyid
