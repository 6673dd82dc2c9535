"""What a joining node believes: an answer that its own anchor vouches for, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from embrasure import limits
from embrasure.clock import now, write_time
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable
from embrasure.trust import dsse, layout
from embrasure.trust.carry import for_node, lay_down
from embrasure.trust.directory import Enrolled, shard_of
from embrasure.trust.documents import write
from embrasure.trust.floors import FloorStore
from embrasure.trust.listing import GivenSource
from embrasure.trust.proven import proven, proven_document
from embrasure.trust.source import Source
from node.first_trust import fleet_keys, verify_carried
from node.ground import FloorKeeper
from node.identity import load_identity, load_tls_key
from node.joining import Joiner
from node.judge import Judge
from node.material import Material, read_enrolled
from tests.ablation import Ablation
from tests.simulate.authority import der_text
from tests.simulate.doors import newest_files, real_bundle
from tests.simulate.fleet import ENV, RealNode, SimFleet
from tests.simulate.installer import SimInstaller
from tests.simulate.office import verb

FLEET = layout.fleet_role(ENV)
FIELDS = ("state", "signing", "seal", "boot_cert", "epoch", "mode")


@dataclass
class Scene:
    """A listed node that has no answer yet, the honest one, and a thief's own fleet."""

    fleet: SimFleet
    node: RealNode
    honest: bytes
    thief: SimFleet

    def files(self) -> dict[str, bytes]:
        found = newest_files(self.fleet.repository)
        return for_node(found, env=ENV, node=self.node.id)

    def answer(self, *, signer: CryptoSigner | None = None, **changed: object) -> bytes:
        """Return the honest answer with other members, signed by one keyholder or by `signer`."""
        said = msgspec.structs.replace(read_enrolled(self.honest), **changed)
        return dsse.seal("enrolled", write(said), signer or self.fleet.repository.holders[0])

    def take(self, raw: bytes, files: dict[str, bytes] | None = None) -> None:
        """The node is brought an answer, as the network side hands it to apply."""
        source: Source = GivenSource(self.files() if files is None else files)
        paths = self.node.paths
        floors = FloorKeeper(FloorStore(paths.floors))
        judge = Judge(paths, load_identity(paths), floors, clock=now)
        Joiner(paths, now, judge.enrol).take(raw, source)

    def believes(self, fleet: SimFleet) -> bool:
        """Return whether the listener lets in gateways of the authority of `fleet`."""
        trust = Material(self.node.paths).trust()
        issuer = fleet.authority.issuers["gateway"].certificate
        return trust.gateways is not None and issuer in trust.issuers_of("gateway")

    @property
    def joins(self) -> bool:
        """Whether nothing was written."""
        return not self.node.paths.enrolled.exists() and not self.node.paths.taken.exists()

    def refused(self, raw: bytes, files: dict[str, bytes] | None = None) -> str:
        """Return why the answer was not taken; the honest one is, afterwards."""
        with pytest.raises(EmbrasureError) as told:
            self.take(raw, files)
        assert self.joins
        return told.value.reason

    def forget(self) -> None:
        """The node joins again."""
        self.node.paths.enrolled.unlink(missing_ok=True)
        self.node.paths.taken.unlink(missing_ok=True)
        self.node.paths.tls_bundle.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def thief(tmp_path_factory: pytest.TempPathFactory) -> SimFleet:
    return SimFleet(tmp_path_factory.mktemp("thief"))


@pytest.fixture
def scene(tmp_path: Path, thief: SimFleet) -> Iterator[Scene]:
    fleet = SimFleet(tmp_path)
    node = fleet.make("n1", port=9999)
    fleet.repository.touch(layout.ROOT)
    fleet.repository.publish()
    found = Scene(fleet, node, fleet.enrolled(node), thief)
    found.forget()
    yield found
    # Whatever was refused: the honest answer is taken, at once and with all that it brings.
    found.forget()
    found.take(found.honest)
    assert found.believes(fleet) and found.node.paths.taken.exists()
    assert not found.believes(thief)


def false_bundle(scene: Scene) -> object:
    """Return the thief's CA as a bundle of this fleet."""
    bundle = real_bundle(scene.fleet.repository, scene.thief.authority, env=ENV)
    return msgspec.structs.replace(bundle, domain=scene.fleet.authority.domain)


def false_chain(scene: Scene) -> tuple[str, ...]:
    """Return a chain by the thief's CA for this node's own key."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(load_tls_key(scene.node.paths), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    leaf = scene.thief.authority.leaf("node", scene.node.id, key=key)
    issuer = scene.thief.authority.issuers["node"].certificate
    return der_text(leaf.certificate), der_text(issuer)


UNVERIFIED = "node.judge.verified_answer"


def unverified(raw: bytes, source: Source, **_: object) -> Enrolled:
    """What was believed before an answer had to prove itself."""
    return read_enrolled(raw)


@pytest.mark.misuse
@pytest.mark.parametrize("brings", ["nothing", "his own", "ours"])
def test_a_thief_who_answers_first_with_a_ca_of_his_own_is_refused(
    brings: str, scene: Scene, ablation: Ablation
) -> None:
    false = scene.answer(
        signer=scene.thief.repository.holders[0], tls=false_bundle(scene), chain=false_chain(scene)
    )
    own = newest_files(scene.thief.repository)
    files = {"nothing": {}, "his own": own, "ours": scene.files()}[brings]
    wanted = {"nothing": "unproven", "his own": "unproven", "ours": "bad-signature"}[brings]
    assert scene.refused(false, files) == wanted
    with ablation("the check of the answer by the anchor") as attack:
        attack.without(UNVERIFIED, unverified)
        # The true trust files would put it right again, so the thief does without them.
        attack.without("node.trusting.Trusting.take")
        scene.take(false, files)
        attack.succeeded(scene.believes(scene.thief))


@pytest.mark.misuse
def test_one_stolen_keyholders_key_brings_no_other_ca(scene: Scene, ablation: Ablation) -> None:
    false = scene.answer(tls=false_bundle(scene), chain=false_chain(scene))
    assert scene.refused(false) == "bundle"
    with ablation("that the bundle is the one that k of n listed") as attack:
        attack.without("node.first_trust.check_bundle")
        # Its own trust files say otherwise, and count right after: they are kept from counting.
        attack.without("node.trusting.Trusting.take")
        scene.take(false)
        attack.succeeded(scene.believes(scene.thief))


@pytest.mark.misuse
def test_a_chain_by_another_issuer_is_refused(scene: Scene, ablation: Ablation) -> None:
    false = scene.answer(chain=false_chain(scene))
    assert scene.refused(false) == "certificate"
    with ablation("that a node issuer of the bundle signed it") as attack:
        attack.without("node.first_trust.check_issued")
        scene.take(false)
        attack.succeeded(b"CERTIFICATE" in scene.node.paths.tls_chain.read_bytes())


@pytest.mark.misuse
@pytest.mark.parametrize("lists", ["nobody", "retired", "another receipt key", "another seal key",
                                   "another boot certificate", "epoch 2", "pull"])  # fmt: skip
def test_one_keyholder_does_not_make_a_node(lists: str, scene: Scene, ablation: Ablation) -> None:
    repository, entry = scene.fleet.repository, scene.fleet.repository.nodes[scene.node.id]
    held = {name: getattr(entry, name) for name in FIELDS}
    other = scene.fleet.repository.add_node(mode="pull")
    if lists == "nobody":
        del repository.nodes[entry.id]
    elif lists == "retired":
        entry.state = "retired"
    elif lists == "another receipt key":
        entry.signing = other.signing
        del repository.nodes[other.id]
    elif lists == "another seal key":
        entry.seal = other.seal
    elif lists == "epoch 2":
        entry.epoch = 2
    elif lists == "pull":
        entry.mode = "pull"
    else:
        entry.boot_cert = "0" * 64
    repository.refresh_directory()
    repository.publish()
    raw = scene.fleet.enrolled(scene.node)
    assert scene.refused(raw) == "identity"
    with ablation("that the directory lists this node with its own keys") as attack:
        attack.without("node.first_trust.check_listed")
        scene.take(raw)
        attack.succeeded(scene.node.paths.taken.exists())
    for name, value in held.items():
        setattr(entry, name, value)
    repository.nodes[entry.id] = entry
    repository.refresh_directory()
    repository.publish()
    scene.honest = scene.fleet.enrolled(scene.node)


@pytest.mark.misuse
@pytest.mark.parametrize(
    "changed", [{"node": "n-" + "a" * 26}, {"epoch": 2}, {"root": "0" * 64}],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_an_honest_answer_to_another_node_is_not_taken(
    changed: dict[str, Any], scene: Scene, ablation: Ablation
) -> None:
    raw = scene.answer(**changed)
    assert scene.refused(raw) == "not-mine"
    with ablation("whose answer it is") as attack:
        attack.without("node.first_trust.check_mine")
        scene.take(raw)
        attack.succeeded(scene.node.paths.taken.exists())


@pytest.mark.misuse
@pytest.mark.parametrize("role", [layout.gates_role(ENV), "dev-shop"])
def test_a_key_of_another_role_signs_no_answer(role: str, scene: Scene, ablation: Ablation) -> None:
    """A thief of the gateway has the key that opens gates, and may have bought an operator."""
    signer = scene.fleet.repository.signers[role][0]
    raw = scene.answer(signer=signer)
    assert scene.refused(raw) == "bad-signature"
    with ablation("whose keys sign answers") as attack:
        known = {signer.public_key.keyid: signer.public_key}
        attack.without("node.first_trust.fleet_keys", lambda held, role: known)
        scene.take(raw)
        attack.succeeded(scene.node.paths.taken.exists())


@pytest.mark.misuse
def test_a_directory_of_other_bytes_proves_nothing(scene: Scene, ablation: Ablation) -> None:
    """As long as the true one, and it would list this node: under keys that the thief has."""
    files = scene.files()
    boot = scene.fleet.repository.nodes[scene.node.id].boot_cert
    assert boot is not None
    forged = {
        path: raw.replace(boot.encode(), b"0" * 64) if "/dir/" in path else raw
        for path, raw in files.items()
    }
    assert scene.refused(scene.honest, forged) == "bad-hash"
    with ablation("the digest of each document") as attack:
        attack.without("embrasure.trust.proven.check_target")
        with pytest.raises(Refused) as told:
            scene.take(scene.honest, forged)
        # It was read, and believed: only what it says was looked at then.
        attack.succeeded(told.value.reason == "identity")


@pytest.mark.misuse
def test_files_that_are_older_than_the_answer_prove_nothing(
    scene: Scene, ablation: Ablation
) -> None:
    old = scene.files()
    scene.fleet.repository.set_policy(min_seq={"shop": 9})
    scene.fleet.repository.publish()
    newer = scene.fleet.enrolled(scene.node)
    assert scene.refused(newer, old) == "rollback"
    with ablation("the first floors of the answer") as attack:
        attack.without("node.first_trust.check_current")
        scene.take(newer, old)
        attack.succeeded(scene.node.paths.taken.exists())


@pytest.mark.misuse
def test_denials_that_the_answer_knows_are_not_kept_back(scene: Scene, ablation: Ablation) -> None:
    repository, before = scene.fleet.repository, scene.files()
    repository.revoke(gateway_certs=["ab" * 32])
    repository.publish()
    newer, after = scene.fleet.enrolled(scene.node), scene.files()
    old = {path: raw for path, raw in after.items() if "revo" not in path}
    old |= {path: raw for path, raw in before.items() if "revo" in path}
    assert scene.refused(newer, old) == "rollback"
    assert scene.refused(newer, {p: r for p, r in after.items() if "revo" not in p}) == "unproven"
    with ablation("the first floors of the answer") as attack:
        attack.without("node.first_trust.check_current")
        scene.take(newer, old)
        attack.succeeded(not Material(scene.node.paths).trust().denied.gateway_certs)


@pytest.mark.misuse
def test_files_that_ran_out_prove_nothing(scene: Scene, ablation: Ablation) -> None:
    scene.fleet.repository.life[FLEET] = timedelta(seconds=-1)
    scene.fleet.repository.touch(FLEET)
    scene.fleet.repository.publish()
    late = scene.fleet.enrolled(scene.node)
    assert scene.refused(late) == "expired"
    with ablation("that they have not expired") as attack:
        attack.without("node.first_trust.check_current")
        scene.take(late)
        attack.succeeded(scene.node.paths.taken.exists())
    del scene.fleet.repository.life[FLEET]
    scene.fleet.repository.touch(FLEET)
    scene.fleet.repository.publish()
    scene.honest = scene.fleet.enrolled(scene.node)


def test_revocations_that_ran_out_keep_nobody_from_joining(scene: Scene) -> None:
    scene.fleet.repository.life[layout.REVOCATIONS] = timedelta(seconds=-1)
    scene.fleet.repository.touch(layout.REVOCATIONS)
    scene.fleet.repository.publish()
    scene.take(scene.fleet.enrolled(scene.node))
    assert scene.node.paths.taken.exists()


@pytest.mark.misuse
def test_a_time_far_ahead_makes_nothing_expired_here(scene: Scene, ablation: Ablation) -> None:
    floors = read_enrolled(scene.honest).floors
    ahead = msgspec.structs.replace(floors, time=write_time(now() + timedelta(days=9_000)))
    raw = scene.answer(floors=ahead)
    scene.take(raw)
    held = FloorStore(scene.node.paths.floors).load()
    assert held.time < (now() + timedelta(hours=1)).timestamp()
    scene.forget()
    with ablation("the cap of the first time") as attack:
        attack.without("node.enrolment.limits.SKEW_SECONDS", 10**9)
        scene.take(raw)
        held = FloorStore(scene.node.paths.floors).load()
        attack.succeeded(held.time > (now() + timedelta(days=8_000)).timestamp())


def test_what_came_with_the_answer_counts_at_once(scene: Scene) -> None:
    repository = scene.fleet.repository
    repository.revoke(gateway_certs=["ab" * 32])
    repository.publish()
    scene.take(scene.fleet.enrolled(scene.node))
    assert Material(scene.node.paths).trust().denied.gateway_certs == {"ab" * 32}


def test_a_document_that_does_not_come_is_told_and_one_answer_is_looked_at_at_a_time(
    scene: Scene,
) -> None:
    files = scene.files()
    without = {path: raw for path, raw in files.items() if ".tls.json" not in path}
    with pytest.raises(NotFound):
        scene.take(scene.honest, without)
    assert scene.joins
    joiner = Joiner(scene.node.paths, now, lambda raw, source: None)
    with joiner.turn, pytest.raises(Unavailable) as busy:
        joiner.take(scene.honest, GivenSource(files))
    assert busy.value.reason == "busy"


def test_only_what_a_node_needs_travels_with_its_answer(scene: Scene) -> None:
    repository = scene.fleet.repository
    repository.set_policy(shards=16)
    repository.add_env("other")
    repository.publish()
    files = for_node(newest_files(repository), env=ENV, node=scene.node.id)
    assert not [path for path in files if "other" in path]
    names = {path.partition(".")[2] for path in files if path.startswith("targets/fleet")}
    shard = f"{shard_of(scene.node.id, 16)}.json"
    assert names == {"tls.json", "policy.json", shard}
    scene.honest = scene.fleet.enrolled(scene.node)


@pytest.mark.misuse
def test_a_node_without_an_answer_looks_at_nothing_that_an_order_brings(
    bench: SimInstaller, ablation: Ablation
) -> None:
    bench.publish("1.0")
    bench.paths.enrolled.unlink()
    source = bench.repo.source()
    found = bench.acceptor.order(bench.order(oseq=1), source, bench.report)
    assert (found.kind, found.reason) == ("hold", "not_enrolled")
    assert not source.asked
    with ablation("that an answer lies there") as attack:
        attack.without("node.accept.may_have_answer", lambda paths: True)
        bench.acceptor.order(bench.order(oseq=1), source, bench.report)
        attack.succeeded("metadata/timestamp.json" in source.asked)


@pytest.mark.misuse
def test_a_carried_answer_is_verified_at_once_when_trust_files_come_with_it(
    scene: Scene, tmp_path: Path, ablation: Ablation
) -> None:
    stick, prefix = tmp_path / "stick", scene.node.paths.prefix
    stick.mkdir()
    lay_down(scene.files(), stick)
    answer, false = stick / "answer.json", stick / "false.json"
    answer.write_bytes(scene.honest)
    false.write_bytes(scene.answer(tls=false_bundle(scene), chain=false_chain(scene)))
    told = verb("node", "enrol", "--root", prefix, false, "--trust", stick)
    assert told.error["reason"] == "E_BUNDLE" and scene.joins
    with ablation("the trust files beside it") as attack:
        assert not verb("node", "enrol", "--root", prefix, false).body["verified"]
        attack.succeeded(scene.believes(scene.thief))
    scene.forget()
    done = verb("node", "enrol", "--root", prefix, answer, "--trust", stick)
    assert done.body["verified"] and scene.believes(scene.fleet)


def test_a_pull_node_has_no_chain_to_be_checked(scene: Scene, tmp_path: Path) -> None:
    pull = scene.fleet.make("n2", mode="pull", port=9998)
    files = for_node(newest_files(scene.fleet.repository), env=ENV, node=pull.id)
    stick = tmp_path / "stick"
    stick.mkdir()
    lay_down(files, stick)
    verify_carried(pull.paths, pull.paths.enrolled, stick)
    with pytest.raises(Refused):
        verify_carried(pull.paths, pull.paths.statement, stick)


def test_a_document_is_proven_or_refused(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = scene.fleet.repository
    source = GivenSource(scene.files())
    held = proven(repository.anchor, source, env=ENV)
    root, tls = repository.root_id, layout.tls_path(ENV)
    assert held.version(layout.ROOT) == 2
    with pytest.raises(Refused) as absent:
        proven_document(held, FLEET, "fleet/dev/none.json", source, root=root)
    assert absent.value.reason == "unproven"
    assert proven_document(held, FLEET, tls, source, root=root)
    with pytest.raises(Refused) as foreign:
        proven_document(held, FLEET, tls, source, root="0" * 64)
    assert foreign.value.reason == "identity"
    monkeypatch.setattr("embrasure.limits.DOOR_DOCUMENT_BYTES", 100)
    with pytest.raises(Refused) as large:
        proven_document(held, FLEET, tls, source, root=root)
    assert large.value.reason == "limit"
    # A listing may name what does not come, or more steps than are walked.
    less = {path: raw for path, raw in scene.files().items() if ".targets.json" not in path}
    bare = proven(repository.anchor, GivenSource(less), env=ENV)
    assert bare.targets is None and not fleet_keys(bare, FLEET)
    monkeypatch.setattr("embrasure.limits.ROOT_STEPS", 0)
    assert proven(repository.anchor, source, env=ENV).version(layout.ROOT) == 1


def test_an_answer_that_is_none_is_refused(scene: Scene) -> None:
    for raw, reason in ((b"{}", "bad-schema"), (b"x" * (limits.ANSWER_BYTES + 1), "limit")):
        with pytest.raises(Refused) as told:
            scene.take(raw)
        assert told.value.reason == reason and scene.joins
