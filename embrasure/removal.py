"""Removes what is in a folder, of any depth: by descriptors, following no link and no mount."""

from __future__ import annotations

import os
import secrets
import stat
from typing import TYPE_CHECKING

from embrasure import fsops
from embrasure.errors import Damaged

if TYPE_CHECKING:
    from embrasure.folder import Folder

_HELD_DEPTH = 64  # descriptors held while a tree is removed


def empty(folder: Folder, name: str, top: Folder | None = None, depth: int = 1) -> None:
    """The folder `name` holds nothing; what lies too deep is first moved up to the top."""
    device = os.fstat(folder.fd).st_dev
    with folder.child(name) as inner:
        if os.fstat(inner.fd).st_dev != device:
            raise Damaged(
                str(inner.path), expected="one file system", got="a mount", reason="bad-path"
            )
        inner.chmod(0o700)  # ours may be 0555, where nothing can be unlinked
        while names := inner.list():
            for part in names:
                _remove(inner, part, top if top is not None else inner, depth)


def _remove(folder: Folder, name: str, top: Folder, depth: int) -> None:
    if not stat.S_ISDIR(folder.stat(name).st_mode):
        folder.unlink(name)
    elif depth < _HELD_DEPTH:
        empty(folder, name, top, depth + 1)
        fsops.rmdir(folder.fd, name)
    else:
        # A tree of any depth is removed with this many descriptors, and without deep recursion.
        with folder.child(name) as deep:
            deep.chmod(0o700)
        folder.rename(name, top, secrets.token_hex(16))
