"""What a draft must be before anybody signs it: each mistake and each trick, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import DelegatedRole, Root, TargetFile, Targets

from embrasure.clock import Clock
from embrasure.errors import Refused
from embrasure.trust import layout
from embrasure.trust.canonical import canonical
from pki import lint, people, signing
from pki.desk import Desk
from pki.drafts import Draft
from pki.folder import TrustFolder
from tests.ablation import Ablation
from tests.simulate import ceremony


def a_key(owner: str) -> SSlibKey:
    return people.with_owner(CryptoSigner.generate_ed25519().public_key, owner)


def low(root: Root) -> None:
    root.roles["root"].threshold = 0


def high(root: Root) -> None:
    root.roles["targets"].threshold = 4


def twice(root: Root) -> None:
    # python-tuf counts key ids: one key under two ids would be two signatures.
    first = root.keys[root.roles["root"].keyids[0]]
    other = SSlibKey(
        "f" * 64, first.keytype, first.scheme, dict(first.keyval), {people.PERSON: "eve"}
    )
    root.add_key(other, "root")


def same_person(root: Root) -> None:
    root.add_key(a_key("alice"), "root")


def online_is_offline(root: Root) -> None:
    holder = root.keys[root.roles["root"].keyids[0]]
    root.add_key(holder, "timestamp")


def one_online_key(root: Root) -> None:
    root.add_key(root.keys[root.roles["snapshot"].keyids[0]], "timestamp")


def plain(root: Root) -> None:
    root.consistent_snapshot = False


def unknown(root: Root) -> None:
    root.roles["root"].keyids.append("e" * 64)


@pytest.mark.parametrize(
    "change",
    [high, twice, same_person, online_is_offline, one_online_key, plain, unknown],
)
@pytest.mark.misuse
def test_an_unsound_root_is_never_drafted(
    change: Callable[[Root], None],
    trust: TrustFolder,
    ticking: Clock,
    ablation: Ablation,
) -> None:
    work = Desk(trust, ticking)
    change(work.root())
    with pytest.raises(Refused):
        work.write()
    assert not trust.drafts()
    with ablation("the check of a root") as attack:
        attack.without("pki.lint.check_root")
        attack.succeeded(work.write())


def longer_path(targets: Targets) -> None:
    _role(targets, "prod-shop").paths = ["prod/*/*.json"]


def other_app(targets: Targets) -> None:
    _role(targets, "prod-shop").paths = ["fleet/prod/*.json"]


def not_terminating(targets: Targets) -> None:
    _role(targets, "fleet-prod").terminating = False


def gate_by_operator(targets: Targets) -> None:
    _role(targets, "gates-prod").keyids = [_role(targets, "prod-shop").keyids[0]]


def fleet_by_operator(targets: Targets) -> None:
    _role(targets, "fleet-prod").keyids.append(_role(targets, "prod-shop").keyids[0])


def own_file(targets: Targets) -> None:
    targets.targets["prod/shop/plan.json"] = TargetFile.from_data("prod/shop/plan.json", b"{}")


def no_threshold(targets: Targets) -> None:
    _role(targets, "prod-shop").threshold = 0


def _role(targets: Targets, name: str) -> DelegatedRole:
    assert targets.delegations is not None and targets.delegations.roles is not None
    return targets.delegations.roles[name]


@pytest.mark.parametrize(
    "change",
    [
        longer_path,
        other_app,
        not_terminating,
        gate_by_operator,
        fleet_by_operator,
    ],
)
@pytest.mark.misuse
def test_an_unsound_delegation_is_never_drafted(
    change: Callable[[Targets], None],
    shop: TrustFolder,
    ticking: Clock,
    ablation: Ablation,
) -> None:
    work = Desk(shop, ticking)
    change(work.targets())
    with pytest.raises(Refused):
        work.write()
    assert not shop.drafts()
    with ablation("the check of delegations") as attack:
        attack.without("pki.lint.check_targets")
        attack.succeeded(work.write())


def test_targets_that_list_a_file_of_their_own_are_never_drafted(
    shop: TrustFolder, ticking: Clock
) -> None:
    work = Desk(shop, ticking)
    own_file(work.targets())
    with pytest.raises(Refused):
        work.write()
    assert not shop.drafts()


@pytest.mark.misuse
def test_a_delegation_with_threshold_zero_is_never_drafted(
    shop: TrustFolder, ticking: Clock, ablation: Ablation
) -> None:
    work = Desk(shop, ticking)
    no_threshold(work.targets())
    with pytest.raises(Refused):
        work.write()
    assert not shop.drafts()
    with ablation("a threshold of one at least") as attack:
        # Such a role is signed by nobody and verifies.
        attack.succeeded(work.targets().get_verification_result("prod-shop", b"any", {}).verified)


@pytest.mark.misuse
def test_a_root_with_threshold_zero_is_never_drafted(
    trust: TrustFolder, ticking: Clock, ablation: Ablation
) -> None:
    work = Desk(trust, ticking)
    low(work.root())
    with pytest.raises(Refused) as told:
        work.write()
    assert told.value.reason == "threshold"
    with ablation("a threshold of one at least") as attack:
        attack.succeeded(work.root().get_root_verification_result(None, b"any", {}).verified)


POLICY, TLS, SHARD = "fleet/prod/policy.json", "fleet/prod/tls.json", "fleet/prod/dir/00.json"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (POLICY, {"root": "0" * 64}),
        (POLICY, {"env": "test"}),
        (POLICY, {"shards": 16}),
        (POLICY, {"surprise": 1}),
        (POLICY, {"freezes": [1]}),
        (TLS, {"env": "test"}),
        (TLS, {"domain": "UPPER"}),
        (SHARD, {"root": "0" * 64}),
        (SHARD, {"shard": "01"}),
    ],
)
@pytest.mark.misuse
def test_an_unsound_document_is_never_drafted(
    path: str, fields: dict[str, object], shop: TrustFolder, ticking: Clock, ablation: Ablation
) -> None:
    work = Desk(shop, ticking)
    found = json.loads(work.document("fleet-prod", path))
    work.put("fleet-prod", path, canonical({**found, **fields}))
    with pytest.raises(Refused):
        work.write()
    assert not shop.drafts()
    with ablation("the check of documents") as attack:
        attack.without("pki.lint.check_documents")
        attack.succeeded(work.write())


@pytest.mark.misuse
def test_a_document_beside_the_known_ones_is_refused(
    shop: TrustFolder, ticking: Clock, ablation: Ablation
) -> None:
    work = Desk(shop, ticking)
    work.put("fleet-prod", "fleet/prod/extra.json", b"{}")
    with pytest.raises(Refused):
        work.write()
    with ablation("the check of documents") as attack:
        attack.without("pki.lint.check_documents")
        attack.succeeded(work.write())


@pytest.mark.misuse
def test_a_draft_that_has_expired_is_refused(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    work = Desk(shop, ticking)
    work.targets("revocations")
    (draft,) = work.write()
    lint.check_content(draft, root_id=shop.root_id, at=at)
    with pytest.raises(Refused):
        lint.check_content(draft, root_id=shop.root_id, at=at + timedelta(days=30))
    with ablation("the check before a signature") as attack:
        attack.without("pki.lint.check_content")
        late = at + timedelta(days=30)
        reviewed = signing.review(draft, pinned=shop.root_id, at=late)
        attack.succeeded(signing.sign(reviewed, ceremony.opened(shop, "alice")))


@pytest.mark.misuse
@pytest.mark.parametrize("what", ["custom", "another hash"])
def test_nothing_stands_in_the_entry_of_a_file_that_a_signer_is_not_shown(
    what: str, shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    def smuggled() -> Draft:
        work, path = Desk(shop, ticking), layout.policy_path("prod")
        entry = work.targets("fleet-prod").targets[path]
        if what == "custom":
            entry.unrecognized_fields["custom"] = {"meaning": "any"}
        else:
            entry.hashes["sha512"] = "0" * 128
        (draft,) = work.write()
        return draft

    with pytest.raises(Refused):
        smuggled()
    assert not shop.drafts()
    with ablation("what may stand in an entry") as attack:
        attack.without("pki.lint.check_listed")
        draft = smuggled()
        told = signing.review(draft, pinned=shop.root_id, at=at).text
        word = "meaning" if what == "custom" else "sha512"
        # It is in the bytes that are signed, and in no line of what is read before that.
        attack.succeeded(word.encode() in draft.metadata.signed_bytes and word not in told)
