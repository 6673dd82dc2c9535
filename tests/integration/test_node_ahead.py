"""A real push node gets files along with its order: it asks for less, and believes no more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from embrasure.trust import layout
from embrasure.trust.receipt import Outcome
from embrasure.wire import node_pb2 as wire
from tests.integration.test_node_push import INSTALLED, Site
from tests.simulate.along import sent_along
from tests.simulate.fleet import APP
from tests.simulate.push import Said
from tests.simulate.running import answers, running

ENV = "dev"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def order(site: Site, ahead: list[wire.Ahead]) -> Said:
    envelope = site.fleet.order(site.node, *site.ordered)
    return asyncio.run(site.fleet.gateway(site.node).order(envelope, ahead=ahead))


def publish(site: Site, version: str) -> list[wire.Ahead]:
    """Return what an honest gateway sends along with an order for the new release."""
    site.ordered = site.fleet.publish(site.node, version)
    files, manifest = site.fleet.repository.files, site.ordered[0].manifest.sha256
    return sent_along(files, env=site.fleet.repository.env, app=APP, manifest=manifest)


def changed(file: wire.Ahead) -> wire.Ahead:
    """Return the same with one digit of its date, or of what else has one, changed."""
    where = max(file.body.rfind(digit) for digit in (b"2", b"4", b"6", b"8"))
    body = bytearray(file.body)
    body[where] += 1
    return wire.Ahead(path=file.path, body=bytes(body))


def test_files_along_save_their_wants_and_lies_install_nothing(site: Site) -> None:
    with running(site.node):
        assert site.kinds(site.deploy("1.0")) == INSTALLED
        for number, place in enumerate(("dev-shop", "plan.json", ".m-", "gates/")):
            ahead = publish(site, f"2.{number}")  # what it held already is not looked at
            lies = [changed(one) if place in one.path else one for one in ahead]
            assert len(ahead) == 8 and lies != ahead
            said = order(site, lies)
            assert Outcome.OK not in [outcome for _, outcome in site.kinds(said)], place
            assert answers(site.web) == "1.0"
        ahead = publish(site, "3.0")
        said = order(site, ahead)
        assert site.kinds(said) == INSTALLED
        assert {layout.parse_wanted(want.path).metadata for want in said.wants} == {False}
        assert all(want.path.startswith("blobs/") for want in said.wants)
        assert answers(site.web) == "3.0"


def test_who_asks_what_waits_for_a_word_hears_nothing_else(site: Site) -> None:
    async def ask(*, only_awaited: bool) -> wire.StatusReply:
        gateway = site.fleet.gateway(site.node)
        async with gateway.channel() as line:
            found: wire.StatusReply = await gateway._status_on(line, only_awaited=only_awaited)
            return found

    with running(site.node):
        site.deploy("1.0")
        assert asyncio.run(ask(only_awaited=False)).node == site.node.id
        assert asyncio.run(ask(only_awaited=True)) == wire.StatusReply()
