"""Encrypted key files: one private key, under a passphrase, in one small JSON object.

The seed is sealed together with a copy of the header, since SecretBox authenticates no other data:
nobody can swap the key id, the purpose, the owner's name or the fleet of somebody's key file.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hmac
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
import nacl.utils
from msgspec import Meta
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id
from nacl.secret import SecretBox
from securesystemslib.signer import CryptoSigner

from embrasure import limits
from embrasure.errors import Denied, Misuse, Refused
from embrasure.trust.documents import Document, read, write
from pki import schemes
from pki.keyfacts import KeyFacts, Opened
from pki.keyfacts import Purpose as Purpose
from pki.keyfacts import public_key as public_key
from pki.schemes import PrivateKey as PrivateKey
from pki.schemes import Scheme as Scheme
from pki.schemes import SeedHex
from pki.schemes import decode_public as decode_public
from pki.schemes import generate as generate
from pki.schemes import public_of as public_of

SALT_BYTES = argon2id.SALTBYTES
_Base64 = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]+={0,2}$", max_length=8192)]


@dataclass(frozen=True, slots=True)
class Cost:
    """How much one guess at the passphrase costs: passes and bytes of memory of Argon2id."""

    ops: int
    mem: int


MODERATE = Cost(ops=limits.ARGON2_OPS_MIN, mem=limits.ARGON2_MEM_MIN_BYTES)  # 0.8 s
SENSITIVE = Cost(ops=4, mem=limits.GIB)  # 5 s: offline keys, opened a few times a year


class Header(KeyFacts, frozen=True, kw_only=True):
    """What a key file says without its passphrase."""

    v: Literal[1]
    kdf: Literal["argon2id"]
    ops: Annotated[int, Meta(ge=limits.ARGON2_OPS_MIN, le=limits.ARGON2_OPS_MAX)]
    mem: Annotated[int, Meta(ge=limits.ARGON2_MEM_MIN_BYTES, le=limits.ARGON2_MEM_MAX_BYTES)]
    salt: _Base64


class KeyFile(Header, frozen=True, kw_only=True):
    """The file: header and sealed seed."""

    box: _Base64


class _Inside(Document, frozen=True, kw_only=True):
    """What the box holds."""

    header: Header
    seed: SeedHex


@dataclass(frozen=True, slots=True)
class OpenedFile(Opened):
    """A private key, what its file says of it, and what its box was opened with."""

    header: Header
    signer: CryptoSigner
    private: PrivateKey = field(repr=False)
    box_key: bytes = field(repr=False)


@functools.lru_cache(maxsize=16)
def salt_for(passphrase: bytes) -> bytes:
    """Return the salt, once drawn, of each key file that this process makes under `passphrase`.

    Key files made by one act under one passphrase share a salt: whoever guesses that passphrase
    has all of them either way, and opening them costs one run of Argon2 instead of one a file.
    """
    return nacl.utils.random(SALT_BYTES)


def seal(
    private: PrivateKey,
    passphrase: bytes,
    *,
    purpose: Purpose,
    label: str,
    root: str = "",
    cost: Cost = MODERATE,
    salt: bytes,
) -> bytes:
    """Return the bytes of a key file that `passphrase` opens."""
    check_passphrase(passphrase)
    header = Header(
        v=1,
        kdf="argon2id",
        ops=cost.ops,
        mem=cost.mem,
        salt=base64.b64encode(salt).decode("ascii"),
        keyid=public_of(private).keyid,
        scheme=schemes.scheme_of(private),
        pub=schemes.raw_public(private.public_key()).hex(),
        purpose=purpose,
        label=label,
        root=root,
    )
    return _seal(header, private, derive(passphrase, salt, cost))


def rebind(opened: OpenedFile, root: str) -> bytes:
    """Return the bytes of the same key file, now of the fleet `root`; same passphrase."""
    header = msgspec.structs.replace(opened.header, root=root)
    return _seal(header, opened.private, opened.box_key)


def change_passphrase(opened: OpenedFile, passphrase: bytes) -> bytes:
    """Return the bytes of the same key file under another passphrase, with a salt of its own."""
    header, cost = opened.header, Cost(ops=opened.header.ops, mem=opened.header.mem)
    return seal(
        opened.private,
        passphrase,
        purpose=header.purpose,
        label=header.label,
        root=header.root,
        cost=cost,
        salt=salt_for(passphrase),
    )


def _seal(header: Header, private: PrivateKey, box_key: bytes) -> bytes:
    inside = write(_Inside(header=header, seed=schemes.seed_of(private).hex()))
    box = base64.b64encode(SecretBox(box_key).encrypt(inside)).decode("ascii")
    raw = write(msgspec.convert({**msgspec.to_builtins(header), "box": box}, KeyFile))
    parse(raw)  # what cannot be read again is never written
    return raw


def parse(raw: bytes) -> KeyFile:
    """Return the key file in `raw`, still closed; raises Refused."""
    found = read(raw, KeyFile, limit=limits.KEYFILE_BYTES, document="key file")
    if len(_base64(found.salt)) != SALT_BYTES:
        raise Refused("key file", expected=f"a salt of {SALT_BYTES} bytes", got="another length")
    return found


def header_of(raw: bytes) -> Header:
    """Return what a key file says without its passphrase; raises Refused."""
    return _header(parse(raw))


def open_bytes(raw: bytes, passphrase: bytes) -> OpenedFile:
    """Return the key in `raw`; raises Refused, and Denied `passphrase` when it does not open.

    Steps: 1 form and bounds of the parameters, 2 the box opens, 3 the sealed copy of the header
    equals the header, 4 the public key is the one that the seed gives.
    """
    # 1. Before Argon2 runs: a file cannot ask for 100 GiB, nor for a cheap guess.
    found = parse(raw)
    header = _header(found)
    cost = Cost(ops=found.ops, mem=found.mem)
    # 2.
    try:
        key = derive(passphrase, _base64(found.salt), cost)
        inside = SecretBox(key).decrypt(_base64(found.box))
    except (CryptoError, ValueError):
        raise Denied(
            f"key file of {found.label}",
            expected="its passphrase",
            got="another one, or a damaged file",
            reason="passphrase",
        ) from None
    sealed = read(inside, _Inside, limit=limits.KEYFILE_BYTES, document="key file")
    # 3.
    check_same(header, sealed.header)
    # 4.
    private = schemes.from_seed(header.scheme, sealed.seed)
    public = public_of(private)
    if schemes.written(public) != (header.scheme, header.pub) or public.keyid != header.keyid:
        raise Refused("key file", expected="the public half of its key", got="another public key")
    return OpenedFile(header, CryptoSigner(private, public), private, key)


def check_same(header: Header, sealed: Header) -> None:
    """Return only when the header is the one that was sealed; raises Refused."""
    if not hmac.compare_digest(write(header), write(sealed)):
        raise Refused(
            "key file",
            expected="the header that was sealed with the key",
            got="a changed header",
            hint="somebody swapped the key id, purpose, name or fleet of this file",
            reason="bad-signature",
        )


def check_passphrase(passphrase: bytes) -> None:
    """Return only when a new passphrase is long enough; raises Misuse."""
    if len(passphrase.decode("utf-8", errors="replace")) < limits.PASSPHRASE_CHARACTERS_MIN:
        raise Misuse(
            "passphrase",
            expected=f"at least {limits.PASSPHRASE_CHARACTERS_MIN} characters",
            got="a shorter one",
        )


def _header(found: KeyFile) -> Header:
    return Header(**{name: getattr(found, name) for name in Header.__struct_fields__})


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Refused("key file", expected="base64", got="something else") from None


@functools.lru_cache(maxsize=16)
def derive(passphrase: bytes, salt: bytes, cost: Cost) -> bytes:
    """Return the key of a box that `passphrase` opens."""
    # Remembered: the process holds the keys that this opens anyhow.
    return argon2id.kdf(SecretBox.KEY_SIZE, passphrase, salt, cost.ops, cost.mem)
