"""What stands in the place of a file of ours and is none: it is kept, under another name."""

from __future__ import annotations

import stat
from collections.abc import Callable

from embrasure.errors import NotFound
from embrasure.fs import Folder

BROKEN = ".broken"


def set_aside(folder: Folder, name: str, *, kind: Callable[[int], bool] = stat.S_ISREG) -> None:
    """What is called `name` is of this kind, or nothing is; anything else is called `.broken`."""
    try:
        if kind(folder.stat(name).st_mode):
            return
    except NotFound:
        return
    broken = f"{name}{BROKEN}"
    if folder.has(broken):
        folder.remove_tree(broken)
    folder.rename(name, folder, broken)
    folder.fsync()
