"""The gRPC listener of a push node, which can end all of its connections and open again.

A release that was just switched to stays only if the gateway reaches the node anew: so nothing that
was connected before is left connected, and the port is bound once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from logging import getLogger
from typing import TYPE_CHECKING

from embrasure.errors import EmbrasureError
from node.deadline import uptime_ms

if TYPE_CHECKING:
    import grpc

LOG = getLogger(__name__)
_GRACE_SECONDS = 1.0  # for calls that run
_AGAIN_SECONDS = 0.2  # between tries to bind a port that somebody else holds


class PushListener:
    """One address, served by one server after the other; lives in the event loop that opens it."""

    def __init__(
        self,
        make: Callable[[], grpc.aio.Server],
        bind: Callable[[grpc.aio.Server, str], int],
        address: str,
    ) -> None:
        """Nothing listens yet.

        make: a new server with its services; bind: has it listen at an address, gives the port
        """
        self._make, self._bind, self._address = make, bind, address
        self._asked_ms = 0
        self.opened_ms = 0

    async def open(self) -> int:
        """Return the port, the same one from now on; raises Failed (`bind`), Refused."""
        self._loop, self._asked = asyncio.get_running_loop(), asyncio.Event()
        self._server = self._make()
        port = self._bind(self._server, self._address)
        self._address = f"{self._address.rpartition(':')[0]}:{port}"
        self.opened_ms = uptime_ms()
        await self._server.start()
        self._renewing = asyncio.ensure_future(self._renew_when_asked())
        return port

    async def close(self) -> None:
        """Nothing listens any more."""
        self._renewing.cancel()
        await asyncio.gather(self._renewing, return_exceptions=True)
        await self._server.stop(_GRACE_SECONDS)

    def renew(self) -> None:
        """Every connection of now ends soon, and the listener is open again; for any thread."""
        self._asked_ms = uptime_ms()
        self._loop.call_soon_threadsafe(self._asked.set)

    async def _renew_when_asked(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            if self.opened_ms < self._asked_ms:
                await self._renew()

    async def _renew(self) -> None:
        await self._server.stop(_GRACE_SECONDS)
        told = ""
        while True:
            self._server = self._make()
            # Before the first connection can be made: so none is older than this.
            opened_ms = uptime_ms()
            try:
                self._bind(self._server, self._address)
                await self._server.start()
            except EmbrasureError as problem:
                # The new release may hold the port: then it has cut this node off, and goes.
                if str(problem) != told:
                    told = str(problem)
                    LOG.warning("%s [%s]", problem, problem.word)
                await self._server.stop(0)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                self.opened_ms = opened_ms
                return
