"""What stands in the place of a file of ours and is none: it is kept, under another name."""

from __future__ import annotations

import stat
from collections.abc import Callable

from embrasure.errors import NotFound
from embrasure.fs import Folder

BROKEN = ".broken"


def set_aside(folder: Folder, name: str, *, kind: Callable[[int], bool] = stat.S_ISREG) -> bool:
    """Return whether something is called `name`, which is of this kind; anything else is called
    `.broken` from now on.
    """
    try:
        if kind(folder.stat(name).st_mode):
            return True
    except NotFound:
        return False
    broken = f"{name}{BROKEN}"
    if folder.has(broken):
        folder.remove_tree(broken)
    folder.rename(name, folder, broken)
    folder.fsync()
    return False
