"""Whether the server of an open HTTPS connection is still believed: looked at while it is open.

A check at the handshake alone would let a mirror that was denied meanwhile go on serving a download
of hours, or hold a long wait.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from logging import getLogger
from typing import TYPE_CHECKING

from embrasure.errors import EmbrasureError, Refused
from embrasure.net.trustbundle import Trust

if TYPE_CHECKING:
    from embrasure.net.dial import Server

LOG = getLogger(__name__)


class Standing:
    """The open connections of one client.

    newest: whom this machine believes now; every: seconds between two looks

    A connection whose certificate is refused is shut at once, whatever is read from it; from then
    on the client is refused, too.
    """

    def __init__(
        self,
        server: Server,
        newest: Callable[[], Trust],
        *,
        every: float,
    ) -> None:
        self._server, self._newest, self._every = server, newest, every
        self._open: dict[socket.socket, bytes] = {}
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem: Refused | None = None

    def opened(self, connection: socket.socket, der: bytes) -> None:
        """`connection` shows the certificate `der`, and is watched from now on."""
        with self._mutex:
            # Not told when one ends: a server that says "Connection: close" has it closed here
            # while its answer is still read.
            self._open = {one: shown for one, shown in self._open.items() if one.fileno() >= 0}
            self._open[connection] = der
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="standing", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Nothing is watched any more."""
        self._stop.set()
        with self._mutex:
            self._open.clear()

    @contextmanager
    def held(self) -> Iterator[None]:
        """What goes wrong inside is told as the refusal of the server, when there was one.

        Raises Refused at the beginning when there was one before.
        """
        self.check()
        try:
            yield
        except Exception:
            self.check()
            raise

    def check(self) -> None:
        """Return only while the server is believed; raises what it was refused with."""
        if self._problem is not None:
            raise self._problem

    def look(self) -> None:
        """Each open connection is one that would be let in now, or is shut."""
        try:
            server = replace(self._server, trust=self._newest())
        except EmbrasureError as problem:
            # What was believed stays: a file that is being repaired must not cut everybody off.
            LOG.warning("whom to believe: %s [%s]", problem, problem.word)
            return
        with self._mutex:
            held = [one for one in self._open.items() if one[0].fileno() >= 0]
        for connection, der in held:
            try:
                server.check(der)
            except Refused as problem:
                self._problem = problem
                LOG.warning("an open connection ends: %s [%s]", problem, problem.word)
                # The base class's: TLS's own would take the socket from under the reader's feet.
                with suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
                with self._mutex:
                    self._open.pop(connection, None)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self.look()
