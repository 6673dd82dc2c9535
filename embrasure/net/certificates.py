"""Certificates and keys as bytes: read whole or refused; gRPC takes the good half of a bad file."""

from __future__ import annotations

import base64
import re
import warnings

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.verification import VerificationError

from embrasure import limits
from embrasure.errors import Refused

# What `cryptography` raises for bytes of others: not all of it is a ValueError (found by fuzzing).
UNREADABLE: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)
# The same, and what a signature or a chain that does not hold is told by.
UNTRUE: tuple[type[Exception], ...] = (*UNREADABLE, InvalidSignature, VerificationError)
# Such a certificate is refused here, where the library so far only warns, on stderr.
warnings.filterwarnings("ignore", "Parsed a serial number", CryptographyDeprecationWarning)
_PEM = re.compile(
    rb"(?:-----BEGIN CERTIFICATE-----\n(?:[A-Za-z0-9+/=]{1,76}\n)+-----END CERTIFICATE-----\n)+"
)


def pem_of(cert: x509.Certificate) -> bytes:
    """Return `cert` as PEM."""
    return cert.public_bytes(serialization.Encoding.PEM)


def load_certificates(pem: bytes, *, what: str) -> tuple[x509.Certificate, ...]:
    """Return every certificate of `pem`, which holds nothing else; raises Refused (`pem`).

    Bounds first: at most limits.TLS_BUNDLE_BYTES.
    """
    if len(pem) > limits.TLS_BUNDLE_BYTES:
        raise _refused(what, f"at most {limits.TLS_BUNDLE_BYTES} bytes", len(pem))
    if not _PEM.fullmatch(pem):
        raise _refused(what, "certificates in PEM and nothing else", "other bytes")
    try:
        return tuple(_numbered(found) for found in x509.load_pem_x509_certificates(pem))
    except UNREADABLE as problem:
        raise _refused(what, "certificates that parse", problem) from None


def load_der(text: str, *, what: str) -> x509.Certificate:
    """Return the one certificate whose DER is `text` in base64; raises Refused (`pem`)."""
    try:
        raw = base64.b64decode(text, validate=True)
        return _numbered(x509.load_der_x509_certificate(raw))
    except UNREADABLE as problem:
        raise _refused(what, "one certificate", problem) from None


def load_shown(der: bytes | None, *, who: str) -> x509.Certificate:
    """Return the certificate that the peer `who` showed; raises Refused (`certificate`)."""
    try:
        return _numbered(x509.load_der_x509_certificate(der or b""))
    except UNREADABLE as problem:
        raise Refused(who, expected="a certificate", got=problem, reason="certificate") from None


def _numbered(found: x509.Certificate) -> x509.Certificate:
    """Return `found`; raises ValueError for a serial number that RFC 5280 4.1.2.2 forbids."""
    if found.serial_number < 1:
        raise ValueError("its serial number is not positive")
    return found


def load_key(pem: bytes, *, what: str) -> ec.EllipticCurvePrivateKey:
    """Return the P-256 key of `pem`, which is not encrypted; raises Refused (`pem`).

    Ed25519 keys are refused here: gRPC fails with them on both sides, without a word.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The text of the parser may quote the key: it is not passed on.
        raise _refused(what, "one private key in PEM", "bytes that do not parse") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _refused(what, "a P-256 key", type(key).__name__)
    return key


def check_pair(key_pem: bytes, chain_pem: bytes, *, what: str) -> x509.Certificate:
    """Return the leaf of `chain_pem` when `key_pem` is its key; raises Refused (`pem`, `pair`).

    gRPC says only that it failed to bind.
    """
    leaf = load_certificates(chain_pem, what=f"{what} certificate")[0]
    if load_key(key_pem, what=f"{what} key").public_key() != leaf.public_key():
        raise Refused(
            f"{what} key", expected="the key of its certificate", got="another key", reason="pair"
        )
    return leaf


def _refused(what: str, expected: str, got: object) -> Refused:
    return Refused(what, expected=expected, got=got, reason="pem")
