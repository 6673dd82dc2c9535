"""New keyholders with key files of their own, and the proofs that they hold their keys."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from embrasure import fs
from pki import keyfile, people, possession, seats, signers
from pki.folder import TrustFolder
from pki.keyfile import Purpose, Scheme
from pki.people import PublicFile
from tests.simulate.ceremony import PASSPHRASE, source


def new_keyholder(
    folder: Path, person: str, *, purpose: Purpose = "security", scheme: Scheme = "ed25519"
) -> PublicFile:
    """Return the public half of a new key `folder/PERSON.key`."""
    folder.mkdir(exist_ok=True)
    sealed = keyfile.seal(
        keyfile.generate(scheme), PASSPHRASE, purpose=purpose, label=person,
        salt=keyfile.salt_for(PASSPHRASE),
    )  # fmt: skip
    fs.create_file(folder, f"{person}.key", sealed)
    return people.parse_public(people.public_file(keyfile.header_of(sealed)))


def proof(folder: Path, person: str, trust: TrustFolder, at: datetime, *, root: str = "") -> bytes:
    """Return the proof that the holder of `folder/PERSON.key` makes for this fleet, or `root`."""
    opened = signers.open_key(f"keyfile:{folder}/{person}.key", source())
    return possession.prove(
        opened.signer,
        root=root or trust.root_id,
        person=opened.header.label,
        purpose=opened.header.purpose,
        at=at,
    )


def joining(
    trust: TrustFolder, folder: Path, *persons: str, at: datetime, purpose: Purpose = "security"
) -> tuple[tuple[PublicFile, ...], tuple[bytes, ...]]:
    """Return public halves and proofs of new keys of these persons."""
    known = tuple(new_keyholder(folder, person, purpose=purpose) for person in persons)
    return known, tuple(proof(folder, person, trust, at) for person in persons)


def seated(trust: TrustFolder, role: str) -> list[str]:
    """Return who signs `role` by the newest version there is."""
    delegator = trust.root() if role in ("root", "targets") else trust.targets()
    return sorted(seats.seats_of(delegator, role))
