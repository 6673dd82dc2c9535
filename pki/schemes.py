"""The kinds of keys that may sign for people and services: make, write down, read back.

One role may list keys of all of them. A signature is checked by the key's own scheme.
"""

from __future__ import annotations

from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurve,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from msgspec import Meta
from securesystemslib.signer import Key, SSlibKey

from embrasure.errors import Refused

Scheme = Literal["ed25519", "ecdsa-p256", "ecdsa-p384", "ml-dsa-65"]
PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey | MLDSA65PrivateKey
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | MLDSA65PublicKey

SCHEMES: tuple[Scheme, ...] = ("ed25519", "ecdsa-p256", "ecdsa-p384", "ml-dsa-65")
_CURVES: dict[str, EllipticCurve] = {"ecdsa-p256": SECP256R1(), "ecdsa-p384": SECP384R1()}
_IN_METADATA: dict[str, Scheme] = {
    "ed25519": "ed25519",
    "ecdsa-sha2-nistp256": "ecdsa-p256",
    "ecdsa-sha2-nistp384": "ecdsa-p384",
    "ml-dsa-65/1": "ml-dsa-65",
}

# Raw Ed25519 and ML-DSA keys, uncompressed points; seeds of 32 bytes, 48 for P-384.
PublicHex = Annotated[
    str, Meta(pattern=r"^([0-9a-f]{64}|04[0-9a-f]{128}|04[0-9a-f]{192}|[0-9a-f]{3904})$")
]
SeedHex = Annotated[str, Meta(pattern=r"^([0-9a-f]{64}|[0-9a-f]{96})$")]


def generate(scheme: Scheme) -> PrivateKey:
    """Return a new private key."""
    if scheme == "ed25519":
        return Ed25519PrivateKey.generate()
    if scheme == "ml-dsa-65":
        return MLDSA65PrivateKey.generate()
    return generate_private_key(_CURVES[scheme])


def scheme_of(key: PrivateKey | PublicKey) -> Scheme:
    """Return the scheme of a key; raises Refused for another curve."""
    if isinstance(key, Ed25519PrivateKey | Ed25519PublicKey):
        return "ed25519"
    if isinstance(key, MLDSA65PrivateKey | MLDSA65PublicKey):
        return "ml-dsa-65"
    if isinstance(key.curve, SECP256R1):
        return "ecdsa-p256"
    if isinstance(key.curve, SECP384R1):
        return "ecdsa-p384"
    raise Refused("key", expected=f"one of {', '.join(SCHEMES)}", got=key.curve.name)


def public_of(private: PrivateKey) -> SSlibKey:
    """Return the public half, with its key id."""
    return SSlibKey.from_crypto(private.public_key())


def raw_public(public: PublicKey) -> bytes:
    """Return the bytes of a public key that a key file and a `.pub` file hold in hex."""
    if isinstance(public, EllipticCurvePublicKey):
        return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return public.public_bytes_raw()


def seed_of(private: PrivateKey) -> bytes:
    """Return the secret that the whole key is made from."""
    if isinstance(private, EllipticCurvePrivateKey):
        size = (private.key_size + 7) // 8
        return private.private_numbers().private_value.to_bytes(size, "big")
    return private.private_bytes_raw()


def from_seed(scheme: Scheme, seed: str) -> PrivateKey:
    """Return the private key of these hex digits; raises Refused."""
    try:
        if scheme == "ed25519":
            return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
        if scheme == "ml-dsa-65":
            return MLDSA65PrivateKey.from_seed_bytes(bytes.fromhex(seed))
        return derive_private_key(int(seed, 16), _CURVES[scheme])
    except ValueError:
        raise Refused("key file", expected=f"a key of {scheme}", got="other bytes") from None


def decode_public(scheme: Scheme, pub: str, keyid: str) -> SSlibKey:
    """Return the public key of these hex digits, whose own id is `keyid`; raises Refused."""
    try:
        found = SSlibKey.from_crypto(_public(scheme, bytes.fromhex(pub)))
    except ValueError:
        raise Refused("public key", expected=f"a key of {scheme}", got="other bytes") from None
    if found.keyid != keyid:
        raise Refused("public key", expected=f"key id {found.keyid[:16]}", got=keyid[:16])
    return found


def key_id(scheme: Scheme, pub: str) -> str:
    """Return the key id of these hex digits; raises Refused."""
    try:
        return str(SSlibKey.from_crypto(_public(scheme, bytes.fromhex(pub))).keyid)
    except ValueError:
        raise Refused("public key", expected=f"a key of {scheme}", got="other bytes") from None


def _public(scheme: Scheme, raw: bytes) -> PublicKey:
    if scheme == "ed25519":
        return Ed25519PublicKey.from_public_bytes(raw)
    if scheme == "ml-dsa-65":
        return MLDSA65PublicKey.from_public_bytes(raw)
    return EllipticCurvePublicKey.from_encoded_point(_CURVES[scheme], raw)


def written(key: Key) -> tuple[Scheme, str]:
    """Return scheme and hex digits of a public key as metadata lists it; raises Refused.

    The way back of `decode_public`, for a key that a token or a key service showed.
    """
    scheme = _IN_METADATA.get(key.scheme)
    if scheme is None:
        raise Refused("public key", expected=f"one of {', '.join(SCHEMES)}", got=key.scheme)
    value = str(key.keyval.get("public", ""))
    if scheme == "ed25519":
        return scheme, value
    try:
        public = load_pem_public_key(value.encode("ascii"))
    except ValueError:
        public = None
    if not isinstance(public, EllipticCurvePublicKey | MLDSA65PublicKey):
        raise Refused("public key", expected=f"a key of {scheme}", got="other bytes")
    if scheme_of(public) != scheme:
        raise Refused("public key", expected=f"a key of {scheme}", got=scheme_of(public))
    return scheme, raw_public(public).hex()
