"""The planner: what operators write, what they sign, and who is in which wave."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.public import PrivateKey

from embrasure.errors import Denied, Misuse, NotSupported
from embrasure.trust.directory import Entry
from embrasure.trust.documents import Content, digest, write
from embrasure.trust.plan import Plan, parse_plan
from embrasure.trust.policy import Policy
from embrasure.trust.waves import need_of, wave_of, witnesses
from gateway.planfile import PlanFile, seconds
from gateway.planner import draft_plan
from gateway.preview import Preview, preview
from tests.simulate.nodes import SimNode, fixed_node_id
from tests.simulate.releases import make_policy, make_rules

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
ROOT = "ab" * 32
CONTENT = Content(sha256="cd" * 32, length=1000)
COLLECT = PrivateKey(bytes([7]) * 32)


def entry_of(number: int, mode: str = "push", **fields: Any) -> Entry:
    node = SimNode(id=fixed_node_id(number), labels={"tier": "web"}, mode=mode)  # type: ignore[arg-type]  # a word of the enum
    return msgspec.structs.replace(node.entry(), **fields)


ENTRIES = [entry_of(number) for number in range(200)]


def policy_with(**rules: Any) -> Policy:
    made = make_rules(**{"group": {}, "min_canary": 1, "min_soak_s": 0, **rules})
    return msgspec.structs.replace(make_policy(ROOT, "dev", COLLECT), apps={"shop": made})


def draft(
    entries: list[Entry] | None = None, *, seq: int = 7, policy: Policy | None = None, **fields: Any
) -> tuple[Plan, Preview]:
    return draft_plan(
        PlanFile(app="shop", env="dev", **fields),
        policy=policy or policy_with(),
        entries=ENTRIES[:20] if entries is None else entries,
        seq=seq,
        root_id=ROOT,
        content=CONTENT,
        proposer="anna",
        now=NOW,
    )


def test_defaults_are_two_canaries_in_twenty_then_ten_fifty_and_all() -> None:
    plan, found = draft(ENTRIES[:100])
    assert [(w.name, w.percent, w.soak_s) for w in plan.waves] == [
        ("canary", 0, 60),
        ("10-percent", 10, 10),
        ("50-percent", 50, 10),
        ("100-percent", 100, 10),
    ]
    assert len(plan.waves[0].nodes) == 2
    assert found.total == 100
    assert plan.waves[3].max_parallel == -(-len(found.members[3]) // 4)
    assert (plan.failure.max_failed_pct, plan.failure.min_reached_pct) == (5, 90)


def test_the_same_request_gives_the_same_bytes() -> None:
    assert write(draft()[0]) == write(draft()[0])
    assert digest(draft()[0]) != digest(draft(seq=8)[0])


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 200), seq=st.integers(1, 10**6), canaries=st.integers(1, 5))
def test_every_node_has_exactly_one_wave_and_every_need_can_be_met(
    size: int, seq: int, canaries: int
) -> None:
    plan, found = draft(ENTRIES[:size], seq=seq, canary_count=min(canaries, size))
    listed = [node for wave in found.members for node in wave]
    assert sorted(listed) == sorted(entry.id for entry in ENTRIES[:size])
    assert parse_plan(write(plan)) == plan
    for number, (wave, members) in enumerate(zip(plan.waves, found.members, strict=True)):
        named = {node.id for node in wave.nodes}
        assert named <= set(members)
        assert wave.need == (len(named) if number == 0 else need_of(len(named)))
        assert number in (0, len(plan.waves) - 1) or members
        assert all(wave_of(plan, node, {"tier": "web"}) == number for node in members)
        if number:
            assert named == set(witnesses(plan, members))


def test_empty_waves_are_dropped_except_the_last() -> None:
    plan, found = draft(ENTRIES[:1])
    assert [wave.name for wave in plan.waves] == ["canary", "100-percent"]
    assert found.members[1] == ()
    assert plan.waves[1].need == 0


def test_an_empty_wave_stays_when_the_policy_limits_the_second_one() -> None:
    plan, found = draft(ENTRIES[:2], policy=policy_with(max_second_percent=20))
    assert plan.waves[1].percent == 10
    assert any("stays because of the policy" in line for line in found.warnings)


def test_named_canaries_are_taken_and_push_nodes_are_preferred() -> None:
    chosen = (ENTRIES[3].id, ENTRIES[5].id)
    assert {node.id for node in draft(canary=chosen)[0].waves[0].nodes} == set(chosen)
    mixed = [entry_of(1, "pull"), entry_of(2, "pull"), entry_of(3, "push")]
    assert [node.id for node in draft(mixed)[0].waves[0].nodes] == [fixed_node_id(3)]


def test_retired_nodes_and_nodes_of_other_labels_are_in_no_wave() -> None:
    entries = [ENTRIES[0], entry_of(1, state="retired"), entry_of(2, labels={"tier": "db"})]
    rules = policy_with(group={"tier": "web"})
    assert draft(entries, policy=rules)[1].total == 1


def test_receipt_keys_in_the_plan_are_the_directorys() -> None:
    plan, _ = draft()
    keys = {entry.id: entry.receipt.key for entry in ENTRIES}
    assert all(keys[n.id] == n.key for wave in plan.waves for n in wave.nodes)


@pytest.mark.parametrize(
    "fields",
    [
        {"fallback": "41"},
        {"after": [{"app": "db"}]},
        {"windows": [1]},
        {"overrides_freeze": ["x"]},
        {"scope": "all"},
    ],
)
def test_a_field_without_a_rule_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(NotSupported) as found:
        draft(**fields)
    assert next(iter(fields)) in str(found.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"scope": "wave"},
        {"canary": ("n-" + "a" * 26,)},
        {"canary": (ENTRIES[0].id, ENTRIES[0].id)},
        {"canary": (ENTRIES[0].id,), "canary_count": 1},
        {"canary_count": 0},
        {"canary_count": 17},
        {"waves": ({"name": "a", "percent": 50},)},
        {"waves": ({"name": "a", "percent": 50}, {"name": "a", "percent": 100})},
        {"waves": ({"name": "a", "percent": 60}, {"name": "b", "percent": 50})},
        {"waves": ({"name": "a", "percent": 101},)},
        {"waves": ({"name": "A b", "percent": 100},)},
        {"waves": ({"name": "a", "percent": 100, "soak_s": -1},)},
        {"waves": tuple({"name": f"w{n}", "percent": n} for n in range(1, 9))},
        {"settings": {"lower": "x"}},
        {"settings": {"X": "a\nb"}},
        {"title": "x" * 81},
        {"comment": "sneaky \u202e text"},
        {"max_attempts": 4},
        {"on_no_target": "explode"},
        {"approve_in": "soon"},
        {"approve_in": 0},
        {"start_in": "0h"},
        {"max_parallel": -1},
    ],
)
def test_a_wrong_plan_file_is_one_usage_error(fields: dict[str, Any]) -> None:
    body = {"app": "shop", "env": "dev", **fields}
    request = msgspec.convert(body, PlanFile)
    with pytest.raises(Misuse):
        draft_plan(
            request, policy=policy_with(), entries=ENTRIES[:20], seq=7, root_id=ROOT,
            content=CONTENT, proposer="anna", now=NOW,
        )  # fmt: skip


def test_an_unknown_field_of_the_plan_file_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"app": "shop", "env": "dev", "wavez": []}, PlanFile)


def test_an_empty_group_is_refused() -> None:
    with pytest.raises(Misuse):
        draft([])


@pytest.mark.parametrize(
    ("rules", "fields"),
    [
        ({"min_canary": 3}, {"canary_count": 2}),
        ({"min_soak_s": 30}, {"soak_s": 10}),
        ({"max_second_percent": 5}, {}),
    ],
)
def test_what_nodes_would_hold_for_policy_is_refused_at_planning(
    rules: dict[str, Any], fields: dict[str, Any]
) -> None:
    with pytest.raises(Denied) as found:
        draft(ENTRIES[:100], policy=policy_with(**rules), **fields)
    assert found.value.reason == "policy"


def test_an_app_without_rules_is_refused() -> None:
    with pytest.raises(Denied):
        draft(policy=msgspec.structs.replace(policy_with(), apps={}))


def test_the_policy_raises_defaults() -> None:
    plan, _ = draft(policy=policy_with(min_canary=3, min_soak_s=90))
    assert len(plan.waves[0].nodes) == 3
    assert all(wave.soak_s == 90 for wave in plan.waves)


def test_durations_have_units() -> None:
    found = [seconds(value, "x") for value in (90, "90s", "15m", "24h", "3d")]
    assert found == [90, 90, 900, 86400, 259200]


def test_approvers_see_witnesses_that_the_rule_would_not_choose() -> None:
    plan, _ = draft(ENTRIES[:100])
    wave = plan.waves[3]
    swapped = msgspec.structs.replace(wave, nodes=wave.nodes[:-1], need=1)
    other = msgspec.structs.replace(plan, waves=(*plan.waves[:3], swapped))
    told = " ".join(preview(other, ENTRIES[:100]).warnings)
    assert "not the ones that the rule chooses" in told
    assert "fewer witnesses than two thirds" in told


def test_approvers_see_a_named_key_that_is_not_the_directorys() -> None:
    plan, _ = draft(ENTRIES[:100])
    canary = plan.waves[0]
    stolen = msgspec.structs.replace(canary.nodes[0], key="ee" * 32)
    waves = (msgspec.structs.replace(canary, nodes=(stolen, *canary.nodes[1:])), *plan.waves[1:])
    found = preview(msgspec.structs.replace(plan, waves=waves), ENTRIES[:100])
    assert any("key that is not the directory's" in line for line in found.warnings)
