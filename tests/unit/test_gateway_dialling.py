"""Whom the gateway dials: in wave and bucket order, never more at once than the plan allows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure.trust.documents import write
from embrasure.trust.waves import bucket
from gateway.dialling import due, pause_s
from gateway.rows import Stored
from gateway.states import NODE_STATES
from tests.simulate.rollouts import SimRollout, make_nodes, plan_for


def stored(*, max_parallel: int = 2, open_wave: int = 1, state: str = "running") -> Stored:
    nodes = make_nodes(14, pull=(3, 6))
    plan = plan_for(nodes)
    waves = tuple(msgspec.structs.replace(w, max_parallel=max_parallel) for w in plan.waves)
    plan = msgspec.structs.replace(plan, waves=waves)
    run = SimRollout(nodes, plan)
    return Stored(
        rollout=replace(run.rollout, open_wave=open_wave, state=state), plan=plan,
        plan_raw=write(plan), members=tuple(run.all()), gseq=1, by="", created="", updated="",
        ended="",
    )  # fmt: skip


def ask(found: Stored, **changes: Any) -> list[str]:
    return due(found, **{"live": frozenset(), "after": {}, "now": 10.0, **changes})


def with_states(found: Stored, states: dict[str, str]) -> Stored:
    members = tuple(replace(m, state=states.get(m.node, m.state)) for m in found.members)
    return replace(found, members=members)


def test_only_open_waves_only_push_nodes_in_bucket_order() -> None:
    found = stored(max_parallel=100)
    asked = ask(found)
    members = {m.node: m for m in found.members}
    assert all(members[n].mode == "push" and members[n].wave <= 1 for n in asked)
    assert asked == sorted(asked, key=lambda n: (members[n].wave, bucket(found.plan, n)))
    assert not any(m.wave == 2 for m in map(members.__getitem__, asked))


@given(
    states=st.lists(st.sampled_from(sorted(NODE_STATES)), min_size=14, max_size=14),
    live=st.sets(st.integers(0, 13)),
    most=st.integers(1, 5),
)
def test_never_more_out_of_service_than_the_wave_allows(
    states: list[str], live: set[int], most: int
) -> None:
    found = stored(max_parallel=most, open_wave=2)
    nodes = sorted(m.node for m in found.members)
    found = with_states(found, dict(zip(nodes, states, strict=True)))
    streams = {nodes[n] for n in live}
    busy = {"fetching", "staged", "activating", "interrupted"}
    asked = ask(found, live=streams)
    assert not set(asked) & streams
    for wave in range(3):
        mine = [m for m in found.members if m.wave == wave and m.mode == "push"]
        begun = [m for m in mine if m.state in busy]
        fresh = [
            m for m in mine if m.node in asked and m.state not in busy and m.state != "checking"
        ]
        assert len(fresh) <= max(0, most - len(begun))


@pytest.mark.parametrize("state", ["halted", "paused", "rolling_back"])
def test_a_stopped_roll_out_asks_only_those_between_two_releases(state: str) -> None:
    found = stored(state=state, open_wave=2)
    first, second, third = [m.node for m in found.members if m.mode == "push"][:3]
    found = with_states(found, {first: "activating", second: "checking", third: "pending"})
    assert set(ask(found)) == {first, second}


def test_a_finished_roll_out_takes_those_who_were_away() -> None:
    found = stored(state="succeeded", open_wave=2, max_parallel=9)
    nodes = [m.node for m in found.members if m.mode == "push"]
    found = with_states(found, dict.fromkeys(nodes[1:], "healthy") | {nodes[0]: "unreachable"})
    assert ask(found) == [nodes[0]]


def test_a_node_is_left_alone_until_its_time() -> None:
    found = stored(max_parallel=100)
    nodes = ask(found)
    assert ask(found, after={nodes[0]: 11.0}) == nodes[1:]


def test_pauses_double_up_to_a_limit() -> None:
    assert [pause_s(n, first=5, most=300) for n in (0, 1, 2, 3, 9, 99)] == [5, 5, 10, 20, 300, 300]
