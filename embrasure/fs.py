"""Every crash-safe file operation, by path: read bounded, replace whole, create once, lock.

Whatever a program of ours writes goes through here or through a `Folder`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embrasure import fsops, limits
from embrasure.descriptor import explaining, read_bounded
from embrasure.errors import Denied, NotFound, Refused, Unavailable
from embrasure.folder import Folder as Folder

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_LOCK_STEP_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Space:
    """What a file system has left for us. One that counts no inodes has `limits.MAX_INTEGER`."""

    bytes: int
    inodes: int


def read_file(path: Path, *, limit: int, private: bool = False, unshared: bool = False) -> bytes:
    """Return the bytes of the regular file at `path`, whose last part is no link.

    limit: bytes
    private: it must be ours, with one name, and no right for anybody else (keys, floors)
    unshared: it must be ours or root's, and nobody else may write to it (configuration)
    Raises NotFound, Refused (`bad-link`, `bad-type`, `limit`), Denied (`permissions`).
    """
    with explaining(str(path)):
        fd = os.open(path, _READ)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Refused(
                str(path), expected="a regular file", got="another kind", reason="bad-type"
            )
        if private:
            check_private(found, str(path))
        if unshared:
            check_unshared(found, str(path))
        if found.st_size > limit:
            raise Refused(
                str(path),
                expected=f"at most {limit} bytes",
                got=f"{found.st_size} bytes",
                reason="limit",
            )
        return read_bounded(fd, limit=limit, thing=str(path), seems=found.st_size)
    finally:
        os.close(fd)


def check_private(found: os.stat_result, thing: str) -> None:
    """Return only when a file is ours alone: owner, mode, one name; raises Denied."""
    if found.st_uid == os.geteuid() and not found.st_mode & 0o077 and found.st_nlink == 1:
        return
    raise Denied(
        thing,
        expected="a file of our own, mode 0600 or less, with one name",
        got=f"owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}, {found.st_nlink} names",
        hint=shlex.join(["chmod", "600", thing]),
        reason="permissions",
    )


def check_unshared(found: os.stat_result, thing: str) -> None:
    """Return only when nobody but its owner (we or root) can write to a file; raises Denied."""
    if found.st_uid in (os.geteuid(), 0) and not found.st_mode & 0o022:
        return
    raise Denied(
        thing,
        expected="a file of our own or of root that no other user can write to",
        got=f"owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}",
        hint=shlex.join(["chmod", "go-w", thing]),
        reason="permissions",
    )


def replace_file(folder: Path, name: str, data: bytes, *, mode: int = 0o600) -> None:
    """`folder/name` holds exactly `data`, on disk, now or after a crash; else it is as it was."""
    with Folder.open(folder) as held:
        held.replace(name, data, mode=mode)


def create_file(folder: Path, name: str, data: bytes, *, mode: int = 0o600) -> None:
    """`folder/name` is new, whole and on disk; raises Refused (`exists`), never half a file."""
    with Folder.open(folder) as held:
        held.create(name, data, mode=mode)


@contextlib.contextmanager
def lock(
    path: Path, *, seconds: float, hint: str = "wait for the other command to end"
) -> Iterator[None]:
    """This process alone holds the lock file; raises Unavailable (`busy`) after `seconds`.

    hint: what to do when another process has it
    The kernel lets go of it when the process ends, however it ends. Threads of one process
    shut each other out as well. The file itself stays.
    """
    with Folder.open(path.parent.resolve()) as folder, explaining(str(path)):
        fd = _open_lock(folder, path.name)
    try:
        until = time.monotonic() + seconds
        while not _locked(fd):
            if time.monotonic() >= until:
                raise Unavailable(
                    str(path),
                    expected=f"the lock within {seconds:g} s",
                    got="another process that holds it",
                    hint=hint,
                    reason="busy",
                )
            time.sleep(_LOCK_STEP_SECONDS)
        try:
            yield
        finally:
            # A child between fork and exec may still hold a copy of the descriptor.
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _open_lock(folder: Folder, name: str) -> int:
    try:
        return fsops.create(folder.fd, name, os.O_RDWR, 0o600)
    except OSError as problem:
        if problem.errno != errno.EROFS:
            raise
        # To lock is not to write: what starts on a disk that turned read-only has its lock, too.
        with contextlib.suppress(NotFound):
            return folder.open_file(name)
        raise


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def free(path: Path) -> Space:
    """Return what an unprivileged user may still write to the file system of `path`."""
    with explaining(str(path)):
        found = os.statvfs(path)
    inodes = found.f_favail if found.f_files else limits.MAX_INTEGER  # btrfs counts none
    return Space(bytes=found.f_bavail * found.f_frsize, inodes=inodes)
