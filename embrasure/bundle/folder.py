"""A bundle on disk: `manifest.json` and `blobs/<aa>/<sha256>`; nothing in it is ever unpacked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from embrasure import limits
from embrasure.bundle.digests import check_digest
from embrasure.bundle.manifest import Manifest, parse_manifest
from embrasure.errors import Misuse, NotFound, Refused
from embrasure.fs import Folder
from embrasure.trust.canonical import sha256_hex

MANIFEST = "manifest.json"
BLOBS = "blobs"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A manifest that was checked, and the folder in which its blobs should be."""

    manifest: Manifest
    raw: bytes
    digest: str
    folder: Path

    def blob_path(self, digest: str) -> Path:
        """Return where the blob lies; that its bytes are right is not checked."""
        return self.folder / BLOBS / check_digest(digest)[:2] / digest


def open_bundle(folder: Path) -> Bundle:
    """Return the bundle in `folder`; raises Misuse when there is none, Refused, NotSupported."""
    try:
        with Folder.open(folder.resolve()) as held:
            raw = held.read(MANIFEST, limit=limits.MANIFEST_BYTES)
    except NotFound:
        raise Misuse(
            f"bundle {folder}",
            expected=f"a folder with {MANIFEST}",
            got="none",
            hint="embrasure release build DIR --out BUNDLE",
        ) from None
    return Bundle(
        manifest=parse_manifest(raw), raw=raw, digest=sha256_hex(raw), folder=folder.resolve()
    )


def verify_bundle(bundle: Bundle) -> tuple[str, ...]:
    """Return the files of the bundle that its manifest does not name, when all it names is right.

    Raises Refused: `missing`, `bad-length`, `bad-hash`, `bad-type`, `bad-link`.
    """
    named = bundle.manifest.blobs()
    with Folder.open(bundle.folder) as held:
        for digest, length in named.items():
            _verify_blob(held, digest, length)
        found = set(_files(held))
    return tuple(sorted(found - {MANIFEST} - {_place(digest) for digest in named}))


def _place(digest: str) -> str:
    return f"{BLOBS}/{digest[:2]}/{digest}"


def _verify_blob(held: Folder, digest: str, length: int) -> None:
    hashed, count = hashlib.sha256(), 0
    try:
        for piece in held.pieces(_place(digest)):
            hashed.update(piece)
            count += len(piece)
    except NotFound:
        raise Refused(
            f"blob {digest}", expected="a file", got="nothing there", reason="missing"
        ) from None
    if count != length:
        raise Refused(
            f"blob {digest}", expected=f"{length} bytes", got=f"{count}", reason="bad-length"
        )
    if hashed.hexdigest() != digest:
        raise Refused(
            f"blob {digest}",
            expected="the bytes of its name",
            got=f"bytes of {hashed.hexdigest()}",
            reason="bad-hash",
        )


def _files(held: Folder) -> list[str]:
    """Return every path up to three levels deep; deeper ones are told by their folder."""
    found = []
    for first in held.list():
        if first != BLOBS:
            found.append(first)
            continue
        with held.child(BLOBS) as blobs:
            for aa in blobs.list():
                try:
                    with blobs.child(aa) as inner:
                        found += [f"{BLOBS}/{aa}/{name}" for name in inner.list()]
                except Refused:  # no folder
                    found.append(f"{BLOBS}/{aa}")
    return found
