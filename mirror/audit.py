"""`embrasure mirror verify`: read everything that is shown as if a new node had asked for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from embrasure import limits
from embrasure.clock import Clock, now
from embrasure.errors import Damaged
from embrasure.fs import read_file
from embrasure.trust import layout
from embrasure.trust.folder import FolderSource
from mirror.config import Paths, load_config
from mirror.inbox import hash_file, size_of
from mirror.verify import check_repository


@dataclass(frozen=True, slots=True)
class Report:
    """What was verified: a version, and how much of each kind."""

    timestamp: int
    roles: int
    documents: int
    blobs: int
    blob_bytes: int

    def as_json(self) -> dict[str, object]:
        """The report's members."""
        return asdict(self)


def verify_shown(root: Path, *, clock: Clock = now) -> Report:
    """Return what a mirror's folder shows after all of it was verified and hashed.

    Raises Refused (metadata, documents), Damaged (`bad-hash`, `missing-file`: a blob).
    """
    paths = Paths(root)
    config = load_config(root, "mirror")
    total = 0

    def check_blob(digest: str, length: int) -> None:
        nonlocal total
        check_shown_blob(paths.public, digest, length)
        total += length

    checked = check_repository(
        FolderSource(paths.public),
        anchor=read_file(paths.anchor, limit=limits.ROOT_BYTES),
        clock=clock,
        roles=None,
        keep=frozenset({layout.fleet_role(config.env)}),
        check_blob=check_blob,
    )
    return Report(
        timestamp=checked.view.roles[layout.TIMESTAMP].version,
        roles=len(checked.view.roles),
        documents=sum(len(role.targets) for role in checked.view.roles.values()),
        blobs=checked.blobs,
        blob_bytes=total,
    )


def check_shown_blob(public: Path, digest: str, length: int) -> None:
    """Return only when the shown blob has its length and its hash; raises Damaged."""
    path = layout.blob_file(digest)
    size = size_of(public, path)
    hint = "remove the file, then let the gateway publish again"
    if size != length:
        got = "none" if size is None else f"{size} bytes"
        raise Damaged(path, expected=f"{length} bytes", got=got, hint=hint, reason="missing-file")
    if hash_file(public, path) != digest:
        raise Damaged(
            path, expected="the bytes of its name", got="others", hint=hint, reason="bad-hash"
        )
