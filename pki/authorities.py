"""The keys and first certificates of a new fleet's CAs: made here, or lying in tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from embrasure import fs
from embrasure.errors import Misuse
from pki import ca, keyrecords, profiles, signers, store
from pki.keyfacts import check_use, public_key
from pki.keyrecords import KeyRecord
from pki.makekeys import NewKey, new_key
from pki.schemes import Scheme
from pki.signerkey import SignerKey, p256_of

NAMES: tuple[str, ...] = ("root", *profiles.ISSUERS)


@dataclass(frozen=True, slots=True)
class Authorities:
    """CA keys that lie in tokens: their records, and the root's key opened, by name."""

    records: Mapping[str, KeyRecord] = field(default_factory=dict)
    root: ca.RootKey | None = None

    def keep(self, folder: Path, root_id: str) -> None:
        """`folder` has their records, bound to this fleet; raises Denied for another's key."""
        for name, record in self.records.items():
            keyrecords.write_record(folder, f"{name}.json", record, root=root_id)


def outside_keys(texts: Sequence[str], passphrase: Callable[[str], bytes]) -> Authorities:
    """Return the CA keys of `NAME=URI` texts; of the root the PIN is asked. Raises Misuse, Denied.

    Each has a record (`keys hsm generate --purpose ca`, `keys export`).
    """
    records: dict[str, KeyRecord] = {}
    root: ec.EllipticCurvePrivateKey | None = None
    for text in texts:
        name, equals, uri = text.partition("=")
        if not equals or name not in NAMES or name in records:
            raise Misuse("--ca-key", expected=f"NAME=URI, NAME one of {', '.join(NAMES)}", got=text)
        records[name] = keyrecords.of(uri)
        check_use(records[name], purpose="ca", root=None)
        p256_of(public_key(records[name]))
        if name == "root":
            root = SignerKey(signers.open_signer(uri, passphrase, purpose="ca"))
    if len({record.keyid for record in records.values()}) < len(records):
        raise Misuse("--ca-key", expected="a key of its own for each CA", got="one key twice")
    return Authorities(records, root)


def make_authorities(
    path: Path, *, domain: str, at: datetime, outside: Authorities, root_scheme: Scheme
) -> list[NewKey]:
    """Return the new keys of CA root and issuers, whose certificates are in `ca/`."""
    folder = path / "ca"
    store.make_folder(folder)
    made = {
        name: new_key(
            name,
            purpose="ca",
            file=f"ca/{name}.key",
            scheme=root_scheme if name == "root" else "ecdsa-p256",
        )
        for name in NAMES
        if name not in outside.records
    }
    root_key = outside.root or ca.root_key(made["root"].private)
    root = ca.make_root(root_key, domain=domain, at=at)
    fs.create_file(folder, "root.crt", ca.pem(root), mode=0o644)
    for name in profiles.ISSUERS:
        listed = made[name].public if name in made else public_key(outside.records[name])
        issued = ca.make_issuer(
            name, p256_of(listed), root=root, root_key=root_key, domain=domain, at=at
        )
        fs.create_file(folder, f"{name}.crt", ca.pem(issued), mode=0o644)
    return list(made.values())
