"""A small disk in a file: what its copy holds at any moment is what a power cut would leave.

Only what the file system has handed to the block layer is in the file; what was written and not
synced is not. Needs root, loop devices and mkfs.ext4.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1024 * 1024
# MiB of a disk, how it is made, and how it is mounted. None commits by itself meanwhile: what a cut
# leaves is then decided by our calls alone, and a copy of the image is of one moment.
KINDS = {
    "ext4": (24, ["mkfs.ext4", "-q", "-b", "4096", "-O", "^metadata_csum_seed"], "loop,commit=600"),
    "xfs": (320, ["mkfs.xfs", "-q"], "loop,nouuid"),
    "btrfs": (128, ["mkfs.btrfs", "-q"], "loop,commit=600"),
}


def missing_need(kind: str = "ext4") -> str:
    """Return what this machine lacks for such a disk, empty when nothing."""
    if os.geteuid() != 0:
        return "root"
    if not Path("/dev/loop-control").exists():
        return "loop devices"
    return "" if shutil.which(f"mkfs.{kind}") else f"mkfs.{kind}"


@contextmanager
def roomy(fallback: Path, *, needs: int) -> Iterator[Path]:
    """Yield a folder for images: in memory where there is room, for syncs there take no time."""
    memory = Path("/dev/shm")  # noqa: S108  # a fresh private folder below it
    found = os.statvfs(memory) if memory.is_dir() else None
    if found is None or found.f_bavail * found.f_frsize < needs:
        yield fallback
        return
    with tempfile.TemporaryDirectory(prefix="embrasure-", dir=memory) as folder:
        yield Path(folder)


def make_image(path: Path, kind: str = "ext4") -> Path:
    """Return a new, empty disk."""
    size, make, _ = KINDS[kind]
    with path.open("wb") as file:
        file.truncate(size * MIB)
    subprocess.run([*make, str(path)], check=True)
    return path


def copy_image(source: Path, target: Path) -> Path:
    """Return `target`, which holds what `source` holds at this moment; zeros are holes."""
    zeros = bytes(MIB)
    with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
        at = 0
        while piece := old.read(MIB):
            if piece != zeros[: len(piece)]:
                new.seek(at)
                new.write(piece)
            at += len(piece)
        new.truncate(at)
    return target


@contextmanager
def mounted(image: Path, where: Path, kind: str = "ext4") -> Iterator[Path]:
    """The disk is at `where`; its journal was replayed if it was cut off."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", KINDS[kind][2], str(image), str(where)], check=True)
    try:
        yield where
    finally:
        unmount(where)


def unmount(where: Path) -> None:
    """Nothing is mounted there. A process that was just killed may hold the mount for a moment."""
    for _ in range(100):
        if subprocess.run(["umount", str(where)], capture_output=True).returncode == 0:
            return
        time.sleep(0.02)
    subprocess.run(["umount", "-l", str(where)], check=True)
