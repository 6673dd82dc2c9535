"""The table of states: every way ends, and the way back always has room."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.errors import Failed
from node.states import (
    BACK,
    HARMLESS,
    NEXT,
    OPEN,
    RESTING,
    Record,
    Release,
    State,
    advance,
    release_name,
)
from tests.unit.node.records import make_record


def test_every_state_is_in_the_table_and_leads_to_rest() -> None:
    assert set(NEXT) == set(State)
    for start in State:
        seen, waiting = set[State](), [start]
        while waiting:
            state = waiting.pop()
            if state not in seen:
                seen.add(state)
                waiting += NEXT[state]
        assert seen & RESTING


def test_nothing_that_runs_is_touched_before_preparing() -> None:
    for state in HARMLESS - {State.WAITING}:
        assert not NEXT[state] & (OPEN | BACK)


def test_every_open_state_can_go_back() -> None:
    for state in OPEN:
        assert State.ROLLING_BACK in NEXT[state]


def test_only_prepare_ends_without_a_way_back() -> None:
    """Until it is over nobody has touched the old release; from then on it has to be proved."""
    assert [one for one in OPEN if State.ROLLED_BACK in NEXT[one]] == [State.PREPARING]


def test_a_commit_never_goes_back() -> None:
    assert not NEXT[State.COMMITTED] & (BACK | {State.ROLLED_BACK})


def test_a_step_that_the_table_does_not_have_is_refused() -> None:
    with pytest.raises(Failed):
        advance(make_record(State.PROBING), State.COMMITTED)


def test_a_used_up_transaction_can_only_end() -> None:
    tired = make_record(State.STARTING, transitions=limits.TRANSITIONS)
    assert advance(tired, State.PROBING).state is State.ROLLING_BACK
    assert advance(tired, State.PROBING).reason == "transitions"
    back = make_record(State.ROLLING_BACK, transitions=limits.TRANSITIONS, reason="probe")
    ended = advance(back, State.ROLLBACK_PROBING)
    assert (ended.state, ended.reason) == (State.DEGRADED, "probe")
    early = make_record(State.FETCHING, transitions=limits.TRANSITIONS)
    assert advance(early, State.VERIFIED).state is State.REJECTED


def test_a_used_up_way_forward_leaves_room_for_the_way_back() -> None:
    record = make_record(State.PROBING, transitions=limits.TRANSITIONS - 8)
    record = advance(record, State.PROVISIONAL)
    assert record.state is State.ROLLING_BACK
    record = advance(record, State.ROLLBACK_PROBING)
    assert advance(record, State.ROLLED_BACK).state is State.ROLLED_BACK


def test_a_commit_is_never_stopped_by_the_cap() -> None:
    record = make_record(State.PROVISIONAL, transitions=limits.TRANSITIONS + 5)
    assert advance(record, State.COMMITTED).state is State.COMMITTED


@given(st.data())
def test_no_walk_through_the_table_is_endless(data: st.DataObject) -> None:
    record = make_record(State.OFFERED)
    while record.state not in RESTING:
        to = data.draw(st.sampled_from(sorted(NEXT[record.state] - {State.IDLE, State.DEGRADED})
                                       or [State.IDLE]))  # fmt: skip
        record = advance(record, to)
        assert record.transitions <= limits.TRANSITIONS + 4
    assert record.state in RESTING


def test_a_release_is_named_by_its_number_and_digest() -> None:
    name = release_name(7, "ab" * 32)
    assert name == "7-abababababababab"
    fields = {"id": name, "plan": "0" * 64, "seq": 7, "manifest": "ab" * 32, "wave": 0}
    assert msgspec.convert(fields, Release).id == name
    for bad in ("../x", "7-abab", "0-abababababababab", "7-abababababababab/x", ".tmp-1"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({**fields, "id": bad}, Release)


def test_a_record_holds_no_unknown_state() -> None:
    known = msgspec.to_builtins(make_record(State.PROBING))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**known, "state": "flying"}, Record)
