"""A caller's TLS key that signs where it lies, in a token: the handshake asks for a signature."""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from embrasure.errors import Refused
from embrasure.net.certificates import load_certificates

LOG = getLogger(__name__)

ECDSA_P256_SHA256 = 3  # gRPC's number of the one algorithm that our leaves use (a test compares)
HandshakeSigner = Callable[[bytes, int, object], bytes]


def check_held(key: ec.EllipticCurvePrivateKey, chain_pem: bytes) -> None:
    """Return only when the chain's leaf is for `key`, which is P-256; raises Refused (`pair`)."""
    leaf = load_certificates(chain_pem, what="TLS certificate")[0]
    if not isinstance(key.curve, ec.SECP256R1) or key.public_key() != leaf.public_key():
        raise Refused(
            "TLS key", expected="the key of its certificate", got="another key", reason="pair"
        )


def handshake_signer(key: ec.EllipticCurvePrivateKey) -> HandshakeSigner:
    """Return what gRPC calls, once a handshake and on a thread of its own.

    It signs with ECDSA P-256 and SHA-256 or not at all; raising ends the handshake.
    """

    def sign(data: bytes, algorithm: int, done: object) -> bytes:
        try:
            if int(algorithm) != ECDSA_P256_SHA256:
                raise Refused("TLS handshake", expected="ECDSA P-256 SHA-256", got=int(algorithm))
            return key.sign(data, ec.ECDSA(hashes.SHA256()))
        except Exception as problem:
            # gRPC says only that the handshake failed.
            LOG.error("the TLS key did not sign: %s", problem)
            raise

    return sign
