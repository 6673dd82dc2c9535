"""Puts blobs into a release: shared blocks, a second name of the same file, or a copy.

A writer of one release must never change another one, nor the blob. Shared blocks are copied when
they are written to. A second name is one file with its blob: only where the app's user can never
write to it. Which way works is found by trying. The bytes of a copy are hashed on their way; what
is shared is hashed when the release is read back.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Container
from contextlib import suppress
from typing import Literal

from embrasure import fsops, limits
from embrasure.bundle.incoming import BLOB_MODE
from embrasure.bundle.manifest import Entry
from embrasure.bundle.store import BlobStore
from embrasure.bundle.twins import TWIN_MODE
from embrasure.descriptor import check_name, explained, write_all
from embrasure.errors import Damaged, EmbrasureError
from embrasure.fs import Folder

Way = Literal["reflink", "hardlink", "copy"]
ROOT = 0
_NEW = os.O_WRONLY | os.O_EXCL
_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP})  # of this file system at all
_COPY_INSTEAD = _NO_LINKS | {errno.EMLINK}


def is_safe_to_share(found: os.stat_result, *, mode: int, user: int) -> bool:
    """Return whether `user` can never write to the file, nor give himself the right to."""
    return (
        user != ROOT
        and found.st_uid == ROOT
        and stat.S_ISREG(found.st_mode)
        and stat.S_IMODE(found.st_mode) == mode
        and not mode & 0o222
    )


class Placer:
    """Puts the blobs of one release in their places. ways: how often each way was gone."""

    def __init__(
        self,
        blobs: BlobStore,
        *,
        user: int,
        each: Callable[[int], None] = lambda _: None,
        came: Container[str] = (),
    ) -> None:
        """user: whom the app runs as; he who may write to a blob gets copies; each: told the length
        of each piece that is copied, and may end it all; came: blobs that this process made and
        sealed in this very transaction, so that nobody has to ask the disk whose they are.
        """
        self._came = came
        self.ways: Counter[Way] = Counter()
        self.twins = blobs.twins()
        self._blobs, self._user, self._each = blobs, user, each
        self._may_clone, self._may_link = True, user != ROOT and os.geteuid() == ROOT
        self._buffer = memoryview(bytearray(limits.BUFFER_BYTES))  # one for all the files
        self._shelves: dict[str, Folder] = {}  # of the store, at most 256; each closes with this

    def place(self, folder: Folder, name: str, entry: Entry) -> Way:
        """Return how `name` became a new file with the blob's bytes and the entry's mode.

        `copy`: exactly the bytes of the entry's digest went into it; else they were not looked at.
        Raises NotFound, Damaged (`bad-hash`: a blob of another length, or of other bytes where
        they are copied), Failed (`no-space`).
        """
        mode = int(entry.mode, 8)
        # Where nothing can share blocks, a second name needs no look at the bytes.
        if not self._may_clone and self._may_link and self._link(folder, name, entry, mode):
            self.ways["hardlink"] += 1
            return "hardlink"
        fd = self._blobs.open(entry.sha256)
        try:
            check_length(entry, os.fstat(fd))
            if self._may_clone and self._clone(folder, name, fd, mode):
                way: Way = "reflink"
            elif self._may_link and self._link(folder, name, entry, mode):
                way = "hardlink"
            else:
                way = "copy"
                _fill(folder, name, mode, lambda target: self._copy(target, fd, entry))
        finally:
            os.close(fd)
        self.ways[way] += 1
        return way

    def is_hashed(self, entry: Entry, way: Way) -> bool:
        """Return whether what was placed just now is bytes that were hashed on their way to disk,
        in this very transaction: to read them once more would tell nothing new.
        """
        if way == "hardlink" and int(entry.mode, 8) == TWIN_MODE:
            return entry.sha256 in self.twins
        return way == "copy" or entry.sha256 in self._came

    def ways_into(self, folder: Folder, data: bytes) -> frozenset[Way]:
        """Return which ways work into this folder, tried with a blob of `data` and taken back.

        Raises EmbrasureError when not even that fits.
        """
        found: set[Way] = {"copy"}
        with self._blobs.probe(data) as (held, name):
            fd = held.open_file(name)
            try:
                if self._clone(folder, "clone", fd, 0o444):
                    found.add("reflink")
            finally:
                os.close(fd)
            if self._may_link:
                with suppress(EmbrasureError):
                    held.link(name, folder, "link")
                    found.add("hardlink")
        return frozenset(found)

    def _copy(self, target: int, source: int, entry: Entry) -> None:
        """The target holds what the entry says, hashed on its way; raises Damaged (`bad-hash`)."""
        left, hashed, buffer = entry.length, hashlib.sha256(), self._buffer
        while left and (count := os.readv(source, [buffer[:left]])):
            hashed.update(buffer[:count])
            write_all(target, buffer[:count])
            left -= count
            self._each(count)
        check_copied(entry, hashed.hexdigest())

    def _clone(self, folder: Folder, name: str, source: int, mode: int) -> bool:
        try:
            _fill(folder, name, mode, lambda target: _share(target, source))
        except _NotHere:
            self._may_clone = False
        return self._may_clone

    def _link(self, folder: Folder, name: str, entry: Entry, mode: int) -> bool:
        try:
            held = self._shelf(entry.sha256)
            if mode == BLOB_MODE and entry.sha256 in self._came:
                # Owner, mode and length of what is linked are looked at when the tree is whole.
                held.link(entry.sha256, folder, name)
                return True
            blob = held, entry.sha256
            lent = self.twins.lend(entry.sha256, held) if mode == TWIN_MODE else blob
            if lent is None:
                return False
            source, called = lent
            found = source.stat(called)
            if not is_safe_to_share(found, mode=mode, user=self._user):
                return False
            check_length(entry, found)
            source.link(called, folder, name)
        except EmbrasureError as problem:
            number = problem.__cause__.errno if isinstance(problem.__cause__, OSError) else None
            if number not in _COPY_INSTEAD:
                raise
            if number in _NO_LINKS:
                self._may_link = False
                self.twins.drop()  # on another disk than the release: its sync is none of theirs
            return False
        return True

    def _shelf(self, digest: str) -> Folder:
        if (found := self._shelves.get(digest[:2])) is None:
            found = self._shelves[digest[:2]] = self._blobs.shelf(digest)
        return found


def check_length(entry: Entry, found: os.stat_result) -> None:
    """Return only when a blob is as long as the entry says; raises Damaged (`bad-hash`)."""
    if found.st_size != entry.length:
        raise Damaged(f"blob {entry.sha256}", expected=f"{entry.length} bytes",
                      got=found.st_size, reason="bad-hash")  # fmt: skip


class _NotHere(Exception):
    """This file system cannot share blocks."""


def _share(target: int, source: int) -> None:
    if not fsops.clone(target, source):
        raise _NotHere


def check_copied(entry: Entry, found: str) -> None:
    """Return only when a blob's bytes, as they were copied, are those of its name."""
    if found != entry.sha256:
        raise Damaged(f"blob {entry.sha256}", expected="the bytes of its name",
                      got=f"other content for {entry.path}", untouched="the release that runs",
                      reason="bad-hash")  # fmt: skip


def _fill(folder: Folder, name: str, mode: int, fill: Callable[[int], None]) -> None:
    """`name` is a new file with what `fill` put into it, or nothing is called so."""
    try:
        fd = fsops.create(folder.fd, check_name(name), _NEW, 0o600)
        try:
            fill(fd)
            fsops.chmod(fd, mode)
        except BaseException:
            os.close(fd)
            folder.unlink(name, missing_ok=True)
            raise
        os.close(fd)  # its error counts: quotas report here
    except OSError as problem:
        # Where it was is put together only now: a release has thousands of files.
        raise explained(problem, f"{folder.path}/{name}") from problem
