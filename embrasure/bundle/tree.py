"""Read a developer's folder into manifest entries: sorted, modes normalised, no times, no owners.

What a release cannot carry (devices, set-user-id bits, capabilities) is refused, never dropped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from embrasure import limits
from embrasure.bundle.manifest import Entry
from embrasure.bundle.paths import TOPS, check_path
from embrasure.descriptor import explaining
from embrasure.errors import NotFound, Refused
from embrasure.fs import Folder
from embrasure.trust.canonical import sha256_hex

_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_CAPABILITY = "security.capability"


@dataclass(frozen=True, slots=True)
class Tree:
    """What a release carries, and where its bytes are: digest -> one file that holds them."""

    entries: tuple[Entry, ...]
    sources: dict[str, Path]
    ignored: tuple[str, ...]  # names beside code/ and config/, which are not shipped


@dataclass(slots=True)
class _Walk:
    entries: list[Entry] = field(default_factory=list)
    sources: dict[str, Path] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        if len(self.entries) == limits.FILES:
            raise Refused(
                "release", expected=f"at most {limits.FILES} paths", got="more", reason="limit"
            )
        self.entries.append(entry)


def read_tree(folder: Folder) -> Tree:
    """Return everything below `code/` and `config/` of the folder.

    Raises Refused: `bad-path`, `bad-type`, `bad-mode`, `limit`. Links are recorded, not followed.
    """
    walk = _Walk()
    for top in TOPS:
        try:
            inner = folder.child(top)
        except NotFound:
            continue
        with inner:
            for name in inner.list():
                _add(walk, inner, name, f"{top}/{name}")
    ignored = tuple(name for name in folder.list() if name not in TOPS)
    ordered = tuple(sorted(walk.entries, key=lambda entry: entry.path))
    return Tree(entries=ordered, sources=walk.sources, ignored=ignored)


def _add(walk: _Walk, folder: Folder, name: str, path: str) -> None:
    check_path(path)  # before anything is opened: also bounds the depth of this recursion
    kind = folder.stat(name).st_mode
    if stat.S_ISLNK(kind):
        target = folder.readlink(name)
        raw = os.fsencode(target)
        check_utf8(raw, path)
        walk.add(
            Entry(
                path=path,
                kind="link",
                mode="0777",
                length=len(raw),
                sha256=sha256_hex(raw),
                target=target,
            )
        )
    elif stat.S_ISDIR(kind):
        with folder.child(name) as inner:
            names = inner.list()
            for below in names:
                _add(walk, inner, below, f"{path}/{below}")
        if not names:
            empty = sha256_hex(b"")
            walk.add(Entry(path=path, kind="dir", mode="0555", length=0, sha256=empty, target=None))
    elif stat.S_ISREG(kind):
        _add_file(walk, folder, name, path)
    else:
        raise Refused(
            path, expected="a file, folder or link", got=_kind_name(kind), reason="bad-type"
        )


def check_utf8(raw: bytes, path: str) -> None:
    """Return only when a link's target is text; raises Refused (`bad-link`)."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(path, expected="a UTF-8 target", got=raw, reason="bad-link") from None


def _add_file(walk: _Walk, folder: Folder, name: str, path: str) -> None:
    fd = folder.open_file(name)
    try:
        mode = file_mode(fd, path)
        digest, length = _hashed(fd, path)
    finally:
        os.close(fd)
    walk.add(Entry(path=path, kind="file", mode=mode, length=length, sha256=digest, target=None))
    walk.sources.setdefault(digest, folder.path / name)


def file_mode(fd: int, path: str) -> str:
    """Return `0555` when anybody may execute the file, else `0444`; raises Refused (`bad-mode`)."""
    mode = os.fstat(fd).st_mode
    if mode & _SPECIAL_BITS:
        raise Refused(
            path,
            expected="no set-user-id, set-group-id or sticky bit",
            got=f"mode {stat.S_IMODE(mode):04o}",
            hint=f"chmod ug-s,-t {path}",
            reason="bad-mode",
        )
    # A file system without extended attributes has no capabilities either.
    with contextlib.suppress(OSError):
        if _CAPABILITY in os.listxattr(fd):
            raise Refused(path, expected="no file capabilities", got=_CAPABILITY, reason="bad-mode")
    return "0555" if mode & 0o111 else "0444"


def _hashed(fd: int, path: str) -> tuple[str, int]:
    hashed, length = hashlib.sha256(), 0
    for piece in _pieces(fd, path):
        hashed.update(piece)
        length += len(piece)
    return hashed.hexdigest(), length


def _pieces(fd: int, path: str) -> Iterator[bytes]:
    with explaining(path):
        while piece := os.read(fd, limits.BUFFER_BYTES):
            yield piece


def _kind_name(mode: int) -> str:
    for test, name in (
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISCHR, "a character device"),
    ):
        if test(mode):
            return name
    return "another kind"
