"""The folders of one app: who owns them, and which of them its commands see."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from embrasure.errors import Denied
from embrasure.fs import Folder
from node import credentials
from node.backends import Room
from node.config import AppConfig
from node.isolation import Isolation
from node.paths import Paths
from node.releases import Installed
from node.users import User

_APP_MODE, _RELEASES_MODE, _SHARED_MODE = 0o750, 0o755, 0o700


def make_shared(paths: Paths, app: str, user: User | None) -> None:
    """The app's data folder is there; in production its user's alone, and no other app's user
    comes into the folder above it.

    Raises Denied (`bad-owner`) when the data belongs to somebody else.
    """
    with Folder.open(paths.app(app), create=True) as top:
        if not top.has(paths.shared(app).name):  # else its user's, where we may not look
            top.ensure(paths.shared(app).name).close()
        if user is None:
            return
        with top.ensure(paths.releases(app).name) as releases:
            _set_mode(releases, _RELEASES_MODE)
        own(top, 0, user.gid, _APP_MODE)
        shared = paths.shared(app)
        found = top.stat(shared.name)
        if (found.st_uid, found.st_gid) == (user.uid, user.gid):
            return
        if found.st_uid != 0:
            raise Denied(
                str(shared), expected=f"data of user {user.uid}", got=f"of user {found.st_uid}",
                hint=f"chown -R {user.uid}:{user.gid} {shared}", reason="bad-owner",
            )  # fmt: skip
        with top.child(shared.name) as folder:  # ours still: nobody else can have put a link here
            own(folder, user.uid, user.gid, _SHARED_MODE)


def own(folder: Folder, uid: int, gid: int, mode: int) -> None:
    """The held folder has the owner and the mode."""
    _set_mode(folder, mode)
    found = os.fstat(folder.fd)
    if (found.st_uid, found.st_gid) != (uid, gid):
        folder.chown(uid, gid)


def _set_mode(folder: Folder, mode: int) -> None:
    # Looked at first: a disk that has turned read-only must not keep an app from starting.
    if stat.S_IMODE(os.fstat(folder.fd).st_mode) != mode:
        folder.chmod(mode)


def room_of(
    paths: Paths, installed: Installed, config: AppConfig, isolation: Isolation, *, changes: bool
) -> Room:
    """Return what a command of the release may touch.

    changes: whether it may write to the app's data, which it sees in any case
    """
    app, release = installed.manifest.app, installed.release.id
    user = isolation.user(app, config)
    make_shared(paths, app, user)
    read = [paths.release(app, release), *map(Path, config.readable)]
    if installed.manifest.secrets:
        read.append(credentials.folder_of(paths, app, release))
    shared = paths.shared(app)
    if not changes:
        read.append(shared)
    return Room(read=tuple(read), write=(shared,) if changes else (), user=user)
