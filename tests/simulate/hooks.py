"""A release's commands in their rooms: one command, run by each back end that works on this host.

The folders of a node lie below `/var/tmp`, where other users may pass; pytest's own are root's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from node import bubblewrap, commands, transient
from node.backends import Backend, Bare, Room
from node.commands import Finished
from node.messages import Separation
from node.processes import adopt_orphans
from node.users import User
from tests.simulate.production import as_apply
from tests.source import TOP

USER = User(31007, 31007)
OTHER = User(31008, 31008)
PYTHON = "/usr/bin/python3"
NOWHERE = Separation(production=False, sandbox="none", level=0, landlock=0, sync="syncfs")
_ONE = """
import json, sys
from pathlib import Path
from node import bubblewrap, commands
from node.backends import Bare, Room
from node.processes import adopt_orphans
adopt_orphans()
said = json.load(sys.stdin)
room = Room(read=tuple(map(Path, said["read"])), write=tuple(map(Path, said["write"])), user=None)
backend = bubblewrap.find() if said["sandbox"] else Bare()
ended = commands.run(said["argv"], env=said["env"], cwd=Path(said["cwd"]), seconds=said["seconds"],
                     backend=backend, room=room)
print(json.dumps([ended.code, ended.output.decode("latin-1")]))
"""


class Runs(Protocol):
    """Runs a command, in its room or without any."""

    def __call__(self, code: str, *words: object, seconds: float = 10, bare: bool = False,
                 changes: bool = True) -> Finished:  # fmt: skip
        ...


class Stage:
    """Folders of a node: keys, trust, this app and another one; and whom they belong to."""

    def __init__(self, top: Path, owner: User, app: User) -> None:
        self.top, self.owner, self.app = top, owner, app
        self.release = top / "opt" / "shop" / "release"
        self.shared = top / "opt" / "shop" / "shared"
        self.other = top / "opt" / "bank" / "shared"
        self.keys, self.tuf = top / "keys", top / "tuf"
        self.secrets = (self.keys / "receipt.key", self.tuf / "root.json", self.other / "data")
        for folder in (self.release, self.shared, self.other, self.keys, self.tuf):
            folder.mkdir(parents=True)
        for path in self.secrets:
            path.write_text("the secret")
        (self.release / "version").write_text("1.0")
        for path in [top, *top.rglob("*")]:
            os.chown(path, owner.uid, owner.gid)
            path.chmod(0o755 if path.is_dir() else 0o444)
        for folder in (self.keys, self.tuf, self.other):
            folder.chmod(0o700)
        os.chown(self.shared, app.uid, app.gid)

    def room(self, user: User | None, *, changes: bool) -> Room:
        """Return the room of one command."""
        read = (self.release,) if changes else (self.release, self.shared)
        return Room(read=read, write=(self.shared,) if changes else (), user=user)


class AsRoot:
    """A node that is root, with apply's few capabilities, and gives the app a user of its own."""

    def __init__(self, stage: Stage, backend: Backend) -> None:
        adopt_orphans()
        self.stage, self.backend = stage, backend

    def __call__(
        self, code: str, *words: object, seconds: float = 10, bare: bool = False,
        changes: bool = True,
    ) -> Finished:  # fmt: skip
        """Return how the Python program ended."""

        def run() -> Finished:
            return commands.run(
                [PYTHON, "-I", "-S", "-c", code, *map(str, words)],
                env={"PATH": "/usr/bin:/bin"}, cwd=self.stage.release, seconds=seconds,
                backend=Bare() if bare else self.backend,
                room=self.stage.room(None if bare else self.stage.app, changes=changes),
            )  # fmt: skip

        return run() if bare else as_apply(run)


class AsUser:
    """A node without any privilege: all is one user's, the room is made in a user namespace."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._code = stage.top / "code"
        self._code.mkdir()
        for package in ("embrasure", "node"):
            shutil.copytree(TOP / package, self._code / package)

    def __call__(
        self, code: str, *words: object, seconds: float = 10, bare: bool = False,
        changes: bool = True,
    ) -> Finished:  # fmt: skip
        """Return how the Python program ended."""
        room = self.stage.room(None, changes=changes)
        said = {
            "read": list(map(str, room.read)), "write": list(map(str, room.write)),
            "sandbox": not bare, "argv": [PYTHON, "-I", "-S", "-c", code, *map(str, words)],
            "env": {"PATH": "/usr/bin:/bin"}, "cwd": str(self.stage.release), "seconds": seconds,
        }  # fmt: skip
        done = subprocess.run(
            ["setpriv", f"--reuid={USER.uid}", f"--regid={USER.gid}", "--clear-groups",
             PYTHON, "-c", _ONE],
            env={"PYTHONPATH": str(self._code), "PATH": "/usr/bin:/bin"},
            input=json.dumps(said).encode(), capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        code_of, output = json.loads(done.stdout)
        return Finished(code_of, output.encode("latin-1"))


def kinds() -> list[str]:
    """Return the ways to run a command that work on this host."""
    if os.geteuid() != 0 or bubblewrap.find() is None:
        return []
    systemd = ["systemd-run"] if transient.find() else []
    return ["bubblewrap-root", "bubblewrap-user", *systemd]


def missing() -> str:
    """Return what this host lacks for a room, as the reason of a skip."""
    if os.geteuid() != 0:
        return "needs root"
    return "needs bubblewrap (apt package), on a kernel with Landlock"


@contextmanager
def staged(kind: str) -> Iterator[AsRoot | AsUser]:
    """Yield what runs commands that way; its folders are gone afterwards."""
    top = Path(tempfile.mkdtemp(prefix="embrasure-hooks-", dir="/var/tmp"))
    root = User(0, 0)
    try:
        if kind == "bubblewrap-user":
            yield AsUser(Stage(top, USER, USER))
        else:
            backend = transient.find() if kind == "systemd-run" else bubblewrap.find()
            assert backend is not None
            yield AsRoot(Stage(top, root, USER), backend)
    finally:
        shutil.rmtree(top)
