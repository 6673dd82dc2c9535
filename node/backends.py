"""What a command of a release may touch, and how a back end starts it in there.

A back end turns a command into another one, which builds the room and then runs the first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from embrasure.descriptor import reach
from embrasure.errors import Denied
from node.users import User


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """All that one command sees beside the programs of the host.

    read, write: folders, under their own names; user: whom it runs as, None for the node's own
    """

    read: tuple[Path, ...]
    write: tuple[Path, ...]
    user: User | None


@dataclass(frozen=True, slots=True)
class Started:
    """How to start a command. keep: descriptors that it needs; user: who starts it; env: what that
    first process sees, which is not in the room yet.

    is_wrapped: the first process only waits for the command, whose turn to end comes first.
    """

    argv: Sequence[str]
    keep: Sequence[int] = ()
    user: User | None = None
    is_wrapped: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


class Backend(Protocol):
    """A way to run commands of a release."""

    @property
    def name(self) -> str:
        """The word for it in `node status`."""
        ...

    @property
    def level(self) -> int:
        """What receipts of a production node say: the number that `min_isolation` is held to."""
        ...

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, room: Room, held: ExitStack
    ) -> Started:
        """Return how `argv` starts inside `room`; `held` closes what it needs so long."""
        ...

    def ask(self, token: str) -> None:
        """What was started outside of this node's own processes has been told to end (SIGTERM)."""
        ...

    def end(self, token: str) -> None:
        """Nothing lives that was started outside of this node's own processes."""
        ...

    def clear(self) -> None:
        """The same for all that an earlier, killed node started. For the holder of its lock."""
        ...


class Bare:
    """No room at all: for development, where one user owns everything."""

    name, level = "none", 0

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, room: Room, held: ExitStack
    ) -> Started:
        """Return the command itself."""
        return Started(argv, user=room.user, env=env)

    def ask(self, token: str) -> None:
        """All of it are this node's own processes."""

    def end(self, token: str) -> None:
        """All of it are this node's own processes."""

    def clear(self) -> None:
        """All of it ended with the node that started it."""


class Refusing:
    """What a production node without a sandbox has: nothing of a release runs beside the app."""

    name, level = "refusing", 0

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, room: Room, held: ExitStack
    ) -> Started:
        """Raise Denied (`no-sandbox`)."""
        raise Denied(
            "command of a release", expected="a sandbox in production", got="none",
            hint="install bubblewrap, or start the node with --root PREFIX for development",
            reason="no-sandbox",
        )  # fmt: skip

    def ask(self, token: str) -> None:
        """Nothing was started."""

    def end(self, token: str) -> None:
        """Nothing was started."""

    def clear(self) -> None:
        """Nothing was started."""


def hold(path: Path, held: ExitStack) -> int:
    """Return a descriptor of the folder at `path`: what is bound is what was looked at."""
    fd = reach(path)
    held.callback(os.close, fd)
    return fd
