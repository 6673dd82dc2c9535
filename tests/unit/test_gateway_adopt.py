"""Trust files brought by anybody: they count only when a node would take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from nacl.signing import SigningKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from embrasure.clock import now
from embrasure.errors import Denied, EmbrasureError, Refused
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from gateway import adopt as adopting
from gateway.adopt import adopt
from gateway.named import open_plans
from tests.ablation import Ablation
from tests.simulate.gateway import SimGateway, trust_files
from tests.simulate.metadata import sign_metadata
from tests.simulate.nodes import SimNode
from tests.simulate.repository import SimRepository


@pytest.fixture
def sim() -> SimRepository:
    repo = SimRepository()
    repo.add_app("shop")
    repo.add_node()
    repo.publish()
    return repo


@pytest.fixture
def gateway(sim: SimRepository, tmp_path: Path) -> Iterator[SimGateway]:
    opened = SimGateway(tmp_path, sim)
    yield opened
    opened.close()


def bring(gateway: SimGateway, *, force: bool = False) -> dict[str, int]:
    gateway.sim.publish()
    return adopt(gateway.repository, trust_files(gateway.sim), force=force)


def test_a_new_node_is_published_with_the_fleet_role(gateway: SimGateway) -> None:
    node = gateway.sim.add_node()
    done = bring(gateway)
    assert set(done) == {"fleet-dev"}
    found = gateway.repository.view().roles["fleet-dev"]
    assert found.version == done["fleet-dev"]
    shard = layout.shard_path("dev", "00")
    raw = gateway.repository.document("fleet-dev", shard, limit=1 << 20)
    assert node.id.encode() in raw


def test_the_same_files_again_change_nothing(gateway: SimGateway) -> None:
    before = gateway.repository.view()
    assert adopt(gateway.repository, trust_files(gateway.sim), force=False) == {}
    assert gateway.repository.view() == before


def test_a_new_root_and_targets_are_walked(gateway: SimGateway) -> None:
    sim = gateway.sim
    sim.touch("targets")
    sim.replace_keys("targets", [CryptoSigner.generate_ed25519()])
    done = bring(gateway)
    assert done["root"] == 2
    assert gateway.repository.disk.root_version() == 2


@pytest.mark.parametrize(
    "path",
    [
        "metadata/9.gates-dev.json",
        "metadata/9.snapshot.json",
        "metadata/timestamp.json",
    ],
)
def test_only_offline_roles_come_this_way(path: str, gateway: SimGateway) -> None:
    raw = signed_by_operators(gateway)
    with pytest.raises(Refused) as caught:
        adopt(gateway.repository, {path: raw}, force=False)
    assert caught.value.reason == "not-trust"


def signed_by_operators(gateway: SimGateway) -> bytes:
    signed = Targets(version=9, expires=now() + timedelta(days=1))
    return sign_metadata(signed, gateway.sim.signers["dev-shop"][:2])


@pytest.mark.misuse
def test_two_operators_do_not_publish_past_the_approval_at_the_gateway(
    gateway: SimGateway, ablation: Ablation
) -> None:
    files = {"metadata/9.dev-shop.json": signed_by_operators(gateway)}
    with pytest.raises(Refused) as caught:
        adopt(gateway.repository, files, force=False)
    assert caught.value.reason == "not-trust"
    with ablation("the list of offline roles") as attack:
        attack.without("gateway.adopt.check_trust_role")
        attack.succeeded(adopt(gateway.repository, files, force=False) == {"dev-shop": 9})


@pytest.mark.misuse
@pytest.mark.parametrize("lie", ["unsigned", "one of two", "stranger", "expired"])
def test_a_fleet_role_that_a_node_would_refuse_is_not_published(
    lie: str, gateway: SimGateway, ablation: Ablation
) -> None:
    sim = gateway.sim
    before = gateway.repository.view()
    good = list(sim.signers["fleet-dev"])
    sim.sign_with["fleet-dev"] = {
        "unsigned": [],
        "one of two": good[:1],
        "stranger": [CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()],
        "expired": good[:2],
    }[lie]
    if lie == "expired":
        sim.life["fleet-dev"] = timedelta(seconds=-1)
    sim.add_node()
    with pytest.raises(Refused):
        bring(gateway)
    assert gateway.repository.view() == before
    with ablation("the refresh as a node makes it") as attack:
        attack.without("gateway.repository.Repository._verify")
        attack.without("gateway.repository.Repository._refresh", lambda _: before)
        bring(gateway)
        path = layout.metadata_file("fleet-dev", sim.versions["fleet-dev"])
        attack.succeeded((gateway.repository.folder / path).exists())


@pytest.mark.misuse
def test_an_older_version_is_no_news_and_other_bytes_of_one_version_are_an_attack(
    gateway: SimGateway, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    sim = gateway.sim
    old = trust_files(sim)
    sim.add_node()
    bring(gateway)
    assert adopt(gateway.repository, old, force=False) == {}
    path = layout.metadata_file("fleet-dev", sim.versions["fleet-dev"])
    held = Metadata[Targets].from_bytes(sim.files[path]).signed
    held.targets.clear()
    forked = sign_metadata(held, sim.signers["fleet-dev"][:2])
    with pytest.raises(Refused) as caught:
        adopt(gateway.repository, {path: forked}, force=False)
    assert caught.value.reason == "rollback"
    # Without that check the publisher's own stops it; without both, a fresh node would see a
    # fleet without nodes.
    monkeypatch.setattr(adopting, "_is_newer", lambda *_: True)
    with pytest.raises(Refused) as caught:
        adopt(gateway.repository, {path: forked}, force=False)
    assert caught.value.reason == "equivocation"
    with ablation("the numbers that are taken") as attack:
        attack.without("gateway.repository.check_numbers")
        adopt(gateway.repository, {path: forked}, force=False)
        attack.succeeded((gateway.repository.folder / path).read_bytes() == forked)


@pytest.mark.misuse
def test_a_well_signed_document_that_no_node_can_read_is_stopped_here(
    gateway: SimGateway, ablation: Ablation
) -> None:
    sim = gateway.sim
    sim.list_target("fleet-dev", layout.policy_path("dev"), b'{"v":1}')
    with pytest.raises(Refused) as caught:
        bring(gateway)
    assert caught.value.reason == "bad-schema"
    with ablation("the check of documents") as attack:
        attack.without("gateway.adopt.check_document", lambda *_: None)
        attack.succeeded(bring(gateway))


def test_what_nobody_lists_is_not_kept(gateway: SimGateway) -> None:
    gateway.sim.add_node()
    gateway.sim.publish()
    junk = b"{}"
    path = layout.target_file("fleet/dev/junk.json", sha256_hex(junk))
    adopt(gateway.repository, {**trust_files(gateway.sim), path: junk}, force=False)
    assert not (gateway.repository.folder / path).exists()


def test_a_missing_document_is_named(gateway: SimGateway) -> None:
    gateway.sim.add_node()
    gateway.sim.publish()
    files = {p: b for p, b in trust_files(gateway.sim).items() if p.startswith("metadata/")}
    with pytest.raises(Refused) as caught:
        adopt(gateway.repository, files, force=False)
    assert caught.value.reason == "missing"


@pytest.mark.misuse
def test_a_routine_key_change_does_not_take_a_current_approval_away(
    gateway: SimGateway, ablation: Ablation
) -> None:
    draft = gateway.draft()
    gateway.propose(draft)
    gateway.approve(draft, "ben")
    gateway.approve(draft, "carl")
    approved = gateway.proposals.approved("dev", "shop", draft.release.plan_digest)
    gateway.repository.stage_role(approved.role, approved.documents)
    gateway.repository.publish()
    ben, new = gateway.sim.person("ben").key, CryptoSigner.generate_ed25519()
    gateway.sim.targets.revoke_key(ben, "dev-shop")
    gateway.sim.targets.add_key(new.public_key, "dev-shop")
    gateway.sim.touch("targets")
    with pytest.raises(Refused) as caught:
        bring(gateway)
    assert (caught.value.reason, caught.value.got) == ("orphan", "dev-shop")
    with ablation("the look at what would be orphaned") as attack:
        bring(gateway, force=True)
        attack.succeeded("dev-shop" in gateway.repository.problems)
    assert gateway.repository.view().role("dev-shop") is None
    gateway.repository.set_gate("dev", "blog", b"gate")
    gateway.repository.publish()  # all else goes on


@pytest.mark.parametrize(
    "path",
    ["../x", "metadata/../../x", "blobs/aa/" + "a" * 64, "metadata/1.root.json\n", "", "/etc/x"],
)
def test_paths_of_nothing_are_refused(path: str, gateway: SimGateway) -> None:
    with pytest.raises(EmbrasureError):
        adopt(gateway.repository, {path: b"{}"}, force=False)


def test_a_policy_of_another_environment_is_of_no_use(gateway: SimGateway) -> None:
    sim = gateway.sim
    other = msgspec.structs.replace(sim.policies["dev"], env="prod")
    sim.policies["dev"] = other
    sim.set_policy()
    bring(gateway)
    with pytest.raises(EmbrasureError, match="policy"):
        gateway.grounds()


# --- nodes that an open plan names ---------------------------------------------------------------


def retired(node: SimNode) -> None:
    node.state = "retired"


def relabelled(node: SimNode) -> None:
    node.labels = {"site": "elsewhere"}


def made_anew(node: SimNode) -> None:
    node.signing, node.epoch = SigningKey.generate(), 2


@pytest.mark.misuse
@pytest.mark.parametrize("change", [retired, relabelled, made_anew])
def test_a_node_that_an_open_plan_names_is_not_changed_under_it(
    change: Callable[[SimNode], None], gateway: SimGateway, ablation: Ablation
) -> None:
    sim = gateway.sim
    gateway.propose(gateway.draft("shop", by="anna"))
    (plan,) = open_plans(gateway.database)
    node = next(iter(sim.nodes.values()))
    assert {named.id for wave in plan.waves for named in wave.nodes} == {node.id}
    change(node)
    sim.add_node(node)
    sim.publish()
    before = gateway.repository.view().roles["fleet-dev"].version
    with pytest.raises(Denied) as told:
        adopt(gateway.repository, trust_files(sim), force=False, plans=[plan])
    assert told.value.reason == "open-plan" and node.id in told.value.got
    assert gateway.repository.view().roles["fleet-dev"].version == before
    with ablation("the nodes that an open plan names") as attack:
        attack.without("gateway.adopt.check_named")
        done = adopt(gateway.repository, trust_files(sim), force=False, plans=[plan])
        attack.succeeded(done["fleet-dev"] > before)


def test_other_nodes_change_freely_and_force_changes_any(gateway: SimGateway) -> None:
    sim = gateway.sim
    gateway.propose(gateway.draft("shop", by="anna"))
    plans = open_plans(gateway.database)
    other = sim.add_node()
    sim.publish()
    assert adopt(gateway.repository, trust_files(sim), force=False, plans=plans)
    named = next(node for node in sim.nodes.values() if node is not other)
    retired(other)
    sim.add_node(other)
    sim.publish()
    assert adopt(gateway.repository, trust_files(sim), force=False, plans=plans)
    retired(named)
    sim.add_node(named)
    sim.publish()
    assert adopt(gateway.repository, trust_files(sim), force=True, plans=plans)


def test_a_plan_that_ended_names_nobody_any_more(gateway: SimGateway) -> None:
    draft = gateway.draft("shop", by="anna")
    name = gateway.propose(draft)
    gateway.proposals.withdraw(name, gateway.statement(draft.release, "anna", "withdraw"),
                               person="anna")  # fmt: skip
    assert open_plans(gateway.database) == []
