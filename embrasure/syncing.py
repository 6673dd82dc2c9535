"""Syncs a tree file by file, for a kernel whose `syncfs` does not say when it lost pages."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embrasure.folder import Folder


def fsync_below(folder: Folder) -> None:
    """Every file and folder below this one, and its own names, are on disk; links are names."""
    for name in folder.list():
        kind = folder.stat(name).st_mode
        if stat.S_ISREG(kind):
            folder.fsync_file(name)
        elif stat.S_ISDIR(kind):
            with folder.child(name) as inner:
                fsync_below(inner)
    folder.fsync()
