"""Where a blob may lie until it is durable, other than in a partial file of its store."""

from __future__ import annotations

from typing import Protocol

from embrasure.fs import Folder


class Place(Protocol):
    """Where blobs may lie until they are durable, on the store's own disk: files of a release, of
    which a second name makes blobs.
    """

    def create(self, digest: str) -> int:
        """Return a descriptor of the blob's new file."""
        ...

    def name(self, digest: str, shelf: Folder) -> None:
        """The file has its second name in the folder `shelf`, which is its digest."""
        ...

    def open(self, digest: str) -> int:
        """Return a descriptor of its bytes; raises NotFound."""
        ...

    def drop(self, digest: str) -> None:
        """There is no such file."""
        ...
