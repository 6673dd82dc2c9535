"""A fresh TLS identity: a new P-256 key, made here, and its leaf with the issuer behind it."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from embrasure.clock import Clock
from pki import ca
from pki.ca import Issuer


def fresh_leaf(issuer: Issuer, identity: str, clock: Clock) -> tuple[bytes, bytes]:
    """Return the private key (PEM, PKCS #8) and the chain (PEM, leaf first) of `ROLE/NAME`.

    The key is in the clear, for a service that holds it in memory or in a 0600 file.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = ca.issue_leaf(identity, key.public_key(), issuer, clock)
    return private_pem(key), chain_of(leaf, issuer)


def chain_of(leaf: x509.Certificate, issuer: Issuer) -> bytes:
    """Return leaf and issuer as PEM, in the order in which TLS sends them."""
    return ca.pem(leaf) + ca.pem(issuer.certificate)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a service's TLS key as unencrypted PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
