"""A small disk in a file: what its copy holds at any moment is what a power cut would leave.

Only what the file system has handed to the block layer is in the file; what was written and not
synced is not. Needs root, loop devices and mkfs.ext4.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IMAGE_BYTES = 64 * 1024 * 1024


def missing_need() -> str:
    """Return what this machine lacks for such a disk, empty when nothing."""
    if os.geteuid() != 0:
        return "root"
    if not Path("/dev/loop-control").exists():
        return "loop devices"
    return "" if shutil.which("mkfs.ext4") else "mkfs.ext4"


def make_image(path: Path) -> Path:
    """Return a new, empty disk."""
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^metadata_csum_seed", str(path)], check=True)
    return path


def copy_image(source: Path, target: Path) -> Path:
    """Return `target`, which holds what `source` holds at this moment."""
    subprocess.run(["cp", "--sparse=always", str(source), str(target)], check=True)
    return target


@contextmanager
def mounted(image: Path, where: Path) -> Iterator[Path]:
    """The disk is at `where`; its journal was replayed if it was cut off."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(where)], check=True)
    try:
        yield where
    finally:
        _unmount(where)


def _unmount(where: Path) -> None:
    """A process that was just killed may hold the mount for a moment."""
    for _ in range(100):
        if subprocess.run(["umount", str(where)], capture_output=True).returncode == 0:
            return
        time.sleep(0.02)
    subprocess.run(["umount", "-l", str(where)], check=True)
