"""The nodes that a plan names are the directory's own: a proposer cannot bring his own canary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from embrasure.errors import Denied
from embrasure.trust.plan import Plan, Wave
from gateway.approving import approve, check_words
from gateway.client import AdminClient
from gateway.preview import preview
from gateway.review import Review
from tests.ablation import Ablation
from tests.simulate.gateway import Draft, SimGateway
from tests.simulate.nodes import SimNode
from tests.simulate.releases import make_release
from tests.simulate.repository import SimRepository

STRANGER = SimNode(id="n-" + "z" * 26)
ATTACKS = ("his own key", "an invented node", "a node of another wave", "no witness", "need of one")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[SimGateway]:
    sim = SimRepository()
    sim.add_app("shop")
    for _ in range(4):
        sim.add_node()
    sim.publish()
    opened = SimGateway(tmp_path / "gateway", sim)
    yield opened
    opened.close()


def attacked(plan: Plan, attack: str, others: list[SimNode]) -> Plan:
    """Return `plan` as a proposer with one key and the gateway would like it."""
    canary, last = plan.waves
    own = msgspec.structs.replace(canary.nodes[0], key=STRANGER.receipt_public.hex())
    middle = Wave(
        name="early",
        nodes=(),
        match={},
        percent=100,
        need=0,
        soak_s=0,
        max_parallel=1,
        deadline_s=60,
    )
    names = tuple(node.named() for node in others)
    waves = {
        "his own key": (msgspec.structs.replace(canary, nodes=(own,)), last),
        "an invented node": (msgspec.structs.replace(canary, nodes=(STRANGER.named(),)), last),
        "a node of another wave": (
            canary,
            msgspec.structs.replace(last, nodes=canary.nodes, need=1),
        ),
        "no witness": (canary, middle, last),
        "need of one": (canary, msgspec.structs.replace(middle, nodes=names, need=1), last),
    }[attack]
    return msgspec.structs.replace(plan, waves=waves)


def draft_of(gateway: SimGateway, attack: str) -> Draft:
    release = make_release("shop")
    gateway.upload(release)
    seq = gateway.proposals.reserve("dev", "shop", person="anna")
    plan = gateway.plan_for(release, by="anna", seq=seq)
    if attack:
        named = {node.id for node in plan.waves[0].nodes}
        others = [node for node in gateway.sim.nodes.values() if node.id not in named]
        plan = attacked(plan, attack, others)
    return gateway.draft_of(plan, release, by="anna")


def review_of(gateway: SimGateway, draft: Draft) -> Review:
    grounds = gateway.grounds()
    entries = [node.entry() for node in gateway.sim.nodes.values()]
    said = check_words([draft.statement], draft.release, grounds, at=gateway.clock())
    return Review(draft.release, grounds, preview(draft.release.plan, entries), said, "text")


def as_person(gateway: SimGateway, draft: Draft, folder: Path, by: str) -> dict[str, object]:
    """Return what the approver's machine gets when it signs; the gateway's word is not asked."""
    sent: list[object] = []
    context = SimpleNamespace(person=by, state=folder)

    def json(method: str, request: object) -> dict[str, object]:
        sent.append(request)
        return {"method": method}

    folder.mkdir(exist_ok=True)
    client = cast("AdminClient", SimpleNamespace(context=context, json=json))
    signer = gateway.sim.person(by).signer
    try:
        return approve(client, review_of(gateway, draft), signer, comment="", at=gateway.clock())
    except Denied:
        assert sent == []
        raise


@pytest.mark.misuse
@pytest.mark.parametrize("lie", ATTACKS)
def test_no_approver_signs_a_plan_that_its_own_nodes_cannot_prove(
    lie: str, gateway: SimGateway, tmp_path: Path, ablation: Ablation
) -> None:
    honest, evil = draft_of(gateway, ""), draft_of(gateway, lie)
    assert as_person(gateway, honest, tmp_path / "ben", "ben") == {"method": "Approve"}
    with pytest.raises(Denied) as caught:
        as_person(gateway, evil, tmp_path / "ben", "ben")
    assert caught.value.reason == "witness"
    with ablation("the comparison with the directory") as attack:
        attack.without("gateway.approving.check_evidence")
        attack.succeeded(as_person(gateway, evil, tmp_path / "ben", "ben") == {"method": "Approve"})


@pytest.mark.misuse
@pytest.mark.parametrize("lie", ATTACKS)
def test_the_gateway_takes_no_such_proposal(
    lie: str, gateway: SimGateway, ablation: Ablation
) -> None:
    evil = draft_of(gateway, lie)
    with pytest.raises(Denied) as caught:
        gateway.propose(evil)
    assert caught.value.reason == "witness"
    with ablation("the comparison with the directory") as attack:
        attack.without("gateway.proposals.check_evidence")
        attack.succeeded(gateway.propose(evil) == evil.release.plan_digest[:16])


def test_a_retired_canary_is_named_and_an_honest_plan_has_no_fault(gateway: SimGateway) -> None:
    plan = draft_of(gateway, "").release.plan
    entries = [node.entry() for node in gateway.sim.nodes.values()]
    assert preview(plan, entries).warnings == ()
    canary = plan.waves[0].nodes[0].id
    gone = [
        (replace(node, state="retired") if node.id == canary else node).entry()
        for node in gateway.sim.nodes.values()
    ]
    found = preview(plan, gone)
    assert canary in found.faults[0]
    assert set(found.faults) <= set(found.warnings)
