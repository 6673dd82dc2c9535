"""The apply process: holds the node's keys, verifies, installs, runs the apps; dials nobody.

It never imports gRPC or protobuf: what comes from outside reaches it through pipes fetch fills.
"""

from __future__ import annotations

if __name__ == "__main__":
    from node import bare

    bare.leave_out()  # before what follows imports it

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
from node import service
from node.accept import Acceptor
from node.companions import Keeper
from node.config import load_config
from node.desk import Desk
from node.identity import load_identity
from node.ipc import SOCKET, Listener
from node.isolation import check_users, demanded, is_production
from node.joining import Joiner
from node.metrics import Metrics
from node.ownership import prepare
from node.paths import Paths
from node.records import NodeRecords
from node.users import User

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
    config = load_config(paths)
    production = is_production(paths, config)
    users: tuple[User, ...] = ()
    if production:
        users = check_users(paths, config)
        prepare(paths, users[0])
        keep_little()
    identity = load_identity(paths)
    with closing(Keeper(paths)) as supervisor:
        if production:
            with explaining("the filter of apply"):
                leave_the_network()
        isolation = demanded(paths, config)
        acceptor = Acceptor(
            paths, config, identity, supervisor, clock=clock.now, isolation=isolation
        )
        with closing(acceptor):
            supervisor.clear_users(users[1:])
            yield acceptor


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
    config = load_config(paths)
    if not is_production(paths, config):
        return frozenset({os.geteuid()}), None
    fetch = check_users(paths, config)[0]
    return frozenset({os.geteuid(), fetch.uid}), fetch.gid


def run(paths: Paths, stop: threading.Event) -> None:
    """Installs are taken until `stop` is set; what was committed runs from the start on."""
    allowed, group = whom(paths)
    with (
        opened(paths) as acceptor,
        closing(Listener(paths.run, SOCKET, group=group)) as listener,
    ):
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
    return service.run("apply", parent, lambda stop: run(paths, stop))


def main() -> int:
    """The apply process of the prefix in the arguments, until SIGTERM."""
    prefix, parent = service.arguments(sys.argv[1:])
    return alone(Paths(Path(prefix)), parent)


if __name__ == "__main__":
    sys.exit(main())
