"""What came and is not verified yet: resumable at the byte, bounded, invisible to every reader.

Drill: a stolen gateway sends endless, torn, wrong and strangely named files.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from embrasure import limits
from embrasure.errors import Failed, NotFound, Refused, Unavailable
from embrasure.fs import Folder, free
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex

PARTIAL = ".partial"
TIMESTAMP = layout.metadata_file(layout.TIMESTAMP, 1)
Accepts = Callable[[str], None]
Counts = Callable[[str], bool]
_TOP_BYTES = {
    "root": limits.ROOT_BYTES,
    "targets": limits.TARGETS_BYTES,
    "snapshot": limits.SNAPSHOT_BYTES,
}


def bytes_allowed(path: str) -> int:
    """Return the most bytes that the file at `path` may have; raises Refused (`bad-path`)."""
    kind = layout.parse_file(path)
    if kind.blob:
        return limits.FILE_BYTES
    if kind.target:
        return limits.MANIFEST_BYTES
    role = path.removeprefix("metadata/").removesuffix(".json").partition(".")[2]
    return _TOP_BYTES.get(role, limits.DELEGATED_BYTES)


def digest_in(path: str) -> str | None:
    """Return the SHA-256 that the name of a blob or target file states; metadata states none."""
    name = path.rpartition("/")[2]
    kind = layout.parse_file(path)
    if kind.blob:
        return name
    return name.partition(".")[0] if kind.target else None


def accept_all(path: str) -> None:
    """Return for every repository path but the timestamp, which comes with the publishing."""
    layout.parse_file(path)
    if path in (TIMESTAMP, layout.TRUST_LISTING):
        raise Refused("path", expected="no file that we write", got=path, reason="bad-path")


class Inbox:
    """Files on their way to `public`. One process; its threads may share it.

    accepts: raises Refused for paths that this service does not take; counts: whether a file that
    is shown keeps its name.
    """

    def __init__(
        self,
        folder: Path,
        public: Path,
        *,
        accepts: Accepts = accept_all,
        counts: Counts = lambda _: True,
    ) -> None:
        self.folder = folder
        self.public = public
        self._accepts, self.counts = accepts, counts
        self._mutex = threading.Lock()
        self._busy: set[str] = set()
        # Whole and hashed by this process. A crash may leave a whole name and half the bytes.
        self._whole: set[str] = set()
        with Folder.open(folder, create=True) as held:
            held.ensure(PARTIAL).close()

    def held(self, path: str) -> int | None:
        """Return how many bytes of `path` are here, None when all are; raises Refused."""
        self._accepts(path)
        if self._is_shown(path) or self.is_whole(path):
            return None
        return size_of(self.folder, f"{PARTIAL}/{_partial(path)}") or 0

    def _is_shown(self, path: str) -> bool:
        return size_of(self.public, path) is not None and self.counts(path)

    def is_whole(self, path: str) -> bool:
        """Return whether the inbox has all of `path`, hashed by this process; never half a file."""
        with self._mutex:
            if path in self._whole:
                return True
        digest = digest_in(path)
        # Metadata states no hash: what an earlier process left is sent again.
        if digest is None or size_of(self.folder, path) is None:
            return False
        if hash_file(self.folder, path) != digest:
            self.drop(path)
            return False
        with self._mutex:
            self._whole.add(path)
        return True

    @contextmanager
    def upload(self, path: str, *, offset: int) -> Iterator[Upload]:
        """One file on its way in, from `offset` on; without `finish` what came stays.

        Raises Refused (`bad-path`, `bad-offset`, `exists`), Unavailable (`busy`).
        """
        held = self.held(path)
        if held is None:
            raise Refused(path, expected="a file that is lacking", got="one", reason="exists")
        if offset not in (0, held):
            raise Refused(path, expected=f"offset {held}", got=offset, reason="bad-offset")
        with self._mutex:
            if path in self._busy:
                raise Unavailable(path, expected="one upload", got="another", reason="busy")
            self._busy.add(path)
        try:
            with Upload(self.folder, path, offset=offset) as found:
                yield found
                if found.whole:
                    with self._mutex:
                        self._whole.add(path)
        finally:
            with self._mutex:
                self._busy.discard(path)

    def put_timestamp(self, raw: bytes) -> None:
        """The inbox has `raw` as the timestamp; raises Refused (`limit`)."""
        if len(raw) > limits.TIMESTAMP_BYTES:
            raise Refused("timestamp", expected="a small file", got=len(raw), reason="limit")
        with Folder.open(self.folder) as held, held.ensure("metadata") as metadata:
            metadata.replace("timestamp.json", raw)

    def drop(self, path: str) -> None:
        """The inbox has no `path`."""
        with self._mutex:
            self._whole.discard(path)
        folder, _, name = path.rpartition("/")
        try:
            with Folder.open(self.folder) as held, held.child(folder) as inner:
                inner.unlink(name, missing_ok=True)
        except NotFound:
            return

    def drop_metadata(self) -> None:
        """The inbox has no metadata: a refused set must not stand in the way of a good one."""
        with self._mutex:
            self._whole = {path for path in self._whole if not path.startswith("metadata/")}
        with Folder.open(self.folder) as held:
            if held.has("metadata"):
                held.remove_tree("metadata")

    def move(self, path: str) -> None:
        """`path` is public if the inbox had it; what is public and counts is never changed."""
        if self._is_shown(path):
            self.drop(path)
            return
        if size_of(self.folder, path) is None:
            return
        folder, _, name = path.rpartition("/")
        with (
            Folder.open(self.folder) as held,
            held.child(folder) as inner,
            make_folders(self.public, folder) as outer,
        ):
            inner.chmod_file(name, 0o444)
            # There only when it counts no more.
            inner.rename(name, outer, name, replace=outer.has(name))
        with self._mutex:
            self._whole.discard(path)

    def sweep(self, *, before: float) -> int:
        """Return how many files are gone that came before the Unix time `before`, unpublished."""
        gone = 0
        for found in sorted(self.folder.rglob("*")):
            status = found.lstat()
            path = found.relative_to(self.folder).as_posix()
            folder, _, name = path.rpartition("/")
            if not folder or not stat.S_ISREG(status.st_mode) or status.st_mtime >= before:
                continue
            with self._mutex:
                self._whole.discard(path)
            with Folder.open(self.folder) as held, held.child(folder) as inner:
                inner.unlink(name, missing_ok=True)
            gone += 1
        return gone

    def sync(self) -> None:
        """All that the inbox and `public` hold is on disk."""
        with Folder.open(self.folder) as held:
            held.syncfs()


class Upload:
    """One file, appended to in order."""

    def __init__(self, folder: Path, path: str, *, offset: int) -> None:
        self.path = path
        self.offset = offset
        self.whole = False
        self._folder = folder
        self._limit = bytes_allowed(path)
        self._digest = digest_in(path)
        self._hashed = hashlib.sha256()
        self._name = _partial(path)

    def __enter__(self) -> Upload:
        """Return the upload after what was held is hashed again, or dropped at offset 0."""
        self._held = Folder.open(self._folder)
        self._partials = self._held.child(PARTIAL)
        if self.offset == 0:
            self._partials.unlink(self._name, missing_ok=True)
        else:
            for piece in self._partials.pieces(self._name):
                self._hashed.update(piece)
        return self

    def __exit__(self, *error: object) -> None:
        """The descriptors are closed."""
        self._partials.close()
        self._held.close()

    def append(self, piece: bytes) -> None:
        """The piece is behind what is held; raises Refused (`limit`), Failed (`no-space`)."""
        if self.offset + len(piece) > self._limit:
            raise Refused(self.path, expected=f"at most {self._limit} bytes", got="more",
                          reason="limit")  # fmt: skip
        check_space(self._folder, len(piece))
        self._partials.append(self._name, piece)
        self._hashed.update(piece)
        self.offset += len(piece)

    def finish(self) -> None:
        """The inbox has the whole file; raises Refused (`bad-hash`) and drops what came."""
        if self._digest is not None and self._hashed.hexdigest() != self._digest:
            self._partials.unlink(self._name, missing_ok=True)
            raise Refused(self.path, expected="the bytes of its name", got="others",
                          reason="bad-hash")  # fmt: skip
        if self.offset == 0:
            self._partials.append(self._name, b"")
        folder, _, name = self.path.rpartition("/")
        with make_folders(self._folder, folder, mode=0o700) as inner:
            self._partials.rename(self._name, inner, name, replace=True)
        self.whole = True


@contextmanager
def make_folders(root: Path, path: str, *, mode: int = 0o755) -> Iterator[Folder]:
    """The folder `path` below `root`, made where it is missing."""
    held = Folder.open(root)
    try:
        for part in path.split("/"):
            inner = held.ensure(part, mode=mode)
            held.close()
            held = inner
        yield held
    finally:
        held.close()


def size_of(root: Path, path: str) -> int | None:
    """Return the size of the regular file `path` below `root`, None when there is none."""
    try:
        with Folder.open(root) as held:
            fd = held.open_file(path)
    except (NotFound, Refused):
        return None
    try:
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def hash_file(root: Path, path: str) -> str:
    """Return the SHA-256 of the file `path` below `root`, 64 hex digits."""
    hashed = hashlib.sha256()
    with Folder.open(root) as held:
        for piece in held.pieces(path):
            hashed.update(piece)
    return hashed.hexdigest()


def check_space(folder: Path, count: int) -> None:
    """Return only when `count` more bytes leave the disk its reserve; raises Failed."""
    left = free(folder).bytes
    if left - count < limits.MIRROR_FREE_BYTES:
        raise Failed(
            str(folder),
            expected=f"{count + limits.MIRROR_FREE_BYTES} bytes of disk",
            got=f"{left} bytes",
            untouched="what came is kept",
            reason="no-space",
        )


def _partial(path: str) -> str:
    """Return the name of a partial file: no part of a path that came from outside."""
    return sha256_hex(path.encode("ascii"))
