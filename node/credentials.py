"""Plaintext secrets of running apps, below the run folder: `credentials/<app>/<release>/<name>`.

`/run` is memory, so nothing of it outlives a boot; in development it is a folder like any other.
A folder is there whole or not at all, for the node's own user alone, and goes with its app.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from embrasure.errors import NotFound
from embrasure.fs import Folder
from node.paths import Paths
from node.users import User

VARIABLE = "CREDENTIALS_DIRECTORY"  # as systemd calls it: an app works unchanged under both
_UNFINISHED = ".tmp-"
_FOLDER_MODE, _FILE_MODE, _GROUP_MODE, _PASSING_MODE = 0o500, 0o400, 0o750, 0o711


def folder_of(paths: Paths, app: str, release: str) -> Path:
    """Return where the secrets of one release lie while it runs."""
    return paths.credentials / app / release


def is_placed(paths: Paths, app: str, release: str) -> bool:
    """Return whether they lie there, all of them."""
    return folder_of(paths, app, release).is_dir()


def place(
    paths: Paths, app: str, release: str, secrets: Mapping[str, bytes], user: User | None = None
) -> None:
    """Each secret is a file of its name (0400); after an error none is.

    user: whose files they are, None for ours. The folder stays ours: we can always take it away.
    """
    unfinished = f"{_UNFINISHED}{release}"
    with (
        Folder.open(paths.run) as run,
        run.ensure(paths.credentials.name) as top,
        top.ensure(app) as folder,
    ):
        _drop(folder, unfinished)
        try:
            with folder.mkdir(unfinished, mode=0o700) as new:
                for name, plain in secrets.items():
                    new.create(name, plain, mode=_FILE_MODE)
                if user is None:
                    new.chmod(_FOLDER_MODE)
                else:
                    _give(new, secrets, user)
                    for above in (top, folder):
                        above.chmod(_PASSING_MODE)
            folder.rename(unfinished, folder, release)
        except BaseException:
            _drop(folder, unfinished)
            raise


def _give(folder: Folder, names: Iterable[str], user: User) -> None:
    """The user reads the files, and nobody but that user comes into the folder."""
    for name in names:
        folder.give(name, user.uid, user.gid, _FILE_MODE)
    folder.chmod(_GROUP_MODE)
    folder.chown(0, user.gid)


def in_memory(paths: Paths, mounts: str = "/proc/self/mountinfo") -> bool:
    """Return whether the run folder is memory, as `/run` is, and no disk holds a plaintext."""
    where, best, kind = str(paths.run.resolve()), "", ""
    for line in Path(mounts).read_text(encoding="utf-8", errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4].replace("\\040", " ")
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind in ("tmpfs", "ramfs")


def take_away(paths: Paths, app: str, *, keep: str | None = None) -> None:
    """No secret of the app lies here any more, but those of the release `keep`."""
    try:
        folder = Folder.open(paths.credentials / app)
    except NotFound:
        return
    with folder:
        for name in folder.list():
            if name != keep:
                _drop(folder, name)


def take_all_away(paths: Paths) -> None:
    """No secret of any app lies here: what a killed node left goes before anything starts."""
    with Folder.open(paths.run) as run:
        _drop(run, paths.credentials.name)


def _drop(folder: Folder, name: str) -> None:
    if folder.has(name):
        folder.remove_tree(name)
