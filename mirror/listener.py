"""An HTTPS listener that strangers may reach: TLS 1.3 alone, no tickets, every wait bounded.

uvicorn (h11) parses HTTP; what it leaves open is closed here: slow heads, stalled readers, floods.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from embrasure import limits
from embrasure.errors import Failed

_TICK_SECONDS = 1.0


def tls_context(key: Path, chain: Path) -> ssl.SSLContext:
    """Return a server context for one certificate; it asks no client for one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    context.load_cert_chain(chain, key)
    return context


class Crowd:
    """How many connections there are, in all and from each address."""

    def __init__(self, *, most: int, per_address: int) -> None:
        self.total = 0
        self._most = most
        self._per_address = per_address
        self._from: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Return whether one more from `address` may come in; it counts until `leave`."""
        if self.total >= self._most or self._from[address] >= self._per_address:
            return False
        self.total += 1
        self._from[address] += 1
        return True

    def leave(self, address: str) -> None:
        """One from `address` is gone."""
        self.total -= 1
        self._from[address] -= 1
        if not self._from[address]:
            del self._from[address]


class BoundedProtocol(H11Protocol):
    """One connection. It ends when a head takes too long or a reader takes nothing."""

    crowd: Crowd
    head_seconds: float = limits.HTTP_HEAD_SECONDS
    stall_seconds: float = limits.HTTP_STALL_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._address: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since = self.loop.time()
        self._paused_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """The connection is served, or dropped when there are too many."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if not self.crowd.enter(address):
            transport.abort()
            return
        self._address = address
        self._idle_since = self.loop.time()
        self._timer = self.loop.call_later(_tick(self), self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing of the connection is left."""
        if self._timer is not None:
            self._timer.cancel()
        if self._address is not None:
            self.crowd.leave(self._address)
            self._address = None
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """The next request's time begins; who still sends an answered body is not listened to."""
        self._idle_since = self.loop.time()
        if self.conn.their_state is h11.SEND_BODY:
            self.transport.close()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The reader's time begins."""
        self._paused_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The reader has taken what was held for it."""
        self._paused_since = None
        super().resume_writing()

    def _look(self) -> None:
        moment = self.loop.time()
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        answering = cycle is not None and not cycle.response_complete
        late = not answering and moment - self._idle_since > self.head_seconds
        stalled = (
            self._paused_since is not None and moment - self._paused_since > self.stall_seconds
        )
        if late or stalled:
            self.transport.abort()
            return
        self._timer = self.loop.call_later(_tick(self), self._look)


def _tick(protocol: BoundedProtocol) -> float:
    return min(_TICK_SECONDS, protocol.head_seconds / 4, protocol.stall_seconds / 4)


class HttpsListener(uvicorn.Server):
    """One application on one address. `start`, then `stop`; signals are the caller's."""

    def __init__(
        self,
        app: ASGIApp,
        context: ssl.SSLContext,
        *,
        crowd: Crowd | None = None,
        head_seconds: float = limits.HTTP_HEAD_SECONDS,
        stall_seconds: float = limits.HTTP_STALL_SECONDS,
    ) -> None:
        protocol = type(
            "OneListener",
            (BoundedProtocol,),
            {
                "crowd": crowd
                or Crowd(
                    most=limits.HTTP_CONNECTIONS, per_address=limits.HTTP_CONNECTIONS_PER_ADDRESS
                ),
                "head_seconds": head_seconds,
                "stall_seconds": stall_seconds,
            },
        )
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=limits.HEADER_BYTES,
                timeout_keep_alive=int(limits.HTTP_HEAD_SECONDS),
                timeout_graceful_shutdown=1,
            )
        )
        self.context = context
        self._running: asyncio.Task[None] | None = None
        self._address = ("", 0)

    async def start(self, host: str, port: int) -> int:
        """Return the port on which the application answers; raises Failed (`bind`)."""
        self._address = (host, port)
        self._running = asyncio.create_task(self.serve())
        while not self.started:
            if self._running.done():
                self._raise(self._running)
            await asyncio.sleep(0.01)
        return int(self.servers[0].sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Nothing listens; those who are served get a second to finish."""
        self.should_exit = True
        if self._running is not None:
            await self._running

    async def startup(self, sockets: object = None) -> None:
        """The socket listens, with a bound on handshakes that uvicorn does not give."""
        loop = asyncio.get_running_loop()
        protocol: Any = self.config.http_protocol_class
        self.servers = [
            await loop.create_server(
                lambda: protocol(
                    config=self.config, server_state=self.server_state, app_state={}, _loop=loop
                ),
                *self._address,
                ssl=self.context,
                ssl_handshake_timeout=limits.HANDSHAKE_MILLISECONDS / 1000,
                ssl_shutdown_timeout=1,
                backlog=128,
            )
        ]
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stay with the program: uvicorn would end it by the signal itself."""
        yield

    def _raise(self, task: asyncio.Task[None]) -> None:
        host, port = self._address
        raise Failed(
            f"listener {host}:{port}",
            expected="a free port of this host",
            got=task.exception() or "an end",
            untouched="nothing listens",
            reason="bind",
        )


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of an address that the configuration's pattern has passed."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
