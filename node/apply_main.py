"""The apply process: holds the node's keys, verifies, installs, runs the apps; dials nobody.

It never imports gRPC or protobuf: what comes from outside reaches it through pipes fetch fills.
"""

from __future__ import annotations

if __name__ == "__main__":
    from node import bare

    bare.leave_out()  # before what follows imports it

import gc
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from logging import getLogger
from pathlib import Path

from embrasure import clock, limits
from embrasure.descriptor import explaining
from embrasure.errors import EmbrasureError
from embrasure.notify import ALIVE, READY, STOPPING, notify
from embrasure.sandbox import CAPABILITIES, keep_capabilities, leave_the_network
from embrasure.trust.load import make_ready
from node import service
from node.accept import Acceptor
from node.companions import Keeper
from node.desk import Desk
from node.identity import mend_keys
from node.ipc import SOCKET, Listener
from node.isolation import app_users, demanded, is_production, standing_of
from node.joining import Joiner
from node.metrics import Metrics
from node.ownership import prepare
from node.paths import Paths
from node.records import NodeRecords
from node.serve_only import acceptor_of
from node.serving import Standing, keep

LOG = getLogger(__name__)
_LOOK_SECONDS = 5.0  # between two proofs of life for the service manager


def keep_little() -> None:
    """Of root's capabilities three are left: to give files away, and to start apps as their users,
    as whom they are stopped as well.
    """
    with explaining("the capabilities of apply"):
        keep_capabilities(CAPABILITIES)


@contextmanager
def opened(paths: Paths) -> Iterator[Acceptor]:
    """Yield the one Acceptor of this node; raises Unavailable (`busy`) while another has it.

    In production this thread, and all that it starts from here on, can make no socket that leaves
    the host; the supervisor's thread, which came before, starts the apps. At the end every app that
    it started is stopped.
    """
    standing, fetch = standing_of(paths)
    production = is_production(paths, standing.config)
    if production:
        prepare(paths, fetch)
        keep_little()
    with closing(Keeper(paths)) as supervisor:
        if production:
            with explaining("the filter of apply"):
                leave_the_network()
        isolation = demanded(paths, standing.config)
        acceptor = acceptor_of(paths, standing, supervisor, clock=clock.now, isolation=isolation)
        with closing(acceptor):
            if production:
                supervisor.clear_users(tuple(app_users(paths, standing.config)[0].values()))
            mend(paths, standing)
            yield acceptor
            mend(paths, standing)


def mend(paths: Paths, standing: Standing) -> None:
    """What has a second copy is whole in both, as far as the disk lets it."""
    try:
        for name in mend_keys(paths):
            LOG.warning("%s was damaged, and is as it was again", paths.keys / name)
        keep(paths, standing)
    except EmbrasureError as problem:
        LOG.warning("no second copy: %s [%s]", problem, problem.word)


def recover(acceptor: Acceptor) -> None:
    """What a crash left is finished or undone, and what was committed runs.

    An app that cannot be brought to rest is told, and keeps nothing else from working: the next
    plan may be what heals it.
    """
    try:
        acceptor.recover()
    except EmbrasureError as problem:
        if problem.reason != "stopping":
            LOG.error("%s [%s]", problem, problem.word)


def whom(paths: Paths) -> tuple[frozenset[int], int | None]:
    """Return the users who may speak with apply, and the group whose members may try."""
    _, fetch = standing_of(paths)
    if fetch is None:
        return frozenset({os.geteuid()}), None
    return frozenset({os.geteuid(), fetch.uid}), fetch.gid


def run(paths: Paths, signals: service.Signals) -> None:
    """Installs are taken until a signal comes; what was committed runs from the start on."""
    allowed, group = whom(paths)
    with (
        opened(paths) as acceptor,
        closing(Listener(paths.run, SOCKET, group=group)) as listener,
    ):
        stop = signals.stop()
        records = NodeRecords(paths)
        joiner = Joiner(paths, clock.now, acceptor.enrol)
        desk = Desk(acceptor, records, allowed=allowed, joiner=joiner, keeper=acceptor)
        held = threading.Event()

        def clear() -> None:
            held.set()
            recover(acceptor)

        # In a thread: a soak can be long, and must not keep this one from stopping. Until it is
        # done questions are answered at once, and orders `wait busy`.
        threading.Thread(target=desk.alone, args=(clear,), name="recover", daemon=True).start()
        held.wait()
        serving = threading.Thread(target=desk.serve, args=(listener, stop), daemon=True)
        serving.start()
        LOG.info("ready")
        notify(READY)
        make_ready()
        gc.collect()
        gc.freeze()  # modules and shapes stay: no collection looks at them again
        watching = threading.Thread(target=acceptor.watch_for_drift, args=(stop,), daemon=True)
        watching.start()
        metrics, due = Metrics(paths, records, clock=clock.now), 0.0
        while not stop.wait(_LOOK_SECONDS):
            if time.monotonic() >= due:
                metrics.write()
                due = time.monotonic() + limits.NODE_METRICS_SECONDS
            acceptor.check_alive()
            if serving.is_alive():
                notify(ALIVE)
        notify(STOPPING)
        acceptor.halt()  # the look for drift may wait for a slot that a soak holds
        serving.join()
        watching.join()


def alone(paths: Paths, parent: int | None) -> int:
    """Return the exit code of the apply process, which ends at SIGTERM, and with `parent`."""
    # Secrets pass through this process: no core of it is ever written.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return service.run("apply", parent, lambda signals: run(paths, signals))


def main() -> int:
    """The apply process of the prefix in the arguments, until SIGTERM."""
    prefix, parent = service.arguments(sys.argv[1:])
    return alone(Paths(Path(prefix)), parent)


if __name__ == "__main__":
    sys.exit(main())
