"""Which processes belong to one start of an app, found in /proc, whatever they forked into.

Every start has a random token in its environment. With the node as child subreaper an orphan comes
back to the node, where the token names its app. (Production uses a cgroup instead.)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embrasure import kernel
from embrasure.errors import Failed
from node import as_user
from node.launch import hidden
from node.users import User

TOKEN = "EMBRASURE_INSTANCE"  # noqa: S105  # the name of a variable
_PROC = Path("/proc")
_PR_SET_CHILD_SUBREAPER = 36
_LAUNCH = Path(__file__).with_name("launch.py")
_STEP_SECONDS = 0.01  # between looks at what is ending
_QUIET_LOOKS = 2  # in a row that find nothing: it has ended
_STAT_BYTES = 4096  # the kernel's own line, of some 50 numbers and a short name
_births = threading.Lock()
_awaited: set[int] = set()  # children whose end somebody waits for


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc."""

    pid: int
    parent: int
    session: int
    is_zombie: bool


def adopt_orphans() -> None:
    """From now on a process whose parent dies below this one becomes its child, not init's."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise Failed("supervisor", expected="to adopt orphans", got="an old kernel")


def launched(argv: Sequence[str], user: User | None = None) -> list[str]:
    """Return the command that starts `argv` as `user`, bound to the life of the calling thread."""
    who = "-" if user is None else f"{user.uid}:{user.gid}"
    return [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), who, *argv]


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    output: int,
    token: str,
    user: User | None = None,
    keep: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Return the started process, in a session of its own; its starter calls `ended` after it.

    user: whom it runs as, None for the node's own; keep: descriptors that it inherits
    Raises OSError. No process is reaped while another is born: the exit status of a hook must
    come to the one who waits for it, or its failure would be taken for a success.
    """
    with _births:
        process = subprocess.Popen(  # noqa: S603  # an argument list, checked by the manifest
            launched(argv, user),
            env={**hidden({**env, TOKEN: token}), TOKEN: token},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=tuple(keep),
        )
        _awaited.add(process.pid)
        return process


def start_helper(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Return a process of our own that is asked by its input, in a session of its own; its starter
    calls `ended` after it.
    """
    with _births:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            command, env={}, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True, bufsize=0,
        )  # fmt: skip
        _awaited.add(process.pid)
        return process


def ended(process: subprocess.Popen[bytes]) -> int:
    """Return the exit status of a process whose end has come."""
    status = process.wait()
    with _births:
        _awaited.discard(process.pid)
    return status


def table(user: User | None = None) -> dict[int, Process]:
    """Return every process now, by pid; with a user those that run as that user."""
    found = {}
    for name in os.listdir(_PROC):  # noqa: PTH208  # read several times at each stop
        if not name.isdigit() or (user is not None and uid_of(int(name)) != user.uid):
            continue
        if (process := _read(int(name))) is not None:
            found[process.pid] = process
    return found


def _read(pid: int) -> Process | None:
    try:
        text = kernel.shown(f"/proc/{pid}/stat", most=_STAT_BYTES)
    except OSError:
        return None
    # The name in parentheses may hold spaces and parentheses itself. A process whose first thread
    # has ended before the others is called a zombie as well, and runs on.
    fields = text[text.rindex(b")") + 2 :].split()
    is_zombie = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
    return Process(pid, int(fields[1]), int(fields[3]), is_zombie)


def has_token(pid: int, token: str) -> bool:
    """Return whether the process started with this token in its environment."""
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return f"{TOKEN}={token}".encode() in environment.split(b"\0")


def uid_of(pid: int) -> int | None:
    """Return whom a process runs as, None when it is gone.

    The kernel gives the folder in /proc to the effective user, also of a process that lets nobody
    look into it (proc(5)). An app cannot have another one than its real one: no_new_privs.
    """
    try:
        return os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116  # of each process of the host
    except OSError:
        return None


def members(child: int, token: str, user: User | None = None) -> frozenset[int]:
    """Return the living processes of one start: `child`, its orphans, and all below them.

    Orphans are children of this process, their subreaper: in the session that `child` made, or with
    the token if they left it (a daemon); some programs overwrite their environment. Of an app with
    a user of its own: every child of that user, and `child` until it is the user's.
    """
    processes, me = table(user), os.getpid()
    if user is not None:
        start = _read(child)
        if start is not None and (start.parent, start.session) == (me, child):
            processes[child] = start
        return _below(processes, {p.pid for p in processes.values() if p.parent == me})
    roots = {
        p.pid
        for p in processes.values()
        if p.parent == me and (p.session == child or has_token(p.pid, token))
    }
    return _below(processes, roots)


def leftovers(token: str) -> frozenset[int]:
    """Return the living processes that carry `token`, anywhere: those of a node that was killed."""
    return below({pid for pid in table() if has_token(pid, token)})


def below(roots: Iterable[int]) -> frozenset[int]:
    """Return the living processes of `roots`, and all that descend from them."""
    processes = table()
    return _below(processes, {pid for pid in roots if pid in processes})


def _below(processes: dict[int, Process], roots: set[int]) -> frozenset[int]:
    found, grown = set(roots), True
    while grown:
        more = {p.pid for p in processes.values() if p.parent in found} - found
        grown = bool(more)
        found |= more
    return frozenset(pid for pid in found if pid in processes and not processes[pid].is_zombie) - {
        os.getpid()
    }


def of(user: User) -> frozenset[int]:
    """Return the living processes of the user, whoever started them."""
    return frozenset(p.pid for p in table(user).values() if not p.is_zombie)


def end(find: Callable[[], frozenset[int]], user: User | None, *, seconds: float) -> None:
    """Nothing that `find` returns lives, nor of the user: SIGTERM to it, after `seconds` SIGKILL.

    Raises Failed (`start`) for what survives even that so long.
    """
    has_ended = _all_ended(find, signal.SIGTERM, user, seconds)
    if user is not None:
        end_all_of(user, seconds)
    elif not has_ended and not _all_ended(find, signal.SIGKILL, None, seconds):
        raise _survivors()


def _all_ended(
    find: Callable[[], frozenset[int]], number: signal.Signals, user: User | None, seconds: float
) -> bool:
    """Return whether all ended in time; each is sent the signal once, and what it forks meanwhile
    as well.
    """
    until, told, quiet = time.monotonic() + seconds, set[int](), 0
    # /proc is no snapshot: one that forks and ends while it is read can hide once, not twice.
    while quiet < _QUIET_LOOKS:
        alive = find()
        quiet = 0 if alive else quiet + 1
        send(alive - told, number, user)
        told |= alive
        if alive and time.monotonic() >= until:
            return False
        time.sleep(_STEP_SECONDS)
    return True


def _survivors() -> Failed:
    return Failed("app", expected="to stop", got="processes that survive SIGKILL", reason="start")


def end_all_of(user: User, seconds: float) -> None:
    """No process of the user lives; raises Failed (`start`) when one is left after `seconds`.

    One that forks faster than /proc is read, or that dropped its token and its session, hides from
    everything else here. The user is the app's alone.
    """
    until = time.monotonic() + seconds
    as_user.end_all(user)
    while of(user):
        if time.monotonic() >= until:
            raise _survivors()
        time.sleep(_STEP_SECONDS)
        as_user.end_all(user)  # one that was becoming the user just then


def reap_orphans() -> None:
    """Adopted processes that have ended are gone; those that somebody waits for are not touched.

    Only other sessions are looked at: a child that another part of this program started stays its
    own.
    """
    me, session = os.getpid(), os.getsid(0)
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return  # no child of ours has ended: /proc need not be read each second
    except ChildProcessError:
        return
    with _births:
        for process in table().values():
            is_ours = process.parent == me and process.session != session
            if is_ours and process.is_zombie and process.pid not in _awaited:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)


def send(pids: Iterable[int], number: signal.Signals, user: User | None = None) -> None:
    """Each of `pids` that still lives has the signal; with a user only what is that user's.

    A child that is about to become the user is still ours. Its number cannot be another's: it is
    waited for after its end.
    """
    if user is not None:
        found = frozenset(pids)
        send(found & _awaited, number)
        if found:
            as_user.send(found, number, user)
        return
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def kill(process: subprocess.Popen[bytes], user: User | None) -> None:
    """The child has SIGKILL, whoever it is by now."""
    if process.poll() is None:
        send({process.pid}, signal.SIGKILL, user)
