"""Blobs on disk, each named by the SHA-256 of its bytes; a broken transfer goes on at its byte.

`<aa>/<sha256>` holds whole blobs, `.partial/<sha256>` what is not whole or not yet durable.
One process writes a store at a time; its threads may share it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import stat
import threading
from collections.abc import Container, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from embrasure import fsops, limits
from embrasure.descriptor import explained, explaining, write_all
from embrasure.errors import Damaged, EmbrasureError, Failed, NotFound, Refused, Unavailable
from embrasure.fs import Folder, free
from embrasure.trust.layout import DIGEST

PARTIAL = ".partial"
_BLOB_MODE = 0o444


def check_digest(digest: str) -> str:
    """Return `digest` when it is 64 lower-case hex digits; raises Refused (`bad-path`)."""
    if not DIGEST.fullmatch(digest):
        raise Refused("blob", expected="64 hex digits", got=digest, reason="bad-path")
    return digest


class BlobStore:
    """A folder of blobs. `writer`, then `commit`, then one `sync` for many blobs."""

    def __init__(self, folder: Path, *, mode: int = 0o700) -> None:
        """Make the folder if it is not there; mode: of the folders (blobs are 0444)."""
        self.folder = folder
        self._mode = mode
        self._root = Folder.open(folder, create=True, mode=mode)
        self._partials = self._root.ensure(PARTIAL)
        self._mutex = threading.Lock()
        self._pending: dict[str, int] = {}  # digest -> length: whole, not yet durable

    def close(self) -> None:
        """The descriptors are closed; blobs that were not synced stay as partial files."""
        self._partials.close()
        self._root.close()

    def has(self, digest: str, *, length: int) -> bool:
        """Return whether the blob is here whole; its bytes are hashed when they are read."""
        if self._pending.get(check_digest(digest)) == length:
            return True
        return self._size(digest) == length

    def path(self, digest: str) -> Path:
        """Return where the bytes of the blob are now, or will be."""
        if check_digest(digest) in self._pending:
            return self.folder / PARTIAL / digest
        return self.folder / digest[:2] / digest

    def read(self, digest: str) -> Iterator[bytes]:
        """Yield the bytes of the blob; raises NotFound, and Damaged at the end if they are others.

        A caller that acts on the bytes as they come must not commit before the end.
        """
        hashed = hashlib.sha256()
        fd = self._open_blob(digest)
        try:
            with explaining(f"blob {digest}"):
                while piece := os.read(fd, limits.BUFFER_BYTES):
                    hashed.update(piece)
                    yield piece
        finally:
            os.close(fd)
        if hashed.hexdigest() != digest:
            raise Damaged(
                f"blob {digest}",
                expected="the bytes of its name",
                got="others",
                hint="forget it, then fetch it again",
                reason="bad-hash",
            )

    def writer(self, digest: str, *, length: int) -> BlobWriter:
        """Return a writer that goes on where an earlier one broke off."""
        if self._pending.get(check_digest(digest), length) != length:
            raise Refused(
                f"blob {digest}",
                expected=f"{self._pending[digest]} bytes",
                got=f"{length}",
                reason="bad-length",
            )
        return BlobWriter(self, digest, length=length)

    def sync(self) -> None:
        """Every committed blob is durable under its own name; raises Failed, and drops them.

        Order: bytes, names, folders. So a name never stands for bytes that a crash has lost.
        """
        with self._mutex:
            pending = dict(self._pending)
            if not pending:
                return
            try:
                self._partials.syncfs()
            except EmbrasureError:
                # The kernel may have marked lost pages clean: a second sync would lie.
                for digest in pending:
                    self._partials.unlink(digest, missing_ok=True)
                    del self._pending[digest]
                raise
            for aa, digests in itertools.groupby(sorted(pending), key=lambda digest: digest[:2]):
                with self._root.ensure(aa, mode=self._mode) as folder:
                    for digest in digests:
                        self._name(digest, folder)
                    folder.fsync()

    def sweep(self, live: Container[str]) -> int:
        """Return how many blobs and partial files are gone; those in `live` stay.

        Nobody may add a blob that `live` does not know meanwhile: callers hold their lock.
        """
        gone = 0
        for aa in (name for name in self._root.list() if len(name) == 2):
            with self._root.child(aa) as folder:
                for digest in (d for d in folder.list() if d not in live):
                    folder.unlink(digest, missing_ok=True)
                    gone += 1
        with self._mutex:
            for digest in (d for d in self._partials.list() if d not in live):
                if digest not in self._pending and not self._is_written(digest):
                    self._partials.unlink(digest, missing_ok=True)
                    gone += 1
        return gone

    def forget(self, digest: str) -> None:
        """The blob is not here; used for one that was found damaged."""
        with self._mutex:
            self._pending.pop(check_digest(digest), None)
            self._partials.unlink(digest, missing_ok=True)
        if self._root.has(digest[:2]):
            with self._root.child(digest[:2]) as folder:
                folder.unlink(digest, missing_ok=True)

    def held_bytes(self, digest: str) -> int:
        """Return how many bytes of the blob are here, whole or not."""
        whole = self._size(check_digest(digest))
        if whole is not None:
            return whole
        try:
            return self._partials.stat(digest).st_size
        except NotFound:
            return 0

    def _open_blob(self, digest: str) -> int:
        if check_digest(digest) in self._pending:
            with contextlib.suppress(NotFound):  # named by another thread's sync meanwhile
                return self._partials.open_file(digest)
        return self._root.open_file(f"{digest[:2]}/{digest}")

    def _size(self, digest: str) -> int | None:
        try:
            with self._root.child(digest[:2]) as folder:
                found = folder.stat(digest)
        except NotFound:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def _name(self, digest: str, folder: Folder) -> None:
        self._partials.chmod_file(digest, _BLOB_MODE)
        self._partials.rename(digest, folder, digest, replace=True)
        del self._pending[digest]

    def _is_written(self, digest: str) -> bool:
        try:
            fd = self._partials.open_file(digest)
        except NotFound:
            return False
        try:
            return not _lock(fd)
        finally:
            os.close(fd)

    # For the writer

    def _open_partial(self, digest: str) -> int:
        with explaining(f"blob {digest}"):
            return fsops.create(self._partials.fd, digest, os.O_RDWR, 0o600)

    def _is_partial(self, fd: int, digest: str) -> bool:
        """Return whether the name still stands for what the descriptor holds."""
        try:
            found = self._partials.stat(digest)
        except NotFound:
            return False
        return os.path.samestat(found, os.fstat(fd))

    def _drop_partial(self, digest: str) -> None:
        self._partials.unlink(digest, missing_ok=True)

    def _add_pending(self, digest: str, length: int) -> None:
        with self._mutex:
            self._pending[digest] = length


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

        Raises Refused: `bad-length` (what came stays), `bad-hash` (what came is dropped).
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
        self._store._add_pending(self.digest, self.length)

    def _open(self) -> None:
        while True:
            self._fd = self._store._open_partial(self.digest)
            found = os.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise Damaged(f"blob {self.digest}", expected="a file of our own", got="another")
            if not _lock(self._fd):
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


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
