"""The order in which an install reaches the disk: what a name promises is there before the name."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from tests.ablation import Ablation
from tests.simulate.faults import Faults
from tests.simulate.installer import SimInstaller, Told

Step = tuple[str, str]


class Arming(Told):
    """Arms the trace when the install begins."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self.faults = faults

    def progress(self, state: str, done: int, total: int) -> None:
        if state == "offered":
            self.faults.arm()


def trace(bench: SimInstaller) -> list[Step]:
    """Return every write of an upgrade to 2.0, in order."""
    bench.publish("2.0")
    with Faults() as faults:
        answer = bench.acceptor.poll(bench.source(), Arming(faults))[0]
    assert answer.kind == "committed"
    return faults.trace


def place(steps: Sequence[Step], call: str, end: str, *, after: int = -1) -> int:
    """Return where `call` about a path ending in `end` comes first, behind `after`."""
    for number, (name, subject) in enumerate(steps):
        if number > after and name == call and subject.endswith(end):
            return number
    raise AssertionError(f"no {call} of {end} after {after}")


def last(steps: Sequence[Step], call: str, part: str) -> int:
    """Return where `call` about a path with `part` in it comes last."""
    return max(n for n, (name, subject) in enumerate(steps) if name == call and part in subject)


def test_a_release_is_synced_before_its_name_its_name_before_the_link(
    running: SimInstaller,
) -> None:
    steps = trace(running)
    written = last(steps, "chmod", "/.tmp-")
    synced = place(steps, "syncfs", "", after=written)
    named = next(n for n, (call, what) in enumerate(steps) if call == "rename"
                 and re.search("/releases/[0-9]+-[^/]*$", what) and n > synced)  # fmt: skip
    names = place(steps, "fsync", "/releases", after=named)
    linked = place(steps, "symlink", ".current.new", after=names)
    switched = place(steps, "rename", "current", after=linked)
    durable = place(steps, "fsync", "/shop", after=switched)
    assert written < synced < named < names < linked < switched < durable


def test_the_switch_is_announced_before_and_committed_after_it_is_durable(
    running: SimInstaller,
) -> None:
    steps = trace(running)
    linked = place(steps, "symlink", ".current.new")
    durable = place(steps, "fsync", "/shop", after=linked)
    journal = [n for n, (call, what) in enumerate(steps) if call == "fsync" and what.endswith(
        "/journal")]  # fmt: skip
    # PREPARING, QUIESCING and SWITCHING are on disk before, COMMITTED after.
    assert len([n for n in journal if n < linked]) >= 3
    assert [n for n in journal if n > durable]
    told = [n for n, (call, what) in enumerate(steps) if call == "fsync" and "outbox" in what]
    committed = [n for n in journal if n > durable]
    # `healthy` follows PROBING; `soaked` follows COMMITTED and the floors.
    floors = last(steps, "fsync", "/floors")
    assert max(told) > floors > durable
    assert min(told) > committed[0]


@pytest.mark.misuse
def test_blobs_are_synced_before_they_are_named(running: SimInstaller, ablation: Ablation) -> None:
    """A name on disk before its bytes is what a power cut turns into empty files."""
    steps = trace(running)
    data = place(steps, "syncfs", "/.partial")
    assert place(steps, "fsync", "", after=data) > data
    assert place(steps, "mkdir", "", after=data) > data
    with ablation("the sync before the name") as attack:
        attack.without("embrasure.folder.Folder.syncfs", lambda self: None)
        running.publish("3.0")
        with Faults() as faults:
            assert running.acceptor.poll(running.source(), Arming(faults))[0].kind == "committed"
        attack.succeeded(all(call != "syncfs" for call, _ in faults.trace) and faults.trace)
