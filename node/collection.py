"""Old releases and blobs that nothing names go; what runs, or may have to run again, never does.

Kept whatever happens: `current`, what was committed last and before, where a roll-back of the open
transaction goes, what its record installs, and what the owner pinned.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from embrasure import limits
from embrasure.bundle.manifest import Manifest
from embrasure.errors import EmbrasureError
from embrasure.fs import Folder, lock
from embrasure.trust.floors import AppFloor
from node import pins, switch
from node.config import app_names
from node.paths import Paths
from node.releases import MANIFEST
from node.states import Record, release_name
from node.transaction import Transaction
from node.tree import STAGING, tick


def needed(record: Record, floor: AppFloor, linked: str | None) -> set[str]:
    """Return the releases of an app that must stay: what runs, the ways back, what is coming."""
    found = {linked} if linked else set()
    if record.back is not None:
        found.add(record.back.id)
    for one in (floor.committed, floor.previous):
        if one is not None:
            found.add(release_name(one.seq, one.manifest))
    if record.ending != "rejected":
        found.add(record.to.id)
    return found


def collect(paths: Paths, app: str, *, keep: Iterable[str], most: int) -> list[str]:
    """Return the releases that are still there: those of `keep`, then the newest ones up to `most`.

    What a broken attempt left in staging is gone. Never called while the app is being changed.
    """
    with Folder.open(paths.releases(app)) as folder:
        names = folder.list()
        for name in (name for name in names if name.startswith(STAGING)):
            tick()
            folder.remove_tree(name)
        found = sorted((name for name in names if not name.startswith(".")), key=_age, reverse=True)
        kept = set(keep)
        newest = [name for name in found if name not in kept]
        room = max(0, most - len(kept & set(found)))
        for name in newest[room:]:
            tick()
            folder.remove_tree(name)
        folder.fsync()
        return [name for name in found if name in kept or name in newest[:room]]


def _age(name: str) -> int:
    number = name.partition("-")[0]
    return int(number) if number.isdigit() else 0


def clean(tx: Transaction) -> None:
    """Only releases that may still be needed are there, and blobs that they are made of; of other
    blobs those that came, or were looked for, a short time ago.
    """
    _collect(tx, most=tx.config.keep)
    sweeps, now = tx.ground.blob_sweeps, tx.ground.clock().timestamp()
    if not sweeps.is_due(now):
        return  # what could go is too young as a rule, and each of it would be looked at
    live = live_blobs(tx.ground.paths, tx.app)
    tx.ground.blobs.sweep(live, unused_s=limits.BLOB_UNUSED_SECONDS, now=now)
    sweeps.last = now


def make_room(tx: Transaction, wanted: Manifest) -> None:
    """All that can be spared is gone; what is wanted next, and has come already, is not."""
    _collect(tx, most=0)
    tx.ground.blobs.sweep(live_blobs(tx.ground.paths, tx.app) | wanted.blobs().keys())


def _collect(tx: Transaction, *, most: int) -> None:
    paths, floor = tx.ground.paths, tx.ground.floors.load().app(tx.app)
    keep = needed(tx.record, floor, linked(tx))
    with lock(paths.lock / pins.LOCK, seconds=limits.LOCK_SECONDS):
        collect(paths, tx.app, keep=keep | pins.pinned(paths, tx.app), most=most)


def linked(tx: Transaction) -> str | None:
    """Return the release that `current` names."""
    with Folder.open(tx.ground.paths.app(tx.app)) as folder:
        return switch.current(folder)


def live_blobs(paths: Paths, *apps: str) -> set[str]:
    """Return the digests of all blobs that some release on this node is made of."""
    live: set[str] = set()
    for app in {*app_names(paths), *paths.installed(), *apps}:
        if paths.releases(app).is_dir():
            with Folder.open(paths.releases(app)) as folder:
                for name in (name for name in folder.list() if not name.startswith(".")):
                    live |= blobs_of(folder, name)
    return live


class _Part(msgspec.Struct):
    kind: str
    sha256: str


class _Parts(msgspec.Struct):
    files: list[_Part]


def blobs_of(releases: Folder, name: str) -> frozenset[str]:
    """Return the digests of the blobs that the release is made of; none for what is no release.

    Its manifest was verified when it came; here it only keeps blobs, so two fields are enough.
    """
    try:
        raw = releases.read(f"{name}/{MANIFEST}", limit=limits.MANIFEST_BYTES)
    except EmbrasureError:
        return frozenset()
    return named_in(raw) if len(raw) > limits.PARSED_BYTES else _named_in(raw)


def named_in(manifest: bytes) -> frozenset[str]:
    """Return the digests of the files that a manifest lists; none for what is no manifest."""
    try:
        found = msgspec.json.decode(manifest, type=_Parts)
    except (msgspec.DecodeError, RecursionError):
        return frozenset()
    return frozenset(part.sha256 for part in found.files if part.kind == "file")


# Each install looks at every release that is kept; their manifests stay the same.
_named_in = lru_cache(maxsize=limits.KEEP_RELEASES)(named_in)
