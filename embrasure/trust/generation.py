"""Metadata on disk in generations: python-tuf works in a copy, one rename makes it current.

python-tuf syncs nothing and removes root.json before it links the next one; a kill or a power cut
in the middle must leave the former generation as it was.
"""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound
from embrasure.fs import Folder

HISTORY = "root_history"
_NUMBER = re.compile(r"[1-9][0-9]{0,15}")
CURRENT, COMPLETE = "current", "complete"
_LIMIT = max(limits.ROOT_BYTES, limits.TARGETS_BYTES)  # bytes of any metadata file


class Generations:
    """`trusted/<n>/` with two links: `current`, the newest verified files, and `complete`, the
    newest generation that a whole refresh succeeded in. One writer at a time (the caller's lock).
    """

    def __init__(self, folder: Path) -> None:
        """`folder` and `folder/trusted` exist afterwards."""
        self.folder = folder
        self.trusted = folder / "trusted"
        Folder.open(self.trusted, create=True).close()

    def linked(self, link: str) -> Path | None:
        """Return the generation that `link` names; None when there is none, or it is damaged."""
        try:
            with Folder.open(self.folder) as held:
                target = held.readlink(link)
                parts = target.split("/")
                if len(parts) != 2 or parts[0] != "trusted" or not _NUMBER.fullmatch(parts[1]):
                    return None
                held.child(target).close()
        except EmbrasureError:
            # Floors do not depend on it: without files the workflow starts again at the anchor.
            return None
        return self.folder / target

    def begin(self) -> Path:
        """Return a new generation: hard links to the files of the current one, else empty.

        What crashed before it became current is removed first.
        """
        with Folder.open(self.trusted) as held:
            self._sweep(held)
            number = max((int(name) for name in held.list() if _NUMBER.fullmatch(name)), default=0)
            name = str(number + 1)
            with held.mkdir(name) as new, new.mkdir(HISTORY) as history:
                current = self.linked(CURRENT)
                if current is not None:
                    _link_files(current, new)
                    _link_files(current / HISTORY, history)
        return self.trusted / name

    def changed(self, generation: Path) -> frozenset[str]:
        """Return the files, relative to the generation, that the current one has otherwise."""
        current = self.linked(CURRENT)
        return _changed(generation, current, _written(generation, current))

    def commit(self, generation: Path, *, complete: bool) -> None:
        """The generation is current, and on disk; `complete` names it too if the refresh was whole.

        One without a change is dropped instead.
        """
        current = self.linked(CURRENT)
        written = _written(generation, current)
        if current is not None and not _changed(generation, current, written):
            self.discard(generation)
            generation = current
        else:
            self._sync(generation, written)
            self._point(CURRENT, generation)
        if complete and self.linked(COMPLETE) != generation:
            self._point(COMPLETE, generation)

    def _sync(self, generation: Path, written: Iterable[str]) -> None:
        with Folder.open(generation) as held:
            for name in sorted(written):
                held.fsync_file(name)
            with held.child(HISTORY) as history:
                history.fsync()
            held.fsync()
        with Folder.open(self.trusted) as trusted:
            trusted.fsync()

    def discard(self, generation: Path) -> None:
        """The generation is gone."""
        with Folder.open(self.trusted) as held:
            held.remove_tree(generation.name)

    def _point(self, link: str, generation: Path) -> None:
        with Folder.open(self.folder) as held:
            held.unlink(f".{link}.new", missing_ok=True)
            held.symlink(f"trusted/{generation.name}", f".{link}.new")
            held.rename(f".{link}.new", held, link, replace=True)
            held.fsync()

    def _sweep(self, held: Folder) -> None:
        kept = {linked.name for link in (CURRENT, COMPLETE) if (linked := self.linked(link))}
        for name in held.list():
            if name not in kept:
                held.remove_tree(name)


def read_generation(generation: Path, name: str, *, limit: int) -> bytes | None:
    """Return the bytes of one file of a generation; None when it is missing or no plain file."""
    try:
        with Folder.open(generation) as held:
            return held.read(name, limit=limit)
    except EmbrasureError:
        return None


def newest_file(folder: Path, role: str, *, limit: int) -> bytes:
    """Return the newest file of `role` that was verified here, as it was served; empty for none.

    folder: of a TrustClient. A snapshot of the last complete look stands in where a newer root has
    dropped the current one.
    """
    if not (folder / "trusted").is_dir():
        return b""
    generations = Generations(folder)
    for link in (CURRENT, COMPLETE):
        generation = generations.linked(link)
        raw = read_generation(generation, f"{role}.json", limit=limit) if generation else None
        if raw is not None:
            return raw
    return b""


def _link_files(source: Path, to: Folder) -> None:
    try:
        with Folder.open(source) as held:
            for name in _inodes(held):
                held.link(name, to, name)
    except NotFound:
        return


def _inodes(folder: Folder) -> dict[str, int]:
    """Return the regular files: python-tuf replaces a file, it never writes into one."""
    found = {}
    for name in folder.list():
        about = folder.stat(name)
        if stat.S_ISREG(about.st_mode):
            found[name] = about.st_ino
    return found


def _files(generation: Path) -> dict[str, int]:
    found = {}
    for prefix in ("", f"{HISTORY}/"):
        with contextlib.suppress(NotFound), Folder.open(generation / prefix) as held:
            found.update({f"{prefix}{name}": inode for name, inode in _inodes(held).items()})
    return found


def _written(generation: Path, current: Path | None) -> frozenset[str]:
    """Return the files that are no hard links to those of the current generation."""
    before = {} if current is None else _files(current)
    return frozenset(n for n, inode in _files(generation).items() if before.get(n) != inode)


def _changed(generation: Path, current: Path | None, written: frozenset[str]) -> frozenset[str]:
    if current is None:
        return written
    # python-tuf may write the same bytes anew: another file, and no change.
    return frozenset(
        name
        for name in written
        if read_generation(generation, name, limit=_LIMIT)
        != read_generation(current, name, limit=_LIMIT)
    )
