"""The last step before an app's own code: bind its life to the node's, take no privilege, exec.

Run as a file by a bare interpreter (`python -I -S launch.py PARENT ARGV...`), so it imports nothing
of ours. A later sandbox goes here, between the fork and the app.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def main() -> int:
    """Become the command; returns only when it cannot be started."""
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    # The kernel forgets this when the parent *thread* ends: the supervisor's thread never does.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return 127  # the node died in between: nobody would ever stop us
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    try:
        os.execve(argv[0], argv, dict(os.environ))  # noqa: S606  # this is the whole point
    except OSError as problem:
        print(f"embrasure: {argv[0]!r} does not start: {problem.strerror}", file=sys.stderr)
    return 127


if __name__ == "__main__":
    sys.exit(main())
