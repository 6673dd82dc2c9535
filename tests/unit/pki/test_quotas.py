"""Quotas and groups of an app, as the security team drafts them."""

from __future__ import annotations

from datetime import datetime

import pytest

from embrasure.clock import Clock
from embrasure.errors import Misuse
from embrasure.trust import policy
from pki import apprules, overview, quotas, signing
from pki.approvers import approvers
from pki.folder import TrustFolder
from tests.simulate.ceremony import sign_and_merge


def rules(shop: TrustFolder) -> policy.Policy:
    return policy.parse_policy(shop.documents("fleet-prod")["fleet/prod/policy.json"])


def change(shop: TrustFolder, ticking: Clock, what: apprules.Change) -> list[str]:
    return apprules.change_app(shop, "prod", "shop", what, clock=ticking)[1]


def test_a_quota_is_drafted_shown_and_in_force(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    told = change(
        shop,
        ticking,
        apprules.Change(quotas={"sre": 1}, members={"sre": ["anna"], "ops": ["bea", "dora"]}),
    )
    assert told == ["anna can no longer propose: a quota needs that signature"]
    (draft,) = shop.drafts()
    text = signing.review(draft, pinned=shop.root_id, at=at).text
    assert "apps.shop.quotas" in text and '"group": "sre"' in text
    assert 'people[anna].groups: [] -> ["sre"]' in text
    sign_and_merge(shop, "alice", "bob", at=at)
    assert rules(shop).quotas_unmet("shop", ["bea", "dora"]) == {"sre": 1}
    assert rules(shop).quotas_unmet("shop", ["anna", "dora"]) == {}
    (shown,) = approvers(shop)
    assert overview.show(shop, role="prod-shop", at=at)[0]["approvals"] == [shown.as_json()]
    assert (shown.threshold, shown.quotas) == (2, (("sre", 1),))
    assert [(person, shown.groups[person]) for person, _, _ in shown.keys] == [
        ("anna", ("sre",)), ("bea", ("ops",)), ("dora", ("ops",))
    ]  # fmt: skip
    text = overview.show(shop, role=None, at=at)[1]
    assert "prod-shop: 2 (1 of sre among them) of anna (sre), bea (ops), dora (ops)" in text


def test_a_quota_that_nobody_can_meet_is_not_drafted(shop: TrustFolder, ticking: Clock) -> None:
    with pytest.raises(Misuse, match="1 too few of sre"):
        change(shop, ticking, apprules.Change(quotas={"sre": 1}))
    with pytest.raises(Misuse):
        # All three operators are asked for, and one of them has to propose.
        members = {"sre": ["anna", "bea", "dora"]}
        change(shop, ticking, apprules.Change(quotas={"sre": 3}, members=members))
    assert not shop.drafts()


def test_the_last_person_of_a_group_that_is_needed_cannot_leave_it(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    change(shop, ticking, apprules.Change(quotas={"sre": 1}, members={"sre": ["anna"]}))
    sign_and_merge(shop, "alice", "bob", at=at)
    with pytest.raises(Misuse):
        apprules.change_group(shop, "prod", "sre", ["anna"], leave=True, clock=ticking)
    apprules.change_group(shop, "prod", "sre", ["bea"], leave=False, clock=ticking)
    sign_and_merge(shop, "alice", "bob", at=at)
    apprules.change_group(shop, "prod", "sre", ["anna"], leave=True, clock=ticking)
    sign_and_merge(shop, "alice", "bob", at=at)
    assert [person.id for person in rules(shop).people if "sre" in person.groups] == ["bea"]


def test_a_threshold_that_the_proposer_could_not_leave_is_not_drafted(
    shop: TrustFolder, ticking: Clock
) -> None:
    with pytest.raises(Misuse):
        change(shop, ticking, apprules.Change(threshold=3))
    change(shop, ticking, apprules.Change(threshold=1))
    assert [draft.role for draft in shop.drafts()] == ["targets"]


@pytest.mark.parametrize("text", ["sre", "sre=", "=1", "sre=x", "sre=-1"])
def test_a_quota_is_a_group_and_a_number(text: str) -> None:
    with pytest.raises(Misuse):
        quotas.read_quotas([text])
