"""What the processes of a node have in common: signals, logs, an end with their parent's end."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Sequence
from logging import getLogger
from queue import SimpleQueue

from embrasure.errors import EmbrasureError, Misuse
from node import logs

LOG = getLogger(__name__)

FETCH_LOCK = "fetch.lock"  # held by the one fetch process of a node
PORTS = "ports.json"  # in the run folder once the node is ready
_PR_SET_PDEATHSIG = 1


def arguments(argv: Sequence[str]) -> tuple[str, int]:
    """Return prefix and parent from `PREFIX PARENT_PID`; raises Misuse."""
    if len(argv) != 2 or not argv[1].isdigit():
        raise Misuse("arguments", expected="PREFIX PARENT_PID", got=" ".join(argv))
    return argv[0], int(argv[1])


def end_with(parent: int) -> bool:
    """Return whether `parent` lives; from now on its end is a SIGTERM for this process.

    To be called by the main thread of a process that the parent's main thread started.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return os.getppid() == parent


class Signals:
    """SIGTERM and SIGINT of this process, kept from its making on.

    A handler runs in the main thread, which may be inside `stop.wait` and hold the event's lock: a
    handler that sets the event itself would then wait for itself for ever. A SimpleQueue may be
    written in a handler.
    """

    def __init__(self) -> None:
        self._told: SimpleQueue[int] = SimpleQueue()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._told.put(number))

    def stop(self) -> threading.Event:
        """Return an event that is set once a signal has come, or came before.

        A thread of its own sets it. It starts here, so that it has what its caller has left:
        capabilities and filters belong to threads, and all threads share one memory.
        """
        stop = threading.Event()

        def pass_on() -> None:
            self._told.get()
            stop.set()

        threading.Thread(target=pass_on, name="signals", daemon=True).start()
        return stop


def run(name: str, parent: int | None, work: Callable[[Signals], None]) -> int:
    """Return the exit code of `work`, which ends soon after a signal.

    parent: the process whose end is its end, None for a unit of its own
    """
    logs.start(name)
    signals = Signals()
    if parent is not None and not end_with(parent):
        return 1
    try:
        work(signals)
    except EmbrasureError as problem:
        LOG.error("%s [%s]; hint: %s", problem, problem.word, problem.hint or "none")
        return problem.exit_code
    return 0
