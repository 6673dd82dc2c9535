"""Removes what is in a folder, of any depth: by descriptors, following no link and no mount."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from embrasure import fsops
from embrasure.descriptor import explaining
from embrasure.errors import Damaged

if TYPE_CHECKING:
    from embrasure.folder import Folder

_HELD_DEPTH = 64  # descriptors held while a tree is removed
_ANEW = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def empty(folder: Folder, name: str, top: Folder | None = None, depth: int = 1) -> None:
    """The folder `name` holds nothing; what lies too deep is first moved up to the top."""
    device = os.fstat(folder.fd).st_dev
    with folder.child(name) as inner:
        if os.fstat(inner.fd).st_dev != device:
            raise Damaged(
                str(inner.path), expected="one file system", got="a mount", reason="bad-path"
            )
        inner.chmod(0o700)  # ours may be 0555, where nothing can be unlinked
        while found := found_in(inner):
            for part, is_folder in found:
                if is_folder:
                    _remove(inner, part, top if top is not None else inner, depth)
                else:
                    inner.unlink(part)


def found_in(folder: Folder) -> list[tuple[str, bool]]:
    """Return what is in the folder, sorted, each with whether it is a folder itself."""
    with explaining(str(folder.path)):
        # Anew: btrfs shows a held folder as it was when it was opened.
        fd = os.open(".", _ANEW, dir_fd=folder.fd)
        try:
            with os.scandir(fd) as found:
                return sorted((one.name, one.is_dir(follow_symlinks=False)) for one in found)
        finally:
            os.close(fd)


def _remove(folder: Folder, name: str, top: Folder, depth: int) -> None:
    if depth < _HELD_DEPTH:
        empty(folder, name, top, depth + 1)
        fsops.rmdir(folder.fd, name)
    else:
        # A tree of any depth is removed with this many descriptors, and without deep recursion.
        with folder.child(name) as deep:
            deep.chmod(0o700)
        folder.rename(name, top, secrets.token_hex(16))
