"""The gateway's union of denials: neither a stolen on-call key nor damage lifts anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from embrasure import limits
from embrasure.errors import Denied, Refused
from embrasure.trust import denied as union_of
from embrasure.trust import layout
from embrasure.trust.denied import is_full
from embrasure.trust.floors import Union
from gateway.adopt import adopt
from gateway.believed import denied_everywhere
from gateway.denials import Denials
from gateway.gates import load_ground
from gateway.login import check_not_denied
from gateway.people import People
from tests.ablation import Ablation
from tests.simulate.gateway import SimGateway, trust_files
from tests.simulate.repository import SimRepository

CERT = "c" * 64


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[SimGateway]:
    sim = SimRepository()
    sim.add_env("prod")
    sim.add_app("shop")
    sim.add_node()
    sim.publish()
    opened = SimGateway(tmp_path / "gateway", sim)
    yield opened
    opened.close()


def bring(gateway: SimGateway) -> dict[str, int]:
    gateway.sim.publish()
    return adopt(gateway.repository, trust_files(gateway.sim), force=False)


def key_of(gateway: SimGateway, person: str) -> str:
    return gateway.sim.person(person).key


def again(gateway: SimGateway) -> SimGateway:
    """The same folder, opened as after a restart."""
    gateway.close()
    return SimGateway(gateway.folder, gateway.sim)


def thief_lifts(gateway: SimGateway) -> None:
    """Anna's key is denied; then a version that denies nothing comes, signed by one on-call key."""
    gateway.sim.revoke(keys=[key_of(gateway, "anna")], gateway_certs=[CERT])
    assert "revocations" in bring(gateway)
    gateway.sim.revoke()
    assert "revocations" in bring(gateway)


def refused(gateway: SimGateway) -> bool:
    """Whether log-in, start and approval all say no to anna."""
    key, people = key_of(gateway, "anna"), People(gateway.repository)
    try:
        check_not_denied(key, people.denied_keys())
        people.check("anna", "dev", right="start")
        gateway.grounds().person_of(key)
    except Denied:
        assert "anna" not in gateway.grounds().people()
        return True
    return False


@pytest.mark.misuse
def test_a_stolen_on_call_key_lifts_no_denial(gateway: SimGateway, ablation: Ablation) -> None:
    assert not refused(gateway)
    thief_lifts(gateway)
    assert refused(gateway)
    assert CERT in denied_everywhere(gateway.repository).gateway_certs
    view, source = gateway.repository.view(), gateway.repository.source()
    ground = load_ground(view, source, gateway.repository.denials, env="dev", app="shop")
    assert key_of(gateway, "anna") in ground.denied.keys
    assert key_of(gateway, "anna") in ground.union.keys
    opened = again(gateway)
    assert refused(opened)
    opened.close()

    def newest_only(_: Union, revocations: Any, **facts: Any) -> Union:
        return union_of.merge(Union(), revocations, **facts)

    with ablation("the union of denials") as attack:
        attack.without("gateway.denials.merge", newest_only)
        other = SimGateway(gateway.folder.parent / "other", gateway.sim)
        thief_lifts(other)
        attack.succeeded(not refused(other))
        other.close()


@pytest.mark.misuse
def test_a_restart_lifts_no_denial(gateway: SimGateway, ablation: Ablation) -> None:
    thief_lifts(gateway)
    gateway.close()
    with ablation("the file of denials") as attack:
        (gateway.folder / "state" / "denied").rename(gateway.folder / "gone")
        opened = SimGateway(gateway.folder, gateway.sim)
        attack.succeeded(not refused(opened))
        opened.close()


def test_the_policy_resets_it_and_so_does_a_stolen_key_that_is_gone(gateway: SimGateway) -> None:
    thief_lifts(gateway)
    through = gateway.repository.view().roles["revocations"].version
    gateway.sim.set_policy(denials_reset_through=through)
    bring(gateway)
    assert not refused(gateway)
    thief_lifts(gateway)
    assert refused(gateway)
    keys = [CryptoSigner.generate_ed25519()]
    gateway.sim.replace_keys("revocations", keys)
    gateway.sim.touch("revocations")
    bring(gateway)
    assert not refused(gateway)


def test_what_the_policy_denies_ends_when_a_later_policy_says_so(gateway: SimGateway) -> None:
    lasting = gateway.sim.policies["dev"].denied
    key = key_of(gateway, "anna")
    gateway.sim.set_policy(denied=msgspec.structs.replace(lasting, keys=(key,)))
    bring(gateway)
    assert refused(gateway)
    gateway.sim.set_policy(denied=lasting)
    bring(gateway)
    assert not refused(gateway)


def spoil(gateway: SimGateway, path: str) -> None:
    role = "revocations" if path.startswith("revoked/") else "fleet-dev"
    target = gateway.repository.view().target(role, path)
    assert target is not None
    (gateway.repository.folder / layout.target_file(path, target.sha256)).write_bytes(b"{}")
    for held in (gateway.folder / "state" / "tuf" / "documents").rglob("*"):
        if held.is_file():
            held.write_bytes(b"{}")


def by_policy(gateway: SimGateway) -> str:
    lasting = gateway.sim.policies["dev"].denied
    key = key_of(gateway, "anna")
    gateway.sim.set_policy(denied=msgspec.structs.replace(lasting, keys=(key,)))
    return layout.policy_path("dev")


def by_revocations(gateway: SimGateway) -> str:
    gateway.sim.revoke(keys=[key_of(gateway, "anna")])
    return layout.revocations_path("dev")


@pytest.mark.misuse
@pytest.mark.parametrize("deny", [by_policy, by_revocations])
def test_damaged_documents_lift_no_denial(
    gateway: SimGateway, deny: Callable[[SimGateway], str], ablation: Ablation
) -> None:
    path = deny(gateway)
    bring(gateway)
    spoil(gateway, path)
    opened = again(gateway)
    key = key_of(gateway, "anna")
    assert key in People(opened.repository).denied_keys()
    opened.close()
    with ablation("the file of denials") as attack:
        (gateway.folder / "state" / "denied").rename(gateway.folder / "gone")
        opened = SimGateway(gateway.folder, gateway.sim)
        attack.succeeded(key not in People(opened.repository).denied_keys())
        opened.close()


@pytest.mark.misuse
def test_a_denial_of_one_environment_counts_when_its_role_is_lost(
    gateway: SimGateway, ablation: Ablation
) -> None:
    gateway.sim.revoke(env="prod", keys=[key_of(gateway, "anna")])
    bring(gateway)
    assert refused_everywhere(gateway)
    # A change of the fleet's keys orphans the role until it is signed again.
    gateway.sim.replace_keys("fleet-prod", [CryptoSigner.generate_ed25519()])
    targets_only = {
        path: raw for path, raw in published(gateway).items() if "fleet-prod" not in path
    }
    adopt(gateway.repository, targets_only, force=True)
    assert "fleet-prod" not in gateway.repository.view().roles
    assert refused_everywhere(gateway)
    with ablation("environments that are known from before") as attack:
        attack.without("gateway.denials.Denials._known", lambda _: [])
        opened = again(gateway)
        attack.succeeded(not refused_everywhere(opened))
        opened.close()


def published(gateway: SimGateway) -> dict[str, bytes]:
    gateway.sim.publish()
    return trust_files(gateway.sim)


def refused_everywhere(gateway: SimGateway) -> bool:
    return key_of(gateway, "anna") in People(gateway.repository).denied_keys()


def test_an_environment_that_targets_gave_up_denies_nothing(gateway: SimGateway) -> None:
    gateway.sim.revoke(env="prod", keys=[key_of(gateway, "anna")])
    bring(gateway)
    assert refused_everywhere(gateway)
    gateway.sim.undelegate("fleet-prod")
    bring(gateway)
    assert not refused_everywhere(gateway)


@pytest.mark.misuse
def test_a_full_union_still_hears_the_newest_denial(
    gateway: SimGateway, ablation: Ablation
) -> None:
    def fill(opened: SimGateway) -> None:
        """A thief of an on-call key fills the union; then the honest on-call denies anna."""
        for number in range(limits.DENIED_UNION // 1000 + 1):
            junk = [f"{number * 1000 + one:064x}" for one in range(1000)]
            opened.sim.revoke(plans=junk)
            bring(opened)
        assert is_full(opened.repository.denials.union("dev"))
        opened.sim.revoke(keys=[key_of(opened, "anna")])
        bring(opened)

    fill(gateway)
    assert refused(gateway)
    assert key_of(gateway, "anna") not in gateway.repository.denials.union("dev").keys
    with ablation("the newest version beside the union") as attack:
        attack.without("gateway.denials.Held.sets", lambda held: union_of.sets_of(
            held.lasting, held.union))  # fmt: skip
        opened = again(gateway)
        attack.succeeded(not refused(opened))
        opened.close()


@pytest.mark.misuse
def test_denials_that_are_lost_are_not_forgotten_in_silence(
    gateway: SimGateway, ablation: Ablation
) -> None:
    thief_lifts(gateway)
    gateway.close()
    for name in ("a", "b"):
        (gateway.folder / "state" / "denied" / "dev" / name).write_bytes(b"{}")
    with pytest.raises(Refused) as found:
        Denials(gateway.folder / "state" / "denied")
    assert found.value.reason == "no-trust"
    with ablation("the refusal to begin from nothing") as attack:
        for name in ("a", "b"):
            (gateway.folder / "state" / "denied" / "dev" / name).unlink()
        opened = SimGateway(gateway.folder, gateway.sim)
        attack.succeeded(not refused(opened))
        opened.close()


def test_one_damaged_copy_is_repaired(gateway: SimGateway) -> None:
    thief_lifts(gateway)
    gateway.close()
    (gateway.folder / "state" / "denied" / "dev" / "a").write_bytes(b"torn")
    opened = SimGateway(gateway.folder, gateway.sim)
    assert refused(opened)
    assert b"torn" not in (gateway.folder / "state" / "denied" / "dev" / "a").read_bytes()
    opened.close()
