"""Make several keys in one act, under one passphrase, and write them once their fleet is known.

The keys exist in memory first: the fleet's id depends on their public halves, and each key file
says which fleet it serves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from securesystemslib.signer import CryptoSigner, SSlibKey

from embrasure import fs, limits
from embrasure.errors import Refused
from pki import keyfile, people, store
from pki.keyfile import Cost, PrivateKey, Purpose, Scheme


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that is in memory only. file: where its key file will be, below the folder."""

    label: str
    purpose: Purpose
    file: str
    private: PrivateKey = field(repr=False)

    @property
    def public(self) -> SSlibKey:
        """The public half."""
        return keyfile.public_of(self.private)

    @property
    def named(self) -> SSlibKey:
        """The public half with its owner's name, as metadata lists a person's key."""
        return people.with_owner(self.public, self.label)

    @property
    def signer(self) -> CryptoSigner:
        """The signer of this key."""
        return CryptoSigner(self.private, self.public)


def new_key(label: str, *, purpose: Purpose, file: str, scheme: Scheme = "ed25519") -> NewKey:
    """Return a new key in memory."""
    return NewKey(label, purpose, file, keyfile.generate(scheme))


def write_keys(
    folder: Path, keys: list[NewKey], passphrase: bytes, *, root: str, cost: Cost
) -> None:
    """Each key is an encrypted file below `folder`; all share one salt (`keyfile.salt_for`).

    People's keys also leave their public half in `public/`. Raises Refused when a file exists.
    """
    salt = keyfile.salt_for(passphrase)
    for key in keys:
        target = folder / key.file
        store.make_folder(target.parent)
        raw = keyfile.seal(
            key.private,
            passphrase,
            purpose=key.purpose,
            label=key.label,
            root=root,
            cost=cost,
            salt=salt,
        )
        fs.create_file(target.parent, target.name, raw)
        if key.purpose in ("security", "operator"):
            write_public(folder / "public", people.public_file(keyfile.header_of(raw)), key.label)


def write_public(folder: Path, raw: bytes, name: str) -> None:
    """`folder` holds this public half under its owner's name; raises Refused for another key."""
    store.make_folder(folder)
    if (folder / f"{name}.pub").exists():
        if fs.read_file(folder / f"{name}.pub", limit=limits.KEYFILE_BYTES) == raw:
            return
        raise Refused(f"{name}.pub", expected="the same key as before", got="another")
    fs.create_file(folder, f"{name}.pub", raw, mode=0o644)
