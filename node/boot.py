"""`embrasure node boot`: what a node does at every start, alone, with every server down."""

from __future__ import annotations

import threading
from collections.abc import Callable

from node import service
from node.accept import Acceptor
from node.apply_main import opened, recover
from node.messages import StateNote
from node.paths import Paths
from node.records import NodeRecords
from node.states import State
from node.verify import verify


def boot(paths: Paths, *, foreground: bool, say: Callable[[str], None]) -> StateNote:
    """Return where the node stands after every app rests on a whole release that was approved.

    foreground: what is committed runs until SIGTERM; else it is stopped again at the end
    """
    signals = service.Signals()
    with opened(paths) as acceptor:
        stop = signals.stop()
        # What recovery does can take a while; a signal ends that, too.
        threading.Thread(target=stop_with, args=(acceptor, stop), daemon=True).start()
        recover(acceptor)
        state = NodeRecords(paths).state()
        for app in drifted(paths):
            say(f"{app}: its files are not what was committed: embrasure node verify")
        if foreground:
            watching = threading.Thread(target=acceptor.watch_for_drift, args=(stop,), daemon=True)
            watching.start()
            say("every app runs a whole release that was approved; SIGTERM stops it")
            stop.wait()
    if not foreground:
        say("no agent runs here, so the apps are stopped again: embrasure node run")
    return state


def stop_with(acceptor: Acceptor, stop: threading.Event) -> None:
    """The acceptor has stopped once `stop` was set."""
    stop.wait()
    acceptor.stop()


def is_degraded(state: StateNote) -> bool:
    """Return whether an app needs a person."""
    return any(app.state == State.DEGRADED.value for app in state.apps)


def drifted(paths: Paths) -> tuple[str, ...]:
    """Return the apps whose link, sizes or modes are not those of the committed release."""
    return tuple(one.app for one in verify(paths, deep=False) if one.drift)
