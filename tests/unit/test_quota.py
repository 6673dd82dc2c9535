"""Quotas: so many approvers of each group, and one person never fills two places."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure.errors import Refused
from embrasure.trust.decide import decide
from embrasure.trust.documents import write
from embrasure.trust.policy import Policy, Quota, parse_policy
from embrasure.trust.quota import unmet
from tests.ablation import Ablation
from tests.unit.test_decide import NOW, Scene, build

GROUPS = ("ops", "sec", "sre")
SRE_AND_SECURITY = (Quota(group="security", min=1), Quota(group="sre", min=1))


def with_quotas(scene: Scene, quotas: tuple[Quota, ...], groups: dict[str, tuple[str, ...]]) -> str:
    """What a node says when the policy asks for `quotas` and persons are in `groups`."""
    policy = scene.docs.policy
    assert policy is not None
    rules = msgspec.structs.replace(policy.apps["shop"], quotas=quotas)
    people = tuple(
        msgspec.structs.replace(person, groups=groups.get(person.id, ()))
        for person in policy.people
    )
    asked = msgspec.structs.replace(policy, apps={"shop": rules}, people=people)
    assert parse_policy(write(asked)) == asked
    docs = dataclasses.replace(scene.docs, policy=asked)
    found = decide(docs, scene.state, now=NOW)
    return f"{found.kind} {found.reason}".strip()


def signers(scene: Scene) -> list[str]:
    """Who signed the approval of the scene."""
    assert scene.docs.policy is not None
    role = scene.docs.view.role("dev-shop")
    assert role is not None
    found = {scene.docs.policy.person_of(key) for key in role.signers}
    return sorted(person for person in found if person is not None)


@pytest.mark.misuse
def test_an_approval_without_a_person_of_the_group_waits_for_one(
    tmp_path: Path, ablation: Ablation
) -> None:
    scene = build(tmp_path / "trust")
    one, two = signers(scene)[:2]
    # The honest twin: one of each group has signed.
    assert with_quotas(scene, SRE_AND_SECURITY, {one: ("sre",), two: ("security",)}) == "install"
    assert with_quotas(scene, SRE_AND_SECURITY, {one: ("sre",), two: ("sre",)}) == "hold approval"
    with ablation("the quotas of step 9") as attack:
        # Without them two of the same group are enough: the threshold alone is met.
        attack.succeeded(with_quotas(scene, (), {one: ("sre",), two: ("sre",)}) == "install")


@pytest.mark.misuse
def test_one_person_of_both_groups_is_not_two_persons(tmp_path: Path, ablation: Ablation) -> None:
    scene = build(tmp_path / "trust")
    one, two = signers(scene)[:2]
    both = {one: ("security", "sre"), two: ("ops",)}
    assert with_quotas(scene, SRE_AND_SECURITY, both) == "hold approval"
    assert with_quotas(scene, SRE_AND_SECURITY, {**both, two: ("sre",)}) == "install"
    with ablation("one place a person") as attack:
        # Counted group by group, as two rules that know nothing of each other, he passes alone.
        alone = [unmet([quota], [one], both) for quota in SRE_AND_SECURITY]
        attack.succeeded(alone == [{}, {}])


@given(
    st.dictionaries(st.sampled_from("abcde"), st.sets(st.sampled_from(GROUPS)), max_size=5),
    st.dictionaries(st.sampled_from(GROUPS), st.integers(1, 3), max_size=3),
)
def test_a_quota_is_met_exactly_when_persons_can_be_seated(
    groups: dict[str, set[str]], wanted: dict[str, int]
) -> None:
    quotas = [Quota(group=group, min=count) for group, count in sorted(wanted.items())]
    places = [quota.group for quota in quotas for _ in range(quota.min)]
    best = max(
        sum(group in groups[name] for name, group in zip(order, places, strict=False))
        for order in itertools.permutations(sorted(groups))
    )
    missing = unmet(quotas, groups, groups)
    assert sum(missing.values()) >= len(places) - len(groups)
    assert (missing == {}) == _seatable(places, groups)
    assert sum(missing.values()) <= len(places) - best
    # One more signature never makes a quota worse.
    for name in groups:
        fewer = unmet(quotas, [one for one in groups if one != name], groups)
        assert sum(fewer.values()) >= sum(missing.values())


def _seatable(places: list[str], groups: dict[str, set[str]]) -> bool:
    return any(
        all(group in groups[name] for name, group in zip(order, places, strict=True))
        for order in itertools.permutations(sorted(groups), len(places))
    )


@pytest.mark.parametrize(
    "quotas",
    [
        (Quota(group="sre", min=1), Quota(group="sre", min=2)),
        tuple(Quota(group=f"g{number}", min=11) for number in range(3)),
    ],
)
def test_quotas_that_nobody_could_mean_are_refused(
    tmp_path: Path, quotas: tuple[Quota, ...]
) -> None:
    policy: Policy | None = build(tmp_path / "trust").docs.policy
    assert policy is not None
    rules = msgspec.structs.replace(policy.apps["shop"], quotas=quotas)
    with pytest.raises(Refused):
        parse_policy(write(msgspec.structs.replace(policy, apps={"shop": rules})))
