"""Folders that are copied, compared and removed some ten thousand times."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def room() -> Iterator[Path]:
    """Yield a folder in memory, if there is enough, for a sync costs most of the time elsewhere."""
    memory = Path("/dev/shm")  # noqa: S108  # a fresh private folder below it
    found = os.statvfs(memory) if memory.is_dir() else None
    enough = found is not None and found.f_bavail * found.f_frsize > 2**30
    made = Path(tempfile.mkdtemp(prefix="sweep-", dir=memory if enough else None))
    try:
        yield made
    finally:
        remove(made)


# What may change at every start; `shared` is what an app writes.
_PASSING = ("run", "logs", "lock", "shared")


def fingerprint(folder: Path) -> frozenset[tuple[str, tuple[object, ...]]]:
    """Return what lies below the folder: a file that was written again is another one."""
    found: set[tuple[str, tuple[object, ...]]] = set()
    _look(str(folder), "", found)
    return frozenset(found)


def _look(folder: str, prefix: str, found: set[tuple[str, tuple[object, ...]]]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{prefix}{entry.name}"
            about = entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _PASSING:
                    found.add((path, (about.st_mode,)))
                    _look(entry.path, f"{path}/", found)
            else:
                found.add((path, (about.st_mode, about.st_size, about.st_ino, about.st_mtime_ns)))


# Never written in place, so a second name is as good as a copy; `run` looks that this stays so.
_SHARED = (".blobs", "releases", "trusted")


def copy_tree(source: Path, target: Path, *, ballast: bool = False) -> None:
    """`target` is a new copy; large things that nobody writes into are second names.

    ballast: it is a file of its own, whose removal makes room
    """
    # Of a base in the same room: its own first copy came from another file system.
    near = source.parent == target.parent
    _copy(str(source), str(target), near=near, shared=False, ballast=ballast)


def _copy(source: str, target: str, *, near: bool, shared: bool, ballast: bool) -> None:
    os.mkdir(target)  # noqa: PTH102  # thousands of times: plain text
    with os.scandir(source) as entries:
        for entry in entries:
            new = f"{target}/{entry.name}"
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), new)  # noqa: PTH115, PTH211  # as above
            elif entry.is_dir():
                held = shared or entry.name in _SHARED
                _copy(entry.path, new, near=near, shared=held, ballast=ballast)
            elif near and (shared or (entry.name == "ballast" and not ballast)):
                os.link(entry.path, new)
            else:
                shutil.copy2(entry.path, new)
    shutil.copystat(source, target)


def remove(folder: Path) -> None:
    if folder.exists():
        for path, _, _ in os.walk(folder):
            if not os.access(path, os.W_OK):
                os.chmod(path, 0o700)  # noqa: PTH101  # a release is 0555
        shutil.rmtree(folder)
