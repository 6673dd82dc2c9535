"""The union of revocations: it only grows, but for the two resets that offline roles can make."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import PrivateKey

from embrasure import limits
from embrasure.errors import Damaged
from embrasure.trust.decide import below_ceiling
from embrasure.trust.denied import after_reset, denied_sets, is_full, merge
from embrasure.trust.floors import AppFloor, Committed, Floors, FloorStore, Union
from embrasure.trust.policy import Revocations
from tests.ablation import Ablation
from tests.simulate.releases import make_policy

ROOT = "0" * 64
ANNA, THIEF = "a" * 64, "b" * 64


def plans(*numbers: int) -> tuple[str, ...]:
    return tuple(f"{number:064x}" for number in numbers)


def test_what_either_denies_is_denied_by_both() -> None:
    one = denied_sets(None, seen(Union(), 1, version=1))
    both = one.joined(denied_sets(None, seen(Union(), 2, version=1)))
    assert both.plans == set(plans(1, 2))
    assert both == both.joined(one)


def revocations(*numbers: int) -> Revocations:
    return Revocations(
        v=1, type="revocations", root=ROOT, env="dev", plans=plans(*numbers), manifests=(), keys=(),
        nodes=(), gateway_certs=(), freezes=(), issued="2026-01-01T00:00:00Z", reason="",
    )  # fmt: skip


def seen(union: Union, *numbers: int, version: int, **rest: object) -> Union:
    return merge(union, revocations(*numbers), version=version, **rest)  # type: ignore[arg-type]  # by name


@pytest.mark.misuse
def test_a_denial_left_out_of_a_later_version_stays(ablation: Ablation) -> None:
    union = seen(Union(), 1, 2, version=1)
    after = seen(union, 2, version=2)
    assert after.plans == {plans(1)[0]: 1, plans(2)[0]: 2}
    with ablation("the union of all versions") as attack:
        # What the newest version alone says: the thief of one on-call key has lifted the denial.
        attack.succeeded(plans(1)[0] not in seen(Union(), 2, version=2).plans)


def test_a_reset_drops_what_no_later_version_named_and_never_takes_it_again() -> None:
    union = seen(seen(Union(), 1, 2, version=4), 2, 3, version=5)
    after = seen(union, 3, version=6, reset_through=4)
    assert set(after.plans) == set(plans(2, 3))
    # The versions of before are not taken again, whoever shows them.
    assert seen(after, 1, version=4, reset_through=4).plans == after.plans
    # A later version may deny a lifted entry again.
    assert plans(1)[0] in seen(after, 1, version=7, reset_through=4).plans


def test_an_on_call_key_that_targets_took_away_takes_the_union_with_it() -> None:
    union = seen(Union(), 1, version=999_999_999, holders={ANNA, THIEF})
    assert union.holders == (ANNA, THIEF)
    # Another key is added: nothing is lost.
    union = seen(union, 1, version=999_999_999, holders={ANNA, THIEF, "c" * 64})
    assert union.plans
    # The thief's goes; the version may fall with it.
    after = seen(union, 7, version=3, holders={ANNA})
    assert (set(after.plans), after.through, after.holders) == (set(plans(7)), 3, (ANNA,))


@pytest.mark.misuse
def test_a_union_that_is_full_holds_and_pushes_nothing_out(
    tmp_path: Path, ablation: Ablation
) -> None:
    union = Union()
    for version in range(1, 8):
        union = seen(union, *range(version * 1_000, version * 1_000 + 1_000), version=version)
    assert is_full(union) and union.size() <= limits.DENIED_UNION + limits.DENIED_PER_LIST
    assert set(plans(*range(1_000, 2_000))) <= set(union.plans)
    store = FloorStore(tmp_path)
    store.create(Floors.first())
    store.save(msgspec.structs.replace(Floors.first(), union=union))
    with ablation("the end of a full union") as attack:
        # Two keys later the floors are larger than they may be, and no other floor can rise.
        entries = dict.fromkeys(plans(*range(40_000)), 1)
        with pytest.raises(Damaged):
            store.save(msgspec.structs.replace(Floors.first(), union=Union(plans=entries)))
        attack.succeeded(store.load().union == union)


versions = st.integers(min_value=1, max_value=9)
numbers = st.lists(st.integers(min_value=0, max_value=9), max_size=4)


@given(st.lists(st.tuples(versions, numbers, st.integers(min_value=0, max_value=9)), max_size=8))
def test_an_entry_goes_only_by_a_reset(history: list[tuple[int, list[int], int]]) -> None:
    union, reset = Union(), 0
    for version, entries, asked in history:
        reset = max(reset, asked)
        after = seen(union, *entries, version=version, reset_through=reset)
        for entry, held in union.plans.items():
            assert entry in after.plans or held <= reset
        assert all(held > reset for held in after.plans.values())
        # The same again changes nothing.
        assert seen(after, *entries, version=version, reset_through=reset) == after
        assert after_reset(after, reset_through=reset, holders=None) == after
        union = after


def test_policy_and_union_deny_together() -> None:
    policy = make_policy(ROOT, "dev", PrivateKey.generate())
    lasting = msgspec.structs.replace(policy.denied, plans=plans(1))
    policy = msgspec.structs.replace(policy, denied=lasting)
    found = denied_sets(policy, seen(Union(), 2, version=1))
    assert found.plans == set(plans(1, 2))


# --- burnt numbers ---------------------------------------------------------------------------


def committed(seq: int) -> Committed:
    return Committed(plan=ANNA, seq=seq, ran="main", manifest=THIEF, wave=0)


def test_a_number_above_the_ceiling_counts_as_not_seen() -> None:
    burnt = AppFloor(seen_seq=10**9, seen_plan=THIEF, gate_seq=10**9, gseq=7, gate_digest=THIEF)
    assert below_ceiling(burnt, None) == burnt
    assert below_ceiling(burnt, 10**9) == burnt
    read = below_ceiling(burnt, 500)
    assert (read.seen_seq, read.seen_plan, read.gate_seq, read.gseq) == (0, "", 0, 0)
    runs = msgspec.structs.replace(burnt, committed=committed(12))
    assert (below_ceiling(runs, 500).seen_seq, below_ceiling(runs, 500).seen_plan) == (12, ANNA)
    over = msgspec.structs.replace(burnt, committed=committed(501))
    assert below_ceiling(over, 500).seen_seq == 0


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_a_floor_falls_only_below_the_ceiling(seen_seq: int, gate_seq: int, ceiling: int) -> None:
    floor = AppFloor(seen_seq=seen_seq, seen_plan=ANNA, gate_seq=gate_seq, gseq=3)
    read = below_ceiling(floor, ceiling)
    assert read.seen_seq == seen_seq or seen_seq > ceiling
    assert (read.gate_seq, read.gseq) == (gate_seq, 3) or gate_seq > ceiling
    assert below_ceiling(read, ceiling) == read
