"""A node's metadata door on its own disk: what counts at once, what a crash leaves, what waits."""

from __future__ import annotations

from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from embrasure.errors import Denied, Unavailable
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.documents import digest
from embrasure.trust.door import Door
from embrasure.trust.floors import FloorStore
from node.apply_main import opened
from node.believed import held_denials
from node.ground import Silent
from node.material import Material
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.doors import given, real_bundle
from tests.simulate.fleet import APP, ENV, RealNode, SimFleet
from tests.simulate.installer import free_port


@pytest.fixture
def fleet(tmp_path: Path) -> SimFleet:
    return SimFleet(tmp_path)


@pytest.fixture
def node(fleet: SimFleet) -> RealNode:
    """A node that is enrolled and has looked once; nothing is approved for it yet."""
    made = fleet.make("n1", port=free_port())
    poll(fleet, made)
    return made


def poll(fleet: SimFleet, node: RealNode, source: object = None) -> list[tuple[str, str]]:
    with opened(node.paths) as acceptor:
        found = source or fleet.repository.source()
        answers = acceptor.poll(found, Silent(), is_local=True)  # type: ignore[arg-type]  # any source
    return [(answer.kind, answer.reason) for answer in answers]


def take(fleet: SimFleet, node: RealNode) -> set[str]:
    with opened(node.paths) as acceptor:
        return set(acceptor.trust(given(fleet.repository)).roles)


def union(node: RealNode) -> set[str]:
    held = FloorStore(node.paths.floors).load().union
    return {*held.plans, *held.manifests, *held.keys, *held.nodes, *held.gateway_certs}


def test_a_stop_counts_at_once_and_a_snapshot_without_it_does_not_lift_it(
    fleet: SimFleet, node: RealNode
) -> None:
    plan, _ = fleet.publish(node, "1.0")
    before = fleet.repository.frozen_source()
    fleet.repository.revoke(plans=[digest(plan)])
    fleet.repository.publish()
    assert take(fleet, node) == {"revocations"}
    assert digest(plan) in union(node)
    # The gateway is stolen and keeps the new revocations back.
    assert poll(fleet, node, before) == [("hold", "denied")]
    assert poll(fleet, node) == [("hold", "denied")]


def test_a_wrong_denial_is_lifted_by_the_policy_alone(fleet: SimFleet, node: RealNode) -> None:
    key = "f" * 64
    fleet.repository.revoke(gateway_certs=[key])
    fleet.repository.publish()
    take(fleet, node)
    assert held_denials(node.paths).gateway_certs == {key}
    version = fleet.repository.versions[layout.REVOCATIONS]
    fleet.repository.set_policy(denials_reset_through=version)
    fleet.repository.publish()
    assert take(fleet, node) == {layout.fleet_role(ENV)}
    assert not held_denials(node.paths).gateway_certs and not union(node)
    # Shown again, by whomever: it is not taken a second time.
    assert take(fleet, node) == set()
    assert not union(node)


def test_the_denials_of_a_stolen_on_call_key_go_with_the_key(
    fleet: SimFleet, node: RealNode
) -> None:
    fleet.repository.versions[layout.REVOCATIONS] = 10**8
    fleet.repository.revoke(nodes=[node.id], gateway_certs=["e" * 64])
    fleet.repository.publish()
    take(fleet, node)
    assert node.id in union(node)
    fleet.repository.replace_keys(layout.REVOCATIONS, [CryptoSigner.generate_ed25519()])
    fleet.repository.revoke(plans=["1" * 64])
    fleet.repository.publish()
    assert take(fleet, node) == {layout.TARGETS, layout.REVOCATIONS}
    # What was true is denied again by the new key, or stands in the policy.
    assert union(node) == {"1" * 64}
    assert held_denials(node.paths).gateway_certs == set()


def test_new_tls_issuers_are_believed_at_once(fleet: SimFleet, node: RealNode) -> None:
    other = Authority()
    fleet.repository.set_bundle(real_bundle(fleet.repository, other))
    fleet.repository.publish()
    assert take(fleet, node) == {layout.fleet_role(ENV)}
    assert Material(node.paths).trust().issuers_of("gateway") == (
        other.issuers["gateway"].certificate,
    )
    # The root of the enrolment answer still opens the door.
    roots = Material(node.paths).ca_roots()
    assert roots == [other.root.certificate, fleet.authority.root.certificate]


def test_a_source_behind_the_door_is_waited_for_and_no_alarm(
    fleet: SimFleet, node: RealNode
) -> None:
    before = fleet.repository.frozen_source()
    for role in ("timestamp", "snapshot"):
        fleet.repository.replace_keys(role, [CryptoSigner.generate_ed25519()])
    fleet.repository.replace_keys(layout.gates_role(ENV), [CryptoSigner.generate_ed25519()])
    fleet.repository.publish()
    assert take(fleet, node) == {layout.ROOT, layout.TARGETS}
    with pytest.raises(Unavailable) as waits:
        poll(fleet, node, before)
    assert waits.value.reason == "behind"
    fleet.publish(node, "1.0")
    assert poll(fleet, node) == [("committed", "")]


@pytest.mark.misuse
def test_an_order_of_a_gate_key_that_targets_dropped_is_refused(
    fleet: SimFleet, node: RealNode, ablation: Ablation
) -> None:
    plan, gate = fleet.publish(node, "1.0")
    stolen, before = fleet.order(node, plan, gate), fleet.repository.frozen_source()
    fleet.repository.replace_keys(layout.gates_role(ENV), [CryptoSigner.generate_ed25519()])
    fleet.repository.publish()
    assert layout.TARGETS in take(fleet, node)
    with opened(node.paths) as acceptor, pytest.raises(Unavailable) as refused:
        acceptor.order(stolen, before, Silent())
    assert refused.value.reason == "behind"
    with ablation("the targets that came by the door") as attack:
        for file in (node.paths.tuf / "door").glob("*.json"):
            file.unlink()
        with opened(node.paths) as acceptor:
            # Known again; what still stops him then is the floor of the snapshot he can show.
            keys = acceptor._judge.held_gate_keys()
        attack.succeeded(len(keys) == 1)
    assert poll(fleet, node) in ([("committed", "")], [("wait", "gate")])


@pytest.mark.misuse
def test_a_node_that_was_never_told_its_first_floors_takes_nothing(
    fleet: SimFleet, ablation: Ablation
) -> None:
    fresh = fleet.make("n2", port=free_port())
    with opened(fresh.paths) as acceptor, pytest.raises(Denied) as denied:
        acceptor.trust(given(fleet.repository))
    assert denied.value.reason == "not-enrolled"
    with ablation("the wait for the enrolment answer") as attack:
        # Every old file that has not expired would be news to it.
        client = TrustClient(fresh.paths.tuf, fleet.repository.anchor)
        attack.succeeded(bool(Door(client, env=ENV, node=fresh.id).take(given(fleet.repository))))


def test_what_a_crash_kept_from_counting_counts_at_the_next_start(
    fleet: SimFleet, node: RealNode
) -> None:
    plan, _ = fleet.publish(node, "1.0")
    fleet.repository.revoke(plans=[digest(plan)])
    fleet.repository.publish()
    # The files are on disk, and then the power went.
    client = TrustClient(node.paths.tuf, fleet.repository.anchor, enrolled=True)
    assert Door(client, env=ENV, node=node.id).take(given(fleet.repository)).roles
    assert digest(plan) not in union(node)
    assert poll(fleet, node) == [("hold", "denied")]
    assert digest(plan) in union(node)
    assert APP in {path.stem for path in node.paths.apps.glob("*.toml")}
