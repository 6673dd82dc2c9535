"""Rights of operators: one table, a row for each method; from groups of verified policy alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from embrasure.errors import Denied
from gateway.people import People
from gateway.rights import ALL, FOR_ANYBODY, GROUPS, METHODS, rights_of
from gateway.service_table import ADMIN_TABLE
from tests.ablation import Ablation
from tests.simulate.gateway import SimGateway
from tests.simulate.repository import SimRepository


def test_every_method_that_is_served_has_its_right() -> None:
    served = {name.rpartition("/")[2] for name in ADMIN_TABLE}
    assert served == set(METHODS) | FOR_ANYBODY
    assert not set(METHODS) & FOR_ANYBODY


def test_groups_add_up_and_a_strange_group_takes_nothing_away() -> None:
    assert rights_of(()) == rights_of(("sre", "security")) == ALL
    assert rights_of(("sre", "viewers")) == {"view"}
    assert rights_of(("viewers", "stoppers")) == {"view", "stop"}
    assert all("view" in rights for rights in GROUPS.values())


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[SimGateway]:
    sim = SimRepository()
    sim.add_app("shop")
    ben, anna = (next(p for p in sim.policies["dev"].people if p.id == i) for i in ("ben", "anna"))
    viewer = msgspec.structs.replace(ben, groups=("viewers",))
    sim.set_policy(people=(anna, viewer))
    sim.publish()
    opened = SimGateway(tmp_path / "gateway", sim)
    yield opened
    opened.close()


@pytest.mark.misuse
def test_a_viewer_starts_nothing(gateway: SimGateway, ablation: Ablation) -> None:
    people = People(gateway.repository)
    for right in ALL:
        assert people.check("anna", "dev", right=right) == "anna"
    assert people.check("ben", "dev", right="view") == "ben"
    for right in ALL - {"view"}:
        for env in ("dev", ""):
            with pytest.raises(Denied) as refused:
                people.check("ben", env, right=right)
            assert refused.value.reason == "no-right"
    with pytest.raises(Denied, match="an environment that lists him: "):
        people.check("mallory", right="view")
    with ablation("the rights of his groups") as attack:
        attack.without("gateway.people.rights_of", lambda _: ALL)
        attack.succeeded(people.check("ben", "dev", right="start") == "ben")
