"""Join tokens under any order of events: one statement a token, in its time, and no other."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from embrasure import limits
from embrasure.errors import EmbrasureError
from pki import joining
from pki.folder import TrustFolder
from tests.simulate.ceremony import NewNode
from tests.simulate.joining import JoiningNode
from tests.unit.pki.conftest import AT

ENV = "prod"
HOUR = timedelta(seconds=limits.JOIN_SECONDS)
DAY = timedelta(seconds=limits.JOIN_PENDING_SECONDS)
THIEF = st.booleans()


class Tokens(RuleBasedStateMachine):
    """A keyholder's tool, one node id, its machine, and a thief who reads every token."""

    folder: Path
    pairs: tuple[NewNode, NewNode]

    @initialize()
    def begin(self) -> None:
        shutil.rmtree(self.folder / "joins", ignore_errors=True)
        self.trust, self.at = TrustFolder.open(self.folder), AT
        self.token, self.minted, self.wrong = "", AT, 0
        self.taken: tuple[str, datetime] | None = None  # whose statement, and when

    def clock(self) -> datetime:
        return self.at

    @rule()
    def mint(self) -> None:
        node = self.pairs[0].id
        self.token = joining.mint(self.trust, ENV, node, ttl_s=3600, clock=self.clock).token
        self.minted, self.wrong, self.taken = self.at, 0, None

    @rule(minutes=st.integers(1, 45))
    def wait(self, minutes: int) -> None:
        self.at += timedelta(minutes=minutes)

    @rule()
    def sleep(self) -> None:
        self.at += timedelta(hours=20)

    @precondition(lambda self: self.token)
    @rule(thief=THIEF, right=st.booleans())
    def answer(self, thief: bool, right: bool) -> None:
        node = self.pairs[thief]
        joiner = JoiningNode(node, self.token, AT)  # the same statement each time
        mac = joiner.mac if right else "0" * 64
        try:
            with self.trust.lock():
                joining.accept(self.trust, ENV, node.id, joiner.statement, mac, clock=self.clock)
        except EmbrasureError as problem:
            if problem.reason == "bad-mac":
                self.wrong += 1
            assert not self.may(node, right), problem
            return
        assert self.may(node, right)
        if self.taken is None:
            self.taken = (node.receipt_public, self.at)

    def may(self, node: NewNode, right: bool) -> bool:
        """Whether this answer must be taken: the model."""
        if self.taken is not None:
            who, when = self.taken
            return who == node.receipt_public and self.at < when + DAY
        live = self.at < self.minted + HOUR and self.wrong < limits.JOIN_TRIES
        return right and live


def test_tokens_hold_under_any_order_of_events(second: Path, tmp_path: Path) -> None:
    folder = tmp_path / "trust"
    shutil.copytree(second, folder)
    root = TrustFolder.open(folder).root_id
    pairs = (NewNode(root, 1), NewNode(root, 1))
    machine = type("Here", (Tokens,), {"folder": folder, "pairs": pairs})
    settings = hypothesis.settings(max_examples=40, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(machine, settings=settings)
