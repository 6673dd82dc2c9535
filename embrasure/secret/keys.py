"""Sealing keys (RFC 9180): two suites, raw parts in hex, one file key sealed or opened at a time.

The suite is always the recipient's own: no sealed file can talk a hybrid key down to X25519.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from embrasure.errors import Refused
from embrasure.trust.directory import SealKey, SealSuite

DEFAULT: SealSuite = "mlkem768x25519"
FILE_KEY_BYTES = 32
_X25519_BYTES, _MLKEM_SEED_BYTES, _MLKEM_PUBLIC_BYTES = 32, 64, 1184
_SUITES = {
    "x25519": Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305),
    "mlkem768x25519": Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305),
}
# Bytes of the key's own encapsulation, then the sealed file key with its tag.
SEALED_BYTES = {"x25519": 32 + 48, "mlkem768x25519": 1088 + 32 + 48}


@dataclass(frozen=True, slots=True)
class OpeningKey:
    """The private half. raw: X25519's 32 bytes; hybrid: ML-KEM's 64-byte seed in front of them."""

    suite: SealSuite
    raw: bytes = field(repr=False)

    @classmethod
    def generate(cls, suite: SealSuite = DEFAULT) -> OpeningKey:
        """Return a new key."""
        length = _X25519_BYTES + (_MLKEM_SEED_BYTES if suite == "mlkem768x25519" else 0)
        return cls(suite, secrets.token_bytes(length))

    @classmethod
    def from_hex(cls, text: str) -> OpeningKey:
        """Return the key of these hex digits, its suite told by their number; raises ValueError."""
        raw = bytes.fromhex(text)
        if len(raw) == _X25519_BYTES:
            return cls("x25519", raw)
        if len(raw) == _MLKEM_SEED_BYTES + _X25519_BYTES:
            return cls("mlkem768x25519", raw)
        raise ValueError("a key of 32 or 96 bytes")

    def public(self, *, epoch: int) -> SealKey:
        """Return the public half, as the directory names it."""
        x25519 = X25519PrivateKey.from_private_bytes(self.raw[-_X25519_BYTES:]).public_key()
        raw = x25519.public_bytes_raw()
        if self.suite == "mlkem768x25519":
            raw = self._mlkem().public_key().public_bytes_raw() + raw
        return SealKey(suite=self.suite, key=raw.hex(), epoch=epoch)

    def open(self, sealed: bytes, *, info: bytes) -> bytes:
        """Return the file key that was sealed to this key for this very `info`.

        Raises InvalidTag for anything else, whatever it is.
        """
        if len(sealed) != SEALED_BYTES[self.suite]:
            raise InvalidTag
        return _SUITES[self.suite].decrypt(sealed, self._private(), info=info)

    def _mlkem(self) -> MLKEM768PrivateKey:
        return MLKEM768PrivateKey.from_seed_bytes(self.raw[:_MLKEM_SEED_BYTES])

    def _private(self) -> X25519PrivateKey | MLKEM768X25519PrivateKey:
        x25519 = X25519PrivateKey.from_private_bytes(self.raw[-_X25519_BYTES:])
        if self.suite == "x25519":
            return x25519
        return MLKEM768X25519PrivateKey(self._mlkem(), x25519)


def seal_to(key: SealKey, file_key: bytes, *, info: bytes) -> bytes:
    """Return `file_key` sealed to `key` for `info`; raises Refused (`weak-key`).

    A key of low order, or one that is no point of its suite, would give everybody the same secret.
    """
    raw = bytes.fromhex(key.key)
    try:
        x25519 = X25519PublicKey.from_public_bytes(raw[-_X25519_BYTES:])
        if key.suite == "x25519":
            return _SUITES[key.suite].encrypt(file_key, x25519, info=info)
        mlkem = MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC_BYTES])
        both = MLKEM768X25519PublicKey(mlkem, x25519)
        return _SUITES[key.suite].encrypt(file_key, both, info=info)
    except ValueError:
        raise Refused(
            f"sealing key {key.fingerprint[:16]}",
            expected=f"a sound key of {key.suite}",
            got="one of low order, or other bytes",
            untouched="nothing was sealed",
            reason="weak-key",
        ) from None


def check_sound(key: SealKey) -> None:
    """Return only when something can be sealed to `key`; raises Refused (`weak-key`)."""
    seal_to(key, bytes(FILE_KEY_BYTES), info=b"embrasure/secret/check")
