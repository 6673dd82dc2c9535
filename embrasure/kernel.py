"""The few system calls that crash-safe file work needs and Python does not offer."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import platform
import re
from collections.abc import Callable

RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x02, 0x04, 0x08
_INSIDE = RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH
_OPENAT2 = 437  # the same number on every architecture; no C library wraps it
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_FALLOC_FL_KEEP_SIZE = 1
_FICLONE = 0x40049409
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30}
_IOPRIO_IDLE = 3 << 13
_TRIES = 64  # of one openat2 that somebody else's renames disturb

_libc = ctypes.CDLL(None, use_errno=True)
# Typed, and a function object of its own: one install opens thousands of files.
_call_openat2 = _libc["syscall"]
_call_openat2.argtypes = (
    ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t
)  # fmt: skip
_call_openat2.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_HOW_BYTES = ctypes.sizeof(_OpenHow)


@functools.cache
def _how(flags: int, mode: int) -> tuple[_OpenHow, int]:
    """Return the argument of such an open, which the kernel only reads, and its address."""
    how = _OpenHow(flags, mode, _INSIDE)
    return how, ctypes.addressof(how)


def _checked(result: int, name: str) -> int:
    if result >= 0:
        return result
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), name)


def _finished(call: Callable[[], int], name: str) -> int:
    """Return what the call returns; one that a signal broke off is made again, as Python's are."""
    while (result := call()) < 0 and ctypes.get_errno() == errno.EINTR:
        continue
    return _checked(result, name)


def open_inside(folder_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Return a descriptor of `path` below `folder_fd`, reached without passing any link.

    path: relative, its parts checked by the caller
    Raises OSError: ELOOP or ENOTDIR for a link on the way, EXDEV for a way out.
    """
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    if "/" not in path and path not in (".", ".."):
        # No way to go, and its end is no link: every kernel promises that much, and it is quicker.
        return os.open(path, flags, mode, dir_fd=folder_fd)
    try:
        return _openat2(folder_fd, path, flags, mode)
    except OSError as problem:
        # No openat2: a kernel before 5.6, or a seccomp filter that does not know it.
        if problem.errno not in (errno.ENOSYS, errno.EPERM):
            raise
    return walk_inside(folder_fd, path, flags, mode)


def _openat2(folder_fd: int, path: str, flags: int, mode: int) -> int:
    _, how = _how(flags, mode if flags & os.O_CREAT else 0)
    name, result = os.fsencode(path), -1
    for _ in range(_TRIES):
        result = _call_openat2(_OPENAT2, folder_fd, name, how, _HOW_BYTES)
        if result >= 0:
            return int(result)
        # EAGAIN: something on the way was renamed at that moment, and `..` could not be judged.
        if ctypes.get_errno() not in (errno.EINTR, errno.EAGAIN):
            break
    return _checked(result, path)


def walk_inside(folder_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Return what `open_inside` returns, one component at a time (kernels without openat2)."""
    *way, last = path.split("/")
    held = os.dup(folder_fd)
    try:
        for part in way:
            inner = os.open(
                part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held
            )
            os.close(held)
            held = inner
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=held)
    finally:
        os.close(held)


def rename_new(from_fd: int, name: str, to_fd: int, new: str) -> None:
    """`name` is called `new`, which did not exist; raises FileExistsError when it does.

    Raises OSError (EINVAL, ENOSYS) where the file system or the kernel cannot promise that.
    """
    _renameat2(from_fd, name, to_fd, new, _RENAME_NOREPLACE)


def exchange(fd: int, name: str, other: str) -> None:
    """Both names exist, and each now means what the other one meant, in one step.

    Raises OSError (EINVAL, ENOSYS) where the file system cannot do that.
    """
    _renameat2(fd, name, fd, other, _RENAME_EXCHANGE)


def _renameat2(from_fd: int, name: str, to_fd: int, new: str, flags: int) -> None:
    _finished(
        lambda: _libc.renameat2(
            ctypes.c_int(from_fd),
            ctypes.c_char_p(os.fsencode(name)),
            ctypes.c_int(to_fd),
            ctypes.c_char_p(os.fsencode(new)),
            ctypes.c_uint(flags),
        ),
        new,
    )


def syncfs(fd: int) -> None:
    """Everything written to the file system of `fd` is on disk; an error is never retried."""
    _finished(lambda: _libc.syncfs(ctypes.c_int(fd)), "syncfs")


@functools.cache
def syncfs_tells(release: str = os.uname().release) -> bool:
    """Return whether this kernel's `syncfs` says when pages were lost: from 5.8 on it does."""
    found = re.match(r"([0-9]+)\.([0-9]+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= (5, 8)


def reserve(fd: int, length: int) -> None:
    """`length` bytes of disk are set aside for the file, whose size does not change.

    Raises OSError (ENOSPC, EDQUOT, EFBIG); file systems that cannot reserve are let be.
    """
    if length <= 0:
        return
    # glibc has the 64-bit name on every platform; musl's plain one is 64-bit.
    fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
    try:
        _finished(
            lambda: fallocate(
                ctypes.c_int(fd),
                ctypes.c_int(_FALLOC_FL_KEEP_SIZE),
                ctypes.c_int64(0),
                ctypes.c_int64(length),
            ),
            "fallocate",
        )
    except OSError as problem:
        if problem.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def clone(target_fd: int, source_fd: int) -> bool:
    """Return whether the target now shares the source's blocks, copied on write (reflink)."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
        return True
    return False


def last_at_the_disk() -> bool:
    """Return whether the disk now serves this thread when nobody else wants it.

    A service manager's filter may forbid it.
    """
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        return False
    # Who 0 of IOPRIO_WHO_PROCESS is the calling thread alone.
    return bool(_libc.syscall(number, 1, 0, _IOPRIO_IDLE) == 0)


def shown(path: str, *, most: int) -> bytes:
    """Return what the kernel shows in a file of /proc, at most so many bytes; raises OSError.

    No path object and no file object: these would be most of its cost.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, most)
    finally:
        os.close(fd)
