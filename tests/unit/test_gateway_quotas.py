"""Quotas at the gateway: enough signatures of the wrong groups approve nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from embrasure.errors import Denied
from embrasure.trust.policy import Quota
from gateway import tables
from gateway.adopt import adopt
from tests.ablation import Ablation
from tests.simulate.gateway import SimGateway, trust_files
from tests.simulate.repository import SimRepository


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[SimGateway]:
    sim = SimRepository()
    sim.add_app("shop", operators=("anna", "ben", "carl", "dora"), threshold=2)
    for _ in range(3):
        sim.add_node()
    set_groups(sim, {"ben": ("sre",), "carl": ("sre",), "dora": ("security",), "anna": ("sre",)})
    opened = SimGateway(tmp_path, sim)
    yield opened
    opened.close()


def set_groups(
    sim: SimRepository, groups: dict[str, tuple[str, ...]], *, asked: bool = True
) -> None:
    policy = sim.policies["dev"]
    quotas = (Quota(group="security", min=1), Quota(group="sre", min=1)) if asked else ()
    rules = msgspec.structs.replace(policy.apps["shop"], quotas=quotas)
    people = tuple(msgspec.structs.replace(p, groups=groups.get(p.id, ())) for p in policy.people)
    sim.set_policy(people=people, apps={"shop": rules})
    sim.publish()


@pytest.mark.misuse
def test_two_of_one_group_do_not_approve_for_two_groups(
    gateway: SimGateway, ablation: Ablation
) -> None:
    draft = gateway.draft()
    gateway.propose(draft)
    assert gateway.approve(draft, "ben") == tables.PENDING
    assert gateway.approve(draft, "carl") == tables.PENDING
    digest = draft.release.plan_digest
    grounds = gateway.proposals.grounds("dev", "shop")
    assert grounds.lacking(["ben", "carl"]) == "1 of security"
    with pytest.raises(Denied):
        gateway.proposals.approved("dev", "shop", digest)
    with ablation("the quotas of the policy") as attack:
        bare = msgspec.structs.replace(grounds.policy.apps["shop"], quotas=())
        policy = msgspec.structs.replace(grounds.policy, apps={"shop": bare})
        attack.succeeded(policy.quotas_unmet("shop", ["ben", "carl"]) == {})
    # A person of the missing group completes it.
    assert gateway.approve(draft, "dora") == tables.APPROVED
    assert len(gateway.proposals.approved("dev", "shop", digest).documents) == 2


def test_who_proposes_must_leave_each_group_enough_others(gateway: SimGateway) -> None:
    draft = gateway.draft(by="dora")
    with pytest.raises(Denied, match=r"1 of security"):
        gateway.propose(draft)


def test_a_quota_added_later_holds_what_was_approved_before(gateway: SimGateway) -> None:
    sim = gateway.sim
    groups: dict[str, tuple[str, ...]] = {"ben": ("sre",), "carl": ("sre",), "dora": ("security",)}
    set_groups(sim, groups, asked=False)
    adopt(gateway.repository, trust_files(sim), force=False)
    draft = gateway.draft()
    gateway.propose(draft)
    gateway.approve(draft, "ben")
    assert gateway.approve(draft, "carl") == tables.APPROVED
    set_groups(sim, groups)
    adopt(gateway.repository, trust_files(sim), force=False)
    with pytest.raises(Denied):
        gateway.proposals.approved("dev", "shop", draft.release.plan_digest)
