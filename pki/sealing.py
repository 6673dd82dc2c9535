"""Seal a secret to the nodes that need it, and seal it again to others when nodes change.

Who may open it comes from verified metadata alone (`pki.recipients`); a file that was sealed before
is opened with the recovery key only.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence

import msgspec
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as encrypt

from embrasure import limits
from embrasure.errors import Misuse
from embrasure.secret.keys import FILE_KEY_BYTES, OpeningKey, seal_to
from embrasure.secret.sealed import (
    NONCE_BYTES,
    RECOVERY,
    Head,
    Me,
    Sealed,
    Stanza,
    commit_of,
    info_of,
    open_file_key,
    open_payload,
    open_sealed,
    parse_sealed,
    replace_stanzas,
)
from embrasure.trust.directory import SealKey
from embrasure.trust.documents import write
from pki.recipients import Recipients


def seal(plaintext: bytes, *, name: str, version: int, to: Recipients) -> bytes:
    """Return the sealed file of `plaintext` for exactly these recipients; raises Misuse, Refused.

    Bounds first; no recipient is left out, and none gets a weaker suite than its own key has.
    """
    check_length(plaintext)
    file_key = secrets.token_bytes(FILE_KEY_BYTES)
    head = msgspec.convert(
        {
            "v": 1,
            "type": "secret",
            "root": to.root,
            "env": to.env,
            "app": to.app,
            "name": name,
            "version": version,
            "commit": commit_of(file_key),
        },
        Head,
    )
    nonce = secrets.token_bytes(NONCE_BYTES)
    payload = nonce + encrypt(plaintext, write(head), nonce, file_key)
    found = Sealed(
        **{field: getattr(head, field) for field in Head.__struct_fields__},
        payload=_encoded(payload),
        stanzas=tuple(_stanzas(head, to.keys, file_key, payload)),
    )
    raw = write(found)
    parse_sealed(raw)  # what no node can read is never handed out
    return raw


def check_length(plaintext: bytes) -> None:
    """Return only when `plaintext` may be a secret; raises Misuse."""
    if not 1 <= len(plaintext) <= limits.SECRET_PLAIN_BYTES:
        raise Misuse(
            "secret",
            expected=f"1 to {limits.SECRET_PLAIN_BYTES} bytes",
            got=f"{len(plaintext)} bytes",
            untouched="nothing was sealed",
        )


def rewrap(sealed: Sealed, *, key: OpeningKey, to: Recipients) -> bytes:
    """Return the same file for the recipients of today; the payload stays, byte for byte.

    The payload is opened once to be sure that it opens, and is dropped. Raises Refused.
    """
    to.check_same_app(sealed)
    me = recovery_of(sealed, key)
    file_key = open_file_key(sealed, me)
    open_payload(sealed, file_key)
    payload = base64.b64decode(sealed.payload)
    stanzas = _stanzas(sealed.head, to.keys, file_key, payload)
    raw = write(replace_stanzas(sealed, stanzas))
    parse_sealed(raw)
    return raw


def open_with_recovery(sealed: Sealed, *, key: OpeningKey) -> bytes:
    """Return the plaintext; raises Refused."""
    return open_sealed(sealed, recovery_of(sealed, key))


def recovery_of(sealed: Sealed, key: OpeningKey) -> Me:
    """Return the recovery recipient as the file names it; its epoch is bound inside the stanza."""
    stanza = sealed.stanza(RECOVERY)
    return Me(RECOVERY, key, 1 if stanza is None else stanza.epoch)


def _stanzas(
    head: Head, keys: Sequence[tuple[str, SealKey]], file_key: bytes, payload: bytes
) -> list[Stanza]:
    return [
        Stanza(
            recipient=name,
            suite=key.suite,
            epoch=key.epoch,
            sealed=_encoded(
                seal_to(
                    key,
                    file_key,
                    info=info_of(head, recipient=name, epoch=key.epoch, payload=payload),
                )
            ),
        )
        for name, key in keys
    ]


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
