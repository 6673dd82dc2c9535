"""Leaves that this trust folder has issued: public, kept so that somebody sees them end."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cryptography import x509

from embrasure import fs
from embrasure.errors import EmbrasureError
from embrasure.folder import Folder
from pki import ca

FOLDER = "issued"
_BYTES = 16384


def record(trust: Path, identity: str, leaf: x509.Certificate, *, at: datetime) -> None:
    """The folder holds `leaf` of `ROLE/NAME`, and no leaf of that name which has ended."""
    prefix = identity.replace("/", "+") + "+"
    for name, held in sorted(_files(trust).items()):
        if name.startswith(prefix) and held.not_valid_after_utc <= at:
            with Folder.open(trust / FOLDER) as folder:
                folder.unlink(name, missing_ok=True)
    Folder.open(trust / FOLDER, create=True).close()
    name = f"{prefix}{leaf.serial_number:x}.crt"
    fs.replace_file(trust / FOLDER, name, ca.pem(leaf), mode=0o644)


def leaves(trust: Path) -> list[x509.Certificate]:
    """Return the recorded leaves: of each name all that run, or the one that ended last."""
    return list(_files(trust).values())


def _files(trust: Path) -> dict[str, x509.Certificate]:
    found = {}
    for file in sorted((trust / FOLDER).glob("*+*+*.crt")):
        try:
            found[file.name] = ca.parse_certificate(fs.read_file(file, limit=_BYTES))
        except EmbrasureError:
            continue  # a stranger's file in a public folder says nothing
    return found
