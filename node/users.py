"""Whom the parts of a production node run as: each app its own user, the network side another.

Names and numbers come from the node's owner alone; none of them is ever root.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

from embrasure.errors import Denied

NET = "embrasure-net"  # the network side, unless node.toml says another
_LAST_ID = 2**32 - 2


@dataclass(frozen=True, slots=True)
class User:
    """A user of this host and its own group."""

    uid: int
    gid: int


def find_user(name: str, *, what: str) -> User:
    """Return the user with this name, or with this number (its group has the same one then).

    Raises Denied (`no-user`) for one that is not there, and for root.
    """
    if name.isascii() and name.isdigit():
        found = User(int(name), int(name)) if 0 < int(name) <= _LAST_ID else None
    else:
        found = _by_name(name)
    if found is None or found.uid < 1 or found.gid < 1:
        raise Denied(
            what, expected=f"a user `{name}` of this host that is not root", got="none",
            hint="deploy/systemd/embrasure.sysusers.conf makes users", reason="no-user",
        )  # fmt: skip
    return found


def _by_name(name: str) -> User | None:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return User(found.pw_uid, found.pw_gid)


def is_root() -> bool:
    """Return whether this process is root."""
    return os.geteuid() == 0
