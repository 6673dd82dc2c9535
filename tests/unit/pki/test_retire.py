"""A node that leaves, and one that is made anew, leave nothing behind to be inherited."""

from __future__ import annotations

from pathlib import Path

import pytest

from embrasure.clock import Clock
from embrasure.errors import Denied, Misuse, NotFound, Refused
from embrasure.trust.canonical import sha256_hex
from pki import ca, enrol
from pki.folder import TrustFolder
from pki.retire import retire
from tests.ablation import Ablation
from tests.simulate.ceremony import NewNode, sign_and_merge
from tests.unit.pki.test_enrol import KEYS, add, answer, listed


@pytest.fixture
def push(shop: TrustFolder) -> NewNode:
    return NewNode(shop.root_id, 1)


def test_a_retired_node_stays_listed_under_its_keys(
    shop: TrustFolder, push: NewNode, ticking: Clock
) -> None:
    other = NewNode(shop.root_id, 2)
    add(shop, ticking, push, other, labels={"site": "a"})
    before = listed(shop)
    assert retire(shop, "prod", [push.id], clock=ticking)
    sign_and_merge(shop, *KEYS, at=ticking())
    after = listed(shop)
    assert after[push.id].state == "retired" and after[other.id] == before[other.id]
    assert after[push.id].receipt == before[push.id].receipt
    assert dict(after[push.id].labels) == {"site": "a"}
    # Again changes nothing, and so there is nothing to sign.
    assert retire(shop, "prod", [push.id], clock=ticking) == []


def test_one_that_is_not_listed_is_not_found(shop: TrustFolder, ticking: Clock) -> None:
    with pytest.raises(NotFound):
        retire(shop, "prod", [NewNode(shop.root_id, 7).id], clock=ticking)
    with pytest.raises(Misuse):
        retire(shop, "test", [NewNode(shop.root_id, 7).id], clock=ticking)
    assert not shop.drafts()


@pytest.mark.misuse
def test_a_retired_node_gets_no_answer_and_its_id_no_new_keys(
    shop: TrustFolder, push: NewNode, ticking: Clock, ablation: Ablation
) -> None:
    (one,) = add(shop, ticking, push)
    retire(shop, "prod", [push.id], clock=ticking)
    sign_and_merge(shop, *KEYS, at=ticking())
    with pytest.raises(Denied):
        answer(shop, one, ticking)
    anew = enrol.check_statement(NewNode(shop.root_id, 1, epoch=2).envelope(ticking()), shop)
    with pytest.raises(Denied):
        enrol.add_nodes(shop, [anew], labels=None, clock=ticking)
    with ablation("the rule that an id is used up") as attack:
        attack.without("pki.enrol.check_successor")
        enrol.add_nodes(shop, [anew], labels=None, clock=ticking)
        sign_and_merge(shop, *KEYS, at=ticking())
        attack.succeeded(answer(shop, anew, ticking) and listed(shop)[push.id].state == "active")


@pytest.mark.misuse
def test_a_replacement_inherits_neither_keys_nor_epoch(
    shop: TrustFolder, push: NewNode, ticking: Clock, ablation: Ablation
) -> None:
    add(shop, ticking, push, labels={"site": "a"})
    anew = NewNode(shop.root_id, 1, epoch=2)
    (one,) = add(shop, ticking, anew)
    entry = listed(shop)[push.id]
    assert (entry.epoch, entry.receipt.epoch, entry.hpke.epoch) == (2, 2, 2)
    assert entry.boot_cert == sha256_hex(ca.der(anew.made[0])) != sha256_hex(ca.der(push.made[0]))
    # The old machine's statement is somebody else's from now on.
    with pytest.raises(Refused) as told:
        add(shop, ticking, push)
    assert told.value.reason == "identity"
    assert answer(shop, one, ticking)
    with ablation("the epoch that only rises") as attack:
        attack.without("pki.enrol.check_successor")
        add(shop, ticking, push)
        attack.succeeded(listed(shop)[push.id].receipt.key == push.receipt_public)


def test_a_new_epoch_is_asked_for_by_the_command_that_makes_the_node(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, push: NewNode
) -> None:
    from tests.simulate.office import verb

    made = verb(
        "node", "init", "--root", tmp_path / "n", "--env", "prod", "--mode", "push", "--domain",
        "example.org", "--anchor", shop.path / "anchor.json", "--id", push.id, "--epoch", 2,
    )  # fmt: skip
    assert made.code == 0, made.told
    add(shop, ticking, push)
    raw = (tmp_path / "n" / "etc" / "embrasure" / "statement.json").read_bytes()
    anew = enrol.check_statement(raw, shop)
    assert enrol.add_nodes(shop, [anew], labels=None, clock=ticking)
    nobody = verb(
        "node", "init", "--root", tmp_path / "m", "--env", "prod", "--mode", "push", "--domain",
        "example.org", "--anchor", shop.path / "anchor.json", "--epoch", 2,
    )  # fmt: skip
    assert nobody.code == 2
