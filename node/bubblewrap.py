"""bubblewrap, Landlock and seccomp: a room of its own namespaces for a hook or an exec probe.

The room is made without any privilege, by the app's own user in a user namespace. Inside it
`embrasure/sandbox.py` takes away the rest, closes every descriptor, and runs the command, which
alone sees the release's environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from embrasure import limits, sandbox
from embrasure.errors import Denied
from embrasure.fs import Folder
from node.backends import Room, Started, hold
from node.programs import find_program, system_python
from node.users import is_root

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_FILES = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives",
          "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group",
          "/etc/ssl")  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_INSIDE = "/run/embrasure-sandbox.py"


class Bubblewrap:
    """Runs a command in a room made by bubblewrap."""

    name, level = "bubblewrap", 1

    def __init__(self, program: str, python: str) -> None:
        self._program, self._python = program, python

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, room: Room, held: ExitStack
    ) -> Started:
        """Return how `argv` starts; raises Denied for root, and what opens no folder."""
        if room.user is None and is_root():
            raise Denied("command of a release", expected="a user that is not root", got="root",
                         hint="name another one in the app's file of apps.d: `user = ...`",
                         reason="no-user")  # fmt: skip
        # Its bytes, not its place: the app's user need not come near our own code.
        code = Path(sandbox.__file__)
        with Folder.open(code.parent) as ours:
            keep = [ours.open_file(code.name)]
        held.callback(os.close, keep[0])
        binds = ["--ro-bind-data", str(keep[0]), _INSIDE]
        for option, folders in (("--ro-bind-fd", room.read), ("--bind-fd", room.write)):
            for folder in folders:
                keep.append(hold(folder, held))
                binds += [option, str(keep[-1]), str(folder)]
        return Started(
            [
                self._program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop",
                "ALL", *_system(), "--proc", "/proc", "--dev", "/dev", "--size",
                str(limits.HOOK_FILES_BYTES), "--tmpfs", "/tmp", *binds,  # noqa: S108  # its own
                "--remount-ro", "/", "--remount-ro", "/dev", "--chdir", str(cwd), "--",
                self._python, "-I", "-S", _INSIDE, _specification(room), *argv,
            ],
            keep, room.user, is_wrapped=True, env=sandbox.hidden(env),
        )  # fmt: skip

    def ask(self, token: str) -> None:
        """All of it are this node's own processes, below bubblewrap's."""

    def end(self, token: str) -> None:
        """All of it was in one process namespace, which ended with its first process."""

    def clear(self) -> None:
        """All of it is an app's user's, as whom nothing runs by then (`Supervisor.clear_users`)."""


def find() -> Bubblewrap | None:
    """Return the back end, None where this host lacks a part of it."""
    program, python = find_program("bwrap"), system_python()
    if program is None or python is None or not sandbox.is_known_machine():
        return None
    return Bubblewrap(program, python) if sandbox.landlock_abi() else None


def _system() -> list[str]:
    """Return the options that show the programs of this host, and no configuration of anybody."""
    found: list[str] = []
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            found += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            found += ["--ro-bind", str(path), str(path)]
    for name in _FILES:
        found += ["--ro-bind-try", name, name]
    return found


def _specification(room: Room) -> str:
    read = [*_SYSTEM, *_FILES, "/proc", "/dev", _INSIDE, *map(str, room.read)]
    write = ["/tmp", *_DEVICES, *map(str, room.write)]  # noqa: S108  # its own
    return json.dumps(
        {
            "read": read,
            "write": write,
            "memory": limits.HOOK_MEMORY_BYTES,
            "tasks": limits.HOOK_TASKS,
        }
    )
