"""`current`: the one name that a switch changes, in one step that a crash has done or not done."""

from __future__ import annotations

from embrasure.errors import NotFound, Refused
from embrasure.fs import Folder

CURRENT = "current"
_FRESH = ".current.new"
_RELEASES = "releases/"


def current(app: Folder) -> str | None:
    """Return the release that `current` names; None when it is absent or is no link of ours."""
    try:
        target = app.readlink(CURRENT)
    except (NotFound, Refused):
        return None
    name = target.removeprefix(_RELEASES)
    return name if name != target and "/" not in name else None


def switch(app: Folder, release: str) -> None:
    """`current` names `release`, on disk. Only after this returned may anything rely on it."""
    if current(app) == release:
        app.fsync()
        return
    # A crash may have left one; else every later switch would fail with "exists".
    app.unlink(_FRESH, missing_ok=True)
    app.symlink(f"{_RELEASES}{release}", _FRESH)
    app.rename(_FRESH, app, CURRENT, replace=True)
    app.fsync()


def remove(app: Folder) -> None:
    """Nothing is `current`, on disk."""
    app.unlink(_FRESH, missing_ok=True)
    app.unlink(CURRENT, missing_ok=True)
    app.fsync()
