"""Target files kept beside the metadata, by SHA-256: a cache, checked whenever it is read.

Those in use are in memory as well, as they were checked: a look asks for the same seven each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import TypeAlias

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound
from embrasure.fs import Folder, read_file

_LOOK_AGAIN = 16  # documents of ours after which it is looked at in any case
_Stamp: TypeAlias = tuple[int, int, int, int]


class DocumentCache:
    """A folder of documents. When it is full, what was not used for longest goes first."""

    def __init__(
        self,
        folder: Path,
        *,
        count: int = limits.DOCUMENTS_HELD,
        total_bytes: int = limits.DOCUMENTS_HELD_BYTES,
        memory_bytes: int = limits.DOCUMENTS_IN_MEMORY_BYTES,
    ) -> None:
        """The folder exists. count, total_bytes: most that is kept; memory_bytes: in memory."""
        self.folder = folder
        self.count = count
        self.total_bytes = total_bytes
        self.memory_bytes = memory_bytes
        self._marked: dict[str, float] = {}  # when each was said to be in use, by `monotonic`
        self._least = (0, 0)  # so many documents and bytes may still come before it can be full
        self._text = str(folder)
        self._read: dict[str, tuple[_Stamp, bytes]] = {}  # what had its hash, by that
        Folder.open(folder, create=True).close()

    def get(self, sha256: str, *, length: int) -> bytes | None:
        """Return the document of this hash, or None; what does not have its hash is removed.

        The file is read again once it looks like another, and after each mark.
        """
        path = f"{self._text}/{sha256}"
        now = _stamp(path)  # before it is read: what changes meanwhile is seen at the next look
        before, raw = self._read.get(sha256, (None, b""))
        if now is None or now != before or len(raw) > length:
            found = self._checked(Path(path), sha256, length)
            if found is None:
                return None
            raw = found
            self._remember(sha256, now, raw)
        self._mark(sha256)
        return raw

    def _checked(self, path: Path, sha256: str, length: int) -> bytes | None:
        try:
            raw = read_file(path, limit=length)
        except NotFound:
            return None
        except EmbrasureError:
            raw = b""
        if hashlib.sha256(raw).hexdigest() == sha256:
            return raw
        self._drop(sha256)
        return None

    def _remember(self, sha256: str, stamp: _Stamp | None, raw: bytes) -> None:
        self._read.pop(sha256, None)
        if stamp is None or len(raw) > limits.PARSED_BYTES:
            return
        others = tuple(self._read.values())  # in one step: other threads put theirs in
        if sum(len(one) for _, one in others) + len(raw) > self.memory_bytes:
            self._read.clear()
        self._read[sha256] = stamp, raw

    def _mark(self, sha256: str) -> None:
        """The document is young; said once a minute at most, which is all that an age needs."""
        now = time.monotonic()
        if now - self._marked.get(sha256, -limits.MARK_SECONDS) < limits.MARK_SECONDS:
            return
        # Trimmed by another process just now, or a disk that takes nothing: only its age.
        with contextlib.suppress(EmbrasureError), Folder.open(self.folder) as held:
            held.mark_used(sha256)
        if len(self._marked) >= 2 * self.count:
            self._marked.clear()
        self._marked[sha256] = now

    def put(self, raw: bytes) -> None:
        """The document is on disk under its hash, and the cache is within its bounds."""
        name = hashlib.sha256(raw).hexdigest()
        with Folder.open(self.folder) as held:
            held.replace(name, raw)
        self._least = (self._least[0] - 1, self._least[1] - len(raw))
        if min(self._least) < 0:
            self._trim(keep=name)

    def _drop(self, name: str) -> None:
        # Another process may have been faster.
        with Folder.open(self.folder) as held, contextlib.suppress(NotFound):
            held.remove_tree(name)

    def _trim(self, *, keep: str) -> None:
        with Folder.open(self.folder) as held:
            found = []
            for name in held.list():
                try:
                    about = held.stat(name)
                except NotFound:
                    continue
                found.append((about.st_mtime_ns, name, about.st_size))
            left, total = len(found), sum(size for _, _, size in found)
            for _, name, size in sorted(found):
                if left <= self.count and total <= self.total_bytes:
                    break
                if name != keep:
                    held.unlink(name, missing_ok=True)
                    left, total = left - 1, total - size
        # Another process that fills it at the same time looks as well.
        self._least = (min(self.count - left, _LOOK_AGAIN), self.total_bytes - total)


def _stamp(path: str) -> _Stamp | None:
    """Return what differs once the file was replaced or written to, None where there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
