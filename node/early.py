"""Files of a release that are written where they stay, while they come in.

A blob is written once, and has two names as a rule: one in the store, one in the release. Written
into the store first it needs a third one, until it is durable. So where a file may be its blob
(`placing`) it is written into the staging folder at once, and the store gives it its name after the
sync. Whatever ends a transfer, all that was synced is in the store by then, and staging goes.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from types import TracebackType
from typing import Self

from embrasure import fsops, limits
from embrasure.bundle.manifest import Manifest
from embrasure.bundle.store import BlobStore
from embrasure.descriptor import check_name
from embrasure.fs import Folder
from node import tree

_NEW = os.O_WRONLY | os.O_EXCL
_MODE = "0444"  # a blob's own


class Early:
    """A place for blobs (`embrasure.bundle.place`): the files that a staged release has of them.

    done: paths of those that are whole, each hashed before it was written.
    """

    def __init__(self, releases: Folder, *, tx: str, manifest: Manifest, blobs: BlobStore) -> None:
        """The staging folder of `tx` is new, with all folders of the release and nothing else."""
        self.done = set[str]()
        self._blobs = blobs
        self._paths: dict[str, str] = {}  # digest -> the first file that may be its blob
        for entry in manifest.files:
            if entry.kind == "file" and entry.mode == _MODE:
                self._paths.setdefault(entry.sha256, entry.path)
        self._staging = tree.begin(releases, tx=tx, manifest=manifest)
        self._folders = OrderedDict[str, Folder]()

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing of the staging folder is held, and what was not synced is no blob."""
        self._blobs.leave(self)
        for folder in self._folders.values():
            folder.close()
        self._staging.close()

    def __contains__(self, digest: object) -> bool:
        """Return whether the release has a file that may be this blob."""
        return digest in self._paths

    def create(self, digest: str) -> int:
        """See `Place`."""
        folder, name = self._where(digest)
        fd = fsops.create(folder.fd, name, _NEW, 0o600)
        self.done.add(self._paths[digest])
        return fd

    def name(self, digest: str, shelf: Folder) -> None:
        """See `Place`. A file of another length that has the name goes."""
        folder, name = self._where(digest)
        try:
            fsops.link(folder.fd, name, shelf.fd, digest)
        except FileExistsError:
            fsops.unlink(shelf.fd, digest)
            fsops.link(folder.fd, name, shelf.fd, digest)

    def open(self, digest: str) -> int:
        """See `Place`."""
        folder, name = self._where(digest)
        return folder.open_file(name)

    def drop(self, digest: str) -> None:
        """See `Place`."""
        folder, name = self._where(digest)
        folder.unlink(name, missing_ok=True)
        self.done.discard(self._paths[digest])

    def _where(self, digest: str) -> tuple[Folder, str]:
        parent, _, name = self._paths[digest].rpartition("/")
        if (folder := self._folders.get(parent)) is None:
            if len(self._folders) >= limits.EARLY_FOLDERS:
                self._folders.popitem(last=False)[1].close()
            folder = self._folders[parent] = self._staging.child(parent)
        return folder, check_name(name)
