"""A push node as it really runs: its own processes, real TLS and gRPC, a real app on loopback."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from embrasure.trust.receipt import Kind, Outcome, parse_receipt
from tests.simulate.fleet import APP, RealNode, SimFleet
from tests.simulate.installer import free_port
from tests.simulate.push import Cut, Said
from tests.simulate.running import (
    answers,
    running,
    status,
)

MIB = 1024 * 1024


class Site:
    """A fleet of one push node."""

    def __init__(self, folder: Path) -> None:
        self.fleet = SimFleet(folder)
        self.web = free_port()
        self.node: RealNode = self.fleet.make("n1", port=self.web)

    def deploy(self, version: str, *, cut: Cut | None = None, **release: object) -> Said:
        """Return what the node said to an order for a new release."""
        self.ordered = self.fleet.publish(self.node, version, **release)  # type: ignore[arg-type]  # passed through
        return self.order(cut=cut)

    def order(self, *, cut: Cut | None = None) -> Said:
        """Return what the node said to one more order for the same release."""
        envelope = self.fleet.order(self.node, *self.ordered)
        return asyncio.run(self.fleet.gateway(self.node).order(envelope, cut=cut))

    def kinds(self, said: Said) -> list[tuple[Kind, Outcome]]:
        """Return the receipts, every signature checked."""
        found = [parse_receipt(signed, self.node.receipt_key) for signed in said.receipts]
        return [(receipt.kind, receipt.outcome) for receipt in found]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


INSTALLED = [(Kind.HEALTHY, Outcome.OK), (Kind.SOAKED, Outcome.OK)]


def test_an_order_installs_and_a_new_release_replaces_the_old(site: Site) -> None:
    with running(site.node):
        said = site.deploy("1.0")
        assert (said.code, said.refusals) == (grpc.StatusCode.OK, []), said
        assert site.kinds(said) == INSTALLED
        assert answers(site.web) == "1.0"
        assert site.kinds(site.deploy("2.0")) == INSTALLED
        assert answers(site.web) == "2.0"
        reply = asyncio.run(site.fleet.gateway(site.node).status())
        assert (reply.node, reply.oseq, reply.rseq) == (site.node.id, 2, 4)
        assert [app.app for app in reply.apps] == [APP]
        shown = status(site.node)
        assert (shown["agent"], shown["oseq"]) == ("running", 2)
    assert status(site.node)["agent"] == "not running"


def test_a_bad_release_is_rolled_back_and_the_old_one_serves(site: Site) -> None:
    with running(site.node):
        site.deploy("1.0")
        said = site.deploy("2.0", mode="bad")
        assert site.kinds(said)[-1] == (Kind.STATUS, Outcome.ROLLED_BACK)
        assert answers(site.web) == "1.0"
