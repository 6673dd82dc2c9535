"""One blob on its way into a store: counted, hashed from its first byte, resumed at its last."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from types import TracebackType
from typing import TYPE_CHECKING, Self

from embrasure import fsops, limits
from embrasure.descriptor import explained, explaining, write_all
from embrasure.errors import Damaged, Failed, NotFound, Refused, Unavailable
from embrasure.fs import Folder, free

if TYPE_CHECKING:
    from embrasure.bundle.store import BlobStore

BLOB_MODE = 0o444


class BlobWriter:
    """One blob on its way in. Leave it without `commit`, and what came stays for the next one."""

    def __init__(self, store: BlobStore, digest: str, *, length: int) -> None:
        """See `BlobStore.writer`."""
        self.digest = digest
        self.length = length
        self.offset = 0  # bytes already held: what is asked for starts here
        self._store = store
        self._hashed = hashlib.sha256()
        self._fd = -1

    def __enter__(self) -> Self:
        """Return the writer after it has hashed again what an earlier one left.

        Raises Unavailable (`busy`), Failed (`no-space`).
        """
        try:
            self._open()
            self._rehash()
            self._reserve()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The file is closed."""
        self._close()

    def write(self, piece: bytes) -> None:
        """The piece is behind what was held; raises Refused (`limit`) beyond the length."""
        if self.offset + len(piece) > self.length:
            raise Refused(
                f"blob {self.digest}",
                expected=f"{self.length} bytes",
                got="more",
                reason="limit",
            )
        with explaining(f"blob {self.digest}"):
            write_all(self._fd, piece)
        self._hashed.update(piece)
        self.offset += len(piece)

    def commit(self) -> None:
        """The blob is readable through the store, and durable after its `sync`.

        Raises Refused: `bad-length` (what came stays), `bad-hash` (what came is dropped), Failed
        (`io`: a sync failed meanwhile).
        """
        if self.offset != self.length:
            raise Refused(
                f"blob {self.digest}",
                expected=f"{self.length} bytes",
                got=f"{self.offset}",
                reason="bad-length",
            )
        if self._hashed.hexdigest() != self.digest:
            self._store._drop_partial(self.digest)
            raise Refused(
                f"blob {self.digest}",
                expected="the bytes of its name",
                got=f"bytes of {self._hashed.hexdigest()}",
                reason="bad-hash",
            )
        with explaining(f"blob {self.digest}"):
            seal(self._fd)
        self._store._add_pending(self)

    def check_kept(self) -> None:
        """Return only when nothing of the blob was lost while it came; raises Failed (`io`)."""
        if not self._store._is_partial(self._fd, self.digest):
            raise Failed(f"blob {self.digest}", expected="a disk that takes it",
                         got="a sync that failed meanwhile", reason="io")  # fmt: skip

    def _open(self) -> None:
        while True:
            self._fd = self._store._open_partial(self.digest)
            found = os.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise Damaged(f"blob {self.digest}", expected="a file of our own", got="another")
            if not lock(self._fd):
                raise Unavailable(
                    f"blob {self.digest}",
                    expected="one writer",
                    got="another one at work",
                    reason="busy",
                )
            # Whoever held the lock before us may have finished and renamed the file.
            if self._store._is_partial(self._fd, self.digest):
                return
            self._close()

    def _rehash(self) -> None:
        with explaining(f"blob {self.digest}"):
            if os.fstat(self._fd).st_size > self.length:
                fsops.truncate(self._fd, 0)
            while piece := os.read(self._fd, limits.BUFFER_BYTES):
                self._hashed.update(piece)
                self.offset += len(piece)

    def _reserve(self) -> None:
        if self.offset == self.length:
            return
        try:
            fsops.allocate(self._fd, self.length)
        except OSError as problem:
            error = explained(problem, f"blob {self.digest}")
            if error.reason != "no-space":
                raise error from problem
            raise Failed(
                f"blob {self.digest}",
                expected=f"{self.length - self.offset} bytes of disk",
                got=f"{free(self._store.folder).bytes} bytes",
                hint="free space, then try again: what came is kept",
                reason="no-space",
            ) from problem

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def seal(fd: int) -> None:
    """The file of a whole blob is as it stays: nobody writes to it any more."""
    fsops.chmod(fd, BLOB_MODE)


def open_partial(partials: Folder, digest: str, *, is_whole: bool) -> int:
    """Return a descriptor of what is here of the blob, to be read and written, made if need be.

    is_whole: it is sealed for good; without root's rights it is then only read
    What a crash left sealed and without a name, perhaps of zeros, may be written to again.
    """
    with explaining(f"blob {digest}"):
        try:
            return fsops.create(partials.fd, digest, os.O_RDWR, 0o600)
        except PermissionError:
            fd = partials.open_file(digest)
        if is_whole:
            return fd
        try:
            if os.fstat(fd).st_nlink == 1:  # a file of our own
                fsops.chmod(fd, 0o600)
        finally:
            os.close(fd)
        return fsops.create(partials.fd, digest, os.O_RDWR, 0o600)


def lock(fd: int) -> bool:
    """Return whether nobody else holds this open file; it is ours until it is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_written(partials: Folder, digest: str) -> bool:
    """Return whether somebody writes this partial file now."""
    try:
        fd = partials.open_file(digest)
    except NotFound:
        return False
    try:
        return not lock(fd)
    finally:
        os.close(fd)
