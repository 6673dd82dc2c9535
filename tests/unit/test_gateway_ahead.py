"""What the gateway sends along with an order: what the node asks for next, if small and listed."""

from __future__ import annotations

import pytest

from embrasure import limits
from embrasure.trust import layout
from embrasure.wire.node_pb2 import Ahead
from gateway.ahead import ahead_of
from gateway.feed import Feed
from gateway.published import Contents
from tests.simulate.along import sent_along, view_of
from tests.simulate.releases import SimRelease, make_release
from tests.simulate.repository import SimRepository


@pytest.fixture(scope="module")
def sim() -> SimRepository:
    found = SimRepository()
    found.add_app("shop")
    return found


def publish(sim: SimRepository, files: dict[str, bytes]) -> SimRelease:
    node = sim.add_node()
    release = sim.add_release("shop", release=make_release("shop", files))
    sim.set_gate(sim.set_plan(release, canary=[node]))
    sim.publish()
    return release


def along(sim: SimRepository, release: SimRelease) -> list[Ahead]:
    return sent_along(sim.files, env="dev", app="shop", manifest=release.digest)


def test_every_file_that_an_order_makes_a_node_want_goes_along(sim: SimRepository) -> None:
    release = publish(sim, {"code/main": b"#!/bin/sh\n"})
    found = {file.path: file for file in along(sim, release)}
    view = view_of(sim.files)
    versions = {name: role.version for name, role in view.roles.items()}
    metadata = [layout.metadata_file(name, versions[name])
                for name in ("timestamp", "snapshot", "dev-shop", "gates-dev")]  # fmt: skip
    absent = [path for path, file in found.items() if file.absent]
    assert absent == [layout.metadata_file("root", versions["root"] + 1)]
    assert set(metadata) < found.keys()
    targets = [path for path in found if path.startswith("targets/")]
    kinds = sorted(path.rpartition("/")[2].split(".")[1][:4] for path in targets)
    assert kinds == ["m-" + release.digest[:2], "plan", "shop"]
    assert all(file.body == sim.files[path] for path, file in found.items() if not file.absent)
    assert next(iter(found)) == "metadata/timestamp.json"


def test_what_is_long_is_asked_for(sim: SimRepository) -> None:
    many = {f"config/{n}": str(n).encode() for n in range(400)}
    release = publish(sim, {"code/main": b"#!/bin/sh\n", **many})
    found = along(sim, release)
    assert len(release.raw) > limits.AHEAD_BYTES
    assert not any(release.digest in file.path for file in found)
    assert len(found) == 7
    assert sum(len(file.body) for file in found) <= limits.AHEAD_BYTES


def test_nothing_goes_along_that_may_not_be_asked_for(sim: SimRepository) -> None:
    release = publish(sim, {"code/main": b"#!/bin/sh\n"})
    feed = Feed(sim.source())
    shown = frozenset(path for path in sim.files if not path.endswith(".plan.json"))
    feed.show(Contents(1, shown, frozenset()))
    found = ahead_of(feed, view_of(sim.files), env="dev", app="shop", manifest=release.digest)
    plans = [file for file in found if file.path.endswith(".plan.json")]
    assert [(file.absent, file.body) for file in plans] == [(True, b"")], "as it would be told"


def test_an_app_that_nobody_listed_gets_trust_files_only(sim: SimRepository) -> None:
    found = sent_along(sim.files, env="dev", app="blog", manifest="0" * 64)
    assert all(file.path.startswith("metadata/") for file in found)
