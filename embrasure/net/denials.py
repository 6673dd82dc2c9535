"""Who must not speak TLS, whatever his certificate says: out of the policy and the revocations.

A denial names a public key, not a certificate: whoever certifies the same key again lifts nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from embrasure import limits
from embrasure.trust.denied import DeniedSets
from embrasure.trust.documents import Digest, Document, EnvName, NodeId, read, write

if TYPE_CHECKING:
    from cryptography import x509


@dataclass(frozen=True, slots=True)
class TlsDenials:
    """SHA-256 (hex) of the public keys of gateway leaves and of issuers, and ids of nodes."""

    gateway_certs: frozenset[str] = frozenset()
    issuers: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()

    def joined(self, other: TlsDenials) -> TlsDenials:
        """Return what either denies."""
        return TlsDenials(
            self.gateway_certs | other.gateway_certs,
            self.issuers | other.issuers,
            self.nodes | other.nodes,
        )


NOTHING = TlsDenials()


class _Kept(Document, frozen=True, kw_only=True):
    """The file by which the process that verifies tells the one that listens; not signed."""

    v: Literal[1]
    type: Literal["tls-denials"]
    root: Digest
    env: EnvName
    gateway_certs: tuple[Digest, ...]
    issuers: tuple[Digest, ...]
    nodes: tuple[NodeId, ...]


def tls_denials(denied: DeniedSets) -> TlsDenials:
    """Return the part of `denied` that TLS obeys."""
    return TlsDenials(denied.gateway_certs, denied.issuers, denied.nodes)


def write_denials(denials: TlsDenials, *, root: str, env: str) -> bytes:
    """Return the file that says `denials`."""
    return write(
        _Kept(
            v=1,
            type="tls-denials",
            root=root,
            env=env,
            gateway_certs=tuple(sorted(denials.gateway_certs)),
            issuers=tuple(sorted(denials.issuers)),
            nodes=tuple(sorted(denials.nodes)),
        )
    )


def read_denials(raw: bytes) -> TlsDenials:
    """Return what the file `raw` denies; raises Refused."""
    found = read(raw, _Kept, limit=limits.FLOORS_BYTES, document="TLS denials")
    return TlsDenials(
        frozenset(found.gateway_certs), frozenset(found.issuers), frozenset(found.nodes)
    )


def key_digest(cert: x509.Certificate) -> str:
    """Return the SHA-256 of the certificate's public key (SubjectPublicKeyInfo, DER), in hex.

    The same as `openssl x509 -pubkey | openssl pkey -pubin -outform der | sha256sum`.
    """
    # Here: an apply that starts again writes and reads denials, and looks at no certificate.
    from cryptography.hazmat.primitives import serialization

    spki = cert.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()
