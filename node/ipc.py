"""The socket between fetch and apply: whole messages, bytes as descriptors, the peer known by uid.

A sequenced-packet socket keeps message borders, so there is no framing to get wrong. The kernel
says who the peer is. Paths are reached through the held folder, so that a long prefix fits.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from embrasure import limits
from embrasure.errors import Denied, NotFound, Refused, Unavailable
from embrasure.folder import Folder
from node.messages import (
    FromApply,
    FromFetch,
    Message,
    parse_from_apply,
    parse_from_fetch,
    write_message,
)
from node.paths import Paths

SOCKET = "apply.sock"
_CUT = int(socket.MSG_TRUNC) | int(socket.MSG_CTRUNC)  # as an enum it costs more than the call
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid
_INT = struct.Struct("i")
_DESCRIPTORS = 4  # room for more than one, so that a second one is seen and closed
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the kernel says."""

    pid: int
    uid: int


class Channel(Generic[M]):
    """One conversation; one thread sends and receives at a time."""

    def __init__(self, connection: socket.socket, parse: Callable[[bytes], M]) -> None:
        self._socket, self._parse = connection, parse

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """The conversation is over for both sides."""
        self.hang_up()
        self._socket.close()

    def hang_up(self) -> None:
        """Whoever waits for the other side, or will, is told that it is gone."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def peer(self) -> Peer:
        """Return the process that connected or listens."""
        raw = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        pid, uid, _ = _PEER.unpack(raw)
        return Peer(pid, uid)

    def send(self, message: Message, descriptor: int | None = None) -> None:
        """The peer will receive `message` and a copy of `descriptor`; raises Unavailable."""
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _INT.pack(descriptor))]
            if descriptor is not None
            else []
        )
        raw = write_message(message)
        try:
            self._socket.settimeout(limits.METADATA_SECONDS)
            self._socket.sendmsg([raw], rights)
        except OSError as problem:
            raise gone(problem) from None

    def offer(self, message: Message) -> bool:
        """Return whether the peer will receive `message`; False while it is not listening."""
        try:
            self._socket.settimeout(0)
            self._socket.sendmsg([write_message(message)])
        except BlockingIOError:
            return False
        except OSError as problem:
            raise gone(problem) from None
        return True

    def is_waiting(self, *, seconds: float = 0.0) -> bool:
        """Return whether `receive` would return, or raise, at once; asked for so long."""
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))

    def receive(self, *, seconds: float | None = None) -> M:
        """Return the next message, which carries no descriptor; raises Refused, Unavailable."""
        message, descriptor = self.receive_with(seconds=seconds)
        if descriptor is not None:
            os.close(descriptor)
            raise Refused("ipc message", expected="no descriptor", got="one", reason="bad-schema")
        return message

    def receive_with(self, *, seconds: float | None = None) -> tuple[M, int | None]:
        """Return the next message and the pipe beside it, if any; the caller closes that."""
        try:
            self._socket.settimeout(seconds)
            # `socket.recv_fds` drops its flags, so descriptors would leak into programs we start.
            raw, rights, flags, _ = self._socket.recvmsg(
                limits.IPC_BYTES + 1, socket.CMSG_SPACE(_INT.size * _DESCRIPTORS),
                socket.MSG_CMSG_CLOEXEC,
            )  # fmt: skip
        except OSError as problem:
            raise gone(problem) from None
        found = list(_descriptors(rights))
        try:
            return self._read(raw, found, flags), found.pop() if found else None
        finally:
            for extra in found:
                os.close(extra)

    def _read(self, raw: bytes, found: list[int], flags: int) -> M:
        if not raw:
            raise Unavailable("ipc", expected="a message", got="the end", reason="ipc-closed")
        if flags & _CUT or len(found) > 1:
            raise Refused("ipc message", expected="a whole one", got="a larger one", reason="limit")
        for descriptor in found:
            check_pipe(descriptor)
        return self._parse(raw)


def gone(problem: OSError) -> Unavailable:
    """Return the error for a peer that does not answer any more."""
    return Unavailable(
        "ipc", expected="the other process", got=problem.strerror or problem, reason="ipc-closed"
    )


def _descriptors(rights: list[tuple[int, int, bytes]]) -> Iterator[int]:
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(data) - len(data) % _INT.size
            yield from (number for (number,) in _INT.iter_unpack(data[:whole]))


def check_pipe(descriptor: int) -> None:
    """Return only when `descriptor` is the read end of a pipe: nothing that changes under us."""
    is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    if not is_pipe or access != os.O_RDONLY:
        raise Refused("ipc", expected="the read end of a pipe", got="else", reason="bad-schema")


def check_peer(peer: Peer, allowed: frozenset[int]) -> None:
    """Return only when the peer runs as one of the `allowed` user ids."""
    if peer.uid not in allowed:
        raise Denied("ipc", expected="a process of embrasure", got=f"uid {peer.uid}", reason="peer")


def check_folder(folder: Folder, owners: frozenset[int]) -> None:
    """Return only when one of `owners` has the folder and nobody else can write to it."""
    found = os.fstat(folder.fd)
    if found.st_uid not in owners or found.st_mode & 0o022:
        raise Denied(
            str(folder.path), expected="a folder of embrasure that no other user can write to",
            got=f"owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}",
            hint="chown it to the user that the node runs as, and chmod go-w",
            reason="bad-owner",
        )  # fmt: skip


@contextmanager
def _held(folder: Path, owners: frozenset[int]) -> Iterator[tuple[Folder, str]]:
    """Yield `folder`, which one of `owners` alone may change, and a short path to it whatever its
    own length.
    """
    with Folder.open(folder) as held:
        check_folder(held, owners)
        yield held, f"/proc/self/fd/{held.fd}"


def connect(folder: Path, name: str, allowed: frozenset[int]) -> Channel[FromApply]:
    """Return a new conversation with apply; raises Unavailable (`agent-not-running`), Denied."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel: Channel[FromApply] = Channel(connection, parse_from_apply)
    try:
        with _held(folder, frozenset({os.geteuid(), 0})) as (_, short):
            connection.connect(f"{short}/{name}")
        check_peer(channel.peer(), allowed)
    except (OSError, NotFound) as problem:
        connection.close()
        raise Unavailable(
            "agent",
            expected="a running agent",
            got=problem,
            reason="agent-not-running",
            hint="start it: embrasure node run",
        ) from None
    except BaseException:
        connection.close()
        raise
    return channel


def to_apply(paths: Paths) -> Channel[FromApply]:
    """Return a new conversation with this node's apply process: it runs as we do, or is root."""
    return connect(paths.run, SOCKET, frozenset({os.geteuid(), 0}))


class Listener:
    """Where apply waits for conversations; the caller holds the lock that makes it the only one.

    group: of those who may connect beside our own user; the kernel lets nobody else come near
    """

    def __init__(
        self, folder: Path, name: str, *, backlog: int = 16, group: int | None = None
    ) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with _held(folder, frozenset({os.geteuid()})) as (held, short):
                held.unlink(name, missing_ok=True)  # of a process that was killed
                self._socket.bind(f"{short}/{name}")
                if group is not None:
                    held.give(name, os.geteuid(), group, 0o660)
            self._socket.listen(backlog)
        except BaseException:
            self._socket.close()
            raise

    def accept(self, allowed: frozenset[int], *, seconds: float) -> Channel[FromFetch] | None:
        """Return the next conversation with an allowed peer, or None when none comes in time."""
        waiting = select.poll()  # select() stops at descriptor 1024
        waiting.register(self._socket, select.POLLIN)
        if not waiting.poll(int(seconds * 1000)):
            return None
        connection, _ = self._socket.accept()
        channel: Channel[FromFetch] = Channel(connection, parse_from_fetch)
        try:
            check_peer(channel.peer(), allowed)
        except Denied:
            channel.close()
            return None
        return channel

    def close(self) -> None:
        """Nobody can connect any more."""
        self._socket.close()
