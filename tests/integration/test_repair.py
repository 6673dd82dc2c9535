"""Each repair on a living site: real processes, and a security team that touches no host.

It works through the doors of push node, mirror and letterbox; the pull node reads its mirror.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from embrasure.errors import EmbrasureError
from embrasure.net.denials import key_digest
from embrasure.trust import layout
from embrasure.trust.documents import digest
from embrasure.trust.floors import FloorStore
from tests.simulate.authority import Leaf
from tests.simulate.doors import real_bundle
from tests.simulate.fleet import ENV
from tests.simulate.running import answers, running, until
from tests.simulate.sites import LivingSite, living_site

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]
FLEET = layout.fleet_role(ENV)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LivingSite]:
    with living_site(tmp_path) as (found, _, _):
        until(lambda: is_enrolled(found), what="both nodes enrolled", seconds=60)
        yield found


def is_enrolled(site: LivingSite) -> bool:
    """Both have verified what is published once."""
    if not (site.push.paths.state / "enrolled.json").exists():
        site.publish("0.1")
        site.show()
        site.order()
    return all((node.paths.state / "enrolled.json").exists() for node in (site.push, site.pull))


def deployed(site: LivingSite, version: str, leaf: Leaf | None = None) -> None:
    """The version is approved, published and runs on both nodes."""
    site.publish(version)
    site.show(leaf)

    def runs() -> bool:
        if answers(site.push_web) != version:
            site.order(leaf)
        return answers(site.push_web) == version and answers(site.pull_web) == version

    until(runs, seconds=60, what=f"release {version} everywhere")


def taken(found: dict[str, dict[str, object]]) -> list[set[str]]:
    """Return what each door took."""
    for one in found.values():
        assert one["problem"] == "", one
    return [set(one["taken"]) for one in found.values()]  # type: ignore[call-overload]  # read from JSON


def is_shut_out(site: LivingSite, leaf: Leaf) -> bool:
    """Neither mirror nor node lets this gateway in."""
    try:
        site.mirror.upload(leaf)
    except EmbrasureError:
        pass
    except Exception as problem:
        assert "PERMISSION_DENIED" in str(problem) or "denied" in str(problem)
    else:
        return False
    said = site.order(leaf)
    return said.code is not None and said.code.name == "PERMISSION_DENIED"


def test_a_wrong_denial_of_the_gateway_is_lifted_past_it(site: LivingSite) -> None:
    deployed(site, "1.0")
    leaf = site.fleet.authority.leaf("gateway", "g1")
    repository = site.fleet.repository
    repository.revoke(gateway_certs=[key_digest(leaf.certificate)])
    repository.publish()
    assert taken(site.deliver()) == [{"revocations"}] * 3
    until(lambda: is_shut_out(site, leaf), seconds=30, what="the gateway shut out")
    # Its word cannot reach anybody now. The team's can.
    repository.set_policy(denials_reset_through=repository.versions[layout.REVOCATIONS])
    repository.publish()
    assert taken(site.deliver()) == [{FLEET}] * 3
    until(lambda: not is_shut_out(site, leaf), seconds=30, what="the gateway let in again")
    deployed(site, "2.0", leaf)


def test_a_stolen_on_call_key_denies_everything_and_is_undone(site: LivingSite) -> None:
    deployed(site, "1.0")
    repository, leaf = site.fleet.repository, site.fleet.authority.leaf("gateway", "g1")
    site.publish("2.0")
    plan = site.ordered[0] if site.ordered else None
    honest = repository.versions[layout.REVOCATIONS]
    repository.versions[layout.REVOCATIONS] = 999_999_998
    repository.revoke(
        plans=[digest(plan)],  # type: ignore[arg-type]  # a plan
        nodes=[site.push.id, site.pull.id],
        gateway_certs=[key_digest(leaf.certificate)],
    )
    # The thief has no gateway; any door will do for him too: it can only stop.
    repository.publish()
    assert taken(site.deliver()) == [{"revocations"}] * 3
    until(lambda: is_shut_out(site, leaf), seconds=30, what="the gateway shut out")
    assert answers(site.push_web) == answers(site.pull_web) == "1.0"
    # targets + 1 without the stolen key; its successor begins where the honest numbers ended.
    repository.replace_keys(layout.REVOCATIONS, [CryptoSigner.generate_ed25519()])
    del repository.files["metadata/999999999.revocations.json"]
    repository.versions[layout.REVOCATIONS] = honest
    repository.revoke()
    repository.publish()
    (site.fleet.folder / "team" / "metadata" / "999999999.revocations.json").unlink()
    assert taken(site.deliver()) == [{"targets", "revocations"}] * 3
    until(lambda: not is_shut_out(site, leaf), seconds=30, what="the gateway let in again")
    # The same plan that was denied runs now.
    site.show(leaf)

    def runs() -> bool:
        if answers(site.push_web) != "2.0":
            site.order(leaf)
        return answers(site.push_web) == answers(site.pull_web) == "2.0"

    until(runs, seconds=60, what="2.0 everywhere")


def test_one_signature_stops_nodes_past_a_stolen_gateway(site: LivingSite) -> None:
    deployed(site, "1.0")
    repository = site.fleet.repository
    site.publish("2.0")
    plan = site.ordered[0] if site.ordered else None
    stolen = dict(repository.files)
    # The on-call signs; the thief's gateway publishes 2.0 and never that.
    repository.revoke(plans=[digest(plan)])  # type: ignore[arg-type]  # a plan
    repository.publish()
    began = repository.clock()
    assert taken(site.deliver(site.door(site.push), site.mirror.door)) == [{"revocations"}] * 2
    newer, repository.files = repository.files, stolen

    def knows(union: dict[str, int]) -> bool:
        return digest(plan) in union  # type: ignore[arg-type]  # a plan

    def stopped() -> bool:
        nodes = (site.push, site.pull)
        return all(knows(FloorStore(node.paths.floors).load().union.plans) for node in nodes)

    until(stopped, seconds=30, what="the stop at both nodes")
    took = (repository.clock() - began).total_seconds()
    print(f"figure: stop_past_gateway_s = {took:.1f} s")
    site.show()
    assert ("hold", "denied") in site.order().refusals
    assert answers(site.push_web) == answers(site.pull_web) == "1.0"
    repository.files = newer
    deployed(site, "3.0")


def test_stolen_online_keys_are_replaced_and_their_fast_forward_is_undone(
    site: LivingSite,
) -> None:
    deployed(site, "1.0")
    repository = site.fleet.repository
    before = {role: repository.versions[role] for role in ("timestamp", "snapshot", "gates-dev")}
    # The thief of a whole gateway signs the highest numbers that there are, and shows them.
    for role in before:
        repository.versions[role] = 999_999_900
    site.publish("1.5")
    site.show()
    site.order()
    until(lambda: answers(site.pull_web) == "1.5", seconds=60, what="what the thief published")
    stolen = dict(repository.files)
    thief = site.order
    # root + 1, targets + 1: new keys for all three, and a publisher elsewhere that goes on.
    for role, version in before.items():
        repository.replace_keys(role, [CryptoSigner.generate_ed25519()])
        repository.versions[role] = version + 1000
    repository.publish()
    assert taken(site.deliver()) == [{"root", "targets"}] * 3
    newer, repository.files = repository.files, stolen
    with pytest.raises(Exception, match=r"expected|rollback|threshold"):
        site.mirror.upload()
    assert ("wait", "behind") in thief().refusals
    repository.files = newer
    deployed(site, "2.0")


def test_a_burnt_sequence_is_lifted_by_the_ceiling(site: LivingSite) -> None:
    deployed(site, "1.0")
    repository = site.fleet.repository
    role = layout.app_role(ENV, "shop")
    honest = repository.versions[role]
    # k operators' keys were stolen: a plan with the highest number that a role can have.
    repository.versions[role] = 999_999_998
    site.publish("1.5")
    site.show()
    site.order()
    until(lambda: answers(site.pull_web) == "1.5", seconds=60, what="the thief's plan")
    # The operators get new keys; with them the role's version may fall. The ceiling frees the
    # number.
    people = [CryptoSigner.generate_ed25519() for _ in range(3)]
    repository.replace_keys(role, people, 2)
    policy = repository.policies[ENV]
    known = [
        type(person)(id=person.id, keys=(key.public_key.keyid,), groups=())
        for person, key in zip(policy.people, people, strict=True)
    ]
    repository.set_policy(people=tuple(known), seq_ceiling={"shop": honest + 1000})
    repository.versions[role] = honest
    site.publish("2.0")
    assert taken(site.deliver()) == [{"targets", FLEET}] * 3
    deployed(site, "3.0")
    for node in (site.push, site.pull):
        assert FloorStore(node.paths.floors).load().app("shop").seen_seq < honest + 1000


def test_a_publisher_restored_from_an_old_backup_is_refused_until_it_is_ahead(
    site: LivingSite,
) -> None:
    repository = site.fleet.repository
    deployed(site, "1.0")
    numbers, files = dict(repository.versions), dict(repository.files)
    deployed(site, "1.9")
    deployed(site, "2.0")
    seen = dict(repository.versions)
    # The disk of last week: the same keys, older numbers, and the new ones are signed again.
    repository.files, repository.versions = files, numbers
    site.publish("3.0")
    with pytest.raises(Exception, match=r"or later|rollback|expected"):
        site.mirror.upload()
    refusals = site.order().refusals
    assert any(reason == "rollback" for _, reason in refusals), refusals
    assert answers(site.push_web) == answers(site.pull_web) == "2.0"
    for role in ("timestamp", "snapshot", layout.gates_role(ENV), layout.app_role(ENV, "shop")):
        repository.versions[role] = seen[role] + 100
    deployed(site, "4.0")


def test_a_change_of_issuers_slept_through_is_caught_up_by_the_doors(tmp_path: Path) -> None:
    with living_site(tmp_path) as (site, push, pull):
        until(lambda: is_enrolled(site), what="both nodes enrolled", seconds=60)
        deployed(site, "1.0")
        push.stop()
        pull.stop()
        # New issuers under the same CA root; the old ones are denied.
        authority, repository = site.fleet.authority, site.fleet.repository
        old = {name: issuer.certificate for name, issuer in authority.issuers.items()}
        # The node's own issuer stays: its leaf is renewed once the gateway is let in again.
        changed = ("gateway", "admin", "mirror", "operator")
        authority.issuers |= {name: authority.new_issuer(name) for name in changed}
        repository.set_bundle(real_bundle(repository, authority))
        denied = repository.policies[ENV].denied
        keys = tuple(key_digest(old[name]) for name in changed)
        repository.set_policy(denied=msgspec.structs.replace(denied, issuers=keys))
        repository.publish()
        site.deliver(site.mirror.door, site.box.door, identity=site.identity(name="bea"))
        for service in (site.mirror, site.box):
            service.reissue(authority)
        site.publish("2.0")
        with_nodes(site, authority_leaf=authority.leaf("gateway", "g1"))


def with_nodes(site: LivingSite, *, authority_leaf: Leaf) -> None:
    with running(site.push), running(site.pull):
        # The node believes the old issuers still, and lets the new gateway in by the door alone.
        said = site.order(authority_leaf)
        assert said.code is not None and said.code.name in ("UNAVAILABLE", "PERMISSION_DENIED")
        site.deliver(site.door(site.push))
        deployed(site, "3.0", authority_leaf)
