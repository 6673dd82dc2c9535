"""Real small file systems that refuse from one moment on: no block, no inode, a quota, read-only.

    with memory(folder) as disk:      # or ext4(folder), btrfs(folder)
        disk.refuse("bytes")          # one of disk.kinds
        ...                           # below disk.path: ENOSPC, EDQUOT or EROFS of the kernel
        disk.allow()

Nothing is pretended: limits are drawn in, or files take what is left. Needs root; loop devices for
all but `memory`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal, Protocol

from embrasure.fs import Folder
from tests.simulate.disk import MIB, make_image, mounted, unmount

Refusal = Literal["bytes", "inodes", "quota", "readonly"]
CODES: dict[Refusal, int] = {
    "bytes": errno.ENOSPC, "inodes": errno.ENOSPC, "quota": errno.EDQUOT, "readonly": errno.EROFS,
}  # fmt: skip
REASONS: dict[Refusal, str] = {  # what the node calls it
    "bytes": "no-space", "inodes": "no-space", "quota": "no-space", "readonly": "permissions",
}  # fmt: skip
_LIBC = ctypes.CDLL(None, use_errno=True)
_REMOUNT, BLOCK = 32, 4096
_ROOMY = {"size": str(256 * MIB), "nr_inodes": "100000"}


class Disk(Protocol):
    """A mounted file system."""

    path: Path
    kinds: tuple[Refusal, ...]
    gives_back: bool
    """Whether room is there again as soon as a file was removed."""

    def refuse(self, kind: Refusal) -> None:
        """From now on the kernel refuses what needs a block, an inode, or any change."""
        ...

    def allow(self) -> None:
        """It takes everything again; no file on it may be open."""
        ...


class Memory:
    """A tmpfs: its limits are drawn in around what lies on it."""

    kinds: tuple[Refusal, ...] = ("bytes", "inodes")
    gives_back = True

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse(self, kind: Refusal) -> None:
        found = os.statvfs(self.path)
        if kind == "bytes":
            self._limit(size=str((found.f_blocks - found.f_bfree) * found.f_frsize))
        else:
            self._limit(nr_inodes=str(found.f_files - found.f_ffree))

    def allow(self) -> None:
        self._limit()

    def _limit(self, **limits: str) -> None:
        options = ",".join(f"{name}={value}" for name, value in {**_ROOMY, **limits}.items())
        if _LIBC.mount(None, os.fsencode(self.path), None, _REMOUNT, options.encode()):
            raise OSError(ctypes.get_errno(), "remount", str(self.path))


@contextmanager
def memory(folder: Path) -> Iterator[Memory]:
    """Yield a tmpfs of its own."""
    path = folder / "disk"
    path.mkdir()
    options = ",".join(f"{name}={value}" for name, value in _ROOMY.items())
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], check=True)
    try:
        yield Memory(path)
    finally:
        subprocess.run(["umount", path], check=True)


class Ext4:
    """An ext4: files take what is left; an error of its own makes it read-only under everybody."""

    kinds: tuple[Refusal, ...] = ("bytes", "inodes", "readonly")
    gives_back = True

    def __init__(self, path: Path, image: Path) -> None:
        self.path, self._image = path, image
        self._mount()

    def _mount(self) -> None:
        options = "loop,commit=600,errors=remount-ro"
        subprocess.run(["mount", "-o", options, self._image, self.path], check=True)
        self._fillers = self.path / "fillers"
        self._fillers.mkdir(exist_ok=True)
        self._is_readonly = False

    def refuse(self, kind: Refusal) -> None:
        if kind == "readonly":
            self._is_readonly = True
            with Folder.open(self.path) as folder:
                folder.syncfs()  # what an error takes of the past is `power.py`'s part
            number = self.path.stat().st_dev
            device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
            Path(f"/sys/fs/ext4/{device.name}/trigger_fs_error").write_text("sweep")
        elif kind == "inodes":
            self._take_inodes()
        else:
            self._take_bytes()

    def _take_bytes(self) -> None:
        """Not one block is left."""
        with (self._fillers / "bytes").open("wb") as file:
            end, piece = 0, os.statvfs(self.path).f_bfree * BLOCK
            while piece >= BLOCK:
                try:
                    os.posix_fallocate(file.fileno(), end, piece)
                    end += piece
                except OSError:
                    piece = piece // 2 // BLOCK * BLOCK

    def _take_inodes(self) -> None:
        """Not one more file can be made; ext4 may say so once too early, of one just removed."""
        for part in range(3):
            with contextlib.suppress(OSError):
                for number in range(os.statvfs(self.path).f_ffree + 1):
                    (self._fillers / f"{part}-{number}").touch()

    def allow(self) -> None:
        if self._is_readonly:
            unmount(self.path)
            checked = subprocess.run(["e2fsck", "-fy", self._image], capture_output=True)
            if checked.returncode not in (0, 1):
                raise RuntimeError(f"e2fsck: {checked.stdout.decode()}")
            self._mount()
        for path in self._fillers.iterdir():
            path.unlink()


@contextmanager
def ext4(folder: Path) -> Iterator[Ext4]:
    """Yield a small ext4 in a file."""
    image, path = folder / "ext4.img", folder / "disk"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(48 * MIB)
    make = ["mkfs.ext4", "-q", "-b", str(BLOCK), "-m", "0", "-N", "4000"]
    subprocess.run([*make, image], check=True)
    try:
        yield Ext4(path, image)
    finally:
        unmount(path)


class Btrfs:
    """A btrfs with a quota: from one moment on it is lower than what lies there already."""

    kinds: tuple[Refusal, ...] = ("quota",)
    gives_back = False  # the quota is counted anew with the next commit

    def __init__(self, top: Path) -> None:
        # A part of its own: a change of its quota is then no write below it.
        self._top, self.path = top, top / "part"
        _btrfs("quota", "enable", top)
        _btrfs("subvolume", "create", self.path)
        self._group = f"0/{_btrfs('inspect-internal', 'rootid', self.path).strip()}"

    def refuse(self, kind: Refusal) -> None:
        self._limit("4096")

    def allow(self) -> None:
        self._limit("none")

    def _limit(self, most: str) -> None:
        _btrfs("qgroup", "limit", most, self._group, self._top)


@contextmanager
def btrfs(folder: Path) -> Iterator[Btrfs]:
    """Yield a small btrfs in a file, its quota counted."""
    path = folder / "disk"
    with mounted(make_image(folder / "btrfs.img", "btrfs"), path, "btrfs"):
        yield Btrfs(path)


def _btrfs(*words: object) -> str:
    done = subprocess.run(["btrfs", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"btrfs {words}: {done.stderr}")
    return done.stdout


DISKS: dict[str, Callable[[Path], AbstractContextManager[Disk]]] = {
    "memory": memory,
    "ext4": ext4,
    "btrfs": btrfs,
}
