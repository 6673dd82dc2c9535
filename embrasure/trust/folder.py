"""A repository folder as a source: a USB stick, a mirror's inbox, the gateway's own repository.

The folder is untrusted: no link is followed, only regular files of repository paths are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from embrasure import limits
from embrasure.descriptor import explaining
from embrasure.errors import EmbrasureError, Failed, NotFound, Refused, Unavailable
from embrasure.fs import Folder
from embrasure.trust import layout


class FolderSource:
    """Answers from folders; the first one that has a file wins."""

    def __init__(self, *folders: Path) -> None:
        self.folders = folders

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield the bytes of `path` from `offset` on.

        limit: most bytes that may be yielded; one more raises Refused (`limit`).
        Raises NotFound, Refused (`bad-path`, `bad-offset`, `bad-link`, `bad-type`), Unavailable
        (`io`).
        """
        layout.parse_file(path)
        if (
            not 0 <= offset <= limits.FILE_BYTES
        ):  # beyond any file, and beyond what the kernel takes
            raise Refused(path, expected="an offset of a file", got=offset, reason="bad-offset")
        fd = self._open(path)
        try:
            yield from _pieces(fd, path, offset=offset, limit=limit)
        finally:
            os.close(fd)

    def _open(self, path: str) -> int:
        for folder in self.folders:
            try:
                with Folder.open(folder) as held:
                    return held.open_file(path)
            except NotFound:
                continue
            except Failed as problem:
                raise _unreadable(path, problem) from problem
        raise NotFound(path, expected="a file of the repository", got="no such file")


def _pieces(fd: int, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
    left = limit
    position = offset
    while True:
        try:
            with explaining(path):
                # One byte more than allowed, so that a file that is too long is seen.
                piece = os.pread(fd, min(limits.BUFFER_BYTES, left + 1), position)
        except Failed as problem:
            raise _unreadable(path, problem) from problem
        if not piece:
            return
        if len(piece) > left:
            raise Refused(path, expected=f"at most {limit} bytes", got="more", reason="limit")
        left -= len(piece)
        position += len(piece)
        yield piece


def _unreadable(path: str, problem: EmbrasureError) -> Unavailable:
    # A worn stick is a source that fails, not a disk of ours that is damaged.
    return Unavailable(path, expected="a folder that can be read", got=problem.got, reason="io")
