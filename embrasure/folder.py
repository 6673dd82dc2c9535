"""A folder held by its descriptor: every operation goes through it and never follows a link.

Who can rename or replace a folder on the way to ours cannot make us write somewhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from embrasure import fsops, kernel, limits, syncing
from embrasure.descriptor import (
    check_name,
    explained,
    explaining,
    fill,
    make_folders,
    read_bounded,
    write_all,
)
from embrasure.errors import Denied, NotFound, Refused
from embrasure.removal import empty

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO must not block the open
_NEW = os.O_WRONLY | os.O_EXCL
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.new")  # what a crash leaves before its rename


class Folder:
    """A held folder. Names are single parts; `child` and `read` also take `a/b` below it."""

    __slots__ = ("_text", "fd")

    def __init__(self, fd: int, path: Path | str) -> None:
        """Take over the descriptor; `path` is for sentences only."""
        self.fd = fd
        self._text = str(path)

    @property
    def path(self) -> Path:
        """Where the folder was when it was opened; for sentences only."""
        return Path(self._text)

    @classmethod
    def open(cls, path: Path, *, create: bool = False, mode: int = 0o700) -> Folder:
        """Return the folder at `path`; its last part is no link.

        create: make it, and what is missing above it, with `mode`, and sync each parent
        """
        if create:
            make_folders(path, mode)
        with explaining(str(path)):
            return cls(os.open(path, _DIRECTORY), path)

    def __enter__(self) -> Self:
        """Return the folder."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The descriptor is closed."""
        self.close()

    def close(self) -> None:
        """The descriptor is closed; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        """A forgotten folder is closed too."""
        if hasattr(self, "fd"):
            self.close()

    def _where(self, name: str) -> str:
        return f"{self._text}/{name}"

    def check_mine(self) -> None:
        """Return only when we own the folder and nobody else can write to it; raises Denied."""
        found = os.fstat(self.fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise Denied(
                str(self.path), expected="a folder of our own that no other user can write to",
                got=f"owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}",
                reason="bad-owner",
            )  # fmt: skip

    # Look

    def child(self, path: str) -> Folder:
        """Return the folder below this one; raises Refused when a link is on the way."""
        for part in path.split("/"):
            check_name(part)
        with explaining(self._text, path):
            return Folder(kernel.open_inside(self.fd, path, _DIRECTORY), self._where(path))

    def open_file(self, path: str) -> int:
        """Return a descriptor of the regular file below this folder, open for reading."""
        for part in path.split("/"):
            check_name(part)
        with explaining(self._text, path):
            fd = kernel.open_inside(self.fd, path, _READ)
        try:
            _check_regular(fd, self._where(path))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def read(self, path: str, *, limit: int) -> bytes:
        """Return the bytes of a regular file; raises Refused (`limit`) when there are more."""
        fd = self.open_file(path)
        try:
            return read_bounded(fd, limit=limit, thing=self._where(path))
        finally:
            os.close(fd)

    def pieces(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of a regular file, at most `limits.BUFFER_BYTES` at a time."""
        fd = self.open_file(path)
        try:
            with explaining(self._text, path):
                while piece := os.read(fd, limits.BUFFER_BYTES):
                    yield piece
        finally:
            os.close(fd)

    def stat(self, name: str) -> os.stat_result:
        """Return what `name` itself is (a link is not followed); raises NotFound."""
        with explaining(self._text, name):
            return os.stat(check_name(name), dir_fd=self.fd, follow_symlinks=False)

    def has(self, name: str) -> bool:
        """Return whether something is called `name` here."""
        try:
            self.stat(name)
        except NotFound:
            return False
        return True

    def list(self) -> list[str]:
        """Return the names in this folder, sorted."""
        with explaining(self._text):
            # Anew: btrfs shows a held folder as it was when it was opened.
            fd = os.open(".", _DIRECTORY, dir_fd=self.fd)
            try:
                return sorted(os.listdir(fd))  # noqa: PTH208  # pathlib takes no descriptor
            finally:
                os.close(fd)

    def readlink(self, name: str) -> str:
        """Return where the link points; raises Refused when it is no link."""
        try:
            return os.readlink(check_name(name), dir_fd=self.fd)
        except OSError as problem:
            if problem.errno == errno.EINVAL:
                raise Refused(
                    self._where(name), expected="a link", got="another kind", reason="bad-type"
                ) from None
            raise explained(problem, self._where(name)) from problem

    # Write

    def write(
        self, name: str, chunks: Iterable[bytes], *, mode: int = 0o400, limit: int | None = None,
        synced: bool = False) -> str:  # fmt: skip
        """Return the SHA-256 of the new file `name`, in hex, after all chunks are in it.

        limit: bytes; one more is refused. synced: they are on disk; else call `syncfs` once for
        many files. A file that could not be finished is removed.
        """
        with explaining(self._text, name):
            fd = fsops.create(self.fd, check_name(name), _NEW, 0o600)
            try:
                digest = fill(fd, chunks, limit=limit, thing=self._where(name))
                fsops.chmod(fd, mode)
                if synced:
                    fsops.fsync(fd)
            except BaseException:
                os.close(fd)
                self.unlink(name, missing_ok=True)
                raise
            os.close(fd)  # its error counts: NFS and quotas report here
            return digest

    def append(self, name: str, data: bytes, *, mode: int = 0o600) -> int:
        """Return the size of the file after `data` is behind its end; nothing is synced."""
        with explaining(self._text, name):
            flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK
            fd = fsops.create(self.fd, check_name(name), flags, mode)
            try:
                _check_regular(fd, self._where(name))
                write_all(fd, data)
                return os.fstat(fd).st_size
            finally:
                os.close(fd)

    def replace(self, name: str, data: bytes, *, mode: int = 0o600) -> None:
        """`name` holds exactly `data`, on disk, now or after a crash; else it is as it was."""
        self._put(name, data, mode=mode, replace=True)

    def create(self, name: str, data: bytes, *, mode: int = 0o600) -> None:
        """`name` is new, whole and on disk; raises Refused (`exists`), never half a file."""
        self._put(name, data, mode=mode, replace=False)

    def _put(self, name: str, data: bytes, *, mode: int, replace: bool) -> None:
        check_name(name)
        temporary = f".{secrets.token_hex(16)}.new"
        self.write(temporary, [data], mode=mode, synced=True)
        try:
            self.rename(temporary, self, name, replace=replace)
        except BaseException:
            self.unlink(temporary, missing_ok=True)
            raise
        self.fsync()

    def remove_unfinished(self) -> int:
        """Return how many unfinished files of a crash are gone; for who has all writers' lock."""
        stale = [name for name in self.list() if _UNFINISHED.fullmatch(name)]
        for name in stale:
            self.unlink(name, missing_ok=True)
        return len(stale)

    def mkdir(self, name: str, *, mode: int = 0o700) -> Folder:
        """Return the new folder `name`; raises Refused (`exists`)."""
        with explaining(self._text, name):
            fsops.mkdir(self.fd, check_name(name), mode)
        made = self.child(name)
        try:
            made.chmod(mode)  # whatever the umask says
        except BaseException:
            made.close()  # the error keeps this frame, and a held folder keeps its disk
            raise
        return made

    def ensure(self, name: str, *, mode: int = 0o700) -> Folder:
        """Return the folder `name`, made and synced if it was not there."""
        if not self.has(name):  # looked at first: a disk that takes nothing still has it
            with contextlib.suppress(Refused):
                self.mkdir(name, mode=mode).close()
                self.fsync()
        return self.child(name)

    def chmod_file(self, name: str, mode: int) -> None:
        """The regular file `name` has the mode."""
        fd = self.open_file(name)
        try:
            with explaining(self._text, name):
                fsops.chmod(fd, mode)
        finally:
            os.close(fd)

    def chmod(self, mode: int) -> None:
        """This folder has the mode."""
        with explaining(self._text):
            fsops.chmod(self.fd, mode)

    def mark_used(self, name: str) -> None:
        """`name` was used just now, as far as its times say."""
        with explaining(self._text, name):
            fsops.touch(self.fd, check_name(name))

    def chown(self, uid: int, gid: int) -> None:
        """This folder belongs to the user and the group; only root may do that."""
        with explaining(self._text):
            fsops.chown(self.fd, uid, gid)

    def give(self, name: str, uid: int, gid: int, mode: int) -> None:
        """The file or socket `name` here has owner and mode. For a folder only we write to."""
        with explaining(self._text, name):
            fsops.give(self.fd, check_name(name), uid, gid, mode)

    def symlink(self, target: str, name: str) -> None:
        """`name` is a new link to `target`; raises Refused (`exists`)."""
        with explaining(self._text, name):
            fsops.symlink(target, self.fd, check_name(name))

    def link(self, name: str, to: Folder, new: str) -> None:
        """The file `name` is also called `new` in folder `to`; raises Refused (`exists`)."""
        with explaining(to._text, new):
            fsops.link(self.fd, check_name(name), to.fd, check_name(new))

    def rename(self, name: str, to: Folder, new: str, *, replace: bool = False) -> None:
        """`name` is `new` in folder `to`, in one step; raises Refused (`exists`)."""
        with explaining(to._text, new):
            fsops.rename(self.fd, check_name(name), to.fd, check_name(new), replaces=replace)

    def exchange(self, name: str, other: str) -> None:
        """Each of the two names means what the other one meant, in one step."""
        with explaining(self._text, name):
            fsops.exchange(self.fd, check_name(name), check_name(other))

    def unlink(self, name: str, *, missing_ok: bool = False) -> None:
        """No file or link is called `name` here; raises NotFound."""
        with explaining(self._text, name):
            try:
                fsops.unlink(self.fd, check_name(name))
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def remove_tree(self, name: str) -> None:
        """Nothing is called `name` here; raises NotFound, Damaged for another file system in it."""
        if not stat.S_ISDIR(self.stat(name).st_mode):
            self.unlink(name)
            return
        with explaining(self._text, name):
            empty(self, name)
            fsops.rmdir(self.fd, name)

    # Make durable

    def fsync(self) -> None:
        """The names in this folder are on disk; an error is never retried."""
        with explaining(self._text):
            fsops.fsync(self.fd)

    def fsync_file(self, name: str) -> None:
        """The bytes of the file `name` are on disk."""
        fd = self.open_file(name)
        try:
            with explaining(self._text, name):
                fsops.fsync(fd)
        finally:
            os.close(fd)

    def syncfs(self) -> None:
        """All that was written to this file system is on disk; an error is never retried."""
        with explaining(self._text):
            fsops.syncfs(self.fd)
        if not kernel.syncfs_tells():
            syncing.fsync_below(self)


def _check_regular(fd: int, thing: str) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise Refused(thing, expected="a regular file", got="another kind", reason="bad-type")
