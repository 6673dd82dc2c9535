"""The offline recovery recipient: its encrypted key file, its public half, and the draft that makes
it the recipient of every secret of an environment.

Like every key file: Argon2id, then SecretBox over the key and a copy of the header.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from pathlib import Path
from typing import Annotated, Literal

import nacl.utils
from msgspec import Meta
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from embrasure import fs, limits
from embrasure.clock import Clock
from embrasure.errors import Denied, Misuse, Refused
from embrasure.secret.keys import DEFAULT, OpeningKey, check_sound
from embrasure.trust import directory, documents, layout
from embrasure.trust.directory import Recovery, SealKey, SealSuite
from embrasure.trust.documents import Digest, Document, read, write
from pki import keyfile
from pki.desk import Desk
from pki.drafts import Draft
from pki.folder import TrustFolder
from pki.keyfile import SALT_BYTES, Cost, check_passphrase
from pki.passphrase import PassphraseSource

_Base64 = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]+={0,2}$", max_length=12 * limits.KIB)]
_Public = Annotated[str, Meta(pattern=r"^[0-9a-f]+$", max_length=2432)]


class PublicHalf(Document, frozen=True, kw_only=True):
    """What may be carried to the security team's folder."""

    v: Literal[1]
    type: Literal["recovery-public"]
    suite: SealSuite
    key: _Public

    def as_key(self, *, epoch: int) -> SealKey:
        """Return it as a document names it; raises Refused for a key of another length."""
        body = {"suite": self.suite, "key": self.key, "epoch": epoch}
        return documents.convert(body, SealKey, "recovery key")


class Header(Document, frozen=True, kw_only=True):
    """What the file says without its passphrase. root: the one fleet that it serves."""

    v: Literal[1]
    type: Literal["recovery-key"]
    kdf: Literal["argon2id"]
    ops: Annotated[int, Meta(ge=limits.ARGON2_OPS_MIN, le=limits.ARGON2_OPS_MAX)]
    mem: Annotated[int, Meta(ge=limits.ARGON2_MEM_MIN_BYTES, le=limits.ARGON2_MEM_MAX_BYTES)]
    salt: _Base64
    suite: SealSuite
    public: _Public
    root: Digest


class _KeyFile(Header, frozen=True, kw_only=True):
    box: _Base64


class _Inside(Document, frozen=True, kw_only=True):
    header: Header
    key: Annotated[str, Meta(pattern=r"^[0-9a-f]{64,192}$")]


def generate(file: Path, passphrase: bytes, *, root: str, cost: Cost) -> PublicHalf:
    """Return the public half of a new recovery key; `file` and `file`.pub are there, on disk.

    Raises Refused (`exists`): no key is ever overwritten.
    """
    check_passphrase(passphrase)
    key, salt = OpeningKey.generate(DEFAULT), nacl.utils.random(SALT_BYTES)
    public = key.public(epoch=1)
    header = Header(
        v=1,
        type="recovery-key",
        kdf="argon2id",
        ops=cost.ops,
        mem=cost.mem,
        salt=base64.b64encode(salt).decode("ascii"),
        suite=key.suite,
        public=public.key,
        root=root,
    )
    box_key = keyfile.derive(passphrase, salt, cost)
    inside = write(_Inside(header=header, key=key.raw.hex()))
    box = base64.b64encode(SecretBox(box_key).encrypt(inside)).decode("ascii")
    members = {name: getattr(header, name) for name in Header.__struct_fields__}
    half = PublicHalf(v=1, type="recovery-public", suite=key.suite, key=public.key)
    fs.create_file(file.parent, file.name, write(_KeyFile(**members, box=box)))
    fs.create_file(file.parent, f"{file.name}.pub", write(half), mode=0o644)
    return half


def open_file(file: Path, source: PassphraseSource, *, root: str) -> OpeningKey:
    """Return the key in `file`; raises Denied (`passphrase`, `permissions`), Refused.

    Steps: 1 only we can read it, bounds of the parameters, its fleet; 2 the box opens; 3 the
    sealed copy of the header equals the header; 4 the public half is the key's own.
    """
    # 1.
    raw = fs.read_file(file, limit=limits.KEYFILE_BYTES, private=True)
    found = read(raw, _KeyFile, limit=limits.KEYFILE_BYTES, document="recovery key file")
    if found.root != root:
        raise Refused(
            str(file), expected=f"a key of fleet {root[:16]}", got=found.root[:16],
            reason="identity",
        )  # fmt: skip
    header = Header(**{name: getattr(found, name) for name in Header.__struct_fields__})
    # 2.
    for left in reversed(range(source.tries)):
        try:
            inside = _opened(found, source(f"recovery key {file.name}"))
            break
        except Denied:
            if not left:
                raise
    # 3.
    if not hmac.compare_digest(write(header), write(inside.header)):
        raise Refused(
            str(file), expected="the header that was sealed with the key", got="a changed header",
            reason="bad-signature",
        )  # fmt: skip
    # 4.
    try:
        key = OpeningKey.from_hex(inside.key)
    except ValueError:
        raise Refused(str(file), expected="a recovery key", got="other bytes") from None
    if (key.suite, key.public(epoch=1).key) != (header.suite, header.public):
        raise Refused(str(file), expected="the public half of its key", got="another")
    return key


def _opened(found: _KeyFile, passphrase: bytes) -> _Inside:
    try:
        salt = base64.b64decode(found.salt, validate=True)
        box_key = keyfile.derive(passphrase, salt, Cost(ops=found.ops, mem=found.mem))
        raw = SecretBox(box_key).decrypt(base64.b64decode(found.box, validate=True))
    except (CryptoError, ValueError, binascii.Error):
        raise Denied(
            "recovery key file",
            expected="its passphrase",
            got="another one, or a damaged file",
            reason="passphrase",
        ) from None
    return read(raw, _Inside, limit=limits.KEYFILE_BYTES, document="recovery key file")


def read_public(file: Path) -> PublicHalf:
    """Return the public half in `file`; raises Refused (`weak-key` too)."""
    raw = fs.read_file(file, limit=limits.RECOVERY_BYTES)
    half = read(raw, PublicHalf, limit=limits.RECOVERY_BYTES, document="recovery public half")
    check_sound(half.as_key(epoch=1))
    return half


def adopt(trust: TrustFolder, env: str, half: PublicHalf, *, clock: Clock) -> list[Draft]:
    """`fleet-<env>` is a draft that names this recovery recipient, under the next epoch.

    Raises Misuse for the one that is named already.
    """
    role, path = trust.fleet_role(env), layout.recovery_path(env)
    work = Desk(trust, clock)
    raw = work.documents(role).get(path)
    old = None if raw is None else directory.parse_recovery(raw).hpke
    if old is not None and old.key == half.key:
        raise Misuse("recovery recipient", expected="a new key", got="the one in force or drafted")
    key = half.as_key(epoch=1 if old is None else old.epoch + 1)
    made = Recovery(v=1, type="recovery", root=trust.root_id, env=env, hpke=key)
    work.put(role, path, write(made))
    return work.write()
