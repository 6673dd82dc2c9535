"""Issuers and CA roots through their lives: who is believed at each step, and who issues."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from tuf.api.metadata import Targets

from embrasure import limits
from embrasure.clock import Clock, write_time
from embrasure.errors import Denied, Misuse, Refused
from embrasure.net.denials import key_digest, tls_denials
from embrasure.net.profile import check_leaf
from embrasure.net.trustbundle import Trust, trust_of
from embrasure.trust import layout
from embrasure.trust.denied import denied_sets
from embrasure.trust.directory import TlsBundle, parse_tls_bundle
from embrasure.trust.documents import Document
from embrasure.trust.floors import Union
from embrasure.trust.policy import parse_policy
from pki import ca, enrol, holders, leaf, root_rotation, rotation
from pki.bundles import Keys, is_drafted
from pki.ca_book import Authorities
from pki.folder import TrustFolder
from pki.holders import Holder
from tests.ablation import Ablation
from tests.simulate import ceremony
from tests.unit.pki.conftest import AT

KEYS = Keys(ceremony.source(), ceremony.COSTS.online)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def at(moment: datetime = AT) -> Clock:
    return lambda: moment


def bundle(trust: TrustFolder, env: str = "prod") -> TlsBundle:
    held = trust.held(layout.fleet_role(env))
    assert held is not None
    return parse_tls_bundle(trust.documents(layout.fleet_role(env))[layout.tls_path(env)])


def believed(trust: TrustFolder, env: str = "prod") -> Trust:
    """What a node of `env` believes after the newest drafts."""
    documents = trust.documents(layout.fleet_role(env))
    policy = parse_policy(documents[layout.policy_path(env)])
    return trust_of(bundle(trust, env), tls_denials(denied_sets(policy, Union())))


def passes(trust: TrustFolder, chain: bytes, *, moment: datetime = AT) -> bool:
    """Whether a node lets the gateway of this chain in."""
    found = x509.load_pem_x509_certificates(chain)[0]
    now = believed(trust)
    try:
        check_leaf(
            found,
            role="gateway",
            issuers=now.issuers_of("gateway"),
            domain=ceremony.DOMAIN,
            at=moment,
        )
    except Refused:
        return False
    return True


def issued(trust: TrustFolder, moment: datetime = AT) -> bytes:
    """A fresh gateway leaf of the active issuer."""
    issuer = trust.issuer("gateway", ceremony.source())
    return leaf.fresh_leaf(issuer, "gateway/g1", at(moment))[1]


def merged(trust: TrustFolder, moment: datetime = AT) -> None:
    ceremony.sign_and_merge(trust, "alice", "bob", at=moment)


def digest_of(trust: TrustFolder, env: str = "prod") -> str:
    """The SHA-256 of the `tls.json` in force."""
    held = trust.held(layout.fleet_role(env))
    assert held is not None and isinstance(held.signed, Targets)
    return str(held.signed.targets[layout.tls_path(env)].hashes["sha256"])


def report(*names: str, tls: str) -> list[Holder]:
    return [
        Holder(kind="mirror", name=name, env="prod", tls=tls, at=write_time(AT)) for name in names
    ]


def states(trust: TrustFolder, name: str = "gateway") -> list[str]:
    return [one.state for one in trust.authorities().known if one.name == name]


def test_a_whole_rotation_cuts_nobody_off(shop: TrustFolder) -> None:
    old = issued(shop)
    before, stale = shop.roles()["fleet-prod"], digest_of(shop)
    # 1. prepared: believed, and issues nothing
    step = rotation.create(shop, "gateway", KEYS, clock=at())
    assert (step.authority.stem, step.authority.state) == ("gateway-2", "prepared")
    assert step.authority.first == {"prod": before + 1}
    assert issued(shop) != old and passes(shop, issued(shop))
    assert key_digest(shop.certificate("gateway")) != step.authority.key
    # 2. not before it is in force, and everybody who must believe it has it
    with pytest.raises(Denied, match="a draft"):
        rotation.activate(shop, "gateway", [], force=False, clock=at())
    merged(shop)
    with pytest.raises(Denied, match=f"m2 of prod: has tls.json {stale[:16]}"):
        said = [*report("m1", tls=digest_of(shop)), *report("m2", tls=stale)]
        rotation.activate(shop, "gateway", said, force=False, clock=at())
    with pytest.raises(Denied, match="no report"):
        rotation.activate(shop, "gateway", [], force=True, clock=at())
    # 3. active: issues; the old one's leaves still count
    said = report("m1", tls=digest_of(shop))
    rotation.activate(shop, "gateway", said, force=False, clock=at())
    assert states(shop) == ["retiring", "active"]
    new = issued(shop)
    assert passes(shop, old) and passes(shop, new)
    assert ca.parse_certificate(new[new.index(b"-----END CERTIFICATE-----\n") + 26 :]) == (
        shop.certificate("gateway")
    )
    # 4. retired: once nothing of the old one can live
    with pytest.raises(Denied, match="last leaf"):
        rotation.retire(shop, "gateway", force=False, clock=at(AT + 23 * HOUR))
    rotation.retire(shop, "gateway", force=False, clock=at(AT + DAY))
    merged(shop, AT + DAY)
    assert not passes(shop, old, moment=AT) and passes(shop, new, moment=AT)
    assert states(shop) == ["retired", "active"]
    assert is_drafted(shop, shop.authorities())


def test_the_next_step_is_found_by_itself(shop: TrustFolder) -> None:
    def rotate(moment: datetime = AT, said: list[Holder] | None = None) -> str:
        step = rotation.next_step(shop, "gateway", KEYS, said or [], force=False, clock=at(moment))
        return f"{step.authority.stem} {step.authority.state}"

    assert rotate() == "gateway-2 prepared"
    merged(shop)
    assert rotate(said=report("m1", tls=digest_of(shop))) == "gateway-2 active"
    rotate(AT + DAY)
    assert states(shop) == ["retired", "active"]
    merged(shop, AT + DAY)
    assert rotate(AT + DAY) == "gateway-3 prepared"


def test_a_step_that_a_kill_left_half_done_is_finished(shop: TrustFolder) -> None:
    rotation.create(shop, "node", KEYS, clock=at())
    merged_before = shop.roles()["fleet-prod"]
    # The folder knows the issuer, and the drafts were never written.
    for draft in shop.drafts():
        shutil.rmtree(draft.folder)
    assert not is_drafted(shop, shop.authorities())
    step = rotation.next_step(shop, "node", KEYS, [], force=False, clock=at())
    assert step.drafts and is_drafted(shop, shop.authorities())
    assert step.authority.first == {"prod": merged_before + 1}


def test_after_two_weeks_a_person_may_go_on_without_the_rest(shop: TrustFolder) -> None:
    rotation.create(shop, "gateway", KEYS, clock=at())
    merged(shop)
    late = AT + timedelta(seconds=limits.ISSUER_OVERLAP_SECONDS)
    said = report("m1", tls="0" * 64)
    with pytest.raises(Denied):
        rotation.activate(shop, "gateway", said, force=False, clock=at(late))
    with pytest.raises(Denied):
        rotation.activate(shop, "gateway", said, force=True, clock=at(late - HOUR))
    step = rotation.activate(shop, "gateway", said, force=True, clock=at(late))
    assert [item.name for item in step.lacking] == ["m1"]


def test_every_active_node_of_the_directory_must_have_said_so(
    shop: TrustFolder, tmp_path: Path
) -> None:
    node = ceremony.NewNode(shop.root_id, 1)
    checked = enrol.check_statement(node.envelope(AT), shop)
    enrol.add_nodes(shop, [checked], labels={}, clock=at())
    merged(shop)
    rotation.create(shop, "gateway", KEYS, clock=at())
    merged(shop)
    (one,) = shop.authorities().of("gateway", "prepared")
    assert [item.name for item in holders.lacking(shop, one, [])] == [node.id]
    tls = digest_of(shop)
    holder = Holder(kind="push", name=node.id, env="prod", tls=tls, at=write_time(AT))
    assert holders.lacking(shop, one, [holder]) == []
    (row,) = [row for row in holders.rows(shop, []) if row.authority.stem == "gateway-2"]
    assert row.as_json()["state"] == "prepared" and "lacks it: push" in row.as_text()


def test_who_verifies_nothing_of_a_role_is_not_waited_for(shop: TrustFolder) -> None:
    rotation.create(shop, "operator", KEYS, clock=at())
    merged(shop)
    rotation.activate(shop, "operator", [], force=False, clock=at())
    assert states(shop, "operator") == ["retiring", "active"]


@pytest.mark.misuse
def test_a_tainted_issuer_is_believed_by_nobody_and_the_prepared_one_takes_over(
    shop: TrustFolder, ablation: Ablation
) -> None:
    stolen = issued(shop)
    rotation.create(shop, "gateway", KEYS, clock=at())
    merged(shop)
    with ablation("the denial of its key") as attack:
        attack.succeeded(passes(shop, stolen))
    rotation.taint(shop, "gateway", 1, clock=at())
    assert states(shop) == ["tainted", "active"]
    merged(shop)
    assert not passes(shop, stolen) and passes(shop, issued(shop))


def test_a_tainted_issuer_without_a_next_one_cuts_its_role_off(shop: TrustFolder) -> None:
    stolen = issued(shop)
    rotation.taint(shop, "gateway", 1, clock=at())
    merged(shop)
    assert not passes(shop, stolen) and believed(shop).issuers_of("gateway") == ()
    with pytest.raises(Denied, match="an active key"):
        issued(shop)
    with pytest.raises(Misuse):
        rotation.taint(shop, "gateway", 1, clock=at())
    with pytest.raises(Misuse, match="an issuer of this folder"):
        rotation.taint(shop, "gateway", 7, clock=at())
    # The next one is prepared, put in force and activated as ever.
    rotation.create(shop, "gateway", KEYS, clock=at())
    merged(shop)
    rotation.activate(shop, "gateway", report("m1", tls=digest_of(shop)), force=False, clock=at())
    assert passes(shop, issued(shop))


def test_steps_that_do_not_exist_are_told(shop: TrustFolder) -> None:
    for step in (
        lambda: rotation.activate(shop, "node", [], force=True, clock=at()),
        lambda: rotation.retire(shop, "node", force=True, clock=at()),
        lambda: root_rotation.retire_root(shop, [], force=True, clock=at()),
        lambda: shop.authorities().moved(shop.authorities().active("node"), "prepared", at=AT),
    ):
        with pytest.raises(Misuse):
            step()


@pytest.mark.parametrize("scheme", ["ecdsa-p384", "ml-dsa-65"])
def test_a_new_root_certifies_what_is_in_use_and_the_old_one_goes(
    shop: TrustFolder, scheme: str
) -> None:
    old_root, leaf_before = shop.certificate("root"), issued(shop)
    step = root_rotation.rotate_root(shop, scheme, KEYS, clock=at())  # type: ignore[arg-type]  # a scheme
    merged(shop)
    assert len(bundle(shop).ca_root) == 2 and step.authority.stem == "root-2"
    # Chains still end at the old root: doors of old images open.
    shop.certificate("gateway").verify_directly_issued_by(old_root)
    with pytest.raises(Misuse):
        root_rotation.rotate_root(shop, "ecdsa-p256", KEYS, clock=at())
    # A new issuer of the overlap is certified by both.
    rotation.create(shop, "node", KEYS, clock=at())
    merged(shop)
    said = report("m1", tls=digest_of(shop))
    with pytest.raises(Denied):
        root_rotation.retire_root(shop, [], force=True, clock=at())
    root_rotation.retire_root(shop, said, force=False, clock=at())
    merged(shop)
    assert len(bundle(shop).ca_root) == 1
    new_root = shop.certificate("root")
    assert new_root != old_root
    for name in ("gateway", "admin", "node", "mirror", "operator"):
        for cert in shop.authorities().issuers(name):
            cert.verify_directly_issued_by(new_root)
    # Leaves from before still count: the key of the issuer is the same.
    assert passes(shop, leaf_before) and passes(shop, issued(shop))
    assert [row.authority.stem for row in holders.rows(shop, [])][:2] == ["root", "root-2"]


def test_a_new_environment_begins_with_all_that_is_listed(shop: TrustFolder) -> None:
    rotation.create(shop, "node", KEYS, clock=at())
    merged(shop)
    ceremony.add_environment(shop, "dev", at())
    merged(shop)
    assert len(bundle(shop, "dev").issuers["node"]) == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'{"schema":"embrasure.other/1","holders":[]}',
        b'{"schema":"embrasure.fleet.trust/1"}',
        b'{"schema":"embrasure.fleet.trust/1","holders":[{"kind":"spy"}]}',
    ],
)
def test_a_report_of_another_form_is_refused(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(raw)
    with pytest.raises(Refused):
        holders.read_report(file)


def test_a_report_reads_as_the_gateway_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    row = {"kind": "pull", "name": "n1", "env": "prod", "tls": "3", "at": "x", "extra": 1}
    file.write_text(json.dumps({"schema": holders.SCHEMA, "env": "prod", "holders": [row]}))
    assert [one.tls for one in holders.read_report(file)] == ["3"]


def test_the_book_of_a_folder_is_read_whole_or_refused(shop: TrustFolder) -> None:
    rotation.create(shop, "node", KEYS, clock=at())
    book = Authorities.load(shop.path / "ca")
    assert book.next_number("node") == 3 and book.next_number("mirror") == 2
    (shop.path / "ca" / "authorities.json").write_bytes(b"{}")
    with pytest.raises(Refused):
        shop.authorities()
    assert issubclass(type(book.known[0]), Document)
