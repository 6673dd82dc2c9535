"""What a key is, whatever it is called and however it is written: for counting distinct keys."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from securesystemslib.signer import Key


def material(key: Key) -> bytes:
    """Return the key itself (SubjectPublicKeyInfo, DER); what is no key is its own text.

    One key has many texts: PEM with lines of other lengths, hex in capitals, an old name of its
    type. Each would be another key id, and one person would count as two.
    """
    text = str(key.keyval.get("public", ""))
    try:
        if key.keytype == "ed25519":
            return _spki(Ed25519PublicKey.from_public_bytes(bytes.fromhex(text)))
        return _spki(load_pem_public_key(text.encode("utf-8")))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # It verifies nothing, so it counts for nobody.
        return text.strip().encode("utf-8", errors="replace")


def _spki(key: object) -> bytes:
    made: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]  # every kind has it
    return made
