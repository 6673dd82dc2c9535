"""Environments, apps and denials: what they draft, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from embrasure.clock import Clock
from embrasure.errors import Denied, Misuse, NotFound, Refused
from embrasure.trust import policy
from pki import apps, changes, denials, lifting, people, retire, signing, store
from pki.base import read_base
from pki.desk import Desk
from pki.folder import TrustFolder
from tests.ablation import Ablation
from tests.simulate import ceremony
from tests.simulate.ceremony import sign_and_merge

RULES = apps.Rules(group={"tier": "web"}, min_canary=2, min_soak_s=30, max_second_percent=20)


def add(
    trust: TrustFolder,
    ticking: Clock,
    app: str,
    names: list[str],
    threshold: int,
    env: str = "prod",
) -> list[str]:
    who = apps.operators(trust, names, generate=True)
    work = apps.add_app(trust, env, app, who=who, threshold=threshold, rules=RULES, clock=ticking)
    apps.keep_keys(trust, who, ceremony.PASSPHRASE, ceremony.COSTS.online)
    return [draft.role for draft in work.write()]


def test_an_environment_has_a_policy_without_people_and_the_folders_trust_bundle(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    ceremony.add_environment(shop, "test", ticking)
    sign_and_merge(shop, "alice", "bob", at=at)
    found = policy.parse_policy(shop.documents("fleet-test")["fleet/test/policy.json"])
    assert found.people == () and found.apps == {} and found.root == shop.root_id
    assert found.collect_key == shop.fleet.collect
    targets = store.as_targets(shop.held("targets") or pytest.fail("no targets"))
    assert targets.delegations is not None and targets.delegations.roles is not None
    assert list(targets.delegations.roles) == [
        "revocations",
        "fleet-prod",
        "fleet-test",
        "prod-shop",
        "gates-prod",
        "gates-test",
    ]


def test_an_environment_is_added_once(shop: TrustFolder, ticking: Clock) -> None:
    with pytest.raises(Misuse):
        ceremony.add_environment(shop, "prod", ticking)
    assert not shop.drafts()


@pytest.mark.parametrize("env", ["fleet", "gates", "root", "a-b", "Prod", "", "x" * 17])
def test_an_environments_name_cannot_hide_another_role(
    env: str, shop: TrustFolder, ticking: Clock
) -> None:
    with pytest.raises(Misuse):
        ceremony.add_environment(shop, env, ticking)


def test_an_interrupted_environment_goes_on_with_the_same_gate_key(
    shop: TrustFolder, ticking: Clock
) -> None:
    ceremony.add_environment(shop, "test", ticking)
    key = (shop.path / "online" / "gates-test.key").read_bytes()
    for draft in shop.drafts():
        from pki import drafts

        drafts.discard(draft.folder)
    ceremony.add_environment(shop, "test", ticking)
    assert (shop.path / "online" / "gates-test.key").read_bytes() == key


def test_an_app_has_its_operators_as_people_and_its_rules(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    assert add(shop, ticking, "site", ["anna", "eve"], 1) == ["targets", "fleet-prod"]
    sign_and_merge(shop, "alice", "carl", at=at)
    found = policy.parse_policy(shop.documents("fleet-prod")["fleet/prod/policy.json"])
    rules = found.rules_of("site")
    assert rules is not None
    assert (rules.min_canary, rules.min_soak_s, dict(rules.group)) == (2, 30, {"tier": "web"})
    assert found.seq_ceiling == {"shop": 1_000_000, "site": 1_000_000}
    assert [person.id for person in found.people] == ["anna", "bea", "dora", "eve"]
    anna = people.read_public(shop.path / "public" / "anna.pub", purpose="operator")
    assert found.person_of(anna.keyid) == "anna"


@pytest.mark.parametrize(("names", "threshold"), [(["anna"], 1), (["anna", "bea"], 2)])
def test_an_app_needs_one_operator_more_than_its_threshold(
    names: list[str], threshold: int, shop: TrustFolder, ticking: Clock
) -> None:
    with pytest.raises(Misuse, match="proposes"):
        add(shop, ticking, "site", names, threshold)


def test_an_app_is_added_once_and_to_an_environment_that_exists(
    shop: TrustFolder, ticking: Clock
) -> None:
    with pytest.raises(Misuse):
        add(shop, ticking, "shop", ["anna", "bea"], 1)
    with pytest.raises(Misuse):
        add(shop, ticking, "site", ["anna", "bea"], 1, env="test")


@pytest.mark.misuse
def test_an_operators_name_does_not_change_hands(
    shop: TrustFolder, tmp_path: Path, ablation: Ablation
) -> None:
    (tmp_path / "x.pub").write_bytes((shop.path / "public" / "bea.pub").read_bytes())
    with pytest.raises(Misuse):
        apps.operators(shop, [f"anna={tmp_path}/x.pub"], generate=False)
    with ablation("the name inside the file") as attack:
        # The layer below names the key by whatever the command line says.
        bea = people.read_public(tmp_path / "x.pub", purpose="operator")
        taken = people.with_owner(people.named_key(bea), "anna")
        attack.succeeded(people.owner_of(taken) == "anna" and taken.keyid == bea.keyid)


@pytest.mark.misuse
def test_a_keyholders_key_is_no_operators_key(shop: TrustFolder, ablation: Ablation) -> None:
    file = shop.path / "public" / "alice.pub"
    with pytest.raises(Misuse):
        apps.operators(shop, [f"alice={file}"], generate=False)
    with ablation("the purpose of a key") as attack:
        found = people.parse_public(file.read_bytes())
        who = apps.Operators((), (found,))
        attack.succeeded([key.keyid for key in who.keys] == [found.keyid])


@pytest.mark.misuse
def test_another_key_under_a_known_name_is_refused(
    shop: TrustFolder, ticking: Clock, tmp_path: Path, ablation: Ablation
) -> None:
    other = ceremony.hold(tmp_path / "other", ticking)
    ceremony.add_environment(other, "prod", ticking)
    add(other, ticking, "shop", ["anna", "eve"], 1)
    who = apps.operators(shop, [f"anna={other.path}/public/anna.pub"], generate=False)
    with pytest.raises(Refused):
        apps.keep_keys(shop, who, None, ceremony.COSTS.online)
    with ablation("the key that the folder knows by that name") as attack:
        (shop.path / "public" / "anna.pub").unlink()
        apps.keep_keys(shop, who, None, ceremony.COSTS.online)
        kept = people.read_public(shop.path / "public" / "anna.pub", purpose="operator")
        attack.succeeded(kept.keyid == who.known[0].keyid)


def test_an_operator_without_a_key_is_a_usage_error(shop: TrustFolder) -> None:
    with pytest.raises(Misuse):
        apps.operators(shop, ["zoe"], generate=False)
    with pytest.raises(NotFound):
        apps.operators(shop, ["zoe=/nowhere/zoe.pub"], generate=False)


@pytest.mark.misuse
def test_a_policy_that_gives_a_key_to_another_person_is_pointed_out(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    work = Desk(shop, ticking)
    path = "fleet/prod/policy.json"
    text = work.document("fleet-prod", path).decode()
    found = json.loads(text)
    keys = {person["id"]: person["keys"][0] for person in found["people"]}
    swapped = text.replace(keys["anna"], "K").replace(keys["bea"], keys["anna"])
    work.put("fleet-prod", path, swapped.replace("K", keys["bea"]).encode())
    (draft,) = work.write()
    shown = signing.review(draft, pinned=shop.root_id, at=at).text
    assert f"WARNING    policy gives the key of bea ({keys['bea'][:8]}) to anna" in shown
    with ablation("the warnings of a draft") as attack:
        attack.without("pki.changes.warnings", lambda *_: [])
        attack.succeeded("WARNING" not in signing.review(draft, pinned=shop.root_id, at=at).text)


def test_denials_are_lifted_by_leaving_them_out(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    what = denials.denial(plans=[], manifests=["a" * 64], keys=["b" * 64], nodes=[])
    for lift, expected in ((False, ["a" * 64]), (True, [])):
        denials.deny(shop, "prod", what, lift=lift, clock=ticking)
        sign_and_merge(shop, "alice", "bob", at=at)
        found = policy.parse_policy(shop.documents("fleet-prod")["fleet/prod/policy.json"])
        assert list(found.denied.manifests) == expected


def test_a_signer_is_told_of_a_denial_that_stops_nobody(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    anna = people.read_public(shop.path / "public" / "anna.pub", purpose="operator").keyid
    typo, node = "0" * 64, "n-" + "a" * 26
    what = denials.denial(plans=[], manifests=[], keys=[anna, typo], nodes=[node])
    (draft,) = denials.deny(shop, "prod", what, lift=False, clock=ticking)
    shown = signing.review(draft, pinned=shop.root_id, at=at).text
    assert "WARNING    denied key 00000000 is nobody's: targets and directory do not" in shown
    assert f"WARNING    denied node {node} is in no directory" in shown
    assert f"denied key {anna[:8]}" not in shown
    sign_and_merge(shop, "alice", "bob", at=at)
    more = denials.denial(plans=["a" * 64], manifests=[], keys=[], nodes=[])
    (draft,) = denials.deny(shop, "prod", more, lift=False, clock=ticking)
    assert "is nobody's" not in signing.review(draft, pinned=shop.root_id, at=at).text  # said once
    (draft,) = denials.revoke(shop, "prod", what, reason="", clock=ticking)
    shown = signing.review(draft, pinned=shop.root_id, at=at).text
    assert "denied key 00000000 is nobody's: targets do not" in shown and "denied node" not in shown


def test_a_typo_in_an_environment_is_answered_with_those_that_are_here(
    shop: TrustFolder, ticking: Clock
) -> None:
    what = denials.denial(plans=["a" * 64], manifests=[], keys=[], nodes=[])
    calls: list[Callable[[], object]] = [
        lambda: add(shop, ticking, "site", ["anna", "bea"], 1, env="prodd"),
        lambda: denials.deny(shop, "prodd", what, lift=False, clock=ticking),
        lambda: denials.revoke(shop, "prodd", what, reason="", clock=ticking),
        lambda: lifting.policy_of(shop, "prodd"),
        lambda: retire.retire(shop, "prodd", ["n-" + "a" * 26], clock=ticking),
    ]
    for call in calls:
        with pytest.raises(Misuse, match="environment prodd: expected one of prod") as problem:
            call()
        assert "trust env add prodd" in problem.value.hint


def test_lifting_what_the_policy_does_not_deny_says_where_to_look(
    shop: TrustFolder, ticking: Clock
) -> None:
    what = denials.denial(plans=[], manifests=[], keys=["b" * 64], nodes=[])
    with pytest.raises(Misuse, match="the policy denies") as problem:
        denials.deny(shop, "prod", what, lift=True, clock=ticking)
    assert "trust lift" in problem.value.hint and not shop.drafts()


@pytest.mark.parametrize(
    "given",
    [{}, {"plans": ["xyz"]}, {"keys": ["A" * 64]}, {"nodes": ["node-1"]}],
)
def test_a_denial_of_nothing_or_of_a_bad_id_is_a_usage_error(given: dict[str, list[str]]) -> None:
    empty: dict[str, list[str]] = {"plans": [], "manifests": [], "keys": [], "nodes": []}
    with pytest.raises(Misuse):
        denials.denial(**{**empty, **given})


def test_a_signer_sees_thresholds_people_expiry_and_every_policy_field(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    add(shop, ticking, "site", ["anna", "eve"], 1)
    targets, fleet = (
        signing.review(draft, pinned=shop.root_id, at=at).text for draft in shop.drafts()
    )
    for part in (
        "role targets, version 3 (in force: v2)",
        "needs      2 of alice",
        "delegations.roles[prod-site].threshold = 1",
        "<eve>",
        "delegations.roles[order]",
    ):
        assert part in targets
    for part in (
        "apps.site.min_soak_s = 30",
        "people[eve].keys",
        "WARNING    policy min_isolation 0",
    ):
        assert part in fleet


@pytest.mark.misuse
def test_a_lowered_threshold_is_pointed_out(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    work = Desk(shop, ticking)
    delegations = work.targets().delegations
    assert delegations is not None and delegations.roles is not None
    delegations.roles["prod-shop"].threshold = 1
    (draft,) = work.write()
    text = signing.review(draft, pinned=shop.root_id, at=at).text
    assert "WARNING    role prod-shop needs fewer signatures: 1, was 2" in text
    assert "~ delegations.roles[prod-shop].threshold: 2 -> 1" in text
    with ablation("the warnings of a draft") as attack:
        attack.without("pki.changes.warnings", lambda *_: [])
        attack.succeeded("WARNING" not in signing.review(draft, pinned=shop.root_id, at=at).text)


@pytest.mark.misuse
def test_text_from_a_draft_cannot_act_on_the_terminal(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    draft = ceremony.add_environment(shop, "test", ticking)[0]
    draft.metadata.signed.unrecognized_fields["x\x1b[2J"] = "\u202e\x07"
    base = read_base(draft, pinned=shop.root_id)
    text = changes.render(draft, base, at=at)
    assert "\x1b" not in text and "\u202e" not in text and "\x07" not in text
    assert "202e" in text
    with ablation("both ways in which outside text is escaped") as attack:
        attack.without("pki.changes._part", str)
        attack.without("pki.changes._text", str)
        assert "\x1b" not in changes.render(draft, base, at=at)
        attack.without("pki.changes.shown", lambda text, limit: text)
        attack.succeeded("\x1b" in changes.render(draft, base, at=at))


def test_a_role_is_renewed_only_by_its_team(shop: TrustFolder, ticking: Clock) -> None:
    with pytest.raises((Misuse, Denied)):
        denials.renew(shop, "prod-shop", clock=ticking)
    with pytest.raises(Misuse):
        denials.renew(shop, "fleet-none", clock=ticking)
