"""Sweeps: the same act again and again, each time with one fault at one operation of the disk.

A scene has a base folder, an act upon a copy of it, a recovery by the node's own code, and checks
of what must then hold. A case is one kind of fault at one operation. Kills are real: the act runs
in a forked process that ends by SIGKILL. All other faults happen in the worker, which lives on.

sweep(scenes, cases, workers=2) -> Outcome     # cases: from `every_case`, or a part of it
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import mmap
import os
import random
import select
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, cast

from embrasure import fsops
from tests.simulate.faults import Faults
from tests.simulate.fulldisk import CODES, DISKS, REASONS, Disk, Refusal
from tests.simulate.order import Order
from tests.simulate.trees import copy_tree, fingerprint, remove, room

Kind = Literal[
    "kill_before", "kill_after", "eio", "enospc", "edquot", "erofs", "short_kill", "short",
    "bytes", "inodes", "quota", "readonly",
]  # fmt: skip
KINDS: tuple[Kind, ...] = ("kill_before", "kill_after", "eio", "enospc", "short_kill", "short")
KINDS_IN_TURN = (*KINDS, "edquot", "erofs", "bytes", "inodes", "quota", "readonly")
KILLS = ("kill_before", "kill_after", "short_kill")
ERRORS = {
    "eio": errno.EIO, "enospc": errno.ENOSPC, "edquot": errno.EDQUOT, "erofs": errno.EROFS,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One fault. at: the operation, counted from 1; then: one of the recovery that ends it, too."""

    scene: str
    kind: Kind
    at: int
    then: int = 0

    def faults(self) -> Faults:
        """Return what makes it happen."""
        if self.kind in ERRORS:
            return Faults(fail_at=self.at, error=ERRORS[self.kind], lasting=self.kind == "erofs")
        if self.kind == "short":
            return Faults(short_at=self.at)
        short = self.at if self.kind == "short_kill" else 0
        return Faults(kill_at=self.at, after=self.kind != "kill_before", short_at=short)


class Scene(Protocol):
    """What is swept. Its methods are called in a worker, after `enter`."""

    name: str

    def enter(self, folder: Path, counters: Counters) -> Path:
        """Return the base: a folder of which each case gets a copy at `folder`.

        counters: all 0 at the beginning of each case
        """
        ...

    def act(self, faults: Faults) -> str:
        """Return the error of the node's code that ended the act, "" for none.

        On the copy, with the faults armed at the beginning.
        """
        ...

    why: str
    """The reason of what ended the last act, "" when it ended as it should."""
    gives_back: bool
    """Whether a full disk takes a write as soon as a file was removed."""

    def serving(self) -> list[str]:
        """Return what is wrong with the service at the end of an act in which writes failed."""
        ...

    def starts(self) -> list[str]:
        """Return what is wrong with the service after a start while writes still fail."""
        ...

    def recover(self, faults: Faults) -> None:
        """The node's own recovery, as after a restart, with the faults armed at its beginning."""
        ...

    def opened(self) -> AbstractContextManager[None]:
        """The node runs, once more recovered, until the block ends."""
        ...

    def check(self) -> list[str]:
        """Return what does not hold after the recovery, while it is open: one sentence each."""
        ...

    def goes_on(self) -> list[str]:
        """Return what is wrong with the next honest release, which is installed now."""
        ...


class Counters:
    """Numbers that outlive a killed process: they lie in memory that it shares."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, mmap.PAGESIZE)

    def add(self, slot: int) -> None:
        """One more."""
        self._shared[slot] = min(self._shared[slot] + 1, 255)

    def get(self, slot: int) -> int:
        """Return how many."""
        return self._shared[slot]

    def clear(self) -> None:
        """All are 0."""
        self._shared[:64] = bytes(64)


@dataclass(slots=True)
class Outcome:
    """How a sweep went."""

    cases: int = 0
    unmet: int = 0  # pairs whose recovery was over before its own crash: no pairs, not counted
    broken: list[str] = field(default_factory=list)
    by_scene: dict[str, int] = field(default_factory=dict)

    def joined(self, other: Outcome) -> Outcome:
        """Return how both went."""
        counts = Counter(self.by_scene) + Counter(other.by_scene)
        return Outcome(
            self.cases + other.cases, self.unmet + other.unmet, self.broken + other.broken,
            dict(counts),
        )  # fmt: skip

    def figures(self, name: str) -> list[str]:
        """Return the two lines that CI reads."""
        return [
            f"figure: {name}_cases = {self.cases} cases",
            f"figure: {name}_broken = {len(self.broken)} cases",
        ]


def every_case(scene: str, trace: Sequence[tuple[str, str]], kinds: Sequence[Kind]) -> list[Case]:
    """Return a case of each kind at each operation; a short one only at a write."""
    return [
        Case(scene, kind, at)
        for at, (call, _) in enumerate(trace, start=1)
        for kind in kinds
        if call == "write" or not kind.startswith("short")
    ]


Further = Callable[[Case], bool]


def always(case: Case) -> bool:
    """The next release is installed after each case."""
    return True


def in_turns(case: Case) -> bool:
    """It is after a third of them, of each operation after other kinds: it costs as much as all the
    rest of a case.
    """
    return (case.at + case.then + KINDS_IN_TURN.index(case.kind)) % 3 == 0


def traced(scene: Scene) -> list[tuple[str, str]]:
    """Return every operation of the act, undisturbed, which must end well."""
    with room() as top:
        place = Place(scene, top)
        faults = Faults()
        place.reset()
        said, wrong = scene.act(faults), place.recovered()
        if said or wrong:
            raise RuntimeError(f"{scene.name} without a fault: {said} {wrong}")
        return faults.trace


def recovery_lengths(scene: Scene, places: Sequence[int]) -> dict[int, int]:
    """Return how many operations the recovery takes after a kill at each of these operations."""
    found = {}
    with room() as top:
        place = Place(scene, top)
        for at in places:
            place.faulted(Case(scene.name, "kill_before", at))
            faults = Faults()
            scene.recover(faults)
            found[at] = faults.count
    return found


def sweep(
    scenes: Sequence[Scene], cases: Sequence[Case], *, workers: int = 2, disk: str = "",
    further: Further = always,
) -> Outcome:  # fmt: skip
    """Return how all cases went, shared out among that many processes.

    disk: one of `fulldisk.DISKS`, on which it is done; further: after which the next release is
    installed
    """
    named = {scene.name: scene for scene in scenes}
    shuffled = list(cases)
    random.Random(1).shuffle(shuffled)  # noqa: S311  # only evens out the load
    pipes: dict[int, tuple[int, bytearray]] = {}
    for number in range(workers):
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            _work(named, shuffled[number::workers], write_end, disk, further)
        os.close(write_end)
        pipes[read_end] = child, bytearray()
    outcome = Outcome()
    while pipes:
        # All at once: a worker whose pipe is full would wait for the end of another's work.
        for ready in select.select([*pipes], [], [])[0]:
            child, held = pipes[ready]
            held += (new := os.read(ready, 65_536))
            *lines, rest = held.split(b"\n")
            for line in lines:
                _take(outcome, json.loads(line))
            held[:] = rest
            if not new:
                os.close(ready)
                del pipes[ready]
                if os.waitpid(child, 0)[1]:
                    outcome.broken.append("a worker ended with an error")
    if outcome.cases + outcome.unmet != len(cases):
        outcome.broken.append(f"{outcome.cases} of {len(cases)} cases were run")
    return outcome


def _take(outcome: Outcome, told: dict[str, object]) -> None:
    outcome.cases += int(bool(told["met"]))
    outcome.unmet += int(not told["met"])
    scene = str(told["scene"])
    outcome.by_scene[scene] = outcome.by_scene.get(scene, 0) + 1
    if told["wrong"]:
        outcome.broken.append(f"{told['case']}: {told['wrong']}")


def _work(
    named: dict[str, Scene], cases: Sequence[Case], pipe: int, disk: str, further: Further
) -> None:
    """Run the cases in this process, which was forked for them, and end it."""
    status = 1
    try:
        with contextlib.ExitStack() as stack:
            top = stack.enter_context(room())
            out = stack.enter_context(os.fdopen(pipe, "wb", buffering=0))
            real = stack.enter_context(DISKS[disk](top)) if disk else None
            gc.disable()  # a collection in a forked process copies what it looks at
            places: dict[str, Place] = {}
            for case in cases:
                if case.scene not in places:
                    own = (real.path if real else top) / case.scene
                    own.mkdir()
                    places[case.scene] = Place(named[case.scene], own, real, further)
                wrong = places[case.scene].run(case)
                told = {
                    "scene": case.scene, "case": str(case), "wrong": "; ".join(wrong),
                    "met": places[case.scene].met,
                }  # fmt: skip
                out.write(json.dumps(told).encode() + b"\n")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


class Place:
    """One scene in one folder of one worker."""

    def __init__(
        self, scene: Scene, room: Path, disk: Disk | None = None, further: Further = always
    ) -> None:
        self._further = further
        self._scene, self._counters, self._disk = scene, Counters(), disk
        scene.gives_back = disk is None or disk.gives_back
        self.met = True  # whether the last case had all of its faults
        self._folder = room / "copy"
        self._base = scene.enter(self._folder, self._counters)
        self._print = fingerprint(self._base)

    def run(self, case: Case) -> list[str]:
        """Return what is wrong after the case."""
        self.met = True
        try:
            wrong = self.faulted(case)
            return wrong or self._recovered_and_checked(case)
        except Exception as problem:
            return [f"{type(problem).__name__}: {problem} {_where(problem)}"]

    def reset(self) -> None:
        """The folder is a copy of the base."""
        self._counters.clear()
        self._scene.why = ""
        remove(self._folder)
        copy_tree(self._base, self._folder, ballast=self._disk is not None)

    def faulted(self, case: Case) -> list[str]:
        """The act was done with the fault; returns what is wrong already."""
        self.reset()
        if case.kind in CODES:
            return self._refused(case)
        if case.kind == "short":
            return self._in_order(case.faults())
        if case.kind not in KILLS:
            self._scene.act(case.faults())
            return self._scene.serving()
        return [] if self._killed(case.faults(), "act") else ["the fault was never met"]

    def _in_order(self, faults: Faults) -> list[str]:
        """Return what came too early in an act that nothing ends: a short write is continued."""
        order = Order()
        with fsops.watched(order):
            said = self._scene.act(faults)
        if said:
            return [f"after a short write: {said}"]
        order.told("the end")
        return order.wrong[:3]

    def _refused(self, case: Case) -> list[str]:
        """Return what is wrong while the disk really refuses; then it takes everything again."""
        disk, kind = self._disk, cast(Refusal, case.kind)
        assert disk is not None
        met = []

        def each(number: int) -> None:
            if number == case.at:
                met.append(number)
                disk.refuse(kind)

        try:
            said = self._scene.act(Faults(each=each))
            wrong = self._scene.serving()
            if self._scene.why not in ("", REASONS[kind]):
                wrong.append(f"the act ended as {self._scene.why}: {said}")
            wrong += self._scene.starts()
        finally:
            disk.allow()
        return wrong if met else ["the fault was never met"]

    def _recovered_and_checked(self, case: Case) -> list[str]:
        if case.then:
            self.met = self._killed(Faults(kill_at=case.then, after=case.at % 2 == 1), "recover")
        # After an operation the disk is what it is before the next: that case goes further.
        goes = self._further(case) and (case.kind != "kill_after" or bool(case.then))
        return self.recovered(further=goes)

    def recovered(self, *, further: bool = True) -> list[str]:
        """The recovery is done, twice; returns what does not hold.

        further: then the next honest release is installed as well
        """
        self._scene.recover(Faults())
        before, wrong = fingerprint(self._folder), []
        with self._scene.opened():
            if (after := fingerprint(self._folder)) != before:
                changed = sorted({path for path, _ in before ^ after})
                wrong.append(f"I3: a second recovery changed {changed[:6]}")
            wrong += self._scene.check()
            wrong += self._scene.goes_on() if further else []
        if fingerprint(self._base) != self._print:
            wrong.append("the base was changed through a link")
        return wrong

    def _killed(self, faults: Faults, what: Literal["act", "recover"]) -> bool:
        """Return whether the process that did it was killed on its way."""
        child = os.fork()
        if child == 0:
            status = 3
            try:
                said = getattr(self._scene, what)(faults)
                status = 0
                if what == "act":
                    print("was not killed:", said or "it ended well", file=sys.stderr)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return True
        if status:
            raise RuntimeError(f"the {what} ended with {status}")
        return False


def _where(problem: BaseException) -> str:
    last = traceback.extract_tb(problem.__traceback__)[-3:]
    return " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(last))
