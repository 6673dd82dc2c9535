"""The slots against a model: whatever happens, no post is lost, doubled or changed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from embrasure import limits
from embrasure.errors import Refused, Unavailable
from embrasure.net.post import frame_post
from mirror.slots import Slot, Slots

SLOTS = st.builds(Slot, st.sampled_from(["a" * 64, "b" * 64]), st.integers(1, 12))
BODIES = st.sampled_from([b"one", b"two", b"three"])


class Box(RuleBasedStateMachine):
    """`held` is what must be there: slot -> body, in the order in which posts came."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.moment = 0.0
        self.slots = self.open()
        self.held: dict[Slot, bytes] = {}

    def open(self) -> Slots:
        return Slots(Path(self.folder.name) / "posts", steady=lambda: self.moment)

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(slot=SLOTS, body=BODIES)
    def post(self, slot: Slot, body: bytes) -> None:
        frame = frame_post(b"header", body)
        if slot in self.held:
            if self.held[slot] == body:
                assert not self.slots.put(slot, frame)
            else:
                with pytest.raises(Refused):
                    self.slots.put(slot, frame)
            return
        try:
            assert self.slots.put(slot, frame)
        except Unavailable:
            return
        self.held[slot] = body

    @rule(seconds=st.integers(0, 100))
    def wait(self, seconds: int) -> None:
        self.moment += seconds

    @rule(slots=st.lists(SLOTS, max_size=4))
    def free(self, slots: list[Slot]) -> None:
        wanted = len({slot for slot in slots if slot in self.held})
        assert self.slots.free(slots) == wanted
        for slot in slots:
            self.held.pop(slot, None)

    @rule()
    def restart(self) -> None:
        self.slots = self.open()

    @invariant()
    def all_is_there(self) -> None:
        found = dict(self.slots.oldest(limits.COLLECT_POSTS))
        assert found == {slot: frame_post(b"header", body) for slot, body in self.held.items()}


Box.TestCase.settings = settings(max_examples=15, stateful_step_count=25)
TestBox = Box.TestCase
