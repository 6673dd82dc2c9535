"""Ends every process of one user in a single call of the kernel, which no fork slips through.

Run as a file by a bare interpreter (`python -I -S end_user.py UID GID`), so it imports nothing of
ours. It starts as root and takes the user as its effective one alone: it may then end the user's
processes, and none of them may end it.
"""

import os
import signal
import sys
from contextlib import suppress

_NOBODY = 2**32 - 3  # no user of any host: as its real user it gives no right over anybody


def main() -> int:
    """Return 0 once each process of the user has SIGKILL; raises OSError."""
    uid, gid = int(sys.argv[1]), int(sys.argv[2])
    if uid < 1 or gid < 1:
        return 2  # never root
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    try:
        os.setresuid(_NOBODY, uid, _NOBODY)
    except OSError:  # a user namespace that has no such number
        os.setresuid(uid, uid, uid)
    with suppress(ProcessLookupError, PermissionError):  # there was none
        os.kill(-1, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
