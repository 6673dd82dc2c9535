"""Executable twins of blobs: `<sha256>.x` is the same bytes once more, in a file that may be run.

One file has one mode, and a blob's is 0444. A twin is made where blobs arrive, hashed on its way,
and gets its name on the shelf only when a release that is made of it is on disk, by the one sync of
that release. So a name on the shelf never stands for bytes that a power cut could still take away,
and nothing is synced for a twin alone.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from embrasure.errors import Damaged, EmbrasureError
from embrasure.fs import Folder

TWIN = ".x"
TWIN_MODE = 0o555


class Twins:
    """The twins that one release needs.

    Leave it well only after a `syncfs` of the disk they are on: then those that were made are on
    the shelf. Leave it by an error, and they are gone: a second sync would lie.
    """

    def __init__(self, partials: Folder, taken: set[str], mutex: threading.Lock) -> None:
        """See `BlobStore.twins`. taken: names in `partials` that somebody makes or has made."""
        self._partials, self._taken, self._mutex = partials, taken, mutex
        self._made: dict[str, Folder] = {}  # digest -> its shelf

    def __enter__(self) -> Self:
        """Return them."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Each twin that was made has its name on the shelf; after an error it is gone."""
        try:
            if kind is None:
                for digest, shelf in self._made.items():
                    name = digest + TWIN
                    self._partials.rename(name, shelf, name, replace=True)
                    self._release(name)
                self._made.clear()
        finally:
            self.drop()

    def __contains__(self, digest: object) -> bool:
        """Return whether its twin was made here, and so hashed on its way to the disk."""
        return digest in self._made

    def lend(self, digest: str, shelf: Folder) -> tuple[Folder, str] | None:
        """Return folder and name of the blob's twin, for a second name of the same file; None when
        somebody else makes it right now.

        shelf: the folder of the blob, to stay open until this is left
        Raises NotFound, Damaged (`bad-hash`: the blob has other bytes), Failed (`no-space`).
        """
        name = digest + TWIN
        if digest in self._made:
            return self._partials, name
        if shelf.has(name):
            return shelf, name
        with self._mutex:
            if name in self._taken:
                return None
            self._taken.add(name)
        self._made[digest] = shelf
        self._partials.unlink(name, missing_ok=True)  # of a crash
        check_made(digest, self._partials.write(name, shelf.pieces(digest), mode=TWIN_MODE))
        return self._partials, name

    def drop(self) -> None:
        """No twin that was made here is left without a name on the shelf, nor is its name taken.

        One that the disk does not let go goes when it is made again, or with the next sweep.
        """
        kept: EmbrasureError | None = None
        while self._made:
            name = self._made.popitem()[0] + TWIN
            try:
                self._partials.unlink(name, missing_ok=True)
            except EmbrasureError as problem:
                kept = problem
            finally:
                self._release(name)
        try:
            if kept is not None:
                raise kept
        finally:
            del kept  # the error keeps this frame, and must not be kept by it with its folders

    def _release(self, name: str) -> None:
        with self._mutex:
            self._taken.discard(name)


def check_made(digest: str, found: str) -> None:
    """Return only when a blob's bytes, as its twin was made of them, are those of its name."""
    if found != digest:
        raise Damaged(f"blob {digest}", expected="the bytes of its name", got=f"bytes of {found}",
                      untouched="the release that runs", hint="the next try fetches it again",
                      reason="bad-hash")  # fmt: skip


def hash_of(folder: Folder, name: str, each: Callable[[], object]) -> str:
    """Return the SHA-256 of a file; "" when it cannot be read.

    each: called for each piece; what it raises ends the look
    """
    hashed, pieces = hashlib.sha256(), folder.pieces(name)
    while True:
        try:
            piece = next(pieces, b"")
        except EmbrasureError:
            return ""
        if not piece:
            return hashed.hexdigest()
        hashed.update(piece)
        each()
