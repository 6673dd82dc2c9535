"""Recovery is a pure function: each stored state has one way to rest, and twice is once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.recover import Act, Found, Recovery, recover
from node.states import BACK, HARMLESS, OPEN, Record, State
from tests.unit.node.records import make_record, make_release

OLD, NEW, OLDER = make_release(1).id, make_release(2).id, make_release(7).id


def found(record: Record | None, current: str | None, **changes: object) -> Found:
    """Return a disk on which both releases are whole and the old one is committed."""
    fields: dict[str, object] = {
        "damaged": False, "whole": frozenset({OLD, NEW}), "committed": OLD, "previous": None,
    }  # fmt: skip
    return Found(record=record, current=current, **{**fields, **changes})  # type: ignore[arg-type]  # test


@pytest.mark.parametrize("state", sorted(HARMLESS))
def test_before_preparing_the_attempt_is_dropped_and_the_old_runs(state: State) -> None:
    assert recover(found(make_record(state), OLD)) == Recovery(Act.DISCARD, OLD)


@pytest.mark.parametrize("state", [State.PREPARING, State.QUIESCING, State.SWITCHING])
def test_a_lost_switch_is_never_done_again(state: State) -> None:
    assert recover(found(make_record(state), OLD)) == Recovery(Act.BACK, reason="power")


@pytest.mark.parametrize(
    "state", [State.SWITCHING, State.STARTING, State.PROBING, State.PROVISIONAL]
)
def test_a_new_release_with_starts_left_is_tried_again(state: State) -> None:
    assert recover(found(make_record(state, starts=2), NEW)) == Recovery(Act.AGAIN, NEW)


def test_a_release_without_starts_left_goes_back() -> None:
    probing = recover(found(make_record(State.PROBING, starts=1), NEW))
    assert probing == Recovery(Act.BACK, reason="crash-loop")
    # While it soaks, it was told healthy before: the cut is not its fault.
    for record in (
        make_record(State.PROBING, starts=1, since=4, final=5),
        make_record(State.PROVISIONAL, starts=1),
    ):
        assert recover(found(record, NEW)) == Recovery(Act.BACK, reason="power")


def test_a_release_whose_word_did_not_come_in_time_goes_back_and_is_not_started_again() -> None:
    record = make_record(State.PROVISIONAL, starts=2)
    assert recover(found(record, NEW, is_late=True)) == Recovery(Act.BACK, reason="no-confirm")
    assert recover(found(record, NEW)) == Recovery(Act.AGAIN, NEW)


@pytest.mark.parametrize("state", sorted(BACK))
@pytest.mark.parametrize("current", [OLD, NEW, None])
def test_a_way_back_is_finished_with_its_own_reason(state: State, current: str | None) -> None:
    record = make_record(state, reason="probe")
    assert recover(found(record, current)) == Recovery(Act.BACK, reason="probe")


def test_a_commit_is_finished_never_undone() -> None:
    record = make_record(State.COMMITTED, ending="committed")
    assert recover(found(record, NEW)) == Recovery(Act.FINISH, NEW)
    # Also when the link was lost after the commit.
    assert recover(found(record, None)) == Recovery(Act.FINISH, NEW)


def test_a_commit_whose_disk_was_destroyed_is_not_called_a_success() -> None:
    record = make_record(State.COMMITTED, ending="committed")
    assert recover(found(record, NEW, whole=frozenset({OLD}))) == Recovery(Act.STRANDED, OLD)


def test_a_lost_link_is_made_again() -> None:
    idle = make_record(State.IDLE, ending="rolled_back")
    assert recover(found(idle, None)) == Recovery(Act.NOTHING, OLD)
    assert recover(found(idle, "9-" + "9" * 16)) == Recovery(Act.NOTHING, OLD)


def test_a_damaged_committed_release_gives_way_to_the_one_before() -> None:
    disk = found(None, OLD, whole=frozenset({OLDER}), previous=OLDER)
    assert recover(disk) == Recovery(Act.NOTHING, OLDER)
    assert recover(found(None, OLD, whole=frozenset())) == Recovery(Act.STRANDED)


def test_what_is_denied_takes_no_place_of_a_lost_release_but_runs_where_it_ran() -> None:
    disk = found(None, OLD, whole=frozenset({OLDER}), previous=OLDER, denied=frozenset({OLDER}))
    assert recover(disk) == Recovery(Act.STRANDED)
    disk = found(None, OLD, denied=frozenset({OLD}))
    assert recover(disk) == Recovery(Act.NOTHING, OLD)
    committed = make_record(State.COMMITTED)
    disk = found(committed, NEW, whole=frozenset({OLD}), committed=NEW, denied=frozenset({OLD}))
    assert recover(disk) == Recovery(Act.STRANDED)


def test_a_node_that_never_installed_anything_rests() -> None:
    disk = found(None, None, whole=frozenset(), committed=None)
    assert recover(disk) == Recovery(Act.NOTHING)


def test_lost_floors_do_not_stop_what_runs() -> None:
    disk = found(None, NEW, committed=None, damaged=True)
    assert recover(disk) == Recovery(Act.NOTHING, NEW)


def test_a_degraded_node_starts_what_is_linked_and_whole_and_nothing_else() -> None:
    record = make_record(State.DEGRADED, ending="degraded")
    assert recover(found(record, OLD)) == Recovery(Act.STRANDED, OLD)
    assert recover(found(record, None)) == Recovery(Act.STRANDED)


def test_a_committed_release_that_could_not_be_read_is_well_once_it_can() -> None:
    record = make_record(State.DEGRADED, ending="degraded")
    assert recover(found(record, None, committed=NEW)) == Recovery(Act.HEALED, NEW)
    gone = found(record, None, committed=NEW, whole=frozenset({OLD}))
    assert recover(gone).act is Act.STRANDED


NAMES = st.sampled_from([None, OLD, NEW, OLDER, "5-" + "5" * 16])


@st.composite
def disks(draw: st.DrawFn) -> Found:
    """Return any disk at all."""
    record = None
    if draw(st.booleans()):
        record = make_record(
            draw(st.sampled_from(State)),
            starts=draw(st.integers(0, 3)),
            reason=draw(st.sampled_from(["", "probe", "power", "crash-loop"])),
            back=draw(st.sampled_from([None, make_release(1)])),
        )
    return Found(
        record=record,
        damaged=draw(st.booleans()),
        current=draw(NAMES),
        whole=frozenset(draw(st.sets(st.sampled_from([OLD, NEW, OLDER])))),
        committed=draw(NAMES),
        previous=draw(NAMES),
        denied=frozenset(draw(st.sets(st.sampled_from([OLD, NEW, OLDER])))),
        is_late=draw(st.booleans()),
    )


@given(disks())
def test_nothing_is_ever_linked_that_is_not_whole(disk: Found) -> None:
    plan = recover(disk)
    assert plan.link is None or plan.link in disk.whole


@given(disks())
def test_nothing_that_is_denied_is_linked_anew(disk: Found) -> None:
    plan = recover(disk)
    is_forward = disk.record is not None and plan.link == disk.record.to.id
    if plan.link in disk.denied and not is_forward:
        assert plan.link in (disk.current, disk.committed)


@given(disks())
def test_an_open_state_never_just_rests(disk: Found) -> None:
    plan = recover(disk)
    if disk.record is not None and disk.record.state in OPEN | BACK:
        assert plan.act in (Act.AGAIN, Act.BACK)


@given(disks())
def test_an_uncommitted_release_is_started_only_with_a_start_left(disk: Found) -> None:
    plan = recover(disk)
    if plan.act is Act.AGAIN:
        assert disk.record is not None
        assert disk.record.starts > 1
        assert plan.link == disk.record.to.id == disk.current


@given(disks())
def test_twice_is_once(disk: Found) -> None:
    """After the link is made the same disk gives the same answer again."""
    plan = recover(disk)
    after = Found(
        record=disk.record, damaged=disk.damaged, whole=disk.whole, committed=disk.committed,
        previous=disk.previous, current=plan.link if plan.link is not None else disk.current,
        denied=disk.denied, is_late=disk.is_late,
    )  # fmt: skip
    assert recover(after) == plan
