"""Whether an app may be changed here: its owner's file is as he left it, and its user is there."""

from __future__ import annotations

import os

from node import serving
from node.isolation import Isolation
from node.paths import Paths

_State = tuple[tuple[int, int, int], ...]


class Owned:
    """Looks again only when a file has changed: every poll asks."""

    def __init__(self, paths: Paths, isolation: Isolation) -> None:
        self._paths, self._isolation = paths, isolation
        self._good: dict[str, _State] = {}
        self._files: dict[str, tuple[str, ...]] = {}  # as text: a path costs more than the look

    def check(self, app: str) -> None:
        """Return only when nothing about the app is damaged; raises Misuse, Denied."""
        state = self._state(app)
        if state and self._good.get(app) == state:
            return
        config = serving.owned_app(self._paths, app, serving.load(self._paths))
        self._isolation.user(app, config)
        self._good[app] = state

    def _state(self, app: str) -> _State:
        if (files := self._files.get(app)) is None:
            copies = self._paths.serving / "a", self._paths.serving / "b"
            files = self._files[app] = tuple(map(str, (self._paths.app_toml(app), *copies)))
        try:
            found = [os.lstat(path) for path in files]
        except OSError:
            return ()
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)
