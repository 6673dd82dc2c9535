"""What a process gives up for ever, with all that it starts: files by Landlock, calls by seccomp.

No library: both are a few system calls. Run as a file (`python -I -S sandbox.py SPEC ARGV...`) it
is the last step before a hook's own code, so it imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import socket
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def take_no_privilege() -> None:
    """No program that this thread starts can gain a right by its file mode; raises OSError."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")


# Landlock: the same system call numbers on every architecture

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
READ = _EXECUTE | _READ_FILE | _READ_DIR
_TCP, _SCOPES = 3, 3  # bind and connect; abstract Unix sockets and signals


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("fd", ctypes.c_int32))


def landlock_abi() -> int:
    """Return the Landlock version of this kernel, 0 when it has none or it is switched off."""
    try:
        return _call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    except OSError:
        return 0


def _all_rights(abi: int) -> int:
    rights = _REFER - 1
    for version, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        rights |= right if abi >= version else 0
    return rights


def restrict_files(read: Iterable[str], write: Iterable[str]) -> None:
    """This thread reads and runs what is below `read`, changes what is below `write`, and nothing
    else. Where the kernel can: no TCP, no signal and no abstract socket to the outside.

    A path that is not there is passed over. Raises OSError.
    """
    abi = landlock_abi()
    rights = _all_rights(abi)
    wanted = _Ruleset(rights, _TCP, _SCOPES)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    rules = _call(_CREATE, ctypes.byref(wanted), ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for paths, access in ((read, READ), (write, rights)):
            for path in paths:
                _allow(rules, path, access & rights)
        take_no_privilege()
        _call(_RESTRICT, ctypes.c_int(rules), ctypes.c_uint32(0))
    finally:
        os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            access &= _OF_A_FILE
        rule = _Beneath(access, fd)
        _call(_ADD, ctypes.c_int(rules), ctypes.c_int(_PATH_BENEATH), ctypes.byref(rule),
              ctypes.c_uint32(0))  # fmt: skip
    finally:
        os.close(fd)


# seccomp

_MACHINES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_*, column below
)
# name -> number on x86_64 and aarch64
_CALLS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "socket": (41, 198), "socketpair": (53, 199), "clone": (56, 220), "clone3": (435, 435),
        "seccomp": (317, 277), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
        "io_uring_register": (427, 427), "unshare": (272, 97), "setns": (308, 268),
        "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
        "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
        "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
        "mount_setattr": (442, 442), "ptrace": (101, 117), "process_vm_readv": (310, 270),
        "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438), "bpf": (321, 280),
        "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
        "add_key": (248, 217), "request_key": (249, 218), "open_by_handle_at": (304, 265),
        "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
        "finit_module": (313, 273), "delete_module": (176, 106), "personality": (135, 92),
    }
)  # fmt: skip
# What can make a socket without the call `socket`, so it goes with it.
_RINGS = ("io_uring_setup", "io_uring_enter", "io_uring_register")
# What no hook needs, and attacks on a kernel do. clone3 hides its flags from a filter: ENOSYS makes
# every C library use clone.
KERNEL = frozenset(_CALLS) - {"socket", "socketpair", "clone", "clone3", "seccomp", *_RINGS}
_NAMESPACES = 0x7E020000 | 0x00000080  # every CLONE_NEW* flag
_X32 = 0x40000000
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST = 0, 4, 16  # offsets in struct seccomp_data


class _Step(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )  # fmt: skip


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("steps", ctypes.POINTER(_Step)))


Step = tuple[int, int, int, int]


def is_known_machine() -> bool:
    """Return whether a filter can be made for this processor."""
    return platform.machine() in _MACHINES


def program(*, families: Sequence[int], refused: Iterable[str]) -> list[Step]:
    """Return the filter: sockets of `families` only, no io_uring, none of the calls `refused`.

    A call of another architecture ends the process. Raises OSError (ENOSYS) for an unknown machine.
    """
    if not is_known_machine():
        raise OSError(errno.ENOSYS, f"no system call numbers for {platform.machine()}")
    architecture, column = _MACHINES[platform.machine()]
    steps: list[Step] = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL),
    ]  # fmt: skip
    for name in sorted({*refused, *_RINGS}):
        steps += [(_EQUAL, 0, 1, _CALLS[name][column]), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    if "unshare" in refused:
        steps += [(_EQUAL, 0, 1, _CALLS["clone3"][column]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
        steps += [
            (_EQUAL, 0, 4, _CALLS["clone"][column]), (_LOAD, 0, 0, _FIRST),
            (_ANY_BIT, 0, 1, _NAMESPACES), (_RETURN, 0, 0, _ERRNO | errno.EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]  # fmt: skip
    steps += [(_EQUAL, 0, 2 + len(families), _CALLS["socket"][column]), (_LOAD, 0, 0, _FIRST)]
    steps += [(_EQUAL, len(families) - number, 0, family) for number, family in enumerate(families)]
    steps += [(_RETURN, 0, 0, _ERRNO | errno.EACCES), (_RETURN, 0, 0, _ALLOW)]
    return steps


def filter_calls(*, families: Sequence[int] = (), refused: Iterable[str] = ()) -> None:
    """What `program` says holds for this thread and all that it starts; raises OSError."""
    steps = program(families=families, refused=refused)
    made = _Program(len(steps), (_Step * len(steps))(*(_Step(*step) for step in steps)))
    number = _CALLS["seccomp"][_MACHINES[platform.machine()][1]]
    take_no_privilege()
    _call(number, ctypes.c_uint(1), ctypes.c_uint(0), ctypes.byref(made))


# Capabilities, by their numbers in capability.h

CAPABILITIES: Mapping[str, int] = MappingProxyType({"CHOWN": 0, "SETGID": 6, "SETUID": 7})
_CAPSET = (126, 91)
_CAPABILITY_VERSION_3 = 0x20080522
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _LAST_CAPABILITY = 23, 24, 63


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )  # fmt: skip


def keep_capabilities(names: Iterable[str]) -> None:
    """This thread, and those it starts, have these capabilities for ever, and no program that they
    start has another; raises OSError.
    """
    numbers = {CAPABILITIES[name] for name in names}
    for number in range(_LAST_CAPABILITY + 1):
        held = _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1  # -1: unknown to this kernel
        if held and number not in numbers and _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    kept = sum(1 << number for number in numbers)
    sets = (_Sets * 2)(_Sets(kept, kept, 0), _Sets(0, 0, 0))
    header = _Header(_CAPABILITY_VERSION_3, 0)
    number = _CAPSET[_MACHINES[platform.machine()][1]]
    _call(number, ctypes.byref(header), ctypes.byref(sets))


def leave_the_network() -> None:
    """This thread, and those it starts, can make no socket that leaves the host; raises OSError.

    Netlink stays: it is a door to this kernel only, and bubblewrap makes its rooms with it.
    """
    filter_calls(families=(socket.AF_UNIX, socket.AF_NETLINK))


# The environment of a command, which must not reach what builds its room: its loader obeys it.
HIDDEN = "EMBRASURE_ROOM_"


def hidden(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` under names that no loader and no library knows."""
    return {HIDDEN + name: value for name, value in env.items()}


def shown(env: Mapping[str, str]) -> dict[str, str]:
    """Return what was hidden in `env`, under its own names, and nothing else."""
    return {n.removeprefix(HIDDEN): value for n, value in env.items() if n.startswith(HIDDEN)}


def main() -> int:
    """Become the command in the arguments, within the limits of the specification before it.

    SPEC: JSON `{"read", "write", "memory", "tasks"}`. Its environment comes hidden. Returns only
    when it cannot be started.
    """
    spec, argv = json.loads(sys.argv[1]), sys.argv[2:]
    os.closerange(3, 1 << 20)  # a held folder would be a way out of every mount
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (spec["tasks"], spec["tasks"]))
    resource.setrlimit(resource.RLIMIT_AS, (spec["memory"], spec["memory"]))
    try:
        if landlock_abi():
            restrict_files(spec["read"], spec["write"])
        filter_calls(refused=KERNEL)
        os.execve(argv[0], argv, shown(os.environ))  # noqa: S606  # this is the whole point
    except OSError as problem:
        print(f"embrasure: {argv[0]!r} does not start: {problem.strerror}", file=sys.stderr)
    return 127


if __name__ == "__main__":
    sys.exit(main())
