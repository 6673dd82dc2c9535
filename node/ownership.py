"""Who owns which folder of a production node: root all of it, fetch two of them.

Done at each start of apply, by descriptor. A folder that fetch has is never looked into again: what
lies there, a thief of fetch may have put there.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from embrasure.errors import Denied, NotFound
from embrasure.fs import Folder
from node.paths import Paths
from node.rooms import own
from node.users import User

_PRIVATE, _THROUGH, _PUBLIC = 0o700, 0o711, 0o755


def prepare(paths: Paths, fetch: User | None) -> None:
    """Every folder has the owner and mode of production; raises Denied (`bad-owner`).

    fetch: None for a node whose network side has no user: what is its is left as it is
    """
    for path in _ways(paths):
        with Folder.open(path, create=True, mode=_PUBLIC) as folder:
            check_root(folder)
            own(folder, 0, 0, _PUBLIC)
    for path, mode in (
        (paths.config, _PUBLIC), (paths.data, _THROUGH), (paths.state, _THROUGH),
        (paths.run, _PUBLIC), (paths.opt, _PUBLIC), (paths.apps, _PRIVATE),
        (paths.tuf, _PRIVATE), (paths.floors, _PRIVATE), (paths.blobs, _PRIVATE),
        (paths.journal, _PRIVATE), (paths.outbox, _PRIVATE), (paths.sent, _PRIVATE),
        (paths.lock, _PRIVATE), (paths.keys, _PRIVATE), (paths.logs, _PRIVATE),
        (paths.serving, _PRIVATE),
    ):  # fmt: skip
        with Folder.open(path, create=True, mode=mode) as folder:
            check_root(folder)
            own(folder, 0, 0, mode)
    if fetch is None:
        return
    _give(paths.tls, fetch, _PRIVATE)
    _give(paths.run / "net", fetch, _PUBLIC)
    _show(paths.config, paths.join.name, fetch)


def _ways(paths: Paths) -> list[Path]:
    """Return the folders that everybody must pass; below `/` they are the host's matter."""
    if paths.prefix == Path("/"):
        return []
    ends = (paths.config, paths.data, paths.run, paths.opt)
    found = {way for end in ends for way in end.parents if way.is_relative_to(paths.prefix)}
    return sorted(found)


def check_root(folder: Folder) -> None:
    """Return only when root owns the held folder; raises Denied (`bad-owner`)."""
    owner = os.fstat(folder.fd).st_uid
    if owner != 0:
        raise Denied(
            str(folder.path), expected="a folder of root", got=f"one of user {owner}",
            hint=f"chown root {folder.path}", reason="bad-owner",
        )  # fmt: skip


def _give(path: Path, fetch: User, mode: int) -> None:
    """The folder and what is in it are fetch's; nothing is done once they are.

    While root has the folder nobody else can have put anything into it.
    """
    # Not opened to be looked at: a root without CAP_DAC_OVERRIDE may not open what is fetch's.
    with Folder.open(path.parent) as above:
        if above.has(path.name) and above.stat(path.name).st_uid == fetch.uid:
            return
    with Folder.open(path, create=True, mode=_PRIVATE) as folder:
        check_root(folder)
        for name in folder.list():
            found = folder.stat(name)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                folder.give(name, fetch.uid, fetch.gid, stat.S_IMODE(found.st_mode))
        own(folder, fetch.uid, fetch.gid, mode)


def _show(path: Path, name: str, fetch: User) -> None:
    """Fetch may read the file, if there is one."""
    with suppress(NotFound), Folder.open(path) as folder:
        if stat.S_ISREG(folder.stat(name).st_mode):
            folder.give(name, 0, fetch.gid, 0o640)
