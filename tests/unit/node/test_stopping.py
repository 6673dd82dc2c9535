"""SIGTERM ends a process of the node whatever its main thread is doing at that moment."""

from __future__ import annotations

import subprocess
import sys

# The main thread is inside `stop.wait`: it holds the event's lock for an instant each time.
CODE = """
import signal, threading
{make}
with stop._cond:
    signal.raise_signal(signal.SIGTERM)
    for _ in range(1000): pass
print(stop.wait(10))
"""
OURS = "from node.service import Signals\nstop = Signals().stop()"
EARLY = """
import signal
from node.service import Signals
signals = Signals()
signal.raise_signal(signal.SIGTERM)
stop = signals.stop()
print(stop.wait(10))
"""
PLAIN = "stop = threading.Event()\nsignal.signal(signal.SIGTERM, lambda *_: stop.set())"


def said(make: str, *, seconds: float) -> str:
    """Return what the process printed; nothing when it had to be killed."""
    command = [sys.executable, "-c", CODE.format(make=make)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip()


def test_a_signal_that_comes_while_the_event_is_looked_at_is_no_deadlock() -> None:
    assert said(OURS, seconds=20) == "True"


def test_a_handler_that_sets_the_event_itself_would_wait_for_itself() -> None:
    assert said(PLAIN, seconds=3) == ""


def test_a_signal_that_comes_before_anybody_waits_for_it_is_kept() -> None:
    assert said(EARLY, seconds=20).split() == ["True", "True"]
