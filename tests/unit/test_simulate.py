"""The simulator itself: what it makes is what the product's own parsers accept."""

from __future__ import annotations

from pathlib import Path

import pytest

from embrasure.errors import NotFound, Refused
from embrasure.trust import layout
from embrasure.trust.directory import parse_shard, parse_tls_bundle
from embrasure.trust.documents import digest, write
from embrasure.trust.gate import parse_gate
from embrasure.trust.plan import parse_plan
from embrasure.trust.policy import parse_policy, parse_revocations
from embrasure.trust.receipt import parse_receipt
from tests.simulate.repository import SimRepository


def make() -> SimRepository:
    repo = SimRepository()
    nodes = [repo.add_node(labels={"tier": "web"}) for _ in range(5)]
    repo.add_app("shop", group={"tier": "web"})
    plan = repo.set_plan(repo.add_release("shop"), canary=nodes[:1], percents=(40, 100))
    repo.set_gate(plan, open_wave=1, receipts={0: repo.soak(plan, 0)})
    repo.publish()
    return repo


def test_every_document_of_the_simulator_passes_its_own_parser() -> None:
    repo = make()
    parsers = {
        "policy.json": parse_policy,
        "tls.json": parse_tls_bundle,
        "plan.json": parse_plan,
        "shop.json": parse_gate,
        "00.json": parse_shard,
    }
    seen = set()
    for path, data in repo.files.items():
        name = path.rpartition("/")[2].partition(".")[2]
        if path.startswith("targets/") and name in parsers:
            assert write(parsers[name](data)) == data
            seen.add(name)
    assert seen == set(parsers)
    parse_revocations(write(repo.revoke(plans=["0" * 64])))


def test_every_path_of_the_simulator_is_a_repository_path(tmp_path: Path) -> None:
    repo = make()
    for path in repo.files:
        layout.parse_file(path)
    repo.write(tmp_path)
    assert (tmp_path / "metadata/timestamp.json").read_bytes() == repo.files[
        "metadata/timestamp.json"
    ]


def test_a_soaked_receipt_verifies_with_the_key_that_the_plan_names() -> None:
    repo = make()
    plan = repo.plans["dev-shop"]
    named = plan.waves[0].nodes[0]
    receipt = parse_receipt(repo.soak(plan, 0)[0], bytes.fromhex(named.key))
    assert receipt.plan.hex() == digest(plan)
    assert receipt.node == named.id


def test_a_memory_source_says_what_it_lacks_and_refuses_strange_paths() -> None:
    source = make().source()
    with pytest.raises(NotFound):
        list(source.fetch("metadata/99.root.json", offset=0, limit=1000))
    with pytest.raises(Refused):
        list(source.fetch("../etc/passwd", offset=0, limit=1000))
