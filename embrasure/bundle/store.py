"""Blobs on disk, each named by the SHA-256 of its bytes; a broken transfer goes on at its byte.

`<aa>/<sha256>` holds whole blobs, `.partial/<sha256>` what is not whole or not yet durable, unless
it lies in a `Place` elsewhere. One process writes a store at a time; its threads may share it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import secrets
import stat
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path

from embrasure import fsops, limits
from embrasure.bundle.digests import check_bytes, check_digest, check_digests
from embrasure.bundle.incoming import BLOB_MODE, BlobWriter, is_written, open_partial, seal
from embrasure.bundle.place import Place
from embrasure.bundle.twins import TWIN, Twins, hash_of
from embrasure.descriptor import explained, explaining, write_all
from embrasure.errors import Damaged, EmbrasureError, NotFound, Refused
from embrasure.fs import Folder

PARTIAL = ".partial"
_FEW_FOLDERS = 8  # synced one by one


def is_young(folder: Folder, name: str, unused_s: float, now: float) -> bool:
    """Return whether the file came, or was used, less than `unused_s` before `now`.

    One from far in the future is as old as can be: the clock was set back, and nobody knows.
    """
    if not unused_s:
        return False
    try:
        return -limits.SKEW_SECONDS <= now - folder.stat(name).st_mtime < unused_s
    except NotFound:
        return False


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
        self._placed: dict[str, Place] = {}  # where those of them lie that are no partial files
        self._twinned = set[str]()  # names of twins that have none on the shelf yet

    def close(self) -> None:
        """The descriptors are closed; blobs that were not synced stay as partial files."""
        self._partials.close()
        self._root.close()

    def has(self, digest: str, *, length: int) -> bool:
        """Return whether the blob is here whole; its bytes are hashed when they are read."""
        if self._pending.get(check_digest(digest)) == length:
            return True
        return self._size(digest) == length

    def missing(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Return those of `wanted` (digest -> length) that are not here whole."""
        check_digests(wanted)
        here: dict[str, int] = {}
        folders = frozenset(self._root.list())
        for aa, digests in itertools.groupby(sorted(wanted), key=lambda digest: digest[:2]):
            if aa in folders:
                here.update(self._lengths(aa, digests))
        here.update(self._pending)
        return {digest: length for digest, length in wanted.items() if here.get(digest) != length}

    def _lengths(self, aa: str, digests: Iterable[str]) -> dict[str, int]:
        """Return digest -> length of those blobs that the folder has: no other one is looked at."""
        found: dict[str, int] = {}
        with contextlib.suppress(NotFound), self._root.child(aa) as folder:
            for digest in digests:
                # An error costs ten times as much as a no, and a list of the folder grows.
                if os.access(digest, os.F_OK, dir_fd=folder.fd):
                    seen = folder.stat(digest)
                    if stat.S_ISREG(seen.st_mode):
                        found[digest] = seen.st_size
        return found

    def still_to_come(self, missing: Mapping[str, int]) -> int:
        """Return how many bytes of the `missing` blobs no partial file has yet."""
        held = {name for name in self._partials.list() if name in missing}
        return sum(missing.values()) - sum(
            min(self._partials.stat(name).st_size, missing[name]) for name in held
        )

    def path(self, digest: str) -> Path:
        """Return where the bytes of the blob are now, or will be."""
        if check_digest(digest) in self._pending and digest not in self._placed:
            return self.folder / PARTIAL / digest
        return self.folder / digest[:2] / digest

    def read(self, digest: str) -> Iterator[bytes]:
        """Yield the bytes of the blob; raises NotFound, and Damaged at the end if they are others.

        A caller that acts on the bytes as they come must not commit before the end.
        """
        hashed = hashlib.sha256()
        fd = self.open(digest)
        try:
            with explaining(f"blob {digest}"):
                while piece := os.read(fd, limits.BUFFER_BYTES):
                    hashed.update(piece)
                    yield piece
        finally:
            os.close(fd)
        if hashed.hexdigest() != digest:
            raise Damaged(f"blob {digest}", expected="the bytes of its name", got="others",
                          hint="forget it, then fetch it again", reason="bad-hash")  # fmt: skip

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

    def put(self, digest: str, data: bytes | memoryview, *, at: Place | None = None) -> bool:
        """Return whether the blob came in just now: readable, and durable after `sync`; False when
        an earlier transfer has left something of it, where `writer` goes on.

        For blobs that fit into memory: nothing is locked, nothing is set aside on the disk.
        at: where it lies; None: in a partial file
        Raises Refused (`bad-hash`) before anything is written, Failed (`no-space`).
        """
        check_bytes(check_digest(digest), data)
        with self._mutex:  # a sweep must not take it for one that nobody writes
            try:
                fd = self._create(digest) if at is None else at.create(digest)
            except FileExistsError:
                return False
            except OSError as problem:
                raise explained(problem, f"blob {digest}") from problem
            if at is not None:
                self._placed[digest] = at
            try:
                with explaining(f"blob {digest}"):
                    write_all(fd, data)
                    seal(fd)
            except BaseException:
                os.close(fd)
                self._drop(digest)
                raise
            os.close(fd)
            self._pending[digest] = len(data)
        return True

    def _create(self, digest: str) -> int:
        return fsops.create(self._partials.fd, digest, os.O_WRONLY | os.O_EXCL, 0o600)

    def _drop(self, digest: str) -> None:
        """What is not durable of the blob is gone."""
        if (place := self._placed.pop(digest, None)) is not None:
            place.drop(digest)
        else:
            self._partials.unlink(digest, missing_ok=True)

    def leave(self, place: Place) -> None:
        """What lies there and was not synced is no blob: its place may go."""
        with self._mutex:
            for digest in [one for one, at in self._placed.items() if at is place]:
                del self._placed[digest], self._pending[digest]

    def begun(self) -> frozenset[str]:
        """Return the digests of which an earlier transfer has left something."""
        return frozenset(self._partials.list())

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
                self._lose()
                raise
            folders = {digest[:2] for digest in pending}
            if many := len(folders) > _FEW_FOLDERS:
                for aa in folders.difference(self._root.list()):
                    self._root.mkdir(aa, mode=self._mode).close()
            for aa, digests in itertools.groupby(sorted(pending), key=lambda digest: digest[:2]):
                with self._open(aa, is_made=many) as folder, explaining(f"blobs {aa}"):
                    for digest in digests:
                        self._name(digest, folder)
                    if not many:
                        folder.fsync()
            if many:
                self._root.syncfs()  # one, in place of one for each folder

    def _lose(self) -> None:
        """Nothing that waits is a blob, even where the disk keeps the files; no transfer goes on.

        The kernel may have marked lost pages clean: a second sync would lie, and so would a hash.
        """
        self._pending.clear()
        names = set(self._placed)
        with contextlib.suppress(EmbrasureError):
            names.update(self._partials.list())
        for digest in names.difference(self._twinned):
            with contextlib.suppress(EmbrasureError):
                self._drop(digest)

    def sweep(self, live: Container[str], *, unused_s: float = 0, now: float = 0) -> int:
        """Return how many blobs and partial files are gone; those in `live` stay.

        unused_s: what came within that time of `now` (Unix seconds) stays: somebody goes on with it
        The lock is held for one of the 256 folders at a time, never for the whole sweep.
        """
        gone = 0
        for aa in (name for name in self._root.list() if len(name) == 2):
            with self._mutex, self._root.child(aa) as folder:
                for name in folder.list():
                    if name.removesuffix(TWIN) in live or is_young(folder, name, unused_s, now):
                        continue
                    folder.unlink(name, missing_ok=True)
                    gone += 1
        with self._mutex:
            for name in sorted({*self._partials.list()}.difference(self._pending, self._twinned)):
                is_wanted = name in live and self._size(name) is None
                if is_wanted or is_young(self._partials, name, unused_s, now):
                    continue
                if not is_written(self._partials, name):
                    self._partials.unlink(name, missing_ok=True)
                    gone += 1
        return gone

    def forget(self, digest: str) -> None:
        """The blob is not here; used for one that was found damaged."""
        with self._mutex:
            self._pending.pop(check_digest(digest), None)
            self._drop(digest)
        if self._root.has(digest[:2]):
            with self._root.child(digest[:2]) as folder:
                folder.unlink(digest, missing_ok=True)
                folder.unlink(digest + TWIN, missing_ok=True)

    def keep_good(self, digest: str, *, each: Callable[[], object] = bool) -> bool:
        """Return whether the blob is here with the bytes of its name; else it is gone, as is a twin
        with other bytes. each: called for each piece that is hashed, and may end it all.
        """
        if check_digest(digest) in self._pending:
            return True  # hashed on its way in
        if self._root.has(digest[:2]):
            with self._root.child(digest[:2]) as folder:
                if hash_of(folder, twin := digest + TWIN, each) != digest:
                    folder.unlink(twin, missing_ok=True)
                if hash_of(folder, digest, each) == digest:
                    return True
        self.forget(digest)
        return False

    def shelf(self, digest: str) -> Folder:
        """Return the folder in which the blob lies, open, for the caller to close."""
        return self._root.child(check_digest(digest)[:2])

    def twins(self) -> Twins:
        """Return the twins that one release needs, none so far."""
        return Twins(self._partials, self._twinned, self._mutex)

    @contextlib.contextmanager
    def probe(self, data: bytes) -> Iterator[tuple[Folder, str]]:
        """Yield folder and name of a file that lies where blobs lie, and is none; then it goes."""
        name = f".probe-{secrets.token_hex(8)}"
        self._partials.write(name, [data], mode=BLOB_MODE)
        try:
            yield self._partials, name
        finally:
            self._partials.unlink(name)

    def held_bytes(self, digest: str) -> int:
        """Return how many bytes of the blob are here, whole or not."""
        whole = self._size(check_digest(digest))
        if whole is not None:
            return whole
        try:
            return self._partials.stat(digest).st_size
        except NotFound:
            return 0

    def open(self, digest: str) -> int:
        """Return a descriptor of the blob's bytes, which nobody has hashed since they are here."""
        if check_digest(digest) in self._pending:
            with contextlib.suppress(NotFound):  # named by another thread's sync meanwhile
                place = self._placed.get(digest)
                return self._partials.open_file(digest) if place is None else place.open(digest)
        return self._root.open_file(f"{digest[:2]}/{digest}")

    def _size(self, digest: str) -> int | None:
        try:
            with self._root.child(digest[:2]) as folder:
                found = folder.stat(digest)
        except NotFound:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def _open(self, aa: str, *, is_made: bool) -> Folder:
        return self._root.child(aa) if is_made else self._root.ensure(aa, mode=self._mode)

    def _name(self, digest: str, shelf: Folder) -> None:
        if (place := self._placed.get(digest)) is None:
            fsops.rename(self._partials.fd, digest, shelf.fd, digest, replaces=True)
        else:
            place.name(digest, shelf)
            del self._placed[digest]
        del self._pending[digest]

    # For the writer

    def _open_partial(self, digest: str) -> int:
        # A pending one is whole and hashed: there is nothing to write to it.
        return open_partial(self._partials, digest, is_whole=digest in self._pending)

    def _is_partial(self, fd: int, digest: str) -> bool:
        """Return whether the name still stands for what the descriptor holds."""
        try:
            found = self._partials.stat(digest)
        except NotFound:
            return False
        return os.path.samestat(found, os.fstat(fd))

    def _drop_partial(self, digest: str) -> None:
        self._partials.unlink(digest, missing_ok=True)

    def _add_pending(self, writer: BlobWriter) -> None:
        with self._mutex:
            writer.check_kept()
            self._pending[writer.digest] = writer.length
