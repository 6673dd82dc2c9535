"""Public halves of keys, with the person they belong to: `NAME.pub`, and keys inside metadata.

A key in root and targets carries its owner's name as a signed member, so that what a keyholder
reads before he signs names people, and nobody can rename them on the way.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta
from securesystemslib.signer import Key, SSlibKey

from embrasure import fs, limits
from embrasure.errors import Misuse, Refused
from embrasure.trust.documents import Document, KeyId, PersonId, read, write
from embrasure.trust.keymaterial import material
from pki.keyfacts import KeyFacts, Purpose
from pki.schemes import PublicHex, Scheme, decode_public

PERSON = "x-embrasure-person"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


_Shown = Annotated[str, Meta(pattern=r"^[ -~]{0,64}$")]


class Device(Document, frozen=True, kw_only=True):
    """Which thing to plug in for a key: what is printed on it or shown by its tool. A hint only.

    slot: where it was when the key was exported
    """

    token: _Shown
    serial: _Shown
    model: _Shown
    slot: Annotated[int, Meta(ge=0, le=limits.MAX_INTEGER)]

    def __str__(self) -> str:
        return f"token {self.token!r} ({self.model}, serial {self.serial}, slot {self.slot})"


class PublicFile(Document, frozen=True, kw_only=True, omit_defaults=True):
    """A `.pub` file: what its owner hands to others. device: of a key in a token, else absent."""

    v: Literal[1]
    type: Literal["public-key"]
    person: PersonId
    purpose: Purpose
    keyid: KeyId
    scheme: Scheme
    pub: PublicHex
    device: Device | None = None


def check_person(name: str) -> str:
    """Return `name` when it can be a person's; raises Misuse."""
    if not _NAME.fullmatch(name):
        raise Misuse("name", expected="1-63 lower-case letters, digits, hyphens", got=name)
    return name


def public_file(header: KeyFacts, *, device: Device | None = None) -> bytes:
    """Return the `.pub` file of a key."""
    return write(
        PublicFile(
            v=1,
            type="public-key",
            person=header.label,
            purpose=header.purpose,
            keyid=header.keyid,
            scheme=header.scheme,
            pub=header.pub,
            device=device,
        )
    )


def write_public_file(found: PublicFile) -> bytes:
    """Return the one byte string of a `.pub` file."""
    return write(found)


def parse_public(raw: bytes) -> PublicFile:
    """Return the public half in `raw`, whose key id is its own; raises Refused."""
    found = read(raw, PublicFile, limit=limits.KEYFILE_BYTES, document="public key")
    decode_public(found.scheme, found.pub, found.keyid)
    return found


def read_public(path: Path, *, purpose: Purpose) -> PublicFile:
    """Return the public half in a file, made for `purpose`; raises Refused, Misuse, NotFound."""
    found = parse_public(fs.read_file(path, limit=limits.KEYFILE_BYTES))
    if found.purpose != purpose:
        raise Misuse(
            str(path), expected=f"a key made for `{purpose}`", got=f"one for `{found.purpose}`"
        )
    return found


def named_key(found: PublicFile) -> SSlibKey:
    """Return the key as metadata lists it, with its owner's name as a signed member."""
    key = decode_public(found.scheme, found.pub, found.keyid)
    return with_owner(key, found.person)


def with_owner(key: SSlibKey, owner: str) -> SSlibKey:
    """Return `key` as metadata lists it when it belongs to `owner`."""
    return SSlibKey(key.keyid, key.keytype, key.scheme, dict(key.keyval), {PERSON: owner})


def owner_of(key: Key) -> str:
    """Return whose key metadata says this is; raises Refused when it names nobody."""
    name = key.unrecognized_fields.get(PERSON)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refused(f"key {key.keyid[:12]}", expected="an owner's name", got=name)
    return name


def check_distinct(keys: list[SSlibKey]) -> None:
    """Return only when no key and no person is there twice; raises Misuse.

    One key under two ids would count twice towards a threshold.
    """
    held = {material(key) for key in keys}
    owners = {owner_of(key) for key in keys}
    for what, found in (("key", len(held)), ("person", len(owners))):
        if found != len(keys):
            raise Misuse("keys", expected=f"each {what} once", got=f"a {what} twice")
