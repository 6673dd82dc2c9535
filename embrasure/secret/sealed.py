"""The sealed file: one canonical document, a payload for all, one stanza for each recipient.

Its digest is a target of the approval role, so k of n operators say that it is theirs; the stanzas
bind it to environment, name, version, recipient and key epoch. Bounds come before any cryptography.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from msgspec import Meta
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as decrypt
from nacl.exceptions import CryptoError

from embrasure import limits
from embrasure.errors import Refused
from embrasure.secret.keys import FILE_KEY_BYTES, SEALED_BYTES, OpeningKey
from embrasure.trust.directory import SealSuite
from embrasure.trust.documents import (
    AppName,
    Digest,
    Document,
    EnvName,
    Name,
    Positive,
    digest,
    read,
    write,
)

RECOVERY = "recovery"  # how the offline recipient is named among the nodes
NONCE_BYTES, TAG_BYTES = 24, 16
_PAYLOAD = 4 * ((NONCE_BYTES + limits.SECRET_PLAIN_BYTES + TAG_BYTES + 2) // 3)
_Base64 = r"^[A-Za-z0-9+/]+={0,2}$"
Recipient = Annotated[str, Meta(pattern=r"^(recovery|n-[a-z2-7]{26})$")]


class Stanza(Document, frozen=True, kw_only=True):
    """The file key for one recipient. epoch: of the recipient's sealing key."""

    recipient: Recipient
    suite: SealSuite
    epoch: Positive
    sealed: Annotated[str, Meta(pattern=_Base64, max_length=1560)]


class Head(Document, frozen=True, kw_only=True):
    """What the payload is bound to. commit: a hash of the file key.

    Without `commit` a sealer could craft a payload that opens to one thing for the recovery
    recipient and to another for a node.
    """

    v: Literal[1]
    type: Literal["secret"]
    root: Digest
    env: EnvName
    app: AppName
    name: Name
    version: Positive
    commit: Digest


class Sealed(Head, frozen=True, kw_only=True):
    """The whole file. payload: nonce and ciphertext of XChaCha20-Poly1305, the head beside it."""

    payload: Annotated[str, Meta(pattern=_Base64, max_length=_PAYLOAD)]
    stanzas: Annotated[
        tuple[Stanza, ...], Meta(min_length=1, max_length=limits.SECRET_RECIPIENTS + 1)
    ]

    @property
    def head(self) -> Head:
        """The part that is the same for every recipient and after every rewrap."""
        return Head(**{name: getattr(self, name) for name in Head.__struct_fields__})

    @property
    def label(self) -> str:
        """How people call it."""
        return f"{self.name} v{self.version}"

    @property
    def sha256(self) -> str:
        """The digest that the approval role lists."""
        return digest(self)

    def stanza(self, recipient: str) -> Stanza | None:
        """Return the stanza of a recipient."""
        return next((one for one in self.stanzas if one.recipient == recipient), None)


@dataclass(frozen=True, slots=True)
class Me:
    """Who opens: a node's id or `recovery`, its key and the key's epoch."""

    recipient: str
    key: OpeningKey
    epoch: int


def parse_sealed(raw: bytes) -> Sealed:
    """Return the sealed file in `raw`, still closed; raises Refused.

    Its length, counts and the length of every part are checked, each recipient is there once, and
    no stanza is of another length than its suite gives.
    """
    found = read(raw, Sealed, limit=limits.SECRET_BYTES, document="sealed secret")
    names = [one.recipient for one in found.stanzas]
    if names != sorted(set(names)):
        raise _refuse("each recipient once, sorted", "else", "bad-schema")
    for one in found.stanzas:
        if len(_decoded(one.sealed)) != SEALED_BYTES[one.suite]:
            raise _refuse(
                f"{SEALED_BYTES[one.suite]} bytes for {one.recipient}", "others", "bad-schema"
            )
    if len(_decoded(found.payload)) <= NONCE_BYTES + TAG_BYTES:
        raise _refuse("a payload", "an empty one", "bad-schema")
    return found


def info_of(head: Head, *, recipient: str, epoch: int, payload: bytes) -> bytes:
    """Return what a stanza is bound to; each field with its length in front, so that no two
    contexts encode alike.
    """
    fields = (
        "embrasure/secret/v1", head.env, head.name, str(head.version), recipient, str(epoch),
        hashlib.sha256(payload).hexdigest(),
    )  # fmt: skip
    encoded = [field.encode("ascii") for field in fields]
    return b"".join(struct.pack(">H", len(field)) + field for field in encoded)


def commit_of(file_key: bytes) -> str:
    """Return the hash by which every recipient knows that all were given the same file key."""
    return hashlib.sha256(b"embrasure/secret/commit/v1" + file_key).hexdigest()


def open_file_key(sealed: Sealed, me: Me) -> bytes:
    """Return the file key; raises Refused (`not-a-recipient`, `no-open`).

    The suite is that of our own key, whatever the stanza says.
    """
    stanza = sealed.stanza(me.recipient)
    if stanza is None:
        raise Refused(
            f"secret {sealed.label}", expected=f"a stanza for {me.recipient}", got="none",
            hint="embrasure secret rewrap adds one", reason="not-a-recipient",
        )  # fmt: skip
    if stanza.suite != me.key.suite:
        raise _closed(sealed, f"a stanza of {me.key.suite}", stanza.suite)
    payload = _decoded(sealed.payload)
    info = info_of(sealed.head, recipient=me.recipient, epoch=me.epoch, payload=payload)
    try:
        file_key = me.key.open(_decoded(stanza.sealed), info=info)
    except InvalidTag:
        raise _closed(sealed, "one sealed to this key for this name, version and epoch",
                      "another") from None  # fmt: skip
    known = len(file_key) == FILE_KEY_BYTES
    if not known or not hmac.compare_digest(commit_of(file_key), sealed.commit):
        raise _closed(sealed, "the file key that all recipients have", "another")
    return file_key


def open_payload(sealed: Sealed, file_key: bytes) -> bytes:
    """Return the plaintext; raises Refused (`no-open`) when head or payload were changed."""
    payload = _decoded(sealed.payload)
    try:
        return decrypt(payload[NONCE_BYTES:], write(sealed.head), payload[:NONCE_BYTES], file_key)
    except CryptoError:
        raise _closed(sealed, "the payload that was sealed with this head", "another") from None


def open_sealed(sealed: Sealed, me: Me) -> bytes:
    """Return the plaintext for this recipient; raises Refused, and then nothing was opened."""
    return open_payload(sealed, open_file_key(sealed, me))


def check_context(
    sealed: Sealed, *, root: str, env: str, app: str, name: str, min_version: int
) -> None:
    """Return only when the file is the named secret of this app here; raises Refused."""
    mine, theirs = (root, env, app, name), (sealed.root, sealed.env, sealed.app, sealed.name)
    if mine != theirs or sealed.version < min_version:
        raise Refused(
            f"secret {sealed.label}",
            expected=f"{name} of {env}-{app}, version {min_version} or later",
            got=f"{sealed.name} v{sealed.version} of {sealed.env}-{sealed.app}",
            reason="not-mine",
        )


def replace_stanzas(sealed: Sealed, stanzas: list[Stanza]) -> Sealed:
    """Return the file for other recipients; what is sealed stays, byte for byte."""
    return msgspec.structs.replace(
        sealed, stanzas=tuple(sorted(stanzas, key=lambda s: s.recipient))
    )


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise _refuse("base64", "something else", "bad-schema") from None


def _refuse(expected: str, got: object, reason: str) -> Refused:
    return Refused("sealed secret", expected=expected, got=got, reason=reason)


def _closed(sealed: Sealed, expected: str, got: object) -> Refused:
    return Refused(
        f"secret {sealed.label}", expected=expected, got=got, untouched="nothing was opened",
        reason="no-open",
    )  # fmt: skip
