"""Record who connects to a port, and who only shows up there as a server, while a story runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from demo import sockets

EVERY_SECONDS = 0.05


class Watcher:
    """Samples the kernel's table of connections until it is left.

    clients: pid -> command line of every process seen connected to the port
    listeners: every port on which the gateway was seen listening
    """

    def __init__(self, port: int, gateway: Callable[[], int]) -> None:
        self._port, self._gateway = port, gateway
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher")
        self.clients: dict[int, str] = {}
        self.listeners: set[int] = set()
        self.samples = 0

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            self.samples += 1
            for pid in sockets.clients(self._port) - self.clients.keys():
                line = sockets.command_line(pid)
                # Empty: it ended meanwhile, as a command does; a service would be seen again.
                if line:
                    self.clients[pid] = line
            self.listeners |= sockets.listeners(self._gateway())
