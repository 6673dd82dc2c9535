"""The one port to the disk: every operation that changes it is one function here, and nothing else.

Errors are the system's own; `fs`, `Folder` and the blob store say them in our words. Names are
single parts, below a held folder. A test may watch the operations, let one fail, cut a write short
or end the process at it (`watched`); no product code does.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from embrasure import kernel

Call = Literal[
    "mkdir", "create", "write", "truncate", "chmod", "chown", "touch", "symlink", "link", "clone",
    "allocate", "rename", "exchange", "unlink", "rmdir", "fsync", "syncfs",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation. fd: of the file, or of the folder that `name` is in (then not "").

    to_fd, new: the second name of a rename or link; data: of a write; target: of a link;
    source_fd: of a clone; length: of truncate and allocate; mode: of create, mkdir and chmod;
    replaces: a rename that may take the place of another name.
    """

    call: Call
    fd: int
    name: str = ""
    to_fd: int = -1
    new: str = ""
    data: bytes = b""
    target: str = ""
    source_fd: int = -1
    length: int = 0
    mode: int = 0
    replaces: bool = False


class Observer(Protocol):
    """Who sees every operation of this process, in whichever thread it is done."""

    def before(self, op: Op) -> int | None:
        """The operation is about to be done; what this raises is what its caller gets.

        Returns how many bytes of a write are written, None for all.
        """
        ...

    def after(self, op: Op, result: int) -> None:
        """The operation was done. result: descriptor of a create, count of a write, else 0."""
        ...


_observers: tuple[Observer, ...] = ()


@contextlib.contextmanager
def watched(observer: Observer) -> Iterator[None]:
    """`observer` sees every operation of the process until the block ends."""
    global _observers
    before = _observers
    _observers = (*before, observer)
    try:
        yield
    finally:
        _observers = before


def _do(about: Callable[[], Op], act: Callable[[int | None], int]) -> int:
    """Return what `act` does, seen by all observers; `act` takes the bytes allowed of a write."""
    observers = _observers
    if not observers:
        return act(None)
    op = about()
    allowed: int | None = None
    for observer in observers:
        allowed = observer.before(op) if allowed is None else allowed
    result = act(allowed)
    for observer in observers:
        observer.after(op, result)
    return result


def _did(act: Callable[[], object]) -> Callable[[int | None], int]:
    def done(_: int | None) -> int:
        act()
        return 0

    return done


# Names


def mkdir(fd: int, name: str, mode: int) -> None:
    """The folder `name` is new; raises FileExistsError."""
    _do(
        lambda: Op(call="mkdir", fd=fd, name=name, mode=mode),
        _did(lambda: os.mkdir(name, mode, dir_fd=fd)),
    )


def create(fd: int, name: str, flags: int, mode: int) -> int:
    """Return a descriptor of the file `name`, made if it was not there (O_EXCL: new).

    flags: how it is opened, without O_CREAT; no link is followed
    """
    if not _observers:
        return kernel.open_inside(fd, name, flags | os.O_CREAT, mode)
    return _do(
        lambda: Op(call="create", fd=fd, name=name, mode=mode),
        lambda _: kernel.open_inside(fd, name, flags | os.O_CREAT, mode),
    )


def symlink(target: str, fd: int, name: str) -> None:
    """`name` is a new link to `target`; raises FileExistsError."""
    _do(
        lambda: Op(call="symlink", fd=fd, name=name, target=target),
        _did(lambda: os.symlink(target, name, dir_fd=fd)),
    )


def link(fd: int, name: str, to_fd: int, new: str) -> None:
    """The file `name` has a second name; raises FileExistsError."""
    if not _observers:  # of a release with thousands of files each goes through here
        os.link(name, new, src_dir_fd=fd, dst_dir_fd=to_fd, follow_symlinks=False)
        return
    _do(
        lambda: Op(call="link", fd=fd, name=name, to_fd=to_fd, new=new),
        _did(
            lambda: os.link(name, new, src_dir_fd=fd, dst_dir_fd=to_fd, follow_symlinks=False)
        ),
    )  # fmt: skip


def rename(fd: int, name: str, to_fd: int, new: str, *, replaces: bool) -> None:
    """`name` is called `new`, in one step.

    replaces: what was called `new` goes; else FileExistsError when there was something
    """
    if replaces and not _observers:
        os.rename(name, new, src_dir_fd=fd, dst_dir_fd=to_fd)
        return

    def about() -> Op:
        return Op(call="rename", fd=fd, name=name, to_fd=to_fd, new=new, replaces=replaces)

    if replaces:
        _do(about, _did(lambda: os.rename(name, new, src_dir_fd=fd, dst_dir_fd=to_fd)))
        return
    try:
        _do(about, _did(lambda: kernel.rename_new(fd, name, to_fd, new)))
    except OSError as problem:
        # NFS and some others have no exclusive rename; for files a second name does the same.
        if problem.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        link(fd, name, to_fd, new)
        unlink(fd, name)


def exchange(fd: int, name: str, other: str) -> None:
    """Each of the two names means what the other one meant, in one step; both exist."""
    _do(
        lambda: Op(call="exchange", fd=fd, name=name, to_fd=fd, new=other),
        _did(lambda: kernel.exchange(fd, name, other)),
    )


def unlink(fd: int, name: str) -> None:
    """No file or link is called `name`; raises FileNotFoundError."""
    if not _observers:
        os.unlink(name, dir_fd=fd)
        return
    _do(lambda: Op(call="unlink", fd=fd, name=name), _did(lambda: os.unlink(name, dir_fd=fd)))


def rmdir(fd: int, name: str) -> None:
    """No folder is called `name`, which was empty."""
    _do(lambda: Op(call="rmdir", fd=fd, name=name), _did(lambda: os.rmdir(name, dir_fd=fd)))


# Contents


def write(fd: int, data: bytes | memoryview) -> int:
    """Return how many bytes were written, which may be fewer than all."""
    if not _observers:
        return os.write(fd, data)
    return _do(
        lambda: Op(call="write", fd=fd, data=bytes(data)),
        lambda allowed: os.write(fd, data[:allowed]),
    )


def truncate(fd: int, length: int) -> None:
    """The file has this many bytes."""
    _do(lambda: Op(call="truncate", fd=fd, length=length), _did(lambda: os.ftruncate(fd, length)))


def allocate(fd: int, length: int) -> None:
    """So much disk is set aside for the file, where the file system can; its size stays."""
    _do(lambda: Op(call="allocate", fd=fd, length=length), _did(lambda: kernel.reserve(fd, length)))


def clone(fd: int, source_fd: int) -> bool:
    """Return whether the file now shares the blocks of the other one, copied on write."""
    return bool(
        _do(
            lambda: Op(call="clone", fd=fd, source_fd=source_fd),
            lambda _: int(kernel.clone(fd, source_fd)),
        )
    )


# Who may, and when


def chmod(fd: int, mode: int) -> None:
    """The file or folder has the mode."""
    if not _observers:
        os.fchmod(fd, mode)
        return
    _do(lambda: Op(call="chmod", fd=fd, mode=mode), _did(lambda: os.fchmod(fd, mode)))


def chown(fd: int, uid: int, gid: int) -> None:
    """The file or folder is of this user and group."""
    _do(lambda: Op(call="chown", fd=fd), _did(lambda: os.fchown(fd, uid, gid)))


def give(fd: int, name: str, uid: int, gid: int, mode: int) -> None:
    """`name` itself is of this user and group, and has the mode."""
    _do(
        lambda: Op(call="chown", fd=fd, name=name, mode=mode),
        _did(lambda: _give(fd, name, uid, gid, mode)),
    )


def _give(fd: int, name: str, uid: int, gid: int, mode: int) -> None:
    os.chmod(name, mode, dir_fd=fd)  # first: afterwards it is not ours any more
    os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)


def touch(fd: int, name: str) -> None:
    """`name` itself was changed now, as far as its times say."""
    _do(
        lambda: Op(call="touch", fd=fd, name=name),
        _did(lambda: os.utime(name, dir_fd=fd, follow_symlinks=False)),
    )


# On disk. An error here is never tried again: the kernel may have marked the lost pages clean.


def fsync(fd: int) -> None:
    """What the file holds, or the names in the folder, are on disk."""
    _do(lambda: Op(call="fsync", fd=fd), _did(lambda: os.fsync(fd)))


def syncfs(fd: int) -> None:
    """All that was written to the file system of `fd` is on disk."""
    _do(lambda: Op(call="syncfs", fd=fd), _did(lambda: kernel.syncfs(fd)))
