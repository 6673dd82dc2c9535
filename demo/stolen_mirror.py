"""A thief with the whole mirror shows nodes any bytes he likes: three of his folders."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from demo.fleet import Fleet
from embrasure.errors import Failed
from embrasure.trust import layout

TIMESTAMP = layout.metadata_file(layout.TIMESTAMP, 0)
TRIES, PAUSE_SECONDS = 100, 0.1


def copy_mirror(fleet: Fleet, name: str) -> Path:
    """Return a copy of what the mirror shows, taken while it shows all that was published."""
    public, published = fleet.folder / "m1" / "public", fleet.folder / "gateway" / "repository"
    folder = fleet.folder / "stolen-mirror" / name
    for _ in range(TRIES):
        before = (published / TIMESTAMP).read_bytes()
        if (public / TIMESTAMP).read_bytes() == before:
            shutil.copytree(public, folder)
            if before == (public / TIMESTAMP).read_bytes() == (folder / TIMESTAMP).read_bytes():
                return folder
            shutil.rmtree(folder)
        time.sleep(PAUSE_SECONDS)
    raise Failed("mirror", expected="to show what is published", got="something older")


def swap_blobs(folder: Path) -> None:
    """Every blob has one changed byte under its old name."""
    for blob in (folder / "blobs").glob("??/*"):
        raw = bytearray(blob.read_bytes())
        if raw:
            raw[-1] ^= 1
        blob.chmod(0o644)
        blob.write_bytes(bytes(raw) or b"!")


def mix(folder: Path, old: Path) -> None:
    """The newest snapshot's name holds an older snapshot, which the gateway did sign once."""
    place = folder / layout.metadata_file(layout.SNAPSHOT, snapshot_version(folder))
    place.chmod(0o644)
    former = old / layout.metadata_file(layout.SNAPSHOT, snapshot_version(old))
    place.write_bytes(former.read_bytes())


def snapshot_version(folder: Path) -> int:
    """Return the version of the snapshot that the folder's timestamp names."""
    stamp = json.loads((folder / "metadata" / "timestamp.json").read_bytes())
    return int(stamp["signed"]["meta"]["snapshot.json"]["version"])
