"""A line between two real programs that can be as slow as a test wants: bytes, never looked at."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

PIECE = 16 * 1024


class SlowLine:
    """Listens on `port` and passes everything on to `target`; toward it at most `rate` bytes/s.

    Runs in a thread of its own. carried: bytes that went the slow way so far; back: the slow way is
    the one from the target.
    """

    def __init__(self, target: int, *, rate: float, back: bool = False) -> None:
        self.target, self.rate, self.carried, self._is_back = target, rate, 0, back
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def close(self) -> None:
        """Nothing is passed on any more."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _pass(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            far, out = await asyncio.open_connection("127.0.0.1", self.target)
            slow = self._is_back
            await asyncio.gather(
                self._copy(near, out, slow=not slow), self._copy(far, back, slow=slow)
            )

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, slow: bool
    ) -> None:
        try:
            while data := await source.read(PIECE):
                sink.write(data)
                await sink.drain()
                if slow:
                    self.carried += len(data)
                    await asyncio.sleep(len(data) / self.rate)
        except OSError:
            return
        finally:
            sink.close()
