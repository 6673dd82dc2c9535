"""The clock under the real apply process is moved by years (libfaketime), also while it works, and
the process is ended again and again while a release soaks.

Only the wall clock is moved: CLOCK_MONOTONIC and CLOCK_BOOTTIME stay the kernel's, as when somebody
sets the time of a machine.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from embrasure.errors import EmbrasureError
from embrasure.trust.floors import FloorStore
from node.answering import Deaf, converse
from node.confirm_messages import LocalAsk
from node.ipc import to_apply
from node.journal import Journal
from node.messages import OrderAsk
from node.states import Record, State
from tests.ablation import Ablation
from tests.simulate.installer import patient
from tests.simulate.kills import SERVER, Victim
from tests.simulate.running import PROGRAM, until

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed"),
]
YEAR = 365 * 86400
BACK, FORWARD = -YEAR, 10 * YEAR
SOAK_S, CONFIRM_S = 3.0, 2
# The program, with a sleep that libfaketime 0.9.10 can bear: where Python asks the kernel to sleep
# until a moment of a clock that must stay as it is, it makes an error of it (EINVAL).
SLEEP = "import select, time; time.sleep = lambda s: select.select([], [], [], max(s, 0)) and None"
NO_FLOOR = "from node.judge import Judge; Judge._time_floor = lambda *_: 0"
BY_THE_WALL = "time.monotonic = time.time"
# Half a second each. A soak begins a moment after its record is on disk: first, nothing is set.
JUMPS = (0, FORWARD, BACK, 0)


def library() -> str:
    """Return what `faketime` has the loader put before the C library."""
    said = subprocess.run(
        ["faketime", "-f", "+0", "sh", "-c", "echo $LD_PRELOAD"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return said.stdout.strip()


class Clocked(Victim):
    """A push node whose apply process sees another time. code: what it does before all else."""

    def __init__(self, root: Path, *, code: str = SLEEP) -> None:
        super().__init__(root, 0)
        self.program = [PROGRAM[0], PROGRAM[1], f"{code}; {PROGRAM[2]}"]
        text = self.paths.node_toml.read_text()
        self.paths.node_toml.write_text(text.replace("confirm_s = 120", f"confirm_s = {CONFIRM_S}"))
        self.ahead = root / "ahead"
        self.environment = {
            "PATH": os.environ["PATH"], "LD_PRELOAD": library(), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_TIMESTAMP_FILE": str(self.ahead),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip
        self.set(0)

    def set(self, seconds: int) -> None:
        """The clock of the process is so far ahead from now on."""
        fresh = self.ahead.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.replace(self.ahead)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*self.program, "node", "run", "--root", str(self.paths.prefix), "--only", "apply"],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env=self.environment,
        )  # fmt: skip

    def end(self) -> None:
        """It was asked to end, and did."""
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(30) == 0

    def order_at(self, seconds: int) -> bytes:
        """Return the next order, issued so far from now."""
        self.bench.clock.ahead = timedelta(seconds=seconds)
        try:
            return self.next_order()
        finally:
            self.bench.clock.ahead = timedelta()

    def obeys(self, envelope: bytes) -> str:
        """Return what apply answers to the order."""
        return self.says(OrderAsk(envelope=base64.b64encode(envelope).decode()))

    def says(self, ask: OrderAsk | LocalAsk) -> str:
        """Return what apply answers, once it has recovered: a word for an error."""

        def said() -> str:
            try:
                with to_apply(self.paths) as channel:
                    (answer,) = converse(channel, ask, self.bench.source(), Deaf()).answers
            except EmbrasureError as problem:
                return "" if problem.reason in ("busy", "agent-not-running") else problem.reason
            found = f"{answer.kind} {answer.reason}".strip()
            return "" if found == "wait busy" else found

        return until(said, seconds=30, what="an answer")

    def record(self) -> Record:
        found = Journal(self.paths).read(self.bench.app).record
        assert found is not None
        return found

    def in_state(self, state: State, *, above: int = 0) -> float:
        """Return when the install came to this state, the soak in PROBING, after so many steps."""

        def there() -> bool:
            record = self.record()
            has_come = record.state is state and record.transitions > above
            return has_come and (state is not State.PROBING or record.final > 0)

        until(there, seconds=30, what=state)
        return time.monotonic()

    def left(
        self, state: State, since: float, *, most: float, jumps: Sequence[int] = JUMPS
    ) -> float:
        """Return how long it was in this state, while the clock jumped by years; at most `most`."""
        for number, seconds in enumerate(jumps):
            self.set(seconds)
            while time.monotonic() < since + 0.5 * (number + 1):
                if self.record().state is not state:
                    return time.monotonic() - since
                time.sleep(0.02)
        until(lambda: self.record().state is not state, seconds=most, what=f"the end of {state}")
        return time.monotonic() - since


@contextmanager
def clocked(root: Path, *, code: str = SLEEP) -> Iterator[Clocked]:
    """Yield such a node, running, with 0 committed."""
    node = Clocked(root, code=code)
    node.start()
    try:
        until(node.is_at_rest, seconds=30, what="the first start")
        yield node
    finally:
        assert node.process is not None
        node.process.kill()
        node.process.wait()
        node._log.close()
        node.bench.open()  # what the killed one left running is stopped
        node.bench.close()


@contextmanager
def ordered(node: Clocked, version: str) -> Iterator[list[str]]:
    """Yield what a new order for this version, which soaks, is answered with, once it is."""
    made = patient(node.bench, version, files={"code/main.py": SERVER})
    node.bench.publish(release=made, soak_s=int(SOAK_S))
    said, envelope = list[str](), node.next_order()
    ordering = threading.Thread(target=lambda: said.extend(node.order(envelope)), daemon=True)
    ordering.start()
    yield said
    ordering.join(30)


@pytest.mark.misuse
def test_a_clock_wrong_by_years_takes_nothing_that_has_expired_and_boots_what_runs(
    tmp_path: Path, ablation: Ablation
) -> None:
    with clocked(tmp_path) as node:
        node.release("1")
        floors = FloorStore(node.paths.floors)
        before = floors.load()
        for seconds in (FORWARD, BACK):
            node.end()
            node.set(seconds)
            node.start()  # a boot at that time
            until(lambda: node.served_since(0) == "0", seconds=20, what="an answer of 0")
            if seconds == FORWARD:
                assert node.obeys(node.order_at(0)) == "refuse stale"
                assert node.says(LocalAsk()) == "expired"
            else:
                # By its own clock this order lives.
                assert node.obeys(node.order_at(BACK)) == "wait clock_behind"
                assert node.says(LocalAsk()) == "wait clock_behind"
        after = floors.load()
        assert before.time <= after.time <= time.time() + 1
        assert (after.apps, after.union) == (before.apps, before.union)
        with ablation("the newest time that signed files told") as attack:
            node.end()
            node.program[2] = f"{SLEEP}; {NO_FLOOR}; {PROGRAM[2]}"
            node.start()
            # An order that died a year ago stops what runs, and installs: it waits for its word.
            attack.succeeded(node.obeys(node.order_at(BACK)) == "interrupted no-confirm")
        # An order of that year is dead by the right clock.
        node.set(0)
        assert node.obeys(node.order_at(BACK)) == "refuse stale"


@pytest.mark.misuse
def test_a_clock_that_jumps_in_a_soak_or_a_confirm_window_moves_neither_end(
    tmp_path: Path, ablation: Ablation
) -> None:
    with clocked(tmp_path / "a") as node:
        with ordered(node, "1") as said:
            soaked = node.left(State.PROBING, node.in_state(State.PROBING), most=10)
            waited = node.left(State.PROVISIONAL, node.in_state(State.PROVISIONAL), most=10)
        assert said == ["interrupted no-confirm"]
        assert (node.served_since(0), node.record().interruptions) == ("0", 1)
        print(f"figure: soak_under_jumps = {soaked:.2f} s")
        print(f"figure: confirm_under_jumps = {waited:.2f} s")
        assert soaked >= SOAK_S - 0.3
        assert CONFIRM_S - 0.3 <= waited <= CONFIRM_S + 2
    with (
        ablation("a clock that nobody sets") as attack,
        clocked(tmp_path / "b", code=f"{SLEEP}; {BY_THE_WALL}") as node,
        ordered(node, "1"),
    ):
        soak = node.in_state(State.PROBING)
        early = node.left(State.PROBING, soak, most=10, jumps=[0, FORWARD])
        attack.succeeded(early < SOAK_S - 1)
        node.kill()


def test_three_terminations_in_a_soak_are_no_crash_of_the_release(tmp_path: Path) -> None:
    with clocked(tmp_path) as node:
        over = threading.Event()
        gateway = threading.Thread(target=node.confirm, args=(over,))
        gateway.start()
        try:
            with ordered(node, "1"):
                steps = 0
                for _ in range(3):
                    node.in_state(State.PROBING, above=steps)
                    node.end()
                    steps = node.record().transitions
                    node.start()
                until(lambda: node.record().state is State.IDLE, seconds=30, what="rest")
        finally:
            over.set()
            gateway.join()
        assert (node.record().ending, node.served_since(0)) == ("committed", "1")
        assert FloorStore(node.paths.floors).load().app(node.bench.app).tries == {}
