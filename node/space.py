"""Room for an install, asked for before a byte is fetched: what it needs, and what must stay free.

Two disks may be meant, of the blobs and of the releases. A way back needs no new room.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from embrasure import limits
from embrasure.bundle.manifest import Manifest
from embrasure.bundle.store import BlobStore
from embrasure.descriptor import explaining
from embrasure.errors import EmbrasureError, Failed
from embrasure.fs import Folder
from node.placing import Placer, Way
from node.tree import folders_of

_PROBE = b"which ways work from here to there"


@dataclass(frozen=True, slots=True)
class Need:
    """What is wanted of one disk."""

    bytes: int
    inodes: int

    def __add__(self, other: Need) -> Need:
        return Need(self.bytes + other.bytes, self.inodes + other.inodes)


def copied_bytes(manifest: Manifest, ways: Collection[str]) -> int:
    """Return how many bytes of the release are written once more beside its blobs.

    A second name is of a file of the same mode: what may be run has a copy in the store for that.
    """
    if "reflink" in ways:
        return 0
    is_copied = (lambda mode: mode == "0555") if "hardlink" in ways else (lambda mode: True)
    return sum(e.length for e in manifest.files if e.kind == "file" and is_copied(e.mode))


def ways_between(blobs: BlobStore, releases: Folder, *, user: int) -> frozenset[Way]:
    """Return how blobs can come into a release here, found by trying with a small file.

    Nothing of it is left. A disk that is too full to try counts as one where all is copied.
    """
    name = f".tmp-probe-{secrets.token_hex(8)}"
    try:
        with releases.mkdir(name) as folder:
            return Placer(blobs, user=user).ways_into(folder, _PROBE)
    except EmbrasureError:
        return frozenset()
    finally:
        with suppress(EmbrasureError):
            releases.remove_tree(name)


def needs(
    manifest: Manifest, *, missing: Mapping[str, int], to_come: int, copied: int
) -> tuple[Need, Need]:
    """Return what the blobs and what the releases need.

    missing: blobs that are not here; to_come: bytes of them that no partial file has yet
    """
    entries = len(manifest.files) + len(folders_of(manifest))
    documents = 4 * limits.KIB * 8  # manifest, plan, approval, sealed secrets: room for small ones
    release = copied + 4 * limits.KIB * entries + documents
    return (
        Need((to_come + 4 * limits.KIB * len(missing)) * 105 // 100, len(missing)),
        Need(release * 105 // 100, entries),
    )


def check(need: Need, folder: Folder, *, app: str) -> None:
    """Return only when the folder's disk has what is needed and keeps its reserve.

    Kept free: 3 % of the disk, 512 MiB at most, so that a disk of 1 GiB is still of use. A file
    system that counts no inodes (btrfs) is not asked for them.
    Raises Failed (`no-space`) with both numbers.
    """
    with explaining(str(folder.path)):
        found = os.fstatvfs(folder.fd)
    share = found.f_blocks * found.f_frsize * limits.FREE_PERCENT // 100
    wanted = [
        ("bytes", need.bytes + min(share, limits.FREE_BYTES), found.f_bavail * found.f_frsize)
    ]
    if found.f_files:
        few = found.f_files * limits.FREE_PERCENT // 100
        wanted.append(("inodes", need.inodes + min(few, limits.INODES_KEPT), found.f_favail))
    for what, asked, left in wanted:
        if asked > left:
            raise Failed(
                f"install of {app}", expected=f"{asked} free {what}", got=f"{left}",
                untouched="the release that runs", hint="free space, then try again",
                reason="no-space",
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at the disk found. missing: blobs that are not here, digest -> length; ways: how
    blobs can come into a release.
    """

    missing: dict[str, int]
    ways: frozenset[Way]


def check_all(manifest: Manifest, *, blobs: BlobStore, releases: Folder, user: int) -> Found:
    """Return what is here when there is room for all of an install; raises Failed (`no-space`)."""
    missing = blobs.missing(manifest.blobs())
    ways = ways_between(blobs, releases, user=user)
    fetch, build = needs(
        manifest, missing=missing, to_come=blobs.still_to_come(missing),
        copied=copied_bytes(manifest, ways),
    )  # fmt: skip
    with Folder.open(blobs.folder) as store:
        if os.fstat(store.fd).st_dev == os.fstat(releases.fd).st_dev:
            check(fetch + build, releases, app=manifest.app)
        else:
            check(fetch, store, app=manifest.app)
            check(build, releases, app=manifest.app)
    return Found(missing, ways)
