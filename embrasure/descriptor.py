"""What is done with one open descriptor, and what the system's errors mean in our words."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from embrasure import fsops, limits
from embrasure.errors import Denied, EmbrasureError, Failed, NotFound, Refused

_LEAST_READ_BYTES = 4096  # a file of /proc says that it has none


def explained(problem: OSError, thing: str) -> EmbrasureError:
    """Return our error for what the system said about `thing`."""
    code, text = problem.errno, problem.strerror or "an error"
    if code in (errno.ENOSPC, errno.EDQUOT):
        return Failed(
            thing,
            expected="room on the disk",
            got=text.lower(),
            hint="free space or inodes, then try again",
            reason="no-space",
        )
    if code == errno.ENOENT:
        return NotFound(thing, expected="a file or folder", got="nothing there")
    if code in (errno.EEXIST, errno.ENOTEMPTY):
        return Refused(thing, expected="a new name", got="a name in use", reason="exists")
    if code in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV, errno.EISDIR, errno.ENXIO):
        return Refused(
            thing, expected="no link or special file on the way", got=text, reason="bad-link"
        )
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "" if code == errno.EROFS else "as the user to whom it belongs"
        return Denied(
            thing, expected="permission", got=text.lower(), hint=hint, reason="permissions"
        )
    return Failed(thing, expected="a disk that answers", got=text, reason="io")


class explaining:  # noqa: N801  # used as a word of a `with` statement
    """What the system refuses inside becomes one of our errors.

    thing: what it is about, or where; name: below it. Put together only when there is an error:
    a release has thousands of files, and each goes through here many times.
    """

    __slots__ = ("_name", "_thing")

    def __init__(self, thing: str, name: str = "") -> None:
        self._thing, self._name = thing, name

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(problem, OSError):
            where = f"{self._thing}/{self._name}" if self._name else self._thing
            raise explained(problem, where) from problem


def check_name(name: str) -> str:
    """Return `name` when it is one part of a path; raises Refused (`bad-path`)."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise Refused("name", expected="one part of a path", got=name, reason="bad-path")
    if (len(name) if name.isascii() else len(os.fsencode(name))) > limits.NAME_BYTES:
        raise Refused("name", expected=f"{limits.NAME_BYTES} bytes", got=name, reason="limit")
    return name


def reach(path: Path) -> int:
    """Return a descriptor that only names the folder at `path`, whose last part is no link: it
    neither reads nor writes, and needs no right but the way there.
    """
    with explaining(str(path)):
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Every byte of `data` is written; a short write is continued."""
    rest = memoryview(data)
    while rest:
        rest = rest[fsops.write(fd, rest) :]


def read_bounded(fd: int, *, limit: int, thing: str, seems: int | None = None) -> bytes:
    """Return all bytes from `fd`; raises Refused (`limit`) at the first one beyond `limit`.

    seems: how many there seem to be, when that was asked already; what is read counts
    """
    held = bytearray()
    with explaining(thing):
        # What is asked for is set aside first, and cleared: 256 KiB for each small file would be
        # most of its cost.
        step = about(os.fstat(fd).st_size if seems is None else seems)
        while piece := os.read(fd, asked := min(step, limit + 1 - len(held))):
            held += piece
            if len(held) > limit:
                raise Refused(thing, expected=f"at most {limit} bytes", got="more", reason="limit")
            if len(held) == seems and len(piece) < asked:
                break  # more was asked for, and there is none
    return bytes(held)


def about(length: int) -> int:
    """Return how many bytes to ask for at once of a file that seems to have `length`."""
    return min(max(length + 1, _LEAST_READ_BYTES), limits.BUFFER_BYTES)


def fill(fd: int, chunks: Iterable[bytes], *, limit: int | None, thing: str) -> str:
    """Return the SHA-256 of all chunks, in hex, once written; raises Refused (`limit`)."""
    hashed, count = hashlib.sha256(), 0
    for chunk in chunks:
        count += len(chunk)
        if limit is not None and count > limit:
            raise Refused(thing, expected=f"at most {limit} bytes", got="more", reason="limit")
        hashed.update(chunk)
        write_all(fd, chunk)
    return hashed.hexdigest()


def make_folders(path: Path, mode: int) -> None:
    """The folder at `path` and those above it are there, and on disk."""
    missing: list[Path] = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        with explaining(str(folder)):
            parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with contextlib.suppress(FileExistsError):
                    fsops.mkdir(parent, folder.name, mode)
                fsops.fsync(parent)
            finally:
                os.close(parent)
