from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure.errors import EmbrasureError, Refused
from embrasure.trust.documents import write
from embrasure.trust.plan import Plan, parse_plan
from embrasure.trust.waves import bucket, need_of, wave_of, witnesses
from tests.simulate.nodes import SimNode, fixed_node_id
from tests.simulate.releases import make_plan, make_release

NODES = [SimNode(id=fixed_node_id(n), labels={"tier": "web"}) for n in range(60)]
RELEASE = make_release("shop")


def plan_of(percents: tuple[int, ...], seq: int = 1) -> Plan:
    return make_plan(
        root_id="a" * 64, env="dev", release=RELEASE, seq=seq, group={"tier": "web"}, nodes=NODES,
        canary=NODES[:1], percents=percents, proposer="anna", at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip


@given(st.lists(st.integers(1, 99), max_size=3, unique=True), st.integers(1, 10**6))
def test_every_node_of_the_group_has_exactly_one_wave(percents: list[int], seq: int) -> None:
    plan = plan_of((*sorted(percents), 100), seq)
    waves = [wave_of(plan, node.id, node.labels) for node in NODES]
    assert waves[0] == 0
    assert all(wave is not None and 1 <= wave < len(plan.waves) for wave in waves[1:])
    assert parse_plan(write(plan)) == plan


@given(st.integers(1, 10**6))
def test_witnesses_are_members_of_their_own_wave(seq: int) -> None:
    plan = plan_of((30, 100), seq)
    for number, wave in enumerate(plan.waves):
        for named in wave.nodes:
            assert wave_of(plan, named.id, {"tier": "web"}) == number
        assert wave.need <= len(wave.nodes)


def test_nodes_with_other_labels_are_in_no_wave_unless_named() -> None:
    plan = plan_of((100,))
    assert wave_of(plan, fixed_node_id(99), {"tier": "db"}) is None
    assert wave_of(plan, fixed_node_id(99), {}) is None


def test_buckets_spread_and_change_with_seq() -> None:
    plan = plan_of((100,))
    numbers = [bucket(plan, fixed_node_id(n)) for n in range(2000)]
    assert all(0 <= number < 10_000 for number in numbers)
    assert 900 < sum(number < 5_000 for number in numbers) < 1100
    assert bucket(plan, NODES[0].id) != bucket(plan_of((100,), 2), NODES[0].id)


def test_two_thirds_of_the_witnesses_are_needed() -> None:
    assert [need_of(n) for n in (0, 1, 2, 3, 4, 6, 12)] == [0, 1, 2, 2, 3, 4, 8]
    plan = plan_of((100,))
    assert len(witnesses(plan, [node.id for node in NODES])) == 12


def wave(**changes: object) -> tuple[object, ...]:
    plan = plan_of((40, 100))
    return (plan.waves[0], msgspec.structs.replace(plan.waves[1], **changes), plan.waves[2])


SIXTY = plan_of((60, 100)).waves
BAD: dict[str, dict[str, object]] = {
    "no canary": {"waves": plan_of((40, 100)).waves[1:]},
    "last wave leaves nodes out": {"waves": plan_of((40, 100)).waves[:2]},
    "percent 0": {"waves": wave(percent=0)},
    "percent falls": {"waves": (SIXTY[0], SIXTY[2], SIXTY[1])},
    "a name twice": {"waves": wave(name="canary")},
    "needs more than it names": {"waves": wave(need=16)},
    "times fall": {"approve_by": "2025-01-01T00:00:00Z"},
    "no such day": {"created": "2025-02-30T00:00:00Z"},
    "seq 0": {"seq": 0},
    "four tries": {"max_attempts": 4},
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD))
def test_a_plan_that_is_not_one_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        parse_plan(write(msgspec.structs.replace(plan_of((40, 100)), **BAD[name])))


@given(st.binary(max_size=200))
def test_random_bytes_are_no_plan(raw: bytes) -> None:
    with pytest.raises(EmbrasureError):
        parse_plan(raw)
