"""An ECDSA P-256 signer as the private key of certificates and of TLS, wherever it lies."""

from __future__ import annotations

from typing import NoReturn

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from securesystemslib.signer import Key, Signer

from embrasure.errors import Denied, EmbrasureError, Refused

Buffer = bytes | bytearray | memoryview


class SignerKey(ec.EllipticCurvePrivateKey):
    """An ECDSA P-256 signer as the private key of a certificate authority."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._public = p256_of(signer.public_key)

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Return a DER signature over `data`; SHA-256 only, and never over a bare digest."""
        algorithm = signature_algorithm.algorithm
        if isinstance(algorithm, Prehashed) or not isinstance(algorithm, hashes.SHA256):
            raise Refused("certificate key", expected="SHA-256 over the data", got="another form")
        return bytes.fromhex(self._signer.sign(bytes(data)).signature)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public half."""
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve, P-256."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """Bits of the key."""
        return self._public.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """Raises: this key signs certificates and does nothing else."""
        raise _only_signs()

    def private_numbers(self) -> NoReturn:
        """Raises: key bytes stay behind the signer."""
        raise _only_signs()

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> NoReturn:
        """Raises: key bytes stay behind the signer."""
        raise _only_signs()

    def __copy__(self) -> SignerKey:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> SignerKey:
        return self


def p256_of(key: Key) -> ec.EllipticCurvePublicKey:
    """Return a public key as metadata lists it for a certificate; raises Refused unless P-256."""
    if key.scheme != "ecdsa-sha2-nistp256":
        raise Refused("certificate key", expected="ECDSA P-256", got=key.scheme)
    public = serialization.load_pem_public_key(str(key.keyval["public"]).encode("ascii"))
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise Refused("certificate key", expected="ECDSA P-256", got=type(public).__name__)
    return public


def _only_signs() -> EmbrasureError:
    return Denied("certificate key", expected="to sign only", got="a call for its bytes")
