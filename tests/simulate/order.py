"""Looks at the order of operations, where a kill alone shows nothing: what is not synced yet.

A kill loses no writes, so a missing sync never breaks a plain sweep. This observer keeps, for every
file and folder, what is not on disk yet, and notes each moment at which a name is made to stand for
bytes, or a switch for a release, that a power cut could still take away.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from embrasure.bundle.twins import TWIN
from embrasure.fsops import Op
from tests.simulate.faults import is_on_disk, place

Inode = tuple[int, int]
# What a node may lose: logs, sockets, plain secrets of what runs, caches with their own digests.
_PASSING = ("/run/", "/logs/", "/lock/", "/documents/", "/shared")


@dataclass(slots=True)
class Order:
    """Every operation of a process, in order; `wrong` says what came too early."""

    wrong: list[str] = field(default_factory=list)
    _files: dict[Inode, str] = field(default_factory=dict)  # bytes or mode not on disk: its path
    _names: dict[str, set[str]] = field(default_factory=dict)  # folder -> names not on disk

    def before(self, op: Op) -> int | None:
        """Look at a rename before it is done: afterwards the old name is gone."""
        if op.call in ("rename", "exchange") and is_on_disk(op):
            self._rename(op)
        return None

    def after(self, op: Op, result: int) -> None:
        """Note what is not on disk yet, or now is."""
        if not is_on_disk(op) or op.name.endswith("lock"):
            return  # a lock is an empty file that is made again when it is missing
        if op.call == "create":
            self._files[_inode(result)] = place(op)
            self._changed(op)
        elif op.call in ("write", "truncate"):
            self._files[_inode(op.fd)] = place(op)
        elif op.call in ("mkdir", "symlink", "link", "rename", "exchange", "unlink", "rmdir"):
            self._changed(op)
            if op.call in ("unlink", "rmdir"):
                self._gone(place(op))
        elif op.call == "fsync":
            self._files.pop(_inode(op.fd), None)
            if stat.S_ISDIR(os.fstat(op.fd).st_mode):
                self._names.pop(place(op), None)
        elif op.call == "syncfs":
            self._files.clear()
            self._names.clear()

    def told(self, what: str) -> None:
        """Somebody is told that something is done: then nothing may be left that it stands on."""
        lost = [*self._files.values(), *(f"{f}/" for f, names in self._names.items() if names)]
        self.wrong += [f"{what} is told before {path} is on disk" for path in _lasting(lost)]

    def _changed(self, op: Op) -> None:
        path = Path(place(op))
        self._named(str(path.parent), path.name)
        if op.call == "rename":
            old = str(Path(f"/proc/self/fd/{op.fd}").readlink())
            self._named(old, op.name)
            self._moved(f"{old}/{op.name}", str(path))

    def _named(self, folder: str, name: str) -> None:
        # A twin is made again where its name is lost; its bytes are looked at all the same.
        if not name.endswith(TWIN):
            self._names.setdefault(folder, set()).add(name)

    def _gone(self, path: str) -> None:
        """What a removed folder held, and a removed file, need no place on disk any more."""
        self._names.pop(path, None)
        for inode in [inode for inode, held in self._files.items() if held == path]:
            del self._files[inode]

    def _moved(self, old: str, new: str) -> None:
        for folder in [f for f in self._names if f == old or f.startswith(f"{old}/")]:
            self._names[new + folder.removeprefix(old)] = self._names.pop(folder)
        for inode, path in self._files.items():
            if path == old or path.startswith(f"{old}/"):
                self._files[inode] = new + path.removeprefix(old)

    def _rename(self, op: Op) -> None:
        folder = Path(f"/proc/self/fd/{op.fd}").readlink()
        old, new = folder / op.name, place(op)
        if not list(_lasting([new])):
            return
        if op.new in ("current", "complete"):
            self._switch(folder, old)
            return
        if "/tuf/trusted/" in new:
            return  # a generation without a link to it: as good as staging
        below = f"{old}/"
        lost = [p for p in self._files.values() if p == str(old) or p.startswith(below)]
        lost += [f for f, names in self._names.items() if names and f"{f}/".startswith(below)]
        self.wrong += [f"{new} is named before {path} is on disk" for path in lost]

    def _switch(self, app: Path, link: Path) -> None:
        """A link may name a release (or generation) when its tree and its own name are on disk."""
        release = app / link.readlink()
        below = f"{release}/"
        lost = [p for p in self._files.values() if p.startswith(below)]
        lost += [f for f, names in self._names.items() if names and f"{f}/".startswith(below)]
        if release.name in self._names.get(str(release.parent), ()):
            lost.append(f"{release.parent}/")
        self.wrong += [f"the switch comes before {path} is on disk" for path in lost]


def _lasting(paths: Iterable[str]) -> Iterable[str]:
    return (path for path in paths if not any(word in f"{path}/" for word in _PASSING))


def _inode(fd: int) -> Inode:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
