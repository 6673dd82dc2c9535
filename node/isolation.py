"""How well this node is separated from what it runs, decided once at its start.

Production (the root `/`, or `production = true`) demands root, a sandbox, users, private keys.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from embrasure.descriptor import explaining
from embrasure.errors import Denied, EmbrasureError
from embrasure.kernel import syncfs_tells
from embrasure.sandbox import landlock_abi
from node import bubblewrap, commands, transient
from node.backends import Backend, Bare, Refusing, Room
from node.config import AppConfig, NodeConfig
from node.messages import Separation
from node.paths import Paths
from node.serving import Standing, app_config, served, stand, told
from node.users import User, find_user, is_root

_TRY_SECONDS = 10.0
_TRUE = "/usr/bin/true"
APP_USER = "app-"  # and the app's name


@dataclass(frozen=True, slots=True)
class Isolation:
    """Where commands of a release run, and as whom. landlock: its version here, 0 for none;
    refused: apps that are not run, with the error that says why.
    """

    is_production: bool
    backend: Backend
    landlock: int
    refused: Mapping[str, EmbrasureError] = field(default_factory=dict)

    @property
    def level(self) -> int:
        """What receipts say: 0 in development, however good the sandbox is there."""
        return self.backend.level if self.is_production else 0

    def user(self, app: str, config: AppConfig) -> User | None:
        """Return whom the app and its commands run as, None for the node's own user.

        Raises Denied (`no-user`).
        """
        if not self.is_production:
            return None
        if app in self.refused:
            raise self.refused[app]
        return find_user(config.user or APP_USER + app, what=f"app {app}")

    def note(self) -> Separation:
        """Return what `node status` shows."""
        return Separation(
            production=self.is_production, sandbox=self.backend.name, level=self.level,
            landlock=self.landlock, sync=sync_mode(os.uname().release),
        )  # fmt: skip


DEVELOPMENT = Isolation(False, Bare(), 0)


def sync_mode(kernel: str) -> str:
    """Return how the files of a release become durable on this kernel, of version `kernel`.

    Before 5.8 syncfs may keep an error of the disk to itself: then each file is synced as well.
    """
    return "syncfs" if syncfs_tells(kernel) else "syncfs, and each file"


def is_production(paths: Paths, config: NodeConfig) -> bool:
    """Return whether nothing of a release may run unseparated here."""
    return config.production or paths.prefix == Path("/")


def look(paths: Paths, config: NodeConfig) -> Isolation:
    """Return how this node is separated; a production node without a sandbox refuses commands."""
    production, wanted = is_production(paths, config), config.sandbox
    found: Backend | None = None
    if wanted == "systemd-run" or (wanted == "auto" and production):
        found = transient.find(paths.prefix)
    if found is None and (wanted == "bubblewrap" or (wanted == "auto" and production)):
        found = bubblewrap.find()
    if found is None and wanted in ("auto", "none"):
        found = Refusing() if production else Bare()
    return Isolation(production, found or Refusing(), landlock_abi())


def demanded(paths: Paths, config: NodeConfig, *, tries: bool = True) -> Isolation:
    """Return how this node is separated, shown to work.

    tries: without it the sandbox is only looked for; apply tries it itself, with what it keeps

    Raises Denied (`not-root`, `no-sandbox`, `open-keys`): production is refused whole, never
    weakened. An app without a user of its own is refused alone.
    """
    found = look(paths, config)
    if found.backend.name == "refusing":
        raise Denied(
            "node", expected=f"the sandbox `{config.sandbox}`", got="none that works here",
            hint="apt-get install bubblewrap, on a kernel with Landlock", reason="no-sandbox",
        )  # fmt: skip
    if found.is_production:
        check_root()
        check_keys(paths)
        users, refused = app_users(paths, config)
        found = replace(found, refused=refused)
        for user in tuple(users.values())[: int(tries)]:  # what one may, others may
            check_works(found.backend, user)
    elif found.backend.level and tries:
        check_works(found.backend, None)
    return found


def check_root() -> None:
    """Return only for root: nobody else can give each app a user of its own."""
    if not is_root():
        raise Denied(
            "node", expected="root in production", got=f"user {os.geteuid()}",
            hint="apply starts as root, and keeps three capabilities of it; --root PREFIX is for "
            "development", reason="not-root",
        )  # fmt: skip


def check_keys(paths: Paths) -> None:
    """Return only when nobody but root reaches the keys of this node."""
    with explaining(str(paths.keys)):
        found = paths.keys.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o077:
        raise Denied(
            str(paths.keys), expected="a folder of root, mode 0700",
            got=f"owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}",
            hint=f"chmod 700 {paths.keys}", reason="open-keys",
        )  # fmt: skip


def standing_of(paths: Paths) -> tuple[Standing, User | None]:
    """Return what this node goes by, and the user of fetch in production, None without one.

    A user of fetch that is not there is damage: nothing new comes in, and what runs runs on.
    """
    standing = stand(paths)
    if not is_production(paths, standing.config):
        return standing, None
    try:
        return standing, find_user(standing.config.fetch_user, what="fetch")
    except Denied as problem:
        return replace(standing, trouble=(*standing.trouble, told(problem))), None


def app_users(
    paths: Paths, config: NodeConfig
) -> tuple[dict[str, User], dict[str, EmbrasureError]]:
    """Return the user of each app that has one for itself, and why the others have none.

    No two apps, and no app and fetch, share a number: then each of these apps is refused.
    """
    users, refused = dict[str, User](), dict[str, EmbrasureError]()
    for app in served(paths):
        try:
            name = app_config(paths, app)[0].user or APP_USER + app
            users[app] = find_user(name, what=f"app {app}")
        except EmbrasureError as problem:
            refused[app] = problem
    others: dict[str, User] = dict(users)
    with suppress(Denied):  # then there is no fetch that could share
        others["fetch"] = find_user(config.fetch_user, what="fetch")
    for app, user in users.items():
        for holder, other in others.items():
            if app != holder and (user.uid == other.uid or user.gid == other.gid):
                refused[app] = Denied(
                    f"app {app}", expected="a user and a group of its own",
                    got=f"those of {holder}", reason="no-user",
                )  # fmt: skip
    return {app: user for app, user in users.items() if app not in refused}, refused


def check_works(backend: Backend, user: User | None) -> None:
    """Return only when a command ends well in a room of this back end; raises Denied."""
    # With a folder: a bubblewrap that cannot bind by descriptor would let no release in.
    room = Room(read=(Path("/usr/share"),), write=(), user=user)
    try:
        ended = commands.run(
            [_TRUE], env={}, cwd=Path("/"), seconds=_TRY_SECONDS, backend=backend, room=room
        )
        got = "" if ended.is_good else ended.output.decode("utf-8", "replace").strip()
    except EmbrasureError as problem:
        got = problem.got
    if got or not ended.is_good:
        raise Denied(
            "node", expected=f"a sandbox that works: {backend.name}", got=got or "no end of it",
            hint="the apps' users need user namespaces; bubblewrap must know --bind-fd",
            reason="no-sandbox",
        )  # fmt: skip
