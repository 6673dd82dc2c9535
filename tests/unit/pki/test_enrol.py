"""Enrolment: which statements hold, which entries follow, what the node gets back."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from securesystemslib.signer import CryptoSigner

from embrasure.clock import Clock
from embrasure.command import Common
from embrasure.errors import Denied, Misuse, Refused
from embrasure.net.profile import check_leaf
from embrasure.trust import directory, documents, dsse
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.directory import Enrolled, Entry
from pki import ca, enrol, enrolment
from pki.folder import TrustFolder
from tests.ablation import Ablation
from tests.simulate.ceremony import NewNode, opened, sign_and_merge, source

KEYS = ("alice", "bob")


def listed(trust: TrustFolder) -> dict[str, Entry]:
    raw = trust.documents("fleet-prod")["fleet/prod/dir/00.json"]
    return {entry.id: entry for entry in directory.parse_shard(raw).entries}


def add(
    trust: TrustFolder, ticking: Clock, *nodes: NewNode, labels: dict[str, str] | None = None
) -> list[enrol.Checked]:
    checked = [enrol.check_statement(node.envelope(ticking()), trust) for node in nodes]
    if enrol.add_nodes(trust, checked, labels=labels, clock=ticking):
        sign_and_merge(trust, *KEYS, at=ticking())
    return checked


def answer(trust: TrustFolder, one: enrol.Checked, ticking: Clock, signer: str = "alice") -> bytes:
    issuer = trust.issuer("node", source())
    key = opened(trust, signer).signer
    return enrol.answer(trust, one, signer=key, issuer=issuer, clock=ticking)


def read(trust: TrustFolder, raw: bytes) -> Enrolled:
    key = opened(trust, "alice").signer.public_key
    payload, _ = dsse.unseal("enrolled", raw, {key.keyid: key}, limit=65536)
    return directory.parse_enrolled(payload)


@pytest.fixture
def push(shop: TrustFolder) -> NewNode:
    return NewNode(shop.root_id, 1)


@pytest.fixture
def pull(shop: TrustFolder) -> NewNode:
    return NewNode(shop.root_id, 2, mode="pull")


def test_a_push_node_gets_an_entry_a_chain_and_its_first_floors(
    shop: TrustFolder, push: NewNode, ticking: Clock, at: datetime
) -> None:
    (one,) = add(shop, ticking, push, labels={"site": "a"})
    entry = listed(shop)[push.id]
    boot = base64.b64decode(str(one.statement.boot_cert))
    assert entry.boot_cert == sha256_hex(boot)
    assert entry.tls_name == f"{push.id}.node.example.org.internal"
    assert dict(entry.labels) == {"site": "a"}
    assert entry.receipt_id == sha256_hex(bytes.fromhex(push.receipt_public))
    found = read(shop, answer(shop, one, ticking))
    assert (found.node, found.epoch, found.root) == (push.id, 1, shop.root_id)
    assert found.floors.fleet == shop.roles()["fleet-prod"]
    assert found.floors.root == 1 and found.floors.revocations == 2
    leaf, issuer = (ca.parse_certificate(base64.b64decode(text)) for text in found.chain)
    identity = check_leaf(leaf, role="node", issuers=[issuer], domain="example.org", at=at)
    assert identity.name == push.id
    assert leaf.public_key() == push.tls.public_key()


def test_a_pull_node_gets_no_certificate(shop: TrustFolder, pull: NewNode, ticking: Clock) -> None:
    (one,) = add(shop, ticking, pull)
    found = read(shop, enrol.answer(
        shop, one, signer=opened(shop, "alice").signer, issuer=None, clock=ticking
    ))  # fmt: skip
    assert found.chain == () and listed(shop)[pull.id].tls_name is None


def test_several_nodes_are_one_draft(
    shop: TrustFolder, push: NewNode, pull: NewNode, ticking: Clock
) -> None:
    before = shop.roles()["fleet-prod"]
    add(shop, ticking, push, pull)
    assert shop.roles()["fleet-prod"] == before + 1
    assert set(listed(shop)) == {push.id, pull.id}


def test_the_same_statement_again_changes_nothing_and_is_answered(
    shop: TrustFolder, push: NewNode, ticking: Clock
) -> None:
    add(shop, ticking, push, labels={"site": "a"})
    (one,) = add(shop, ticking, push)
    assert not shop.drafts()
    assert read(shop, answer(shop, one, ticking)).node == push.id


def test_labels_come_from_the_security_team_and_can_change(
    shop: TrustFolder, push: NewNode, ticking: Clock
) -> None:
    add(shop, ticking, push, labels={"site": "a"})
    add(shop, ticking, push, labels={"site": "b"})
    assert dict(listed(shop)[push.id].labels) == {"site": "b"}


@pytest.mark.misuse
def test_there_is_no_answer_before_the_entry_is_in_force(
    shop: TrustFolder, push: NewNode, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    one = enrol.check_statement(push.envelope(at), shop)
    enrol.add_nodes(shop, [one], labels=None, clock=ticking)
    with pytest.raises(Denied):
        answer(shop, one, ticking)
    with ablation("the entry in force") as attack:
        attack.without("pki.enrol._is_listed", lambda *_: True)
        attack.succeeded(answer(shop, one, ticking))


@pytest.mark.misuse
def test_an_answer_is_signed_by_a_fleet_key_only(
    shop: TrustFolder, push: NewNode, ticking: Clock, ablation: Ablation
) -> None:
    (one,) = add(shop, ticking, push)
    with pytest.raises(Denied):
        answer(shop, one, ticking, signer="anna")
    with ablation("the keys of the fleet role") as attack:
        attack.without("pki.enrol.check_fleet_key")
        attack.succeeded(answer(shop, one, ticking, signer="anna"))


@pytest.mark.misuse
def test_a_statement_that_its_receipt_key_did_not_sign_is_refused(
    shop: TrustFolder, push: NewNode, at: datetime, ablation: Ablation
) -> None:
    thief = NewNode(shop.root_id, 1)
    said = msgspec.structs.replace(thief.statement(at), receipt=push.statement(at).receipt)
    raw = thief.envelope(at, said=said)
    with pytest.raises(Refused) as told:
        enrol.check_statement(raw, shop)
    assert told.value.reason == "bad-signature"
    with ablation("the signature of the statement") as attack:
        attack.without("embrasure.trust.dsse.unseal", unverified)
        found = enrol.check_statement(raw, shop).statement
        attack.succeeded(found.receipt == push.statement(at).receipt)


def unverified(kind: str, raw: bytes, *_: object, **__: object) -> tuple[bytes, str]:
    """Open an envelope without a look at its signature."""
    return base64.b64decode(msgspec.json.decode(raw)["payload"]), "nobody"


@pytest.mark.misuse
def test_a_changed_statement_is_refused(
    shop: TrustFolder, push: NewNode, at: datetime, ablation: Ablation
) -> None:
    raw = push.envelope(at)
    said = base64.b64encode(
        base64.b64decode(msgspec.json.decode(raw)["payload"]).replace(b'"prod"', b'"test"')
    )
    changed = raw.replace(msgspec.json.decode(raw)["payload"].encode(), said)
    assert changed != raw
    with pytest.raises(Refused):
        enrol.check_statement(changed, shop)
    with ablation("the signature of the statement") as attack:
        attack.without("embrasure.trust.dsse.unseal", unverified)
        attack.succeeded(enrol.check_statement(changed, shop).statement.env == "test")


@pytest.mark.misuse
def test_a_statement_for_another_fleet_is_refused(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    raw = NewNode("0" * 64, 1).envelope(at)
    with pytest.raises(Refused):
        enrol.check_statement(raw, shop)
    with ablation("the fleet in the statement") as attack:
        said = directory.parse_statement(unverified("enrolment", raw)[0])
        boot = enrol.check_boot(said, domain=shop.domain)
        attack.succeeded(
            enrol.add_nodes(shop, [enrol.Checked(said, boot)], labels={}, clock=ticking)
        )


def test_a_statement_for_an_unknown_environment_is_refused(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    one = enrol.check_statement(NewNode(shop.root_id, 1, env="test").envelope(at), shop)
    with pytest.raises(Refused):
        enrol.add_nodes(shop, [one], labels=None, clock=ticking)


def gateway_names(node: NewNode) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier("spiffe://example.org/gateway/g1"), *node.names()]


def wildcard(node: NewNode) -> list[x509.GeneralName]:
    uri, _ = node.names()
    return [uri, x509.DNSName("*.node.example.org.internal")]


def other_node(node: NewNode) -> list[x509.GeneralName]:
    return list(NewNode(node.root, 9).names())


def name_only(node: NewNode) -> list[x509.GeneralName]:
    _, dns = node.names()
    return [dns]


@pytest.mark.parametrize("names", [gateway_names, wildcard, other_node, name_only])
@pytest.mark.misuse
def test_a_boot_certificate_with_other_names_is_refused(
    names: Callable[[NewNode], list[x509.GeneralName]],
    shop: TrustFolder,
    push: NewNode,
    at: datetime,
    ablation: Ablation,
) -> None:
    der = ca.der(push.boot(at, names=names(push)))
    said = msgspec.structs.replace(push.statement(at), boot_cert=base64.b64encode(der).decode())
    raw = push.envelope(at, said=said)
    with pytest.raises(Refused):
        enrol.check_statement(raw, shop)
    with ablation("the check of the boot certificate") as attack:
        attack.without("pki.enrol.check_boot")
        attack.succeeded(enrol.check_statement(raw, shop).statement.node == push.id)


@pytest.mark.misuse
def test_a_boot_certificate_signed_by_somebody_else_is_refused(
    shop: TrustFolder, push: NewNode, at: datetime, ablation: Ablation
) -> None:
    # The names are right, the key is another's: possession is not proved.
    other = NewNode(shop.root_id, 1)
    der = bytearray(ca.der(other.boot(at)))
    der[-1] ^= 1
    said = msgspec.structs.replace(
        push.statement(at), boot_cert=base64.b64encode(bytes(der)).decode()
    )
    raw = push.envelope(at, said=said)
    with pytest.raises(Refused):
        enrol.check_statement(raw, shop)
    with ablation("the check of the boot certificate") as attack:
        attack.without("pki.enrol.check_boot")
        attack.succeeded(enrol.check_statement(raw, shop).statement.boot_cert)


def test_a_push_node_without_and_a_pull_node_with_a_certificate_are_refused(
    shop: TrustFolder, push: NewNode, pull: NewNode, at: datetime
) -> None:
    bare = msgspec.structs.replace(push.statement(at), boot_cert=None)
    much = msgspec.structs.replace(pull.statement(at), boot_cert=push.statement(at).boot_cert)
    for node, said in ((push, bare), (pull, much)):
        with pytest.raises(Refused):
            enrol.check_statement(node.envelope(at, said=said), shop)


@pytest.mark.misuse
def test_new_keys_under_the_old_epoch_are_somebody_else(
    shop: TrustFolder, push: NewNode, ticking: Clock, ablation: Ablation
) -> None:
    add(shop, ticking, push)
    thief = NewNode(shop.root_id, 1)
    with pytest.raises(Refused) as told:
        add(shop, ticking, thief)
    assert told.value.reason == "identity"
    with ablation("the epoch of a successor") as attack:
        attack.without("pki.enrol.check_successor")
        add(shop, ticking, thief)
        attack.succeeded(listed(shop)[push.id].receipt.key == thief.receipt_public)


def test_a_node_made_anew_comes_back_under_the_next_epoch(
    shop: TrustFolder, push: NewNode, ticking: Clock
) -> None:
    add(shop, ticking, push, labels={"site": "a"})
    anew = NewNode(shop.root_id, 1, epoch=2)
    add(shop, ticking, anew)
    entry = listed(shop)[push.id]
    assert (entry.epoch, entry.receipt.key) == (2, anew.receipt_public)
    assert dict(entry.labels) == {"site": "a"}


@pytest.mark.misuse
def test_a_retired_id_is_never_used_again(
    shop: TrustFolder, push: NewNode, ticking: Clock, ablation: Ablation
) -> None:
    add(shop, ticking, push)
    old = listed(shop)[push.id]
    retired = msgspec.structs.replace(old, state="retired")
    with pytest.raises(Denied):
        enrol.check_successor(retired, msgspec.structs.replace(old, epoch=2))
    with ablation("the state of the old entry") as attack:
        anew = NewNode(shop.root_id, 1, epoch=2)
        attack.without("pki.enrol.check_successor")
        add(shop, ticking, anew)
        attack.succeeded(listed(shop)[push.id].state == "active")


@pytest.mark.misuse
def test_one_receipt_key_serves_one_node(
    shop: TrustFolder, push: NewNode, ticking: Clock, ablation: Ablation
) -> None:
    add(shop, ticking, push)
    copied = NewNode(shop.root_id, 5, receipt=push.receipt)
    with pytest.raises(Refused):
        add(shop, ticking, copied)
    with ablation("each receipt key once in a directory") as attack:
        attack.without("pki.lint.check_documents")
        attack.without("embrasure.trust.directory.parse_shard", any_shard)
        add(shop, ticking, copied)
        held = listed(shop)
        attack.succeeded(held[push.id].receipt.key == held[copied.id].receipt.key)


def any_shard(raw: bytes) -> directory.Shard:
    """Read a shard by its form alone."""
    return documents.read(raw, directory.Shard, limit=131072, document="directory")


def test_statements_are_read_signed_and_answered_in_one_act(
    shop: TrustFolder, push: NewNode, pull: NewNode, ticking: Clock, at: datetime, tmp_path: Path
) -> None:
    files = []
    for node in (push, pull):
        file = tmp_path / f"{node.id}.json"
        file.write_bytes(node.envelope(at))
        files.append(file)
    checked = enrolment.read_statements(shop, files)
    keys = [str(shop.path / "keys" / f"{name}.key") for name in KEYS]
    report = enrolment.propose(
        shop,
        checked,
        labels={"site": "a"},
        keys=keys,
        source=source(),
        common=Common(no_input=True),
        clock=ticking,
    )
    assert report["merged"] == ["fleet-prod v2"]
    answers = enrolment.answer_all(
        shop,
        checked,
        tmp_path / "out",
        keys=keys,
        source=source(),
        authority=source(),
        clock=ticking,
    )
    assert set(answers) == {push.id, pull.id}
    assert read(shop, Path(answers[pull.id]).read_bytes()).node == pull.id
    with pytest.raises(Misuse):
        enrolment.read_statements(shop, [files[0], files[0]])


def test_a_keyholder_compares_a_fingerprint_of_the_statement(
    shop: TrustFolder, push: NewNode, at: datetime
) -> None:
    one = enrol.check_statement(push.envelope(at), shop)
    again = enrol.check_statement(push.envelope(at), shop)
    other = enrol.check_statement(NewNode(shop.root_id, 1).envelope(at), shop)
    shown = enrolment.introduce(one)
    assert one.statement.node in shown
    assert one.fingerprint != other.fingerprint
    assert one.statement.receipt == again.statement.receipt


def test_foreign_bytes_are_refused(shop: TrustFolder) -> None:
    for raw in (b"", b"{}", b'{"payload":"AAAA","payloadType":"x","signatures":[]}', b"\xff" * 99):
        with pytest.raises(Refused):
            enrol.check_statement(raw, shop)


def test_the_simulated_node_has_keys_of_its_own(shop: TrustFolder) -> None:
    assert isinstance(NewNode(shop.root_id, 1).signer, CryptoSigner)
