"""The last step before an app's own code: bind its life to the node's, take no privilege, exec.

Run as a file by a bare interpreter (`python -I -S launch.py PARENT USER ARGV...`), so it imports
nothing of ours. USER: `UID:GID` that it becomes for ever, `-` for the node's own.

It starts as root, in front of a release's own environment. So that environment comes under hidden
names: what the loader obeys (`LD_PRELOAD`, `LD_DEBUG_OUTPUT`) would else run as root.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Mapping

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
TASKS = 4096  # a Java or Go service has hundreds; a bomb has them all
HIDDEN = "EMBRASURE_LATER_"  # before the name of each variable until the user has changed


def hidden(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` under names that no loader and no library knows."""
    return {HIDDEN + name: value for name, value in env.items()}


def shown(env: Mapping[str, str]) -> dict[str, str]:
    """Return what was hidden in `env`, under its own names, and nothing else."""
    return {n.removeprefix(HIDDEN): value for n, value in env.items() if n.startswith(HIDDEN)}


def bound_tasks(most: int) -> None:
    """All processes and threads of this user together are `most`, or fewer where the host says so.

    Else one app uses up what the host, or apply's own unit, has of them: then apply starts no probe
    and no thread any more, and every other app is stopped with it.
    """
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    least = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_NPROC, (least, least))


def become(user: str) -> None:
    """This process is the user for ever, without a further group; raises OSError."""
    if user != "-":
        uid, gid = (int(number) for number in user.split(":"))
        if uid < 1 or gid < 1:
            raise PermissionError("never root")
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        bound_tasks(TASKS)


def main() -> int:
    """Become the command; returns only when it cannot be started."""
    parent, user, argv = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        become(user)
    except OSError as problem:
        print(f"embrasure: no way to user {user}: {problem}", file=sys.stderr)
        return 127
    # After the change of user, which clears it. The kernel forgets this when the parent *thread*
    # ends: the supervisor's thread never does. It holds for the same user only: a parent without
    # CAP_KILL may not signal another's. There the unit's cgroup, or the next start, ends us.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return 127  # the node died in between: nobody would ever stop us
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    try:
        os.execve(argv[0], argv, shown(os.environ))  # noqa: S606  # this is the whole point
    except OSError as problem:
        print(f"embrasure: {argv[0]!r} does not start: {problem.strerror}", file=sys.stderr)
    return 127


if __name__ == "__main__":
    sys.exit(main())
